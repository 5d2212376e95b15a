"""What a client imports after it was made, and what a fork meets while another thread imports.

In      a JSON object on the command line: what to do, options of the client.
Out     a JSON object: names of modules that requests looked for; or how the forked child ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from clients import AsyncTritonModel, ClientError, TritonModel
from planwright import console

X = np.ones((3, 4), np.float32)
LIMIT_S = 20.0


class Finder:
    """Finds nothing; notes each module that is looked for, and takes its time over it."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.names: list[str] = []

    def find_spec(self, name: str, *_: Any) -> None:
        self.names.append(name)
        time.sleep(self.pause_s)


@contextlib.contextmanager
def watched(pause_s: float = 0.0) -> Iterator[list[str]]:
    """Yield the names of modules that are looked for meanwhile."""
    finder = Finder(pause_s)
    sys.meta_path.insert(0, finder)
    try:
        yield finder.names
    finally:
        sys.meta_path.remove(finder)


WRONG: tuple[dict[str, Any], ...] = (
    {"y": X},
    {"x": X[:, :2]},
    {"x": np.ma.masked_less(X, 5)},
    {"x": [["a"] * 4]},
    {"x": X * np.nan},
)


def sync(options: dict[str, Any]) -> list[str]:
    """Make clients, then use all that they can do."""
    affine, text, steps = (TritonModel(name, **options) for name in ("affine", "text", "sequence"))
    nowhere = TritonModel("affine", **{**options, "url": "localhost:1", "retries": 0})
    with watched() as names:
        affine.wait_ready(5)
        affine.infer_sample(x=X[0])
        affine.infer_batch(x=[*X] * 5)
        affine.prepare(x=X).infer()
        affine.versions(), affine.statistics()
        text.infer_batch(said=[["größe"], ["a\0"]])
        steps.sequence(1, start=True, end=True).infer_sample(x=X[0])
        steps.sequence("one", start=True, end=True).infer_sample(x=X[0])
        for given in WRONG:
            with contextlib.suppress(ClientError):
                affine.infer_batch(given)
        with contextlib.suppress(ClientError):
            nowhere.infer_batch(x=X)
        for each in (affine, text, steps, nowhere):
            each.close()
    return names


def with_asyncio(options: dict[str, Any]) -> list[str]:
    """Do the same with the asyncio client."""
    affine, text, steps = (AsyncTritonModel(name, **options) for name in ("affine", "text", "sequence"))
    nowhere = AsyncTritonModel("affine", **{**options, "url": "localhost:1", "retries": 0})

    async def use() -> None:
        await affine.wait_ready(5)
        await affine.infer_sample(x=X[0])
        await affine.infer_batch(x=[*X] * 5)
        await (await affine.prepare(x=X)).infer()
        await text.infer_batch(said=[["größe"], ["a\0"]])
        await steps.sequence(1, start=True, end=True).infer_sample(x=X[0])
        for given in WRONG:
            with contextlib.suppress(ClientError):
                await affine.infer_batch(given)
        with contextlib.suppress(ClientError):
            await nowhere.infer_batch(x=X)
        for each in (affine, text, steps, nowhere):
            await each.close()

    with watched() as names:
        asyncio.run(use())
    return names


def child_ends(first: Any, second: Any) -> str:
    """Fork while a thread runs `first`; return how the child ended, which runs `second`."""
    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(0.1)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if second() else 1)
    deadline = time.monotonic() + LIMIT_S
    while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    if not found[0]:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    thread.join()
    return f"with {os.waitstatus_to_exitcode(found[1])}" if found[0] else "never"


def right(model: TritonModel) -> bool:
    """Say whether the model answers one row alike, alone and in a batch."""
    return bool(np.allclose(model.infer_batch(x=X)["y"], model.infer_sample(x=X[0])["y"], atol=1e-5))


def fork_in_first_request(options: dict[str, Any]) -> str:
    """Fork while a thread sends the first request of a client."""
    model = TritonModel("affine", **options)
    with watched(pause_s=0.3):
        return child_ends(lambda: right(model), lambda: right(model))


def fork_while_made(options: dict[str, Any]) -> str:
    """Fork while a thread makes the first client."""

    def make() -> bool:
        return right(TritonModel("affine", **options))

    with watched(pause_s=0.02):
        return child_ends(make, make)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    ways = {"sync": sync, "async": with_asyncio, "request": fork_in_first_request, "made": fork_while_made}
    console.emit_json({"found": ways[job["what"]](job["options"])})
