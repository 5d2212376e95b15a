"""What callers hand over: any layout and byte order gets the native answer over every transport, and the rest is an `InvalidRequest`."""

from __future__ import annotations

import asyncio
import decimal
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from clients import AsyncTritonModel, ClientError, InvalidRequest, ModelInfo, Tls, TritonModel
from clients import request as request_rules
from planwright.server_info import ServerInfo
from planwright.tensors import TensorSpec
from tests.clients._command import clients, where
from tests.clients._golden import WEIGHTS
from tests.clients._odd import ARRAY, HUGE, UNSAID, Closed
from tests.clients.conftest import WAY_NAMES, WAYS

Connect = Callable[..., TritonModel]
NUMBER: Any = 5
RAW: Any = b"x"
BASE = np.arange(48, dtype=np.float32).reshape(12, 4)
NUMBERS = ["UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
WORDS = ["größe", "日本", "🙂", "", "a b", "x\0y"]


def unaligned() -> Any:
    """Return floats that begin at an odd address."""
    raw = np.zeros(8 * 4 * 4 + 1, np.uint8)[1:]
    view = raw.view(np.float32).reshape(8, 4)
    view[...] = BASE[:8]
    return view


VIEWS: dict[str, Callable[[], Any]] = {
    "big-endian": lambda: BASE[:8].astype(">f4"),
    "big-endian, reversed": lambda: BASE.astype(">f4")[::-1][:8],
    "big-endian, every other row": lambda: BASE.astype(">f4")[::2],
    "big-endian, transposed": lambda: np.ascontiguousarray(BASE[:8].T).astype(">f4").T,
    "big-endian, broadcast": lambda: np.broadcast_to(BASE[0].astype(">f4"), (8, 4)),
    "broadcast": lambda: np.broadcast_to(BASE[1], (8, 4)),
    "columns of a wider array": lambda: np.hstack([BASE, BASE])[:8, 2:6],
    "recarray": lambda: BASE[:8].view(np.recarray),
    "matrix": lambda: np.asarray(BASE[:8]).view(type("Own", (np.ndarray,), {})),
    "masked nowhere": lambda: np.ma.array(BASE[:8], mask=False),
    "unaligned": unaligned,
    "a list of big-endian rows": lambda: list(BASE[:8].astype(">f4")),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_layout_and_byte_order_gets_the_native_answer(connect: Connect, view: str) -> None:
    given_as, expected = VIEWS[view](), np.asarray(VIEWS[view](), np.float32) @ WEIGHTS
    model = connect("affine")
    for answers in (model.infer_batch(x=given_as), model.prepare(x=given_as).infer()):
        assert np.allclose(answers["y"], expected, atol=1e-3)
    assert np.allclose(model.infer_sample(x=given_as[0])["y"], expected[0], atol=1e-3)


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_the_async_client_takes_them_too(server: ServerInfo, protocol: Any, memory: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url

    async def use() -> None:
        async with AsyncTritonModel("affine", url, protocol=protocol, shared_memory=memory) as model:
            for view in VIEWS.values():
                expected = np.asarray(view(), np.float32) @ WEIGHTS
                request = await model.prepare(x=view())
                for answers in (await model.infer_batch(x=view()), await request.infer()):
                    assert np.allclose(answers["y"], expected, atol=1e-3)

    asyncio.run(use())


def test_every_number_type_is_taken_big_endian_and_text_of_every_kind(connect: Connect) -> None:
    types = {f"in_{name}": TensorSpec(name, name, (3,)).numpy_dtype for name in NUMBERS}
    native = {name: np.array([[1, 2, 100], [4, 5, 6]], dtype) for name, dtype in types.items()}
    native["in_BOOL"] = np.array([[True, False, True], [False, False, True]])
    texts: list[Any] = [
        np.array(WORDS, object), np.array(WORDS), np.array(WORDS).astype(">U9"), np.array([w.encode() for w in WORDS]),
        np.array(WORDS, np.dtypes.StringDType()), WORDS, [w.encode() for w in WORDS],
        np.array([np.str_(w) for w in WORDS], object), np.array([np.bytes_(w.encode()) for w in WORDS] + [None], object)[:-1],
    ]  # fmt: skip
    model = connect("echo")
    for words in texts:
        said = words if isinstance(words, list) else words.reshape(2, 3)
        said = [words[:3], words[3:]] if isinstance(words, list) else said
        swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in native.items()}
        answers = model.infer_batch({**swapped, "in_STRING": said})
        for name, array in native.items():
            back = answers[name.replace("in_", "out_")]
            assert back.dtype.isnative
            assert back.tolist() == array.tolist()
        assert [item.decode() for item in answers["out_STRING"].ravel()] == WORDS


@pytest.mark.parametrize("shape", [(1, 0), (3, 0), (6, 0), (2, 5)])
def test_an_axis_of_length_0_is_answered_like_any_other(connect: Connect, shape: tuple[int, int]) -> None:
    rows, length = shape
    a, b = BASE.ravel()[: rows * length].reshape(shape), np.arange(2 * rows, dtype=np.int32).reshape(rows, 2)
    w = np.array(WORDS * 2, object)[: rows * length].reshape(shape)
    model = connect("varied")
    found = [model.infer_batch(a=a, w=w, b=b)]
    found += [model.prepare(a=a, w=w, b=b).infer()] if rows <= 4 else []
    for answers in found:
        assert (answers["a_out"].shape, answers["w_out"].shape) == (shape, shape)
        assert answers["a_out"].tolist() == a.tolist()
        assert [item.decode() for item in answers["w_out"].ravel()] == w.ravel().tolist()
        assert answers["b_out"].tolist() == b.tolist()
    sample = model.infer_sample(a=a[0], w=w[0], b=b[0])
    assert sample["a_out"].tolist() == a[0].tolist()
    assert connect("any_length").infer_sample(x=a[0])["y"].tolist() == (2 * a[0]).tolist()


def test_a_prepared_request_keeps_what_it_was_prepared_with(connect: Connect) -> None:
    model, x = connect("affine"), BASE[:2].copy()
    request = model.prepare(x=x)
    x[...] = -1
    request._request.abandon_memory()  # as after a time-out or in a forked child: it is built again
    assert np.allclose(request.infer()["y"], BASE[:2] @ WEIGHTS, atol=1e-3)


MASKED: dict[str, Callable[[], Any]] = {
    "array": lambda: np.ma.masked_less(BASE[:8], 5),
    "list of arrays": lambda: [np.ma.masked_less(row, 5) for row in BASE[:8]],
    "constant in a list": lambda: [[1.0, 2.0, 3.0, np.ma.masked]],
    "big-endian": lambda: np.ma.masked_less(BASE[:8].astype(">f4"), 5),
}


@pytest.mark.parametrize("case", MASKED)
def test_a_mask_is_not_dropped_in_silence(connect: Connect, case: str) -> None:
    with pytest.raises(InvalidRequest, match="is masked") as caught:
        connect("affine").infer_batch(x=MASKED[case]())
    assert "filled" in caught.value.faults[0].fix


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_text_that_cannot_be_encoded_is_refused_before_it_is_sent(connect: Connect, text: str) -> None:
    model = connect("text")
    before = model.statistics()
    for call in (model.infer_batch, model.prepare):
        for value in (np.array([[text]], object), [[text]], np.array([[text]])):
            with pytest.raises(InvalidRequest, match="UTF-8 cannot encode"):
                call(said=value)
    assert model.statistics() == before


def test_bytes_that_are_no_text_are_the_servers_to_refuse(connect: Connect) -> None:
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        connect("text").infer_batch(said=np.array([[b"\xff"]], object))


class Hostile:
    """An array of another library that cannot be read."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("it is on another device")


def odd() -> dict[str, Any]:
    """Return what is neither an array of numbers nor text."""
    import scipy.sparse
    import torch

    grad = torch.ones(1, 4, requires_grad=True)
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    return {
        "None": None, "dict": {"a": 1}, "set": {1}, "generator": (i for i in range(4)), "object": object(), "a function": odd,
        "hostile": Hostile(), "sparse": scipy.sparse.csr_matrix(np.eye(4)), "gradient": grad, "bfloat16": torch.ones(1, 4, dtype=torch.bfloat16),
        "a module": np, "huge ints": [[2**70] * 4], "huger ints": [[10**400] * 4], "decimals": [[decimal.Decimal(1)] * 4],
        "ragged": [[1.0], [1.0, 2.0]], "ragged deeper": [[[1.0], [2.0, 3.0]]] * 4, "too deep": deep, "long double": np.ones((1, 4), np.longdouble),
        "complex": np.ones((1, 4), complex), "dates": np.array([["2020-01-01"] * 4], "datetime64[D]"), "spans": np.ones((1, 4), "timedelta64[s]"),
        "void": np.zeros((1, 4), "V4"), "structured": np.zeros((1, 4), [("a", "f4")]), "record": np.rec.array([(1.0, 2)] * 4),
        "objects": np.array([[1.0, None, {}, []]], object), "nothing": [], "nothings": [[]], "0-d": np.float32(1), "0-d array": np.array(1.0, np.float32),
        "text": "abc", "texts": [["a"] * 4], "bytes": b"\0" * 16, "memory": memoryview(b"\0" * 16), "too large": np.broadcast_to(np.float32(0), (1 << 58, 4)),
        "types": [[int, float, str, bool]], "range": range(4), "flat": BASE[0], "ellipsis": ..., "NaN": [[np.nan] * 4],
        "unsaid": UNSAID, "unsaid things": [[UNSAID] * 4], "a number too long": HUGE, "numbers too long": [[HUGE] * 4], "ragged text": [["a"], ["b", "c"]],
        "text and more": [["a", 1, None, UNSAID]], "a closed mapping": Closed(x=1),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["affine", "text", "two"])
def test_invalid_input_is_an_invalid_request_over_every_transport(connect: Connect, name: str) -> None:
    model = connect(name)
    first = model.info.inputs[0].name
    rest = {"b": np.zeros((1, 2), np.int32)} if name == "two" else {}
    for label, value in odd().items():
        for call in (model.infer_batch, model.infer_sample, model.prepare):
            if name == "text" and label in ("texts", "text", "bytes") or call == model.infer_sample and label == "flat":
                continue  # these are text, or a sample
            with pytest.raises(InvalidRequest) as caught:
                call({first: value, **rest})
            assert all(fault.fix for fault in caught.value.faults), label


def test_names_of_inputs_are_any_text_and_nothing_else(connect: Connect) -> None:
    model, x = connect("affine"), BASE[:1]
    for wrong in ({1: x}, {None: x}, {("x",): x}, {"x": x, 2: x}, {"\ud800": x}, {b"x": x}, {HUGE: x}, {UNSAID: x}):
        with pytest.raises(InvalidRequest, match="has no input"):
            model.infer_batch(wrong)
    for call in (model.infer_batch, model.infer_sample, model.prepare):
        with pytest.raises(InvalidRequest, match="the file is closed"):
            call(Closed(x=x))
    with pytest.raises(InvalidRequest, match="'self'"):
        model.infer_batch(self=x)
    with pytest.raises(InvalidRequest, match="'self'"):
        model.prepare(self=x)


ANY = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.none())),
    st_numpy.arrays(st.one_of(st_numpy.scalar_dtypes(), st_numpy.array_dtypes()), st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
)  # fmt: skip
ROWS = st_numpy.arrays(
    st.sampled_from(["<f4", ">f4"]), st.tuples(st.integers(0, 9), st.just(4)), elements=st.floats(-9, 9, width=32)
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(value=st.one_of(ANY, ROWS))
def test_any_value_gets_its_own_answer_or_a_client_error(connect: Connect, value: Any) -> None:
    model = connect("affine")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = model.infer_batch(x=value)["y"]
    except ClientError:
        return
    finally:
        model.close()
    assert np.allclose(y, np.asarray(value, np.float32) @ WEIGHTS, rtol=1e-3, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(value=ANY, rows=st.booleans())
def test_any_text_is_encoded_or_refused(value: Any, rows: bool) -> None:
    info = ModelInfo("m", "", (TensorSpec("said", "BYTES", (-1,)),), (), 4, 0, {})
    try:
        made = request_rules.check_batch(info, {"said": [value] if rows else value})["said"]
    except InvalidRequest:
        return
    assert all(type(item) is bytes for item in made.ravel())


OPTIONS: dict[str, list[Any]] = {
    "url": [b"localhost:1", 8000, ARRAY, "", "\ud800:80", "a\u2028b:80", "h:٣", "h:" + "9" * 5000, "http://", "x" * 300 + ".ü:80", "[::1", "a\nb:80", object()],
    "version": ["\ud800", "-1", "1.5", "abc", "1/../2", "１", 1.5, [1], HUGE, ARRAY, UNSAID],
    "timeout_s": ["5", None, -1, True, float("nan"), [1], 1j, {}, ARRAY, -HUGE, UNSAID],
    "retries": ["5", None, -1, 1.5, float("nan"), float("inf"), 10**30, True, HUGE, np.float64("inf"), np.float32("nan"), ARRAY, UNSAID],
    "headers": [5, "a: b", {"a b": "c"}, {"a": "ü"}, {"a": 1}, {1: "a"}, {"": "a"}, {"a": "b\nc"}, {"a": "\ud800"}, [("a", "b")],
                {HUGE: "a"}, {UNSAID: "a"}, ARRAY, UNSAID,
                Closed(a="b")],
    "tls": [True, "cert.pem", {"root_certificate": "x"}, ARRAY, UNSAID, Tls(ARRAY), Tls(certificate=UNSAID), Tls(key=NUMBER), Tls(RAW), Tls("a\0b")],
    "protocol": ["soap", None, 5, ["http"], b"http", ARRAY, HUGE, UNSAID],
    "shared_memory": ["gpu", 5, ["system"], True, ARRAY, HUGE, UNSAID],
    "allow_nan": ["no", None, 2, ARRAY, HUGE, UNSAID],
}  # fmt: skip


@pytest.mark.parametrize("client", [TritonModel, AsyncTritonModel])
@pytest.mark.parametrize("option", OPTIONS)
def test_options_that_cannot_be_are_refused_at_once(option: str, client: Any) -> None:
    for protocol in ("http", "grpc"):
        for value in OPTIONS[option]:
            with pytest.raises(InvalidRequest) as caught:
                client("m", **{"url": "localhost:1", "protocol": protocol, option: value})
            assert caught.value.faults[0].fix, (option, value)


@pytest.mark.parametrize(
    "name", ["", None, 5, b"m", "\ud800", ["m"], ARRAY, HUGE, UNSAID], ids=lambda name: type(name).__name__
)
def test_a_model_is_named_by_text(name: Any) -> None:
    for client in (TritonModel, AsyncTritonModel):
        with pytest.raises(InvalidRequest, match="model name"):
            client(name, "localhost:1")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_options_that_are_unusual_work(server: ServerInfo, protocol: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    unusual: tuple[dict[str, Any], ...] = ({"timeout_s": float("inf")}, {"timeout_s": 10**400}, {"timeout_s": np.float32(5)}, {"timeout_s": np.float16(5)},
                    {"allow_nan": np.bool_(False)}, {"allow_nan": 1}, {"version": None}, {"version": 1},
                    {"retries": np.int64(0)}, {"retries": 2.0}, {"headers": {}}, {"headers": {"X-A": "b c; d"}})  # fmt: skip
    for options in unusual:
        with TritonModel("affine", url, protocol=protocol, **options) as model:
            assert np.allclose(model.infer_batch(x=BASE[:1])["y"], BASE[:1] @ WEIGHTS, atol=1e-3)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("version", ["0", "99999999999999999999", "007"])
def test_an_invalid_version_is_a_client_error(server: ServerInfo, protocol: Any, version: str) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    with TritonModel("affine", url, protocol=protocol, version=version) as model, pytest.raises(ClientError):
        _ = model.info


def test_a_prepared_request_is_sent_by_a_client(connect: Connect) -> None:
    request = connect("affine").prepare(x=BASE[:1])
    others: tuple[Any, ...] = (None, "affine", AsyncTritonModel("affine", "localhost:1"), ARRAY, UNSAID)
    for other in others:
        with pytest.raises(InvalidRequest, match="TritonModel"):
            request.using(other)
    assert np.allclose(request.infer()["y"], BASE[:1] @ WEIGHTS, atol=1e-3)


ENDS = ["a\0", "\0", "ü\0\0", "b"]


def test_text_in_lists_is_kept_to_its_last_character(connect: Connect) -> None:
    """Numpy's own text drops NUL characters at the end; lists and arrays of objects need not."""
    model: TritonModel = connect("text")
    raw = [word.encode() for word in ENDS]
    given: tuple[Any, ...] = ([[word] for word in ENDS], [(word,) for word in raw], [["a\0"], *([word] for word in raw[1:])],
                              np.array(ENDS, object)[:, None], list(np.array(ENDS, object)[:, None]))  # fmt: skip
    for words in given:
        for answers in (model.infer_batch(said=words), model.prepare(said=words).infer()):
            assert answers["heard"].ravel().tolist() == raw
    each: list[Any] = [*ENDS, *raw]
    for word in each:
        assert model.infer_sample(said=[word])["heard"].tolist() == [word if isinstance(word, bytes) else word.encode()]
    numbers = {"k": np.float32(1), "v": np.ones(3, np.float32)}
    assert connect("per_sample").infer_sample({**numbers, "w": "a\0"})["again"].item() == b"a\0"


def test_a_list_of_text_and_numbers_is_not_text(connect: Connect) -> None:
    with pytest.raises(InvalidRequest, match="must hold text"):
        connect("text").infer_batch(said=[["a"], [1]])


def test_waiting_takes_seconds(connect: Connect) -> None:
    odd: tuple[Any, ...] = ("5", None, -1, float("nan"), ARRAY, -HUGE, UNSAID)
    for wrong in odd:
        with pytest.raises(InvalidRequest, match="timeout_s"):
            connect("affine").wait_ready(wrong)
    connect("affine").wait_ready(float("inf"))


def test_a_damaged_server_file_counts_as_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".planwright").mkdir()
    monkeypatch.chdir(tmp_path)
    for content in ("{}", '{"pid": 1}', "[]", "x", '{"pid": "a"}'):
        (tmp_path / ".planwright/server.json").write_text(content)
        assert TritonModel("m").address == "localhost:8000"


def answered(server: ServerInfo, repository: Path, name: str, file: Path) -> Any:
    done = clients("infer", name, file, "--json", *where(server, repository))
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_sample_files_of_any_byte_order_and_kind_of_text(server: ServerInfo, repository: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", BASE[1].astype(">f4"))
    assert np.allclose(answered(server, repository, "affine", tmp_path / "x.npy")["y"], BASE[1] @ WEIGHTS, atol=1e-3)
    np.savez(tmp_path / "ab.npz", a=BASE[1].astype(">f4"), b=np.array([7, 8], ">i4"))
    assert answered(server, repository, "two", tmp_path / "ab.npz") == {"s": (BASE[1] + 1).tolist(), "t": [14, 16]}
    for kind in ("<U5", ">U5"):
        np.save(tmp_path / "said.npy", np.array(["größe"], kind))
        assert answered(server, repository, "text", tmp_path / "said.npy") == {"heard": ["größe"]}


@pytest.mark.parametrize("content", ['{"a": [1, 2, 3, 4], "b": [1.5, 2]}', '{"a": [1, 2, 3, 4], "b": [3000000000, 2]}',
                                     '{"a": [1e300, 2, 3, 4], "b": [1, 2]}', '{"a": ["1", "2", "3", "4"], "b": [1, 2]}'])  # fmt: skip
def test_numbers_of_json_are_not_bent_into_the_type(
    server: ServerInfo, repository: Path, tmp_path: Path, content: str
) -> None:
    (tmp_path / "ab.json").write_text(content)
    assert "the model takes" in answered(server, repository, "two", tmp_path / "ab.json")


def test_a_sample_file_may_hold_nan(server: ServerInfo, repository: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full(4, np.nan, np.float32))
    assert np.isnan(answered(server, repository, "affine", tmp_path / "x.npy")["y"]).all()
