"""A project in another folder: every command finds its models where `build_all.py --config` published them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planwright.config_pbtxt import served
from planwright.errors import MachineError
from planwright.own_server import free_ports
from planwright.repository_folder import repository_folder, require_repository
from planwright.server_info import ServerInfo
from tests._project import ROOT, Project

ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def other(built: Project, tmp_path: Path) -> Project:
    project = Project(tmp_path / "other")
    shutil.copytree(built.folder, project.folder, copy_function=shutil.copy2)
    return project


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The current folder of the commands, which holds no project."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def run(here: Path, *words: str, code: int = 0) -> Any:
    command = [sys.executable, *words, "--json"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=300, env=ENV)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def server(here: Path, other: Project) -> Iterator[ServerInfo]:
    ports = zip(("http", "grpc", "metrics"), free_ports(), strict=True)
    command = [sys.executable, "-m", "serving", "--json", "--config", str(other.config), "--model-control-mode=explicit",
               "--load-model=*", *(f"--{name}-port={port}" for name, port in ports)]  # fmt: skip
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True, env=ENV) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            info = ServerInfo.read(here / ".planwright/server.json")
            assert info is not None
            yield info
        finally:
            process.send_signal(signal.SIGTERM)


def test_every_command_has_the_same_answer(here: Path, other: Project, server: ServerInfo) -> None:
    config = ("--config", str(other.config))
    assert Path(server.repository) == other.repository
    assert run(here, "-m", "builders", "lint", *config) == []
    other.edit("    score:", "    accept: {scores: {relative: 0.002}}\n    score:")
    run(here, str(ROOT / "builders/build_all.py"), *config)
    assert served(other.repository / "digits") == [2]
    for flags in (config, ()):  # named, and as the server running here says
        rows = run(here, "-m", "clients", "validate", "--transport", "http", *flags)["rows"]
        assert {row["version"] for row in rows} == {"2"}
    assert run(here, "-m", "builders", "rollback", "digits", *config)["now"] == 1
    run(here, str(ROOT / "builders/build_all.py"), *config)
    assert run(here, "-m", "builders", "rollback", "digits")["now"] == 1, "as the server running here says"
    rows = run(here, "-m", "clients", "validate", "--transport", "http", *config)["rows"]
    assert {row["version"] for row in rows} == {"1"}
    assert not (here / "model_repository").exists()


def test_a_server_does_not_change_where_another_config_publishes(
    here: Path, other: Project, server: ServerInfo
) -> None:
    shutil.copy2(other.config, here / "config.yaml")
    shutil.copytree(other.folder / "build", here / "build", copy_function=shutil.copy2)
    before = other.state()
    run(here, str(ROOT / "builders/build_all.py"), "--no-trial-load")
    assert served(here / "model_repository" / "digits") == [1]
    assert other.state() == before


@pytest.mark.parametrize("command", [("builders", "rollback", "digits"), ("clients", "validate"), ("serving",)])
def test_where_there_is_nothing_the_folder_is_named(here: Path, other: Project, command: tuple[str, ...]) -> None:
    shutil.rmtree(other.repository)
    for flags, folder in ((("--config", str(other.config)), other.repository), ((), Path("model_repository"))):
        words = subprocess.run(
            [sys.executable, "-m", *command, *flags], cwd=here, capture_output=True, text=True, timeout=60, env=ENV
        )
        assert words.returncode in (2, 3)
        assert "there is no model repository" in words.stderr
        assert f"where  {folder}\n" in words.stderr


def test_the_order(tmp_path: Path) -> None:
    file, named, config = tmp_path / "server.json", tmp_path / "named", tmp_path / "project/config.yaml"
    info = ServerInfo(os.getpid(), "", "", "", "", "none", "", "", str(tmp_path / "served"))
    info.write(file)
    assert repository_folder(named, file, config=config) == named
    assert repository_folder(None, file, config=config) == tmp_path / "project/model_repository"
    assert repository_folder(None, file) == tmp_path / "served"
    assert repository_folder(None, tmp_path / "absent.json") == Path("model_repository")
    assert repository_folder(None, None, config=Path("config.yaml")) == Path("model_repository")
    for flags in ({"given": named}, {"config": config}, {"server_file": file}):
        with pytest.raises(MachineError) as error:
            require_repository(**flags)
        assert error.value.faults[0].why
