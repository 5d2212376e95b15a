"""One request of either protocol, encoded once and sent any number of times; no network.

In      a checked `Chunk`, the protocol, the shared memory it may use.
Out     what a transport sends, and arrays out of what comes back.

The blocking and the asyncio client share it: they differ only in how they send.
"""

from __future__ import annotations

import threading
from typing import Any

from planwright.errors import Fault
from planwright.tensors import Arrays

from .errors import ClientError, InvalidRequest
from .options import Protocol
from .request import Chunk, ModelInfo, from_wire_shapes
from .shared_memory.system import RegionPair
from .transport import codec


class EncodedRequest:
    """An HTTP body or a gRPC message, ready to be sent, with tensors inline or in shared memory."""

    def __init__(self, info: ModelInfo, chunk: Chunk, protocol: Protocol, regions: RegionPair | None) -> None:
        self.info, self.chunk = info, chunk
        self._protocol, self._regions = protocol, regions
        self._outputs: dict[str, codec.MemoryRange] = {}
        self._message: Any = None
        self.turn = threading.Lock()  # held by the thread that sends it, where it is in shared memory

    @property
    def in_shared_memory(self) -> bool:
        """True where tensors lie in shared memory, which serves one request at a time."""
        return self._regions is not None

    def message(self) -> Any:
        """Return what to send; encodes it, and fills the shared memory, the first time.

        Raises:
            ClientError: The server does not accept the shared memory.
        """
        if self._message is None:
            inputs, self._outputs = self._regions.put(self.info, self.chunk) if self._regions is not None else ({}, {})
            encode = codec.http_body if self._protocol == "http" else codec.grpc_request
            self._message = encode(self.info, self.chunk, inputs, self._outputs)
        return self._message

    def may_repeat(self, error: ClientError) -> bool:
        """Say whether it may be sent again; a request that may have run would count twice in a sequence."""
        return error.retry_safe and not (self.chunk.step and error.reached)

    def decode(self, reply: Any) -> Arrays:
        """Return the arrays of a transport's answer: (bytes, length of the JSON part) over HTTP, bytes over gRPC.

        Raises:
            ClientError: It cannot be read, or its memory was released meanwhile.
        """
        if self._message is None:
            raise InvalidRequest(Fault("the request was closed before its answer came", fix="close it afterwards"))
        if self._protocol == "http":
            content, header_length = reply
            answers = codec.http_answer(self.info, content, header_length, self._outputs)
        else:
            answers = codec.grpc_answer(self.info, reply, self._outputs)
        answers = from_wire_shapes(self.info, answers)
        if self._regions is not None and self._outputs:
            rows = len(next(iter(self.chunk.arrays.values()))) if self.info.batches else 0
            answers |= self._regions.read(self.info, self._outputs, rows)
        return answers

    def trim(self, answers: Arrays) -> Arrays:
        """Return the answers without rows that only filled a static batch."""
        rows = self.chunk.rows
        return {name: array[:rows] for name, array in answers.items()} if self.info.fixed_batch else answers

    def abandon_memory(self) -> None:
        """Encode it again next time, in other shared memory: the server may still write into this."""
        if self._regions is not None:
            self._regions.abandon()
            self._message = None

    def after_fork(self) -> None:
        """Encode it again next time, in a forked child, whose parent goes on using this memory."""
        self.turn = threading.Lock()
        if self._regions is not None:
            self._regions.after_fork()
            self._message = None

    def close(self) -> None:
        """Release the shared memory."""
        if self._regions is not None:
            self._message = None
            self._regions.close()
