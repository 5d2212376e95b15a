"""The timing cache: what a GPU already measured need not be measured again.

In      a builder config and the cache's file; one file per GPU, TensorRT and CUDA version.
Out     the cache set on the config, and after the build the file, merged with what others wrote meanwhile.

A lock file keeps two builds from overwriting each other; the file is replaced by rename.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any


def load(config: Any, options: dict[str, Any]) -> Any:
    """Set the cache on `config` and return it; None where it is switched off."""
    if options["mode"] == "off":
        return None
    path = Path(options["file"])
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, False)
    return cache


def save(config: Any, cache: Any, options: dict[str, Any]) -> None:
    """Merge the cache into its file; nothing where it is read-only or off."""
    if cache is None or options["mode"] == "read_only":
        return
    path = Path(options["file"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            others = config.create_timing_cache(path.read_bytes())
            cache.combine(others, True)
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_bytes(bytes(memoryview(cache.serialize())))
        scratch.replace(path)
