"""A server that sends the bytes that a test gives it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def _accepted(listener: socket.socket, stopped: threading.Event) -> socket.socket | None:
    while not stopped.is_set():  # a client in another process may take seconds to start
        try:
            return listener.accept()[0]
        except TimeoutError:
            continue
        except OSError:
            break
    return None


@contextmanager
def speaker(*answers: bytes, drip_s: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """Read one request per connection, send the next of `answers`, close: faults that no real server shows."""
    requests: list[int] = []
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)

        def serve() -> None:
            for answer in answers:
                connection = _accepted(listener, stopped)
                if connection is None:
                    return
                with connection:
                    connection.recv(1 << 16)
                    requests.append(1)
                    try:
                        for byte in [answer[i : i + 1] for i in range(len(answer))] if drip_s else [answer]:
                            connection.sendall(byte)
                            time.sleep(drip_s)
                        connection.shutdown(socket.SHUT_WR)
                        connection.settimeout(5)
                        while connection.recv(1 << 16):  # closing with unread bytes would discard what was sent
                            pass
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            stopped.set()
            listener.close()
            thread.join(15)
