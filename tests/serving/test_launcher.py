"""The launcher from start to end: ready table, files, keys, signals, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from planwright.own_server import free_ports
from planwright.server_info import ServerInfo
from serving.processes import alive
from serving.watchdog import stubs_of
from tests import _models
from tests._server import Launched
from tests.serving._infer import over_http, row

Start = Callable[..., Launched]
SHM = Path("/dev/shm")
SOON_S = 10.0


def until(done: Callable[[], bool], limit_s: float = SOON_S) -> float:
    """Wait for something; returns the seconds it took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < limit_s, "it did not come"
        time.sleep(0.05)
    return time.monotonic() - began


def regions(server_id: str) -> list[Path]:
    return list(SHM.glob(f"{server_id}*"))


def backends_of(server_pid: int) -> Path:
    words = psutil.Process(server_pid).cmdline()
    return Path(next(word.partition("=")[2] for word in words if word.startswith("--backend-directory=")))


def test_it_says_how_to_reach_it_and_leaves_nothing(start: Start, repository: Path) -> None:
    launched = start(repository).wait_ready()
    info, document = launched.info, launched.document
    assert document["models"] == [{"name": "adder", "version": "1", "status": "READY"}]
    assert (document["id"], document["http_url"], document["grpc_url"]) == (info.id, info.http_url, info.grpc_url)
    assert stat.S_IMODE((launched.folder / "server.json").stat().st_mode) == 0o600
    assert "adder" in launched.stderr
    assert info.http_url in launched.stderr
    over_http(info, "adder", x=row(1, 2, 3, 4))
    folder = backends_of(document["server_pid"])
    assert regions(info.id)
    assert folder.exists()
    assert launched.stop() == 0
    assert not regions(info.id)
    assert not folder.exists()
    assert not (launched.folder / "server.json").exists()
    assert not psutil.pid_exists(document["server_pid"])


