"""How a load test reaches a server: the names that tags, flags and reports use.

In      nothing.
Out     `TRANSPORTS`: name → protocol, and the shared memory in which tensors lie (None: they travel with the request).
"""

from __future__ import annotations

from clients.addresses import Protocol
from clients.model import SharedMemory

TRANSPORTS: dict[str, tuple[Protocol, SharedMemory | None]] = {
    "http": ("http", None), "grpc": ("grpc", None), "shm": ("grpc", "system"), "cuda": ("grpc", "cuda"),
}  # fmt: skip
BY_DEFAULT = ("http", "grpc")  # shared memory works only on the server's own machine
