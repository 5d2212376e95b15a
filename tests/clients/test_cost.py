"""What the SDK costs beside bare tritonclient.http: CPU per small request, measured in turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import tritonclient.http as httpclient

from clients import TritonModel
from planwright.server_info import ServerInfo

ROUNDS, REQUESTS = 7, 150


def cpu_s(call: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(REQUESTS):
        call()
    return time.process_time() - began


def test_the_sdk_costs_no_more_than_the_bare_client_and_a_prepared_request_less(server: ServerInfo) -> None:
    x, bare = np.zeros((1, 8, 8), np.uint8), httpclient.InferenceServerClient(server.http_url)

    def call_bare() -> object:
        tensor = httpclient.InferInput("image", [1, 8, 8], "UINT8")
        tensor.set_data_from_numpy(x)
        return bare.infer("classes", [tensor], outputs=[httpclient.InferRequestedOutput("scores")]).as_numpy("scores")

    with TritonModel("classes", server.http_url) as model:
        prepared = model.prepare(image=x)
        calls: list[Callable[[], object]] = [call_bare, lambda: model.infer_batch(image=x), prepared.infer]
        for call in calls:
            call()
        turns = [[cpu_s(call) for call in calls] for _ in range(ROUNDS)]
    bare.close()
    plain, fresh, reused = (statistics.median(column) for column in zip(*turns, strict=True))
    assert fresh <= 1.15 * plain, f"SDK {fresh / plain:.2f} x"
    assert reused <= 0.9 * plain, f"prepared {reused / plain:.2f} x"
