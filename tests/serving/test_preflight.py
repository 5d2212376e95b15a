"""What is wrong before the server starts is reported at once, with the right exit code and without starting anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from planwright.errors import Fault, MachineError, PlanwrightError, SpecError
from planwright.own_server import free_ports
from serving import command, options
from serving.__main__ import main
from serving.command import Identity
from serving.installation import Installation, find_server
from serving.preflight import Machine
from tests import _models


def faults(error: type[PlanwrightError], *flags: str) -> list[Fault]:
    """Return what the launcher refuses with `error`."""
    with pytest.raises(error) as caught:
        main(
            [
                *[
                    f"--{name}-port={port}"
                    for name, port in zip(("http", "grpc", "metrics"), free_ports(), strict=True)
                ],
                *flags,
            ]
        )
    assert type(caught.value) is error
    return list(caught.value.faults)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the default server file and repository are the checkout's


@pytest.mark.parametrize("name", ["my model", "m$(touch x)", "m;x", "m'", "m`x`", "mödel"])
def test_unsafe_model_names_are_refused(tmp_path: Path, name: str) -> None:
    _models.adder(tmp_path / "models", "good")
    (tmp_path / "models" / name).mkdir()
    [fault] = faults(SpecError, f"--model-repository={tmp_path / 'models'}")
    assert f"'{name}'" in fault.what
    assert "unsafe" in fault.what
    assert "shell" in fault.why
    assert "rename the folder" in fault.fix
    assert not (tmp_path / "x").exists()


def test_a_repository_path_with_a_space_is_refused(tmp_path: Path) -> None:
    _models.adder(tmp_path / "my models")
    [fault] = faults(SpecError, f"--model-repository={tmp_path / 'my models'}")
    assert "unsafe" in fault.what
    assert fault.where == str(tmp_path / "my models")


@pytest.mark.parametrize(
    "line", ['instance_group { name: "a;b" }', 'cc_model_filenames { key: "9.0" value: "$(x).onnx" }',
             'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/a b" } }'],
)  # fmt: skip
def test_words_of_config_pbtxt_that_reach_the_shell_are_checked(tmp_path: Path, line: str) -> None:
    folder = _models.adder(tmp_path / "models")
    (folder / "configs").mkdir()
    (folder / "configs" / "other.pbtxt").write_text(line)
    [fault] = faults(SpecError, f"--model-repository={tmp_path / 'models'}")
    assert "unsafe" in fault.what


def test_a_missing_and_an_empty_repository(tmp_path: Path) -> None:
    assert faults(SpecError, "--model-repository=nowhere")[0].what == "there is no model repository"
    (tmp_path / "empty").mkdir()
    assert faults(SpecError, "--model-repository=empty")[0].what == "the model repository is empty"


def test_a_taken_port_is_named_with_its_owner(tmp_path: Path, taken: int) -> None:
    _models.adder(tmp_path / "models")
    [fault] = faults(MachineError, "--model-repository=models", f"--grpc-port={taken}")
    assert fault.what == f"port {taken} is taken"
    assert f"(pid {os.getpid()})" in fault.why
    assert "--grpc-port PORT" in fault.fix


def test_too_little_shared_memory_is_found_before_the_start(tmp_path: Path) -> None:
    folder = _models.adder(tmp_path / "models")
    config = (folder / "config.pbtxt").read_text().replace("dims: [4]", f"dims: [{1 << 40}]")
    (folder / "config.pbtxt").write_text(config)
    [fault] = faults(MachineError, "--model-repository=models")
    assert (fault.what, fault.where) == ("too little shared memory", "/dev/shm")
    assert "1 model processes need at least" in fault.why


@pytest.mark.parametrize(
    ("variable", "what"),
    [
        ("PLANWRIGHT_TRITONSERVER_DIR", "tritonserver is not installed"),
        ("PLANWRIGHT_SERVER_VENV", "the server's Python environment is missing"),
    ],
)
def test_a_missing_tool_says_make_setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, what: str
) -> None:
    _models.adder(tmp_path / "models")
    monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    [fault] = faults(MachineError, "--model-repository=models")
    assert (fault.what, fault.fix) == (what, "make setup")


def test_everything_is_reported_at_once(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "my model").mkdir(parents=True)
    monkeypatch.setenv("PLANWRIGHT_TRITONSERVER_DIR", str(tmp_path / "nothing"))
    flags = ["--model-repository=models", "--id=x", "--model-control-mode=poll", f"--http-port={taken}"]
    assert [fault.what for fault in faults(SpecError, *flags)] == [
        "--id cannot be given",
        "mode poll is not supported",
        "the model name 'my model' contains unsafe characters",
        f"port {taken} is taken",
        "tritonserver is not installed",
    ]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--http-address=0.0.0.0"], "--http-address cannot be given"),
        (["--backend-directory", "/x"], "--backend-directory cannot be given"),
        (["--model-store=/x"], "--model-store cannot be given"),
        (["--load-model=adder"], "--load-model needs explicit mode"),
        (["--model-control-mode=explicit", "--load-model=ader"], "there is no model 'ader' to load"),
        (["--model-repository=other"], "more than one model repository"),
        (["--http-port=7", "--grpc-port=7"], "port 7 is specified twice"),
        (["--http-port=70000"], "argument --http-port: invalid port: '70000' (must be 1 to 65535)"),
        (["adder"], "unexpected argument 'adder'"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, flags: list[str], what: str) -> None:
    _models.adder(tmp_path / "models")
    assert what in [fault.what for fault in faults(SpecError, "--model-repository=models", *flags)]


def test_listening_everywhere_needs_the_flag_that_says_why_not() -> None:
    plain, _ = options.parse([])
    everywhere, _ = options.parse(["--listen-on-all-interfaces-unpatched"])
    assert (plain.host, everywhere.host, everywhere.reachable_host) == ("127.0.0.1", "0.0.0.0", "127.0.0.1")


@pytest.mark.parametrize(
    ("help_text", "given"), [("--allow-client-shm <boolean>", True), ("--allow-http <boolean>", False)]
)
def test_a_server_on_path_comes_first_and_gets_the_flags_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, help_text: str, given: bool
) -> None:
    """NVIDIA's image cannot be had here, so its layout is made, with a program that answers --help."""
    home = tmp_path / "tritonserver"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "tritonserver").write_text(f"#!/bin/sh\necho '{help_text}'\n")
    (home / "bin" / "tritonserver").chmod(0o755)
    (home / "backends" / "onnxruntime").mkdir(parents=True)
    (home / "backends" / "onnxruntime" / "libtriton_onnxruntime.so").touch()
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    found = find_server()
    assert found == Installation(home / "bin" / "tritonserver", home, (home / "lib",), None, native=True)
    _models.adder(tmp_path / "models")
    chosen, _ = options.parse(["--model-repository=models", "--allow-client-shm"])
    words = command.arguments(chosen, Machine(found, None), Identity("me", "key"), None)
    assert ("--allow-client-shm=true" in words) is given
    assert not any(word.startswith("--backend-directory") for word in words)
