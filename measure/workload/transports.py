"""How a load test reaches a server: the names that tags, flags and reports use.

In      nothing.
Out     `TRANSPORTS`: name → protocol, and the shared memory in which tensors lie (None: they travel with the request).
"""

from __future__ import annotations

from clients import options
from clients.options import Protocol, SharedMemory

TRANSPORTS: dict[str, tuple[Protocol, SharedMemory | None]] = {
    name: ("http" if name == "http" else "grpc", memory) for name, memory in options.TRANSPORTS.items()
}
BY_DEFAULT = ("http", "grpc")  # shared memory works only on the server's own machine
