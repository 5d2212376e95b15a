"""What can go wrong when a model is called, as one tree:

    ClientError                      catch this for all of them
    ├── ConnectionFailed             no server at the address, or the connection broke
    ├── RequestTimeout               no answer within timeout_s
    ├── ModelUnavailable             unknown model or version, or not loaded
    ├── InvalidRequest               names, types or shapes do not fit; nothing was sent, or the server refused it
    ├── SharedMemoryUnavailable      the server cannot use the client's shared memory
    └── ServerError                  the server failed while answering

Every one carries what, why and a fix: ``error.faults[0].fix``.
"""

from __future__ import annotations

from planwright.errors import Fault, PlanwrightError


class ClientError(PlanwrightError):
    """Base of the errors of this package.

    Attributes:
        retry_safe: True where the request may be sent again: no part of an answer came, or the server said that it is
            not available now. A model that keeps no state between requests may as well run twice.
        reached: False where it certainly reached no model, so that even a request of a sequence may be sent again.
    """

    def __init__(self, *faults: Fault | str, retry_safe: bool = False, reached: bool = True) -> None:
        self.retry_safe, self.reached = retry_safe, reached
        super().__init__(*faults)


class ConnectionFailed(ClientError):  # noqa: N818 - it says what happened
    """No server listens at the address, or the connection broke before an answer."""


class RequestTimeout(ClientError):  # noqa: N818 - it says what happened
    """The server did not answer within ``timeout_s``."""


class ModelUnavailable(ClientError):  # noqa: N818 - it says what happened
    """The server has no such model or version, or it is not ready."""


class InvalidRequest(ClientError):  # noqa: N818 - it says what happened
    """The request does not fit the model."""


class SharedMemoryUnavailable(ClientError):  # noqa: N818 - it says what happened
    """The server cannot use the client's shared memory."""


class ServerError(ClientError):
    """The server failed while answering."""
