"""What every benchmark shares: a server of its own, the machine's description, the record.

In      a repository, figures.
Out     a running server; benchmarks/results/<name>.json.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from planwright.files import write_json
from planwright.server_info import ServerInfo

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("onnxruntime", "torch", "numpy", "tritonclient", "geventhttpclient", "grpcio", "locust")


@contextmanager
def serve(repository: Path, *flags: str, prefix: Sequence[str] = ()) -> Iterator[ServerInfo]:
    """Run ``python -m serving`` on free ports; `prefix` may pin it, such as ``taskset -c 0``."""
    ports = [
        flag
        for name, port in zip(("http", "grpc", "metrics"), free_ports(3), strict=True)
        for flag in (f"--{name}-port", str(port))
    ]
    with tempfile.TemporaryDirectory(prefix="planwright-bench-") as scratch:
        file = Path(scratch) / "server.json"
        command = [*prefix, sys.executable, "-m", "serving", "--json", "--allow-client-shm", "--model-repository", str(repository),
                   "--server-file", str(file), *ports, *flags]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            info = _wait(file, process)
            yield info
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def _wait(file: Path, process: subprocess.Popen[str]) -> ServerInfo:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        info = ServerInfo.read(file)
        if info is not None:
            return info
        time.sleep(0.05)
    raise SystemExit("the server did not start: try python -m serving by hand")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


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
