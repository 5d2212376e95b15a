"""The server's counters beside the client's: another load of a model, another version, and servers that tell less."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from measure.record.server_statistics import Server, Snapshot, Tally, VersionCounters
from measure.report import verdict as run_verdict
from planwright.server_info import ServerInfo
from tests._models import constant, model, value
from tests._project import ROOT, Project
from tests._server import running_server
from tests.measure._corrupting_proxy import corrupting_proxy
from tests.measure.conftest import LoadRun, environment, finished, locust
from tests.measure.test_run import wait_answers

CONFIG = "version: 1\nmodels: {m: {source: zoo/onnx, file: m.onnx, samples: {golden: 8, calibration: 8}}}\n"
CLOSED = "127.0.0.1:9"


@dataclass(frozen=True)
class Explicit:
    """A server without metrics whose model can be loaded again, and the project it serves."""

    server: ServerInfo
    project: Project

    def build(self, seed: int) -> None:
        """Publish a version with other weights."""
        weights = constant("w", np.random.default_rng(seed).normal(size=(6, 4)).astype(np.float32))
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        onnx.save(
            model([node], [value("x", "FP32", ["n", 6])], [value("y", "FP32", ["n", 4])], [weights]), self.project.folder / "m.onnx"
        )  # fmt: skip
        done = self.project.build("--no-trial-load")
        assert done.code == 0, done.out + done.err

    def load(self, **override: Any) -> None:
        """Let the server load the model as it is published, or with other fields."""
        body: dict[str, Any] = {}
        if override:
            with urllib.request.urlopen(f"http://{self.server.http_url}/v2/models/m/config") as response:
                body = {"parameters": {"config": json.dumps({**json.load(response), **override})}}
        url = f"http://{self.server.http_url}/v2/repository/models/m/load"
        headers = {"Content-Type": "application/json", **self.server.admin_headers}
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=60):
            pass


@pytest.fixture(scope="module")
def explicit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explicit]:
    project = Project(tmp_path_factory.mktemp("explicit"))
    project.config.write_text(CONFIG)
    nowhere = ServerInfo(0, "", "", "", "", "", "", "", "")
    Explicit(nowhere, project).build(1)
    flags = ("--model-control-mode=explicit", "--load-model=m", "--allow-metrics=false")
    with running_server(project.repository, *flags) as server:
        yield Explicit(server, project)


def disturbed(explicit: Explicit, folder: Path, disturb: Callable[[], None]) -> LoadRun:
    """A run whose every answer is checked, disturbed in its middle and ended by Ctrl-C a while later."""
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--only-summary", "-u", "4", "-r", "4"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(explicit.server, folder, check="1"), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    wait_answers(explicit.server, "m", 300)
    time.sleep(4)  # some readings of the counters, after which those of another load are surely lower at first
    disturb()
    wait_answers(explicit.server, "m", 300)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=90)
    return finished(process.returncode, text, folder)


def test_another_load_of_a_model_begins_at_zero(explicit: Explicit, tmp_path: Path) -> None:
    done = disturbed(explicit, tmp_path, lambda: explicit.load(max_batch_size=4))
    server, verdict = done.report["server"]["m"], done.report["verdict"]
    assert server["changes"] == ["version 1 was loaded again"], done.text
    assert 0 < server["requests"] < sum(row["requests"] for row in done.report["models"]), "what came after it"
    assert all(row["count"] > 0 for row in server["batches"])
    assert verdict["status"] == "inconclusive"
    assert any("m: version 1 was loaded again" in reason for reason in verdict["reasons"])
    assert not any("counted" in reason for reason in verdict["reasons"]), "no comparison with a part"


def test_a_version_that_takes_over_is_named_and_its_answers_are_right(explicit: Explicit, tmp_path: Path) -> None:
    """The new weights answer otherwise: they are compared with the new version's golden answers."""

    def switch() -> None:
        explicit.build(2)
        explicit.load()

    done = disturbed(explicit, tmp_path, switch)
    assert done.code == 130, done.text
    server = done.report["server"]["m"]
    assert "version 2 was loaded" in server["changes"]
    for row in done.report["models"]:
        assert (row["wrong"], row["failures"], row["version"]) == (0, 0, "1, 2"), row["errors"]
        assert row["checked"] == row["requests"]
    assert any("version 2 was loaded" in reason for reason in done.report["verdict"]["reasons"])


