"""Whether a published model still has the bytes that were published.

In      a model folder of the repository and the versions that are served from it.
Out     one `Damage` per file that was changed, is missing, or was added.

A version's files are those that its build.json names and hashes; build.json and config.pbtxt hold a hash of themselves.
Added files count, because Triton takes a model's library, stub or other config from the model's folder before its own.
What holds no hash cannot be checked: a model of another origin, and the config.pbtxt of an earlier Planwright.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from planwright.errors import Fault
from planwright.files import digest, read_json, sha256

CONFIG, BUILD, OWN_HASH = "config.pbtxt", "build.json", "sha256"
_SEAL = re.compile(r"^# sha256 of the other lines: ([0-9a-f]{64})\n", re.MULTILINE)
# what Triton itself knows in a model's folder; warm-up data changes no answer
_WARM_UP = "warmup"

HashOf = Callable[[Path], str]


@dataclass(frozen=True)
class Damage:
    """One file that is not what was published."""

    path: Path
    kind: Literal["changed", "missing", "added"]

    def __str__(self) -> str:
        how = {"changed": "its bytes changed", "missing": "it is missing", "added": "it was added"}
        return f"{self.path.name} is not what was published: {how[self.kind]}"


def damage(model: Path, versions: Iterable[int | str], hash_of: HashOf = sha256) -> list[Damage]:
    """Compare a model folder with what was published.

    Args:
        model: ``<repository>/<model>``.
        versions: The versions that are served, or are about to be.
        hash_of: Returns a file's SHA-256; a `HashCache` may remember it.
    """
    config = model / CONFIG
    rest, digits = unsealed(_text(config))
    if digits is None and not any(recorded(path.parent) for path in model.glob(f"*/{BUILD}")):
        return [each for version in versions for each in version_damage(model / str(version), hash_of)]
    found = []
    for folder in (model / str(version) for version in versions):
        known = (folder / BUILD).exists()
        found += version_damage(folder, hash_of) if known else [Damage(folder / BUILD, "missing")]
    if not config.is_file():
        found.append(Damage(config, "missing"))
    elif digits is not None and text_hash(rest) != digits:
        found.append(Damage(config, "changed"))
    return found + [Damage(path, "added") for path in sorted(model.iterdir()) if _foreign(path)]


def seal(text: str) -> str:
    """Return the text of a config.pbtxt with its own hash as the second line."""
    first, _, others = text.partition("\n")
    return f"{first}\n# sha256 of the other lines: {text_hash(text)}\n{others}"


def unsealed(text: str) -> tuple[str, str | None]:
    """Return what `seal` was given, and the hash that the text holds; None where it holds none."""
    match = _SEAL.search(text)
    return (_SEAL.sub("", text, count=1), match[1]) if match else (text, None)


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def recorded(version: Path) -> dict[str, str]:
    """Return the hashes that a version's build.json records, empty where there are none."""
    hashes = _record(version).get("hashes")
    return hashes if isinstance(hashes, dict) else {}


def version_damage(version: Path, hash_of: HashOf = sha256) -> list[Damage]:
    """Compare one version folder with its build.json."""
    hashes = recorded(version)
    if not hashes:
        unreadable = (version / BUILD).exists() and not _record(version)
        return [Damage(version / BUILD, "changed")] if unreadable else []
    record = _record(version)
    found = [] if record.get(OWN_HASH) in (None, record_hash(record)) else [Damage(version / BUILD, "changed")]
    for name, value in hashes.items():
        path = version / name
        if not path.is_file():
            found.append(Damage(path, "missing"))
        elif hash_of(path) != value:
            found.append(Damage(path, "changed"))
    return found + [Damage(path, "added") for path in _files(version) if _name(path, version) not in {*hashes, BUILD}]


def record_hash(record: dict[str, Any]) -> str:
    """Return the hash that build.json holds of everything else in it."""
    return digest({key: value for key, value in record.items() if key != OWN_HASH})


def fault(model: str, found: Damage) -> Fault:
    """Return what to say of one file of `model`."""
    why = "its answers may differ from those that were verified"
    return Fault(f"{model}: {found}", str(found.path), why, rebuild(model), "python -m builders lint")


def rebuild(model: str) -> str:
    """Return the command that publishes `model` again from whole files."""
    return f"python builders/build_all.py {model} --verify-hashes"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _record(version: Path) -> dict[str, Any]:
    record = read_json(version / BUILD)
    return record if isinstance(record, dict) else {}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if not path.is_dir())


def _name(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder))


def _foreign(path: Path) -> bool:
    known = path.name in (CONFIG, _WARM_UP) or path.name.startswith(".") or (path.name.isdigit() and path.is_dir())
    return not known
