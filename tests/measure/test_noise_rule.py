"""One rule of noise for sweep, tune and compare, and verdicts in which no sentence contradicts another."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import pytest

from measure import statistics, sweep
from measure.compare import metrics
from measure.compare.noise import Interval
from measure.operating_point.measurement import Load, Measurement
from measure.operating_point.setting import ServingSetting
from measure.operating_point.usage import Usage
from measure.tune import command
from measure.tune import report as tune_report
from measure.tune.report import TuneOutcome
from measure.tune.search import NEW, BudgetSpentError, Candidate, Reading, Search, Space, Trial
from measure.tune.slo import Slo

QUIET, WILD = (100.0, 101.0, 99.0, 100.0), (40.0, 190.0, 60.0, 170.0)
SLO = Slo("p99", 20_000.0)
DEFAULT, PUBLISHED, OTHER = ServingSetting(1, 8, None), ServingSetting(1, 8, 500), ServingSetting(2, 8, 500)


@pytest.mark.parametrize(
    ("change", "low", "high", "word"),
    [
        (0.54, -1.0, 2.08, "cannot say"),
        (0.0, -0.3, 0.3, "cannot say"),
        (0.1, -0.05, 0.26, "cannot say"),
        (0.0, -0.2, 0.2, "no gain"),
        (0.005, 0.001, 0.009, "no gain"),
        (0.3, 0.01, 0.6, "gain"),
        (-0.3, -0.6, -0.01, "loss"),
        (0.3, None, 0.6, "cannot say"),
        (0.3, 0.1, None, "gain"),
    ],
)
def test_the_rule(change: float, low: float | None, high: float | None, word: str) -> None:
    assert statistics.judge(change, low, high) == word


def test_compare_and_sweep_judge_alike() -> None:
    dice, more, less = random.Random(3), dict(_pairs(True)), dict(_pairs(False))
    for _ in range(500):
        low = dice.uniform(-0.5, 0.4)
        high = low + dice.uniform(0, 0.5)
        change = dice.uniform(low, high)
        word = statistics.judge(change, low, high)
        assert metrics.judge(change, Interval(low, high), more_is_better=True)[0] == more[word]
        assert metrics.judge(change, Interval(low, high), more_is_better=False)[0] == less[word]


def _pairs(more_is_better: bool) -> Any:
    better = ("better", "worse") if more_is_better else ("worse", "better")
    return zip(("gain", "loss", "no gain", "cannot say"), (*better, "no change", "cannot say"), strict=True)


def swept(*rates: tuple[float, ...]) -> dict[str, Any]:
    """The verdict of a sweep whose points had these rates; the first is the base."""
    points = []
    for number, values in enumerate(rates):
        base = rates[0]
        points.append({
            "label": f"p{number}", "refused": "", "failures": 0, "wrong": 0, "errors": [], "client_limited": 0,
            "comparison": statistics.compare(base, values) if number else "", "word": statistics.verdict(base, values) if number else "",
        })  # fmt: skip
    return sweep._verdict(points, points[0], "")


def test_a_sweep_that_could_hide_a_gain_does_not_say_that_there_is_none() -> None:
    verdict = swept(QUIET, WILD)
    assert verdict["status"] == "inconclusive"
    assert "cannot say how p1 compare" in verdict["reasons"][0]
    assert not any("no gain" in reason for reason in verdict["reasons"])
    assert swept(QUIET, tuple(value + 1 for value in QUIET))["status"] == "pass"
    assert "no gain" in swept(QUIET, tuple(value + 1 for value in QUIET))["reasons"][0]
    assert swept(QUIET, tuple(value * 1.5 for value in QUIET), WILD)["status"] == "inconclusive"
    assert swept((100.0,), (130.0,))["status"] == "inconclusive", "one repeat compares nothing"


def reading(rate: float, p99_ms: float) -> Reading:
    latency_us = dict.fromkeys(("p50", "p90", "p95", "p99", "p99.9", "mean", "min", "max"), p99_ms * 1000)
    usage = Usage(None, None, None, None, ())
    detail = Measurement(rate, latency_us, 1000, 0, 0, (), 1.0, ((1, 1000),), 0.3, False, None, usage)
    return Reading(rate, p99_ms * 1000, True, 1, detail)


def tuned(**finals: tuple[tuple[float, float], ...]) -> tuple[dict[str, Any], TuneOutcome]:
    """The report of a tune that picked `other`, of (rate, p99 in ms) when measured again."""
    candidates = {"default": Candidate(DEFAULT, 8), "published": Candidate(PUBLISHED, 8), "other": Candidate(OTHER, 8)}
    search = Search(Space((None, 500), (8,), (1, 2), (8,)), SLO.limit_us, lambda _: None, lambda _: None)
    for name, candidate in candidates.items():
        first = reading(150.0 if name == "other" else 100.0, 12.0)
        search.trials[candidate] = Trial(candidate, [first, first])
    outcome = TuneOutcome(
        search, DEFAULT, PUBLISHED, pick=candidates["other"], load=Load(8, "grpc", 1, 3.0, 1.0), took_s=60.0
    )
    outcome.finals = {candidates[name]: [reading(*each) for each in found] for name, found in finals.items()}
    outcome.pick = command._confirmed(search, outcome)
    command._set_results(search, outcome)
    args = argparse.Namespace(points=12, minutes=5.0, repeats=3)
    return tune_report.make(args, SLO, outcome, {}), outcome


STEADY = ((100.0, 12.0), (101.0, 12.2), (99.0, 11.9))
FASTER = ((150.0, 12.0), (151.0, 12.2), (149.0, 11.9))
MISSES = ((150.0, 27.9), (151.0, 28.2), (149.0, 27.6))


def test_a_pick_that_misses_the_slo_is_rejected() -> None:
    report, outcome = tuned(other=MISSES, default=MISSES, published=MISSES)
    said = " | ".join(report["verdict"]["reasons"])
    assert report["verdict"]["status"] == "fail"
    assert outcome.pick is None
    assert report["pick"] is None
    assert "no setting met p99 < 20 ms" in said
    assert "p99 27.90" in said
    assert "best within" not in said
    assert "cannot be met" not in said, "in the search some met it"
    assert not any("the pick" in row["fate"] for row in report["points"])
    assert all("missed the SLO when it was measured again" in row["fate"] for row in report["points"])


def test_the_pick_is_one_that_met_the_slo_when_measured_again() -> None:
    report, outcome = tuned(other=MISSES, default=STEADY, published=tuple((rate * 1.3, ms) for rate, ms in STEADY))
    assert outcome.pick == Candidate(PUBLISHED, 8)
    assert report["verdict"]["status"] == "pass"
    assert report["verdict"]["reasons"][0].startswith("best within p99 < 20 ms: 1 inst · max 8 · delay 500 µs")
    assert report["against"]["default"]["verdict"] == "gain"
    assert report["against"]["published"]["same"]


def test_a_clear_gain_is_reported_and_an_unclear_one_is_not_denied() -> None:
    sure, _ = tuned(other=FASTER, default=STEADY, published=STEADY)
    assert sure["verdict"]["status"] == "pass"
    wild, _ = tuned(other=((40.0, 12.0), (260.0, 12.2), (150.0, 11.9)), default=STEADY, published=STEADY)
    said = " | ".join(wild["verdict"]["reasons"])
    assert wild["verdict"]["status"] == "inconclusive"
    assert "cannot say whether the pick is faster than Triton's default settings" in said
    assert "no gain" not in said
    same, _ = tuned(other=STEADY, default=STEADY, published=STEADY)
    assert "no gain: Triton's default settings" in same["verdict"]["reasons"][0]
    assert wild["verdict"]["reasons"][0].startswith("highest measured within"), "the best is what cannot be said"
    results = {row["number"]: row["fate"] for row in wild["points"]}
    assert "clearly" not in " ".join(results.values())
    for number, role in ((1, "default"), (2, "published")):
        assert results[number].endswith(wild["against"][role]["words"]), "one comparison, one sentence"


def test_a_setting_that_is_clearly_faster_when_measured_again_is_the_pick() -> None:
    report, outcome = tuned(other=STEADY, default=STEADY, published=FASTER)
    assert outcome.pick == Candidate(PUBLISHED, 8)
    assert report["verdict"]["reasons"][0].startswith("best within p99 < 20 ms: 1 inst · max 8 · delay 500 µs")


def spent(points: int, tried: int, best: bool, left_s: float, kind: str = NEW) -> str:
    """Why a tune of one minute may try no further point."""
    load = Load(8, "grpc", 1, 3.0, 1.0)
    server: Any = None
    args = argparse.Namespace(points=points, minutes=1.0, repeats=3)
    tuner = command.Tuner(args, server, SLO, load, Path(), compared=3)
    tuner.took_s, tuner.began_s = [6.0], tuner.began_s - (60 - left_s)
    tuner.search = Search(Space((None,), (8,), (1,), (8,)), SLO.limit_us, lambda _: None, lambda _: None)
    for users in range(1, tried + 1):
        candidate = Candidate(DEFAULT, users)
        tuner.search.trials[candidate] = Trial(candidate, [reading(100.0, 12.0 if best else 30.0)])
    try:
        tuner.check_budget(kind)
    except BudgetSpentError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("points", "tried", "best", "left_s", "words"),
    [
        (3, 2, False, 47, ""),
        (3, 3, False, 47, "all 3 points allowed were used"),
        (3, 2, True, 47, "2 of the 3 points allowed are reserved for the comparison"),
        (12, 3, True, 47, "the rest of the 1 min is reserved for the final comparison"),
        (12, 3, False, 40, "the rest of the 1 min is too short for another point and its comparison"),
        (12, 3, True, 80, ""),
    ],
)
def test_what_stopped_a_tune_is_reported(points: int, tried: int, best: bool, left_s: float, words: str) -> None:
    assert spent(points, tried, best, left_s) == words


def test_a_tune_that_tried_only_8_in_flight_reports_that() -> None:
    search = Search(Space((None, 500), (1, 8), (1,), (8,)), SLO.limit_us, lambda _: None, lambda _: None)
    for setting in (DEFAULT, PUBLISHED):
        search.trials[Candidate(setting, 8)] = Trial(Candidate(setting, 8), [reading(100.0, 90.0)])
    said = tune_report._missed([], search, SLO)
    assert said.startswith("none of the 2 points tried met p99 < 20 ms: the best p99 was 90.00 ms")
    assert said.endswith("all had 8 in flight")
    slow, noisy = reading(100.0, 80.0), reading(100.0, 80.0)
    noisy.detail.latency_us["min"] = 900.0
    for found, words in (
        (noisy, "none of the 3 points tried met"),
        (slow, "the SLO cannot be met: the best p99 was 80.00 ms"),
    ):
        search.trials[Candidate(DEFAULT, 1)] = Trial(Candidate(DEFAULT, 1), [found])
        assert tune_report._missed([], search, SLO).startswith(words)


def test_an_slo_within_the_noise_is_not_reported_as_met() -> None:
    report, _ = tuned(other=((150.0, 15.0), (151.0, 22.0), (149.0, 18.0)), default=STEADY, published=STEADY)
    assert report["verdict"]["status"] == "inconclusive"
    assert any("cannot say whether it always meets p99 < 20 ms" in reason for reason in report["verdict"]["reasons"])
