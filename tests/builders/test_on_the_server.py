"""The settings of config.yaml on the real server, and a running server that is informed of a publish."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from planwright.server_info import ServerInfo
from tests import _models
from tests._project import ROOT, Project
from tests._server import launch, running_server
from tests.clients._command import clients, where

SERVE = """\
    serve:
      instance_group: [{count: 2}]
      dynamic_batching:
        preferred_batch_size: [4]
        max_queue_delay_microseconds: 700
        priority_levels: 2
        default_priority_level: 2
        default_queue_policy: {timeout_action: REJECT, default_timeout_microseconds: 4000000, max_queue_size: 50}
        priority_queue_policy: {1: {max_queue_size: 9}}
      response_cache: {enable: true}
      metric_tags: {team: vision}
      model_warmup: [{name: first, batch_size: 2, count: 3, inputs: {image: {data_type: TYPE_UINT8, dims: [8, 8], zero_data: true}}}]
"""
RATE = "    serve: {instance_group: [{count: 1, rate_limiter: {resources: [{name: R1, count: 1}], priority: 2}}]}\n"
SEQUENCE = (
    "    serve: {sequence_batching: {max_sequence_idle_microseconds: 5000000, oldest: {max_candidate_sequences: 4}}}\n"
)


def get(server: ServerInfo, path: str) -> Any:
    with urllib.request.urlopen(f"http://{server.http_url}/v2/models/digits{path}", timeout=10) as response:
        body = response.read()
    return json.loads(body) if body else None


def rebuild(project: Project, serve: str) -> None:
    text = project.config.read_text()
    project.config.write_text(text[: text.index("    serve:")] + serve)
    done = project.build()
    assert done.code == 0, done.out


def test_scheduler_fields_reach_the_server(project: Project) -> None:
    rebuild(project, SERVE)
    with running_server(project.repository) as server:
        config, stats = get(server, "/config"), get(server, "/stats")
    batching = config["dynamic_batching"]
    assert config["instance_group"][0]["count"] == 2
    assert batching["preferred_batch_size"] == [4]
    assert batching["priority_levels"] == 2
    assert batching["priority_queue_policy"]["1"]["max_queue_size"] == 9
    assert batching["default_queue_policy"]["max_queue_size"] == 50
    assert config["response_cache"]["enable"]
    assert config["metric_tags"] == {"team": "vision"}
    assert stats["model_stats"][0]["execution_count"] == 2 * 3, "three warm-up runs on each of two instances"


@pytest.mark.parametrize("serve", [RATE, SEQUENCE], ids=["rate limiter", "sequence batching"])
def test_other_schedulers_load(project: Project, serve: str) -> None:
    rebuild(project, serve)
    with running_server(project.repository) as server:
        assert get(server, "/ready") is None  # 200 without a body
        done = clients("validate", "digits", "--transport", "http", *where(server, project.repository))
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_running_server_loads_what_is_published_and_rolled_back(project: Project) -> None:
    launched = launch(
        project.folder / ".planwright", project.repository, "--model-control-mode=explicit", "--load-model=*"
    )
    try:
        server = launched.wait_ready().info
        assert get(server, "")["versions"] == ["1"]
        project.edit("    score:", "    accept: {scores: {relative: 0.002}}\n    score:")
        done = run_beside(project, "builders/build_all.py")
        assert "loaded by the running server" in done
        assert get(server, "")["versions"] == ["2"]
        project.edit("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 321")
        run_beside(project, "builders/build_all.py")
        assert get(server, "/config")["dynamic_batching"]["max_queue_delay_microseconds"] == 321
        run_beside(project, "-m", "builders", "rollback", "digits")
        assert get(server, "/config")["dynamic_batching"]["max_queue_delay_microseconds"] == 500
        assert get(server, "")["versions"] == ["2"]
        run_beside(project, "-m", "builders", "rollback", "digits")
        assert get(server, "")["versions"] == ["1"]
    finally:
        launched.stop()


def test_a_server_in_mode_none_is_to_be_restarted(project: Project) -> None:
    launched = launch(project.folder / ".planwright", project.repository)
    try:
        launched.wait_ready()
        project.edit("max_queue_delay_microseconds: 500", "max_queue_delay_microseconds: 321")
        assert "restart it" in run_beside(project, "builders/build_all.py")
    finally:
        launched.stop()


def test_validate_names_a_file_that_is_not_what_was_published(project: Project) -> None:
    """Right answers prove nothing about labels; nor would those of changed weights that the golden samples do not reach."""
    labels = project.repository / "digits/1/labels.txt"
    labels.write_text(labels.read_text().replace("zero", "nought").replace("0", "9"))
    command = [
        "-m",
        "clients",
        "validate",
        "digits",
        "--json",
        "--transport",
        "http",
        "--repository",
        str(project.repository),
    ]
    with running_server(project.repository, "--trust-repository") as server:
        where = ["--url", server.http_url, "--grpc-url", server.grpc_url]
        refused, trusted = project.run(*command, *where), project.run(*command, *where, "--trust-repository")
    document = json.loads(refused.out)
    assert refused.code == 1
    assert document["models"][0]["first_failing_stage"] == "files"
    assert "labels.txt is not what was published" in document["rows"][0]["reason"]
    assert trusted.code == 0, trusted.out


def test_validate_says_why_a_damaged_model_is_not_served(project: Project) -> None:
    (project.repository / "digits/1/golden.npz").unlink()
    _models.adder(project.repository, "other")
    with running_server(project.repository) as server:
        where = ["--url", server.http_url, "--repository", str(project.repository)]
        done = project.run("-m", "clients", "validate", "digits", "--json", *where)
    [row] = json.loads(done.out)["rows"]
    assert (done.code, row["transport"]) == (1, "files")
    assert "golden.npz is not what was published" in row["reason"]


def run_beside(project: Project, *words: str) -> str:
    """Run a command with the project's folder as the current one, where it finds the server file."""
    script = [str(ROOT / words[0])] if words[0].endswith(".py") else list(words[:2])
    rest = list(words[1:]) if words[0].endswith(".py") else list(words[2:])
    command = [sys.executable, *script, *rest]
    done = subprocess.run(
        command,
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
