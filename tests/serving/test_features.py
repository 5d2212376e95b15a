"""The scheduler settings of config.pbtxt work on the real server with our backend."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from planwright.server_info import ServerInfo
from tests.serving._infer import BUSY, over_grpc, row, statistics, turns


def test_warm_up_ran_before_the_model_was_ready(served: ServerInfo) -> None:
    assert statistics(served, "warm").inference_count == 8  # two of batch 4, before any request


def test_the_same_request_is_answered_from_the_cache(served: ServerInfo) -> None:
    first, second = (over_grpc(served, "cached", x=row(5, 6, 7, 8)) for _ in range(2))
    stats = statistics(served, "cached")
    assert (stats.inference_stats.cache_hit.count, stats.execution_count) == (1, 1)
    np.testing.assert_array_equal(first["y"], second["y"])


def test_two_instances_work_at_the_same_time(served: ServerInfo) -> None:
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(over_grpc, served, "pair", x=turns(BUSY))
        time.sleep(0.2)
        over_grpc(served, "pair", x=turns(1))
        assert not long.done()
        long.result()


def test_a_full_queue_rejects(served: ServerInfo) -> None:
    outcomes = _at_once(served, "queue", [BUSY, 1, 1, 1])
    refused = [error for error in outcomes if isinstance(error, InferenceServerException)]
    assert refused
    assert {(e.status(), "Exceeds maximum queue size" in str(e.message())) for e in refused} == {
        ("StatusCode.UNAVAILABLE", True)
    }


def test_a_request_that_waits_too_long_is_rejected(served: ServerInfo) -> None:
    first, second = _at_once(served, "impatient", [BUSY, 1])
    assert not isinstance(first, InferenceServerException)
    assert isinstance(second, InferenceServerException)
    assert "Request timeout expired" in str(second.message())


def test_a_higher_priority_overtakes(served: ServerInfo) -> None:
    order: list[str] = []

    def infer(name: str, count: int, priority: int) -> None:
        over_grpc(served, "ranked", priority=priority, x=turns(count))
        order.append(name)

    threads = [
        threading.Thread(target=infer, args=job)
        for job in (("busy", BUSY, 2), ("low", BUSY // 4, 2), ("high", BUSY // 4, 1))
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert order == ["busy", "high", "low"]


def _at_once(server: ServerInfo, model: str, counts: list[int]) -> list[Any]:
    """Send requests a fifth of a second apart without waiting for answers."""

    def infer(count: int) -> Any:
        try:
            return over_grpc(server, model, x=turns(count))
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(counts)) as pool:
        futures = []
        for count in counts:
            futures.append(pool.submit(infer, count))
            time.sleep(0.2)
        return [future.result() for future in futures]


@pytest.mark.parametrize("model", ["unbatched"])
def test_without_dynamic_batching_each_request_runs_alone(served: ServerInfo, model: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: over_grpc(served, model, x=row(i, i, i, i)), range(8)))
    assert {int(answer["rows"][0, 0]) for answer in answers} == {1}
