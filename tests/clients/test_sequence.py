"""Sequences: ids and flags that really arrive, over every transport, and models that answer more than once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import AsyncTritonModel, ConnectionFailed, InvalidRequest, TritonModel
from clients.request import SequenceStep
from planwright.server_info import ServerInfo
from tests.clients._command import clients, where
from tests.clients._golden import WEIGHTS, floats
from tests.clients._odd import ARRAY, HUGE, UNSAID
from tests.clients._speaker import speaker
from tests.clients.conftest import WAY_NAMES, WAYS

Connect = Callable[..., TritonModel]
X = floats(4)
SEQUENCES = ["steps_direct", "steps_oldest"]


def check(answers: Any, x: Any, who: object, start: int, end: int) -> None:
    """The model receives the step that the client sent."""
    assert np.allclose(answers["y"], 2 * x)
    assert answers["flags"].ravel().tolist() == [start, end]
    assert answers["who"].ravel().tolist() == [who]


@pytest.mark.parametrize("name", SEQUENCES)
def test_ids_and_flags_arrive(connect: Connect, name: str) -> None:
    model = connect(name)
    assert (model.info.sequence, model.info.limit) == (True, 1)
    for who in (5, 2**63 - 1):
        check(model.sequence(who, start=True).infer_sample(x=X), X, who, 1, 0)
        check(model.sequence(who).infer_batch(x=X[None] + 1), X + 1, who, 0, 0)
        check(model.sequence(who, end=True).prepare(x=X[None] + 2).infer(), X + 2, who, 0, 1)
        with pytest.raises(InvalidRequest, match="must specify the START flag"):
            model.sequence(who).infer_sample(x=X)


def test_ids_may_be_text(connect: Connect) -> None:
    model, who = connect("sequence"), "ünsere"
    answers = [model.sequence(who, start=turn == 0, end=turn == 2).infer_sample(x=X + turn) for turn in range(3)]
    assert all(np.allclose(each["y"], (X + turn) @ WEIGHTS, atol=1e-4) for turn, each in enumerate(answers))
    with pytest.raises(InvalidRequest, match="must specify the START flag"):
        model.sequence(who).infer_sample(x=X)


@pytest.mark.parametrize(("protocol", "memory"), WAYS, ids=WAY_NAMES)
def test_the_async_client_has_sequences_too(server: ServerInfo, protocol: Any, memory: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url

    async def talk(model: AsyncTritonModel, who: int) -> None:
        check(await model.sequence(who, start=True).infer_sample(x=X + who), X + who, who, 1, 0)
        check(await model.sequence(who).infer_batch(x=X[None] + who), X + who, who, 0, 0)
        last = await model.sequence(who, end=True).prepare(x=X[None] + who)
        check(await last.infer(), X + who, who, 0, 1)

    async def use() -> None:
        async with AsyncTritonModel("steps_oldest", url, protocol=protocol, shared_memory=memory) as model:
            await asyncio.gather(*(talk(model, who) for who in (1, 2, 3)))
            own = await model.standalone()
            found = await asyncio.gather(*(own.infer_sample(x=X + i) for i in range(4)))
            assert len({answers["who"].item() for answers in found}) == 4
            with pytest.raises(InvalidRequest, match="answers sequences"):
                await model.infer_sample(x=X)

    asyncio.run(use())


def test_each_request_is_a_sequence_of_its_own_where_that_is_wanted(connect: Connect) -> None:
    own = connect("steps_direct").standalone()
    answers = [own.infer_sample(x=X + i) for i in range(3)] + [own.prepare(x=X[None] + 3).infer()]
    for i, each in enumerate(answers):
        check(each, X + i, each["who"].item(), 1, 1)
    assert len({each["who"].item() for each in answers}) == 4
    assert connect("affine").standalone().infer_sample(x=X)["y"].shape == (3,)


def test_threads_with_a_sequence_each_keep_them_apart(connect: Connect) -> None:
    model, wrong = connect("steps_oldest"), []

    def talk(who: int) -> None:
        try:
            for turn in range(15):
                at = model.sequence(who, start=turn == 0, end=turn == 14)
                check(at.infer_sample(x=X + who + turn), X + who + turn, who, turn == 0, turn == 14)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=talk, args=(who,)) for who in (11, 12, 13, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_invalid_step_of_a_sequence_is_refused_before_it_is_sent(connect: Connect) -> None:
    model = connect("steps_direct")
    before = model.statistics()
    for call in (model.infer_sample, model.infer_batch, model.prepare):
        with pytest.raises(InvalidRequest, match="answers sequences") as caught:
            call(x=X)
        assert "standalone" in caught.value.faults[0].fix
    for call in (model.sequence(1, start=True).infer_batch, model.sequence(1, start=True).prepare):
        with pytest.raises(InvalidRequest, match="is one sample"):
            call(x=np.stack([X, X]))
    assert model.statistics() == before
    with pytest.raises(InvalidRequest, match="does not support sequences"):
        connect("affine").sequence(1, start=True).infer_sample(x=X)


@pytest.mark.parametrize("wrong", [0, -1, 2**63, "", "a" * 129, "a\nb", "\ud800", 1.5, True, [1], b"a", ARRAY, ARRAY[:1], HUGE, -HUGE, UNSAID],
                         ids=lambda wrong: type(wrong).__name__)  # fmt: skip
def test_an_invalid_id_is_refused(wrong: Any) -> None:
    model = TritonModel("m", "localhost:1")
    with pytest.raises(InvalidRequest, match="is not the id of a sequence"):
        model.sequence(wrong, start=True)


@pytest.mark.parametrize("client", [TritonModel, AsyncTritonModel])
@pytest.mark.parametrize("flag", ["start", "end"])
def test_start_and_end_are_yes_or_no(client: Any, flag: str) -> None:
    model = client("m", "localhost:1")
    for wrong in ("no", None, 2, [True], ARRAY, HUGE, UNSAID):
        with pytest.raises(InvalidRequest, match=f"invalid {flag}: "):
            model.sequence(1, **{flag: wrong})
    for right in (True, False, 1, 0, np.bool_(True), np.int64(0)):
        assert model.sequence(1, **{flag: right})._step == SequenceStep(
            1, **{"start": False, "end": False, flag: bool(right)}
        )


def test_only_a_sequence_of_one_request_needs_no_id() -> None:
    model = TritonModel("m", "localhost:1")
    for flags in ({}, {"start": True}, {"end": True}):
        with pytest.raises(InvalidRequest, match="needs an id"):
            model.sequence(**flags)


def said(document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)


@pytest.mark.parametrize(("sequence", "sent"), [(True, 1), (False, 3)])
def test_a_step_that_may_have_run_is_not_sent_again(sequence: bool, sent: int) -> None:
    config: dict[str, Any] = {"max_batch_size": 1, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["4"]}]}
    config |= {"sequence_batching": {}} if sequence else {}
    with speaker(said(config), b"", b"", b"") as (url, requests):
        with TritonModel("m", url, retries=2, timeout_s=5) as model:
            call = model.standalone()
            with pytest.raises(ConnectionFailed, match="broke before"):
                call.infer_sample(x=X)
        assert len(requests) == 1 + sent


def test_a_model_that_may_answer_often_is_refused_before_anything_is_sent(connect: Connect) -> None:
    model = connect("decoupled")
    for call in (model.infer_sample, model.infer_batch, model.prepare):
        with pytest.raises(InvalidRequest, match="any number of times"):
            call(x=X)


def test_infer_sends_a_sample_as_a_sequence_of_its_own(server: ServerInfo, repository: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    done = clients("infer", "steps_direct", tmp_path / "x.npy", "--json", *where(server, repository))
    assert json.loads(done.stdout)["flags"] == [1, 1], done.stderr
