"""What is kept of a run: merged without loss, bounded, and judged."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from typing import Any

import pytest

from measure.record.answer_checks import LIMIT, Checker
from measure.record.process_stats import LoadRecord
from measure.record.recorder import MOST_ERRORS, OTHER, Recorder, Track, up_to
from measure.record.timeline import MOST_ROWS, Series
from measure.report import verdict as run_verdict
from measure.report.schema import Lateness, RunReport, Second, Verdict
from planwright.decimals import exact, scaled
from tests._server import ROOT

M = ("m", "http")


def recorded(seed: int, count: int = 500) -> Recorder:
    recorder, chance = Recorder(), random.Random(seed)
    recorder.start(0)
    for number in range(count):
        recorder.sent(M)
        error = "it failed" if number % 50 == 49 else ""
        moment, latency_us = recorder.started + number / 100, chance.lognormvariate(7, 1)
        if error:
            recorder.failed(M, moment, latency_us, error)
        else:
            recorder.answered(M, moment, latency_us)
    return recorder


def test_parts_merge_to_the_whole() -> None:
    whole, merged = Recorder(), Recorder()
    whole.start(0)
    merged.start(0)
    for seed in range(3):
        part = recorded(seed)
        merged.merge(json.loads(json.dumps(part.drain())))
        again = recorded(seed)
        whole.merge(again.drain())
    track, other = merged.tracks["m", "http"], whole.tracks["m", "http"]
    assert track.requests == track.sent == 1500
    assert track.failures == 30
    assert track.latencies.get_total_count() == 1470 == track.in_window
    assert track.latencies.encode() == other.latencies.encode()
    assert track.series.as_rows() == other.series.as_rows()
    assert sum(row["answers"] for row in track.series.as_rows()) == 1470


def test_what_comes_after_the_load_is_no_throughput() -> None:
    recorder = recorded(0, 100)
    recorder.end()
    recorder.answered(M, recorder.started, 900.0)
    track = recorder.tracks["m", "http"]
    assert track.latencies.get_total_count() == track.in_window + 1


def test_throughput_counts_answers_by_the_moment_they_came() -> None:
    recorder = Recorder()
    recorder.start(5.0)
    recorder.end(recorder.started + 10.0)
    for began_s, took_s in ((4.5, 0.4), (4.5, 1.0), (6.0, 1.0), (9.5, 0.4), (9.5, 1.0), (10.5, 0.1)):
        recorder.answered(M, recorder.started + began_s, took_s * 1e6, samples=2)
    track = recorder.tracks["m", "http"]
    assert (track.in_window, track.samples) == (3, 6), (
        "one began in the warm-up and ended after it, two more lie inside"
    )
    assert track.latencies.get_total_count() == track.measured == 4, "those that began after the warm-up"
    assert recorder.slowest_s == pytest.approx(1.0)
    assert not recorder.over, "the load ends in ten seconds"


def test_a_request_that_is_cut_off_sooner_than_others_were_answered_is_not_missed() -> None:
    recorder = Recorder()
    recorder.start(0)
    for under_way_s in (0.5, 12.0, 20.0):
        recorder.sent(("slow", "http"))
        recorder.cut_off(("slow", "http"), under_way_s)
        recorder.answered(("slow", "http"), recorder.started, 15e6)
    recorder.sent(("fast", "http"))
    recorder.cut_off(("fast", "http"), 12.0)
    assert recorder.tracks["slow", "http"].cancels == 2, "20 s is longer than the slowest answer took"
    assert recorder.tracks["fast", "http"].cancels == 0


def test_the_warm_up_does_not_count() -> None:
    recorder = Recorder()
    recorder.start(5.0)
    recorder.answered(M, recorder.started + 4.9, 100.0)
    recorder.answered(M, recorder.started + 5.1, 100.0)
    assert (recorder.tracks["m", "http"].requests, recorder.tracks["m", "http"].measured) == (2, 1)


def test_latency_counts_from_the_moment_due_and_service_from_the_send() -> None:
    recorder = Recorder()
    recorder.start(0)
    recorder.answered(M, recorder.started, 900_000.0, service_us=2000.0)
    track = recorder.tracks["m", "http"]
    assert track.latencies.get_max_value() == pytest.approx(900_000, rel=1e-3)
    assert track.service.get_max_value() == pytest.approx(2000, rel=1e-3)
    assert (up_to(track.latencies, 1e5), up_to(track.service, 1e5)) == (0, 1)


def test_a_server_that_words_each_error_differently_does_not_fill_the_memory() -> None:
    track = Track()
    for number in range(500):
        track.note(f"error {number}")
    assert len(track.errors) == MOST_ERRORS + 1
    assert track.errors[OTHER] == 500 - MOST_ERRORS


def test_a_series_of_a_day_is_as_long_as_one_of_ten_minutes() -> None:
    series = Series()
    for second in range(0, 86_400, 7):
        series.answered(second, 1234.0)
    rows = series.as_rows()
    assert len(rows) <= MOST_ROWS
    assert sum(row["answers"] for row in rows) == len(range(0, 86_400, 7))
    assert rows[-1]["t_s"] + rows[-1]["width_s"] >= 86_393


def test_series_of_different_width_merge() -> None:
    long, short = Series(), Series()
    for second in range(2000):
        long.answered(second, 1000.0)
    short.answered(3, 5000.0)
    short.failed(1999)
    long.add(short)
    rows = long.as_rows()
    assert sum(row["answers"] for row in rows) == 2001
    assert rows[-1]["failures"] == 1
    assert rows[0]["p99_us"] == 1000.0 or rows[0]["p99_us"] == 5000.0


def test_checking_stays_within_its_budget() -> None:
    checker = Checker(None)
    for _ in range(400):
        if checker.wants(first=False):
            checker.run(lambda: _busy(0.002))
        _busy(0.002)
    cost = checker.drain()
    share, low, high = cost.share()
    assert cost.count >= 5
    assert low <= share <= high
    assert cost.total_s <= 0.05 * cost.client_s, "twenty checks in a hundred requests would be ten percent"


def test_a_share_that_is_given_is_kept() -> None:
    checker = Checker(1.0)
    assert all(checker.wants(first=False) for _ in range(50))
    assert not any(Checker(0.0).wants(first=False) for _ in range(50))


def _busy(seconds: float) -> None:
    import time

    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def report(**changes: Any) -> dict[str, Any]:
    """A healthy run's report, changed."""
    series = [
        {"t_s": t, "width_s": 1, "answers": 500, "failures": 0, "p50_us": 2000.0, "p99_us": 5000.0} for t in range(20)
    ]
    row: dict[str, Any] = {
        "model": "m", "protocol": "http", "requests": 10_000, "failures": 0, "wrong": 0, "checked": 50, "unanswered": 0, "cancelled": 0,
        "measured": 9500, "slo": {"p99_ms": 10.0}, "latency_us": {"p50": 2000.0, "p99": 5000.0}, "service_us": {"p50": 1900.0}, "series": series,
    }  # fmt: skip
    load: dict[str, Any] = {
        "arrivals": "constant", "asked_per_s": 500.0, "offered_per_s": 500.0, "due": 10_000, "waited": 0, "unsent": 0,
        "late_us": {"p50": 100.0, "p99": 400.0, "max": 900.0},
    }  # fmt: skip
    server: dict[str, Any] = {"m": {"requests": 10_000, "busy_share": 0.5}}
    client: dict[str, Any] = {
        "cpu_share": 0.4,
        "processes": 2,
        "checking": {"count": 90, "share": 0.01, "low": 0.009, "high": 0.011},
    }
    found: dict[str, Any] = {
        "warmup_s": 1,
        "window_s": 19,
        "load": load,
        "models": [row],
        "server": server,
        "client": client,
    }
    for path, value in changes.items():
        owner, _, key = path.rpartition("__")
        place: dict[str, Any] = {"row": row, "load": load, "server": server["m"], "client": client}[owner]
        place[key] = value
    return found


