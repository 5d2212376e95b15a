"""A server, or a clock, that goes wrong in the middle of a load: told as what it is, by a run that ends by itself."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests._server import launch
from tests.measure._corrupting_proxy import corrupting_proxy
from tests.measure.conftest import LoadRun, environment, finished, locust
from tests.measure.test_run import wait_loaded

TIMEOUT_S = "1"


@contextmanager
def loading(server: ServerInfo, folder: Path, tags: str, run_time: str) -> Iterator[Callable[[], LoadRun]]:
    """A run of two users that a test can disturb; what is yielded waits for its end."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary", "-u", "2", "-r", "2"]
    process = subprocess.Popen(
        [*command, "-t", run_time, "--tags", tags], cwd=ROOT, text=True, env=environment(server, folder, timeout_s=TIMEOUT_S),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip

    def end() -> LoadRun:
        text, _ = process.communicate(timeout=90)
        return finished(process.returncode, text, folder)

    try:
        yield end
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def stoppable(built: Project, folder: Path) -> Iterator[tuple[ServerInfo, int]]:
    """A server of this test's own, and tritonserver's process."""
    launched = launch(folder / "server", built.repository).wait_ready()
    pid = int(launched.document["server_pid"])
    try:
        yield launched.info, pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        launched.stop()


def errors(done: LoadRun) -> str:
    return "; ".join(error["text"] for row in done.report["models"] for error in row["errors"])


@pytest.mark.parametrize("tags", ["http", "grpc"])
def test_a_server_that_hangs_is_a_failure_and_the_run_ends(built: Project, tmp_path: Path, tags: str) -> None:
    with stoppable(built, tmp_path) as (server, pid), loading(server, tmp_path, tags, "8s") as end:
        wait_loaded(server)
        os.kill(pid, signal.SIGSTOP)
        done = end()
    assert done.code == 1, done.text
    assert done.report["verdict"]["status"] == "fail"
    assert "no answer within 1 s" in errors(done)
    assert sum(row["measured"] for row in done.report["models"]) > 0, "what came before is kept"


@pytest.mark.parametrize("tags", ["http", "grpc"])
def test_answers_that_come_too_late_are_failures_and_not_the_answers_of_others(
    built: Project, tmp_path: Path, tags: str
) -> None:
    with stoppable(built, tmp_path) as (server, pid), loading(server, tmp_path, tags, "9s") as end:
        wait_loaded(server)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(pid, signal.SIGCONT)
        done = end()
    assert done.code == 1, done.text
    row = done.report["models"][0]
    assert row["failures"] > 0
    assert row["wrong"] == 0
    assert "no answer within 1 s" in errors(done)


def inverted(data: bytes) -> bytes:
    """Return what is neither HTTP nor HTTP/2."""
    return bytes(255 - byte for byte in data)


def emptied(data: bytes) -> bytes:
    """Return an HTTP answer whose body is zeros."""
    head, mark, body = data.partition(b"\r\n\r\n")
    return head + mark + bytes(len(body))


@pytest.mark.parametrize(("tags", "change"), [("http", inverted), ("http", emptied), ("grpc", inverted)])
def test_garbage_is_a_failure_and_no_crash(
    served: ServerInfo, tmp_path: Path, tags: str, change: Callable[[bytes], bytes]
) -> None:
    with corrupting_proxy(served.http_url if tags == "http" else served.grpc_url) as proxy:
        through: dict[str, Any] = {f"{tags}_url": proxy.address}
        with loading(dataclasses.replace(served, **through), tmp_path, tags, "8s") as end:
            wait_loaded(served)
            proxy.corrupt(change)
            done = end()
    assert done.code == 1, done.text
    assert done.report["verdict"]["status"] == "fail"
    row = done.report["models"][0]
    assert row["failures"] > 0
    assert row["measured"] > 0


STEP = """\
import time
_real, _zero = time.time, time.time()
time.time = lambda: _real() + ({step_s} if _real() - _zero > 4 else 0)
"""


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_step_of_the_clock_changes_nothing(
    served: ServerInfo, tmp_path: Path, step_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test may not set the system's clock; Python's own is stepped in the load's process, four seconds after its start."""
    (tmp_path / "sitecustomize.py").write_text(STEP.format(step_s=step_s))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    began = time.monotonic()
    done = locust(served, tmp_path, "-u", "2", "-r", "2", "-t", "6s", wait_s="0.02")
    took_s = time.monotonic() - began
    assert done.code == 0, done.text
    assert done.report["verdict"]["status"] != "fail"
    assert 4 < done.report["duration_s"] < took_s
    for row in done.report["models"]:
        assert row["throughput_per_s"] > 0
        assert row["latency_us"]["max"] < 60e6
