"""What is to be learned? Second moments of the data in square-root form, the teacher, the noise.

The model is y | x ~ N(W x, Σ), the loss ½ tr[Π E S Eᵀ] + floor with Π = Σ⁻¹, S = E[x xᵀ] (uncentred), E = W*
− W. A deep linear network sees data only through S and E[y xᵀ]; both are kept as a factor S = F Fᵀ and the
product W* F, from a QR of the data rows: XᵀX is never formed, since that would square the condition (statement X9).

Networks with biases live in x̂ = (x, 1), Ŝ = E[x̂ x̂ᵀ] (statement X10); the same task serves both kinds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from linnat._checks import (
    Array,
    as_covariance,
    as_float_array,
    as_matrix,
    as_path,
    as_rows,
    as_scalar,
    check_broadcast,
    fail,
    freeze,
    representable,
)
from linnat._files import read_npz, write_npz
from linnat.exact.distributed import fold_dask
from linnat.exact.moments import (
    Moments,
    affine_moments,
    population_residual,
    regress,
    teacher_without_bias,
    times_vector,
)
from linnat.exact.streaming import Progress, fold_chunks
from linnat.linalg.rank import psd_factor
from linnat.linalg.tsqr import Part, join, root_of_rows


@dataclass(frozen=True, eq=False, init=False)
class Task:
    """Second moments of a regression problem with Gaussian noise; immutable, float64.

    Parameters
    ----------
    teacher : array (…, n_L, n_0)
        W*.
    input_cov : array (…, n_0, n_0), optional
        Uncentred second moment S = E[x xᵀ], possibly singular; the identity by default.
    noise_cov : array (…, n_L, n_L), optional
        Σ, positive definite; the identity by default.
    teacher_bias : array (…, n_L), optional
        c*; 0 by default.
    input_mean : array (…, n_0), optional
        m̄ = E[x], with S − m̄ m̄ᵀ ⪰ 0; 0 by default.
    rtol : float, optional
        Cut-off for the rank of S, relative to the largest: on eigenvalues where a covariance is given (8 n_0 eps by
        default), on singular values of the root of the rows where data is given (its longer side × eps by default).

    Attributes
    ----------
    plain, affine : Moments
        What networks without and with biases see.
    noise_factor : array (…, n_L, n_L)
        Lower triangular C, Σ = C Cᵀ; whitening of outputs is C⁻¹.
    n_samples : int or None
        Number of samples; None for population moments.

    Raises
    ------
    InputError
        For shapes that do not fit, asymmetric or indefinite covariances, numbers that are not finite.

    Warns
    -----
    RankWarning
        Without `rtol`, where less than a decade lies between what counts in S and what does not.

    Examples
    --------
    >>> task = Task([[1.0, 2.0]], input_cov=[[4.0, 0.0], [0.0, 0.0]])
    >>> task.rank
    1
    >>> task.input_factor
    array([[2.],
           [0.]])
    """

    teacher: Array
    teacher_bias: Array
    input_cov: Array
    input_mean: Array
    noise_cov: Array
    noise_factor: Array
    linear_teacher: Array
    plain: Moments
    affine: Moments
    n_samples: int | None
    root: Array | None
    rtol: float | None
    white_noise: bool

    @representable("teacher, input_cov, noise_cov, teacher_bias, input_mean")
    def __init__(
        self,
        teacher: Any,
        input_cov: Any = None,
        noise_cov: Any = None,
        teacher_bias: Any = None,
        input_mean: Any = None,
        *,
        rtol: float | None = None,
    ) -> None:
        matrix = as_matrix(teacher, "teacher").astype(np.float64)
        outputs, inputs = matrix.shape[-2:]
        mean = _vector(input_mean, "input_mean", inputs)
        bias = _vector(teacher_bias, "teacher_bias", outputs)
        white = input_cov is None and input_mean is None
        cov = np.eye(inputs) if input_cov is None else as_covariance(input_cov, "input_cov", inputs)
        noise, factor = _noise(noise_cov, outputs)
        leading = [m.shape[:-2] for m in (matrix, cov, noise)] + [v.shape[:-1] for v in (bias, mean)]
        check_broadcast(leading, "teacher, input_cov, noise_cov, teacher_bias, input_mean")
        rtol = _cut(rtol)
        plain, rank = (np.eye(inputs), inputs) if white else psd_factor(cov, rtol, "input_cov")
        centred = plain
        if input_mean is not None:
            name = "input_cov minus the outer product of input_mean"
            # A difference: its rounding errors are those of S, however small it is.
            scale = np.linalg.eigvalsh(cov)[..., -1]
            centred = psd_factor(cov - mean[..., :, None] * mean[..., None, :], rtol, name, scale).factor
        linear, outside = teacher_without_bias(matrix, bias, mean, plain)
        self._fill(
            teacher=matrix,
            teacher_bias=bias,
            input_cov=cov,
            input_mean=mean,
            noise_cov=noise,
            noise_factor=factor,
            white_noise=noise_cov is None,
            linear_teacher=linear,
            plain=Moments(plain, linear @ plain, rank, population_residual(factor, bias, outside)),
            affine=affine_moments(centred, matrix @ centred, mean, times_vector(matrix, mean) + bias, factor),
            n_samples=None,
            root=None,
            rtol=rtol,
        )

    def _fill(self, **fields: Any) -> None:
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value = freeze(value)
            elif isinstance(value, Moments):
                rank = freeze(value.rank) if isinstance(value.rank, np.ndarray) else value.rank
                value = Moments(freeze(value.factor), freeze(value.target), rank, freeze(value.residual))
            object.__setattr__(self, name, value)

    @property
    def n_inputs(self) -> int:
        """n_0."""
        return int(self.teacher.shape[-1])

    @property
    def n_outputs(self) -> int:
        """n_L."""
        return int(self.teacher.shape[-2])

    @cached_property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes: () for a single task."""
        matrices = (self.teacher, self.input_cov, self.noise_cov)
        vectors = (self.teacher_bias, self.input_mean)
        return check_broadcast([m.shape[:-2] for m in matrices] + [v.shape[:-1] for v in vectors], "task")

    @property
    def rank(self) -> int | Array:
        """ρ = rank S."""
        return self.plain.rank

    @property
    def input_factor(self) -> Array:
        """F (…, n_0, ρ), S = F Fᵀ."""
        return self.plain.factor

    @property
    def augmented_factor(self) -> Array:
        """F̂ (…, n_0 + 1, ρ̂), E[x̂ x̂ᵀ] = F̂ F̂ᵀ, x̂ = (x, 1)."""
        return self.affine.factor

    def moments(self, biases: bool = False) -> Moments:
        """Return what a network without (or with) biases sees."""
        return self.affine if biases else self.plain

    def goal(self, biases: bool = False) -> Array:
        """Return the total weight that minimises the loss: W* (…, n_L, n_0), or [W* c*] with biases."""
        if not biases:
            return self.linear_teacher
        shape = check_broadcast([self.teacher.shape[:-2], self.teacher_bias.shape[:-1]], "teacher_bias")
        teacher = np.broadcast_to(self.teacher, (*shape, *self.teacher.shape[-2:]))
        bias = np.broadcast_to(self.teacher_bias, (*shape, self.n_outputs))
        return np.concatenate([teacher, bias[..., None]], axis=-1)

    @representable("task")
    def floor(self, biases: bool = False) -> Array:
        """Return the least loss ½ tr[Π (E[y yᵀ] − W* S W*ᵀ)] of a network without (or with) biases."""
        residual = self.whiten(self.moments(biases).residual)
        return 0.5 * np.asarray((residual**2).sum(axis=(-1, -2)))

    def whiten(self, matrix: Array) -> Array:
        """Return C⁻¹ M for a matrix on the output side, (…, n_L, k)."""
        if self.white_noise:
            return matrix
        return cast(Array, np.linalg.solve(self.noise_factor, matrix))

    @classmethod
    def from_data(cls, x: Any, y: Any, noise_cov: Any = None, *, rtol: float | None = None) -> Task:
        """Return the moments of a data set, by a QR of its rows.

        Parameters
        ----------
        x : array (N, n_0)
        y : array (N, n_L)
            The same object as `x` for an autoencoder: its columns are then factored once.
        noise_cov : array (n_L, n_L), optional
        rtol : float, optional
            Relative cut-off on the singular values of the rows of x.

        Returns
        -------
        Task
            Uncentred second moments (means over samples), minimum-norm teacher, mean; whatever the dtype of
            the data, the moments are float64.

        Notes
        -----
        2 N (n_0 + n_L + 1)² flops, in blocks of rows: memory beyond the data does not depend on N.

        Examples
        --------
        >>> x = np.array([[1.0], [2.0], [3.0]])
        >>> Task.from_data(x, 2 * x + 1).goal(biases=True).round(12)
        array([[2., 1.]])
        """
        rows, values = as_rows(x, "x"), as_rows(y, "y")
        if len(rows) != len(values):
            fail("y", f"{len(rows)} rows, one for each of x", f"{len(values)}")
        same = y is x
        root = root_of_rows(rows, None if same else values)
        if same:
            root = np.concatenate([root, root[:, 1:]], axis=1)
        return cls._from_root(root, rows.shape[1], len(rows), noise_cov, rtol)

    @classmethod
    def from_chunks(
        cls,
        chunks: Iterable[Any],
        noise_cov: Any = None,
        *,
        rtol: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: float = 60.0,
        progress: Progress | bool | None = None,
    ) -> Task:
        """Return the moments of data that comes in chunks (x, y), read once.

        Parameters
        ----------
        chunks : iterable of pairs of arrays (N_k, n_0), (N_k, n_L)
            A generator, a list, or what `linnat.data.row_chunks` and `linnat.data.idx_chunks` make of memory maps and
            files. Types may change from chunk to chunk. In an autoencoder both are the same object.
        noise_cov, rtol
            As in `from_data`.
        checkpoint : path, optional
            Where the state of the pass is written, atomically, every so often and at its end, however it ends. If the
            file exists, the pass goes on from there: chunks that are in it are skipped (not even read where `chunks` is
            a sequence), all but the last, which must be the same as before.
        every : float
            Seconds between two writes; 0 writes after each chunk.
        progress : bool or callable(done, total, samples), optional
            Called after each chunk, with total None where it is not known. By default a bar on stderr if that is a
            terminal; True draws it anywhere, False nowhere.

        Returns
        -------
        Task
            Equal to `from_data` of all rows to rounding, and after an interruption to the last bit.

        Raises
        ------
        InputError
            For an empty iterable; a bad chunk, which is named by its number (from 0); a checkpoint of other data.

        Notes
        -----
        2 N p² (1 + p / rows in a chunk) flops, p = 1 + n_0 + n_L, so a chunk should have several p rows. Memory: two
        chunks and p² log₂(chunks) numbers, whatever N. The same bits need the same BLAS with as many threads.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> task = Task.from_chunks((x, x @ [[1.0], [2.0]]) for x in rng.standard_normal((4, 50, 2)))
        >>> task.n_samples, task.goal().round(12)
        (200, array([[1., 2.]]))
        """
        size, cut = _outputs_of(noise_cov), _cut(rtol)
        rows = fold_chunks(chunks, size, checkpoint=checkpoint, every=every, progress=progress)
        return cls._from_root(*rows, noise_cov, cut)

    @classmethod
    def from_dask(
        cls,
        x: Any,
        y: Any,
        noise_cov: Any = None,
        *,
        rtol: float | None = None,
        scheduler: Any = None,
        timeout: float = 10.0,
        progress: Progress | bool | None = None,
    ) -> Task:
        """Return the moments of Dask arrays, by a tree of QRs over their blocks (extra `distributed`).

        Parameters
        ----------
        x, y : dask.array.Array (N, n_0), (N, n_L)
            Blocks of rows are numbered from 0 in messages. Numbers of rows may be unknown, and blocks empty.
        noise_cov, rtol
            As in `from_data`.
        scheduler : optional
            Where the tree runs: an address such as "tcp://host:8786", a `distributed.Client` or a cluster; "local" for
            worker processes on this machine, for the time of the call; "threads", "processes" or "synchronous" for
            Dask's own pools; by default what Dask is set to.
        timeout : float
            Seconds to wait for a scheduler to answer and for its first worker.
        progress : bool or callable(done, total, samples), optional
            As in `from_chunks`, for blocks: called when some more are done, in the thread of the caller; samples is 0
            where the blocks' lengths are unknown. Where `scheduler` is None and Dask's default is a
            `distributed.Client` it is called at the end only: pass the client.

        Returns
        -------
        Task
            Equal to `from_data` to rounding; the same bits for any number of workers, also if some die on the way.

        Raises
        ------
        InputError
            For arrays that do not fit, a bad block (by number), or a missing Dask.
        SchedulerError
            Where no scheduler answers, has no worker, or is lost; it is an InputError and a ConnectionError.

        Notes
        -----
        2 N p² flops on the workers, each of which needs linnat; p² numbers move for each block, in log₈(blocks)
        rounds. A lost worker's blocks are done again; there is no checkpoint: where a pass must outlive its scheduler,
        `from_chunks` with one, on parts of the data, and `merge`.

        Examples
        --------
        A billion rows: ``Task.from_dask(x, y, scheduler="tcp://host:8786")`` with
        ``x = dask.array.from_zarr("x.zarr")``.
        """
        size, cut = _outputs_of(noise_cov), _cut(rtol)
        rows = fold_dask(x, y, size, scheduler=scheduler, timeout=timeout, progress=progress)
        return cls._from_root(*rows, noise_cov, cut)

    def merge(self, other: Task) -> Task:
        """Return the moments of the two data sets together.

        Parameters
        ----------
        other : Task
            From data, with the same noise. Of two `rtol` the larger counts.

        Returns
        -------
        Task
            Equal to `from_data` of all rows to rounding. Merging K tasks in any order or tree of depth h changes
            E[[1, x, y]ᵀ[1, x, y]] by a constant × p × h × eps of its norm, p = 1 + n_0 + n_L: a balanced tree (as
            in `from_chunks`) keeps h = log₂ K.

        Raises
        ------
        InputError
            For population moments, other shapes or another noise.

        Notes
        -----
        One QR, 4 p³ flops.

        Examples
        --------
        >>> first, second = (Task.from_data([[x]], [[2 * x]]) for x in (1.0, 3.0))
        >>> first.merge(second).input_cov.round(12)
        array([[5.]])
        """
        if not isinstance(other, Task):
            fail("other", "a Task", type(other).__name__)
        if self.root is None or other.root is None or self.n_samples is None or other.n_samples is None:
            fail(
                "merge", "two tasks made from data", "population moments", "They carry no number of samples."
            )
        if (self.n_inputs, self.n_outputs) != (other.n_inputs, other.n_outputs):
            fail(
                "other",
                f"{self.n_inputs} inputs, {self.n_outputs} outputs",
                f"{other.n_inputs}, {other.n_outputs}",
            )
        if not np.array_equal(self.noise_cov, other.noise_cov):
            fail("other", "the same noise_cov", "another one")
        both = join([Part(self.root, self.n_samples), Part(other.root, other.n_samples)])
        cuts = [task.rtol for task in (self, other) if task.rtol is not None]
        noise = None if self.white_noise else self.noise_cov
        return type(self)._from_root(both.root, self.n_inputs, both.rows, noise, max(cuts, default=None))

    @classmethod
    @representable("x, y")
    def _from_root(cls, root: Array, inputs: int, count: int, noise_cov: Any, rtol: float | None) -> Task:
        """Build a task from the R factor of the rows [1, x, y] / √N."""
        ones, rows, values = root[:, :1], root[:, 1 : 1 + inputs], root[:, 1 + inputs :]
        cut = _cut(rtol)
        mean, average = rows[0] / ones[0, 0], values[0] / ones[0, 0]
        plain, linear = regress(rows, values, cut)
        with np.errstate(over="ignore"):
            cov = plain.factor @ plain.factor.T
        if not (np.isfinite(cov).all() and np.isfinite(linear).all()):
            fail("x, y", "rows whose second moments are finite in float64", "an overflow", "Rescale them.")
        scale = float(np.linalg.norm(plain.factor, axis=0).max(initial=0.0))
        centred, teacher = regress(rows[1:], values[1:], cut, scale=scale)
        noise, factor = _noise(noise_cov, values.shape[1])
        self = cls.__new__(cls)
        self._fill(
            teacher=teacher,
            teacher_bias=average - teacher @ mean,
            input_cov=cov,
            input_mean=mean,
            noise_cov=noise,
            noise_factor=factor,
            white_noise=noise_cov is None,
            linear_teacher=linear,
            plain=plain,
            affine=affine_moments(centred.factor, centred.target, mean, average, centred.residual),
            n_samples=count,
            root=root,
            rtol=rtol,
        )
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file, atomically; square-root form is kept."""
        arrays: dict[str, Array] = {}
        if not self.white_noise:
            arrays["noise_cov"] = self.noise_cov
        if self.rtol is not None:
            arrays["rtol"] = np.asarray(self.rtol)
        if self.root is not None:
            arrays |= {
                "root": self.root,
                "n_samples": np.asarray(self.n_samples),
                "n_inputs": np.asarray(self.n_inputs),
            }
        else:
            names = ("teacher", "input_cov", "teacher_bias", "input_mean")
            arrays |= {name: getattr(self, name) for name in names}
        write_npz(as_path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Task:
        """Read a task written by `save`."""
        arrays = read_npz(as_path(path), "task")
        noise = arrays.get("noise_cov")
        cut = _cut(arrays.get("rtol"), f"rtol in {path}")
        if {"root", "n_samples", "n_inputs"} <= set(arrays):
            root = as_float_array(arrays["root"], f"root in {path}", ndim=2)
            count, inputs = (
                int(as_scalar(arrays[k], f"{k} in {path}", low=1)) for k in ("n_samples", "n_inputs")
            )
            if inputs >= root.shape[1] - 1 or root[0, 0] == 0:
                fail(
                    "task file",
                    "a root with columns [1, x, y]",
                    f"shape {root.shape}, {inputs} inputs in {path}",
                )
            return cls._from_root(root, inputs, count, noise, cut)
        names = ("teacher", "input_cov", "teacher_bias", "input_mean")
        if not set(names) <= set(arrays):
            fail("task file", "arrays written by Task.save", f"{sorted(arrays)} in {path}")
        teacher, cov, bias, mean = (arrays[name] for name in names)
        return cls(teacher, cov, noise, bias, mean if mean.any() else None, rtol=cut)


def as_task(value: object, name: str = "task") -> Task:
    """Return `value` if it is a Task."""
    if not isinstance(value, Task):
        fail(
            name,
            "a Task",
            type(value).__name__,
            "Make one: Task(teacher, input_cov) or Task.from_data(x, y).",
        )
    return value


def _vector(value: Any, name: str, size: int) -> Array:
    if value is None:
        return np.zeros(size)
    array = as_float_array(value, name, min_ndim=1).astype(np.float64)
    if array.shape[-1] != size:
        fail(name, f"length {size}", f"shape {array.shape}")
    return array


def _cut(rtol: object, name: str = "rtol") -> float | None:
    return None if rtol is None else as_scalar(rtol, name, low=0.0)


def _outputs_of(noise_cov: Any) -> int | None:
    """Return n_L if the noise is given, after a check: a long pass must not fail at its end."""
    if noise_cov is None:
        return None
    size = int(as_matrix(noise_cov, "noise_cov").shape[-1])
    _noise(noise_cov, size)
    return size


def _noise(noise_cov: Any, size: int) -> tuple[Array, Array]:
    if noise_cov is None:
        return np.eye(size), np.eye(size)
    matrix = as_covariance(noise_cov, "noise_cov", size, definite=True)
    return matrix, np.linalg.cholesky(matrix)