LATENCIES = dict.fromkeys(("p50", "p90", "p95", "p99", "mean"), 0.0)


def typed(value: dict[str, Any]) -> RunReport:
    """Return the report with what the verdict does not look at filled in, and its windows compared."""
    end_s = value["warmup_s"] + value["window_s"]
    rows = [
        {**row, **{name: {**LATENCIES, **row[name]} for name in ("latency_us", "service_us")}, "throughput_per_s": 0, "histogram": [],
         "stability": run_verdict.stability([Second(**each) for each in row["series"]], value["warmup_s"], end_s)}
        for row in value["models"]
    ]  # fmt: skip
    return RunReport.model_validate(
        {"environment": {"server": {}, "versions": {}}, "duration_s": end_s, **value, "models": rows}
    )


def judge(value: dict[str, Any], *, steady: bool = True) -> Verdict:
    return run_verdict.verdict(typed(value), stopped_by="", lost_server=False, steady=steady)


def judged(**changes: Any) -> tuple[str, str]:
    verdict = judge(report(**changes))
    return verdict.status, " | ".join(verdict.reasons)


@pytest.mark.parametrize("limit_ms", [1e6, 5e-5, 1234567.25, 20])
def test_an_slo_that_is_missed_by_the_smallest_step_fails(limit_ms: float) -> None:
    over_us = scaled(math.nextafter(limit_ms, math.inf), "1000")
    status, reasons = judged(row__slo={"p99_ms": limit_ms}, row__latency_us={"p99": math.nextafter(over_us, math.inf)})
    assert status == "fail"
    assert f"the SLO is {exact(limit_ms)} ms" in reasons


