"""python -m loadtest sweep, and the statistics behind its verdict."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from loadtest import _stats
from loadtest._recorder import Recorder
from tests._project import ROOT, Project


def sweep(*flags: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "sweep", *flags], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_sweep_measures_each_number_of_instances_and_leaves_the_repository_alone(
    built: Project, tmp_path: Path
) -> None:
    before = built.state()
    done = sweep(
        "digits", "--instances", "1,2", "--duration-s", "1", "--warmup-s", "1", "--repeats", "2", "--users", "4",
        "--repository", str(built.repository), "--runs", str(tmp_path / "runs"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, json.loads((ROOT / "loadtest/report.schema.json").read_text()))
    assert [point["instances"] for point in report["points"]] == [1, 2]
    assert all(len(point["throughput_per_s"]["values"]) == 2 for point in report["points"])
    assert all(point["throughput_per_s"]["mean"] > 0 for point in report["points"])
    assert "<svg" in Path(report["report"]).read_text()
    assert built.state() == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["digits", "--instances", "0,1"], "numbers of instances are 1 to 64"),
        (["digitz"], "did you mean 'digits'?"),
        ([], "the following arguments are required"),
    ],
)
def test_bad_usage_is_told(built: Project, flags: list[str], words: str) -> None:
    done = sweep(*flags, *(["--repository", str(built.repository)] if flags else []))
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("probability", "freedom", "value"), [(0.95, 1, 12.706), (0.95, 4, 2.776), (0.99, 2, 9.925), (0.99, 30, 2.750)]
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, value: float) -> None:
    assert _stats.t_quantile(probability, freedom) == pytest.approx(value, abs=2e-3)


def test_a_setting_seldom_gains_on_itself_and_a_real_gain_is_seen() -> None:
    dice = random.Random(5)
    same = [
        _stats.compare([dice.gauss(100, 5) for _ in range(4)], [dice.gauss(100, 5) for _ in range(4)])
        for _ in range(300)
    ]
    assert sum(not verdict.startswith("no gain") for verdict in same) <= 9, "99% confidence: about 3 of 300"
    assert _stats.compare([100.0, 101, 99, 100], [130.0, 131, 129, 132]).startswith("gain +30%")
    assert _stats.compare([100.0, 101, 99, 100], [70.0, 71, 69, 72]).startswith("loss")


def test_tracks_of_two_processes_add_up() -> None:
    one, two, both = Recorder(), Recorder(), Recorder()
    for recorder in (one, two, both):
        recorder.start(0)
    for value in (100.0, 2000.0, 35.0):
        one.record("m", "http", one.started_s, value)
        two.record("m", "http", two.started_s, value * 3, error="lost" if value == 35.0 else "")
    both.merge(one.drain())
    both.merge(two.drain())
    track = both.tracks["m", "http"]
    assert (track.requests, track.failures, track.latencies.get_total_count()) == (6, 1, 5)
    assert track.latencies.get_max_value() >= 6000
    assert not one.tracks
