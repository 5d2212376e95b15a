"""python -m loadtest compare and baseline: what they call noise, what they call worse, and what they refuse."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from measure.compare import metrics, noise
from measure.report import records
from measure.report.schema import Second
from planwright.errors import SpecError
from planwright.server_info import ServerInfo
from tests._project import ROOT
from tests.measure import _browser
from tests.measure._made_runs import record, report, saved
from tests.measure.conftest import LoadRun, locust

SPEEDS = ("throughput", "p50", "p90", "p95", "p99")
SLOWER = {"median_us": 36_000}


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def words(comparison: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["word"] for row in comparison["models"][0]["figures"]}


def compared(base: dict[str, Any], new: dict[str, Any], folder: Path) -> dict[str, Any]:
    return metrics.compare([record(base, folder)], [record(new, folder)])


def test_a_load_compared_with_itself_is_seldom_called_better_or_worse(tmp_path: Path) -> None:
    false = 0
    for seed in range(0, 400, 2):
        found = words(compared(report(seed), report(seed + 1), tmp_path))
        false += any(found[name] in ("better", "worse") for name in SPEEDS)
    assert false <= 4, "99% confidence"


def test_a_fifth_slower_is_found(tmp_path: Path) -> None:
    for seed in range(0, 10, 2):
        comparison = compared(report(seed, seconds=90), report(seed + 1, seconds=90, **SLOWER), tmp_path)
        found = words(comparison)
        assert (found["throughput"], found["p50"], found["p90"]) == ("worse",) * 3, comparison["models"][0]["figures"]
        assert comparison["verdict"]["status"] == "fail"


def test_a_fifth_faster_is_better_and_no_failure(tmp_path: Path) -> None:
    comparison = compared(report(0, seconds=90, **SLOWER), report(1, seconds=90), tmp_path)
    assert words(comparison)["throughput"] == words(comparison)["p50"] == "better"
    assert comparison["verdict"]["status"] != "fail"


def test_a_short_run_is_too_short_to_tell(tmp_path: Path) -> None:
    comparison = compared(report(0, seconds=10), report(1, seconds=10, **SLOWER), tmp_path)
    assert {words(comparison)[name] for name in SPEEDS} == {"cannot say"}
    assert comparison["verdict"]["status"] == "inconclusive"
    assert "too short to tell" in comparison["verdict"]["reasons"][0]


def test_several_runs_a_side_are_compared_by_their_own_scatter(tmp_path: Path) -> None:
    def side(first: int, **changes: Any) -> list[records.Record]:
        return [record(report(seed, seconds=8, **changes), tmp_path) for seed in range(first, first + 5)]

    slower = metrics.compare(side(0), side(10, **SLOWER))
    assert slower["noise"] == "between runs"
    assert words(slower)["throughput"] == words(slower)["p50"] == "worse"
    same = [words(metrics.compare(side(100 * at), side(100 * at + 10))) for at in range(5)]
    assert not any(found[name] in ("better", "worse") for found in same for name in SPEEDS)


def test_one_run_is_compared_with_a_baseline_of_several() -> None:
    assert noise.change([100.0], [100.0], 0.99) is None
    near = noise.change([100.0, 101.0, 99.0, 100.5], [100.0], 0.99)
    far = noise.change([100.0, 101.0, 99.0, 100.5], [80.0], 0.99)
    assert near is not None
    assert far is not None
    assert near.low is not None
    assert near.high is not None
    assert near.low < 0 < near.high
    assert far.high is not None
    assert far.high < 0


@pytest.mark.parametrize(
    ("base", "new", "figure", "word"),
    [
        ({}, {"failures": 1}, "failures", "worse"),
        ({}, {"failures": 1, "wrong": 1}, "wrong answers", "worse"),
        ({}, {"unanswered": 2}, "failures", "worse"),
        ({"failures": 9}, {"failures": 9}, "failures", "no change"),
        ({"failures": 1}, {}, "failures", "no change"),
        ({"failures": 900}, {}, "failures", "better"),
        ({"failures": 9}, {"failures": 900}, "failures", "worse"),
        ({"checked": 0}, {}, "wrong answers", "cannot say"),
        ({"checked": 0}, {"failures": 1, "wrong": 1}, "wrong answers", "worse"),
    ],
)
def test_failures_and_wrong_answers(
    tmp_path: Path, base: dict[str, Any], new: dict[str, Any], figure: str, word: str
) -> None:
    comparison = compared(report(1, **base), report(2, **new), tmp_path)
    assert words(comparison)[figure] == word
    assert (comparison["verdict"]["status"] == "fail") == (word == "worse")


@pytest.mark.parametrize(
    ("limit_ms", "seconds", "new", "word"),
    [
        (90.0, 90, {"median_us": 45_000}, "worse"),
        (90.0, 8, {"median_us": 45_000}, "worse"),  # too short for an interval: the figure itself counts, as in the run's own verdict
        (200.0, 90, {"median_us": 45_000}, "no change"),
        (40.0, 90, {}, "no change"),
        (30.0, 90, {"median_us": 8_000}, "better"),
    ],
)  # fmt: skip
def test_an_slo_that_was_met_and_is_missed(
    tmp_path: Path, limit_ms: float, seconds: int, new: dict[str, Any], word: str
) -> None:
    slo = {"p99_ms": limit_ms}
    base = report(3, seconds=seconds, stalls=0, slo=slo)
    comparison = compared(base, report(4, seconds=seconds, stalls=0, slo=slo, **new), tmp_path)
    assert comparison["models"][0]["slo"]["word"] == word


def test_an_slo_within_the_noise_of_p99_is_undecided(tmp_path: Path) -> None:
    base, new = sorted((report(3, stalls=0), report(4, stalls=0)), key=p99_us)
    for value in (base, new):
        value["models"][0]["slo"] = {"p99_ms": (p99_us(base) + p99_us(new)) / 2000}
    slo = compared(base, new, tmp_path)["models"][0]["slo"]
    assert (slo["base"], slo["new"], slo["word"]) == ("met", "missed", "cannot say")


def p99_us(value: dict[str, Any]) -> float:
    return float(value["models"][0]["latency_us"]["p99"])


@pytest.mark.parametrize("number", [60, 700])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_enclosing_ranks_cover_as_often_as_stated(number: int, share: float) -> None:
    low, high = noise.enclosing(number, share)
    mass = [math.comb(number, rank) * share**rank * (1 - share) ** (number - rank) for rank in range(number + 1)]
    covered = sum(mass[0 if low is None else low : number + 1 if high is None else high])
    assert covered >= 0.99
    assert low is None or sum(mass[: low + 1]) > 0.005, "and not wider than they need"


def test_the_interval_of_a_share_is_wilsons() -> None:
    z2 = 2.5758293**2
    assert noise._wilson(0, 1000) == pytest.approx((0.0, 0.0, z2 / (1000 + z2)), abs=1e-8)
    assert noise._wilson(25, 25) == pytest.approx((1.0, 25 / (25 + z2), 1.0), abs=1e-8)
    half = (0.25 * z2 / (100 + z2)) ** 0.5
    assert noise._wilson(50, 100) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-8)
    assert noise._wilson(3, 2)[0] == 1.0


def test_the_enclosing_ranks_of_a_long_run() -> None:
    assert noise.enclosing(100, 0.5) == (37, 64), "as printed in the tables"
    low, high = noise.enclosing(10_000_000, 0.99)
    assert low is not None
    assert high is not None
    assert 9_890_000 < low < 9_900_000 < high < 9_910_000


def test_the_interval_of_throughput_accounts_for_correlated_seconds() -> None:
    dice = random.Random(7)

    def covers() -> bool:
        level, spans = dice.gauss(0, 10), []
        for second in range(60):
            level = 0.6 * level + 0.8 * dice.gauss(0, 10)
            spans.append(Second(t_s=second, answers=round(200 + level), p50_us=1000.0, p99_us=2000.0))
        mean = sum(span.answers for span in spans) / len(spans)
        found = noise.throughput(row_of(spans, mean))
        return found is not None and found.low is not None and found.high is not None and found.low < 200 < found.high

    assert sum(covers() for _ in range(300)) >= 0.96 * 300


def row_of(spans: list[Second], throughput_per_s: float) -> records.Row:
    return records.Row("m", "grpc", {}, None, 1, 0, 1, 0, throughput_per_s, 1.0, {}, [], spans, [])


def test_wider_rows_of_long_runs_are_read(tmp_path: Path) -> None:
    value = report(5, seconds=80)
    series = value["models"][0]["series"][:80]
    joined = [
        {**even, "t_s": 2 * at, "width_s": 2, "answers": even["answers"] + odd["answers"]}
        for at, (even, odd) in enumerate(zip(series[::2], series[1::2], strict=True))
    ]
    wide = json.loads(json.dumps(value))
    wide["models"][0]["series"] = joined
    found = [noise.throughput(record(v, tmp_path).rows["digits", "grpc"]) for v in (value, wide)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].low == pytest.approx(found[0].low, rel=0.1)


def test_what_differs_is_named_and_strict_refuses_it(tmp_path: Path) -> None:
    base, new = report(1), report(2, users=4, version="2", precision="int8")
    new["environment"] = {**new["environment"], "cpu": "another", "server": {"name": "made", "version": "2.60.0"}}
    new["load"] = {"arrivals": "poisson", "scenario": "spike", "rate": "100"}
    paths = [saved(value, tmp_path) for value in (base, new)]
    done = command("compare", *paths, "--json")
    named = {warning["what"] for warning in json.loads(done.stdout)["warnings"]}
    assert named == {
        "machine", "server version", "users", "arrivals", "scenario", "rate", "version of digits", "precision of digits",
    }  # fmt: skip
    assert "users: 8 in the base, 4 in the new" in done.stderr
    strict = command("compare", *paths, "--strict")
    assert strict.returncode == 2
    assert strict.stderr.count("the runs cannot be compared") == len(named)


def test_a_model_that_only_one_side_measured_is_named(tmp_path: Path) -> None:
    base = report(1)
    base["models"].append({**base["models"][0], "protocol": "http"})
    comparison = compared(base, report(2), tmp_path)
    assert [warning["what"] for warning in comparison["warnings"]] == ["measured digits over http"]
    assert len(comparison["models"]) == 1


def test_a_baseline_is_stored_and_compared_with(tmp_path: Path) -> None:
    runs = [saved(report(seed, seconds=8), tmp_path / "runs") for seed in range(4)]
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    assert command("baseline", runs[0], "--to", one).returncode == 0
    assert json.loads(one.read_text()) == json.loads((runs[0] / "report.json").read_text())
    done = command("baseline", *runs[:3], "--to", several, "--json")
    assert json.loads(done.stdout)["runs"] == [run.name for run in runs[:3]]
    first = command("compare", "--baseline", one, runs[3], "--json")
    second = command("compare", several, runs[3], "--json")
    assert [first.returncode, second.returncode] == [0, 0]
    assert json.loads(first.stdout)["noise"] == "within runs"
    assert len(json.loads(second.stdout)["base"]) == 3


def test_all_bad_input_is_reported_at_once(tmp_path: Path) -> None:
    good = saved(report(1), tmp_path)
    sweep, older, torn = tmp_path / "sweep.json", tmp_path / "older.json", tmp_path / "torn.json"
    sweep.write_text(json.dumps({**report(2), "kind": "sweep"}))
    older.write_text(json.dumps({**report(3), "schema": 0}))
    torn.write_text(json.dumps(report(4))[:500])
    done = command("compare", "--base", good, sweep, older, "--new", torn, tmp_path / "nowhere")
    assert done.returncode == 2
    for text in ("not that of a run", "schema version", "there is no report to read", "nowhere"):
        assert text in done.stderr
    assert done.stderr.count("error:") == 4


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["{good}"], "compare needs two sides"),
        ([], "compare needs two sides"),
        (["{good}", "{good}", "{good}"], "compare needs two sides"),
        (["{good}", "{other}"], "the runs have nothing in common"),
        (["--base", "{good}", "{good}", "--new", "{good}"], "twice on one side"),
        (["{good}", "{good}", "--html", "{good}/report.json/page.html"], "cannot write the file"),
    ],
)
def test_bad_usage_is_reported(tmp_path: Path, flags: list[str], text: str) -> None:
    good, other = saved(report(1), tmp_path), saved(report(2, model="minilm"), tmp_path)
    done = command("compare", *(flag.format(good=good, other=other) for flag in flags))
    assert done.returncode == 2, done.stdout
    assert text in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"models": [7]}, {"models": {"digits": 1}}, {"environment": 5}, {"duration_s": "long"}, {"verdict": None}, {"server": []},
    ],
)  # fmt: skip
def test_an_incomplete_report_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="the report is invalid"):
        record({**report(1, seconds=2), **change}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"requests": -1}, {"latency_us": {}}, {"histogram": [1]}, {"series": [{"t_s": 1}]}, {"throughput_per_s": math.inf}, {"slo": None},
    ],
)  # fmt: skip
def test_an_incomplete_row_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="the report is invalid"):
        record(report(1, seconds=2, **change), tmp_path)


def test_runs_without_any_answer_are_compared(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("p50", "p90", "p95", "p99", "mean"), 0.0)
    dead: dict[str, Any] = {
        "latency_us": nothing,
        "throughput_per_s": 0.0,
        "histogram": [],
        "percentiles": [],
        "series": [],
        "failures": 50,
        "checked": 0,
    }
    comparison = compared(report(1, slo={"p99_ms": 500.0}), report(2, **dead, slo={"p99_ms": 500.0}), tmp_path)
    assert words(comparison)["failures"] == "worse"
    assert words(comparison)["p99"] == "cannot say"
    assert comparison["models"][0]["slo"]["new"] == "missed"


def test_two_real_runs(run: LoadRun, served: ServerInfo, tmp_path: Path) -> None:
    again = locust(served, tmp_path, "-u", "4", "-r", "4", "-t", "6s", wait_s="0.02")
    assert run.folder is not None
    assert again.folder is not None
    page = tmp_path / "page.html"
    done = command("compare", run.folder, again.folder, "--json", "--html", page)
    comparison = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert not comparison["warnings"]
    assert [(pair["model"], pair["protocol"]) for pair in comparison["models"]] == [
        ("digits", "grpc"),
        ("digits", "http"),
    ]
    for pair in comparison["models"]:
        found = {row["name"]: row["word"] for row in pair["figures"]}
        assert (found["failures"], found["wrong answers"]) == ("no change", "no change")
        assert {found[name] for name in SPEEDS} == {"cannot say"}, "six seconds are too few"
    assert page.read_text().count("<svg") == 4


def test_the_page_escapes_names_and_loads_nothing(tmp_path: Path) -> None:
    value = report(1, model="<script>alert(1)</script>")
    page = tmp_path / "page.html"
    assert (
        command("compare", saved(value, tmp_path), saved({**value, "id": "b"}, tmp_path), "--html", page).returncode
        == 0
    )
    html = page.read_text()
    assert "<script" not in html
    assert not re.findall(
        r"""(?:src|href|url\()\s*=?\s*["']?(https?:[^"')\s]+)""", re.sub(r"<pre>.*?</pre>", "", html, flags=re.S)
    )
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


@pytest.mark.browser
@pytest.mark.skipif(_browser.CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_opens_offline(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command("compare", saved(report(1), tmp_path), saved(report(2, **SLOWER), tmp_path), "--html", page)
    assert "Comparison of two sides" in _browser.look(page, tmp_path).dom
