"""Plain English: the words of english.toml are nowhere in the tree, except where that file allows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import tomllib

from tests.ux._checkout import ROOT, files

LIST = "tests/ux/english.toml"
DATA = tomllib.loads((ROOT / LIST).read_text())
INSTEAD: dict[str, str] = DATA["instead"]
ALLOWED: dict[str, list[str]] = DATA["allow"]
# records of the past, texts by others, and the list itself
NOT_READ = ("CHANGELOG.md", "LICENSE", "benchmarks/results", "constraints", LIST, "tests/ux/test_english.py")
BINARY = {".png", ".npz", ".onnx", ".jpg"}


def _pattern(phrase: str) -> str:
    words = r"[\s_#]+".join(re.escape(word) for word in re.split(r"[ _]", phrase))
    return rf"(?<![a-z]){words}" + (r"(?![a-z])" if phrase[-1].isalpha() else "")


PATTERNS = {phrase: re.compile(_pattern(phrase), re.IGNORECASE) for phrase in INSTEAD}


def found(path: Path, text: str) -> Iterator[str]:
    for phrase, pattern in PATTERNS.items():
        if phrase in ALLOWED.get(str(path), []):
            continue
        lines = [text.count("\n", 0, match.start()) + 1 for match in pattern.finditer(text)]
        lines += [0] * bool(pattern.search(path.name))
        yield from (f"{path}:{line}: '{phrase}'; write: {INSTEAD[phrase]}" for line in lines)


def test_the_tree_is_in_plain_english() -> None:
    paths = [path for path in files() if path.suffix not in BINARY and not any(map(path.is_relative_to, NOT_READ))]
    assert len(paths) > 300
    wrong = [line for path in paths for line in found(path, (ROOT / path).read_text(errors="replace"))]
    assert not wrong, f"{len(wrong)} places:\n" + "\n".join(wrong)


def test_the_search_finds_words_in_any_form() -> None:
    text = "Nobody knows\nis_for_ever\nit is no\n# good, but recommend and shallow are fine; mended too"
    assert [line.split(": ")[1].split(";")[0] for line in found(Path("spoiler.py"), text)] == [
        "'nobody'",
        "'spoiler'",
        "'for ever'",
        "'is no good'",
    ]


def test_the_allowed_words_are_in_use() -> None:
    stale = [
        f"{path}: {phrase}"
        for path, phrases in ALLOWED.items()
        for phrase in phrases
        if not ((ROOT / path).exists() and PATTERNS[phrase].search((ROOT / path).read_text()))
    ]
    assert not stale
