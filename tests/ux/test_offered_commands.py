"""Every command that an error or a table suggests runs as it is written, with a real project and a real server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from builders.graphs import check
from planwright.errors import missing_package
from planwright.server_info import ServerInfo
from tests._project import ROOT, Project
from tests.ux._offered import offered

OFFERED = offered()
PROSE = re.compile(
    r" (?:says|goes|makes|continues|adds|again|on a machine|needs|compares|which|with|or|and)\b.*| \(.*|\{\}?\)?$"
)
# not run here: what needs TensorFlow's packages, or a container engine (tests/deploy runs the compose files where there is one)
ELSEWHERE = ("python -m tf2onnx", "pip install tf2onnx", "docker ", "pip install --no-deps -r constraints/autocast.txt")


@dataclass(frozen=True)
class Place:
    """The project and the server that the commands are run on."""

    project: Project
    server: ServerInfo


@pytest.fixture(scope="module")
def place(built: Project, served: ServerInfo, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("offered") / "project"
    shutil.copytree(built.folder, folder, copy_function=shutil.copy2)
    return Place(Project(folder), served)


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, **(env or {})}
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, *words)


def build(place: Place, words: list[str]) -> None:
    given = ["digits" if word == "{}" else word for word in words[1:]]
    given += ["onnxruntime"] if given[-1] == "--target" else []
    done = python(*given, "--config", str(place.project.config))
    assert done.returncode == 0, done.stdout + done.stderr


def builders(place: Place, words: list[str]) -> None:
    command = words[3] if len(words) > 3 else "--help"
    where = {"lint": ["--config", str(place.project.config), "--repository", str(place.project.repository)],
             "rollback": ["digits", "--repository", str(place.project.repository)],
             "bench": ["digits", "--batch", "8", "--seconds", "0.2", "--rounds", "1", "--config", str(place.project.config)],
             "layers": ["digits", "--config", str(place.project.config)]}  # fmt: skip
    if command == "search":
        return search(place)
    done = python("-m", "builders", command, *where.get(command, []))
    # there is no older version to roll back to and no TensorRT for layers; doctor may find something missing on this machine
    assert done.returncode in {"rollback": (1,), "layers": (1, 3), "doctor": (0, 3)}.get(command, (0,)), done.stderr
    return None


def search(place: Place) -> None:
    """Run the command that a failed INT8 check suggests, on a model in INT8."""
    text = place.project.config.read_text()
    try:
        place.project.edit("source: zoo/digits", "source: zoo/digits\n    precision: int8")
        assert place.project.build("--until", "graph").code == 0
        done = python("-m", "builders", "search", "digits", "--config", str(place.project.config))
        assert done.returncode == 0, done.stderr
        assert "in config.yaml:" in done.stdout
    finally:
        place.project.config.write_text(text)


def clients(place: Place, words: list[str]) -> None:
    where = [
        "--url",
        place.server.http_url,
        "--grpc-url",
        place.server.grpc_url,
        "--repository",
        place.server.repository,
    ]
    done = python(*words[1:3], *(["validate", *where] if "validate" in words else ["--help"]))
    assert done.returncode == 0, done.stdout


def serving(place: Place, words: list[str]) -> None:
    if "--help" in words:
        assert python("-m", "serving", "--help").returncode == 0
    else:
        assert place.server.client_shm, "the server of these tests was started with this flag"


def locust(place: Place, _: list[str]) -> None:
    info = place.project.folder / "server.json"
    place.server.write(info)
    done = run(str(Path(sys.executable).with_name("locust")), "-f", "loadtest/", "--headless", "-t", "5s",
               env={"PLANWRIGHT_SERVER_FILE": str(info), "PLANWRIGHT_RUNS": str(place.project.folder / "runs")})  # fmt: skip
    assert "digits" in done.stdout + done.stderr


def make(_: Place, words: list[str]) -> None:
    filled = [word.replace("{}", "3.11") for word in words[:3]]
    done = run("make", "-n", *filled[1:])
    assert done.returncode == 0, done.stderr


def installed(_: Place, words: list[str]) -> None:
    done = python("-m", "pip", "install", "--dry-run", "--no-index", *shlex.split(" ".join(words[2:])))
    assert done.returncode == 0, done.stderr


def packages(_: Place, words: list[str]) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    done = run("apt-get", "install", "--dry-run", words[2] if words[2][-1].isdecimal() else f"{words[2]}3.11")
    if "Unable to locate" in done.stderr:
        pytest.skip("apt has no package lists")
    assert done.returncode == 0, done.stderr


def system(_: Place, words: list[str]) -> None:
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    filled = [word.replace("{}", "/dev/shm" if words[0] == "df" else "8000") for word in words]
    assert run(*filled).returncode == 0


RUNNERS: dict[str, Callable[[Place, list[str]], None]] = {
    "python builders/build_all.py": build,
    "python -m builders": builders,
    "python -m clients": clients,
    "python -m serving": serving,
    "python -m loadtest": lambda _, __: (
        None if python("-m", "loadtest", "--help").returncode == 0 else pytest.fail("--help")
    ),
    "locust -f loadtest/": locust,
    "make ": make,
    "pip install": installed,
    ".venv/bin/pip install": installed,
    "apt-get install libpython": packages,
    "ss -": system,
    "df -h": system,
}


def plain(command: str) -> str:
    """Return the command without the rest of its sentence."""
    return PROSE.sub("", command).strip() if not command.startswith(("python -m loadtest", "ss -")) else command


COMMANDS = sorted(
    {plain(command) for command in OFFERED if not command.startswith(ELSEWHERE) and command != "apt-get install {}"}
)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 25, "the collector found too few"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_offered_command_runs(place: Place, command: str) -> None:
    runner = next((run for prefix, run in RUNNERS.items() if f"{command} ".startswith(prefix)), None)
    assert runner is not None, f"no runner for '{command}', which {OFFERED.get(command)} suggests: add one"
    runner(place, command.split())


def test_the_suggested_onnx_check_prints_the_whole_message(tmp_path: Path) -> None:
    path = tmp_path / "a file.onnx"
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])), path)
    words = shlex.split(check.command(path))
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValidationError" in done.stderr
    node.input[:] = []
    whole = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["y"], value_float=1.0)], "g", [],
                                   [onnx.helper.make_tensor_value_info("y", 1, [])])  # fmt: skip
    onnx.save(onnx.helper.make_model(whole), path)
    assert subprocess.run([sys.executable, *words[1:]], capture_output=True).returncode == 0


def test_the_suggested_check_of_a_missing_package_imports_it() -> None:
    words = shlex.split(missing_package("json").faults[0].check)
    assert run(*words).returncode == 0
    words = shlex.split(missing_package("no_such_package").faults[0].check)
    assert subprocess.run(words, capture_output=True).returncode == 1
