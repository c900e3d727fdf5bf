"""Which spectra do K-FAC and EKFAC give a layer, and what is left of it after preconditioning? Statement O2.

A tanh network 64-16-16-10 with softmax, K-FAC's way on digits (100 updates); the Fisher blocks of its three layers with
the model's targets in expectation over 400 rows, against the same moments in Kronecker factors. Above: eigenvalues of
the block, of K-FAC's product, of EKFAC's diagonal in the eigenbasis of now and of 50 updates before. EKFAC's are
majorised by the block's, in any basis (Schur and Horn), K-FAC's are not. Below: eigenvalues of the damped block after
preconditioning, (M + λ)^−½ (F + λ) (M + λ)^−½: all 1 where M is the block; EKFAC's have the mean 1 in any basis.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import scipy.linalg
from matplotlib.figure import Figure

from figures._common import BLACK, BLUE, DASHES, GREEN, VERMILLION, Array, Data, claim, label_panels, publish
from linnat.data.sets import load_data
from linnat.nonlinear import Network, curvature, initial, passes
from linnat.nonlinear.optimisers import Batch, Preconditioned
from linnat.nonlinear.preconditioners import Ekfac, Kfac
from linnat.nonlinear.statistics import Statistics

STATEMENTS = ("O2",)

DAMPING = 1e-3
UPDATES, STALE = 100, 50
METHODS = ("K-FAC", "EKFAC", "EKFAC, stale basis")


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return sorted spectra of blocks and approximations, distances, and preconditioned spectra, layer by layer."""
    digits = load_data("digits")
    x, y = digits.x / digits.x.max(), np.asarray(digits.targets(10)).astype(float)
    net = Network((64, 8, 8, 10) if quick else (64, 16, 16, 10), "tanh", "categorical")
    rows = x[: 100 if quick else 400]
    before, theta = _trained(net, x, y)
    batch, kfac = _expected(net, theta, rows), Kfac()
    factors = kfac.update(kfac.init(net), batch)[0].factors
    bases = [_bases(net, _expected(net, point, rows)) for point in (theta, before)]
    matrix = curvature.true_fisher(net, theta, rows)
    data: dict[str, Array] = {"damping": np.array(DAMPING)}
    for i in range(net.depth):
        block = matrix.block(i + 1, i + 1)
        made = [np.kron(factors.inputs[i], factors.outputs[i])]
        made += [_in_basis(*pairs[i], batch.signals[i], batch.errors[i]) for pairs in bases]
        spectra = [np.linalg.eigvalsh(m)[::-1] for m in (block, *made)]
        data[f"spectra_{i + 1}"] = np.array(spectra)
        data[f"trace_{i + 1}"] = np.array(matrix.diagonal()[net.slices[i]].sum())
        size = np.linalg.norm(block)
        data[f"distances_{i + 1}"] = np.array([np.linalg.norm(block - m) / size for m in made])
        data[f"left_{i + 1}"] = np.array([_preconditioned(block, m) for m in made])
    return data


