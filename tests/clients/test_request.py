"""Checks, splitting and addresses; no network."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from clients import ClientError, InvalidRequest, ModelInfo, ServerError, TritonModel, request
from clients.addresses import address, addresses, is_encrypted
from clients.options import ClientOptions, Tls, ssl_context
from clients.transport.codec import _read_message, grpc_answer, http_answer
from clients.transport.http import HttpTransport
from planwright.server_info import ServerInfo
from planwright.tensors import TensorSpec
from tests.clients._speaker import speaker


def info(*, limit: int = 4, fixed: int = 0, batches: bool = True) -> ModelInfo:
    inputs = (TensorSpec("x", "FP32", (2,)), TensorSpec("n", "INT32", (-1,)))
    return ModelInfo("m", "", inputs, (TensorSpec("y", "FP32", (2,)),), 0 if fixed or not batches else limit, fixed, {})


def good(rows: int = 3) -> dict[str, Any]:
    return {"x": np.zeros((rows, 2), np.float32), "n": np.zeros((rows, 5), np.int32)}


BAD: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "unknown name": (lambda g: {**g, "z": g["x"]}, "has no input 'z'"),
    "missing": (lambda g: {"x": g["x"]}, "input 'n' is missing"),
    "dtype": (lambda g: {**g, "x": g["x"].astype(np.float64)}, "must be FP32"),
    "complex": (lambda g: {**g, "x": g["x"].astype(np.complex64)}, "must be FP32"),
    "shape": (lambda g: {**g, "x": np.zeros((3, 9), np.float32)}, "must have shape [-1, 2]"),
    "no batch axis": (lambda g: {**g, "x": np.zeros(2, np.float32)}, "array[None]"),
    "different batches": (lambda g: {**g, "x": np.zeros((1, 2), np.float32)}, "different batch sizes"),
    "empty": (lambda g: good(0), "batch is empty"),
    "NaN": (lambda g: {**g, "x": np.array([[0, np.nan]] * 3, np.float32)}, "3 of 6 elements"),
    "ragged": (lambda g: {**g, "x": [[1.0], [1.0, 2.0]]}, "is not an array"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_what_was_expected(case: str) -> None:
    change, words = BAD[case]
    with pytest.raises(InvalidRequest) as caught:
        request.check_batch(info(), change(good()))
    assert words in str(caught.value)
    assert all(fault.fix for fault in caught.value.faults)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        request.check_batch(info(), {"x": np.zeros((3, 9)), "nn": 1})
    text = str(caught.value)
    assert "no input 'nn'" in text
    assert "did you mean 'n'?" in text
    assert "'n' is missing" in text
    assert "must be FP32" in text
    assert "must have shape" in text


def test_nan_passes_where_the_caller_says_so_and_infinity_always() -> None:
    nan, infinite = (
        {**good(), "x": np.full((3, 2), np.nan, np.float32)},
        {**good(), "x": np.full((3, 2), -np.inf, np.float32)},
    )
    assert np.isnan(request.check_batch(info(), nan, allow_nan=True)["x"]).all()
    assert np.isinf(request.check_batch(info(), infinite)["x"]).all()


def test_wrong_use_names_the_right_method() -> None:
    with pytest.raises(InvalidRequest, match="call infer_batch"):
        request.check_sample(info(), good(1))
    with pytest.raises(InvalidRequest, match="call infer_batch with whole tensors"):
        request.check_sample(info(batches=False), {"x": np.zeros(2, np.float32), "n": np.zeros(5, np.int32)})


def test_text_inputs_hold_text() -> None:
    said = ModelInfo("m", "", (TensorSpec("said", "BYTES", (1,)),), (), 4, 0, {})
    assert request.check_batch(said, {"said": [["a"]]})["said"].shape == (1, 1)
    with pytest.raises(InvalidRequest, match="it holds a NoneType"):
        request.check_batch(said, {"said": np.array([[None]], dtype=object)})


@given(total=st.integers(1, 23), limit=st.integers(1, 8), fixed=st.booleans())
def test_split_and_join_keep_every_sample_in_order(total: int, limit: int, fixed: bool) -> None:
    about = info(limit=limit, fixed=limit if fixed else 0)
    arrays = {"x": np.arange(total * 2, dtype=np.float32).reshape(total, 2), "n": np.zeros((total, 1), np.int32)}
    chunks = list(request.split(about, arrays))
    sizes = {len(chunk.arrays["x"]) for chunk in chunks}
    assert sizes == {limit} if fixed else max(sizes) <= limit
    joined = request.join(chunks, [{"y": chunk.arrays["x"]} for chunk in chunks])
    assert np.array_equal(joined["y"], arrays["x"])


def test_answers_that_do_not_fit_together_are_an_error() -> None:
    chunks = list(request.split(info(limit=1), good(2)))
    with pytest.raises(ServerError, match="do not fit together"):
        request.join(chunks, [{"y": np.zeros((1, 2))}, {"y": np.zeros((1, 3))}])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:port",
        "http://host:80/path",
        "ftp://host",
        "host:0",
        "host:70000",
        "a b:80",
        "::1",
        "user@host:80",
        ":8000",
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        address(url, "http")
    assert caught.value.faults[0].fix


def test_the_scheme_selects_tls() -> None:
    assert [is_encrypted(url) for url in ("https://h", "grpcs://h", "http://h", "h:1", None)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    with TritonModel("m", "https://localhost:1") as model:
        assert model.options.tls == Tls()


def test_grpc_goes_to_the_same_machine_as_http(tmp_path: Path) -> None:
    here = tmp_path / "server.json"
    ServerInfo(1, "i", "127.0.0.1:5000", "127.0.0.1:5001", "127.0.0.1:5002", "none", "", "", "").write(here)
    assert addresses(None, None, here) == ("127.0.0.1:5000", "127.0.0.1:5001")
    assert addresses("127.0.0.1:5000", None, here) == ("127.0.0.1:5000", "127.0.0.1:5001")
    assert addresses("gpu-box:9000", None, here) == ("gpu-box:9000", "gpu-box:8001")
    assert addresses("gpu-box", "gpu-box:7", here) == ("gpu-box", "gpu-box:7")


IMPOSSIBLE: list[dict[str, Any]] = [
    {"protocol": "soap"},
    {"shared_memory": "gpu"},
    {"timeout_s": 0},
    {"timeout_s": float("nan")},
    {"headers": {"a": "b\r\nc: d"}},
]


@pytest.mark.parametrize("options", IMPOSSIBLE)
def test_options_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        TritonModel("m", "localhost:1", **options)
    assert caught.value.faults[0].fix


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nowhere.pem"):
        ssl_context(Tls(root_certificate=str(tmp_path / "nowhere.pem")))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"outputs": [{"name": "y"}]}',
        b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "parameters": null}]}',
    ],
)
def test_an_invalid_answer_is_an_error_and_not_a_crash(content: bytes) -> None:
    for length in (None, "abc", "9"):
        with pytest.raises(ServerError, match="cannot be read"):
            http_answer(info(), content, length)


ANSWER = {
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
        {"name": "t", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]},
    ]
}
CONFIG = {
    "max_batch_size": 4,
    "parameters": {"planwright_scalars": {"string_value": "[]"}, "planwright_fixed_batch": {"string_value": "0"}},
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"], "reshape": {"shape": ["2", "2"]}}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["4"], "reshape": {"shape": ["2", "2"]}}],
}
ODD: list[Any] = [None, 5, -1, 1.5, "", "abc", [], {}, [[]], {"a": 1}, True, 2**70, "٣", [None], ["x"]]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a part of a document is."""
    yield at
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield from places(value[key], (*at, key))


