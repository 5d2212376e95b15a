"""Versions, rollback, lint, pruning, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builders import pbtxt
from tests._project import ROOT, Project


def republish(project: Project, relative: float) -> None:
    """Change a tolerance, which is part of a version's identity."""
    text = project.config.read_text()
    lines = [line for line in text.splitlines() if "accept:" not in line]
    lines.insert(4, f"    accept: {{scores: {{relative: {relative}}}}}")
    project.config.write_text("\n".join(lines) + "\n")
    done = project.build()
    assert done.code == 0, done.out


def served(project: Project) -> list[int]:
    return list(pbtxt.parse((project.repository / "digits/config.pbtxt").read_text()).version_policy.specific.versions)


def test_config_pbtxt_comes_from_the_engine(built: Project) -> None:
    config = pbtxt.parse((built.repository / "digits/config.pbtxt").read_text())
    assert (config.platform, config.backend, config.runtime) == ("onnxruntime_onnx", "onnxruntime", "")
    assert config.max_batch_size == 8
    assert [(item.name, list(item.dims)) for item in config.input] == [("image", [8, 8])]
    assert config.output[0].label_filename == "1/labels.txt"
    assert config.instance_group[0].count == 1


def test_build_json_says_what_was_built_from_what(built: Project) -> None:
    record = json.loads((built.repository / "digits/1/build.json").read_text())
    assert record["target"] == "onnxruntime"
    assert record["weights"] == "real"
    assert record["checks"]["score"]["accuracy"] >= 0.97
    assert set(record["hashes"]) == {"model.onnx", "golden.npz", "labels.txt", "config.pbtxt"}
    assert record["stages"]["export"]["tools"]["torch"]


def test_a_new_version_is_added_and_rolled_back(project: Project) -> None:
    republish(project, 0.002)
    assert served(project) == [2]
    assert (project.repository / "digits/1/model.onnx").is_file()
    assert project.builders("rollback", "digits").code == 0
    assert served(project) == [1]
    again = project.builders("rollback", "digits")
    assert again.code == 1
    assert "none is older" in again.err
    assert project.build().code == 0
    assert served(project) == [2], "what config.yaml asks for is whole on disk, so it is served again"


def test_old_versions_are_pruned_after_the_switch(project: Project) -> None:
    for relative in (0.002, 0.003, 0.004):
        republish(project, relative)
    assert served(project) == [4]
    assert sorted(path.name for path in (project.repository / "digits").iterdir() if path.is_dir()) == ["2", "3", "4"]


def test_several_versions_are_served(project: Project) -> None:
    project.edit("    score:", "    versions: 2\n    score:")
    republish(project, 0.002)
    assert served(project) == [1, 2]


def test_a_whole_orphan_version_is_adopted_and_a_damaged_one_is_not(project: Project) -> None:
    republish(project, 0.002)
    shutil.copy(project.repository / "digits/1/config.pbtxt", project.repository / "digits/config.pbtxt")
    assert project.build().code == 0
    assert served(project) == [2]
    shutil.copy(project.repository / "digits/1/config.pbtxt", project.repository / "digits/config.pbtxt")
    (project.repository / "digits/2/golden.npz").write_bytes(b"half")
    assert project.build().code == 0
    assert served(project) == [3]


def test_lint_finds_edited_files(project: Project) -> None:
    assert project.builders("lint", "--config", str(project.config)).code == 0
    path = project.repository / "digits/config.pbtxt"
    path.write_text(
        path.read_text().replace("dims: [8, 8]", "dims: [8, 9]").replace("max_batch_size: 8", "max_batch_size: 16")
    )
    done = project.builders("lint", "--config", str(project.config), "--json")
    assert done.code == 1
    found = " ".join(item["what"] for item in json.loads(done.out))
    assert "input 'image' differs" in found
    assert "max_batch_size differs from config.yaml" in found


def test_lint_finds_changed_bytes(project: Project) -> None:
    with (project.repository / "digits/1/model.onnx").open("ab") as stream:
        stream.write(b"x")
    done = project.builders("lint", "--config", str(project.config), "--json")
    assert done.code == 1
    assert "model.onnx is not what was published" in done.out


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only file system needs root")
def test_a_read_only_repository_is_told_and_nothing_is_lost(project: Project) -> None:
    before = project.state()
    subprocess.run(["mount", "--bind", str(project.repository), str(project.repository)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(project.repository)], check=True)
        project.edit("max: 8", "max: 16")
        done = project.build()
    finally:
        subprocess.run(["umount", str(project.repository)], check=True)
    assert done.code == 3
    assert "Read-only file system" in done.out
    assert project.state() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_told_and_the_next_build_goes_on(project: Project, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)], check=True)
    try:
        done = project.build("--build", str(small / "build"), "--repository", str(small / "repository"))
        assert done.code == 3, done.out
        assert "No space left on device" in done.out
        assert not (small / "repository" / "digits").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert project.build("--build", str(small / "build"), "--repository", str(small / "repository")).code == 0
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_killed_builds_leave_the_repository_whole() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/kill_builds.py", "--builds", "10", "--no-record"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 builds killed" in done.stdout
