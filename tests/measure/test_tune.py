"""python -m loadtest tune on the real server: what it finds, what it says when it cannot, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from builders.repository import revisions
from measure.tune import slo
from planwright.config.load import load_spec
from planwright.errors import SpecError
from planwright.integrity import unsealed
from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests.measure._under_way import SCHEMA, interrupted, stopped
from tests.measure.test_sweep import places

SHORT = ("--duration-s", "1", "--warmup-s", "0.5", "--repeats", "2")


def tune(*flags: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "tune", *flags], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def check(report: dict[str, Any]) -> None:
    jsonschema.validate(report, SCHEMA)
    assert report["kind"] == "tune"
    assert report["points"][0]["setting"]["dynamic_batching"] is None, "Triton's defaults come first"
    assert [row["number"] for row in report["points"]] == list(range(1, len(report["points"]) + 1))
    assert all(row["fate"] for row in report["points"])


def test_a_tune_reports_what_it_tried_found_and_needs(built: Project, tmp_path: Path) -> None:
    before = built.state()
    done = tune("digits", "--slo", "p95 < 30 s", "--points", "4", "--minutes", "1", "--users", "4,8", *SHORT, *places(built, tmp_path), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    check(report)
    assert report["slo"] == {"percentile": "p95", "limit_us": 30e6, "text": "p95 < 30000 ms"}
    assert 2 <= len(report["points"]) <= 4
    assert [row["fate"] for row in report["points"]].count("the pick") == 1
    roles = [role for row in report["finals"] for role in row["roles"]]
    assert roles.count("pick") == 1
    assert {"default", "published"} <= set(roles)
    assert all(len(row["throughput_per_s"]["values"]) == 2 for row in report["finals"])
    assert report["took_s"] < 100, "a minute, and the last measurements"
    assert report["verdict"]["status"] in ("pass", "inconclusive")
    said = "\n".join(report["verdict"]["reasons"])
    assert re.search(r"over Triton's default settings \(.*\): (gain|no gain|loss|cannot say|the same|no verdict)", said)
    assert re.search(r"this SLO needs [\d.]+ server cores, [\d.]+ client cores, [\d.]+ GiB", said)
    assert re.search(r"tried \d points? in .*; stopped: ", said)
    page = Path(report["report"]).read_text()
    assert "Throughput against latency" in page
    assert "tuned for p95" in page
    assert built.state() == before


@pytest.fixture
def config(built: Project, tmp_path: Path) -> Path:
    """A copy of the project's config.yaml."""
    return Path(shutil.copy(built.config, tmp_path / "config.yaml"))


def test_an_slo_that_cannot_be_met_is_exit_1_with_the_best_there_was(
    built: Project, config: Path, tmp_path: Path
) -> None:
    text = config.read_text()
    done = tune(
        "digits", "--slo", "p99<1us", "--points", "3", "--minutes", "1", "--write", "--config", str(config),
        *SHORT, *places(built, tmp_path),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"the SLO cannot be met: the best p99 was [\d.]+ ms, the SLO is p99 < 0.001 ms", done.stdout)
    assert "tried with 1 to 8 in flight" in done.stdout, "no wider than what was tried"
    assert "tried 3 points" in done.stdout, "none is kept for a comparison that there is not"
    (stored,) = (tmp_path / "runs").glob("*/report.json")
    report = json.loads(stored.read_text())
    check(report)
    assert report["finals"] == []
    assert config.read_text() == text


