"""Call models served by Triton: over HTTP or gRPC, plain or through shared memory.

In      a model's name.
Out     arrays. Errors: see `clients.errors`.

    from planwright.clients import TritonModel      # installed as a wheel
    from clients import TritonModel                 # inside the checkout

    with TritonModel("digits") as model:
        scores = model.infer_sample(image=picture)["scores"]

Needs numpy and tritonclient only.
"""

from .errors import (
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    ModelUnavailable,
    RequestTimeout,
    ServerError,
    SharedMemoryUnavailable,
)
from .model import PreparedRequest, TritonModel
from .model_async import AsyncPreparedRequest, AsyncTritonModel
from .options import Tls
from .request import ModelInfo

__all__ = [
    "AsyncPreparedRequest",
    "AsyncTritonModel",
    "ClientError",
    "ConnectionFailed",
    "InvalidRequest",
    "ModelInfo",
    "ModelUnavailable",
    "PreparedRequest",
    "RequestTimeout",
    "ServerError",
    "SharedMemoryUnavailable",
    "Tls",
    "TritonModel",
]
