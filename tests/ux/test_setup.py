"""``make setup``: what it reports on a machine that lacks something, and that what it installs fits pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.ux._checkout import ROOT, copy_to

NEEDS = "this machine lacks what Planwright needs"


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planwright_setup_machine", ROOT / "deploy/setup/machine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def prepare(
    *flags: str, root: Path = ROOT, python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run(
        [python, "deploy/setup/prepare.py", *flags], cwd=root, capture_output=True, text=True, env=env
    )


def test_nothing_to_do_takes_no_time() -> None:
    start = time.monotonic()
    done = subprocess.run(["make", "setup"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert time.monotonic() - start < 2


def test_all_that_is_missing_is_reported_at_once(tmp_path: Path) -> None:
    done = prepare("--check", PATH=str(tmp_path))
    assert done.returncode == 3
    assert NEEDS in done.stdout
    for word in ("- git", "- bash", "- Python 3.11 or 3.12", "fix    apt-get install git bash python3"):
        assert word in done.stdout


def test_without_any_python_the_message_is_the_same(tmp_path: Path) -> None:
    for tool in ("sh", "bash", "make", "grep"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(["make", "setup"], cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 2  # make's own code for a failed recipe, which it names
    assert "Error 3" in done.stderr
    assert done.stdout == prepare("--check", PATH=str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (("python3.13", "3.13", "3.13.0", True, True), ["- Python 3.11 or 3.12", "this is 3.13.0"]),
        (("python3.11", "3.11", "3.11.2", False, True), ["venv for python3.11", "apt-get install python3.11-venv"]),
        (("python3.12", "3.12", "3.12.3", True, False), ["a shared libpython3.12", "apt-get install libpython3.12"]),
        (("python3.12", "3.12", "3.12.3", False, False), ["apt-get install python3.12-venv libpython3.12"]),
    ],
)
def test_what_a_python_lacks(machine: ModuleType, found: tuple[str, str, str, bool, bool], words: list[str]) -> None:
    text = machine.render(machine.python_problems(machine.Python(*found), False))
    for word in words:
        assert word in text


def test_python_3_10_will_do_for_serving_only(machine: ModuleType) -> None:
    ten = machine.Python("python3.10", "3.10", "3.10.13", True, True)
    assert not machine.python_problems(ten, True)
    assert machine.python_problems(ten, False)


def test_a_full_disk_is_named(machine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)  # a full disk cannot be had without root
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    assert "6 GiB of disk space" in machine.render(machine.disk_problems(tmp_path))
    assert "1.0 GiB are free" in machine.render(machine.disk_problems(tmp_path))


def test_this_machine_is_ready() -> None:
    done = prepare("--check", "--python", getattr(sys, "_base_executable", sys.executable))
    assert done.returncode == 0, done.stdout
    assert "ready" in done.stdout


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A copy of the checkout without environments, and with locks of one package each."""
    copy_to(tmp_path)
    for name in (".venv", ".venv-server", ".tritonserver"):
        (tmp_path / name).unlink()
    for lock in ("py311.txt", "server.txt"):
        (tmp_path / "constraints" / lock).write_text("typing_extensions==4.16.0\n")
    wheel = ROOT / ".tritonserver"  # the real one is 144 MB: unpacked already, so only its stamp is needed
    (tmp_path / ".tritonserver").symlink_to(wheel)
    return tmp_path


@pytest.mark.network
@pytest.mark.skipif(sys.version_info < (3, 11), reason="sets up everything, which needs Python 3.11")
def test_a_killed_setup_is_rebuilt_and_a_changed_lock_is_followed(small: Path) -> None:
    (small / ".venv/lib").mkdir(parents=True)  # a kill left a folder without a stamp
    (small / ".venv/pyvenv.cfg").write_text("version = 3.11.0\n")
    python = getattr(sys, "_base_executable", sys.executable)
    first = prepare("--python", python, root=small)
    assert first.returncode == 0, first.stdout + first.stderr
    assert ".venv: Python" in first.stdout
    assert ".venv-server: ready" in first.stdout
    (small / "constraints/server.txt").write_text("typing_extensions==4.16.0\nidna==3.20\n")
    second = prepare(root=small)
    assert second.returncode == 0, second.stdout + second.stderr
    assert ".venv-server: ready" in second.stdout
    assert ".venv: " not in second.stdout
    assert list((small / ".venv-server").glob("lib/*/site-packages/idna"))


@pytest.mark.network
def test_a_package_that_cannot_be_had_is_exit_3(small: Path) -> None:
    (small / "constraints/py311.txt").write_text("typing_extensions==0.0.0.dev999\n")
    done = prepare("--python", getattr(sys, "_base_executable", sys.executable), root=small)
    assert done.returncode == 3
    assert "fix " in done.stdout
    assert "Traceback" not in done.stderr


def locked(name: str) -> dict[str, str]:
    lines = [
        line for line in (ROOT / "constraints" / name).read_text().splitlines() if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), (
        "plain name==version: no hashes, URLs or local tags"
    )
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "constraints").glob("*.txt")))
def test_constraints_are_plain_and_sorted(name: str) -> None:
    names = [
        line.lower() for line in (ROOT / "constraints" / name).read_text().splitlines() if not line.startswith("#")
    ]
    assert names == sorted(names)
    assert locked(name)


def test_what_pyproject_requires_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        Requirement(text)
        for texts in [project["dependencies"], *project["optional-dependencies"].values()]
        for text in texts
        if not text.startswith("planwright[")  # other extras of its own
    ]
    versions = locked("autocast.txt") | locked("py311.txt")
    wrong = [
        str(item) for item in required if not item.specifier.contains(versions.get(canonicalize_name(item.name), "0"))
    ]
    missing = [str(item) for item in required if canonicalize_name(item.name) not in versions]
    assert not wrong + missing


def test_the_running_environment_is_the_locked_one() -> None:
    from importlib.metadata import version

    lock = locked("py311.txt" if sys.version_info >= (3, 11) else "py310.txt")
    # make setup-tensorrt brings the cuda-python that fits an older driver
    beside = locked("tensorrt-cu12.txt") if (Path(sys.prefix) / ".planwright-tensorrt").exists() else {}
    found = {name: version(name).partition("+")[0] for name in lock}
    assert not {name: here for name, here in found.items() if here not in (lock[name], beside.get(name))}


def test_the_stubs_never_get_numpy_2() -> None:
    for server, project in (("server.txt", "py311.txt"), ("server310.txt", "py310.txt")):
        assert locked(server)["numpy"].startswith("1.26.")
        assert locked(server)["onnxruntime"] == locked(project)["onnxruntime"]
