"""What does `linnat compare-curvature` do? It measures preconditioners on a network: one of your own, or of digits."""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np

from linnat._checks import Array, as_float_array, as_path, fail
from linnat._files import read_npz
from linnat.data.sets import load_data
from linnat.families import NAMES
from linnat.nonlinear.activations import ACTIVATIONS
from linnat.nonlinear.comparison import DAMPINGS, compare, table, to_json
from linnat.nonlinear.initial import initial
from linnat.nonlinear.network import Network

QUANTITIES = {
    "cosine": "cosine to the exact damped natural gradient",
    "decrease": "decrease of the quadratic model at the best length, as a fraction of the exact one",
    "divergence": "KL moved at that length, as a fraction of the exact step's",
}


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
        "--rows", type=int, default=400, metavar="N", help="the first N samples (default 400)"
    )
    command.add_argument(
        "--damping", type=float, action="append", metavar="λ", help="one or more; default four"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N")
    command.add_argument("--json", action="store_true", help="as JSON, also layer by layer")


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if options.rows < 1:
        fail("--rows", "a positive number", options.rows)
    if options.seed < 0:
        fail("--seed", "a non-negative integer", options.seed)
    widths, layers = _network(options)
    net = Network(widths, options.activation, options.family)
    theta = net.vector(layers) if layers is not None else initial(net, "glorot", rng=options.seed)
    data = load_data(options.data)
    if data.x.shape[1] != widths[0]:
        fail("--data", f"{widths[0]} inputs, as the network has", data.x.shape[1])
    x = data.x[: options.rows].astype(np.float64)
    y = np.asarray(data.targets(widths[-1]))[: options.rows].astype(np.float64)
    scale = float(np.abs(x).max())
    rows = compare(
        net, theta, x / scale if scale > 1 else x, y, dampings=options.damping or DAMPINGS, rng=options.seed
    )
    if options.json:
        print(to_json(rows))
        return 0
    print(
        f"{'-'.join(map(str, widths))} {options.activation}, {options.family}, {len(x)} rows of {data.name}\n"
    )
    print("\n\n".join(f"{words}\n{table(rows, name)}" for name, words in QUANTITIES.items()))
    return 0


def _network(options: argparse.Namespace) -> tuple[tuple[int, ...], list[Array] | None]:
    if options.weights is None:
        try:
            return tuple(int(n) for n in options.widths.split(",")), None
        except ValueError:
            fail("--widths", "integers between commas", repr(options.widths))
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
