"""Files that are never half written, and hashes that are not taken twice.

In      paths, JSON values.
Out     `write_atomic`, `write_json`, `read_json`, `sha256`, and `HashCache`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]  # the checkout


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write beside `path` and rename over it, so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Write `value` as readable JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode(), mode)


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`, or None where there is no file, or none that can be read as JSON."""
    try:
        return json.loads(path.read_text()) if path.is_file() else None  # a pipe would block
    except (OSError, ValueError, RecursionError):  # damage can also nest too deep, or make a number too long
        return None


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class HashCache:
    """File hashes remembered by (path, size, mtime_ns, inode).

    Args:
        path: Where to keep them between runs.
        trust: False reads every file's bytes (``--verify-hashes``).
    """

    def __init__(self, path: Path, *, trust: bool = True) -> None:
        self._path, self._trust = path, trust
        stored = read_json(path)
        self._known: dict[str, list[Any]] = stored if isinstance(stored, dict) else {}
        self._changed = False

    def of(self, path: Path, *, read: bool = False) -> str:
        """Return the hash of `path`; `read` (publish) or an untrusting cache reads the bytes again."""
        stat = path.stat()
        identity = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(path.absolute()))
        if known and known[:3] == identity and self._trust and not read:
            return str(known[3])
        value = sha256(path)
        self._known[str(path.absolute())] = [*identity, value]
        self._changed = True
        return value

    def remember(self, key: str, compute: Callable[[], list[str]]) -> list[str]:
        """Return what `compute` gives, which is called once per key: a key names the content that the answer follows from."""
        if key not in self._known:
            self._known[key] = compute()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        """Write the cache if anything was added; on a full disk the hashes are simply taken again next time."""
        if self._changed:
            with contextlib.suppress(OSError):
                write_json(self._path, self._known)
            self._changed = False


def same_files(expected: Mapping[str, str], folder: Path, cache: HashCache) -> list[str]:
    """Return the names in `expected` (name to hash) that are missing from `folder` or have other bytes."""
    return [name for name, value in expected.items() if not _is(folder / name, value, cache)]


def _is(path: Path, value: str, cache: HashCache) -> bool:
    try:
        return cache.of(path) == value
    except OSError:
        return False
