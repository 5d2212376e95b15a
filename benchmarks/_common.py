"""What every benchmark shares: a server of its own, the machine's description, the record.

In      a repository, figures.
Out     a running server; benchmarks/results/<name>.json.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from planwright.files import write_json
from planwright.own_server import own_server
from planwright.server_info import ServerInfo

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("onnxruntime", "torch", "numpy", "tritonclient", "geventhttpclient", "grpcio", "locust")


@contextmanager
def serve(repository: Path, *flags: str, prefix: Sequence[str] = ()) -> Iterator[ServerInfo]:
    """Run ``python -m serving`` on free ports; `prefix` may pin it, such as ``taskset -c 0``."""
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as folder:
        scratch = Path(folder)
        common = ("--allow-client-shm", "--model-repository", str(repository))
        with own_server(*common, *flags, file=scratch / "server.json", prefix=prefix, log=scratch / "log.txt") as info:
            yield info


def stamp() -> dict[str, Any]:
    """Return when, where and with which versions something was measured."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def record(name: str, value: dict[str, Any]) -> Path:
    """Write the record of a measurement."""
    path = RESULTS / f"{name}.json"
    write_json(path, value)
    return path


def read_record(name: str) -> dict[str, Any]:
    """Return the record of a measurement."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def ratio_words(ratio: dict[str, float]) -> str:
    """Return a ratio and its interval.

    >>> ratio_words({"mean": 1.0064, "low": 0.963, "high": 1.05})
    '1.006 (0.963 – 1.050)'
    """
    return f"{ratio['mean']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
