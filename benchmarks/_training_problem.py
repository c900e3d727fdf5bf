"""What is trained: the autoencoder of Hinton and Salakhutdinov (2006) in float32, on images if there are any."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from benchmarks._timing import Call
from linnat.data import load_data
from linnat.nonlinear import Network, initial

WIDTHS = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
UNITS = ("logistic", "logistic", "logistic", "identity", "logistic", "logistic", "logistic", "identity")
RATE = 1e-4


class Problem(NamedTuple):
    """A network with Bernoulli outputs, its parameters, and a minibatch that is its own target."""

    net: Network
    theta: np.ndarray
    x: np.ndarray
    source: str


def make_problem(rows: int, widths: tuple[int, ...] = WIDTHS, units: tuple[str, ...] = UNITS) -> Problem:
    """Return the problem with as many rows of MNIST, or of white noise where there is none."""
    net = Network(widths, list(units), "bernoulli")
    theta = initial(net, "sparse", rng=0, dtype=np.float32)
    try:
        images, source = load_data("mnist").x, "MNIST"
    except ValueError:
        images, source = np.random.default_rng(0).random((rows, widths[0])), "white noise"
    if images.shape[1] != widths[0]:
        images, source = np.random.default_rng(0).random((rows, widths[0])), "white noise"
    return Problem(net, theta, np.ascontiguousarray(images[:rows], dtype=np.float32), source)


def step_products(problem: Problem) -> Call:
    """Return the matrix products of a step, with buffers of their own: forward, backward, gradients."""
    rows, widths = len(problem.x), problem.net.widths
    weights = [np.ascontiguousarray(block[:-1]) for block in problem.net.blocks(problem.theta)]
    signals = [np.full((rows, n), 0.5, np.float32) for n in widths]
    errors = [np.full((rows, n), 1e-3, np.float32) for n in widths]
    slopes = [np.empty(shape, np.float32) for shape in pairwise(widths)]

    def call() -> None:
        for i, weight in enumerate(weights):
            np.matmul(signals[i], weight, out=signals[i + 1])
        for i in range(len(weights) - 1, -1, -1):
            np.matmul(signals[i].T, errors[i + 1], out=slopes[i])
            if i > 0:
                np.matmul(errors[i + 1], weights[i].T, out=errors[i])
        for part in (*signals[1:], *errors[:-1]):
            part[0, 0] = 0.5  # nothing grows from call to call

    return call


def kronecker_products(problem: Problem) -> Call:
    """Return the products N_i D_i M_i of all layers with dense symmetric M_i, N_i: what K-FAC does with a gradient."""
    widths = problem.net.widths
    inner = [np.eye(n + 1, dtype=np.float32) for n in widths[:-1]]
    outer = [np.eye(n, dtype=np.float32) for n in widths[1:]]
    layers = [np.full((n + 1, m), 0.5, np.float32) for n, m in pairwise(widths)]
    halves, results = [np.empty_like(layer) for layer in layers], [np.empty_like(layer) for layer in layers]

    def call() -> None:
        for a, g, layer, half, result in zip(inner, outer, layers, halves, results, strict=True):
            np.matmul(a, layer, out=half)
            np.matmul(half, g, out=result)

    return call


def squares(problem: Problem) -> Call:
    """Return the products HᵀH and DᵀD of all signals and errors: what factors are made of."""
    rows = len(problem.x)
    tall = [np.full((rows, n), 0.5, np.float32) for n in (*problem.net.widths[:-1], *problem.net.widths[1:])]
    results = [np.empty((h.shape[1], h.shape[1]), np.float32) for h in tall]

    def call() -> None:
        for h, result in zip(tall, results, strict=True):
            np.matmul(h.T, h, out=result)

    return call