def test_a_server_without_http_and_metrics_tells_the_same_over_grpc(explicit: Explicit, tmp_path: Path) -> None:
    quiet = dataclasses.replace(explicit.server, http_url=CLOSED, metrics_url=CLOSED)
    done = locust(quiet, tmp_path, "-u", "2", "-r", "2", "-t", "4s", "--tags", "grpc", wait_s="0.01")
    assert done.code == 0, done.text
    server, (row,) = done.report["server"]["m"], done.report["models"]
    assert server["requests"] == row["requests"] > 50
    assert server["inferences"] == sum(each["size"] * each["count"] for each in server["batches"])
    assert server["mean_compute_infer_us"] > 0
    assert done.report["environment"]["server"]["version"].startswith("2.")
    assert not any("server" in reason for reason in done.report["verdict"]["reasons"])


def without_statistics(data: bytes) -> bytes:
    """Return an answer of a server that keeps no statistics; of the same length."""
    return data.replace(b'"model_stats"', b'"model_staff"')


def test_a_server_that_tells_nothing_is_said_and_no_failure(explicit: Explicit, tmp_path: Path) -> None:
    with corrupting_proxy(explicit.server.http_url) as proxy:
        proxy.corrupt(without_statistics)
        silent = dataclasses.replace(explicit.server, http_url=proxy.address, grpc_url=CLOSED)
        done = locust(silent, tmp_path, "-u", "2", "-r", "2", "-t", "4s", "--tags", "http", wait_s="0.02")
    assert done.code == 0, done.text
    assert done.report["server"] == {}
    assert "the server's counters cannot be read" in done.report["server_note"]
    assert done.report["server_note"] in done.text
    assert done.report["verdict"]["status"] != "fail"
    assert not any("did not answer" in reason for reason in done.report["verdict"]["reasons"])


def test_http_and_grpc_say_the_same(served: ServerInfo) -> None:
    readings = [
        Server(*urls).snapshot(["digits", "nowhere"]) for urls in ((served.http_url, CLOSED), (CLOSED, served.grpc_url))
    ]
    (http, _), (grpc, _) = readings
    assert http is not None
    assert grpc is not None
    assert (http.source, grpc.source) == ("HTTP", "gRPC")
    assert (http.series, http.instances) == (grpc.series, grpc.instances)
    assert http.newest("nowhere") == ""


def series(requests: int, **batches: int) -> VersionCounters:
    times = dict.fromkeys(
        ("request_us", "queue_us", "compute_input_us", "compute_infer_us", "compute_output_us"), requests * 10.0
    )
    counts = {"requests": requests, "failures": 0, "inferences": requests, "executions": requests, **times}
    return VersionCounters(counts, {int(size[1:]): (count, count * 100) for size, count in batches.items()})


def tallied(*snapshots: dict[str, VersionCounters]) -> dict[str, Any]:
    first, *others = (Snapshot({"m": versions}, {"m": 1}) for versions in snapshots)
    tally = Tally(first)
    for snapshot in others:
        tally.add(snapshot)
    found: dict[str, Any] = tally.figures(10.0)["m"]
    return found


def test_every_series_is_counted_by_itself() -> None:
    found = tallied(
        {"1": series(1000, b1=900, b2=50), "2": series(5000, b1=5000)},
        {"1": series(1400, b1=1290, b2=55), "2": series(300, b1=300), "3": series(70, b4=17)},
    )
    assert found["requests"] == 400 + 300 + 70
    assert found["changes"] == ["version 2 was loaded again", "version 3 was loaded"]
    assert found["versions"] == ["1", "2", "3"]
    assert [(row["size"], row["count"]) for row in found["batches"]] == [(1, 390 + 300), (2, 5), (4, 17)]
    assert found["mean_queue_us"] == pytest.approx(10)


def test_readings_in_between_see_another_load_and_keep_what_was_counted() -> None:
    found = tallied(
        {"1": series(10, b1=10)}, {"1": series(500, b1=500)}, {"1": series(40, b1=40)}, {"1": series(900, b1=900)}
    )
    assert found["requests"] == 490 + 40 + 860
    assert found["changes"] == ["version 1 was loaded again"]
    gone = tallied({"1": series(10)}, {"1": series(60)}, {}, {"1": series(5)})
    assert (gone["requests"], gone["changes"]) == (55, ["version 1 was unloaded", "version 1 was loaded again"])


def test_a_busy_client_beside_a_server_without_counters_is_inconclusive() -> None:
    from tests.measure.test_records import judge, report, typed

    found = {**report(client__cpu_share=0.97), "server": {}, "server_note": "the server's counters cannot be read: why"}
    verdict = judge(found)
    assert verdict.status == "inconclusive"
    assert "server utilization is unknown" in verdict.reasons[0]
    calm = {**found, "client": {**found["client"], "cpu_share": 0.3}}
    assert judge(calm).status == "pass"
    assert "the server's counters are not known" in run_verdict.passed(typed(calm))
