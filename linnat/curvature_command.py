"""What does `linnat compare-curvature` do? It measures preconditioners along a training run, on digits or your data.

The way there is that of one optimiser, on all of the data in minibatches; at chosen numbers of updates every
preconditioner is compared with the exact damped natural gradient, on the first rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from linnat._checks import Array, as_float_array, as_path, fail
from linnat._files import read_npz
from linnat.data.sets import load_data
from linnat.families import NAMES
from linnat.nonlinear.activations import ACTIVATIONS
from linnat.nonlinear.comparison import DAMPINGS, table
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network
from linnat.nonlinear.optimisers import Adam, GradientDescent, Optimiser, Preconditioned
from linnat.nonlinear.preconditioners import Kfac
from linnat.nonlinear.trajectories import Point, along

SHOWN = {
    "cosine": "cosine to the exact damped natural gradient",
    "decrease": "decrease of the quadratic model at the best length, as a fraction of the exact one",
    "divergence": "KL really moved at that length, as a fraction of the exact step's",
    "moved": "KL really moved at that length",
    "foretold": "KL foretold by the Fisher matrix",
    "reduction": "loss really lost at that length",
}
LAYERS = {
    "cosine": "cosine to the exact direction's part",
    "decrease": "decrease by this layer alone, as a fraction of what it could achieve alone",
}
# Each with its rate, unless one is given.
OPTIMISERS: dict[str, tuple[float, Callable[[float], Optimiser[Any]]]] = {
    "momentum": (0.05, lambda rate: GradientDescent(rate, 0.9)),
    "adam": (3e-3, Adam),
    "kfac": (0.1, lambda rate: Preconditioned(Kfac(damping=1e-2), rate)),
}
POINTS = "0,10,100"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    command.add_argument("--weights", metavar="NET.npz", help="your network: arrays W1 … WL and b1 … bL")
    command.add_argument(
        "--widths", default="64,16,16,10", metavar="N,…", help="of a random one (default 64,16,16,10)"
    )
    command.add_argument("--activation", choices=sorted(ACTIVATIONS), default="tanh", help="of hidden units")
    command.add_argument("--family", choices=NAMES, default="categorical", help="of the targets")
    command.add_argument(
        "--data", default="digits", metavar="DATA", help="digits (default), mnist, a folder or .npz"
    )
    command.add_argument(
        "--rows", type=int, default=400, metavar="N", help="compare on the first N samples (default 400)"
    )
    command.add_argument(
        "--damping", type=float, action="append", metavar="λ", help="one or more; default four"
    )
    command.add_argument(
        "--points",
        metavar="N,…",
        help=f"updates at which to compare (default {POINTS}; 0, as it is, for a network of your own)",
    )
    command.add_argument(
        "--optimiser",
        choices=sorted(OPTIMISERS),
        default="momentum",
        help="whose way is gone (default momentum)",
    )
    command.add_argument("--rate", type=float, metavar="ε", help="of the optimiser (default: its own)")
    command.add_argument(
        "--batch", type=int, default=100, metavar="N", help="rows of a minibatch on the way (default 100)"
    )
    command.add_argument("--layers", action="store_true", help="also layer by layer")
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument(
        "--blas-kernel",
        metavar="NAME",
        help="OpenBLAS kernels to run with, or auto: the fastest that is supported",
    )
    command.add_argument("--json", action="store_true", help="as JSON, layers included")


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    for name in ("rows", "batch"):
        if getattr(options, name) < 1:
            fail(f"--{name}", "a positive number", getattr(options, name))
    if options.seed < 0:
        fail("--seed", "a non-negative integer", options.seed)
    widths, layers = _network(options)
    net = Network(widths, options.activation, options.family)
    theta = net.vector(layers) if layers is not None else initial(net, "glorot", rng=options.seed)
    data = load_data(options.data)
    if data.x.shape[1] != widths[0]:
        fail("--data", f"{widths[0]} inputs, as the network has", data.x.shape[1])
    x = data.x.astype(np.float64)
    scale = float(np.abs(x).max())
    points = along(
        net,
        theta,
        x / scale if scale > 1 else x,
        np.asarray(data.targets(widths[-1])).astype(np.float64),
        _optimiser(options),
        _integers(options.points or (POINTS if layers is None else "0"), "--points"),
        batch=options.batch,
        rows=min(options.rows, len(x)),
        dampings=options.damping or DAMPINGS,
        rng=options.seed,
    )
    if options.json:
        flat = [{"update": p.update, "loss": p.loss, **row._asdict()} for p in points for row in p.rows]
        print(json.dumps(flat, indent=2))
        return 0
    words = f"{'-'.join(map(str, widths))} {options.activation}, {options.family}"
    print(
        f"{words}, {min(options.rows, len(x))} of {len(x)} rows of {data.name}, the way of {options.optimiser}"
    )
    for point in points:
        print(f"\n{_told(point, options.layers)}")
    return 0


def _told(point: Point, layers: bool) -> str:
    parts = [f"after {point.update} updates, loss {point.loss:.4g}"]
    parts += [f"{words}\n{table(point.rows, name)}" for name, words in SHOWN.items()]
    if layers:
        for i in range(1, len(point.rows[0].layer_cosines) + 1):
            parts += [f"layer {i}: {words}\n{table(point.rows, name, i)}" for name, words in LAYERS.items()]
    return "\n\n".join(parts)


def _optimiser(options: argparse.Namespace) -> Optimiser[Any]:
    rate, make = OPTIMISERS[options.optimiser]
    return make(rate if options.rate is None else options.rate)


def _integers(text: str, name: str) -> list[int]:
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        fail(name, "integers between commas", repr(text))


def _network(options: argparse.Namespace) -> tuple[tuple[int, ...], list[Array] | None]:
    if options.weights is None:
        return tuple(_integers(options.widths, "--widths")), None
    arrays = read_npz(as_path(options.weights, "--weights"), "--weights")
    depth = sum(name.startswith("W") for name in arrays)
    missing = [f"{letter}{i}" for i in range(1, depth + 1) for letter in "Wb" if f"{letter}{i}" not in arrays]
    if depth == 0 or missing:
        fail("--weights", "arrays W1 … WL and b1 … bL", f"{sorted(arrays)}")
    weights = [as_float_array(arrays[f"W{i}"], f"W{i}", ndim=2) for i in range(1, depth + 1)]
    biases = [as_float_array(arrays[f"b{i}"], f"b{i}", ndim=1) for i in range(1, depth + 1)]
    widths = (weights[0].shape[1], *(w.shape[0] for w in weights))
    for i, ((m, n), w, b) in enumerate(zip(pairwise(widths), weights, biases, strict=True), start=1):
        if w.shape != (n, m) or b.shape != (n,):
            fail(f"W{i}, b{i}", f"shapes {(n, m)} and {(n,)}", f"{w.shape} and {b.shape}")
    return widths, [np.column_stack([w, b]) for w, b in zip(weights, biases, strict=True)]
