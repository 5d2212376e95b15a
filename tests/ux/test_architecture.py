"""docs/architecture.md is true: its picture, its folders, and every name it refers to."""

from __future__ import annotations

import ast
import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.ux._checkout import ROOT, files, package_files

PAGES = [ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"]
TEXT = "\n".join(page.read_text() for page in PAGES)
QUESTIONS = ("version is served", "tolerances", "time out", "retried", "percentiles", "instance counts", "next version",
             "Poisson", "max_batch_size", "exit code")  # fmt: skip


def names(place: Path) -> set[str]:
    """Return what a file defines at its top level, and the members of its classes as ``Class.member``."""
    found: set[str] = set()
    for node in ast.parse((ROOT / place).read_text()).body:
        found |= defined(node)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for part in node.body for name in defined(part)}
    return found


def defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


def svg() -> str:
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.draw())


def test_the_picture_is_current() -> None:
    hint = "draw it again: python docs/architecture.py > docs/architecture.svg"
    assert (ROOT / "docs/architecture.svg").read_text() == svg(), hint


def test_the_picture_shows_every_package_and_stage() -> None:
    from builders.pipeline import NAMES

    shown = {element.text for element in ET.fromstring(svg()).iter() if element.text}
    packages = {f"{path.parts[0]}/" for path in package_files()}
    assert {*packages, *NAMES} <= shown


def test_every_folder_has_a_line() -> None:
    listed = re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    there = {str(path.parent) for path in package_files()} | {"tests"}
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == there


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`([\w/]+\.py::[\w.]+)`", TEXT))))
def test_a_name_that_is_referred_to_exists(reference: str) -> None:
    place, _, name = reference.partition("::")
    assert name in names(Path(place))


def test_paths_that_are_referred_to_exist() -> None:
    paths = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", TEXT))
    generated = {"model_repository/", "results/", "build/", "runs/"}
    tracked = {str(path) for path in files()}
    folders = {f"{parent}/" for path in files() for parent in path.parents}
    assert len(paths) > 10
    assert not paths - tracked - folders - generated


def test_each_question_has_one_answer() -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition("## Where is it decided?")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and line.count(".py::")]
    assert len(rows) == len(QUESTIONS)
    assert all(any(question in row for row in rows) for question in QUESTIONS)
