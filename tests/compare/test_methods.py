"""Does every name give an optimiser that runs, with all settings as data?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from linnat import InputError
from linnat.compare.methods import METHODS, Choice, Method, Range, as_methods, batch, complete
from linnat.compare.models import start
from linnat.compare.tasks import Problem, load_problem
from linnat.compare.tuning import Trial, best, drawn
from linnat.nonlinear.schedules import as_schedule
from linnat.nonlinear.training import Budget, train

KIND = np.dtype(np.float32)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("digits", "64-12-64:logistic:bernoulli:sparse")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_lowers_the_loss_untuned_and_survives_its_checkpoint(
    method: Method, problem: Problem, tmp_path
) -> None:
    settings = complete(method, {"batch": 200})
    options = {"batch": batch(settings), "seed": 1, "evaluations": 0, "checkpoint": tmp_path / "c.npz"}
    net, theta = problem.model.network, start(problem.model, 0, KIND)
    updates = 40 if method.baseline or method.name in ("prong", "online", "kfac", "ekfac") else 6
    half = train(net, method.build(settings), problem.split, theta, budget=Budget(updates // 2), **options)
    run = train(net, method.build(settings), problem.split, theta, budget=Budget(updates), **options)
    options["checkpoint"] = None
    whole = train(net, method.build(settings), problem.split, theta, budget=Budget(updates), **options)
    assert run.status == "finished"
    assert run.rows[-1].train_loss < 0.8 * run.rows[0].train_loss
    assert np.array_equal(run.theta, whole.theta)
    assert not np.array_equal(half.theta, whole.theta)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_corner_of_a_search_space_is_an_optimiser(method: Method) -> None:
    assert set(method.space) <= set(method.defaults)
    assert "batch" in method.space
    for pick in (0, -1):
        corner = {k: (v if isinstance(v, Range) else v.values)[pick] for k, v in method.space.items()}
        complete(method, corner)
    for name, place in method.space.items():
        default = method.defaults[name]
        inside = place.low <= default <= place.high if isinstance(place, Range) else default in place.values
        assert inside, f"{name}: the default {default} is not in the space {place}"


def test_every_setting_reaches_the_optimiser() -> None:
    for method in METHODS.values():
        before = repr((method.build(method.defaults), batch(method.defaults)))
        for name, value in method.defaults.items():
            if isinstance(value, str):
                other = {"fitted": "clipped", "eigen": "cholesky", "rows": "mean", "fisher": "hessian"}
                changed = "0.5, 3: 0.9" if name == "momenta" else other.get(value, "fisher")
            elif name in ("momentum", "decay", "beta1", "beta2", "warm", "cutoff"):
                changed = 0.123
            elif name == "factored" or (name == "adapt" and method.name == "truncated-newton"):
                changed = 0
            else:
                changed = value + 1
            settings = complete(method, {name: changed})
            assert repr((method.build(settings), batch(settings))) != before, f"{method.name}.{name}"


def test_nesterovs_momentum_is_the_published_schedule() -> None:
    schedule = METHODS["nesterov"].build(complete(METHODS["nesterov"], {"momentum": 0.995})).momentum
    for t in (0, 1, 249, 250, 999, 1000, 10_000, 49_999, 200_000):
        published = min(1 - 2 ** (-1 - math.log2(t // 250 + 1)), 0.995)
        assert as_schedule(schedule, "momentum").at(t) == pytest.approx(published, rel=1e-15)


def test_a_batch_may_double_and_a_rate_may_halve() -> None:
    settings = complete(METHODS["sgd"], {"batch": 100, "doubling": 30, "rate": 0.4, "halving": 10})
    assert batch(settings).at(60) == 400
    assert METHODS["sgd"].build(settings).rate.at(10) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "given", "complaint"),
    [
        ("sgd", {"damping": 1.0}, "one of rate"),
        ("sgd", {"rate": "fast"}, "a number"),
        ("sgd", {"batch": 2.5}, "an integer"),
        ("sgd", {"batch": 0}, "≥ 1"),
        ("sgd", {"rate": float("nan")}, "finite"),
        ("kfac", {"damping": -1.0}, "damping"),
        ("kfac", {"rule": 3}, "a word"),
        ("kfac-adaptive", {"momenta": "much"}, "'value, update: value, …'"),
        ("kfac-adaptive", {"momenta": "0.9, 5: 1.0"}, r"numbers in \[0, 1\)"),
        ("kfac", {"rule": "newton"}, "rule"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name: str, given: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        complete(METHODS[name], given)


def test_names_are_read_once_each() -> None:
    assert [m.name for m in as_methods("KFAC, sgd,kfac")] == ["kfac", "sgd"]
    for text in ("", " , ", "sgd,lion"):
        with pytest.raises(InputError, match="--optimisers"):
            as_methods(text)


def test_trials_use_the_same_random_numbers_for_every_method() -> None:
    for k in range(1, 6):
        shares = []
        for name in ("sgd", "prong", "adam"):
            space = METHODS[name].space["rate"]
            rate = drawn(METHODS[name], k)["rate"]
            assert isinstance(space, Range)
            assert space.low <= rate <= space.high
            shares.append(math.log(rate / space.low) / math.log(space.high / space.low))
        assert shares == pytest.approx([shares[0]] * 3, abs=1e-12)


def test_draws_are_log_uniform_and_choices_equally_likely() -> None:
    space, batches = METHODS["sgd"].space["rate"], METHODS["sgd"].space["batch"]
    assert isinstance(space, Range)
    assert isinstance(batches, Choice)
    trials = [drawn(METHODS["sgd"], k) for k in range(1, 2001)]
    shares = np.sort([math.log(t["rate"] / space.low) / math.log(space.high / space.low) for t in trials])
    # Kolmogorov and Smirnov: the largest distance of 2,000 uniform numbers exceeds 1.95/√2000 once in 1,000.
    distance = np.abs(shares - (np.arange(2000) + 0.5) / 2000).max()
    assert distance < 1.95 / math.sqrt(2000)
    counts = np.array([sum(t["batch"] == value for t in trials) for value in batches.values])
    expected = 2000 / len(batches.values)
    # χ² of 3 degrees of freedom exceeds 16.3 once in 1,000.
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_fixed_settings_are_not_searched_and_trial_0_is_the_default() -> None:
    assert {drawn(METHODS["sgd"], k, {"rate": 0.5})["rate"] for k in range(5)} == {0.5}
    assert drawn(METHODS["kfac"], 0) == dict(METHODS["kfac"].defaults)


def test_a_diverged_trial_is_the_worst_and_ties_go_to_the_first() -> None:
    lost = [Trial(0, {}, math.inf, "diverged"), Trial(1, {}, math.nan, "failed")]
    assert best([*lost, Trial(2, {}, 1e9, "finished")]).number == 2
    assert best([Trial(0, {}, 1.0, "finished"), Trial(1, {}, 1.0, "finished")]).number == 0


def test_trials_are_judged_by_training_rows_that_they_do_not_train_on() -> None:
    whole = load_problem("digits", "digits").split
    trial = load_problem("digits", "digits", validation=True).split
    rows = {row.tobytes() for row in whole.x}
    tested = {row.tobytes() for row in whole.x_test}
    judges = {row.tobytes() for row in trial.x_test}
    assert judges <= rows
    assert not judges & tested
    assert not judges & {row.tobytes() for row in trial.x}
    assert len(trial.x) + len(trial.x_test) == len(whole.x)
