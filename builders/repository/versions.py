"""The published repository: what is there, what is served, and the renames that change it.

In      model_repository/.
Out     `Published`, one model as published, and two of the three writes: a new version folder and pruning; the third,
        config.pbtxt, is in `builders.repository.revisions`.

A version folder never changes once it has its name. config.pbtxt is the only file that is replaced, by rename. So a
kill at any instant leaves the repository as it was or fully new.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planwright.config_pbtxt import parse, specific
from planwright.errors import Fault, MachineError
from planwright.files import read_json, sha256
from planwright.integrity import BUILD, CONFIG, HashOf, read_text, version_damage, versions_in


@dataclass(frozen=True)
class Published:
    folder: Path

    @property
    def exists(self) -> bool:
        return os.path.isfile(self.folder / CONFIG)

    def config(self) -> Any:
        """Return the ModelConfig message of config.pbtxt, None where there is none that can be read."""
        try:
            return parse(read_text(self.folder / CONFIG)) if self.exists else None
        except ValueError:  # someone edited the file; it will be written again
            return None

    def served(self) -> list[int]:
        """Return the versions that config.pbtxt serves, oldest first."""
        config = self.config()
        return specific(config) if config is not None else []

    def versions(self) -> list[int]:
        """Return the version folders on disk, oldest first."""
        return versions_in(self.folder)

    def build(self, version: int) -> dict[str, Any]:
        """Return a version's build.json; empty where it cannot be read."""
        record = read_json(self.folder / str(version) / BUILD)
        return record if isinstance(record, dict) else {}

    def whole(self, version: int, hash_of: HashOf = sha256) -> bool:
        """True where the version holds the files that its build.json names, and no others, with the bytes they had."""
        return not version_damage(self.folder / str(version), hash_of)

    def find(self, identity: str) -> int | None:
        """Return the newest whole version with this identity, also one that a killed run left unserved."""
        for version in reversed(self.versions()):
            if self.build(version).get("identity") == identity and self.whole(version):
                return version
        return None

    def next_version(self) -> int:
        """Return a number above every folder's, which nothing else has for its name."""
        number = max(self.versions(), default=0) + 1
        while os.path.lexists(self.folder / str(number)):
            number += 1
        return number


def staging(build: Path, repository: Path, model: str) -> Path:
    """Return a fresh folder for assembly; raises MachineError if it is not writable or a rename into the repository is not atomic."""
    folder = build / ".staging" / f"{model}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        repository.mkdir(parents=True, exist_ok=True)
        probe, landed = folder / ".probe", repository / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.rename(landed)
        landed.unlink()
    except OSError as error:
        raise MachineError(_unwritable(build, repository, error)) from None
    return folder


def _unwritable(build: Path, repository: Path, error: OSError) -> Fault:
    if error.errno == errno.EXDEV:
        why = f"{build} and {repository} are on different file systems, so a version could be seen half written"
        fix = "put the build folder on the same disk (--build)"
        return Fault("cannot publish in one step", str(repository), why, fix)
    fixes = {errno.EROFS: "mount it writable", errno.EACCES: "give yourself write permission",
             errno.ENOSPC: "free some disk space"}  # fmt: skip
    why, fix = error.strerror or str(error), fixes.get(error.errno or 0, "make it writable")
    return Fault("cannot write to the repository", str(repository), why, fix, "python -m builders doctor")


def sweep_staging(build: Path) -> None:
    """Remove what killed runs left in the staging folder; a folder of a live process stays."""
    for folder in (build / ".staging").glob("*-*"):
        pid = folder.name.rpartition("-")[2]
        if not (pid.isdigit() and Path(f"/proc/{pid}").exists()):
            shutil.rmtree(folder, ignore_errors=True)


def prune(published: Published, keep: int) -> list[int]:
    """Remove the oldest versions beyond `keep`, never one that is served."""
    served = set(published.served())
    old = [version for version in published.versions() if version not in served]
    excess = len(published.versions()) - keep
    removed = old[: max(excess, 0)]
    for version in removed:
        # renamed first: Triton must not take a half deleted folder for a version
        doomed = published.folder / f".{version}.removed"
        (published.folder / str(version)).rename(doomed)
        doomed.unlink() if doomed.is_symlink() else shutil.rmtree(doomed)
    for leftover in published.folder.glob(".*.removed"):
        shutil.rmtree(leftover, ignore_errors=True)
    return removed
