"""Which matrix is it? Five that are confused with each other, at one scale and in one order. Statements O0, O4.

All are means over the rows of x (not sums), of the loss −log p(y | z) with its family's constants (½ squared error for
the unit Gaussian), and act on parameter vectors in the order of `Network`: [W_i b_i] by columns, layers in order.

| kind | matrix | depends on y |
|---|---|---|
| fisher | E_n E_{y ~ model} g gᵀ = mean_n J_nᵀ ∇²A(z_n) J_n | no |
| monte-carlo | the same with k targets drawn from the model for each row: unbiased, error ~ k^{−1/2} | no |
| empirical | mean_n g_n g_nᵀ with the data's targets, uncentred | yes |
| gauss-newton | the Hessian of the loss before the output units, pulled back | unless the link is canonical |
| hessian | the Hessian of the mean loss | yes |

g is the gradient of one row's loss. The first three are sums of squares g gᵀ, whose rows factorise by layers,
g = ⊕ vec(δ_i h̃_{i−1}ᵀ): diagonals and blocks cost no more than their own entries. The other two may be indefinite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from linnat._checks import Array, RngLike, as_choice, as_count, as_float_array, as_layer, as_rng, fail
from linnat.linalg.memory import refuse_beyond_memory
from linnat.linalg.rank import default_rtol
from linnat.nonlinear import passes
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace
from linnat.nonlinear.structures import STRUCTURES, extended, groups, square_product

MEANING = {
    "fisher": "Fisher matrix, targets of the model in expectation",
    "monte-carlo": "Monte-Carlo Fisher matrix, targets drawn from the model",
    "empirical": "empirical Fisher matrix, the data's targets, uncentred",
    "gauss-newton": "Gauss–Newton matrix, loss bent before the output units",
    "hessian": "Hessian of the mean loss",
}
ROWS = 256  # of per-row gradients held at once while a dense matrix is summed
NUMBERS = 1 << 20  # of one layer's tangents held at once while many directions are multiplied


class Description(NamedTuple):
    """What a matrix is.

    Attributes
    ----------
    kind, meaning : str
    scale : str
    order : str
    rows : int
        Over which the mean runs.
    size : int
        P.
    rank_bound : int
        No rank can exceed it: the number of squares summed, or P.
    rank : int or None
        Of the dense matrix at its default cut-off; None unless asked for.
    """

    kind: str
    meaning: str
    scale: str
    order: str
    rows: int
    size: int
    rank_bound: int
    rank: int | None

    def __str__(self) -> str:
        rank = f"rank ≤ {self.rank_bound}" if self.rank is None else f"rank {self.rank}"
        return f"{self.meaning}; {self.scale}, over {self.rows} rows; {self.size} × {self.size}, {rank}; {self.order}"


@dataclass(frozen=True, eq=False)
class Curvature:
    """One of the five matrices at one point, as products, blocks or dense; made by the functions of this module.

    Attributes
    ----------
    net : Network
    kind : str
        "fisher", "monte-carlo", "empirical", "gauss-newton" or "hessian".
    parameters : array (P,)
    targets : array or None
        (N, n_L): the data's, where the matrix depends on them; (k, N, n_L) the ones drawn.
    """

    net: Network
    kind: str
    parameters: Array
    targets: Array | None
    _work: Workspace = field(repr=False)

    @property
    def rows(self) -> int:
        """Number of rows N of the data."""
        return self._work.rows

    def product(self, direction: Any, structure: str = "full") -> Array:
        """Return the matrix, or what a structure keeps of it, times a vector (P,), or times the columns of (P, K).

        Nothing of the size P × P is formed. Many directions are multiplied together.

        Parameters
        ----------
        direction : array (P,) or (P, K)
        structure : "full", "layers", "tridiagonal", "units" or "diagonal"
            As in `dense`.

        Raises
        ------
        InputError
            For another length, numbers that are not finite, or an unknown structure.
        """
        as_choice(structure, "structure", STRUCTURES)
        vectors = as_float_array(direction, "direction", min_ndim=1)
        if vectors.ndim > 2 or vectors.shape[0] != self.net.n_parameters:
            fail(
                "direction",
                f"shape ({self.net.n_parameters},) or ({self.net.n_parameters}, K)",
                vectors.shape,
            )
        rows = np.ascontiguousarray(np.atleast_2d(vectors.T), dtype=self.parameters.dtype)
        found = rows * self.diagonal() if structure == "diagonal" else self._products(rows, structure)
        return found[0] if vectors.ndim == 1 else found.T

    def operator(self, structure: str = "full") -> LinearOperator:
        """Return the matrix, or what a structure keeps of it, as a symmetric SciPy `LinearOperator`."""
        as_choice(structure, "structure", STRUCTURES)
        size = self.net.n_parameters
        return LinearOperator(
            (size, size),
            matvec=lambda v: self.product(np.ravel(v), structure),
            rmatvec=lambda v: self.product(np.ravel(v), structure),
            matmat=lambda v: self.product(v, structure),
            dtype=self.parameters.dtype,
        )

    def dense(self, structure: str = "full") -> Array:
        """Return the matrix (P, P), zero outside of the structure.

        Parameters
        ----------
        structure : "full", "layers", "tridiagonal", "units" or "diagonal"
            What is kept: everything; blocks of one layer; also those of neighbours; blocks of one unit (the row
            [w_a b_a] of a layer); the diagonal.

        Raises
        ------
        InputError
            For an unknown structure, or a matrix beyond the stated share of memory.
        """
        as_choice(structure, "structure", STRUCTURES)
        size = self.net.n_parameters
        if structure == "diagonal":
            return np.diag(self.diagonal())
        refuse_beyond_memory("net", size * size, self.parameters.itemsize, "Use .operator().", 2)
        if structure == "full":
            return self._full()
        out = np.zeros((size, size), self.parameters.dtype)
        slices = self.net.slices
        if structure == "units":
            for i, where in enumerate(slices, start=1):
                rows = self.net.shapes[i - 1][0]
                for a, block in enumerate(self.unit_blocks(i)):
                    place = np.arange(where.start + a, where.stop, rows)
                    out[np.ix_(place, place)] = block
            return out
        reach = {"layers": 0, "tridiagonal": 1}[structure]
        for i in range(len(slices)):
            for j in range(i, min(i + reach + 1, len(slices))):
                block = self.block(i + 1, j + 1)
                out[slices[i], slices[j]] = block
                out[slices[j], slices[i]] = block.T
        return out

    def block(self, i: int, j: int) -> Array:
        """Return the block of layers i and j, numbered from 1, shape (P_i, P_j)."""
        first, second = as_layer(i, "i", self.net.depth) - 1, as_layer(j, "j", self.net.depth) - 1
        if self.kind in ("gauss-newton", "hessian"):
            return self._columns(self.net.slices[second])[self.net.slices[first]]
        (m, n), (p, q) = self.net.shapes[first], self.net.shapes[second]
        out = np.zeros((m * n, p * q), self.parameters.dtype)
        for signals, errors in self._squares():
            for start in range(0, self.rows, ROWS):
                part = slice(start, start + ROWS)
                left = _outer(signals[first][part], errors[first][part])
                right = left if first == second else _outer(signals[second][part], errors[second][part])
                out += left.T @ right
        return out / self.rows

    def unit_blocks(self, i: int) -> Array:
        """Return the blocks of the units of layer i, shape (n_i, n_{i−1} + 1, n_{i−1} + 1)."""
        layer = as_layer(i, "i", self.net.depth) - 1
        rows, columns = self.net.shapes[layer]
        if self.kind in ("gauss-newton", "hessian"):
            block = self.block(i, i).reshape(columns, rows, columns, rows)
            return np.ascontiguousarray(np.einsum("kalb->abkl", block)[np.arange(rows), np.arange(rows)])
        out = np.zeros((rows, columns, columns), self.parameters.dtype)
        for signals, errors in self._squares():
            wide = extended(signals[layer])
            for a in range(rows):
                weighted = wide * errors[layer][:, a, None]
                out[a] += weighted.T @ weighted
        return out / self.rows

    def diagonal(self) -> Array:
        """Return the diagonal (P,)."""
        net = self.net
        if self.kind in ("gauss-newton", "hessian"):
            return np.concatenate([np.diagonal(self._columns(part)[part]) for part in net.slices])
        out = np.zeros(net.n_parameters, self.parameters.dtype)
        for signals, errors in self._squares():
            for block, signal, error in zip(net.blocks(out), signals, errors, strict=True):
                squares = error**2
                block[:-1] += (signal**2).T @ squares
                block[-1] += squares.sum(axis=0)
        return out / self.rows

    def describe(self, *, rank: bool = False) -> Description:
        """Return which matrix this is: scale, order, size and rank.

        Parameters
        ----------
        rank : bool
            Whether to compute the rank, from the eigenvalues of the dense matrix; otherwise a bound is given.
        """
        size, outputs = self.net.n_parameters, self.net.widths[-1]
        free = outputs - 1 if self.net.family.name == "categorical" else outputs
        squares = {
            "fisher": free,
            "monte-carlo": 0 if self.targets is None else len(self.targets),
            "empirical": 1,
        }
        limit = min(size, squares[self.kind] * self.rows) if self.kind in squares else size
        found = None
        if rank:
            matrix = self.dense()
            values = np.abs(np.linalg.eigvalsh(matrix))
            found = int((values > default_rtol(matrix) * values.max(initial=0.0)).sum())
        return Description(
            self.kind,
            MEANING[self.kind],
            "mean of one row's −log p(y|z)",
            "order [W_1 b_1] … [W_L b_L], each by columns",
            self.rows,
            size,
            limit,
            found,
        )

    def _products(self, vectors: Array, structure: str = "full") -> Array:
        """Return what is kept of the matrix times vectors (K, P), a few of them at a time."""
        step = max(1, NUMBERS // (self.rows * max(self.net.widths)))
        chunks = [vectors[start : start + step] for start in range(0, len(vectors), step)]
        return np.concatenate([self._chunk(part, structure) for part in chunks])

    def _chunk(self, vectors: Array, structure: str) -> Array:
        net, theta, work = self.net, self.parameters, self._work
        if self.kind == "fisher" and structure == "full":
            return passes.fisher_product(net, theta, work, vectors)
        out = np.zeros_like(vectors)
        if self.kind not in ("gauss-newton", "hessian"):
            for signals, errors in self._squares():
                out += square_product(net, signals, errors, vectors, structure)
            return out / self.rows
        whole = passes.gauss_newton_product if self.kind == "gauss-newton" else passes.hessian_product
        if structure == "full":
            return whole(net, theta, work, self._given(), vectors)
        for source, kept in groups(net, structure):
            alone = np.zeros_like(vectors)
            alone[:, source] = vectors[:, source]
            out[:, kept] += whole(net, theta, work, self._given(), alone)[:, kept]
        return out

    def _full(self) -> Array:
        if self.kind in ("gauss-newton", "hessian"):
            return self._columns(slice(0, self.net.n_parameters))
        out = np.zeros((self.net.n_parameters,) * 2, self.parameters.dtype)
        for signals, errors in self._squares():
            for start in range(0, self.rows, ROWS):
                part = slice(start, start + ROWS)
                rows = [_outer(h[part], e[part]) for h, e in zip(signals, errors, strict=True)]
                gradients = np.concatenate(rows, axis=1)
                out += gradients.T @ gradients
        return out / self.rows

    def _columns(self, where: slice) -> Array:
        size, count = self.net.n_parameters, where.stop - where.start
        unit = np.zeros((count, size), self.parameters.dtype)
        unit[np.arange(count), np.arange(where.start, where.stop)] = 1.0
        return self._products(unit).T

    def _squares(self) -> Iterator[tuple[list[Array], list[Array]]]:
        """Yield signals and errors whose per-row gradients are the squares that the matrix sums."""
        net, work = self.net, self._work
        for cotangents in self._cotangents():
            passes.backward(net, self.parameters, work, cotangents)
            yield work.signals, work.errors

    def _cotangents(self) -> Iterator[Array]:
        family, outputs = self.net.family, self._work.outputs
        if self.kind == "fisher":
            root = family.fisher_root(outputs)
            yield from (root[..., k] for k in range(root.shape[-1]))
        elif self.kind == "monte-carlo":
            drawn = self._given()
            yield from (family.score(outputs, y) / np.sqrt(len(drawn)) for y in drawn)
        else:
            yield family.score(outputs, self._given())

    def _given(self) -> Array:
        if self.targets is None:  # the functions below never make such a matrix
            fail("targets", f"targets for kind {self.kind!r}", None)
        return self.targets


def true_fisher(net: Network, parameters: Any, x: Any) -> Curvature:
    """Return the Fisher matrix: targets of the model, in expectation.

    Parameters
    ----------
    net : Network
    parameters : array (P,)
    x : array (N, n_0)

    Raises
    ------
    InputError
        For wrong shapes or numbers that are not finite.

    Examples
    --------
    >>> net = Network((2, 1), family="gaussian")
    >>> true_fisher(net, [0.0, 0.0, 0.0], [[1.0, 2.0]]).dense()
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    theta, work = passes.prepare(net, parameters, x)
    return Curvature(net, "fisher", theta, None, work)


