"""Right answers over every protocol, with and without shared memory, sync and async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import AsyncTritonModel, InvalidRequest, TritonModel, published
from planwright.golden import Golden
from planwright.server_info import ServerInfo
from tests.clients._golden import WEIGHTS, floats
from tests.clients.conftest import WAY_NAMES, WAYS

MODELS = [
    "affine",
    "fixed",
    "foreign",
    "two",
    "any_length",
    "text",
    "classes",
    "per_sample",
    "scalars",
    "fixed_numbers",
    "shapes",
]
Connect = Callable[..., TritonModel]


def same(expected: Any, actual: Any) -> bool:
    return (
        bool(np.array_equal(expected, actual))
        if expected.dtype.kind in "OSU"
        else bool(np.allclose(expected, actual, atol=1e-5))
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_golden_sample_gets_its_answer(connect: Connect, repository: Path, name: str) -> None:
    golden = Golden.load(repository / name / "1" / "golden.npz")
    model = connect(name)
    call = model.standalone()
    for group in golden.samples():
        sample = {key: array[0] for key, array in group.inputs.items()}
        answers = call.infer_sample(sample) if model.info.batches else call.infer_batch(sample)
        for key, expected in group.outputs.items():
            assert isinstance(answers[key], np.ndarray)
            assert answers[key].shape == expected.shape[1:]
            assert same(expected[0, ...], answers[key])


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 20])
def test_a_batch_of_any_size_is_answered_in_order(connect: Connect, rows: int) -> None:
    x = floats(rows, 4)
    for name in ("affine", "fixed"):
        answers = connect(name).infer_batch(x=x)
        assert answers["y"].shape == (rows, 3)
        assert same(x @ WEIGHTS, answers["y"])


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_one_number_per_sample_goes_in_and_comes_out_as_such(connect: Connect, rows: int) -> None:
    k, v, w = floats(rows), floats(rows, 3), np.array(["größe", "", "三", "a b", "x\0"] * 2, object)[:rows]
    model = connect("per_sample")
    assert [tensor.shape for tensor in model.info.inputs] == [(), (), (-1,)]
    found = [model.infer_batch(k=k, v=v, w=w)] + ([model.prepare(k=k, v=v, w=w).infer()] if rows <= 4 else [])
    for answers in found:
        assert [answers[name].shape for name in ("d", "s", "again")] == [(rows,)] * 3
        assert same(2 * k, answers["d"])
        assert same(k + v.sum(axis=1), answers["s"])
        assert [word.decode() for word in answers["again"]] == w.tolist()
    with pytest.raises(InvalidRequest, match="must have shape"):
        model.infer_batch(k=k[:, None], v=v, w=w)
    assert same(2 * k, connect("fixed_numbers").infer_batch(k=k)["d"])


def test_scalars_of_a_model_without_a_batch_axis(connect: Connect) -> None:
    model, v = connect("scalars"), floats(5)
    for answers in (
        model.infer_batch(s=np.float32(3), v=v, w="größe"),
        model.prepare(s=np.float32(3), v=v, w="größe").infer(),
    ):
        assert (answers["t"].shape, answers["p"].shape, answers["again"].shape) == ((), (5,), ())
        assert same(3 * v, answers["p"])
        assert same(3 * v.sum(), answers["t"])
        assert answers["again"].item().decode() == "größe"
    with pytest.raises(InvalidRequest, match="must have shape"):
        model.infer_batch(s=np.array([3], np.float32), v=v, w="größe")


def test_shapes_that_config_shows_otherwise_are_the_models_own_here(connect: Connect) -> None:
    model, a, b = connect("shapes"), floats(6, 5), floats(6, 2, 3)
    answers = model.infer_batch(a=a, b=b)
    assert same(a, answers["a_out"])
    assert same(b, answers["b_out"])


def test_inputs_go_by_name_by_place_or_as_one_mapping(connect: Connect) -> None:
    model, a, b = connect("two"), floats(4), np.array([1, 2], np.int32)
    for answers in (
        model.infer_sample(a, b),
        model.infer_sample(b=b, a=a),
        model.infer_sample({"a": a, "b": b}),
        model.infer_sample(a, b=b),
    ):
        assert same(a + 1, answers["s"])
        assert same(b * 2, answers["t"])
    with pytest.raises(InvalidRequest, match="twice"):
        model.infer_sample(a, a=a)
    with pytest.raises(InvalidRequest, match="takes 2 inputs"):
        model.infer_sample(a, b, b)


def test_a_prepared_request_gives_its_own_answer_whatever_was_sent_in_between(connect: Connect) -> None:
    model, first, second = connect("affine"), floats(2, 4), floats(5, 4)
    one, other = model.prepare(x=first), model.prepare(x=second)
    for _ in range(3):
        model.infer_batch(x=floats(8, 4))
        assert same(first @ WEIGHTS, one.infer()["y"])
        assert same(second @ WEIGHTS, other.infer()["y"])


def test_an_answer_stays_as_it_was_when_the_next_one_comes(connect: Connect) -> None:
    model, x = connect("affine"), floats(2, 4)
    kept = model.infer_batch(x=x)["y"]
    model.infer_batch(x=floats(2, 4))
    assert same(x @ WEIGHTS, kept)


def test_a_prepared_request_of_a_static_batch_leaves_out_what_filled_it(connect: Connect) -> None:
    x = floats(3, 4)
    assert same(x @ WEIGHTS, connect("fixed").prepare(x=x).infer()["y"])
    with pytest.raises(InvalidRequest, match="must be one request"):
        connect("fixed").prepare(x=floats(5, 4))


def test_a_prepared_request_goes_through_other_clients_of_the_same_model(server: ServerInfo) -> None:
    x = floats(1, 4)
    with (
        TritonModel("affine", server.http_url) as first,
        TritonModel("affine", server.http_url) as second,
        TritonModel("two", server.http_url) as other,
    ):
        request = first.prepare(x=x)
        assert same(x @ WEIGHTS, request.using(second).infer()["y"])
        with pytest.raises(InvalidRequest, match="its own model"):
            request.using(other)
    with (
        TritonModel("affine", server.http_url, shared_memory="system") as model,
        pytest.raises(InvalidRequest, match="one client"),
    ):
        model.prepare(x=x).using(model)


def test_the_server_says_versions_counts_and_tensors(connect: Connect) -> None:
    model = connect("affine")
    assert model.versions() == ["1"]
    assert (model.info.max_batch_size, model.info.inputs[0].shape) == (8, (4,))
    before = model.statistics()
    model.infer_batch(x=floats(5, 4))
    assert model.statistics()["inference_count"] - before["inference_count"] == 5
    assert connect("affine", version="1").infer_sample(x=floats(4))["y"].shape == (3,)


def test_one_client_per_thread_gives_each_thread_its_answers(connect: Connect) -> None:
    wrong: list[int] = []

    def use(model: TritonModel, seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(25):
            x = random.normal(size=(1, 4)).astype(np.float32)
            if not same(x @ WEIGHTS, model.infer_batch(x=x)["y"]):
                wrong.append(seed)

    threads = [threading.Thread(target=use, args=(connect("affine"), seed)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_the_async_twin_answers_many_at_once(server: ServerInfo, repository: Path, protocol: Any, memory: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url

    async def use(name: str) -> None:
        version = published.served(repository, name)
        assert version is not None
        async with AsyncTritonModel(name, url, protocol=protocol, shared_memory=memory) as model:
            groups = list(version.golden().samples())
            samples = [{key: array[0] for key, array in group.inputs.items()} for group in groups]
            batches, call = (await model.info()).batches, await model.standalone()
            found = await asyncio.gather(*(call.infer_sample(s) if batches else call.infer_batch(s) for s in samples))
            for group, answers in zip(groups, found, strict=True):
                assert all(same(expected[0, ...], answers[key]) for key, expected in group.outputs.items())

    for name in MODELS:
        asyncio.run(use(name))


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_the_async_twin_splits_prepares_and_waits(server: ServerInfo, protocol: Any, memory: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url

    async def use() -> None:
        async with AsyncTritonModel("affine", url, protocol=protocol, shared_memory=memory) as model:
            await model.wait_ready(5)
            x, y = floats(21, 4), floats(2, 4)
            request = await model.prepare(x=y)
            assert same(x @ WEIGHTS, (await model.infer_batch(x=x))["y"])
            for answers in await asyncio.gather(*(request.infer() for _ in range(5))):
                assert same(y @ WEIGHTS, answers["y"])

    asyncio.run(use())
