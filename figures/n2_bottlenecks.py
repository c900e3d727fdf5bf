"""Which formula is the natural gradient in a bottleneck? Statements N1, N2.

N1 shares the whole error equally between all L layers; N2, the staircase, shares each block (k, l) of the
error between the l − k + 1 layers that can express it. Residuals of F u = ∇ℓ on random networks (one mark
for each draw), rates at which each block of the error moves, and the induced change of the total weight of
an autoencoder against the projection T of the error on range J.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import linnat as ln
from figures._common import BLACK, BLUE, VERMILLION, Array, Data, claim, decades, label_panels, publish

STATEMENTS = ("N1", "N2")

WIDTHS = ((6, 6, 6, 6), (4, 7, 9, 3), (6, 3, 6), (8, 5, 2, 5, 8), (6, 3, 4, 2), (5, 4, 1, 4, 2, 6))
WIDE = 2  # the first two have hidden widths ≥ max(n_0, n_L): N1's condition
N1 = (VERMILLION, "s", "N1")
N2 = (BLUE, "o", "N2")


def main(quick: bool, out: Path) -> None:
    """Measure, check, draw."""
    publish(__file__, out, measure(quick), check, draw)


def measure(quick: bool) -> dict[str, Array]:
    """Return residuals (widths, draw, [N1, N2]), block rates (row: l−k+1, L, N1, N2), and an autoencoder's dW."""
    draws = 4 if quick else 20
    residuals = np.array([[residual_pair(widths, seed) for seed in range(draws)] for widths in WIDTHS])
    rates = np.array([row for widths in WIDTHS[WIDE:] for row in block_rates(widths)])
    net, task = problem((6, 3, 6), 0)
    step = -ln.induced_change(net, ln.natural_gradient(net, task))
    return {
        "names": np.array(["-".join(map(str, w)) for w in WIDTHS]),
        "residuals": residuals,
        "rates": rates,
        "agreement": np.array([mask_agreement(w) for w in WIDTHS]),
        "n1_change": -ln.induced_change(net, layerwise(net, task)),
        "n2_change": step,
        "expressible": expressible(net, task),
    }


def problem(widths: tuple[int, ...], seed: int) -> tuple[ln.LinearNetwork, ln.Task]:
    """Return a random network and teacher; white input and noise, so that Ã = A and B̃ = B."""
    rng = np.random.default_rng([seed, *widths])
    net = ln.LinearNetwork.random(widths, rng=rng)
    return net, ln.Task(rng.standard_normal((widths[-1], widths[0])))


def layerwise(net: ln.LinearNetwork, task: ln.Task) -> tuple[Array, ...]:
    """Return N1, −B_i⁺ E A_i⁺ / L, by pseudo-inverses of products."""
    error = task.teacher - net.total
    pairs = zip(net.after, net.before, strict=True)
    return tuple(-np.linalg.pinv(b, 1e-10) @ error @ np.linalg.pinv(a, 1e-10) / net.depth for b, a in pairs)


def residual_pair(widths: tuple[int, ...], seed: int) -> tuple[float, float]:
    """Return ‖F u − ∇ℓ‖/‖∇ℓ‖ for N1 and N2, F by definition (covariance of scores' root, Jacobian)."""
    net, task = problem(widths, seed)
    jacobian = ln.dense.fisher.root_jacobian(net, task)
    gradient = np.concatenate([g.flatten(order="F") for g in ln.dense.fisher.gradient(net, task)])

    def residual(direction: tuple[Array, ...]) -> float:
        force = jacobian.T @ (jacobian @ ln.flatten(direction))
        return float(np.linalg.norm(force - gradient) / np.linalg.norm(gradient))

    return residual(layerwise(net, task)), residual(ln.natural_gradient(net, task))


def mask_agreement(widths: tuple[int, ...]) -> float:
    """Return how far N1 is from 1/L of the natural gradient with the block-diagonal of F, relative."""
    net, task = problem(widths, 0)
    one = ln.flatten(layerwise(net, task))
    other = ln.flatten(ln.natural_gradient(net, task, mask="block-diagonal")) / net.depth
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


def projectors(net: ln.LinearNetwork) -> tuple[list[Array], list[Array]]:
    """Return P_0 … P_L and Q_1 … Q_{L+1}, by SVDs of products."""

    def onto(matrix: Array) -> Array:
        left, values, _ = np.linalg.svd(matrix)
        basis = left[:, : int((values > 1e-10 * values[0]).sum())]
        return np.asarray(basis @ basis.T)

    outputs = [np.zeros((net.widths[-1],) * 2), *(onto(b) for b in net.after)]
    return outputs, [*(onto(a.T) for a in net.before), np.zeros((net.widths[0],) * 2)]


def blocks(net: ln.LinearNetwork, task: ln.Task) -> dict[tuple[int, int], Array]:
    """Return the non-zero blocks ΔP_k E ΔQ_l with k ≤ l."""
    p, q = projectors(net)
    error = task.teacher - net.total
    pairs = [(k, last) for k in range(1, net.depth + 1) for last in range(k, net.depth + 1)]
    found = {(k, last): (p[k] - p[k - 1]) @ error @ (q[last - 1] - q[last]) for k, last in pairs}
    return {pair: block for pair, block in found.items() if np.linalg.norm(block) > 1e-8}


