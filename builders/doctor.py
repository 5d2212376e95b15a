"""doctor: check whether this machine is ready to build and serve.

In      the machine.
Out     one `Check` per point: OK, WARN or FAIL, what was found, how to fix it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from builders.targets.tensorrt.target import installed_version
from planwright import console
from planwright.config.load import load_spec
from planwright.errors import EXIT_MACHINE, EXIT_OK, PlanwrightError
from planwright.files import ROOT, read_json
from planwright.gpu import Device, first_device
from planwright.repository_folder import repository_folder

OK, WARN, FAIL = "OK", "WARN", "FAIL"
NEED_DISK_BYTES, NEED_SHM_BYTES = 2 << 30, 64 << 20
PORTS = (8000, 8001, 8002)
CONTAINER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Check:
    point: str
    status: str
    found: str
    fix: str = ""


def add_command(commands: Any) -> None:
    doctor = commands.add_parser("doctor", help="check whether this machine is ready to build and serve")
    console.add_json_flag(doctor)
    doctor.set_defaults(main=_main)


def _main(args: argparse.Namespace) -> int:
    checks = list(examine())
    console.table("doctor", ["check", "status", "found", "fix"], [(c.point, c.status, c.found, c.fix) for c in checks])
    if args.json:
        console.emit_json([asdict(check) for check in checks])
    return EXIT_MACHINE if any(check.status == FAIL for check in checks) else EXIT_OK


def examine() -> Iterator[Check]:
    yield from _gpu()
    absent = "make setup; without torch and onnx, copy build/ from a machine that has them"
    for package in ("torch", "onnx", "onnxruntime", "tritonclient"):
        found = find_spec(package) is not None
        yield Check(package, OK, "installed") if found else Check(package, WARN, "not installed", absent)
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
    versions = f"compute capability {device.capability}, driver {device.driver}, CUDA {device.cuda}"
    yield Check("GPU", OK, f"{device.name}, {versions}, {device.memory_bytes >> 30} GiB")
    version = installed_version()
    if version is None:
        fix = "install the tensorrt of the server's image, or build with --target onnxruntime"
        yield Check("TensorRT", FAIL, "not installed", fix)
        return
    yield _pairing(version)
    yield from _plans(version, device)


def _pairing(version: str) -> Check:
    """Compare the installed TensorRT with that of the server in config.yaml."""
    config = Path("config.yaml")
    try:
        server = load_spec(config, "tensorrt").server if config.exists() else None
    except PlanwrightError:
        return Check("TensorRT", WARN, f"{version} here; config.yaml has errors", "python builders/build_all.py --plan")
    there = server.tensorrt if server else None
    if there is None:
        return Check("TensorRT", OK, f"{version} here; config.yaml names no other version")
    if there == version:
        return Check("TensorRT", OK, f"{version} here and in the server")
    fix = "build in the server's image: docker compose run --rm builder"
    return Check("TensorRT", WARN, f"{version} here, {there} in the server", fix)


def _plans(version: str, device: Device) -> Iterator[Check]:
    """Name the published plans that this machine cannot load."""
    for path in sorted(repository_folder().glob("*/*/build.json")):
        build = read_json(path)
        if not isinstance(build, dict) or build.get("target") != "tensorrt":
            continue
        versions = build.get("versions", {})
        built = {"TensorRT": versions.get("tensorrt"), "compute capability": versions.get("compute_capability")}
        here = {"TensorRT": version, "compute capability": device.capability}
        differing = [f"{what} {built[what]}, here {here[what]}" for what in here if built[what] != here[what]]
        if differing:
            name, found = path.parts[-3], f"version {path.parts[-2]} was built with {'; '.join(differing)}"
            yield Check(f"plan of {name}", WARN, found, f"python builders/build_all.py {name}")


def _server() -> Check:
    wheel = Path(os.environ.get("PLANWRIGHT_TRITONSERVER_DIR", ROOT / ".tritonserver"))
    wheel = wheel.joinpath("pytriton", "tritonserver", "bin", "tritonserver")
    found = shutil.which("tritonserver") or (str(wheel) if wheel.exists() else "")
    return Check("tritonserver", OK if found else FAIL, found or "none", "" if found else "make setup")


def _libpython() -> Check:
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    if ".so" in name:
        return Check("libpython", OK, name)
    return Check("libpython", WARN, "static", "apt-get install libpython3.11, for the server's Python stubs")


def _space(point: str, path: Path, need_bytes: int) -> Check:
    if not path.is_dir():
        return Check(point, FAIL, f"{path} is missing", "mount it")
    free = shutil.disk_usage(path).free
    found = f"{free >> 20} MiB free at {path}"
    if free >= need_bytes:
        return Check(point, OK, found)
    container = "; in a container set --shm-size=1g" if "shm" in str(path) else ""
    return Check(point, FAIL, found, f"free {need_bytes >> 20} MiB{container}")


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
            fix = "stop the program that listens there, or serve with --http-port, --grpc-port, --metrics-port"
            return Check(f"port {port}", WARN, "in use", fix)
    return Check(f"port {port}", OK, "free")


def _container() -> Check:
    """Check that a container could run now, which needs the daemon and not only the program."""
    point, tried = "container engine", []
    for name in ("docker", "podman"):
        if not shutil.which(name):
            continue
        reason = _container_failure(name)
        if not reason:
            return Check(point, OK, f"{name} works")
        tried.append(f"{name} is installed but does not work: {reason}")
    if not tried:
        return Check(point, WARN, "none", "install Docker to use docker compose; python -m serving needs none")
    fix = "start its daemon (systemctl start docker), or join its group; python -m serving needs none"
    return Check(point, WARN, "; ".join(tried), fix)


def _container_failure(name: str) -> str:
    """Return why a container engine does not work; an empty string if it does."""
    try:
        done = subprocess.run([name, "info"], capture_output=True, text=True, timeout=CONTAINER_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {CONTAINER_TIMEOUT_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "" if not done.returncode else (lines[-1] if lines else f"exit code {done.returncode}")
