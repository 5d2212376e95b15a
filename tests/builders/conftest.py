"""A small project built once: digits from training to a published version, and a copy of it for each test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
version: 1
models:
  digits:
    source: zoo/digits
    batch: {min: 1, opt: 4, max: 8}
    score: {accuracy: 0.97}
    serve:
      instance_group: [{count: 1}]
      dynamic_batching: {max_queue_delay_microseconds: 500}
"""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Project:
    """A folder with a config.yaml, its build folder and its repository."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def repository(self) -> Path:
        return self.folder / "model_repository"

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def build(self, *flags: str) -> Done:
        return self.run("builders/build_all.py", "--config", str(self.config), *flags)

    def builders(self, command: str, *flags: str) -> Done:
        return self.run("-m", "builders", command, "--repository", str(self.repository), *flags)

    def run(self, *words: str) -> Done:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def state(self) -> dict[str, bytes]:
        """Every published file and its bytes."""
        files = (path for path in self.repository.rglob("*") if path.is_file())
        return {str(path.relative_to(self.repository)): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Digits, built; read only."""
    project = Project(tmp_path_factory.mktemp("built"))
    project.config.write_text(CONFIG)
    done = project.build()
    assert done.code == 0, done.out + done.err
    return project


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project, for a test to change; mtimes are kept, so that nothing is due."""
    shutil.copytree(built.folder, tmp_path / "project", copy_function=shutil.copy2)
    return Project(tmp_path / "project")


@pytest.fixture
def empty(tmp_path: Path) -> Callable[[str], Project]:
    """Make a project from a config text, nothing built."""

    def make(text: str) -> Project:
        project = Project(tmp_path / "empty")
        project.folder.mkdir()
        project.config.write_text(text)
        return project

    return make
