"""docker-compose.yml: right by the compose specification, safe by default, and started for real where an engine can run."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from planwright.own_server import free_ports
from tests._project import Project
from tests.deploy import _engine
from tests.ux._checkout import ROOT

FILES = ["docker-compose.yml", "docker-compose.cpu.yml", "deploy/hardware/gpu.yml", "deploy/hardware/cpu.yml"]
START_S = 120.0
OURS = ("COMPOSE_", "TRITON_", "BASE_IMAGE")  # settings of the person who runs the tests must not reach them


def environment(**settings: str) -> dict[str, str]:
    return {**{key: value for key, value in os.environ.items() if not key.startswith(OURS)}, **settings}


def service(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())["services"]["triton"]
    return loaded


def test_the_files_follow_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *FILES]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistake_against_the_specification_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(
        (ROOT / "docker-compose.yml").read_text().replace("shm_size", "shmsize")
    )
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 1


def test_the_image_is_pinned_above_the_known_holes() -> None:
    pinned = re.search(r"tritonserver:(\d\d)\.(\d\d)-py3", service("docker-compose.yml")["image"])
    assert pinned is not None
    assert (int(pinned[1]), int(pinned[2])) >= (26, 6)


def test_ports_are_published_on_the_loopback_only() -> None:
    ports = service("docker-compose.yml")["ports"]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in service("docker-compose.cpu.yml")  # lists are added to


def test_only_the_embedded_image_says_that_it_is_unpatched() -> None:
    flag = "--listen-on-all-interfaces-unpatched"
    assert flag in service("docker-compose.cpu.yml")["command"]
    assert flag not in (ROOT / "docker-compose.yml").read_text()


@pytest.fixture
def compose() -> list[str]:
    found = _engine.find_compose()
    if not found:
        pytest.skip("neither docker compose nor docker-compose is installed")
    return found


def merged(compose: list[str], *flags: str, **settings: str) -> dict[str, Any]:
    done = subprocess.run(
        [*compose, *flags, "config"], cwd=ROOT, capture_output=True, text=True, env=environment(**settings)
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = yaml.safe_load(done.stdout)["services"]["triton"]
    return loaded


def test_by_default_one_gpu_is_reserved(compose: list[str], tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    triton = merged(compose, "--env-file", str(tmp_path / "none"))
    (device,) = triton["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], int(device["count"]), device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert "tritonserver:26.06-py3" in triton["image"]


def test_env_example_swaps_image_and_gpu_under_the_same_name(compose: list[str]) -> None:
    triton = merged(compose, "--env-file", ".env.example")
    assert "devices" not in str(triton.get("deploy"))
    assert triton["image"] == "planwright/triton-cpu"
    assert triton["build"]["dockerfile"] == "deploy/Dockerfile"
    assert triton["read_only"] is True
    assert triton["cap_drop"] == ["ALL"]


def test_half_of_env_example_is_refused_with_a_word_on_the_rest(compose: list[str]) -> None:
    settings = environment(COMPOSE_FILE="docker-compose.yml:docker-compose.cpu.yml")
    done = subprocess.run([*compose, "config"], cwd=ROOT, capture_output=True, text=True, env=settings)
    assert done.returncode != 0
    assert ".env.example" in done.stderr


@dataclass(frozen=True)
class Container:
    """The service, started by ``docker compose up triton``."""

    engine: _engine.Engine
    settings: dict[str, str]
    http_url: str
    grpc_url: str
    process: subprocess.Popen[bytes]
    log: Path

    def compose(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.engine.compose, "--env-file", ".env.example", *words]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=self.settings, stdin=subprocess.DEVNULL
        )


@pytest.fixture(scope="module")
def container(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    reason = _engine.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("engine")
    http, grpc, metrics = free_ports()
    with _engine.engine(folder) as engine:
        settings = environment(
            **engine.environment,
            COMPOSE_PROJECT_NAME=f"planwright-test-{secrets.token_hex(4)}",
            TRITON_REPOSITORY=str(built.repository),
            TRITON_HTTP_PORT=str(http), TRITON_GRPC_PORT=str(grpc), TRITON_METRICS_PORT=str(metrics),
        )  # fmt: skip
        _engine.run([*engine.compose, "--env-file", ".env.example", "build", "triton"], settings)
        log = folder / "up.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*engine.compose, "--env-file", ".env.example", "up", "triton"],
                cwd=ROOT, env=settings, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
        started = Container(engine, settings, f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", process, log)
        try:
            wait_ready(started)
            yield started
        finally:
            started.compose("down", "--timeout", "40")
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_ready(container: Container) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert container.process.poll() is None, container.log.read_text()
        try:
            with urllib.request.urlopen(f"http://{container.http_url}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"not ready in {START_S} s\n{container.log.read_text()}")


@pytest.mark.container
@pytest.mark.timeout(1200)
def test_answers_are_right_from_outside_and_shm_is_skipped_by_name(container: Container, built: Project) -> None:
    done = built.run(
        "-m",
        "clients",
        "validate",
        "--json",
        "--url",
        container.http_url,
        "--grpc-url",
        container.grpc_url,
        "--repository",
        str(built.repository),
    )
    assert done.code == 0, done.out + done.err
    rows = json.loads(done.out)["rows"]
    assert {row["transport"] for row in rows if row["verdict"] == "ok"} == {"http", "grpc"}
    (shm,) = [row for row in rows if row["transport"] == "shm"]
    assert shm["verdict"] == "skipped"
    assert shm["reason"]


@pytest.mark.container
def test_the_health_check_of_the_file_passes_inside(container: Container) -> None:
    check = service("docker-compose.cpu.yml")["healthcheck"]["test"]
    assert check[0] == "CMD"
    assert " " not in "".join(check), "podman 4 cuts the words of a test at spaces"
    done = container.compose("exec", "-T", "triton", *check[1:])
    assert done.returncode == 0, done.stderr


@pytest.mark.container
def test_the_container_may_do_little(container: Container) -> None:
    assert container.compose("exec", "-T", "triton", "id", "-u").stdout.strip() == "1000"
    for place in ("/opt/planwright/x", "/models/x"):
        assert "Read-only" in container.compose("exec", "-T", "triton", "touch", place).stderr


@pytest.mark.container
def test_models_cannot_be_unloaded_without_the_key(container: Container) -> None:
    request = urllib.request.Request(f"http://{container.http_url}/v2/repository/models/digits/unload", data=b"{}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    assert refused.value.code in (403, 503)
    refused.value.close()


@pytest.mark.container
def test_it_stops_in_time_and_cleanly(container: Container) -> None:
    # the last test of this file: pytest keeps the order
    start = time.monotonic()
    assert container.compose("stop", "triton").returncode == 0
    assert time.monotonic() - start < 40
    container.process.wait(30)
    assert re.search(r"Exit(ed)? \(?0\b", container.compose("ps", "-a").stdout), "its own exit code, not a signal's"
