"""Versions, rollback, lint, pruning, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planwright.config_pbtxt import parse
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
    return list(parse((project.repository / "digits/config.pbtxt").read_text()).version_policy.specific.versions)


def test_config_pbtxt_comes_from_the_engine(built: Project) -> None:
    config = parse((built.repository / "digits/config.pbtxt").read_text())
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
    assert served(project) == [2], "the version for config.yaml is complete on disk, so it is served again"


def delay(project: Project, us: int) -> None:
    """Change `serve` alone."""
    text = project.config.read_text()
    project.config.write_text(re.sub(r"max_queue_delay_microseconds: \d+", f"max_queue_delay_microseconds: {us}", text))
    done = project.build()
    assert done.code == 0, done.out


def served_delay(project: Project) -> int:
    config = parse((project.repository / "digits/config.pbtxt").read_text())
    return int(config.dynamic_batching.max_queue_delay_microseconds)


def back(project: Project) -> dict[str, Any]:
    done = project.builders("rollback", "digits", "--json")
    assert done.code == 0, done.err
    step: dict[str, Any] = json.loads(done.out)
    return step


def test_a_change_of_serve_is_rolled_back_before_the_version_is(project: Project) -> None:
    delay(project, 700)
    republish(project, 0.002)
    delay(project, 900)
    delay(project, 800)
    steps, seen = [], []
    for _ in range(4):
        steps.append(back(project))
        seen.append((served(project), served_delay(project)))
    assert seen == [([2], 900), ([2], 700), ([1], 700), ([1], 500)]
    assert [step["change"] for step in steps] == ["serve", "serve", "version", "serve"]
    assert steps[0]["fields"] == ["dynamic_batching"]
    assert project.builders("rollback", "digits").code == 1
    assert project.build().code == 0
    assert (served(project), served_delay(project)) == ([2], 800), "config.yaml still selects the newest"
    back(project)
    assert (served(project), served_delay(project)) == ([1], 500), "what was rolled back is not what came before"


def test_a_rolled_back_config_is_the_file_that_was_published(project: Project) -> None:
    before = (project.repository / "digits/config.pbtxt").read_bytes()
    delay(project, 700)
    back(project)
    assert (project.repository / "digits/config.pbtxt").read_bytes() == before
    found = project.builders("lint", "--config", str(project.config), "--json")
    assert [item["what"] for item in json.loads(found.out)] == ["dynamic_batching differs from config.yaml"]


def test_going_back_passes_over_a_damaged_version(project: Project) -> None:
    republish(project, 0.002)
    republish(project, 0.003)
    (project.repository / "digits/2/labels.txt").write_text("other\n")
    assert back(project)["now"] == 1


def test_an_edited_config_is_found_and_never_becomes_the_past(project: Project) -> None:
    path = project.repository / "digits/config.pbtxt"
    path.write_text(path.read_text().replace("microseconds: 500", "microseconds: 501"))
    done = project.builders("lint", "--config", str(project.config), "--json")
    assert "config.pbtxt is not what was published" in done.out
    delay(project, 700)
    assert project.builders("rollback", "digits").code == 1, "what was edited by hand was never published"


def test_a_repository_of_an_earlier_planwright_is_taken_over(project: Project) -> None:
    republish(project, 0.002)
    path = project.repository / "digits/config.pbtxt"
    path.write_text((project.repository / "digits/2/config.pbtxt").read_text())
    for record in project.repository.glob("digits/*/build.json"):
        known = json.loads(record.read_text())
        record.write_text(json.dumps({key: known[key] for key in known if key not in ("sha256", "trial_load")}))
    assert project.builders("lint", "--config", str(project.config)).code == 0
    done = project.build("--json")
    assert json.loads(done.out)["models"][0]["note"] == "unchanged"
    assert back(project)["now"] == 1
    assert project.build().out.count("kept") >= 1


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


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "labels.txt", "build.json", "added.so"])
def test_lint_finds_changed_bytes_and_a_build_repairs_them(project: Project, file: str) -> None:
    path = project.repository / "digits/1" / file
    stat = path.stat() if path.exists() else None
    content = path.read_bytes() if stat else b""
    at = content.find(b"accuracy") if file == "build.json" else len(content) // 2
    path.write_bytes(content[:at] + bytes([(content[at] if content else 0) ^ 1]) + content[at + 1 :])
    if stat:  # as on a failing disk: size and time are unchanged
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = project.builders("lint", "--config", str(project.config), "--json")
    assert done.code == 1
    [finding] = json.loads(done.out)
    assert f"{file} is not what was published" in finding["what"]
    repair = finding["fix"].removeprefix("python builders/build_all.py digits ")
    assert project.build("digits", repair).code == 0
    assert served(project) == [2]
    assert project.builders("lint", "--config", str(project.config)).code == 0


def in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def renamed(path: Path) -> None:
    path.write_text(path.read_text().replace('"hashes"', '"hasher"').replace('"inputs"', '"inputt"'))


@pytest.mark.parametrize(
    ("file", "change", "repaired"),
    [
        ("1/build.json", in_its_place, [2]),
        ("1/build.json", renamed, [2]),
        ("1/build.json", lambda path: path.write_text("[1]"), [2]),
        ("config.pbtxt", Path.unlink, [1]),
        ("config.pbtxt", lambda path: path.write_bytes(b"\xff" + path.read_bytes()), [1]),
    ],
    ids=["folder", "renamed", "list", "gone", "binary"],
)
def test_what_says_that_it_was_published_is_linted_and_repaired_too(
    project: Project, file: str, change: Callable[[Path], None], repaired: list[int]
) -> None:
    path = project.repository / "digits" / file
    change(path)
    found = project.builders("lint", "--config", str(project.config), "--json")
    assert found.code == 1
    assert [(item["where"], path.name in item["what"]) for item in json.loads(found.out)] == [(str(path), True)]
    assert project.builders("rollback", "digits").code == 1
    assert project.build("digits", "--verify-hashes").code == 0
    assert served(project) == repaired
    assert project.builders("lint", "--config", str(project.config)).code == 0


def test_a_file_whose_name_is_no_text_is_named_all_the_same(project: Project) -> None:
    (project.repository / os.fsdecode(b"digits/1/\xff.so")).touch()
    command = [
        sys.executable,
        "-m",
        "builders",
        "lint",
        "--repository",
        str(project.repository),
        "--config",
        str(project.config),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert r"\udcff.so is not what was" in done.stdout


def test_what_lies_beside_the_versions_is_named_with_the_fix_that_helps(project: Project) -> None:
    path = project.repository / "digits/libtriton_onnxruntime.so"
    path.touch()
    [finding] = json.loads(project.builders("lint", "--config", str(project.config), "--json").out)
    assert (finding["where"], finding["fix"].split(",")[0]) == (str(path), "remove it")


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