def test_a_healthy_run_passes() -> None:
    assert judged() == ("pass", "")


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"row__wrong": 1, "row__failures": 1}, "fail", "1 of 50 checked answers are wrong"),
        ({"row__failures": 3}, "fail", "3 of 10000 requests failed"),
        ({"row__unanswered": 2}, "fail", "2 requests were never answered"),
        ({"row__latency_us": {"p50": 1.0, "p99": 11_000.0}}, "fail", "p99 is 11.00 ms, the SLO is 10 ms"),
        ({"load__unsent": 40}, "fail", "never sent"),
        ({"client__cpu_share": 0.97}, "inconclusive", run_verdict.LOUD),
        ({"load__late_us": {"p50": 3000.0}}, "inconclusive", "more than 3.0 ms late"),
        ({"server__requests": 10_400}, "inconclusive", "is another client sending requests?"),
        ({"server__requests": 9_900}, "inconclusive", "the server counted 9900"),
        ({"load__offered_per_s": 495.0}, "inconclusive", "495.0 requests per second were offered"),
        (
            {"client__checking": {"count": 90, "share": 0.019, "low": 0.01, "high": LIMIT + 0.01}},
            "inconclusive",
            "checking answers cost",
        ),
        (
            {"client__checking": {"automatic": True, "count": 5, "share": 0.1, "low": 0.05, "high": 0.15}},
            "inconclusive",
            "checking 5 answers took up to 6.0% of a core",
        ),
        ({"row__measured": 60}, "inconclusive", "too few for a 99th percentile"),
    ],
)
def test_what_is_bad_or_doubtful_is_reported(changes: dict[str, Any], status: str, words: str) -> None:
    found, reasons = judged(**changes)
    assert found == status
    assert words in reasons


@pytest.mark.parametrize(
    "changes",
    [
        {
            "load__asked_per_s": 20.0,
            "load__offered_per_s": 20.2,
            "load__due": 92,
        },  # one request more, at the edge of 4.6 s
        # some first answers, in a client that has little else to do
        {"client__checking": {"automatic": True, "count": 10, "share": 0.03, "low": 0.02, "high": 0.04}},
    ],
)
def test_what_lies_at_the_edge_of_a_run_is_not_inconclusive(changes: dict[str, Any]) -> None:
    assert judged(**changes) == ("pass", "")


