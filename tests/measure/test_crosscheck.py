"""The referee: MLPerf LoadGen drives the same requests, and its summary is parsed correctly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from measure.crosscheck.loadgen import read_summary
from planwright.server_info import ServerInfo
from tests._project import ROOT

SUMMARY = """\
Completed samples per second    : 499.17

Min latency (ns)                : 1042311
Max latency (ns)                : 98812340
Mean latency (ns)               : 2041200
50.00 percentile latency (ns)   : 1823000
99.00 percentile latency (ns)   : 8120000
99.90 percentile latency (ns)   : 61000000
"""


def referee(server: ServerInfo, scratch: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    server.write(scratch / "server.json")
    command = [sys.executable, "-m", "loadtest", "referee", *flags, "--server-file", str(scratch / "server.json")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_loadgens_summary_is_read() -> None:
    found = read_summary(SUMMARY)
    assert found["rate_per_s"] == 499.17
    assert found["latency_us"] == {"p50": 1823.0, "p99": 8120.0, "p99.9": 61000.0}
    assert (found["min_us"], found["max_us"]) == (1042.311, 98812.34)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_both_drive_the_same_load(served: ServerInfo, tmp_path: Path, protocol: str) -> None:
    load = ("--rate", "40", "--duration-s", "3", "--connections", "8", "--protocol", protocol)
    done = referee(served, tmp_path, "digits", *load, "--json")
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)["rows"]
    for row in (ours, theirs):
        assert row["failures"] == 0
        assert 60 < row["requests"] < 200, "40 a second for three seconds, by chance"
        assert 0 < row["latency_us"]["p50"] <= row["latency_us"]["p99"]


def test_bad_input_is_reported(served: ServerInfo, tmp_path: Path) -> None:
    done = referee(served, tmp_path, "digitz")
    assert done.returncode == 2, done.stderr
    assert "did you mean 'digits'?" in done.stderr
    (tmp_path / "none").mkdir()
    command = [
        sys.executable,
        "-m",
        "loadtest",
        "referee",
        "digits",
        "--server-file",
        str(tmp_path / "none/server.json"),
    ]
    gone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert gone.returncode == 3, gone.stderr
    assert "python -m serving" in gone.stderr
