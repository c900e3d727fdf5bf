"""How are curves-like images drawn? Smooth curves through three random points: a stand-in for the set CURVES.

CURVES (Hinton and Salakhutdinov 2006; the deep autoencoders of Martens 2010 and later) is a fixed file that no public
program makes: 28 × 28 pixels, each image a curve that three points determine, hence six dimensions. Curves-like
images share these properties and nothing more: error levels on them are *not* comparable with those published for
CURVES.

An image shows the quadratic Bézier curve c that is at the first point at t = 0, at the second at t = 1/2, at the third
at t = 1. The pen is a Gaussian of standard deviation PEN: the ink at x is ρ(x) = ∫ exp(−|x − c(t)|²/2 PEN²) |c′(t)| dt
/ (PEN √2π), about one on a line, and the intensity 1 − exp(−DARKNESS ρ), in [0, 1), less a millionth, so that the
background is zero. A line is 1.4 pixels wide at half of its intensity. The image is a smooth function of the points,
also where the curve crosses itself. Units are pixels, the frame is [0, 28]², pixel centres are at half-integers.
"""

from __future__ import annotations

import numpy as np

from linnat._checks import Array, RngLike, as_count, as_float_array, as_rng, fail

SIZE = 28
# The curve leaves the bounding box of its points by at most 1/8 of its sides: 20 · 5/8 = 12.5 from the centre, which
# leaves 1.5 pixels = 3.75 PEN to the edge of the frame.
BOX = (4.0, 24.0)
PEN = 0.4
DARKNESS = 3.0
# Gauss's nodes are dense at the ends, where curves are fastest. Error of the integral: below 1e-3, a quarter of a grey
# level of 255, at the sharpest turns; 1e-12 for half of the curves.
SAMPLES = 128
# No denormal numbers, which are slow, here (products of two pens) or where the images go.
FAINTEST = 40.0
BACKGROUND = 1e-6
ROWS = 100  # images drawn at once: what fits into the cache of a processor


def curves_like(n_train: int = 20_000, n_test: int = 10_000, seed: int = 0) -> tuple[Array, Array]:
    """Draw a training and a test set.

    Parameters
    ----------
    n_train, n_test : int
        The first rows of a larger set are those of a smaller one.
    seed : int
        Both sets are functions of it.

    Returns
    -------
    x, x_test : float32 arrays (n_train, 784), (n_test, 784)
        In [0, 1]. A stand-in for CURVES; error levels are not comparable.

    Examples
    --------
    >>> x, x_test = curves_like(3, 2)
    >>> x.shape, x_test.shape, bool(0 <= x.min() and x.max() <= 1)
    ((3, 784), (2, 784), True)
    """
    counts = as_count(n_train, "n_train"), as_count(n_test, "n_test")
    start = as_count(seed, "seed", low=0)
    x, x_test = (
        draw_curves(curve_points(count, np.random.default_rng([start, k]))) for k, count in enumerate(counts)
    )
    return x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)


def curve_points(count: int, rng: RngLike) -> Array:
    """Return the points of random curves, (count, 3, 2): uniform in a square, as (column, row) in pixels."""
    low, high = BOX
    return low + (high - low) * as_rng(rng).random((as_count(count, "count"), 3, 2))


def draw_curves(points: Array, size: int = SIZE, dtype: type[np.floating] = np.float32) -> Array:
    """Draw the curves through given points.

    Parameters
    ----------
    points : array (N, 3, 2)
        In pixels, (column, row).
    size : int
        Of the frame.
    dtype : float32 or float64

    Returns
    -------
    array (N, size, size)
        Intensities in [0, 1), rows first.

    Notes
    -----
    The pen is a product of a factor in columns and one in rows, so that a picture is one product of matrices:
    2 SAMPLES size² flops and 2 SAMPLES size exponentials an image, 0.1 ms.

    Examples
    --------
    >>> picture = draw_curves(np.array([[[2.5, 4.5], [5.5, 4.5], [8.5, 4.5]]]), 10)[0]
    >>> np.flatnonzero(picture.max(axis=1) > 0.5).tolist(), int(picture[:, 5].argmax())
    ([4], 4)
    """
    corners = as_float_array(points, "points", ndim=3)
    if corners.shape[1:] != (3, 2):
        fail("points", "shape (N, 3, 2)", f"shape {corners.shape}")
    images = np.empty((len(corners), size, size), dtype)
    for first in range(0, len(corners), ROWS):
        images[first : first + ROWS] = _draw(
            corners[first : first + ROWS].astype(np.float64), size, images.dtype
        )
    return images


def _draw(points: Array, size: int, dtype: np.dtype[np.floating]) -> Array:
    nodes, weights = np.polynomial.legendre.leggauss(SAMPLES)
    t = 0.5 * (nodes + 1)
    shape = np.stack(
        [(1 - t) * (1 - 2 * t), 4 * t * (1 - t), t * (2 * t - 1)]
    )  # Lagrange's polynomials at 0, ½, 1
    slope = np.stack([4 * t - 3, 4 - 8 * t, 4 * t - 1])
    curve = np.einsum("kt,nkd->ndt", shape, points)
    speed = np.linalg.norm(np.einsum("kt,nkd->ndt", slope, points), axis=1)
    ink = (speed * weights * (0.5 * DARKNESS / (PEN * np.sqrt(2 * np.pi)))).astype(dtype)
    scale = np.sqrt(0.5) / PEN
    centres = ((np.arange(size) + 0.5) * scale).astype(dtype)
    pen = centres - (curve * scale).astype(dtype)[..., None]  # (N, 2, SAMPLES, size)
    np.multiply(pen, pen, out=pen)
    np.minimum(pen, FAINTEST, out=pen)
    np.exp(np.negative(pen, out=pen), out=pen)
    pen[:, 1] *= ink[..., None]
    # The transposed factor as a view: BLAS takes it as it is.
    density: Array = np.matmul(np.swapaxes(pen[:, 1], 1, 2), pen[:, 0])
    return np.maximum(-np.expm1(-density) - BACKGROUND, 0)
