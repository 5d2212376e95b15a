"""A locust user as tritonclient's examples would have it: builds tensors, calls ``infer``, reads the answer.

In      the environment of loadtest/_settings.py.
Out     a report like that of our scenarios, so that both are counted the same way.
"""

from __future__ import annotations

from locust import User, constant, events, tag, task  # isort: skip

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc.experimental.gevent
import tritonclient.grpc as stock

from clients import TritonModel
from clients import published as repository
from loadtest import _run, _settings
from loadtest._versions import newest_served

grpc.experimental.gevent.init_gevent()
SETTINGS = _settings.read({**os.environ, "PLANWRIGHT_CHECK": "0"})
RUN = _run.Run(SETTINGS)
RUN.listen(events)


class Stock(User):
    """One connection, a closed loop."""

    host = f"http://{SETTINGS.grpc_url}"
    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect and choose samples."""
        self.name = SETTINGS.weighted[0]
        with TritonModel(self.name, SETTINGS.http_url) as model:
            version = repository.version(
                SETTINGS.repository, self.name, newest_served(SETTINGS.http_url, self.name, model)
            )
        self.samples = [group.inputs for group in version.golden().batches(1)]
        self.outputs = list(version.golden().groups[0].outputs)
        self.client = stock.InferenceServerClient(SETTINGS.grpc_url)
        self.turn = 0
        RUN.connected(self.environment.runner)

    def on_stop(self) -> None:
        """Close the channel, or the process would not end."""
        self.client.close()

    @tag("grpc")
    @task
    def infer(self) -> None:
        """One request."""
        if RUN.recorder.ended:
            return
        self.turn = (self.turn + 1) % len(self.samples)
        RUN.recorder.sent(self.name, "grpc")
        began = time.perf_counter()
        answers = self._ask(self.samples[self.turn])
        latency_us = (time.perf_counter() - began) * 1e6
        RUN.recorder.record(self.name, "grpc", began, latency_us)
        size = sum(array.nbytes for array in answers.values())
        self.environment.events.request.fire(
            request_type="grpc",
            name=self.name,
            response_time=latency_us / 1000,
            response_length=size,
            exception=None,
            context={},
        )

    def _ask(self, sample: Any) -> dict[str, Any]:
        inputs = []
        for name, array in sample.items():
            tensor = stock.InferInput(
                name, list(array.shape), {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}[str(array.dtype)]
            )
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = [stock.InferRequestedOutput(name) for name in self.outputs]
        answer = self.client.infer(self.name, inputs, outputs=outputs)
        return {name: answer.as_numpy(name) for name in self.outputs}