def changed(document: Any, at: tuple[Any, ...], part: Any) -> Any:
    """Return a document with one part changed."""
    if not at:
        return part
    made = copy.copy(document)
    made[at[0]] = changed(document[at[0]], at[1:], part)
    return made


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_answer_with_any_part_changed_is_read_or_an_error_of_the_tree(odd: Any) -> None:
    about = request.model_info("m", CONFIG, "")
    for at in places(ANSWER):
        head = json.dumps(changed(ANSWER, at, odd)).encode()
        try:
            answers = request.from_wire_shapes(
                about, http_answer(about, head + np.ones(4, np.float32).tobytes(), str(len(head)))
            )
            assert all(isinstance(array, np.ndarray) for array in answers.values())
        except ServerError:
            pass


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_config_with_any_part_changed_is_read_or_an_error_of_the_tree(odd: Any) -> None:
    for at in places(CONFIG):
        body = json.dumps(changed(CONFIG, at, odd)).encode()
        with (
            speaker(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as (url, _),
            TritonModel("m", url, retries=0, timeout_s=5) as model,
            contextlib.suppress(ClientError),
        ):
            request.check_batch(model.info, {"x": np.ones((1, 2, 2), np.float32)})


@pytest.mark.parametrize("content", [b"<html>", b"\x32", b"\x32\x04abcd", b"\x2a\x03\x0a\x01y"])
def test_an_invalid_grpc_answer_is_an_error_and_not_a_crash(content: bytes) -> None:
    with pytest.raises(ServerError, match="cannot be read"):
        grpc_answer(info(), content)


tensors = st.lists(
    st.tuples(st.sampled_from(["y", "scores"]), st.lists(st.integers(-9, 9), max_size=200)),
    max_size=3,
    unique_by=lambda t: t[0],
)


@given(st.lists(st.tuples(tensors, st.sampled_from(["", "an id"])), min_size=1, max_size=6))
def test_a_grpc_answer_is_read_alike_whether_its_frame_was_seen_or_not(answers: list[Any]) -> None:
    for outputs, word in answers * 2:
        message = service_pb2.ModelInferResponse(model_name="m", id=word)
        for name, values in outputs:
            message.outputs.add(name=name, datatype="INT8", shape=[len(values)])
            message.raw_output_contents.append(np.array(values, np.int8).tobytes())
        found = grpc_answer(info(), memoryview(message.SerializeToString()))
        assert {name: array.tolist() for name, array in found.items()} == dict(outputs)


@pytest.mark.parametrize("name", ["m", "mm", "mmm", "mmmm", "mmmmm"])
def test_arrays_of_later_answers_are_aligned_as_those_of_the_first(name: str) -> None:
    message = service_pb2.ModelInferResponse(
        model_name=name, raw_output_contents=[np.arange(4, dtype=np.float64).tobytes()]
    )
    message.outputs.add(name="y", datatype="FP64", shape=[4])
    for _ in range(3):
        array = grpc_answer(info(), memoryview(message.SerializeToString()))["y"]
        assert array.flags.aligned
        assert array.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("raw", [b"\x05\0\0\0ab", b"\xff"])
def test_text_that_is_cut_short_is_an_error_and_no_crash(raw: bytes) -> None:
    message = service_pb2.ModelInferResponse(raw_output_contents=[raw])
    message.outputs.add(name="y", datatype="BYTES", shape=[1])
    for _ in range(2):
        with pytest.raises(ServerError, match="cannot be read"):
            grpc_answer(info(), message.SerializeToString())


def test_only_an_answer_that_ends_with_its_contents_gives_a_frame() -> None:
    message = service_pb2.ModelInferResponse(raw_output_contents=[b"a"])
    message.outputs.add(name="y", datatype="INT8", shape=[1])
    content = message.SerializeToString()
    assert _read_message(content)[1] is not None
    assert _read_message(content + b"\x0a\x01m")[1] is None, "fields may come in any order"


def test_a_transport_opens_no_connection_before_the_first_request() -> None:
    HttpTransport("localhost:1", ClientOptions()).close()
