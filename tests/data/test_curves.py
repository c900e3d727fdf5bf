"""Are curves-like images what they are said to be: six smooth dimensions, in range, within the frame, by seed?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from linnat import InputError
from linnat.data import curve_points, curves_like, draw_curves
from linnat.data.curves import BACKGROUND, BOX, DARKNESS, PEN, SIZE

POINTS = curve_points(300, 7)


def at(points: np.ndarray, t: float) -> np.ndarray:
    """Return the curve at t by de Casteljau's rule, from Bézier's control points."""
    first, middle, last = points
    control = 2 * middle - (first + last) / 2
    left, right = first + t * (control - first), control + t * (last - control)
    return left + t * (right - left)


def test_intensities_lie_in_the_unit_interval_and_lines_are_dark() -> None:
    images = draw_curves(POINTS)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() < 1
    assert (images.max(axis=(1, 2)) > 0.8).all()
    smallest = images[images > 0].min()
    assert smallest > np.finfo(np.float32).tiny  # denormal numbers would slow down whoever trains on them


def test_a_picture_is_the_integral_of_the_pen_along_the_curve() -> None:
    # The definition, by adaptive quadrature and another parametrisation of the curve.
    for points, (row, column) in zip(POINTS[:4], ((3, 5), (14, 14), (20, 8), (9, 19)), strict=True):
        centre = np.array([column + 0.5, row + 0.5])

        def ink(t: float, points: np.ndarray = points, centre: np.ndarray = centre) -> float:
            speed = np.linalg.norm((at(points, t + 1e-6) - at(points, t - 1e-6)) / 2e-6)
            return float(np.exp(-0.5 * np.sum((centre - at(points, t)) ** 2) / PEN**2) * speed)

        density = quad(ink, 0, 1, limit=500, epsabs=1e-10)[0] / (PEN * np.sqrt(2 * np.pi))
        expected = max(1 - np.exp(-DARKNESS * density) - BACKGROUND, 0)
        found = draw_curves(points[None], dtype=np.float64)[0, row, column]
        assert abs(found - expected) < 1e-3  # stated in linnat.data.curves


def test_the_curve_goes_through_its_three_points() -> None:
    images = draw_curves(POINTS)
    column, row = np.floor(POINTS).astype(int).transpose(2, 0, 1)
    # A pixel's centre is at most √½ pixels from the point in it; at an end half of the pen's ink is there.
    faintest = 1 - np.exp(-DARKNESS * 0.5 * np.exp(-0.5 * 0.5 / PEN**2))
    long = np.linalg.norm(POINTS[:, 2] - POINTS[:, 0], axis=1) > 4
    for k in range(3):
        assert (images[np.arange(300), row[:, k], column[:, k]][long] > 0.5 * faintest).all()
    for points in POINTS[:5]:
        np.testing.assert_allclose([at(points, t) for t in (0, 0.5, 1)], points, atol=1e-12)


def test_nothing_is_cut_off_at_the_frame() -> None:
    # The worst points are the corners and the middles of the edges of their square.
    low, high = BOX
    levels = np.array([low, (low + high) / 2, high])
    extreme = np.stack(np.meshgrid(*[levels] * 6, indexing="ij"), -1).reshape(-1, 3, 2)
    margin = 6
    wide = draw_curves(np.concatenate([POINTS, extreme]) + margin, SIZE + 2 * margin)
    inner = wide[:, margin:-margin, margin:-margin].copy()
    np.testing.assert_allclose(inner, draw_curves(np.concatenate([POINTS, extreme])), atol=1e-5)
    wide[:, margin:-margin, margin:-margin] = 0
    assert wide.max() < 1 / 255


def test_an_image_has_six_dimensions() -> None:
    step = 1e-3
    smallest = []
    for points in POINTS[:100]:
        shifts = step * np.eye(6).reshape(6, 3, 2)
        ahead = draw_curves(points + shifts, dtype=np.float64).reshape(6, -1)
        behind = draw_curves(points - shifts, dtype=np.float64).reshape(6, -1)
        values = np.linalg.svd((ahead - behind) / (2 * step), compute_uv=False)
        smallest.append(values[-1] / values[0])
    # Straight lines come close to five: moving the middle along the line changes little but the ink.
    assert min(smallest) > 100 * step**2
    assert np.median(smallest) > 0.02
    # And no more: the same points in the opposite order are the same curve.
    np.testing.assert_allclose(draw_curves(POINTS[:, ::-1]), draw_curves(POINTS), atol=1e-5)


def test_images_are_smooth_functions_of_the_points() -> None:
    # Central differences of half the step are four times closer to the derivative: an order of two, fitted.
    direction = np.random.default_rng(0).standard_normal((40, 3, 2))
    steps = 0.2 / 2 ** np.arange(5)
    slopes = [
        (
            draw_curves(POINTS[:40] + h * direction, dtype=np.float64)
            - draw_curves(POINTS[:40] - h * direction, dtype=np.float64)
        )
        / (2 * h)
        for h in steps
    ]
    errors = [np.linalg.norm(a - b) for a, b in pairwise(slopes)]
    order = np.polyfit(np.log(steps[:-1]), np.log(errors), 1)[0]
    assert 1.7 < order < 2.3


def test_sets_are_functions_of_the_seed() -> None:
    x, x_test = curves_like(40, 30, seed=3)
    assert x.shape == (40, 784)
    assert x_test.shape == (30, 784)
    fewer = curves_like(10, 5, seed=3)
    np.testing.assert_array_equal(fewer[0], x[:10])
    np.testing.assert_array_equal(fewer[1], x_test[:5])
    assert not (x[:30] == x_test).all(axis=1).any()
    assert not (curves_like(40, 1, seed=4)[0] == x).all(axis=1).any()
    # What was drawn before stays what it is.
    points = curve_points(1, np.random.default_rng([0, 0]))[0]
    np.testing.assert_allclose(points[0], [16.73923374, 9.395734], atol=1e-6)


def test_points_are_uniform_in_their_square() -> None:
    points = curve_points(20_000, 0).reshape(-1, 6)
    low, high = BOX
    side = high - low
    # Means and covariances of uniform numbers, within five standard errors.
    assert np.abs(points.mean(axis=0) - (low + high) / 2).max() < 5 * side / np.sqrt(12 * 20_000)
    correlation = np.corrcoef(points.T) - np.eye(6)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)
    assert np.abs(points.var(axis=0) / (side**2 / 12) - 1).max() < 5 * np.sqrt(0.8 / 20_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_curves(np.ones((2, 2))), "^points: expected 3 dimension"),
        (lambda: draw_curves(np.ones((2, 3, 3))), r"^points: expected shape \(N, 3, 2\)"),
        (lambda: draw_curves(np.full((1, 3, 2), np.nan)), "^points: expected finite"),
        (lambda: curves_like(0), "^n_train: expected an integer ≥ 1"),
        (lambda: curves_like(1, 1, seed=-1), "^seed: expected an integer ≥ 0"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
