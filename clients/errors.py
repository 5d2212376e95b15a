"""What can go wrong when a model is asked, as one tree:

    ClientError                      catch this for all of them
    ├── ConnectionFailed             nobody listens, or the connection broke
    ├── RequestTimeout               no answer within timeout_s
    ├── ModelUnavailable             unknown model or version, or not loaded
    ├── InvalidRequest               names, types or shapes do not fit; nothing was sent, or the server refused it
    ├── SharedMemoryUnavailable      the server does not let clients register shared memory
    └── ServerError                  the server failed while answering

Every one carries what, why and a fix: ``error.faults[0].fix``.
"""

from __future__ import annotations

from planwright.errors import PlanwrightError


class ClientError(PlanwrightError):
    """Base of the errors of this package."""


class ConnectionFailed(ClientError):
    """Nobody listens at the address, or the connection broke before an answer."""


class RequestTimeout(ClientError):
    """The server did not answer within ``timeout_s``."""


class ModelUnavailable(ClientError):
    """The server has no such model or version, or it is not ready."""


class InvalidRequest(ClientError):
    """The request does not fit the model."""


class SharedMemoryUnavailable(ClientError):
    """The server does not let clients register shared memory."""


class ServerError(ClientError):
    """The server failed while answering."""
