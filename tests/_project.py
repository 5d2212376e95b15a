"""A project folder of a test: config.yaml, its build folder, its repository, and the commands that work on them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from planwright.files import ROOT as ROOT  # tests import it from here

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
