"""Tiny models whose files are recorded as publishing records them, and ways to damage them.

In      a model folder as `tests._models` writes it.
Out     the same folder with build.json and a revision of config.pbtxt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.repository import revisions
from planwright.files import sha256, write_json
from planwright.integrity import BUILD, CONFIG, OWN_HASH, record_hash, unsealed
from tests import _models


def sealed(repository: Path, name: str) -> Path:
    """Publish the adder with labels and records of its hashes; returns the version folder."""
    folder = _models.adder(repository, name)
    version = folder / "1"
    (version / "labels.txt").write_text("one\ntwo\n")
    text = (folder / "config.pbtxt").read_text() + "version_policy { specific { versions: [1] } }\n"
    write_record(version, {"model": name, "version": 1, "trial_load": {"checks": 2}})
    revisions.write(folder, revisions.Revision(text))
    return version


def write_record(version: Path, record: dict[str, Any]) -> None:
    """Write build.json with the hashes of the files that are there, and one of itself."""
    hashes = {path.name: sha256(path) for path in version.iterdir() if path.name != BUILD}
    record = {**record, "hashes": hashes}
    write_json(version / BUILD, {**record, OWN_HASH: record_hash(record)})


def earlier(repository: Path, name: str) -> Path:
    """Publish as Planwright 0.1.0 did, without hashes of build.json and config.pbtxt; returns the version folder."""
    version = sealed(repository, name)
    record = json.loads((version / BUILD).read_text())
    write_json(version / BUILD, {key: record[key] for key in ("model", "version", "hashes")})
    config = version.parent / CONFIG
    config.write_text(unsealed(config.read_text())[0])
    return version


def swap(path: Path, before: str, after: str) -> None:
    """Replace a text that the file holds."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
