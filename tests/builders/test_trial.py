"""Nothing is published that the server found here does not load and answer, and no trial leaves anything behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from builders.repository.trial import TrialServer
from builders.stage import Job
from builders.targets import get_target
from planwright.config.load import load_spec
from planwright.errors import StageError
from planwright.files import HashCache
from planwright.golden import Golden, Group
from tests._project import ROOT, Done, Project

BAD = 'parameters: {intra_op_thread_count: {string_value: "many"}}'
SHM = Path("/dev/shm")


def misconfigure(project: Project) -> None:
    """Set something that only the backend knows to be wrong."""
    project.edit("    serve:", f"    serve:\n      {BAD}")


def model(done: Done) -> dict[str, Any]:
    [found] = json.loads(done.out)["models"]
    result: dict[str, Any] = found
    return result


def processes(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def servers(folder: Path) -> list[list[str]]:
    """Return the command line of each tritonserver that works in a folder."""
    return [each.cmdline() for each in processes(folder) if each.name() == "tritonserver"]


def left(project: Project) -> list[object]:
    """Return what a build left behind: processes, and scratch folders."""
    return [*processes(project.folder), *(project.folder / "build/.staging").glob("*")]


def test_what_does_not_load_is_not_published(project: Project) -> None:
    before = project.state()
    misconfigure(project)
    done = project.build("--json")
    assert done.code == 1
    result = model(done)
    assert result["failed_stage"] == "serve"
    [fault] = result["errors"]
    assert f"{project.config}:8  models.digits.serve.parameters.intra_op_thread_count" in fault["where"]
    assert "intra_op_thread_count must be a whole number, not 'many'" in fault["why"]
    assert project.state() == before
    assert not left(project)


def test_a_first_version_that_does_not_load_leaves_no_model(project: Project) -> None:
    misconfigure(project)
    shutil.rmtree(project.repository)
    assert project.build().code == 1
    assert list(project.repository.iterdir()) == []


def test_what_answers_wrong_is_not_published(project: Project) -> None:
    """The golden answers change after verify; so does, for the server, what is right."""
    before = project.state()
    path = project.folder / "build/digits/export/golden.npz"
    golden = Golden.load(path)
    turned = [Group(g.inputs, {"scores": np.roll(g.outputs["scores"], 1, axis=0)}) for g in golden.groups]
    Golden(tuple(turned), golden.meta).save(path)
    done = project.build("--json", "--from", "publish")
    assert done.code == 1
    assert model(done)["failed_stage"] == "serve"
    assert "WRONG at batch 1: scores" in model(done)["errors"][0]["why"]
    assert project.state() == before


def test_the_proof_stands_in_build_json(built: Project) -> None:
    proof = json.loads((built.repository / "digits/1/build.json").read_text())["trial_load"]
    assert proof["server"] == "2.51.0"
    assert proof["checks"] == 2, "batch 1 and batch 8"


def test_without_it_a_model_is_published_and_the_record_says_so(project: Project) -> None:
    misconfigure(project)
    project.edit("    score:", "    accept: {scores: {relative: 0.002}}\n    score:")
    done = project.build("--json", "--no-trial-load")
    assert done.code == 0
    assert "--no-trial-load" in model(done)["note"]
    record = json.loads((project.repository / "digits/2/build.json").read_text())
    assert record["trial_load"] == {"skipped": "--no-trial-load"}
    lint = project.builders("lint", "--config", str(project.config))
    assert "note: digits was published with --no-trial-load" in lint.out
    assert lint.code == 0
    assert project.build("--no-trial-load").out.count("1 kept") == 1
    assert project.build().code == 1, "a build without the flag tries what was not tried"


def without_a_server(project: Project, *flags: str) -> Done:
    command = [sys.executable, "builders/build_all.py", "--config", str(project.config), *flags]
    env = {**os.environ, "PLANWRIGHT_TRITONSERVER_DIR": str(project.folder / "nowhere")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=env)
    assert "Traceback" not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def test_no_server_is_a_machine_that_is_not_ready(project: Project) -> None:
    assert without_a_server(project).code == 0, "nothing changed, so nothing is tried"
    before = project.state()
    project.edit("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 321")
    for flags in (("--plan",), ("--until", "verify")):
        assert without_a_server(project, *flags).code == 0
    done = without_a_server(project, "--json")
    assert done.code == 3
    [fault] = model(done)["errors"]
    assert "tritonserver is not installed" in fault["why"]
    assert "make setup" in fault["fix"]
    assert "--no-trial-load" in fault["fix"]
    assert project.state() == before
    assert without_a_server(project, "--no-trial-load").code == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_trial_leaves_nothing(project: Project, how: signal.Signals) -> None:
    before = project.state()
    project.edit("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 321")
    command = [sys.executable, "builders/build_all.py", "--config", str(project.config)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: bool(servers(project.folder)))
    [words] = servers(project.folder)
    prefix = next(word.partition("=")[2] for word in words if word.startswith("--id="))
    process.send_signal(how)
    assert process.wait(30) != 0
    until(lambda: not processes(project.folder))
    until(lambda: not list(SHM.glob(f"{prefix}*")))
    assert project.state() == before
    assert project.build().code == 0
    assert not left(project)


def until(done: Callable[[], bool], limit_s: float = 20.0) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < limit_s, "it did not come"
        time.sleep(0.02)


def test_builds_at_once_have_servers_of_their_own(project: Project, tmp_path: Path) -> None:
    """Also where the server could not take the path of the checkout."""
    other = Project(tmp_path / "my models")
    shutil.copytree(project.folder, other.folder, copy_function=shutil.copy2)
    running = []
    for each in (project, other):
        each.edit("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 321")
        command = [sys.executable, "builders/build_all.py", "--config", str(each.config)]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    for process in running:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
        assert "answered by Triton" in out


def test_a_server_that_ends_is_followed_by_another(built: Project, tmp_path: Path) -> None:
    spec = load_spec(built.config, "onnxruntime")
    job = Job(spec.models[0], tmp_path, tmp_path / "build", built.repository, get_target("onnxruntime"), spec.server,
              HashCache(tmp_path / "hashes.json"))  # fmt: skip
    text = (built.repository / "digits/config.pbtxt").read_text()
    versions = {1: built.repository / "digits/1"}
    with TrialServer(tmp_path / "build") as trial:
        with pytest.raises(StageError, match="the server ended while it loaded the model"):
            trial.prove(job, text + 'metric_tags { key: "no-label" value: "x" }\n', versions)
        assert trial.prove(job, text, versions)["checks"] == 2
    assert not processes(tmp_path)
