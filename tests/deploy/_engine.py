"""A container engine for the compose test: Docker where its daemon answers, else podman with runc, as root on Debian.

In      what is installed on this machine.
Out     `find`: an `Engine` with the compose command and its environment, or the reason why there is none.

podman needs three things that a bare Debian 12 does not give: runc instead of crun, limits it may set, and a base image.
The base image is made by debootstrap once and kept as localhost/planwright-base:12; it gets this machine's certificates,
so that pip works behind a proxy that has its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BASE_IMAGE = "localhost/planwright-base:12"
INCLUDE = "ca-certificates,python3,python3-pip,python3-venv,libpython3.11"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
CONTAINERS_CONF = """\
[engine]
runtime = "runc"

[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
"""
TOOLS = ("podman", "runc", "docker-compose", "debootstrap")


@dataclass(frozen=True)
class Engine:
    """How to run compose here: the command, and what its environment needs."""

    compose: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def find_compose() -> list[str]:
    """Return the compose command of this machine, version 2 first; [] where there is none."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def why_not() -> str:
    """Return why no engine can run here, "" where one can."""
    if has_docker():
        return ""
    if os.geteuid() != 0:
        return "no Docker daemon answers, and podman needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"no Docker daemon answers, and there is no {', '.join(missing)}" if missing else ""


def has_docker() -> bool:
    """Say whether a Docker daemon answers and there is a compose for it."""
    return (
        bool(find_compose() and shutil.which("docker"))
        and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Give an engine while the block runs; podman's service is started for it."""
    if has_docker():
        yield Engine(find_compose())
        return
    (folder / "containers.conf").write_text(CONTAINERS_CONF)
    environment = {"CONTAINERS_CONF": str(folder / "containers.conf")}
    make_base_image(folder, environment)
    socket = folder / "podman.sock"
    command = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
    with (folder / "podman.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        wait_for(socket, service)
        yield Engine(["docker-compose"], {**environment, "DOCKER_HOST": f"unix://{socket}", "BASE_IMAGE": BASE_IMAGE})
    finally:
        service.terminate()
        service.wait(30)


def wait_for(socket: Path, service: subprocess.Popen[bytes]) -> None:
    """Wait until podman's service listens."""
    deadline = time.monotonic() + 30
    while not socket.exists():
        assert service.poll() is None, "podman system service ended"
        assert time.monotonic() < deadline, "podman system service does not listen"
        time.sleep(0.1)


def make_base_image(folder: Path, environment: dict[str, str]) -> None:
    """Make Debian 12 with Python from the Debian mirror, where it is not there yet."""
    env = {**os.environ, **environment}
    if subprocess.run(["podman", "image", "exists", BASE_IMAGE], env=env).returncode == 0:
        return
    root = folder / "root"
    run(["debootstrap", "--variant=minbase", f"--include={INCLUDE}", "bookworm", str(root)], env)
    shutil.copy2(Path("/") / CERTIFICATES, root / CERTIFICATES)
    (root / "etc/pip.conf").write_text(f"[global]\ncert = /{CERTIFICATES}\n")
    archive = folder / "root.tar"
    run(["tar", "-C", str(root), "-cf", str(archive), "."], env)
    run(["podman", "import", str(archive), BASE_IMAGE], env)
    archive.unlink()
    shutil.rmtree(root)


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run one step; fail with its last lines."""
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}"
