"""Projects for the tests of the TensorRT half.

In      the digits project that the whole test run builds once.
Out     `project`, a copy of it to change, and `config`, which makes a job for the TensorRT target from a config text.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.stage import Job
from tests._project import Project

MakeJob = Callable[[str], Job]


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project, for a test to change; mtimes are kept, so that nothing is due."""
    shutil.copytree(built.folder, tmp_path / "project", copy_function=shutil.copy2)
    return Project(tmp_path / "project")


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """Make the job of the first model of a config text, nothing built."""

    def make(text: str) -> Job:
        project = Project(tmp_path)
        project.config.write_text(text)
        return job_of(project)

    return make


def job_of(project: Project, target: str = "tensorrt") -> Job:
    """Read the config as for TensorRT; `target` compiles, which needs a GPU only when it is asked to."""
    from builders.targets import get_target
    from planwright.config.load import load_spec
    from planwright.files import HashCache

    spec, build = load_spec(project.config, "tensorrt"), project.folder / "build"
    chosen = get_target(target, spec.server)
    return Job(
        spec.models[0], spec.root, build, project.repository, chosen, spec.server, HashCache(build / "hashes.json")
    )
