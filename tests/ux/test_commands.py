"""Every command prints its help quickly, and rejects a bad command line with exit code 2 and no stack trace."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests._project import Project
from tests.ux._checkout import ROOT, files

HELP_CPU_S = 2.0  # half a second today; CPU time, so that a busy machine does not matter
SCRIPTS = [[str(path)] for path in files("benchmarks/*.py") if len(path.parts) == 2 and path.name != "__init__.py"]
MODULES = [["-m", "builders"], ["-m", "serving"], ["-m", "clients"], ["-m", "loadtest"]]
COMMANDS = [["builders/build_all.py"], *MODULES, *SCRIPTS, ["deploy/setup/prepare.py"]]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, env=env)


def subcommands(command: list[str]) -> list[str]:
    """Read the subcommands from the help text, which lists them indented by four."""
    section = run(*command, "--help").stdout.partition("positional arguments:")[2].partition("options:")[0]
    return re.findall(r"^ {4}([a-z]+)\b", section, re.MULTILINE)


def all_commands() -> list[list[str]]:
    return [*COMMANDS, *([*command, name] for command in MODULES for name in subcommands(command))]


ALL = all_commands()


def test_the_documented_commands_exist() -> None:
    names = {" ".join(command) for command in ALL}
    for command in (
        "builders doctor",
        "builders lint",
        "builders rollback",
        "clients validate",
        "clients infer",
        "loadtest sweep",
        "loadtest tune",
        "loadtest report",
        "loadtest compare",
        "loadtest export",
        "loadtest referee",
        "builders bench",
        "builders layers",
        "builders search",
    ):
        assert f"-m {command}" in names


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help(command: list[str]) -> None:
    run(*command, "--help")  # the first run may compile byte code
    before = cpu_s()
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert not done.stdout.split("\n\n")[1].startswith(("options:", "positional")), "a description follows the usage"
    assert cpu_s() - before < HELP_CPU_S


def cpu_s() -> float:
    """Return the CPU time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_bad_command_line(command: list[str]) -> None:
    # serving passes unknown flags on to tritonserver, so a stray word is its bad command line
    done = run(*command, "stray") if command == ["-m", "serving"] else run(*command, "--no-such-flag")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "--help" in done.stderr or "usage:" in done.stderr


@pytest.mark.parametrize(
    ("flags", "model", "words"),
    [
        (("--random-weights", "digitz"), "", ("there is no model 'digitz'", "--random-weights digitz", "did you mean 'digits'?")),
        ((), "\n    serve: {parameters: {planwright_x: 1}}", ("the parameter 'planwright_x' is reserved", "config.yaml:5")),
    ],
)  # fmt: skip
def test_a_build_names_the_mistake_that_comes_first(
    tmp_path: Path, flags: tuple[str, ...], model: str, words: tuple[str, ...]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"version: 1\nmodels:\n  digits:\n    source: zoo/digits{model}\n")
    done = run("builders/build_all.py", "--plan", "--target", "onnxruntime", "--config", str(config), *flags)
    assert done.returncode == 2
    first = done.stderr.partition("\nerror: ")[0]
    assert all(word in first for word in words), done.stderr


def test_locust_lists_our_users(built: Project) -> None:
    done = run("-m", "locust", "-f", "loadtest/", "--list", PLANWRIGHT_REPOSITORY=str(built.repository))
    assert done.returncode == 0, done.stderr
    assert {"InferHttp", "InferGrpc"} <= set(done.stdout.split())


def test_make_help_names_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == targets


def test_a_package_that_is_not_installed_is_named() -> None:
    """None in sys.modules makes the import fail as it does where the package is not installed."""
    script = "import sys; sys.modules['rich'] = None; from planwright import console; from builders.__main__ import main; console.run(main)"
    done = run("-c", script, "doctor")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "'rich' is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_module_of_this_project_keeps_its_stack_trace() -> None:
    script = "import importlib; from planwright import console; console.run(lambda _: importlib.import_module('builders.nothing'))"
    done = run("-c", script)
    assert "Traceback" in done.stderr
