"""Served throughput over in-process ONNX Runtime, and the cost of the SDK over bare tritonclient.

In      a published repository (python builders/build_all.py --random-weights resnet50).
Out     a table and benchmarks/results/embedded.json; with ``--check`` exit code 1 where a stated target is missed or an input missing.

Both sides of a ratio are measured in one run, interleaved round by round. Server and stubs are pinned to core 0, the client
and its threads to core 1, and the in-process session to core 0, one thread each. Inputs are the golden samples, a different
one in each request. Targets: resnet50 served at least 0.95 of in-process, minilm at least 0.80; SDK CPU per small HTTP
request at most 1.15 of bare tritonclient.http, a prepared one at most 0.9.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import Inputs, parser, ratio_row, scratch_folder, serve, show_ratios, stamp
from planwright import console
from planwright.golden import Golden
from planwright.server_info import ServerInfo

TARGETS = {"resnet50": 0.95, "minilm": 0.80, "sdk": 1.15, "prepared": 0.90}
SERVER_CORE, CLIENT_CORE = 0, 1
PINNED = ("taskset", "-c", str(SERVER_CORE))
BATCH = {"resnet50": 8, "minilm": 8}
SMALL = "digits"
IN_FLIGHT = 3
SMALL_REQUESTS = 400


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__)
    p.add_argument("--rounds", type=int, default=6, help="interleaved rounds per ratio")
    p.add_argument("--seconds", type=float, default=4.0, help="length of one side of a round")
    p.add_argument("--in-process", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args(argv)
    if args.in_process:
        return _in_process(*args.in_process)
    inputs = Inputs()
    inputs.cores(max(SERVER_CORE, CLIENT_CORE) + 1)
    inputs.program("taskset", "install util-linux")
    inputs.require()
    models = inputs.models(args.repository, *BATCH)
    rows = [_served(args, name) for name in models]
    rows += _sdk(args) if inputs.models(args.repository, SMALL) else []
    show_ratios("embedded", rows)
    settings = {"pinning": "server core 0, client core 1, in-process core 0", "rounds": args.rounds}
    value = {**stamp(), **settings, "rows": rows}
    return inputs.conclude("embedded", value, met=all(r["met"] for r in rows), check=args.check)


def _served(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return served over in-process throughput of one model, one intra-op thread on each side."""
    batch, rates = BATCH[name], []
    with scratch_folder() as scratch:
        folder = _one_thread(args.repository / name, scratch / name)
        with serve(scratch, "--trust-repository", prefix=PINNED) as server, _on_client_core():
            session, load = InProcessSession(folder, batch), ShmLoad(server, name, folder, batch)
            session.run(1.0)
            load.run(1.0)
            for _ in range(args.rounds):
                rates.append((session.run(args.seconds), load.run(args.seconds)))
            load.close()
            session.close()
    inside, served = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios, detail = [b / a for a, b in rates], f"{served:.1f} and {inside:.1f} samples/s, shm"
    return ratio_row(f"{name} served / in-process, batch {batch}", ratios, TARGETS[name], sign="≥", detail=detail)