def test_it_binds_to_the_loopback_only(served: ServerInfo) -> None:
    [server] = [child for child in psutil.Process(served.pid).children() if child.name() == "tritonserver"]
    listening = [c.laddr for c in server.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {f"127.0.0.1:{address.port}" for address in listening} == {
        served.http_url,
        served.grpc_url,
        served.metrics_url,
    }
    addresses = {address.ip.removeprefix("::ffff:") for address in listening}
    assert addresses == {"127.0.0.1"}


def test_ctrl_c_ends_it_with_130_and_a_second_one_does_not_hurt(start: Start, repository: Path) -> None:
    launched = start(repository).wait_ready()
    server_id, pid = launched.info.id, launched.document["server_pid"]
    launched.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert launched.stop(signal.SIGINT) == 130
    assert not regions(server_id)
    assert not psutil.pid_exists(pid)


def test_sigterm_ends_it_in_time_although_a_client_keeps_its_connection(start: Start, repository: Path) -> None:
    launched = start(repository, "--exit-timeout-secs=1").wait_ready()
    with httpclient.InferenceServerClient(launched.info.http_url) as client:
        assert client.is_server_ready()
        began = time.monotonic()
        assert launched.stop() == 0
    assert time.monotonic() - began < 6


def test_sigterm_while_models_load_ends_it_clean(start: Start, repository: Path) -> None:
    stuck(repository)
    launched = start(repository)
    until(
        lambda: (
            "TRITONBACKEND_Initialize" in launched.log or "Initializing" in launched.log or launched.log.count("\n") > 5
        )
    )
    assert launched.stop() == 0
    assert "Traceback" not in launched.stderr


def test_a_killed_server_is_noticed_and_cleaned_up(start: Start, repository: Path) -> None:
    launched = start(repository).wait_ready()
    server_id, folder = launched.info.id, backends_of(launched.document["server_pid"])
    os.kill(launched.document["server_pid"], signal.SIGKILL)
    assert launched.process.wait(SOON_S) == 1
    assert "(exit code -9)" in launched.stderr
    assert not regions(server_id)
    assert not folder.exists()


def test_a_model_process_that_a_killed_server_left_hanging_is_ended(start: Start, repository: Path) -> None:
    launched = start(repository).wait_ready()
    server_id, stubs = launched.info.id, list(stubs_of(launched.document["server_pid"]))
    os.kill(stubs[0], signal.SIGSTOP)  # like one that waits for a lock forever: it cannot end by itself
    os.kill(launched.document["server_pid"], signal.SIGKILL)
    assert launched.process.wait(SOON_S) == 1
    assert not any(map(alive, stubs))
    assert not regions(server_id)


def test_a_killed_launcher_takes_its_server_and_its_shared_memory_with_it(start: Start, repository: Path) -> None:
    launched = start(repository).wait_ready()
    server_id, pid = launched.info.id, launched.document["server_pid"]
    folder = backends_of(pid)
    launched.process.kill()
    launched.process.wait()
    until(lambda: not regions(server_id) and not folder.exists() and not psutil.pid_exists(pid))
    assert ServerInfo.read(launched.folder / "server.json") is None


@pytest.mark.parametrize(("mode", "limit_s"), [("none", 2.0), ("explicit", 4.0)])
def test_a_dead_model_process_takes_the_server_down(start: Start, repository: Path, mode: str, limit_s: float) -> None:
    _models.adder(repository, "other", count=2)
    flags = [f"--model-control-mode={mode}", *(["--load-model=*"] if mode == "explicit" else [])]
    launched = start(repository, *flags).wait_ready()
    info = launched.info
    victim = next(
        pid for pid, stub in stubs_of(launched.document["server_pid"]).items() if stub.instance == "other_0_1"
    )
    os.kill(victim, signal.SIGKILL)
    assert until(lambda: not ready(info), SOON_S) < limit_s
    assert launched.process.wait(SOON_S) == 1
    assert "the process of model instance other_0_1 died" in launched.stderr
    assert not regions(info.id)


def ready(info: ServerInfo) -> bool:
    try:
        with urllib.request.urlopen(f"http://{info.http_url}/v2/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_loading_and_unloading_on_purpose_is_no_death(start: Start, repository: Path) -> None:
    _models.adder(repository, "other", count=3)
    launched = start(repository, "--model-control-mode=explicit", "--load-model=*").wait_ready()
    with httpclient.InferenceServerClient(launched.info.http_url) as client:
        headers = launched.info.admin_headers
        config = client.get_model_config("other")
        for count in (1, 3, 2):  # the first override reloads, the next ones change instances in place
            config["instance_group"] = [{"count": count, "kind": "KIND_CPU"}]
            client.load_model("other", headers=headers, config=json.dumps(config))
        client.unload_model("adder", headers=headers)
        until(lambda: len(stubs_of(launched.document["server_pid"])) == 2)
    time.sleep(2.5)  # longer than the watchdog needs
    assert launched.process.poll() is None, launched.stderr
    assert ready(launched.info)


def test_a_second_server_does_not_take_the_first_ones_place(
    start: Start, repository: Path, served: ServerInfo, tmp_path: Path
) -> None:
    first = start(repository).wait_ready()
    second = start(
        repository,
        f"--http-port={first.info.http_url.rpartition(':')[2]}",
        f"--server-file={first.folder / 'server.json'}",
    )
    assert second.process.wait(SOON_S) == 3
    errors = second.wait_ready().document["errors"]
    assert [fault["what"] for fault in errors] == [
        "a server is already running here",
        f"port {first.info.http_url.rpartition(':')[2]} is taken",
    ]
    assert "tritonserver (pid" in errors[1]["why"]
    assert first.info.id == first.document["id"]


def test_administration_needs_the_key(served: ServerInfo) -> None:
    with httpclient.InferenceServerClient(served.http_url) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_model_repository_index()
        assert client.get_model_repository_index(headers=served.admin_headers)
        assert client.get_system_shared_memory_status() == []  # opened by --allow-client-shm
    key = {"triton-grpc-protocol-admin-key": served.admin_key}
    with grpcclient.InferenceServerClient(served.grpc_url) as grpc:
        with pytest.raises(InferenceServerException, match="restricted"):
            grpc.update_log_settings({"log_verbose_level": 1})
        assert grpc.get_model_repository_index(headers=key).models


def test_shared_memory_of_clients_is_closed_by_default(start: Start, repository: Path) -> None:
    info = start(repository).wait_ready().info
    assert not info.client_shm
    with (
        httpclient.InferenceServerClient(info.http_url) as client,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        client.get_system_shared_memory_status()


def test_one_bad_model_is_named_in_the_table_and_the_others_are_served(start: Start, repository: Path) -> None:
    wrong = _models.adder(repository, "wrong")
    config = (wrong / "config.pbtxt").read_text()
    (wrong / "config.pbtxt").write_text(
        config.replace('name: "y" data_type: TYPE_FP32 dims: [4]', 'name: "y" data_type: TYPE_INT32 dims: [5]')
    )
    launched = start(repository).wait_ready()
    status = {model["name"]: model["status"] for model in launched.document["models"]}
    assert status["adder"] == "READY"
    assert "unexpected datatype TYPE_INT32 for inference output 'y', expecting TYPE_FP32" in status["wrong"]
    assert (
        "the model expects 2 dimensions (shape [-1, 4]) but the model configuration specifies 2 dimensions"
        in status["wrong"]
    )
    assert "making complete shape [-1, 5]" in status["wrong"]
    assert "At:" not in status["wrong"]
    assert "1 of 2 models are not ready" in launched.stderr
    assert not ready(launched.info)  # strict readiness
    over_http(launched.info, "adder", x=row(1, 2, 3, 4))


def test_a_server_without_any_ready_model_fails(start: Start, tmp_path: Path) -> None:
    folder = _models.adder(tmp_path / "models", "wrong")
    text = (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(
        text.replace('name: "x"', 'name: "q"').replace("max_batch_size: 8", "max_batch_size: 0")
    )
    launched = start(tmp_path / "models").wait_ready()
    assert launched.process.wait(SOON_S) == 1
    [fault] = launched.document["errors"]
    assert fault["what"] == "model 'wrong' could not be loaded"
    assert "unexpected inference input 'q', allowed inputs are: x" in fault["why"]
    assert "expected configuration for input 'x'" in fault["why"]
    assert (
        "the model expects 2 dimensions (shape [-1, 4]) but the model configuration specifies 1 dimensions (shape [4])"
        in fault["why"]
    )


def test_numpy_2_in_the_stubs_is_found_at_the_start(start: Start, repository: Path) -> None:
    launched = start(
        repository, env={"PLANWRIGHT_SERVER_VENV": sys.prefix}
    ).wait_ready()  # this environment has numpy 2
    assert launched.process.wait(SOON_S) == 1
    assert "does not work with this server's stub: a" in launched.document["errors"][0]["why"]


def stuck(repository: Path) -> None:
    """Add a model whose process never finishes its start."""
    folder = repository / "stuck" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(
        "import time\nclass TritonPythonModel:\n    def initialize(self, args):\n        print('stuck on purpose', flush=True)\n        time.sleep(600)\n"
    )
    (folder.parent / "config.pbtxt").write_text(
        'name: "stuck"\nbackend: "python"\n' + _models.tensors("output", ("y", "FP32", [1]))
    )


def test_a_start_that_takes_too_long_ends_with_the_last_lines_of_the_log(start: Start, repository: Path) -> None:
    stuck(repository)
    launched = start(repository, "--start-timeout-s=4").wait_ready()
    assert launched.process.wait(SOON_S) == 1
    [fault] = launched.document["errors"]
    assert fault["what"] == "the models were not loaded within 4 s"
    assert "stuck on purpose" in fault["why"]
    until(
        lambda: (
            not [
                p
                for p in psutil.process_iter(["cmdline"])
                if str(repository / "stuck") in " ".join(p.info["cmdline"] or [])
            ]
        )
    )


def test_a_library_that_the_stub_lacks_is_named_at_once(start: Start, repository: Path, tmp_path: Path) -> None:
    from serving.installation import find_server

    wheel = find_server().home.parents[1]
    shutil.copytree(
        wheel / "pytriton" / "tritonserver", tmp_path / "wheel" / "pytriton" / "tritonserver", symlinks=True
    )
    shutil.copytree(wheel / "nvidia_pytriton.libs", tmp_path / "wheel" / "nvidia_pytriton.libs")
    stubs = tmp_path / "wheel" / "pytriton" / "tritonserver" / "python_backend_stubs"
    stub = stubs / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
    wanted = b"libpython%d.%d.so.1.0" % sys.version_info[:2]
    stub.write_bytes(stub.read_bytes().replace(wanted, b"libnithon" + wanted[9:]))
    launched = start(repository, env={"PLANWRIGHT_TRITONSERVER_DIR": str(tmp_path / "wheel")}).wait_ready()
    assert launched.process.wait(SOON_S) == 1
    [fault] = launched.document["errors"]
    assert fault["what"].startswith("a model's process cannot start: a library is missing: libnithon")
    assert "error while loading shared libraries" in fault["why"]
    assert fault["fix"].startswith("make setup")


def test_an_unknown_flag_is_a_usage_error(start: Start, repository: Path) -> None:
    launched = start(repository, "--no-such-flag=1").wait_ready()
    assert launched.process.wait(SOON_S) == 2
    assert "tritonserver does not know --no-such-flag" in launched.stderr


def test_flags_of_tritonserver_are_passed_on(start: Start, repository: Path) -> None:
    launched = start(repository, "--log-verbose", "1", "--metrics-config=summary_latencies=true").wait_ready()
    over_http(launched.info, "adder", x=row(1, 2, 3, 4))
    assert "[request id:" in launched.log or "GRPC" in launched.log
    with urllib.request.urlopen(f"http://{launched.info.metrics_url}/metrics", timeout=5) as answer:
        assert "nv_inference_request_summary_us" in answer.read().decode()


def test_ports_that_were_asked_for_are_used(start: Start, repository: Path) -> None:
    http, grpc, metrics = free_ports()
    info = (
        start(repository, f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}").wait_ready().info
    )
    assert (info.http_url, info.grpc_url, info.metrics_url) == tuple(
        f"127.0.0.1:{port}" for port in (http, grpc, metrics)
    )
    with urllib.request.urlopen(f"http://{info.metrics_url}/metrics", timeout=5) as answer:
        assert b"nv_" in answer.read()
