"""Imports what requests need when a client is made, so that no request imports anything.

In      a protocol, and whether asyncio is used.
Out     nothing; the libraries are loaded.

An import holds a lock of its module. Where a process forks while another of its threads imports, the child inherits a lock that is never
released, and its first request would wait for ever. So requests do not import, and a fork waits until a client has finished importing.
`import clients` itself stays light: an application pays for a protocol when it makes a client that speaks it.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterable

from planwright.errors import Fault

from .errors import InvalidRequest

# of every client: numpy loads numpy.ma late, Python the codec of host names
_ANY = ("numpy.ma", "encodings.idna", "tritonclient.utils")
_SYNC = {
    "http": (".transport.http", "geventhttpclient.response", "tritonclient.http"),
    "grpc": (
        ".transport.grpc",
        "google.protobuf.json_format",
        "google.protobuf.message",
        "tritonclient.grpc.service_pb2",
    ),
}
# concurrent.futures.thread: where asyncio looks host names up and reads the model's description
_ASYNC = {
    "http": ("aiohttp", "yarl", "concurrent.futures.thread"),
    "grpc": ("grpc.aio", "concurrent.futures.thread"),
}
_importing = threading.RLock()
os.register_at_fork(before=_importing.acquire, after_in_parent=_importing.release, after_in_child=_importing.release)


def load(protocol: str) -> None:
    """Import what `TritonModel` needs.

    Raises:
        InvalidRequest: A package is missing.
    """
    _load((*_ANY, *_SYNC[protocol]), protocol)


def load_async(protocol: str) -> None:
    """Import what `AsyncTritonModel` needs beside that.

    Raises:
        InvalidRequest: A package is missing.
    """
    _load(_ASYNC[protocol], protocol)


def load_cuda() -> None:
    """Import what CUDA shared memory needs; where that fails, the first request says so."""
    with _importing:
        from .shared_memory import cuda

        cuda.load()


def _load(names: Iterable[str], protocol: str) -> None:
    with _importing:
        for name in names:
            try:
                importlib.import_module(name, __package__)
            except ImportError as error:
                fix = "pip install 'tritonclient[all]' hpack"
                raise InvalidRequest(
                    Fault(f"a package of protocol='{protocol}' is missing", name, str(error), fix)
                ) from None
