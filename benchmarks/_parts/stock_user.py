"""Two locust users to compare ours with: one as in tritonclient's examples, and one that only calls grpcio.

In      the environment of measure/workload/settings.py; ``--tags grpc`` for the first, ``--tags bare`` for the second.
Out     a report like that of our scenarios, so that all are counted the same way.

The bare one sends the same prepared bytes each time and does not parse the answer: nothing over grpcio can be cheaper.
"""

from __future__ import annotations

from locust import User, constant, events, tag, task  # isort: skip

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import grpc.experimental.gevent
import tritonclient.grpc as stock
from tritonclient.grpc import service_pb2

from clients import TritonModel
from clients import published as repository
from measure.load import run, user_selection
from measure.workload import settings

grpc.experimental.gevent.init_gevent()
SETTINGS = settings.read({**os.environ, "PLANWRIGHT_CHECK": "0"})
RUN = run.Run(SETTINGS)
RUN.listen(events)
events.init.add_listener(
    lambda environment, **_: user_selection.choose(environment, SETTINGS.weighted, SETTINGS.unready)
)
DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}


class ComparedUser(User):
    abstract = True
    host = f"http://{SETTINGS.grpc_url}"
    wait_time = constant(0)

    def on_start(self) -> None:
        self.name = SETTINGS.weighted[0]
        with TritonModel(self.name, SETTINGS.http_url) as model:
            version = repository.version(SETTINGS.repository, self.name, model.versions()[-1])
        self.samples = [group.inputs for group in version.golden().batches(1)]
        self.outputs = list(version.golden().groups[0].outputs)
        self.turn = 0
        self.connect()
        RUN.connected(self.environment.runner)

    def on_stop(self) -> None:
        """Close the channel; otherwise the process does not end."""
        self.connection.close()

    def connect(self) -> None:
        """Open `connection`."""
        raise NotImplementedError

    def answer(self, sample: Any) -> int:
        """Send one request; returns how many bytes were read."""
        raise NotImplementedError

    def one(self) -> None:
        if RUN.recorder.ended:
            return
        self.turn = (self.turn + 1) % len(self.samples)
        RUN.recorder.sent((self.name, "grpc"))
        began = time.perf_counter()
        size = self.answer(self.samples[self.turn])
        latency_us = (time.perf_counter() - began) * 1e6
        RUN.recorder.answered((self.name, "grpc"), began, latency_us)
        self.environment.events.request.fire(
            request_type="grpc", name=self.name, response_time=latency_us / 1000, response_length=size, exception=None, context={}
        )  # fmt: skip


class Stock(ComparedUser):
    """tritonclient's own way: tensors for each request, ``infer``, arrays."""

    def connect(self) -> None:
        self.connection = stock.InferenceServerClient(SETTINGS.grpc_url)

    @tag("grpc")
    @task
    def infer(self) -> None:
        self.one()

    def answer(self, sample: Any) -> int:
        inputs = []
        for name, array in sample.items():
            tensor = stock.InferInput(name, list(array.shape), DATATYPES[str(array.dtype)])
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = [stock.InferRequestedOutput(name) for name in self.outputs]
        answer = self.connection.infer(self.name, inputs, outputs=outputs)
        return sum(int(answer.as_numpy(name).nbytes) for name in self.outputs)


class Bare(ComparedUser):
    """grpcio alone, with bytes that were made once."""

    def connect(self) -> None:
        request = service_pb2.ModelInferRequest(model_name=self.name)
        for name, array in self.samples[0].items():
            request.inputs.add(name=name, datatype=DATATYPES[str(array.dtype)], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        self.request = request.SerializeToString()
        self.connection = grpc.insecure_channel(SETTINGS.grpc_url)
        self.call = self.connection.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    @tag("bare")
    @task
    def infer(self) -> None:
        self.one()

    def answer(self, sample: Any) -> int:
        return len(self.call(self.request))
