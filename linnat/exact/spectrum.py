"""What are all the eigenvalues of F, and its log-determinant, for networks of moderate size? Statements F1, S1.

F = JᵀJ and JJᵀ = Σ_i Ã_iᵀÃ_i ⊗ B̃_iB̃_iᵀ have the same non-zero eigenvalues: P of them at most in the space of the
parameters, n_L ρ in that of the samples. The cheaper space is taken, and said. Both square the condition of J: an
eigenvalue is right to eps λ_max. The singular values of J are right to eps σ_max; from them comes the log-determinant.
How many eigenvalues are not zero is no matter of their size: it is the rank of F1.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from linnat._checks import Array, RankWarning, as_choice, representable
from linnat.exact.chains import Problem, make_problem
from linnat.exact.fisher import fisher, fisher_rank
from linnat.exact.loss import forward_signals, whitened_after
from linnat.exact.network import LinearNetwork
from linnat.exact.task import Task
from linnat.linalg.kernels import transpose
from linnat.linalg.kron import outer_kron
from linnat.linalg.memory import refuse_beyond_memory

ROUTES = ("auto", "parameters", "samples", "singular-values")
REMEDY = "Some of the eigenvalues: scipy.sparse.linalg.eigsh on fisher_operator."
DOUBT = 8.0  # times max(m, n) eps σ_max: below it a singular value of J has no digit


class Spectrum(NamedTuple):
    """Eigenvalues of the Fisher matrix.

    Attributes
    ----------
    values : array (…, min(P, n_L ρ))
        Descending; exactly zero beyond the rank. The other eigenvalues of F are zero, too.
    rank : integer array (…)
        Rank of F by F1, decided on the layers and not on the eigenvalues.
    route : str
        "parameters", "samples" or "singular-values": how they were computed.
    """

    values: Array
    rank: Array
    route: str


class LogDet(NamedTuple):
    """Logarithm of a pseudo-determinant.

    Attributes
    ----------
    value : array (…)
        Sum of the logarithms of the non-zero eigenvalues, 0 for none.
    rank : integer array (…)
        Their number.
    """

    value: Array
    rank: Array


@representable("net, task")
def fisher_eigenvalues(
    net: LinearNetwork, task: Task, route: str = "auto", rtol: float | None = None
) -> Spectrum:
    """Return the eigenvalues of F, by the cheaper of two routes (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    route : "auto", "parameters", "samples" or "singular-values"
        Eigenvalues of F (P × P), of JJᵀ (n_L ρ × n_L ρ), or squared singular values of J. "auto" takes the smaller
        of the two matrices.
    rtol : float, optional
        Of the rank; see `natural_gradient`.

    Returns
    -------
    Spectrum

    Raises
    ------
    InputError
        If the matrix would exceed the stated share of memory; names the remedy.

    Notes
    -----
    4/3 m³ flops, m = min(P, n_L ρ), beside forming the matrix. Errors: eps λ_max in each eigenvalue,
    eps √(λ λ_max) by singular values, which cost about max(P, n_L ρ)/m times more. Of larger networks
    `scipy.sparse.linalg.eigsh` on `fisher_operator` gives some eigenvalues: of a multiple one (S1 has many) a single
    copy, since it starts from one vector; `lobpcg`, from a block, gives as many as the block has columns.

    Examples
    --------
    >>> net, task = LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]])
    >>> fisher_eigenvalues(net, task)
    Spectrum(values=array([13.]), rank=array(1), route='samples')
    """
    way = as_choice(route, "route", ROUTES)
    problem, batch = make_problem(net, task)
    space = problem.factor.shape[-1] * net.widths[-1]
    if way == "auto":
        way = "parameters" if net.n_parameters < space else "samples"
    rank = fisher_rank(net, task, rtol)
    if way == "singular-values":
        values = _singular_values(problem, net) ** 2
    elif way == "parameters":
        values = np.linalg.eigvalsh(fisher(net, task))[..., ::-1]
    else:
        values = np.linalg.eigvalsh(_gram(problem, space))[..., ::-1]
    values = values[..., : min(net.n_parameters, space)].reshape(*batch, -1)
    kept = np.arange(values.shape[-1]) < rank[..., None]
    return Spectrum(np.where(kept, np.maximum(values, 0), 0).astype(net.dtype, copy=False), rank, way)


@representable("net, task")
def fisher_logdet(net: LinearNetwork, task: Task, rtol: float | None = None) -> LogDet:
    """Return the logarithm of the pseudo-determinant of F, the product of its non-zero eigenvalues (statement F1).

    Parameters
    ----------
    net : LinearNetwork
    task : Task
    rtol : float, optional
        Of the rank; see `natural_gradient`.

    Returns
    -------
    LogDet

    Raises
    ------
    InputError
        If J would exceed the stated share of memory.

    Warns
    -----
    RankWarning
        Where F is so ill-conditioned that an eigenvalue which counts by the rank of F1 is lost in rounding.

    Notes
    -----
    2 Σ log σ over the singular values of J, never of F: the error is rank × eps κ(J), not its square.
    About 4 max(P, n_L ρ) min(P, n_L ρ)² flops.

    Examples
    --------
    >>> found = fisher_logdet(LinearNetwork([[[2.0]], [[3.0]]]), Task([[0.0]]))
    >>> float(np.exp(found.value).round(12)), int(found.rank)
    (13.0, 1)
    """
    problem, batch = make_problem(net, task)
    values = _singular_values(problem, net).reshape(*batch, -1)
    rank = fisher_rank(net, task, rtol)
    kept = np.arange(values.shape[-1]) < rank[..., None]
    floor = DOUBT * max(net.n_parameters, values.shape[-1]) * np.finfo(net.dtype).eps
    if (kept & (values <= floor * values.max(axis=-1, initial=0.0)[..., None])).any():
        warnings.warn(
            "the log-determinant of the Fisher matrix has no digits: of the eigenvalues that count, the smallest "
            "is lost in rounding; rtol decides how many count",
            RankWarning,
            stacklevel=3,
        )
    tiny = np.finfo(net.dtype).tiny
    logarithms = np.log(np.maximum(values, tiny, where=kept, out=np.ones_like(values)))
    return LogDet(np.asarray(2 * logarithms.sum(axis=-1)), rank)


def _gram(problem: Problem, space: int) -> Array:
    """Return JJᵀ (…, n_L ρ, n_L ρ)."""
    batch = problem.factor.shape[:-2]
    refuse_beyond_memory("net", math.prod(batch) * space**2, problem.factor.itemsize, REMEDY, copies=3)
    matrix = np.zeros((*batch, space, space), problem.factor.dtype)
    if space:
        for signal, back in zip(forward_signals(problem), whitened_after(problem), strict=True):
            matrix += outer_kron(transpose(signal) @ signal, back @ transpose(back))
    return matrix


def _singular_values(problem: Problem, net: LinearNetwork) -> Array:
    """Return the singular values of J = [Ã_iᵀ ⊗ B̃_i], (…, n_L ρ, P)."""
    batch = problem.factor.shape[:-2]
    space = problem.factor.shape[-1] * net.widths[-1]
    if not space:
        return np.zeros((*batch, 0), net.dtype)
    count = math.prod(batch) * space * net.n_parameters
    refuse_beyond_memory("net", count, net.dtype.itemsize, REMEDY, copies=3)
    pairs = zip(forward_signals(problem), whitened_after(problem), strict=True)
    blocks = [outer_kron(transpose(signal), back) for signal, back in pairs]
    return np.asarray(np.linalg.svd(np.concatenate(blocks, axis=-1), compute_uv=False))
