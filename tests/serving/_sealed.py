"""Tiny models whose files are recorded as publishing records them, and ways to damage them.

In      a model folder as `tests._models` writes it.
Out     the same folder with build.json and a revision of config.pbtxt.
"""

from __future__ import annotations

from pathlib import Path

from builders import revisions
from planwright.files import sha256, write_json
from planwright.integrity import OWN_HASH, record_hash
from tests import _models


def sealed(repository: Path, name: str) -> Path:
    """Publish the adder with labels and records of its hashes; returns the version folder."""
    folder = _models.adder(repository, name)
    version = folder / "1"
    (version / "labels.txt").write_text("one\ntwo\n")
    text = (folder / "config.pbtxt").read_text() + "version_policy { specific { versions: [1] } }\n"
    record = {"model": name, "version": 1, "hashes": {path.name: sha256(path) for path in version.iterdir()}}
    write_json(version / "build.json", {**record, OWN_HASH: record_hash(record)})
    revisions.write(folder, revisions.Config(text))
    return version


def flip(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
