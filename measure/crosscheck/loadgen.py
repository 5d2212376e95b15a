"""Child process of referee: MLPerf LoadGen drives prepared requests with Poisson arrivals, latency from the scheduled time.

In      ``python -m measure.crosscheck.loadgen JOB.json``: model, address, protocol, rate, duration, connections, repository, seed.
Out     a JSON line on stdout: requests, rate and percentiles as LoadGen itself reports them.

A separate process, without gevent: LoadGen issues from a C++ thread, and each connection is a thread here.
"""

from __future__ import annotations

import json
import queue
import re
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from clients import PreparedRequest, TritonModel, published
from clients.validate import sample_inputs

_PERCENTILE = re.compile(r"^(\d+\.\d+) percentile latency \(ns\)\s*: (\d+)", re.MULTILINE)
_FIGURES = {"Min latency (ns)": "min_us", "Max latency (ns)": "max_us", "Mean latency (ns)": "mean_us"}


def main(path: str) -> int:
    job = json.loads(Path(path).read_text())
    workers = Workers(job)
    try:
        sys.stdout.write(json.dumps(drive(job, workers)) + "\n")
    finally:
        workers.close()
    return 0


class Workers:
    """Connections, each a thread that sends the queries issued by LoadGen."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.failures = 0
        self.sent = 0
        connect = {"protocol": job["protocol"], "retries": 0, "timeout_s": job["timeout_s"], "allow_nan": True}
        models = [TritonModel(job["model"], job["url"], **connect) for _ in range(job["connections"])]
        first = models[0]
        version = published.version(Path(job["repository"]), job["model"], job["version"])
        self._groups = list(version.golden().batches(1))
        self.requests = self._prepared(first)
        self._threads = [threading.Thread(target=self._work, args=(model,), daemon=True) for model in models]
        for thread in self._threads:
            thread.start()

    def _prepared(self, model: TritonModel) -> list[PreparedRequest]:
        return [model.standalone().prepare(sample_inputs(model.info, group)) for group in self._groups]

    def issue(self, samples: Any) -> None:
        """Accept queries from LoadGen without blocking it."""
        for sample in samples:
            self._queue.put((sample.id, sample.index))

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(10)

    def _work(self, model: TritonModel) -> None:
        import mlperf_loadgen as lg

        # a prepared request of a sequence model has an id, which no two requests in flight may share
        requests = self._prepared(model) if model.info.sequence else [each.using(model) for each in self.requests]
        while (item := self._queue.get()) is not None:
            number, index = item
            try:
                requests[index % len(requests)].raw()
            except Exception:
                self.failures += 1
            self.sent += 1
            lg.QuerySamplesComplete([lg.QuerySampleResponse(number, 0, 0)])
        model.close()


def drive(job: dict[str, Any], workers: Workers) -> dict[str, Any]:
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Server, lg.TestMode.PerformanceOnly
    settings.server_target_qps, settings.server_target_latency_ns = float(job["rate"]), int(3600e9)
    settings.min_duration_ms = settings.max_duration_ms = int(job["duration_s"] * 1000)
    settings.min_query_count = 1
    settings.schedule_rng_seed = settings.sample_index_rng_seed = settings.qsl_rng_seed = job["seed"]
    count = len(workers.requests)
    sut = lg.ConstructSUT(workers.issue, lambda: None)
    samples = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.enable_trace = False
        log.log_output.outdir, log.log_output.copy_summary_to_stdout = folder, False
        lg.StartTestWithLogSettings(sut, samples, settings, log, "")
        text = (Path(folder) / "mlperf_log_summary.txt").read_text()
    lg.DestroyQSL(samples)
    lg.DestroySUT(sut)
    return {**read_summary(text), "requests": workers.sent, "failures": workers.failures}


def read_summary(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {f"p{float(p):g}": int(ns) / 1e3 for p, ns in _PERCENTILE.findall(text)}
    rate = re.search(r"^Completed samples per second\s*: ([\d.]+)", text, re.MULTILINE)
    latencies = {name: _figure(text, title) for title, name in _FIGURES.items()}
    return {"rate_per_s": float(rate[1]) if rate else 0.0, "latency_us": found, **latencies}


def _figure(text: str, title: str) -> float:
    match = re.search(rf"^{re.escape(title)}\s*: (\d+)", text, re.MULTILINE)
    return int(match[1]) / 1e3 if match else 0.0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
