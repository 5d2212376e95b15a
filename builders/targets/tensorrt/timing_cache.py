"""The timing cache: kernels that were timed on this GPU are not timed again.

In      a builder config and the cache's file; one file per GPU, TensorRT and CUDA version.
Out     the cache set on the config, and after the build the file, merged with what others wrote in the meantime.

A lock file keeps two builds from overwriting each other; the file is replaced by rename. Caches are merged only where the
file changed during the build: 8.6 logs errors of its Myelin part when it merges a cache with itself.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Loaded:
    cache: Any
    began: bytes


def load(config: Any, options: dict[str, Any]) -> Loaded | None:
    """Set the cache on `config` and return it; None where it is switched off."""
    if options["mode"] == "off":
        return None
    path = Path(options["file"])
    began = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(began)
    config.set_timing_cache(cache, False)
    return Loaded(cache, began)


def save(config: Any, loaded: Loaded | None, options: dict[str, Any]) -> None:
    """Merge the cache into its file; nothing where it is read-only or off."""
    if loaded is None or options["mode"] == "read_only":
        return
    path = Path(options["file"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        now = path.read_bytes() if path.exists() else b""
        if now != loaded.began:
            loaded.cache.combine(config.create_timing_cache(now), True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_bytes(bytes(memoryview(loaded.cache.serialize())))
        scratch.replace(path)
