"""A sweep or a tune on a running server, interrupted.

In      the command, the line after which it is stopped.
Out     its exit code, its output, its report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests._server import running_server

SCHEMA = json.loads((ROOT / "measure/report/report.schema.json").read_text())


@dataclass(frozen=True)
class Stopped:
    """How it ended."""

    code: int
    out: str
    err: str
    report: dict[str, Any]


def stopped(
    built: Project,
    folder: Path,
    words: Sequence[str],
    after: str,
    stop: Callable[[subprocess.Popen[str], ServerInfo], None],
) -> Stopped:
    """Start the command on a server of ours, `stop` it when a line begins with `after`, and read its report."""
    with running_server(built.repository, "--model-control-mode=explicit", "--load-model=digits") as server:
        server.write(folder / "server.json")
        command = [sys.executable, "-m", "loadtest", *words, "--server", server.http_url, "--repository", str(built.repository),
                   "--runs", str(folder / "runs")]  # fmt: skip
        environment = {**os.environ, "PLANWRIGHT_SERVER_FILE": str(folder / "server.json")}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(after):
                break
        stop(process, server)
        out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    (stored,) = (folder / "runs").glob("*/report.json")
    assert stored.with_name("report.html").is_file()
    report = json.loads(stored.read_text())
    jsonschema.validate(report, SCHEMA)
    return Stopped(process.returncode, out, err, report)


def interrupted(built: Project, folder: Path, words: Sequence[str], after: str, wait_s: float = 0.0) -> dict[str, Any]:
    """Press Ctrl-C `wait_s` after that line; the server's config must be what it was. Returns the report."""
    configs = []

    def press(process: subprocess.Popen[str], server: ServerInfo) -> None:
        time.sleep(wait_s)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        configs.append(model_config(server.http_url))

    with running_server(built.repository, "--model-control-mode=explicit", "--load-model=digits") as untouched:
        before = model_config(untouched.http_url)
    done = stopped(built, folder, words, after, press)
    assert done.code == 130, done.out + done.err
    assert configs == [before]
    assert done.report["verdict"]["reasons"][0] == "stopped by Ctrl-C"
    return done.report


def model_config(http_url: str) -> dict[str, object]:
    """Return the config of digits as the server reports it."""
    with urllib.request.urlopen(f"http://{http_url}/v2/models/digits/config", timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
    return found
