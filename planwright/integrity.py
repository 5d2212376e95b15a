"""Check that a published model still has the bytes that were published.

In      a model folder of the repository and the versions that are served from it.
Out     one `Damage` per file that was changed, is missing, cannot be read, or was added.

A version's files are those that its build.json names and hashes; build.json and config.pbtxt hold a hash of themselves.
The damaged byte may be in the hash itself, so a file without a hash is whole only where nothing else shows that
it should have one: Planwright 0.1.0 wrote neither hash, and fewer keys in build.json.
Added files count, because Triton takes a model's library, stub or other config from the model's folder before its own.
A model of another origin, with no build.json in any folder and no hash in config.pbtxt, cannot be checked.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from planwright.errors import Fault
from planwright.files import digest, read_json, sha256

CONFIG, BUILD, OWN_HASH = "config.pbtxt", "build.json", "sha256"
_SEAL_TEXT = "sha256 of the other lines"
_SEAL = re.compile(rf"^# {_SEAL_TEXT}: ([0-9a-f]{{64}})\n", re.MULTILINE)
# what is left of the seal where a byte of its line changed: the text, or the digits on the second line
_SEAL_LEFT = re.compile(rf'{_SEAL_TEXT}|\A[^\n]*\n[^"\n]*[0-9a-f]{{64}}$', re.MULTILINE)
_VERSION = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_LARGEST_VERSION = (1 << 63) - 1  # Triton reads an int64
# what Triton itself knows in a model's folder; warm-up data changes no answer
_WARM_UP = "warmup"
# build.json of Planwright 0.1.0; those of later ones have `trial_load` and their own hash too
_EARLIEST = frozenset(
    ["model", "version", "planwright", "identity", "created", "target", "precision", "source", "weights", "batch", "inputs",
     "outputs", "tolerances", "slo", "checks", "realised", "warnings", "hashes", "versions", "stages"]
)  # fmt: skip
_LATER = frozenset({OWN_HASH, "trial_load"})

HashOf = Callable[[Path], str]
Kind = Literal["changed", "missing", "unreadable", "added"]
_HOW: dict[Kind, str] = {
    "changed": "its bytes changed",
    "missing": "it is missing",
    "unreadable": "it cannot be read",
    "added": "it was added",
}


@dataclass(frozen=True)
class Damage:
    """One file that is not what was published."""

    path: Path
    kind: Kind

    def __str__(self) -> str:
        return f"{self.path.name} is not what was published: {_HOW[self.kind]}"


def damage(model: Path, versions: Iterable[int | str], hash_of: HashOf = sha256) -> list[Damage]:
    """Compare a model folder with what was published; a model of another origin has no damage.

    Args:
        model: ``<repository>/<model>``.
        versions: The versions that are served, or are about to be.
        hash_of: Returns a file's SHA-256; a `HashCache` may remember it.
    """
    if not published(model):
        return []
    folders = [model / str(version) for version in versions]
    found = [each for folder in folders for each in version_damage(folder, hash_of)]
    return found + config_damage(model, folders) + _added(model, _known)


def published(model: Path) -> bool:
    """Return whether Planwright published a model, by any trace of it; a folder that cannot be read may be ours."""
    try:
        return _SEAL_TEXT in read_text(model / CONFIG) or any(os.path.lexists(path / BUILD) for path in model.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def models(repository: Path) -> list[str]:
    """Return the models that Planwright published in a repository, in order; none where there is no such folder."""
    if not repository.is_dir():
        return []
    return sorted(folder.name for folder in repository.iterdir() if folder.is_dir() and published(folder))


def versions_in(model: Path) -> list[int]:
    """Return the version folders of a model, oldest first, none where it cannot be read."""
    try:
        return sorted(int(path.name) for path in model.iterdir() if _is_version(path))
    except OSError:
        return []


def read_text(path: Path) -> str:
    """Return a text as it is, line ends included; empty where there is no file or it cannot be read."""
    try:
        return path.read_bytes().decode(errors="replace") if path.is_file() else ""
    except OSError:
        return ""


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


def version_damage(version: Path, hash_of: HashOf = sha256) -> list[Damage]:
    """Compare one version folder with its build.json."""
    record = _record(version)
    hashes = _hashes(record)
    found = _judge(version / BUILD, lambda: _whole(record))
    for name, value in hashes.items():
        found += _judge(version / name, partial(_has_hash, version / name, value, hash_of))
    return found + (_added(version, lambda path: path.name in {*hashes, BUILD}) if hashes else [])


def config_damage(model: Path, versions: Iterable[Path]) -> list[Damage]:
    """Compare config.pbtxt with the hash that it holds, or should hold beside these version folders."""
    rest, digits = unsealed(read_text(model / CONFIG))
    if digits is not None:
        return _judge(model / CONFIG, lambda: text_hash(rest) == digits)
    later = any(_LATER & _record(version).keys() for version in versions)
    return _judge(model / CONFIG, lambda: not later and not _SEAL_LEFT.search(rest))


def record_hash(record: dict[str, Any]) -> str:
    """Return the hash that build.json holds of everything else in it."""
    return digest({key: value for key, value in record.items() if key != OWN_HASH})


def fault(model: str, found: Damage) -> Fault:
    """Return the error for one file of `model`."""
    why = "its answers may differ from those that were verified"
    fix = rebuild(model)
    if found.kind == "added" and found.path.parent.name == model:  # a new version would not take it away
        fix = f"remove it, then {fix}"
    elif found.kind == "unreadable":
        fix = f"make it a file that can be read, or {fix}"
    return Fault(f"{model}: {found}", str(found.path), why, fix, "python -m builders lint")


def rebuild(model: str) -> str:
    """Return the command that publishes `model` again from whole files."""
    return f"python builders/build_all.py {model} --verify-hashes"


def _record(version: Path) -> dict[str, Any]:
    record = read_json(version / BUILD)
    return record if isinstance(record, dict) else {}


def _hashes(record: dict[str, Any]) -> dict[str, str]:
    hashes = record.get("hashes")
    return hashes if isinstance(hashes, dict) else {}


def _whole(record: dict[str, Any]) -> bool:
    """Return whether build.json is as it was written, as far as it can say so."""
    if not _hashes(record):
        return False
    return record[OWN_HASH] == record_hash(record) if OWN_HASH in record else record.keys() <= _EARLIEST


def _has_hash(path: Path, value: str, hash_of: HashOf) -> bool:
    return hash_of(path) == value


def _judge(path: Path, right: Callable[[], bool]) -> list[Damage]:
    """Return the damage of one file, none where it can be read and is `right`."""
    try:
        path.lstat()
        if not path.is_file():  # opening a pipe would block
            return [Damage(path, "unreadable")]
        with path.open("rb") as stream:
            stream.read(1)
        return [] if right() else [Damage(path, "changed")]
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name in a damaged record
        return [Damage(path, "missing")]
    except OSError:
        return [Damage(path, "unreadable")]


def _added(folder: Path, known: Callable[[Path], bool]) -> list[Damage]:
    try:
        return [Damage(path, "added") for path in sorted(folder.iterdir()) if not known(path)]
    except OSError:
        return [Damage(folder, "unreadable")]


def _known(path: Path) -> bool:
    """Return whether an entry of a model's folder is none that Triton could take for something else."""
    name = path.name
    return name in (CONFIG, _WARM_UP) or name.startswith(".") or _is_version(path)


def _is_version(path: Path) -> bool:
    return bool(_VERSION.fullmatch(path.name)) and int(path.name) <= _LARGEST_VERSION and path.is_dir()
