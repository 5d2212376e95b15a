"""The backend's answers: correct numbers of every type, merged runs, and errors that affect no other request."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from planwright.server_info import ServerInfo
from tests.serving._infer import BUSY, DATATYPES, over_grpc, over_http, refusal, row, statistics, turns


@pytest.mark.parametrize("infer", [over_http, over_grpc])
def test_answers_are_right_over_both_protocols(served: ServerInfo, infer: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(infer(served, "adder", x=x)["y"], x + 1)


@pytest.mark.parametrize("infer", [over_http, over_grpc])
def test_every_type_comes_back_unchanged(served: ServerInfo, infer: Any) -> None:
    numpy_types = [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]  # fmt: skip
    sent: dict[str, Any] = {
        f"in_{name}": (np.arange(6) % (2 if name == "BOOL" else 6)).astype(dtype).reshape(2, 3)
        for name, dtype in zip(DATATYPES, numpy_types, strict=True)
    }
    answer = infer(served, "types", **sent)
    for name in DATATYPES:
        np.testing.assert_array_equal(answer[f"out_{name}"], sent[f"in_{name}"], err_msg=name)
        assert answer[f"out_{name}"].dtype == sent[f"in_{name}"].dtype


def test_text_is_decoded_and_encoded(served: ServerInfo) -> None:
    sent = np.array([[b"427", "näher".encode(), b""]], dtype=np.object_)
    np.testing.assert_array_equal(over_http(served, "text", in_STRING=sent)["out_STRING"], sent)


def test_bytes_that_are_not_text_are_refused(served: ServerInfo) -> None:
    status, text = refusal(served, "text", in_STRING=np.array([[b"\xff\xfe", b"a", b"b"]], dtype=np.object_))
    assert (status, text) == ("400 INVALID_ARGUMENT", "input 'in_STRING' holds bytes that are not UTF-8 text")


def test_only_the_outputs_asked_for_come_back(served: ServerInfo) -> None:
    assert list(over_http(served, "adder", outputs=["rows"], x=row(1, 2, 3, 4))) == ["rows"]


def test_batching_joins_requests_into_one_run(served: ServerInfo) -> None:
    before = statistics(served, "adder")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: over_grpc(served, "adder", x=row(i, i, i, i)), range(4)))
    after = statistics(served, "adder")
    assert after.execution_count - before.execution_count < 4
    assert max(int(answer["rows"][0, 0]) for answer in answers) >= 2  # the model itself saw several rows in one run
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["y"], row(i, i, i, i) + 1)


def test_requests_of_different_batch_sizes_share_a_run(served: ServerInfo) -> None:
    sent = [np.full((rows, 4), rows, np.float32) for rows in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda x: over_grpc(served, "adder", x=x), sent))
    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(answer["y"], x + 1)


def test_a_bad_request_in_a_batch_leaves_its_neighbours_alone(served: ServerInfo) -> None:
    def pick(index: int) -> Any:
        try:
            return over_grpc(served, "picker", i=np.array([[index]], np.int32))["y"][0, 0]
        except InferenceServerException as error:
            return error

    before = statistics(served, "picker")
    with ThreadPoolExecutor(4) as pool:
        first, bad, third, fourth = pool.map(pick, [1, 99, 3, 4])
    after = statistics(served, "picker")
    assert after.execution_count - before.execution_count < 4, (
        "the requests were not in one batch, so nothing was shown"
    )
    assert (first, third, fourth) == (10, 30, 40)
    assert bad.status() == "StatusCode.INVALID_ARGUMENT"
    assert "idx=99 must be within the inclusive range [-10,9]" in bad.message()
    assert "/" not in bad.message().replace("Gather node", "")  # no path of the machine


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"z": row(1, 2, 3, 4)}, "unexpected inference input 'z'"),
        ({"x": row(1, 2, 3, 4).astype(np.float64)}, "FP32"),
        ({"x": row(1, 2, 3)}, "[-1,4]"),
        ({"x": np.zeros((9, 4), np.float32)}, "<= 8"),
    ],
    ids=["name", "dtype", "shape", "batch"],
)
def test_wrong_requests_are_answered_with_what_was_expected(
    served: ServerInfo, arrays: dict[str, Any], expected: str
) -> None:
    status, text = refusal(served, "adder", **arrays)
    assert status.startswith("400 INVALID_ARGUMENT"), status
    assert expected in text


def test_nan_and_infinity_pass_through(served: ServerInfo) -> None:
    x = row(float("nan"), float("inf"), float("-inf"), 0)
    np.testing.assert_array_equal(over_http(served, "adder", x=x)["y"], x + 1)


def test_a_run_whose_client_cancelled_is_ended(served: ServerInfo) -> None:
    done: list[Any] = []
    with grpcclient.InferenceServerClient(served.grpc_url) as client:
        item = grpcclient.InferInput("x", [1, 1], "INT64")
        item.set_data_from_numpy(turns(20 * BUSY))
        running = client.async_infer("direct", [item], lambda result, error: done.append(error))
        time.sleep(0.5)
        running.cancel()
        began = time.monotonic()
        assert over_grpc(served, "direct", x=turns(3))["y"] == 3  # waits for the run, of which 20 s would be left
        assert time.monotonic() - began < 5
    assert "CANCELLED" in str(done[0].status())