def monte_carlo_fisher(net: Network, parameters: Any, x: Any, samples: int = 1, *, rng: RngLike) -> Curvature:
    """Return the Fisher matrix with targets drawn from the model: unbiased, error ~ samples^{−1/2}.

    Parameters
    ----------
    net : Network
    parameters : array (P,)
    x : array (N, n_0)
    samples : int
        Targets for each row.
    rng : Generator or int
    """
    theta, work = passes.prepare(net, parameters, x)
    generator, count = as_rng(rng), as_count(samples, "samples")
    drawn = np.stack([net.family.sample(work.outputs, generator) for _ in range(count)])
    return Curvature(net, "monte-carlo", theta, drawn, work)


def empirical_fisher(net: Network, parameters: Any, x: Any, y: Any) -> Curvature:
    """Return the mean of g_n g_nᵀ with the data's targets: the Fisher matrix only if they follow the model."""
    return _with_targets(net, "empirical", parameters, x, y)


def gauss_newton(net: Network, parameters: Any, x: Any, y: Any) -> Curvature:
    """Return the generalised Gauss–Newton matrix: the Fisher matrix if the output units are the identity (O4)."""
    return _with_targets(net, "gauss-newton", parameters, x, y)


def hessian(net: Network, parameters: Any, x: Any, y: Any) -> Curvature:
    """Return the Hessian of the mean loss."""
    return _with_targets(net, "hessian", parameters, x, y)


def _with_targets(net: Network, kind: str, parameters: Any, x: Any, y: Any) -> Curvature:
    theta, work = passes.prepare(net, parameters, x)
    return Curvature(net, kind, theta, passes.as_targets(net, y, work), work)


def _outer(signal: Array, error: Array) -> Array:
    """Return vec(δ h̃ᵀ) of every row, shape (N, P_i)."""
    product: Array = extended(signal)[:, :, None] * error[:, None, :]
    return product.reshape(len(signal), -1)


MATRICES: dict[str, Callable[..., Curvature]] = {
    "fisher": true_fisher,
    "monte-carlo": monte_carlo_fisher,
    "empirical": empirical_fisher,
    "gauss-newton": gauss_newton,
    "hessian": hessian,
}
