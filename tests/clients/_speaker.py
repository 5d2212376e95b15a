"""Somebody who listens and says what a test tells them to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def speaker(*answers: bytes, drip_s: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """Listen, read one request per connection, say the next of `answers`, hang up: faults that no real server shows."""
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    asked.append(1)
                    try:
                        for byte in [answer[i : i + 1] for i in range(len(answer))] if drip_s else [answer]:
                            connection.sendall(byte)
                            time.sleep(drip_s)
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(5)
                        while connection.recv(1 << 16):  # closing over what was not read would take back what was said
                            pass
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.close()
            thread.join(15)