def test_the_server_may_have_counted_what_failed_for_the_client() -> None:
    """A request that timed out may have been answered later: it fails the run, and says nothing of other clients."""
    status, reasons = judged(row__failures=7)
    assert status == "fail"
    assert "another client" not in reasons
    assert "another client" in judged(row__failures=7, server__requests=10_001)[1]


def test_a_busy_client_is_not_the_limit_where_the_server_is_busier() -> None:
    assert judged(client__cpu_share=0.97, server__busy_share=0.95) == ("pass", "")


def test_a_poisson_rate_is_judged_by_its_chance() -> None:
    off = {"load__offered_per_s": 495.0, "load__arrivals": "poisson"}
    assert judged(**off) == ("pass", "")
    assert judged(**off, load__due=1_000_000)[0] == "inconclusive"


def test_windows_that_differ_are_not_stable() -> None:
    series = report()["models"][0]["series"]
    for row in series[12:]:
        row["answers"] = 400
    status, reasons = judged(row__series=series)
    assert status == "inconclusive"
    assert "the last 3 windows differ" in reasons
    assert "answers/s" in reasons
    assert "p50" not in reasons, "only what differs"
    assert run_verdict.stability([Second(**row) for row in series[:8]], 1) is None, (
        "windows of less than three seconds say nothing"
    )


def test_answers_that_come_after_the_load_are_in_no_window() -> None:
    series = report()["models"][0]["series"]
    for row in series[14:]:
        row["answers"] = 40  # a slow server works off what was under way
    assert judged(row__series=series)[0] == "inconclusive"
    assert judge({**report(row__series=series), "window_s": 13}) == Verdict(status="pass")


def test_windows_whose_latency_differs_say_which() -> None:
    series = report()["models"][0]["series"]
    for row in series[14:]:
        row["p50_us"] = 2600.0
    status, reasons = judged(row__series=series)
    assert status == "inconclusive"
    assert "p50 2.00, 2.00, 2.60 ms" in reasons
    assert "answers/s" not in reasons


def test_a_load_that_changes_on_purpose_need_not_be_stable() -> None:
    series = report()["models"][0]["series"]
    for row in series[12:]:
        row["answers"] = 100
    assert judge(report(row__series=series), steady=False).status == "pass"


def test_records_of_several_processes_add_up() -> None:
    one, whole = (
        LoadRecord(due=10, waited=2, unsent=1, offered_per_s=5.0, cpu_s=1.5, busiest=0.3, processes=1),
        LoadRecord(),
    )
    one.late.record_value(500)
    for _ in range(3):
        whole.add(json.loads(json.dumps(one.encode())))
    assert (whole.due, whole.waited, whole.unsent, whole.offered_per_s) == (30, 6, 3, 15.0)
    assert (whole.cpu_s, whole.busiest, whole.processes) == (4.5, 0.3, 3)
    assert Lateness.of(whole.late).p50 == pytest.approx(500, rel=1e-2)


def test_locusts_own_seconds_do_not_pile_up() -> None:
    script = (
        "import locust.stats, measure.load.run as prune\n"
        "stats = locust.stats.RequestStats()\n"
        "for second in range(1000):\n"
        "    for entry in (stats.total, stats.get('digits', 'http')):\n"
        "        entry.num_reqs_per_sec[second] += 3\n"
        "        entry.num_requests += 3\n"
        "prune.prune(stats)\n"
        "print(len(stats.total.num_reqs_per_sec), len(stats.get('digits', 'http').num_reqs_per_sec), stats.total.num_requests)\n"
    )  # in a process of its own: locust patches the standard library
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["61", "61", "3000"], done.stderr
