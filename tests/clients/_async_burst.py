"""One asyncio client in several event loops and processes.

In      a JSON object on the command line: options of `AsyncTritonModel`, weights of y = x W, what to do.
Out     a JSON object: requests answered right and wrong, errors by kind.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from clients import AsyncTritonModel, ClientError
from planwright import console

TASKS = 12


async def one(model: AsyncTritonModel, weights: Any, seed: int, found: Counter[str]) -> None:
    """Send one request, and one that was prepared."""
    x = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    try:
        request = await model.prepare(x=x + 1)
        for sent, y in ((x, (await model.infer_batch(x=x))["y"]), (x + 1, (await request.infer())["y"])):
            found["right" if np.allclose(y, sent @ weights, atol=1e-4) else "WRONG"] += 1
    except ClientError as error:
        found[f"{type(error).__name__}: {error.faults[0].what}"] += 1
    except Exception as error:
        found[f"FOREIGN {type(error).__name__}: {error}"] += 1


async def many(model: AsyncTritonModel, weights: Any, seed: int, found: Counter[str], *, close: bool = False) -> None:
    """Send requests at once."""
    await asyncio.gather(*(one(model, weights, 100 * seed + i, found) for i in range(TASKS)))
    if close:
        await model.close()


def forked(model: AsyncTritonModel, weights: Any, found: Counter[str]) -> None:
    """Fork while the client's event loop is open; parent and children go on at once."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(many(model, weights, 0, found))
    folder = Path(tempfile.mkdtemp())
    pids = []
    for seed in (1, 2):
        pid = os.fork()
        if pid == 0:
            mine = Counter[str]()
            asyncio.run(many(model, weights, seed, mine, close=True))
            (folder / str(seed)).write_text(json.dumps(mine))
            if seed % 2:
                os._exit(0)
            sys.exit(0)
        pids.append(pid)
    loop.run_until_complete(many(model, weights, 3, found))
    found["children ended"] = sum(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    loop.run_until_complete(many(model, weights, 4, found, close=True))
    loop.close()
    for path in folder.iterdir():
        found.update({f"child: {name}": count for name, count in json.loads(path.read_text()).items()})


def loops(model: AsyncTritonModel, weights: Any, found: Counter[str]) -> None:
    """Use the client in one event loop after the other, which is closed without closing the client."""
    for seed in range(3):
        asyncio.run(many(model, weights, seed, found, close=seed == 2))


def threads(model: AsyncTritonModel, weights: Any, found: Counter[str]) -> None:
    """Use the client in two event loops at once."""
    ready, over = threading.Event(), threading.Event()

    async def first() -> None:
        await many(model, weights, 0, found)
        ready.set()
        await asyncio.to_thread(over.wait)
        await many(model, weights, 1, found, close=True)

    thread = threading.Thread(target=lambda: asyncio.run(first()))
    thread.start()
    ready.wait(60)
    asyncio.run(many(model, weights, 2, found))
    over.set()
    thread.join(60)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    counts = Counter[str]()
    client = AsyncTritonModel("affine", **job["options"])
    {"forked": forked, "loops": loops, "threads": threads}[job["what"]](
        client, np.array(job["weights"], np.float32), counts
    )
    console.emit_json(counts)
