"""Open loops, profiles, shared memory, tags and scenarios of config.yaml, on the real server with real locust."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planwright.server_info import ServerInfo
from tests._project import ROOT
from tests.measure.conftest import LoadRun, environment, finished, locust
from tests.measure.test_run import wait_loaded

OPEN = ("-u", "16", "-r", "16")


def row_of(run: LoadRun) -> dict[str, Any]:
    return dict(run.report["models"][0])


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_an_open_loop_offers_its_rate_and_ends_by_itself(served: ServerInfo, tmp_path: Path, arrivals: str) -> None:
    done = locust(served, tmp_path, *OPEN, "--tags", "http", arrivals=arrivals, rate="60:5s", warmup_s="1")
    assert done.code == 0, done.text
    load = done.report["load"]
    assert load["due"] == sum(row["requests"] for row in done.report["models"]), "each arrival is one request"
    assert load["unsent"] == 0
    assert load["asked_per_s"] == pytest.approx(60)
    assert load["due"] == 300 if arrivals == "constant" else 200 < load["due"] < 400
    assert load["offered_per_s"] == pytest.approx(load["due"] / 5, rel=0.05)


def assert_ended_in_peace(done: LoadRun) -> None:
    """What was due, or under way, as the run was ended is in no verdict, and all that was due was sent."""
    load, rows = done.report["load"], done.report["models"]
    assert load["unsent"] == 0
    assert load["due"] == sum(row["requests"] + row["cancelled"] for row in rows) > 100
    assert done.report["verdict"]["status"] != "fail", done.text
    assert not any("offered" in reason or "counted" in reason for reason in done.report["verdict"]["reasons"]), (
        done.text
    )


@pytest.mark.parametrize(
    ("arrivals", "rate", "flags"), [("poisson", "400", ()), ("constant", "50", ("--processes", "2"))]
)
def test_an_open_loop_that_is_ended_by_its_run_time_is_no_failure(
    served: ServerInfo, tmp_path: Path, arrivals: str, rate: str, flags: tuple[str, ...]
) -> None:
    done = locust(served, tmp_path, *OPEN, "-t", "5s", *flags, arrivals=arrivals, rate=rate)
    assert done.code == 0, done.text
    assert_ended_in_peace(done)


@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_an_open_loop_that_is_ended_by_ctrl_c_is_no_failure(
    served: ServerInfo, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """A terminal sends Ctrl-C to the whole group, so to the workers as well."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary", *OPEN, *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(served, tmp_path, arrivals="poisson", rate="200"), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    wait_loaded(served)
    os.killpg(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    done = finished(process.returncode, text, tmp_path)
    assert done.code == 130, done.text
    assert_ended_in_peace(done)
    assert len(list((tmp_path / "runs").iterdir())) == 1, "one run, one report"


def test_latency_counts_from_the_moment_due(served: ServerInfo, tmp_path: Path) -> None:
    """Two connections for a burst of requests that are all due at once: most must wait, and the wait is theirs."""
    (tmp_path / "trace.csv").write_text("\n".join(["0.5"] * 200))
    done = locust(
        served, tmp_path, "-u", "2", "-r", "2", "--tags", "http", arrivals=f"trace:{tmp_path}/trace.csv", warmup_s="0"
    )
    assert done.code == 0, done.text
    row, load = row_of(done), done.report["load"]
    assert row["requests"] == load["due"] == 200
    assert load["waited"] >= 190
    assert row["latency_us"]["max"] > 20 * row["service_us"]["p50"]
    assert row["latency_us"]["p50"] > 5 * row["service_us"]["p50"]


def test_a_rate_beyond_the_server_is_told_and_ends(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(
        served, tmp_path, "-u", "4", "-r", "4", "-t", "3s", "--tags", "http", arrivals="poisson", rate="50000"
    )
    assert done.code == 1, done.text
    assert done.report["load"]["unsent"] > 0
    assert any("never sent" in reason for reason in done.report["verdict"]["reasons"])


def test_two_processes_share_an_open_loop(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(
        served, tmp_path, *OPEN, "--tags", "http", "--processes", "2", arrivals="constant", rate="40:4s", warmup_s="0"
    )
    assert done.code == 0, done.text
    assert done.report["load"]["due"] == 160
    assert done.report["client"]["processes"] == 2
    assert sum(row["requests"] for row in done.report["models"]) == 160


@pytest.mark.parametrize("flags", [(), ("--processes", "2")])
def test_a_closed_loop_of_a_given_length_ends_by_itself(
    served: ServerInfo, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """However long it takes to connect, what counts is as long as it should be."""
    done = locust(
        served, tmp_path, "-u", "2", "-r", "2", "--tags", "http", *flags, length_s="1.5", warmup_s="0.5", wait_s="0.01"
    )
    assert done.code == 0, done.text
    assert done.report["window_s"] == pytest.approx(1.5, abs=0.001)
    row = row_of(done)
    assert 0 < row["throughput_per_s"] * 1.5 <= row["requests"]


def test_a_profile_of_users_ramps_and_ends(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(served, tmp_path, "--tags", "http", users="1:2s,6:2s,2:1s", wait_s="0.01")
    assert done.code == 0, done.text
    assert done.report["users"] == 6
    assert 3 < done.report["duration_s"] < 30


def test_shared_memory_carries_right_answers(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(served, tmp_path, "-u", "3", "-r", "3", "-t", "4s", "--tags", "shm", check="1")
    assert done.code == 0, done.text
    row = row_of(done)
    assert row["protocol"] == "shm"
    assert row["wrong"] == row["failures"] == 0
    assert row["checked"] > 0


def test_only_what_is_asked_for_runs(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(served, tmp_path, "-u", "2", "-r", "2", "-t", "3s", "InferGrpc")
    assert {row["protocol"] for row in done.report["models"]} == {"grpc"}


@pytest.mark.parametrize(
    ("flags", "settings", "words"),
    [
        (("--tags", "htp"), {}, "there is no tag 'htp'"),
        ((), {"arrivals": "sometimes", "rate": "x"}, "PLANWRIGHT_ARRIVALS='sometimes'"),
        ((), {"arrivals": "poisson", "rate": "5-x:3s"}, "PLANWRIGHT_RATE='5-x:3s'"),
        ((), {"arrivals": "trace:/no/such.csv"}, "the trace cannot be read"),
        ((), {"users": "0"}, "PLANWRIGHT_USERS='0'"),
        ((), {"scenario": "peek"}, "did you mean 'peak'?"),
        ((), {"batch": "4,x"}, "PLANWRIGHT_BATCH='4,x'"),
        ((), {"rate": "50"}, "PLANWRIGHT_RATE is '50', which is an open loop's setting"),
        ((), {"arrivals": "poisson", "length_s": "3"}, "PLANWRIGHT_LENGTH_S is '3', which is a closed loop's setting"),
        ((), {"arrivals": "poisson", "users": "4:2s"}, "PLANWRIGHT_USERS is '4:2s', which is a closed loop's setting"),
    ],
)
def test_bad_scenarios_are_reported(
    served: ServerInfo, tmp_path: Path, flags: tuple[str, ...], settings: dict[str, str], words: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "version: 1\nmodels: {digits: {source: zoo/digits}}\nloadtest: {peak: {arrivals: poisson, rate: 5}}\n"
    )
    done = locust(served, tmp_path, "-u", "1", "-t", "2s", *flags, config=str(config), **settings)
    assert done.code == 2, done.text
    assert words in done.text


def test_a_scenario_of_config_yaml_and_what_overrides_it(served: ServerInfo, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "version: 1\nmodels: {digits: {source: zoo/digits}}\n"
        "loadtest:\n  peak: {arrivals: constant, rate: '50:60s', models: {digits: 1}, batch: 2, warmup_s: 0}\n"
    )
    done = locust(served, tmp_path, *OPEN, "--tags", "grpc", config=str(config), scenario="peak", rate="30:3s")
    assert done.code == 0, done.text
    assert done.report["load"]["scenario"] == "peak"
    assert done.report["load"]["due"] == 90, "the environment's own word counts"
    assert row_of(done)["batch"] == 2


def test_a_scenarios_rate_may_be_left_over_where_the_environment_asks_for_a_closed_loop(
    served: ServerInfo, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "version: 1\nmodels: {digits: {source: zoo/digits}}\nloadtest: {peak: {arrivals: poisson, rate: 50}}\n"
    )
    done = locust(
        served, tmp_path, "-u", "1", "-t", "2s", config=str(config), scenario="peak", arrivals="closed", wait_s="0.02"
    )
    assert done.code == 0, done.text
    assert done.report["load"]["arrivals"] == "closed"


def test_faults_of_config_yaml_name_their_line(served: ServerInfo, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "version: 1\nmodels: {digits: {source: zoo/digits}}\nloadtest:\n  peak:\n    arivals: poisson\n    batch: 0\n"
    )
    done = locust(served, tmp_path, "-t", "2s", config=str(config), scenario="peak")
    assert done.code == 2, done.text
    assert "config.yaml:5" in done.text
    assert "config.yaml:6" in done.text


BAD = """\
version: 1
models: {digits: {source: zoo/digits}}
loadtest:
  peak:
    arrivals: poisson
    rate: "abc"
    batch: "4,x"
    warmup_s: 7200
    timeout_s: 0
    wait_s: 1
    models: {digits: 0}
  crowd:
    rate: 50
    users: "5-9"
"""
LINES = (6, 7, 8, 9, 10, 11, 13, 14)


def test_the_build_and_the_load_test_refuse_the_same_lines(tmp_path: Path, served: ServerInfo) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(BAD)
    plan = subprocess.run(
        [sys.executable, "builders/build_all.py", "--plan", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    load = locust(served, tmp_path, "-t", "2s", config=str(config), scenario="peak")
    assert (plan.returncode, load.code) == (2, 2)
    for text in (plan.stderr, load.text):
        assert tuple(int(line) for line in re.findall(r"config\.yaml:(\d+)  loadtest", text)) == LINES, text
        assert "'abc'" in text
        assert "3600" in text


def test_variables_have_the_limits_of_the_file(tmp_path: Path, served: ServerInfo) -> None:
    bad = {
        "rate": "abc",
        "batch": "4,x",
        "warmup_s": "7200",
        "timeout_s": "0",
        "wait_s": "1",
        "models": "digits=0",
        "page": "no",
    }
    done = locust(served, tmp_path, "-t", "2s", arrivals="poisson", **bad)
    assert done.code == 2, done.text
    for name, value in bad.items():
        assert re.search(rf"PLANWRIGHT_{name.upper()}( is |=)'{value}'", done.text)
    assert "3600" in done.text


def test_the_report_is_json_all_the_way(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(served, tmp_path, "-u", "2", "-r", "2", "-t", "3s", wait_s="0.01")
    assert json.loads(json.dumps(done.report)) == done.report
    for row in done.report["models"]:
        assert row["unanswered"] == 0
        assert row["goodput_per_s"] <= row["throughput_per_s"]


def test_several_batch_sizes_in_one_run(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(
        served, tmp_path, "-u", "2", "-r", "2", "-t", "4s", "--tags", "http", batch="1=3,4", wait_s="0.01", check="1"
    )
    assert done.code == 0, done.text
    row = row_of(done)
    assert (row["batch"], row["wrong"], row["failures"]) == ("1=3,4=1", 0, 0)
    assert 1.3 < row["samples_per_request"] < 2.3, "three of one and one of four are 1.75 on the whole"
    counted = done.report["server"]["digits"]
    assert counted["inferences"] / counted["requests"] == pytest.approx(row["samples_per_request"], rel=0.15)
    answered = sum(count for _, count in row["histogram"])
    window_s = answered * row["samples_per_request"] / row["throughput_per_s"]
    assert 1 < window_s < 5, "samples per second are requests times what they hold, over the run without its warm-up"
