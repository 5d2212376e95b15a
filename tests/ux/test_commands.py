"""Every command answers --help at once, and a bad command line with exit code 2 and no stack trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from tests._project import Project
from tests.ux._checkout import ROOT, files

HELP_S = 5.0  # half a second here; a busy machine may be ten times slower
SCRIPTS = [[str(path)] for path in files("benchmarks/*.py") if not path.name.startswith("_")]
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


def test_the_contract_is_there() -> None:
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
    run(*command, "--help")  # the first may write byte code
    start = time.monotonic()
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert time.monotonic() - start < HELP_S


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_bad_command_line(command: list[str]) -> None:
    # serving hands unknown flags on to tritonserver, so a stray word is its bad command line
    done = run(*command, "stray") if command == ["-m", "serving"] else run(*command, "--no-such-flag")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "--help" in done.stderr or "usage:" in done.stderr


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
    """Python itself says so of a module that stands as None; nothing but the import is prevented."""
    script = "import sys; sys.modules['rich'] = None; from planwright import console; from builders.__main__ import main; console.run(main)"
    done = run("-c", script, "doctor")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "'rich' is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_of_our_own_that_is_missing_keeps_its_trace() -> None:
    script = "import importlib; from planwright import console; console.run(lambda _: importlib.import_module('builders.nothing'))"
    done = run("-c", script)
    assert "Traceback" in done.stderr
