"""sweep: throughput and latency for each number of model instances.

In      a published model; ``--instances``, ``--users``, ``--repeats``.
Out     a table, a report with plots, and per point whether it gains on the first.

The server is one of its own, in explicit mode, on a hard-linked copy of the one model: the repository is only read.
Instances are changed in place through the load API. One throw-away override comes first, because the first override
reloads the model. Points are interleaved over the repeats, so that a slow minute of the machine hits all of them. The load
is locust itself, so there is one way to load a model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients import published
from loadtest import _report, _server, _stats
from planwright import console
from planwright.errors import EXIT_FAILED, EXIT_OK, Fault, MachineError, PlanwrightError, StageError
from planwright.files import read_json
from planwright.own_server import own_server
from planwright.server_info import ServerInfo

ROOT = Path(__file__).resolve().parents[1]
LOAD_TIMEOUT_S = 120.0


def main(args: argparse.Namespace) -> int:
    """Run the sweep; returns the exit code."""
    published.select(args.repository, [args.model])
    with tempfile.TemporaryDirectory(prefix="planwright-sweep-") as scratch, _server_for(args, Path(scratch)) as server:
        measured = _measure(args, server, Path(scratch))
        identity = _server.identity(server.http_url)
    report = _make_report(args, measured, identity)
    folder = _report.new_folder(args.runs, f"sweep-{args.model}")
    report = {"schema": _report.SCHEMA_VERSION, "kind": "sweep", **_report.header(folder, identity), **report}
    _report.save(folder, report)
    _show(report, folder)
    if args.json:
        console.emit_json({**report, "report": str(folder / "report.html")})
    return EXIT_FAILED if report["verdict"]["status"] == "fail" else EXIT_OK


def _measure(args: argparse.Namespace, server: ServerInfo, scratch: Path) -> dict[int, list[dict[str, Any]]]:
    """Return, per number of instances, one run report per repeat."""
    base = _config(server, args.model)
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in args.instances}
    try:
        _set_instances(server, args.model, base, args.instances[0])  # the first override reloads: it is thrown away
        for repeat in range(args.repeats):
            order = args.instances if repeat % 2 == 0 else tuple(reversed(args.instances))
            for count in order:
                _set_instances(server, args.model, base, count)
                run = _load(args, server, scratch)
                found[count].append(run)
                row = run["models"][0] if run["models"] else {"throughput_per_s": 0.0}
                console.say(
                    f"repeat {repeat + 1}/{args.repeats}  {count} instances  {row['throughput_per_s']:.0f} infer/sec"
                )
    finally:
        if args.server:
            _restore(server, args.model, base)
    return found


def _load(args: argparse.Namespace, server: ServerInfo, scratch: Path) -> dict[str, Any]:
    """Run locust once and return its report.json.

    Raises:
        StageError: It left no report.
    """
    runs = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
    environment = {
        **os.environ, "PLANWRIGHT_MODELS": args.model, "PLANWRIGHT_BATCH": str(args.batch), "PLANWRIGHT_WARMUP_S": str(args.warmup_s),
        "PLANWRIGHT_RUNS": str(runs), "PLANWRIGHT_REPOSITORY": str(args.repository), "PLANWRIGHT_SERVER_FILE": str(scratch / "load.json"),
        "PLANWRIGHT_URL": server.http_url, "PLANWRIGHT_GRPC_URL": server.grpc_url,
    }  # fmt: skip
    server.write(scratch / "load.json")
    seconds = args.duration_s + args.warmup_s
    user = "InferGrpc" if args.protocol == "grpc" else "InferHttp"
    command = [sys.executable, "-m", "locust", "-f", "loadtest/", "--headless", "--users", str(args.users), "--spawn-rate", str(args.users),
               "--run-time", f"{max(1, round(seconds))}s", "--only-summary", "--loglevel", "ERROR", user]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 120)
    reports = list(runs.glob("*/report.json"))
    if not reports:
        why = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
        raise StageError(
            "load",
            Fault("the load left no report", why=why, fix="try it by hand: locust -f loadtest/ --headless -t 5s"),
        )
    report: dict[str, Any] = read_json(reports[0])
    return report


def _make_report(
    args: argparse.Namespace, measured: dict[int, list[dict[str, Any]]], identity: dict[str, Any]
) -> dict[str, Any]:
    build = _build(args)
    points = [_point(args.model, count, runs) for count, runs in measured.items()]
    for point in points:
        same = point is points[0]
        point["comparison"] = (
            "" if same else _stats.compare(points[0]["throughput_per_s"]["values"], point["throughput_per_s"]["values"])
        )
    return {
        "model": args.model, "version": str(build.get("version", "")), "weights": build.get("weights", "real"), "target": build.get("target", ""),
        "precision": build.get("precision", ""), "protocol": args.protocol, "batch": args.batch, "users": args.users, "repeats": args.repeats,
        "duration_s": args.duration_s, "warmup_s": args.warmup_s, "points": points, "verdict": _verdict(points), "server": {}, "models": [],
    }  # fmt: skip


def _build(args: argparse.Namespace) -> dict[str, Any]:
    newest = max((args.repository / args.model).glob("*/build.json"), key=lambda path: int(path.parent.name))
    return published.version(args.repository, args.model, newest.parent.name).build


def _point(model: str, count: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [row for run in runs for row in run["models"]]
    batches = [run["server"][model]["mean_batch"] for run in runs if model in run["server"]]
    return {
        "instances": count,
        "throughput_per_s": _stats.interval([row["throughput_per_s"] for row in rows] or [0.0]),
        "p50_us": _stats.interval([row["latency_us"]["p50"] for row in rows] or [0.0]),
        "p99_us": _stats.interval([row["latency_us"]["p99"] for row in rows] or [0.0]),
        "mean_batch": sum(batches) / len(batches) if batches else 0.0,
        "failures": sum(row["failures"] for row in rows),
        "wrong": sum(row["wrong"] for row in rows),
        "client_cpu_share": max((run["client"]["cpu_share"] for run in runs), default=0.0),
    }


def _verdict(points: list[dict[str, Any]]) -> dict[str, Any]:
    bad = [
        f"{p['instances']} instances: {p['failures']} failed requests, {p['wrong']} wrong answers"
        for p in points
        if p["failures"]
    ]
    reasons = [
        f"{p['instances']} instances against {points[0]['instances']}: {p['comparison']} infer/sec" for p in points[1:]
    ]
    busy = max(p["client_cpu_share"] for p in points)
    if busy > _report.BUSY:
        reasons.append(f"THE CLIENT MAY BE THE LIMIT: it used {busy:.0%} of a core")
    return {"status": "fail" if bad else "inconclusive" if busy > _report.BUSY else "pass", "reasons": [*bad, *reasons]}


def _show(report: dict[str, Any], folder: Path) -> None:
    rows = [
        (p["instances"], f"{p['throughput_per_s']['mean']:.0f} ± {p['throughput_per_s']['half_width']:.0f}", f"{p['p50_us']['mean'] / 1000:.2f}",
         f"{p['p99_us']['mean'] / 1000:.2f}", f"{p['mean_batch']:.2f}", p["failures"], p["wrong"], p["comparison"])
        for p in report["points"]
    ]  # fmt: skip
    title = f"{report['model']}, {report['users']} users over {report['protocol']}"
    console.table(
        title,
        ["instances", "infer/sec (95%)", "p50 ms", "p99 ms", "mean batch", "failed", "wrong", "against the first"],
        rows,
    )
    console.say(f"report: {folder / 'report.html'}")


@contextmanager
def _server_for(args: argparse.Namespace, scratch: Path) -> Iterator[ServerInfo]:
    """Yield the server to measure: one of its own, or the one given with ``--server``."""
    if args.server:
        yield _given_server(args.server)
        return
    _link(args.repository / args.model, scratch / "repository" / args.model)
    flags = [
        "--model-control-mode=explicit",
        "--load-model",
        args.model,
        "--model-repository",
        str(scratch / "repository"),
    ]
    with own_server(*flags, file=scratch / "server.json", log=scratch / "serving.txt") as info:
        yield info


def _given_server(url: str) -> ServerInfo:
    info = ServerInfo.read()
    host, port = url.removeprefix("http://").rstrip("/").partition(":")[::2]
    if info is not None and info.http_url.rpartition(":")[2] == port:
        if info.mode != "explicit":
            raise MachineError(
                Fault(
                    "the server does not let its models be changed",
                    url,
                    f"it runs in mode {info.mode}",
                    "start it with --model-control-mode=explicit",
                )
            )
        return info
    number = int(port) if port.isdigit() else 8000
    return ServerInfo(0, "", f"{host}:{number}", f"{host}:{number + 1}", f"{host}:{number + 2}", "explicit", "", "", "")


def _link(source: Path, target: Path) -> None:
    """Copy a model folder by hard links, by bytes where the file system has none."""

    def copy(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(source, target, copy_function=copy)


def _config(server: ServerInfo, model: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(
            f"http://{server.http_url}/v2/models/{model}/config", timeout=LOAD_TIMEOUT_S
        ) as response:
            found: dict[str, Any] = json.loads(response.read())
    except OSError as error:
        raise MachineError(
            Fault(f"the server does not answer for '{model}'", server.http_url, str(error), "see its ready table")
        ) from None
    return found


def _set_instances(server: ServerInfo, model: str, base: dict[str, Any], count: int) -> None:
    groups = [{**group, "count": count} for group in base["instance_group"][:1]]
    _override(server, model, {**base, "instance_group": groups})
    now = sum(group["count"] for group in _config(server, model)["instance_group"])
    if now != count:
        raise StageError(
            "load",
            Fault(f"the server runs {now} instances instead of {count}", server.http_url, fix="see the server's log"),
        )


def _override(server: ServerInfo, model: str, config: dict[str, Any]) -> None:
    """Load the model with another config, by the repository API."""
    body = json.dumps({"parameters": {"config": json.dumps(config)}}).encode()
    headers = {"Content-Type": "application/json", **server.admin_headers}
    request = urllib.request.Request(
        f"http://{server.http_url}/v2/repository/models/{model}/load", data=body, headers=headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=LOAD_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        why = error.read().decode(errors="replace")
    except OSError as error:
        why = str(error)
    raise StageError(
        "load",
        Fault(
            f"the server did not take {model}'s config",
            server.http_url,
            why,
            "it must run with --model-control-mode=explicit",
        ),
    )


def _restore(server: ServerInfo, model: str, base: dict[str, Any]) -> None:
    """Put back the config that the model had, and look that it is there; also after Ctrl-C."""
    _override(server, model, base)
    if _config(server, model)["instance_group"] != base["instance_group"]:
        raise PlanwrightError(
            Fault(f"the config of {model} could not be restored", server.http_url, fix="load the model again")
        )
