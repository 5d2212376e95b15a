"""A proxy that lets answers through until it is set to corrupt them: a fault that no real server can be made to show.

In      the address of a real server.
Out     its own address; `corrupt` from then on turns what comes back into something else.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Change = Callable[[bytes], bytes]


class CorruptingProxy:
    """Copies bytes between clients and a server."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._change: Change = bytes
        self.address = ""

    def corrupt(self, change: Change) -> None:
        """Change every piece of an answer from now on."""
        self._change = change

    async def serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        """Serve until it is over."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await over.wait()
        server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        await asyncio.gather(
            self._pump(reader, far_writer, bytes), self._pump(far_reader, writer, lambda data: self._change(data))
        )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(change(data))
                await writer.drain()
        except OSError:
            pass  # a client that gives up leaves its connection like that
        finally:
            writer.close()


@contextmanager
def corrupting_proxy(target: str) -> Iterator[CorruptingProxy]:
    """Stand between clients and `target`."""
    loop, ready, over, made = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), CorruptingProxy(target)
    thread = threading.Thread(target=lambda: loop.run_until_complete(made.serve(ready, over)))
    thread.start()
    assert ready.wait(10)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
