"""locust -f loadtest/ on the real server: what it measures, what it catches, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jsonschema
import pytest

from benchmarks.load_answers import swap_rows
from measure.report import build, schema
from measure.workload.settings import VARIABLES
from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests._server import launch, running_server
from tests.measure.conftest import LoadRun, environment, finished, locust
from tests.ux._checkout import package_files


def test_a_healthy_server_passes_and_the_process_ends_by_itself(run: LoadRun) -> None:
    assert run.code == 0, run.text
    assert run.report["verdict"]["status"] != "fail", (
        "a noisy machine may make a run inconclusive, a healthy server does not fail it"
    )
    assert {row["protocol"] for row in run.report["models"]} == {"http", "grpc"}
    for row in run.report["models"]:
        assert row["checked"] > 0
        assert (row["failures"], row["wrong"]) == (0, 0)


def test_the_report_fits_its_schema(run: LoadRun) -> None:
    jsonschema.validate(run.report, json.loads((ROOT / "measure/report/report.schema.json").read_text()))
    assert schema.RunReport.model_validate(run.report).model_dump(mode="json") == run.report


def test_the_reports_schema_is_the_one_of_its_types() -> None:
    """``python -m measure.report.schema > measure/report/report.schema.json`` writes it."""
    assert json.loads((ROOT / "measure/report/report.schema.json").read_text()) == schema.schema()


def test_the_clients_count_is_the_servers_count(run: LoadRun) -> None:
    sent = sum(row["requests"] for row in run.report["models"])
    in_flight = run.report["server"]["digits"]["requests"] - sent
    assert 0 <= in_flight <= run.report["users"], "locust ends users in the middle of a request"
    batches = run.report["server"]["digits"]["batches"]
    assert sum(row["size"] * row["count"] for row in batches) == run.report["server"]["digits"]["inferences"]


def test_latencies_are_finer_than_locusts_own(run: LoadRun) -> None:
    values = [us for row in run.report["models"] for us, _ in row["histogram"]]
    assert any(us % 1000 for us in values), "locust rounds to whole milliseconds"
    for row in run.report["models"]:
        assert sum(count for _, count in row["histogram"]) == row["measured"]
        assert row["measured"] < row["requests"], "the warm-up does not count"
        assert row["latency_us"]["p50"] <= row["latency_us"]["p99"] <= row["latency_us"]["max"]


def test_several_processes_are_merged_without_loss(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(served, tmp_path, "-u", "4", "-r", "4", "-t", "4s", "--processes", "2")
    assert done.code == 0, done.text
    sent = sum(row["requests"] for row in done.report["models"])
    assert 0 <= done.report["server"]["digits"]["requests"] - sent <= done.report["users"]
    for row in done.report["models"]:
        assert sum(count for _, count in row["histogram"]) == row["measured"]


def test_swapped_answers_are_caught(built: Project, tmp_path: Path) -> None:
    """A model that reverses the rows of its batch: right for one request alone, swapped as soon as the server merges two."""
    repository = tmp_path / "repository"
    shutil.copytree(built.repository, repository)
    swap_rows(repository / "digits")
    with running_server(repository) as server:
        done = locust(server, tmp_path, "-u", "8", "-r", "8", "-t", "5s", check="0.5")
    assert done.code == 1
    assert done.report["verdict"]["status"] == "fail"
    assert sum(row["wrong"] for row in done.report["models"]) > 0
    assert "checked answers are wrong" in done.report["verdict"]["reasons"][0]


def started(server: ServerInfo, folder: Path, run_time: str, *flags: str) -> subprocess.Popen[str]:
    """A run of two users that a test can disturb, in a process group of its own."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary", "-u", "2", "-r", "2"]
    return subprocess.Popen([*command, "-t", run_time, *flags], cwd=ROOT, env=environment(server, folder), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def wait_loaded(server: ServerInfo) -> None:
    """Wait until more requests were answered than a warm-up holds, however slowly locust comes up."""
    wait_answers(server, "digits", 20)
    time.sleep(2)


def wait_answers(server: ServerInfo, model: str, count: int) -> None:
    """Wait until the server has answered `count` requests more than now."""

    def answered() -> int:
        with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{model}/stats", timeout=10) as answer:
            return int(json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"])

    before, deadline = answered(), time.monotonic() + 60
    while answered() < before + count:
        assert time.monotonic() < deadline, "no load came"
        time.sleep(0.1)


def test_a_server_that_dies_leaves_a_report_and_a_failure(built: Project, tmp_path: Path) -> None:
    launched = launch(tmp_path / "server", built.repository).wait_ready()
    process = started(launched.info, tmp_path, "8s")
    wait_loaded(launched.info)
    launched.stop(signal.SIGKILL)
    text, _ = process.communicate(timeout=60)
    assert launched.process.stdout is not None
    launched.process.stdout.close()
    done = finished(process.returncode, text, tmp_path)
    assert done.code == 1
    assert done.report["verdict"]["status"] == "fail"
    assert any("requests failed" in reason for reason in done.report["verdict"]["reasons"])


def test_ctrl_c_leaves_a_complete_report(served: ServerInfo, tmp_path: Path) -> None:
    process = started(served, tmp_path, "60s")
    wait_loaded(served)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    done = finished(process.returncode, text, tmp_path)
    assert done.code == 130
    assert sum(row["measured"] for row in done.report["models"]) > 0
    assert done.folder is not None
    assert (done.folder / "report.html").is_file()


@pytest.mark.parametrize(("sent", "presses", "code"), [(signal.SIGINT, 2, 130), (signal.SIGTERM, 1, 0)])
def test_a_signal_to_the_whole_group_ends_two_processes_as_it_ends_one(
    served: ServerInfo, tmp_path: Path, sent: signal.Signals, presses: int, code: int
) -> None:
    """A terminal and a supervisor signal the workers too, and any of the processes may be the first to end."""
    process = started(served, tmp_path, "60s", "--processes", "2")
    wait_loaded(served)
    for _ in range(presses):
        os.killpg(process.pid, sent)
        time.sleep(0.2)
    text, _ = process.communicate(timeout=60)
    done = finished(process.returncode, text, tmp_path)
    assert done.code == code, done.text
    assert "Bad response code" not in text, "a worker that ends on a signal has not failed"
    assert text.count("verdict: ") == 1
    assert done.report["client"]["processes"] == 2, "the last records of both workers are in the report"
    assert sum(row["measured"] for row in done.report["models"]) > 0
    assert len(list((tmp_path / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"models": "digitz"}, 2, "did you mean 'digits'?"),
        ({"models": "digits=0"}, 2, "weight of 'digits' must be at least 1; got '0'"),
        ({"check": "200%"}, 2, "'check' must be a number between 0 and 1; got '200%'"),
        ({"batch": "many", "check": "7"}, 2, "PLANWRIGHT_CHECK='7'"),
        ({"page": "no"}, 2, "PLANWRIGHT_PAGE='no'"),
        ({"repository": "/nowhere"}, 3, "there is no model repository"),
    ],
)
def test_bad_settings_are_reported(
    served: ServerInfo, tmp_path: Path, settings: dict[str, str], code: int, words: str
) -> None:
    done = locust(served, tmp_path, "-t", "2s", **settings)
    assert done.code == code, done.text
    assert words in done.text
    assert done.folder is None


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_flags_are_checked_before_what_is_published(tmp_path: Path, processes: tuple[str, ...]) -> None:
    gone = ServerInfo(os.getpid(), "x", "127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9", "none", "", "", str(tmp_path))
    done = locust(gone, tmp_path, "-t", "2s", "--tags", "htp", *processes)
    assert (done.code, "did you mean 'http'?" in done.text, "nothing is published" in done.text) == (2, True, False)
    done = locust(gone, tmp_path, "-t", "2s", *processes)
    assert (done.code, done.text.count("nothing is published")) == (2, 1), done.text


def test_an_unknown_variable_is_a_warning(tmp_path: Path) -> None:
    gone = ServerInfo(os.getpid(), "x", "127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9", "none", "", "", str(tmp_path))
    done = locust(gone, tmp_path, "-t", "2s", ratee="5", tritonserver_dir="here")
    assert "warning: unknown variable PLANWRIGHT_RATEE; did you mean 'PLANWRIGHT_RATE'?" in done.text
    assert "TRITONSERVER_DIR" not in done.text, "a variable of another part of Planwright"


def test_the_known_variables_are_those_that_the_code_names() -> None:
    text = "\n".join((ROOT / path).read_text() for path in package_files())
    assert set(re.findall(r"PLANWRIGHT_[A-Z_]*[A-Z]", text)) == set(VARIABLES)


def test_a_server_that_is_not_there_is_reported(built: Project, tmp_path: Path) -> None:
    gone = ServerInfo(
        os.getpid(), "x", "127.0.0.1:9", "127.0.0.1:9", "127.0.0.1:9", "none", "", "", str(built.repository)
    )
    done = locust(gone, tmp_path, "-u", "2", "-r", "2", "-t", "3s")
    assert done.code != 0
    assert "cannot reach a server" in done.text


def test_a_report_is_made_again_from_its_record(run: LoadRun) -> None:
    assert run.folder is not None
    before = (run.folder / "report.html").read_text()
    (run.folder / "report.html").unlink()
    assert build.remake(run.folder).read_text() == before


def test_a_run_without_a_page_gets_one_later(served: ServerInfo, tmp_path: Path) -> None:
    done = locust(served, tmp_path, "-u", "2", "-r", "2", "-t", "3s", models="digits", page="off")
    assert done.folder is not None
    assert f"report: {done.folder / 'report.json'}" in done.text
    assert not (done.folder / "report.html").exists()
    assert done.report["id"] in build.remake(done.folder).read_text()


def test_a_missing_record_is_reported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtest", "report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "there is no report.json to read" in done.stderr
