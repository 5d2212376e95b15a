"""A copy of the built project for each test to change, and projects from a config text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests._project import Project


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