def expressible(net: ln.LinearNetwork, task: ln.Task) -> Array:
    """Return T, the orthogonal projection of E on range J, by least squares on the Jacobian."""
    jacobian = ln.dense.jacobian.total_jacobian(net)
    error = (task.teacher - net.total).flatten(order="F")
    projected = jacobian @ np.linalg.lstsq(jacobian, error, rcond=1e-10)[0]
    return np.asarray(projected.reshape(net.total.shape, order="F"))


def block_rates(widths: tuple[int, ...]) -> list[tuple[float, ...]]:
    """Return rows (l − k + 1, L, rate under N1, rate under N2), the rate being ⟨dW, block⟩/‖block‖²."""
    net, task = problem(widths, 0)
    changes = [-ln.induced_change(net, u) for u in (layerwise(net, task), ln.natural_gradient(net, task))]
    return [
        (last - k + 1, net.depth, *(float((c * block).sum() / (block**2).sum()) for c in changes))
        for (k, last), block in blocks(net, task).items()
    ]


def check(data: Data) -> None:
    """Hold N2 to F u = ∇ℓ everywhere, N1 where its condition holds, and show that it fails elsewhere."""
    residuals, rates = data["residuals"], data["rates"]
    claim("N2: ‖Fu − ∇ℓ‖/‖∇ℓ‖, all widths", residuals[..., 1], at_most=1e-10)
    claim("N1 on wide networks", residuals[:WIDE, :, 0], at_most=1e-9)
    claim("N1 on bottlenecks and narrowing networks", residuals[WIDE:, :, 0], at_least=1e-2)
    claim("N1 = block-diagonal/L, relative", data["agreement"], at_most=1e-9)
    claim(
        "N1: rate of block (k,l) against (l−k+1)/L",
        np.abs(rates[:, 2] - rates[:, 0] / rates[:, 1]),
        at_most=1e-9,
    )
    claim("N2: rate of every block against 1", np.abs(rates[:, 3] - 1), at_most=1e-9)
    claim("autoencoder: dW of N2 against T", np.abs(data["n2_change"] - data["expressible"]), at_most=1e-12)
    claim(
        "autoencoder: dW of N1 against T", np.abs(data["n1_change"] - data["expressible"]).max(), at_least=0.1
    )


def draw(data: Data) -> Figure:
    """Draw residuals, block rates and the induced change."""
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 3.1), width_ratios=[1.45, 1, 1])
    _residuals(axes[0], data)
    _rates(axes[1], data["rates"])
    _changes(axes[2], data)
    label_panels(axes)
    figure.suptitle(
        "In a bottleneck the layerwise formula N1 is not the natural gradient; the staircase N2 always is"
    )
    return figure


def _residuals(axis: Axes, data: Data) -> None:
    residuals = data["residuals"]
    spread = np.linspace(-0.28, 0.28, residuals.shape[1])
    for place, found in enumerate(residuals):
        for column, (colour, marker, name) in enumerate((N1, N2)):
            label = name if place == 0 else None
            axis.plot(
                place + spread,
                found[:, column],
                marker,
                ms=3.2,
                mew=0.7,
                color=colour,
                mfc="white",
                label=label,
            )
    axis.axvline(WIDE - 0.5, color=BLACK, lw=0.7, ls=":")
    axis.set(yscale="log", ylim=(2e-17, 20), xticks=range(len(residuals)), xlim=(-0.7, len(residuals) - 0.5))
    axis.set_xticklabels(data["names"], rotation=35, ha="right", rotation_mode="anchor")
    decades(axis, 4)
    axis.set(xlabel=r"widths $n_0$-…-$n_L$", ylabel=r"residual $\|Fu-\nabla\ell\|\,/\,\|\nabla\ell\|$")
    axis.legend(loc="center right", bbox_to_anchor=(1.0, 0.55))
    axis.text(0.4, 1e-8, "every hidden\n" + r"$n_i\geq n_0,n_L$", ha="center", va="center")
    axis.set_title(r"N2 solves $Fu=\nabla\ell$ for any widths")


def _rates(axis: Axes, rates: Array) -> None:
    share = rates[:, 0] / rates[:, 1]
    axis.plot([0, 1], [0, 1], color=VERMILLION, lw=0.9)
    axis.axhline(1, color=BLUE, lw=0.9)
    axis.plot(share, rates[:, 2], N1[1], color=N1[0], mfc="white", label="N1")
    axis.plot(share, rates[:, 3], N2[1], color=N2[0], mfc="white", label="N2")
    axis.set(xlim=(0, 1.06), ylim=(0, 1.12), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axis.set_xlabel(r"share of layers, $(l-k+1)/L$")
    axis.set_ylabel(r"rate of $\Delta P_k\tilde E\Delta Q_l$")
    axis.set_title("N1 starves some blocks")
    axis.legend(loc="lower right")


def _changes(axis: Axes, data: Data) -> None:
    goal = data["expressible"].ravel()
    reach = 1.08 * np.abs(goal).max()
    axis.plot([-reach, reach], [-reach, reach], color=BLACK, lw=0.7)
    for key, (colour, marker, name) in (("n1_change", N1), ("n2_change", N2)):
        axis.plot(goal, data[key].ravel(), marker, color=colour, mfc="white", ms=3.6, label=name)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axis.set_xlabel(r"entry of $T$")
    axis.set_ylabel(r"entry of $dW$", labelpad=1)
    axis.set_title(r"6-3-6: $dW=T$ under N2")
    axis.legend(loc="upper left", handletextpad=0.2)