@contextmanager
def _on_client_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _one_thread(source: Path, target: Path) -> Path:
    """Copy a published model and set one intra-op thread and no batcher delay; returns the version folder."""
    shutil.copytree(source, target)
    path = target / "config.pbtxt"
    text = path.read_text().replace("max_queue_delay_microseconds", "# max_queue_delay_microseconds")
    path.write_text(text + 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n')
    return max((p.parent for p in target.glob("*/build.json")), key=lambda folder: int(folder.name))


class InProcessSession:
    """An ONNX Runtime session in a process of its own, pinned to the server's core."""

    def __init__(self, folder: Path, batch: int) -> None:
        command = [*PINNED, sys.executable, __file__, "--in-process", str(folder), str(batch)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def _read(self) -> float:
        assert self._process.stdout is not None
        return float(json.loads(self._process.stdout.readline()))

    def run(self, seconds: float) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _in_process(folder: str, batch: str) -> int:
    """Run the session: reads lines with seconds, writes lines with samples per second."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"])
    batches = [group.inputs for group in _largest(Golden.load(Path(folder) / "golden.npz")).batches(int(batch))]
    sys.stdout.write("0\n")
    sys.stdout.flush()
    for line in sys.stdin:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < float(line):
            session.run(None, batches[count % len(batches)])
            count += 1
        sys.stdout.write(f"{count * int(batch) / (time.perf_counter() - started)}\n")
        sys.stdout.flush()
    return 0


def _largest(golden: Golden) -> Golden:
    """Keep one shape, so that both sides do the same work in any order."""
    return Golden((max(golden.groups, key=len),), golden.meta)


class ShmLoad:
    """Requests through shared memory, several in flight, so that the server never waits for the client."""

    def __init__(self, server: ServerInfo, name: str, folder: Path, batch: int) -> None:
        from clients import TritonModel

        self._batch, numbers = batch, range(IN_FLIGHT)
        self._models = [TritonModel(name, server.grpc_url, protocol="grpc", shared_memory="system") for _ in numbers]
        self._groups = [group.inputs for group in _largest(Golden.load(folder / "golden.npz")).batches(batch)]

    def run(self, seconds: float) -> float:
        """Return samples per second; every request carries another batch."""
        from concurrent.futures import ThreadPoolExecutor

        started = time.perf_counter()

        def worker(index: int) -> int:
            count = 0
            while time.perf_counter() - started < seconds:
                self._models[index].infer_batch(self._groups[(count * IN_FLIGHT + index) % len(self._groups)])
                count += 1
            return count

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            total = sum(pool.map(worker, range(IN_FLIGHT)))
        return total * self._batch / (time.perf_counter() - started)

    def close(self) -> None:
        for model in self._models:
            model.close()


def _sdk(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return CPU per small HTTP request: the SDK and a prepared request, each over bare tritonclient.http."""
    import numpy as np
    import tritonclient.http as bare

    from clients import TritonModel

    image = np.zeros((1, 8, 8), np.uint8)
    with scratch_folder() as scratch:
        shutil.copytree(args.repository / SMALL, scratch / SMALL)
        with serve(scratch, prefix=PINNED) as server, _on_client_core():
            client = bare.InferenceServerClient(server.http_url)

            def plain() -> object:
                tensor = bare.InferInput("image", image.shape, "UINT8")
                tensor.set_data_from_numpy(image)
                return client.infer(SMALL, [tensor], outputs=[bare.InferRequestedOutput("scores")]).as_numpy("scores")

            with TritonModel(SMALL, server.http_url) as model:
                request = model.prepare(image=image)
                sides: list[Callable[[], object]] = [plain, lambda: model.infer_batch(image=image), request.infer]
                for side in sides:
                    _cpu_us(side)
                rounds = [[_cpu_us(side) for side in sides] for _ in range(args.rounds)]
            client.close()
    middle = [statistics.median(column) for column in zip(*rounds, strict=True)]
    detail = f"{middle[0]:.0f} µs bare, {middle[1]:.0f} µs SDK, {middle[2]:.0f} µs prepared"
    names = {
        "sdk": "SDK CPU per small HTTP request / bare tritonclient.http",
        "prepared": "prepared request / bare tritonclient.http",
    }
    return [
        ratio_row(what, [side[at] / side[0] for side in rounds], TARGETS[key], sign="≤", detail=detail)
        for at, (key, what) in enumerate(names.items(), 1)
    ]


def _cpu_us(call: Callable[[], object]) -> float:
    started = time.process_time()
    for _ in range(SMALL_REQUESTS):
        call()
    return (time.process_time() - started) / SMALL_REQUESTS * 1e6


if __name__ == "__main__":
    console.run(main)
