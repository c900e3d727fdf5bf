"""What do products of two small matrices keep of a layer's block? Statement O2: K-FAC, its chain, EKFAC."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from linnat._checks import Array
from linnat.claims._core import Case, Claim, Measure, Measures, relative
from linnat.claims._multilayer import always, instance, nowhere, rounding
from linnat.claims.preconditioners import exact_noise, linear_problem
from linnat.dense import fisher as dense_fisher
from linnat.nonlinear import passes
from linnat.nonlinear.preconditioners import Ekfac, Kfac, KfacTridiagonal
from linnat.nonlinear.preconditioners.ekfac import EkfacState
from linnat.nonlinear.statistics import Statistics, gather

DAMPING = 0.05


def check_kronecker(case: Case, share: float = 1.0) -> Measures:
    """Measure blocks where they are exact; EKFAC's diagonal against the best one, its spectrum; the chain's inverse."""
    measures = [*_exact_blocks(case.rng), *_best_diagonal(case.rng, share), _chain(case.rng)]
    return [*measures, _one_row(case.rng)]


def _exact_blocks(rng: np.random.Generator) -> Measures:
    """Compare K-FAC's and EKFAC's blocks of identity units with those of the dense Fisher matrix."""
    net, theta, x, _, linear, task = linear_problem(rng, tuple(int(n) for n in rng.integers(2, 6, 4)))
    batch, exact = exact_noise(net, theta, x), dense_fisher.gauss_newton(linear, task)
    kfac, _ = Kfac().update(Kfac().init(net), batch)
    ekfac, _ = Ekfac().update(Ekfac().init(net), batch)
    gaps = []
    for i, part in enumerate(net.slices):
        block = exact[part, part]
        kron = np.kron(kfac.factors.inputs[i], kfac.factors.outputs[i])
        gaps.append((relative(kron, block), relative(_block(ekfac, i), block)))
    words = ("K-FAC's blocks for identity units", "EKFAC's blocks for identity units")
    return [Measure(w, max(g), rounding(net)) for w, g in zip(words, zip(*gaps, strict=True), strict=True)]


def _block(state: EkfacState, layer: int) -> Array:
    basis = np.kron(*state.bases[layer])
    return np.asarray((basis * state.moments[layer].ravel()) @ basis.T)


def _rows(batch: Statistics, layer: int) -> Array:
    """Return the gradients of every row in a layer, (N, P_i)."""
    wide = np.column_stack([batch.signals[layer], np.ones(batch.rows)])
    return np.asarray(np.einsum("na,nb->nab", wide, batch.errors[layer]).reshape(batch.rows, -1))


def _best_diagonal(rng: np.random.Generator, share: float) -> Measures:
    """Measure EKFAC's diagonal: gradient of the distance, trace, distance against K-FAC's, spectra.

    By Schur and Horn the largest k of a matrix's diagonal, in any orthonormal basis, sum to no more than its largest k
    eigenvalues. By Hoffman and Wielandt two spectra, sorted, are no farther apart than their matrices. The trace of
    (M + λ)⁻¹(F + λ) is its size where M is EKFAC's matrix in any basis: what it leaves of the block has the mean 1.
    """
    net, theta, x, _ = instance("bernoulli", rng, rows=10)
    _, work = passes.prepare(net, theta, x)
    batch = gather(net, theta, work, "sampled", rng)
    ekfac = Ekfac(decay=0.0)
    state, _ = ekfac.update(ekfac.init(net), batch)
    found = np.zeros(6)
    for i, (left, right) in enumerate(state.bases):
        rows, basis = _rows(batch, i), np.kron(left, right)
        block, kron = rows.T @ rows / batch.rows, np.kron(state.factors.inputs[i], state.factors.outputs[i])
        fixed = np.diagonal(basis.T @ kron @ basis)
        moments = share * state.moments[i].ravel() + (1 - share) * fixed
        size = float(np.linalg.norm(block))
        made = (basis * moments) @ basis.T
        distance = float(np.linalg.norm(block - made))
        damped = DAMPING * np.eye(len(block))
        spectra = np.sort(np.linalg.eigvalsh(block))[::-1], np.sort(moments)[::-1]
        apart = float(np.linalg.norm(spectra[0] - spectra[1]))
        new = (
            float(np.abs(np.diagonal(basis.T @ block @ basis) - moments).max()) / size,
            abs(float(np.trace(block) - moments.sum())) / float(np.trace(block)),
            (distance - float(np.linalg.norm(block - kron))) / size,
            float((np.cumsum(spectra[1]) - np.cumsum(spectra[0])).max()) / size,
            (apart - distance) / size,
            abs(float(np.trace(np.linalg.solve(made + damped, block + damped))) / len(block) - 1),
        )
        found = np.maximum(found, new)
    words = (
        "gradient of the distance in EKFAC's diagonal",
        "trace of EKFAC",
        "EKFAC farther from the block than K-FAC",
        "EKFAC's largest eigenvalues above the block's (Schur–Horn)",
        "spectra farther apart than the matrices",
        "mean eigenvalue that EKFAC leaves, from 1",
    )
    return [Measure(w, float(f), rounding(net)) for w, f in zip(words, found, strict=True)]


def _chain(rng: np.random.Generator) -> Measure:
    """Compare the block-tridiagonal inverse with the dense inverse of its own definition.

    The definition: damped Kronecker factors on the diagonal, moments of neighbours beside it, and beyond it what a
    chain has, in which layer i knows of layer k only through those between: products of regressions.
    """
    net, theta, x, _ = instance("bernoulli", rng, rows=12)
    _, work = passes.prepare(net, theta, x)
    method = KfacTridiagonal(damping=DAMPING)
    state, _ = method.update(method.init(net), gather(net, theta, work, "sampled", rng))
    inputs, outputs = method.damped(state)
    diagonal = [np.kron(a, g) for a, g in zip(inputs, outputs, strict=True)]
    beside = [np.kron(a, g) for a, g in state.between]
    matrix = np.zeros((net.n_parameters,) * 2)
    for i, here in enumerate(net.slices):
        matrix[here, here] = diagonal[i]
        across = np.eye(len(diagonal[i]))
        for (k, cross), there in zip(list(enumerate(beside))[i:], net.slices[i + 1 :], strict=True):
            across = across @ cross if k == i else across @ np.linalg.solve(diagonal[k], cross)
            matrix[here, there], matrix[there, here] = across, across.T
    inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), np.eye(len(matrix)))
    found = np.stack([method.apply(state, unit) for unit in np.eye(len(matrix))])
    condition = float(np.linalg.cond(matrix))
    return Measure("block-tridiagonal inverse, dense", relative(found, inverse), rounding(net) * condition)


def _one_row(rng: np.random.Generator) -> Measure:
    """Compare the blocks of a single row: vec(δh̃ᵀ)vec(δh̃ᵀ)ᵀ is a Kronecker product, for any units."""
    net, theta, x, y = instance("poisson", rng, rows=1)
    _, work = passes.prepare(net, theta, x)
    batch = gather(net, theta, work, y)
    kfac, _ = Kfac().update(Kfac().init(net), batch)
    ekfac, _ = Ekfac().update(Ekfac().init(net), batch)
    gap = 0.0
    for i in range(net.depth):
        block = _rows(batch, i).T @ _rows(batch, i)
        kron = np.kron(kfac.factors.inputs[i], kfac.factors.outputs[i])
        gap = max(gap, relative(kron, block), relative(_block(ekfac, i), block))
    return Measure("batch of one: K-FAC, EKFAC and the empirical blocks", gap, rounding(net))


def _broken(rng: np.random.Generator) -> Measures:
    return check_kronecker(nowhere(rng), 0.0)


CLAIMS = (
    Claim(
        "O2",
        "K-FAC and EKFAC",
        "K-FAC is the exact block for identity units and for one row; EKFAC's diagonal is the best one in its basis, "
        "its spectrum within the block's",
        r"\|F_{ii} - Q\,\mathrm{diag}(s^*) Q^\top\|_F \le \|F_{ii} - A_i \otimes G_i\|_F,\quad "
        r"s^* = \mathrm{diag}(Q^\top F_{ii} Q) \prec \lambda(F_{ii})",
        "Martens and Grosse (2015); George et al. (2018)",
        "any orthonormal basis; that a better matrix has a better inverse does not follow",
        "nonlinear.preconditioners.Ekfac",
        "per-row gradients, dense Fisher matrix of the linear network, dense inverse of a Gaussian chain",
        "p = 0: sums of products of well-scaled numbers; p = 1 for the chain's inverse",
        check_kronecker,
        always,
        _broken,
        "K-FAC's own eigenvalues in place of the second moments",
        about_networks=False,
    ),
)
