"""A proxy that stalls: ``python -m benchmarks._parts.stall_proxy LISTEN TARGET STALL_S PERIOD_S``.

In      TCP connections; the target's port on this machine.
Out     the same bytes, except that nothing goes to the server for STALL_S in the middle of every PERIOD_S, counted from the start.

It stands for a garbage collector, a checkpoint, a noisy neighbour: the server does not answer for a moment, and a load generator
that waits for answers sends nothing either.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time

CHUNK_BYTES = 1 << 16


class Gate:
    """Closed during stalls; lets waiters through in the order of their arrival."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    async def keep(self, stall_s: float, period_s: float) -> None:
        """Close and open periodically. The stall is in the middle of a period, so that a run that starts now has whole ones."""
        zero = time.monotonic()
        for number in itertools.count():
            begins = zero + number * period_s + (period_s - stall_s) / 2
            await asyncio.sleep(begins - time.monotonic())
            self._open.clear()
            await asyncio.sleep(begins + stall_s - time.monotonic())
            self._open.set()

    async def through(self) -> None:
        await self._open.wait()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Gate | None) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            if gate is not None:
                await gate.through()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # a client that is stopped leaves its connection open
    finally:
        writer.close()


async def main(listen: int, target: int, stall_s: float, period_s: float) -> None:
    gate = Gate()
    keeper = asyncio.create_task(gate.keep(stall_s, period_s)) if stall_s else None

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, far_writer, gate), pump(far_reader, writer, None))

    server = await asyncio.start_server(accept, "127.0.0.1", listen, backlog=4096)
    async with server:
        await server.serve_forever()
    del keeper  # without a reference the task might be garbage-collected


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
