"""Registers shared memory with the server.

In      connections, a region's name, key and size.
Out     a region that the server has mapped, or a `SharedMemoryUnavailable`.

It sends no admin key: a server that lets clients use shared memory (``--allow-client-shm``) leaves this open.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

from .. import failures
from ..addresses import Protocol
from ..errors import ClientError, ConnectionFailed, RequestTimeout
from ..transport.pool import Pool

SharedMemory = Literal["system", "cuda"]


class ServerRegistrar:
    """Registers and unregisters regions over any free connection."""

    def __init__(self, connections: Pool[Any], protocol: Protocol, kind: SharedMemory) -> None:
        self._connections, self._protocol, self._kind = connections, protocol, kind
        self._grpc_name = "CudaSharedMemory" if kind == "cuda" else "SystemSharedMemory"

    def register(self, name: str, key: str, size_bytes: int) -> None:
        """Register a region.

        Raises:
            SharedMemoryUnavailable: The server does not take it.
        """
        try:
            if self._protocol == "http":
                self._post(name, "register", self._document(key, size_bytes))
            else:
                place = {"raw_handle": base64.b64decode(key), "device_id": 0} if self._kind == "cuda" else {"key": key}
                self._call("Register", name=name, byte_size=size_bytes, **place)
        except (ConnectionFailed, RequestTimeout):
            raise
        except ClientError as error:
            raise failures.no_shared_memory(error.faults[0].why) from None

    def unregister(self, name: str) -> None:
        """Unregister a region."""
        if self._protocol == "http":
            self._post(name, "unregister", {})
        else:
            self._call("Unregister", name=name)

    def _post(self, name: str, verb: str, document: dict[str, Any]) -> None:
        path = f"/v2/{self._kind}sharedmemory/region/{name}/{verb}"
        self._connections.use(lambda line: line.post_json(path, document, name))

    def _call(self, verb: str, **fields: Any) -> None:
        method = f"{self._grpc_name}{verb}"
        self._connections.use(
            lambda line: line.call(method, line.message(f"{method}Request", **fields), fields["name"])
        )

    def _document(self, key: str, size_bytes: int) -> dict[str, Any]:
        if self._kind == "cuda":
            return {"raw_handle": {"b64": key}, "device_id": 0, "byte_size": size_bytes}
        return {"key": key, "offset": 0, "byte_size": size_bytes}
