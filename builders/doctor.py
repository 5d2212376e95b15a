"""doctor: is this machine ready to build and serve.

In      the machine.
Out     one `Check` per point: OK, WARN or FAIL, what was found, how to mend it.
"""

from __future__ import annotations

import os
import shutil
import socket
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from planwright.gpu import devices as gpus

OK, WARN, FAIL = "OK", "WARN", "FAIL"
ROOT = Path(__file__).resolve().parents[1]
NEED_DISK_BYTES, NEED_SHM_BYTES = 2 << 30, 64 << 20
PORTS = (8000, 8001, 8002)


@dataclass(frozen=True)
class Check:
    """One point."""

    point: str
    status: str
    found: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return a JSON value."""
        return asdict(self)


def examine() -> Iterator[Check]:
    """Look at everything."""
    yield _gpu()
    for package in ("torch", "onnx", "onnxruntime", "tritonclient"):
        there = find_spec(package) is not None
        yield Check(
            package,
            OK if there else WARN,
            "installed" if there else "not installed",
            "" if there else "make setup; without torch and onnx, copy build/ from a machine that has them",
        )
    yield _server()
    yield _libpython()
    yield _space("disk", Path.cwd(), NEED_DISK_BYTES)
    yield _space("shared memory", Path("/dev/shm"), NEED_SHM_BYTES)
    yield _writable(Path.cwd() / "model_repository")
    for port in PORTS:
        yield _port(port)
    yield _container()


def _gpu() -> Check:
    devices = len(gpus())
    if not devices:
        return Check("GPU", OK, "no CUDA device: the target is onnxruntime")
    if find_spec("tensorrt") is None:
        return Check(
            "GPU",
            FAIL,
            f"{devices} CUDA device(s), no TensorRT",
            "install the tensorrt of the server's image, or build with --target onnxruntime",
        )
    return Check("GPU", OK, f"{devices} CUDA device(s) and TensorRT")


def _server() -> Check:
    wheel = (
        Path(os.environ.get("PLANWRIGHT_TRITONSERVER_DIR", ROOT / ".tritonserver"))
        / "pytriton"
        / "tritonserver"
        / "bin"
        / "tritonserver"
    )
    found = shutil.which("tritonserver") or (str(wheel) if wheel.exists() else "")
    return Check("tritonserver", OK if found else FAIL, found or "none", "" if found else "make setup")


def _libpython() -> Check:
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    return (
        Check("libpython", OK, name)
        if ".so" in name
        else Check("libpython", WARN, "static", "apt-get install libpython3.11, for the server's stubs")
    )


def _space(point: str, path: Path, need_bytes: int) -> Check:
    if not path.is_dir():
        return Check(point, FAIL, f"{path} is missing", "mount it")
    free = shutil.disk_usage(path).free
    fix = (
        ""
        if free >= need_bytes
        else f"free {need_bytes >> 20} MiB; in a container give --shm-size=1g"
        if "shm" in str(path)
        else f"free {need_bytes >> 20} MiB"
    )
    return Check(point, OK if free >= need_bytes else FAIL, f"{free >> 20} MiB free at {path}", fix)


def _writable(path: Path) -> Check:
    probe = path / f".probe-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Check("model repository", FAIL, f"{path}: {error.strerror}", "make it writable")
    return Check("model repository", OK, f"{path} is writable")


def _port(port: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check(
                f"port {port}",
                WARN,
                "taken",
                "stop what listens there, or serve with --http-port, --grpc-port, --metrics-port",
            )
    return Check(f"port {port}", OK, "free")


def _container() -> Check:
    for name in ("docker", "podman"):
        if shutil.which(name):
            return Check("container engine", OK, f"{name} is installed")
    return Check("container engine", WARN, "none", "install Docker to use docker compose; python -m serving needs none")