def _trained(net: Network, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the parameters after 50 and after 100 updates."""
    method, rng = Preconditioned(Kfac(damping=1e-2, early=False), 0.1), np.random.default_rng(0)
    state, kept = method.init(net, initial(net, "glorot", rng=0)), []
    for update in range(1, UPDATES + 1):
        chosen = rng.choice(len(x), 100, replace=False)
        state, _ = method.step(state, Batch(x[chosen], y[chosen]), rng)
        if update in (UPDATES - STALE, UPDATES):
            kept.append(state.theta.copy())
    return kept[0], kept[1]


def _expected(net: Network, theta: Array, x: Array) -> Statistics:
    """Return statistics in which the mean over rows is the expectation over the model's targets: C copies of each row.

    The copies carry the columns of a root of the outputs' Fisher matrix, times √C.
    """
    count = net.widths[-1]
    _, work = passes.prepare(net, theta, np.tile(x, (count, 1)))
    root = net.family.fisher_root(work.outputs[: len(x)]) * np.sqrt(count)
    passes.backward(net, theta, work, np.concatenate([root[..., k] for k in range(count)]))
    return Statistics(tuple(work.signals), tuple(work.errors))


def _bases(net: Network, batch: Statistics) -> list[tuple[Array, Array]]:
    ekfac = Ekfac()
    return list(ekfac.update(ekfac.init(net), batch)[0].bases)


def _in_basis(left: Array, right: Array, signal: Array, error: Array) -> Array:
    """Return EKFAC's block: second moments of the gradient's coordinates in a Kronecker basis."""
    wide = np.column_stack([signal, np.ones(len(signal))])
    moments = ((wide @ left) ** 2).T @ (error @ right) ** 2 / len(signal)
    basis = np.kron(left, right)
    return np.asarray((basis * moments.ravel()) @ basis.T)


def _preconditioned(block: Array, made: Array) -> Array:
    """Return the eigenvalues of (M + λ)⁻¹(F + λ), descending."""
    damped = DAMPING * np.eye(len(block))
    return np.asarray(scipy.linalg.eigh(block + damped, made + damped, eigvals_only=True)[::-1])


def check(data: Data) -> None:
    """Hold traces, majorisation and distances; K-FAC breaks the first two."""
    beyond, conditions = [], []
    for i in (1, 2, 3):
        block, kfac, fresh, stale = data[f"spectra_{i}"]
        total = float(data[f"trace_{i}"])
        claim(
            f"layer {i}: sum of the block's eigenvalues, its trace",
            abs(block.sum() / total - 1),
            at_most=1e-10,
        )
        for name, spectrum in (("EKFAC", fresh), ("EKFAC, stale", stale)):
            claim(f"layer {i}: trace of {name}", abs(spectrum.sum() / total - 1), at_most=1e-10)
            excess = float((np.cumsum(spectrum) - np.cumsum(block)).max() / total)
            claim(f"layer {i}: largest eigenvalues of {name} above the block's", excess, at_most=1e-10)
        distances, left = data[f"distances_{i}"], data[f"left_{i}"]
        claim(f"layer {i}: EKFAC's distance over K-FAC's", distances[1] / distances[0], at_most=1.0)
        beyond.append(abs(kfac.sum() / total - 1))
        conditions.append(left[:, 0] / left[:, -1])
        claim(
            f"layer {i}: mean of eigenvalues left by EKFAC, from 1",
            np.abs(left[1:].mean(axis=1) - 1),
            at_most=1e-8,
        )
    claim("trace of K-FAC over the block's, from 1, the largest", max(beyond), at_least=0.05)
    claim(
        "condition left by EKFAC over K-FAC's, geometric mean of layers",
        _mean(np.array(conditions)),
        at_most=1.0,
    )


def _mean(conditions: Array) -> float:
    return float(np.exp(np.mean(np.log(conditions[:, 1] / conditions[:, 0]))))


def draw(data: Data) -> Figure:
    """Draw spectra above, what preconditioning leaves of them below."""
    figure, axes = plt.subplots(2, 3, figsize=(7.4, 4.8))
    colours = (VERMILLION, BLUE, GREEN)
    for i in (1, 2, 3):
        spectra, left = data[f"spectra_{i}"], data[f"left_{i}"]
        places = np.arange(1, spectra.shape[1] + 1)
        top, bottom = axes[:, i - 1]
        top.loglog(places, spectra[0], color=BLACK, lw=2.4, alpha=0.8, label="block of F")
        for name, spectrum, rest, colour, dash in zip(
            METHODS, spectra[1:], left, colours, DASHES[1:], strict=False
        ):
            top.loglog(places, spectrum, color=colour, ls=dash, lw=1.3, label=name)
            bottom.loglog(places, rest, color=colour, ls=dash, lw=1.3, label=f"{rest[0] / rest[-1]:.3g}")
        bottom.axhline(1.0, color=BLACK, lw=0.8)
        top.set(
            title=f"layer {i}, {spectra.shape[1]} parameters", ylim=(spectra[0, 0] * 1e-8, spectra.max() * 2)
        )
        bottom.set_xlabel("number of the eigenvalue")
        bottom.legend(title="condition", loc="upper right")
        distances = ", ".join(f"{d:.2f}" for d in data[f"distances_{i}"])
        bottom.set_title(f"distances from the block: {distances}", fontsize="small")
    axes[0, 0].set_ylabel("eigenvalue")
    axes[1, 0].set_ylabel(rf"left after preconditioning, $\lambda={float(data['damping']):g}$")
    label_panels(axes)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("Spectra of layers' Fisher blocks and of their Kronecker approximations")
    return figure
