"""Does every figure draw, does it hold what it claims, and does it refuse to draw what does not hold?

Each script runs in quick mode. Then its own numbers are falsified, one array after the other: `check` must
raise. The same is done to the data that lie beside the committed pictures.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pytest

import linnat as ln
from figures import __main__ as command
from figures._common import OUT, ClaimError, claim
from linnat._checks import Array

mpl.use("agg")

NAMES = command.names()
WANTED = {
    "c1_loss_against_depth",
    "c2_layer_weights",
    "c3_breakdown_and_width",
    "c6_modes_under_gamma",
    "c7_means_on_straight_lines",
    "c7_nonlinear_networks",
    "c8_angle_and_rate",
    "c8_two_limits",
    "c10_invariance_lost",
    "c9_gauge_decides",
    "d2_basins",
    "d3_deep_networks",
    "d3_online_learning",
    "f2_blocks_of_fisher_and_hessian",
    "n2_bottlenecks",
    "n3_c4_gauges",
    "n3_error_against_bound",
    "n3_time_and_memory",
    "n5_masks",
    "n7_factored_damping",
    "o2_quality_by_layers",
    "o2_kronecker_eigenbasis",
    "o2_partial_updates",
    "o2_quality_of_approximations",
    "o3_whitening_conditions",
    "o3_epsilon_and_period",
    "o2_spectra_of_blocks",
    "o5_metric_on_other_rows",
    "o5_natural_conjugate_gradient",
    "o5_order_of_the_stream",
    "o1_linear_autoencoder",
    "o1_mnist_comparison",
    "o1_nonlinear_autoencoder",
    "s1_condition_against_depth",
    "x2_rates_from_the_spectrum",
    "x3_imbalance_protects",
    "x4_how_often_it_breaks",
    "x6_three_fishers",
    "x7_frequencies_go_their_own_way",
    "x8_noisy_data",
    "x9_error_against_depth_and_condition",
}
MOST_BYTES = 200_000

# What the claims of each figure rest on: each of these, changed by a factor, must be caught.
CLAIMED = {
    "c1_loss_against_depth": (
        "natural",
        "natural_integrated",
        "gradient_integrated",
        "half_times",
        "plateaus",
    ),
    "c2_layer_weights": ("closed", "closed_at_marks", "integrated"),
    "c3_breakdown_and_width": ("mu", "paths", "crossing", "breaks", "stalled_at", "wide_losses"),
    "c6_modes_under_gamma": ("modes", "modes_at_marks", "integrated"),
    "c7_means_on_straight_lines": (
        "class_natural",
        "class_lines",
        "logit_natural",
        "predictor_at_marks",
        "optimum",
        "law",
        "law_of_tanh",
    ),
    "c7_nonlinear_networks": (
        "few",
        "few_lines",
        "many_linear",
        "many_integrated",
        "many_tanh",
        "many_lines",
        "tanh_distances",
        "tanh_residuals",
        "tanh_reached",
        "tanh_elsewhere",
        "relu_distances",
        "relu_elsewhere",
    ),
    "c8_angle_and_rate": ("inside", "distances"),
    "c8_two_limits": ("limit", "offset", "slack", "value", "widest", "natural", "predicted", "margins"),
    "c10_invariance_lost": ("once", "coefficients", "often", "drifts", "damped", "lost", "batch_wanted"),
    "c9_gauge_decides": ("errors", "ranks", "residuals", "norms"),
    "d2_basins": ("roots", "newton", "network_roots"),
    "d3_deep_networks": ("gaps", "limit_at_times", "exponents", "tail_laws"),
    "d3_online_learning": (
        "means",
        "laws",
        "bound",
        "stationary",
        "plain",
        "natural",
        "metric_means",
        "metric_laws",
    ),
    "f2_blocks_of_fisher_and_hessian": (
        "fisher",
        "hessian",
        "fisher_by_definition",
        "hessian_by_differences",
    ),
    "n2_bottlenecks": ("rates", "n2_change", "expressible"),
    "n3_c4_gauges": ("totals", "teacher"),
    "n3_error_against_bound": (
        "errors_float64",
        "errors_float32",
        "sums_float64",
        "damped_float64",
        "damped_float32",
        "refined_float64",
    ),
    "n3_time_and_memory": ("residuals", "exponents"),
    "n5_masks": ("rates", "full", "alphas", "losses"),
    "n7_factored_damping": ("errors", "dense", "floors", "weak", "strong", "limits"),
    "o2_quality_by_layers": ("layer_decreases", "layer_cosines"),
    "o2_kronecker_eigenbasis": ("distances", "errors", "pictures"),
    "o2_partial_updates": ("starts", "losses"),
    "o3_epsilon_and_period": ("starts", "losses", "sweep", "by_period"),
    "o3_whitening_conditions": ("conditions",),
    "o2_quality_of_approximations": ("decrease", "cosine"),
    "o2_spectra_of_blocks": (
        *("spectra_1", "spectra_2", "spectra_3", "trace_1", "trace_2", "trace_3"),
        *("left_1", "left_2", "left_3"),
    ),
    "o5_metric_on_other_rows": ("runs",),
    "o5_natural_conjugate_gradient": ("losses",),
    "o5_order_of_the_stream": ("losses", "influence"),
    "o1_linear_autoencoder": (
        "wide_exact",
        "wide_online",
        "wide_sgd",
        "closed",
        "exact",
        "blocks",
        "online",
        "sgd",
    ),
    "o1_mnist_comparison": (
        *("update", "seconds", "train_loss", "train_squared", "test_squared"),
        *("hour_train_squared", "hour_seconds"),
        *("others_update", "others_seconds", "others_train_loss", "others_train_squared"),
    ),
    "o1_nonlinear_autoencoder": ("errors", "test_errors"),
    "s1_condition_against_depth": ("formula", "dense"),
    "x2_rates_from_the_spectrum": ("flow", "networks", "saddles", "predicted", "measured"),
    "x3_imbalance_protects": ("least", "parts", "bounds", "totals"),
    "x4_how_often_it_breaks": ("counts", "expected", "exact_probabilities", "stated", "alive"),
    "x6_three_fishers": (
        "true",
        "empirical",
        "empirical_integrated",
        "true_integrated",
        "modes",
        "modes_integrated",
    ),
    "x7_frequencies_go_their_own_way": ("paths", "integrated", "stop", "short_totals", "resultants"),
    "x8_noisy_data": ("means", "laws", "stopped", "never", "best_times", "best_risks"),
    "x9_error_against_depth_and_condition": ("by_depth", "by_condition", "by_weakness"),
}
# Errors and conditions are told from the truth by decades, everything else by a tenth.
FACTOR = {
    "o1_mnist_comparison": 10.0,
    "o1_nonlinear_autoencoder": 100.0,
    "o1_linear_autoencoder": 10.0,
    "o5_order_of_the_stream": 1000.0,
    "o5_natural_conjugate_gradient": 10.0,
    "o5_metric_on_other_rows": 10.0,
    "c7_nonlinear_networks": 1e3,
    "n3_error_against_bound": 1e5,
    "n3_time_and_memory": 1e9,
    "x9_error_against_depth_and_condition": 1e5,
}


def module(name: str) -> ModuleType:
    return importlib.import_module(f"figures.{name}")


def load(path: Path) -> dict[str, Array]:
    with np.load(path) as archive:
        return {key: archive[key] for key in archive.files}


def falsify(values: Array, factor: float) -> Array:
    """Return the values times a factor; labels of basins are moved to the next root for a tenth of the starts."""
    if values.dtype.kind != "i":
        return values * factor
    changed = values.copy()
    changed.ravel()[::10] += 1
    return changed


def assert_falsified_data_are_caught(name: str, data: dict[str, Array]) -> None:
    script = module(name)
    script.check(data)
    for key in CLAIMED[name]:
        with pytest.raises(ClaimError):
            script.check(data | {key: falsify(data[key], FACTOR.get(name, 1.1))})
        if data[key].dtype.kind in "fc":
            broken = data[key].copy()
            broken[...] = np.nan
            with pytest.raises((ClaimError, ValueError, IndexError)):
                script.check(data | {key: broken})


def test_the_figures_are_those_asked_for() -> None:
    assert set(NAMES) == WANTED == set(CLAIMED)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_says_what_it_shows(name: str) -> None:
    script = module(name)
    assert re.search(r"\?", script.__doc__ or "")
    assert name.split("_")[0].upper() in script.STATEMENTS
    assert all(identifier in (script.__doc__ or "") for identifier in script.STATEMENTS)
    assert list(inspect.signature(script.main).parameters) == ["quick", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_draws_and_its_falsified_numbers_are_caught(name: str, tmp_path: Path) -> None:
    module(name).main(True, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{ending}" for ending in ("png", "pdf", "npz")
    }
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert_falsified_data_are_caught(name, load(tmp_path / f"{name}.npz"))


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_picture_has_data_that_hold_its_claims(name: str) -> None:
    assert 10_000 < (OUT / f"{name}.png").stat().st_size < MOST_BYTES
    assert_falsified_data_are_caught(name, load(OUT / f"{name}.npz"))


def test_a_figure_is_the_same_at_every_run(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        module("s1_condition_against_depth").main(True, tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_wrong_package_is_caught_and_nothing_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ln.natural_gradient

    def without_the_staircase(net: ln.LinearNetwork, task: ln.Task, **options: object) -> tuple[Array, ...]:
        return tuple(u / net.depth for u in right(net, task, mask="block-diagonal"))

    monkeypatch.setattr(ln, "natural_gradient", without_the_staircase)
    assert command.main(["n2", "--quick", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"FAILED: N2: .*: \d.*, at most 1e-10 was claimed", printed)
    assert "failed: n2_bottlenecks" in printed
    assert not list(tmp_path.iterdir())


def test_a_name_is_found_by_its_beginning_and_an_unknown_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["S1", "--quick", "--out", str(tmp_path)]) == 0
    assert "1 figures" in capsys.readouterr().out
    assert command.main(["s1", "z9"]) == 2
    error = capsys.readouterr().err
    assert "no figure z9" in error
    assert "s1_condition_against_depth" in error


def test_quick_pictures_do_not_overwrite_the_committed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "OUT", tmp_path)
    assert command.main(["s1", "--quick"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["quick"]


def test_a_claim_names_the_number_that_breaks_it(capsys: pytest.CaptureFixture[str]) -> None:
    claim("size", [0.5, 1.0], at_most=1.0, at_least=0.5)
    assert "size: 0.5 … 1 (≥ 0.5, ≤ 1)" in capsys.readouterr().out
    with pytest.raises(ClaimError, match=r"size: 1\.5, at most 1 was claimed"):
        claim("size", [0.5, 1.5], at_most=1.0)
    with pytest.raises(ClaimError, match=r"size: 0\.5, at least 1 was claimed"):
        claim("size", [0.5, 1.5], at_least=1.0)
    for bad in ([0.0, np.nan], np.nan):
        with pytest.raises(ClaimError, match="nan"):
            claim("size", bad, at_most=1.0)
    with pytest.raises(ClaimError, match="nothing to hold it to"):
        claim("size", [], at_most=1.0)
    with pytest.raises(ClaimError, match="nothing to hold it to"):
        claim("size", 1.0)
