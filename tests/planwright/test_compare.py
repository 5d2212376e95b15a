"""The one place that decides whether an answer is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planwright.compare import DEFAULTS, Alike, Tolerance, compare, indistinct, merge
from planwright.golden import Golden, Group, group_by_shape


def test_equal_answers_pass_and_nan_never_does() -> None:
    expected = np.array([[1.0, 2.0], [3.0, -4.0]], np.float32)
    assert compare("y", expected, expected, Tolerance()).passed
    broken = expected.copy()
    broken[1, 0] = np.nan
    check = compare("y", expected, broken, Tolerance())
    assert not check.passed
    assert "NaN" in check.reason


def test_swapped_rows_fail_at_every_precision() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    for precision, tolerance in DEFAULTS.items():
        assert not compare("y", rows, rows[::-1], tolerance).passed, precision


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, object])
def test_whole_numbers_and_text_must_be_equal(dtype: type) -> None:
    expected = (
        np.array([[1, 0], [1, 1]]).astype(dtype)
        if dtype is not object
        else np.array([[b"a", "b"], [b"c", b"d"]], object)
    )
    assert compare("y", expected, expected.copy(), Tolerance()).passed
    other = expected.copy()
    other[0, 0] = expected[0, 1]
    assert "equal elements 0.75" in compare("y", expected, other, Tolerance()).reason


def test_a_wrong_shape_is_named() -> None:
    check = compare("y", np.ones((2, 3)), np.ones((2, 4)), Tolerance())
    assert check.reason == "shape [2, 4], expected [2, 3]"


@given(st.floats(1e-6, 0.2), st.integers(2, 40))
def test_relative_error_is_what_it_says(error: float, size: int) -> None:
    expected = np.linspace(-1, 1, size)[None]
    actual = expected.copy()
    actual[0, 0] += error
    assert compare("y", expected, actual, Tolerance(cosine=None)).relative == pytest.approx(error)


def test_too_alike_samples_are_found_and_varied_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    varied = rng.normal(size=(16, 10)).astype(np.float32)
    alike = np.repeat(varied[:1], 16, axis=0) + rng.normal(size=(16, 10)).astype(np.float32) * 1e-5
    inputs = np.zeros((16, 1), np.float32)
    tolerances = {"y": DEFAULTS["fp32"]}
    assert indistinct(Golden((Group({"x": inputs}, {"y": varied}),)), tolerances) is None
    found = indistinct(Golden((Group({"x": inputs}, {"y": alike}),)), tolerances)
    assert found == Alike(distinct=0.0, equal=0.0, pair=(0, 1), fatal=True)


def test_any_output_may_tell_a_pair_apart() -> None:
    rng = np.random.default_rng(2)
    inputs, labels = {"x": np.zeros((16, 1), np.float32)}, rng.integers(0, 2, (16, 1))
    scores = rng.normal(size=(16, 2)).astype(np.float32)
    tolerances = {"label": DEFAULTS["fp32"], "scores": DEFAULTS["fp32"]}
    assert indistinct(Golden((Group(inputs, {"label": labels, "scores": scores}),)), tolerances) is None
    near = np.repeat(scores[:1], 16, axis=0) + rng.normal(size=(16, 2)).astype(np.float32) * 1e-5
    found = indistinct(Golden((Group(inputs, {"label": labels, "scores": near}),)), tolerances)
    assert found is not None
    assert found.fatal
    i, j = found.pair
    assert labels[i] == labels[j], "no output distinguishes the reported pair"


@pytest.mark.parametrize("dtype", [np.int64, np.float32, object])
def test_one_value_per_sample_is_told_apart(dtype: type) -> None:
    rows: list[Any] = ["a", "a", "b", "é"] if dtype is object else [0, 0, 1, 2]
    answers: dict[str, Any] = {"y": np.array(rows, dtype)}
    found = indistinct(Golden((Group({"x": np.zeros((4, 1))}, answers),)), {"y": DEFAULTS["fp32"]})
    assert found is not None
    assert (found.pair, found.fatal) == ((0, 1), False)
    assert found.equal == pytest.approx(1 / 6)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float32, object])
def test_equal_answers_are_no_danger_unless_all_are(dtype: type) -> None:
    """Labels and decision trees repeat: to swap equal answers is no mistake, but a constant proves nothing."""
    classes = np.array([0, 1] * 8).astype(bool)[:, None]
    answers = classes.astype(dtype) if dtype is not object else np.where(classes, "ja", "nein").astype(object)
    inputs = {"x": np.zeros((16, 1), np.float32)}
    tolerances = {"y": DEFAULTS["fp32"]}
    found = indistinct(Golden((Group(inputs, {"y": answers}),)), tolerances)
    assert found == Alike(distinct=64 / 120, equal=56 / 120, pair=(0, 2), fatal=False)
    constant = np.repeat(answers[:1], 16, axis=0)
    found = indistinct(Golden((Group(inputs, {"y": constant}),)), tolerances)
    assert found is not None
    assert found.fatal


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_equal_infinities_pass_and_hide_nothing(special: float) -> None:
    expected = np.array([[special, 1.0, 2.0]])
    assert compare("y", expected, expected.copy(), Tolerance()).passed
    beside = expected.copy()
    beside[0, 1] = 1.1
    assert compare("y", expected, beside, Tolerance()).relative == pytest.approx(0.05)
    for other in {np.nan, np.inf, -np.inf, 0.0} - {special}:
        wrong = expected.copy()
        wrong[0, 0] = other
        if not (np.isnan(other) and np.isnan(special)):
            assert not compare("y", expected, wrong, Tolerance()).passed


def test_golden_files_keep_shapes_types_and_text(tmp_path: Path) -> None:
    inputs = [{"x": np.arange(n, dtype=np.int32), "t": np.array(["ä", "b"], object)} for n in (3, 3, 5)]
    outputs = [{"y": np.array([n, n], np.float32)} for n in range(3)]
    Golden(group_by_shape(inputs, outputs), {"weights": "real"}).save(tmp_path / "g.npz")
    back = Golden.load(tmp_path / "g.npz")
    assert [len(group) for group in back.groups] == [2, 1]
    assert back.meta["weights"] == "real"
    assert back.groups[0].inputs["x"].dtype == np.int32
    assert back.groups[0].inputs["t"][0, 0] == "ä".encode()
    assert sorted(float(b.outputs["y"][0, 0]) for b in back.samples()) == [0.0, 1.0, 2.0]
    assert all(len(batch) == 4 for batch in back.batches(4))


def test_merging_keeps_the_worst() -> None:
    ones = np.ones((2, 3))
    good, bad = (compare("y", ones, ones * factor, Tolerance()) for factor in (1.0, 1.5))
    assert merge([good, bad]).relative == pytest.approx(0.5)
    assert not merge([good, bad]).passed
