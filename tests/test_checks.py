"""Does bad input give one clear error that names the argument, what was expected, what was found, and the remedy?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from linnat import _checks
from linnat._checks import (
    ConditionError,
    ConvergenceError,
    FlowBreakdownError,
    InputError,
    RankWarning,
    as_choice,
    as_count,
    as_covariance,
    as_dtype,
    as_float_array,
    as_layer,
    as_matrix,
    as_rng,
    as_rows,
    as_scalar,
    as_times,
    check_broadcast,
    freeze,
)

BAD_ARRAYS = [
    (np.array([1.0, np.nan]), ["finite numbers", "nan", r"index \(1,\)"]),
    (np.array([[1.0, 2.0], [-np.inf, 0.0]]), ["finite numbers", "-inf", r"index \(1, 0\)"]),
    (np.array([1 + 2j]), ["real numbers", "complex128"]),
    (np.array([1.0, None], dtype=object), ["real numbers", "object"]),
    (np.array([True, False]), ["real numbers", "bool"]),
    (np.array(["a"]), ["real numbers", "<U1"]),
    (np.array([1.0], dtype=np.float16), ["float64, float32", "float16"]),
    ([[1.0], [1.0, 2.0]], ["an array of real numbers", "inhomogeneous"]),
    (np.zeros((0, 3)), ["a non-empty array", r"shape \(0, 3\)"]),
    ([], ["a non-empty array", r"shape \(0,\)"]),
    (object(), ["real numbers", "object"]),
]


def message_of(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def expect(parts: list[str], function: Any, *arguments: Any, **keywords: Any) -> None:
    """Fail unless the call raises one InputError whose message has all parts."""
    with pytest.raises(InputError) as error:
        function(*arguments, **keywords)
    text = message_of(error)
    for part in parts:
        assert re.search(part, text), f"{part!r} is not in {text!r}"


@pytest.mark.parametrize(("value", "parts"), BAD_ARRAYS)
def test_bad_arrays_are_named(value: Any, parts: list[str]) -> None:
    expect(["^teacher: expected", "found", *parts], as_float_array, value, "teacher")


def test_longdouble_is_refused_rather_than_rounded() -> None:
    if np.dtype(np.longdouble) != np.dtype(np.float64):
        expect(["^x: expected real numbers"], as_float_array, np.ones(2, np.longdouble), "x")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_floats_keep_their_type(kind: Any) -> None:
    assert as_float_array(np.ones(2, kind), "x").dtype == kind


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64])
def test_integers_become_float64(kind: Any) -> None:
    assert as_float_array(np.ones(2, kind), "x").dtype == np.float64


def test_foreign_byte_order_is_converted() -> None:
    array = as_float_array(np.array([1.5, 2.5], dtype=">f8"), "x")
    assert array.dtype.isnative
    assert array.tolist() == [1.5, 2.5]


def test_dimensions_are_counted() -> None:
    expect(["^x: expected 2 dimension", r"found shape \(3,\)"], as_rows, np.ones(3), "x")
    expect(["^x: expected at least 2 dimension", r"found shape \(3,\)"], as_matrix, np.ones(3), "x")
    assert as_matrix(np.ones((4, 3, 2)), "x").shape == (4, 3, 2)


@pytest.mark.parametrize(
    "value", [-1.0, np.nan, np.inf, "1", None, True, [1.0], np.ones(1), 1j, np.array(1j)]
)
def test_scalars(value: Any) -> None:
    expect(["^damping: expected", "found"], as_scalar, value, "damping", low=0.0)


def test_scalars_at_the_ends() -> None:
    assert as_scalar(0, "a", low=0.0) == 0.0
    assert as_scalar(np.float32(0.5), "a", low=0.0, high=1.0) == 0.5
    assert as_scalar(np.array(2), "a") == 2.0
    expect([r"in \(0.0, inf\]", "found 0.0"], as_scalar, 0.0, "a", low=0.0, open_low=True)
    expect([r"in \[0.0, 1.0\]", "found 2.0"], as_scalar, 2, "a", low=0.0, high=1.0)


@pytest.mark.parametrize("value", [0, -3, 1.0, True, "2", None])
def test_counts(value: Any) -> None:
    expect(["^depth: expected an integer ≥ 1", "found"], as_count, value, "depth")
    assert as_count(np.int32(3), "depth") == 3


def test_layer_numbers_start_at_one() -> None:
    assert as_layer(1, "i", 3) == 1
    assert as_layer(3, "i", 3) == 3
    expect(["^i: expected an integer ≥ 1", "found 0"], as_layer, 0, "i", 3)
    expect(["^i: expected a layer number from 1 to 3", "found 4"], as_layer, 4, "i", 3)


def test_times() -> None:
    assert as_times(2).tolist() == [2.0]
    assert as_times(np.array([0, 1], np.float32)).dtype == np.float64
    expect(["^times: expected times ≥ 0", "found -0.5"], as_times, [1.0, -0.5])
    expect(["^times: expected finite numbers", "inf"], as_times, [1.0, np.inf])
    expect(["^times: expected a scalar or a one-dimensional array", r"shape \(1, 1\)"], as_times, [[1.0]])


@pytest.mark.parametrize("value", [None, -1, 1.5, True, "seed", np.random.RandomState(0)])
def test_randomness_is_explicit(value: Any) -> None:
    expect(["^rng: expected a numpy.random.Generator or a non-negative integer seed"], as_rng, value)


def test_seeds_and_generators() -> None:
    generator = np.random.default_rng(3)
    assert as_rng(generator) is generator
    assert as_rng(np.int64(3)).random() == np.random.default_rng(3).random()


def test_choices_and_types() -> None:
    assert as_choice("a", "gauge", ("a", "b")) == "a"
    expect(["^gauge: expected one of 'a', 'b'", "found 'c'"], as_choice, "c", "gauge", ("a", "b"))
    expect(["^gauge: expected one of 'a', 'b'", "found None"], as_choice, None, "gauge", ("a", "b"))
    assert as_dtype("float32") == np.float32
    expect(["^dtype: expected float32 or float64", "int64"], as_dtype, np.int64)
    expect(["^dtype: expected float32 or float64"], as_dtype, "no such type")


def test_covariances() -> None:
    good = np.array([[2.0, 1.0], [1.0, 2.0]])
    assert (as_covariance(good, "S", 2) == good).all()
    assert as_covariance(good.astype(np.float32), "S", 2).dtype == np.float64
    expect(
        ["^S: expected a symmetric matrix", "found .*0.5", r"\(C \+ C.T\) / 2"],
        as_covariance,
        [[1, 0.5], [0, 1]],
        "S",
        2,
    )
    expect(
        ["^S: expected a positive semi-definite", "eigenvalue -1"], as_covariance, [[1, 2], [2, 1]], "S", 2
    )
    expect([r"^S: expected shape \(…, 3, 3\)", r"found shape \(2, 2\)"], as_covariance, good, "S", 3)
    expect(
        ["^S: expected a positive definite", "smallest eigenvalue"],
        as_covariance,
        np.ones((2, 2)),
        "S",
        2,
        definite=True,
    )
    expect(["^S: expected a positive definite"], as_covariance, np.zeros((2, 2)), "S", 2, definite=True)
    expect(["^S: expected a positive semi-definite", "eigenvalue -1"], as_covariance, -np.eye(2), "S", 2)


def test_covariances_forgive_rounding_only() -> None:
    size = 5
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]
    for dtype in (np.float32, np.float64):
        slack = 8 * size * np.finfo(dtype).eps
        inside, outside = (np.diag([1.0, 1, 1, 1, -f * slack]) for f in (0.5, 4.0))
        rotate = [basis @ m @ basis.T for m in (inside, outside)]
        matrices = [(0.5 * (m + m.T)).astype(dtype) for m in rotate]
        as_covariance(matrices[0], "S", size)
        expect(["semi-definite"], as_covariance, matrices[1], "S", size)


def test_covariances_of_a_stack_are_all_looked_at() -> None:
    stack = np.stack([np.eye(2), np.diag([1.0, -0.25])])
    expect(["eigenvalue -0.25"], as_covariance, stack, "S", 2)
    small = np.stack([np.eye(2) * 1e10, np.array([[1.0, 0.5], [0.0, 1.0]])])
    expect(["symmetric"], as_covariance, small, "S", 2)


def test_broadcasting() -> None:
    assert check_broadcast([(3, 1), (4,)], "net") == (3, 4)
    expect(
        [r"^net: expected leading axes that broadcast", r"\(3,\) and \(4,\)"],
        check_broadcast,
        [(3,), (4,)],
        "net",
    )


def test_frozen_arrays_are_read_only_copies() -> None:
    array = np.ones(3)
    frozen = freeze(array)
    array[0] = 7
    assert frozen.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        frozen[0] = 2
    assert freeze(frozen) is frozen
    view = array[:2]
    view.flags.writeable = False
    kept = freeze(view)
    array[0] = 9
    assert kept[0] == 7


def test_errors_are_value_errors_and_carry_their_facts() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(ConditionError, InputError)
    assert issubclass(FlowBreakdownError, ConditionError)
    assert FlowBreakdownError("stops", 1.5).time == 1.5
    assert ConvergenceError("slow", estimate=3).estimate == 3
    assert issubclass(ConvergenceError, RuntimeError)
    assert issubclass(RankWarning, UserWarning)


def test_a_remedy_ends_the_message() -> None:
    with pytest.raises(InputError) as error:
        _checks.fail("a", "b", "c", "Do d.")
    assert str(error.value) == "a: expected b, found c. Do d."


@pytest.mark.parametrize("size", [8, 20_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_any_size_are_finite_or_named(size: int, dtype: Any) -> None:
    array = np.full(size, 0.9 * np.finfo(dtype).max, dtype)
    assert as_float_array(array, "x") is array  # their sum is not finite, they are
    for wrong in (np.nan, np.inf, -np.inf):
        array[size - 2] = wrong
        expect(["^x: expected finite numbers", rf"index \({size - 2},\)"], as_float_array, array, "x")
    array[:] = 1.0
    array[5], array[7] = np.inf, -np.inf
    expect([r"inf at index \(5,\)"], as_float_array, array, "x")
