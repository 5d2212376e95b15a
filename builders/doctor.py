"""doctor: is this machine ready to build and serve.

In      the machine.
Out     one `Check` per point: OK, WARN or FAIL, what was found, how to mend it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from builders.targets.tensorrt.target import installed_version
from planwright.config.load import load_spec
from planwright.errors import PlanwrightError
from planwright.files import read_json
from planwright.gpu import Device, first_device
from planwright.repository_folder import repository_folder

OK, WARN, FAIL = "OK", "WARN", "FAIL"
ROOT = Path(__file__).resolve().parents[1]
NEED_DISK_BYTES, NEED_SHM_BYTES = 2 << 30, 64 << 20
PORTS = (8000, 8001, 8002)
ENGINE_S = 5.0


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
    yield from _gpu()
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
    yield _writable(Path.cwd() / repository_folder())
    for port in PORTS:
        yield _port(port)
    yield _container()


def _gpu() -> Iterator[Check]:
    device = first_device()
    if device is None:
        yield Check("GPU", OK, "no CUDA device: the target is onnxruntime")
        return
    yield Check(
        "GPU",
        OK,
        f"{device.name}, compute capability {device.capability}, driver {device.driver}, CUDA {device.cuda}, {device.memory_bytes >> 30} GiB",
    )
    version = installed_version()
    if version is None:
        yield Check(
            "TensorRT",
            FAIL,
            "not installed",
            "install the tensorrt of the server's image, or build with --target onnxruntime",
        )
        return
    yield _pairing(version)
    yield from _plans(version, device)


def _pairing(version: str) -> Check:
    """Compare TensorRT here with that of the server in config.yaml."""
    config = Path("config.yaml")
    try:
        server = load_spec(config, "tensorrt").server if config.exists() else None
    except PlanwrightError:
        return Check("TensorRT", WARN, f"{version} here; config.yaml has faults", "python builders/build_all.py --plan")
    there = server.tensorrt if server else None
    if there is None:
        return Check("TensorRT", OK, f"{version} here; config.yaml names no other")
    if there == version:
        return Check("TensorRT", OK, f"{version} here and in the server")
    return Check(
        "TensorRT",
        WARN,
        f"{version} here, {there} in the server",
        "build in the server's image: docker compose run --rm builder",
    )


def _plans(version: str, device: Device) -> Iterator[Check]:
    """Name the published plans that this machine cannot load."""
    for path in sorted(repository_folder().glob("*/*/build.json")):
        build = read_json(path)
        if not isinstance(build, dict) or build.get("target") != "tensorrt":
            continue
        made = build.get("versions", {})
        faults = [
            f"{what} {made.get(key)}, here {here}"
            for what, key, here in (
                ("TensorRT", "tensorrt", version),
                ("compute capability", "compute_capability", device.capability),
            )
            if made.get(key) != here
        ]
        if faults:
            name = path.parts[-3]
            yield Check(
                f"plan of {name}",
                WARN,
                f"version {path.parts[-2]} is of {'; '.join(faults)}",
                f"python builders/build_all.py {name}",
            )


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
    """Say whether a container could run now: a program without its daemon runs none."""
    point, tried = "container engine", []
    for name in ("docker", "podman"):
        if not shutil.which(name):
            continue
        said = _engine(name)
        if not said:
            return Check(point, OK, f"{name} answers")
        tried.append(f"{name} is installed and does not work: {said}")
    if not tried:
        return Check(point, WARN, "none", "install Docker to use docker compose; python -m serving needs none")
    return Check(
        point,
        WARN,
        "; ".join(tried),
        "start its daemon (systemctl start docker), or join its group; python -m serving needs none",
    )


def _engine(name: str) -> str:
    """Return why a container engine does not answer, or nothing."""
    try:
        done = subprocess.run([name, "info"], capture_output=True, text=True, timeout=ENGINE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {ENGINE_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "" if not done.returncode else (lines[-1] if lines else f"exit code {done.returncode}")