def test_a_clearly_better_setting_is_written(built: Project, config: Path, tmp_path: Path) -> None:
    """Only the published setting misses the SLO: its queue delay alone is longer."""
    slow = tmp_path / "repository"
    shutil.copytree(built.repository, slow)
    pbtxt = slow / "digits/config.pbtxt"
    assert "max_queue_delay_microseconds: 500" in pbtxt.read_text()
    body = pbtxt.read_text().replace("microseconds: 500", "microseconds: 3000000")
    revisions.write(slow / "digits", revisions.Revision(unsealed(body)[0]))
    config.write_text(
        config.read_text().replace("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 3000000")
    )
    done = tune(
        "digits", "--slo", "p50<1500ms", "--points", "4", "--minutes", "1.5", "--users", "2,4", "--instances", "1,2", "--queue-delay-us", "off,0",
        "--duration-s", "4", "--warmup-s", "1", "--repeats", "2", "--write", "--config", str(config),
        "--repository", str(slow), "--runs", str(tmp_path / "runs"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-      dynamic_batching: {max_queue_delay_microseconds: 3000000}" in done.stdout
    model = load_spec(config, "onnxruntime").models[0]
    assert (model.serve["dynamic_batching"] or {}).get("max_queue_delay_microseconds", 0) == 0
    (stored,) = (tmp_path / "runs").glob("*/report.json")
    report = json.loads(stored.read_text())
    pick = report["pick"]["setting"]
    assert model.serve["instance_group"][0]["count"] == pick["instance_group"][0]["count"]
    assert (model.serve["dynamic_batching"] is None) == (pick["dynamic_batching"] is None)


ON_A_SERVER = ("tune", "digits", "--slo", "p99<60s", *SHORT)


def test_ctrl_c_leaves_what_was_tried_and_the_servers_config_as_it_was(built: Project, tmp_path: Path) -> None:
    check(interrupted(built, tmp_path, ON_A_SERVER, after="1 "))


def test_a_server_that_dies_leaves_a_report_and_is_exit_3(built: Project, tmp_path: Path) -> None:
    def kill(_: subprocess.Popen[str], server: ServerInfo) -> None:
        os.kill(server.pid, signal.SIGTERM)

    done = stopped(built, tmp_path, ON_A_SERVER, "1 ", kill)
    assert done.code == 3, done.out + done.err
    assert "error: " in done.err
    assert done.report["verdict"]["status"] == "fail"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["digits"], "digits has no SLO of its own"),
        (["digits", "--slo", "fast please"], '--slo "p99<20ms"'),
        (["digits", "--slo", "p98<20ms"], "one of p50, p90, p95, p99, p99.9"),
        (["digits", "--slo", "p99<20"], "--slo: 'p99<20'"),
        (["digitz", "--slo", "p99<20"], "--slo: 'p99<20'"),  # flags are checked before models
        (["digits", "--slo", "p99<20ms", "--max-batch", "64"], "above the published max_batch_size 8"),
        (["digits", "--slo", "p99<20ms", "--points", "1"], "--points 12"),
        (["digits", "--slo", "p99<20ms", "--minutes", "0"], "--minutes: 0"),
        (["digits", "--slo", "p99<20ms", "--write", "--config", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["digitz", "--slo", "p99<20ms"], "did you mean 'digits'?"),
    ],
)
def test_bad_usage_is_reported(built: Project, flags: list[str], words: str) -> None:
    done = tune(*flags, "--repository", str(built.repository))
    assert done.returncode == 2
    assert words in done.stderr
    assert "fix " in done.stderr


@pytest.mark.parametrize(
    ("text", "percentile", "limit_us"),
    [("p99<20ms", "p99", 20e3), (" p50 <= 700us ", "p50", 700), ("p99.9<1.5s", "p99.9", 1.5e6), ("p90<5µs", "p90", 5)],
)
def test_an_slo_is_read(text: str, percentile: str, limit_us: float) -> None:
    assert slo.parse(text) == slo.Slo(percentile, limit_us)


def test_the_models_own_slo_is_the_default(tmp_path: Path) -> None:
    assert slo.of_model(tmp_path, {"slo": {"p99_ms": 50.0}}) == slo.Slo("p99", 50e3)
    (tmp_path / "config.pbtxt").write_text(
        'parameters {\n key: "planwright_slo_p99_ms"\n value {\n  string_value: "250"\n }\n}\n'
    )
    assert slo.of_model(tmp_path, {"slo": {"p99_ms": 50.0}}) == slo.Slo("p99", 250e3)
    (tmp_path / "config.pbtxt").write_text("max_batch_size: 8\n")
    with pytest.raises(SpecError, match="no SLO of its own"):
        slo.of_model(tmp_path, {"slo": {"p99_ms": 50.0}})
