"""Profiles and the arrivals made from them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measure.workload import arrivals
from measure.workload.arrivals import Arrival, Share
from planwright.config.load_profile import Profile, parse
from planwright.errors import SpecError

SPIKE = "100:1m,800:5s,100:1m"


def test_levels_ramps_and_their_end() -> None:
    profile = parse("0-500:1m, 500:90, 10:0.5h")
    assert [profile.at(t_s) for t_s in (0, 30, 60, 149.9, 150)] == [0, 250, 500, 500, 10]
    assert profile.at(150 + 1800) is None
    assert profile.length_s == 1950


@pytest.mark.parametrize(("text", "steady"), [("500", True), ("5:1m,5:2m", True), (SPIKE, False), ("0-9:5s", False)])
def test_a_load_that_never_changes_is_steady(text: str, steady: bool) -> None:
    assert parse(text).steady is steady


@pytest.mark.parametrize("text", ["", "x", "5-x:3s", "0", "1-5", "5,6:3s", "5:0s", "-3:5s", "5::3", "nan:3s"])
def test_nonsense_is_reported(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse(text)


pieces = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 500), st.floats(0.5, 30)), min_size=1, max_size=4
).filter(lambda each: any(start or end for start, end, _ in each))


@given(pieces, st.floats(0.001, 0.999))
def test_the_moment_is_the_inverse_of_the_total(found: list[tuple[int, int, float]], share: float) -> None:
    profile = parse(",".join(f"{a}-{b}:{length:.3f}s" for a, b, length in found))
    everything = profile.total(profile.length_s)
    moment = profile.moment(everything * share)
    assert moment is not None
    assert profile.total(moment) == pytest.approx(everything * share, rel=1e-6, abs=1e-6)
    assert profile.moment(everything * 1.001 + 1e-6) is None


def test_constant_arrivals_are_shared_without_gaps_or_doubles() -> None:
    rate = parse("50:2s")
    alone = list(arrivals.constant(rate, ["a", "b"], Share()))
    parts = [list(arrivals.constant(rate, ["a", "b"], Share(number, 3))) for number in range(3)]
    assert sorted(itertools.chain(*parts)) == sorted(alone)
    assert [arrival.due_s for arrival in alone] == pytest.approx([number / 50 for number in range(100)])
    assert {arrival.model for arrival in alone} == {"a", "b"}


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    found = [arrival.due_s for arrival in arrivals.poisson(parse("200:100s"), ["a"], Share(), 1)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert len(found) == pytest.approx(20_000, rel=0.03)  # four standard deviations
    assert spread / mean == pytest.approx(1.0, abs=0.03), "an exponential's spread is its mean"


def test_shares_of_a_poisson_stream_add_up_and_differ() -> None:
    rate = parse("100:50s")
    parts = [list(arrivals.poisson(rate, ["a"], Share(number, 4), 1)) for number in range(4)]
    assert sum(map(len, parts)) == pytest.approx(5000, rel=0.06)
    assert len({part[0].due_s for part in parts}) == 4


def test_a_rising_rate_brings_more_and_more() -> None:
    found = [arrival.due_s for arrival in arrivals.poisson(parse("0-200:20s"), ["a"], Share(), 3)]
    assert sum(due_s < 10 for due_s in found) / len(found) == pytest.approx(0.25, abs=0.05)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    rate = parse("100:5s")
    first, second, other = (list(arrivals.poisson(rate, ["a"], Share(), seed)) for seed in (1, 1, 2))
    assert first == second != other


def test_a_trace_is_read_and_shared(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("# a comment\n0\n0.5,b\n\n0.75,a\n")
    found = arrivals.read_trace(tmp_path / "trace.csv", ["a", "b"])
    assert found == [Arrival(0.0, "a"), Arrival(0.5, "b"), Arrival(0.75, "a")]
    assert [*arrivals.trace(found, Share(0, 2)), *arrivals.trace(found, Share(1, 2))] == [
        found[0],
        found[2],
        found[1],
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n0.5\n", "0.5 s comes after 1 s"),
        ("1,c\n", "'1,c' is not seconds"),
        ("x\n-1\ninf\n", ":3"),
        ("# nothing\n", "the trace is empty"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_trace_is_told_by_its_lines(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "trace.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SpecError) as caught:
        arrivals.read_trace(path, ["a", "b"])
    assert words in " ".join(f"{fault.what} {fault.where} {fault.why}" for fault in caught.value.faults)


def test_a_profile_of_one_piece_is_a_profile() -> None:
    assert isinstance(parse("5"), Profile)
