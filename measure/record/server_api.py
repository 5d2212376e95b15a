"""What a server says of itself over gRPC, for one whose HTTP does not answer.

In      its address.
Out     JSON documents: server metadata, statistics of all models, the config of one; as `TritonAdmin` returns them over HTTP.

Only Triton's own endpoints for that are read, so a server without metrics says as much as one with them.
"""

from __future__ import annotations

from typing import Protocol

from planwright.triton_admin import Document, RefusedError

TIMEOUT_S = 10.0
# what a server that is gone, or something else that listens there, can make of a request
UNREADABLE = (RefusedError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class Api(Protocol):
    """One protocol; what cannot be read raises one of `UNREADABLE`."""

    name: str

    def metadata(self) -> Document:
        """Return the server's name and version."""

    def statistics(self) -> Document:
        """Return ``model_stats``: all versions of all models that are loaded."""

    def config(self, model: str) -> Document:
        """Return the config of a model that is loaded."""

    def close(self) -> None:
        """Close the connection."""


class Grpc:
    name = "gRPC"

    def __init__(self, url: str) -> None:
        from tritonclient.grpc import InferenceServerClient

        self._client = InferenceServerClient(url.partition("://")[2] or url, ssl=url.startswith("grpcs://"))

    def metadata(self) -> Document:
        return self._call("get_server_metadata")

    def statistics(self) -> Document:
        return self._call("get_inference_statistics")

    def config(self, model: str) -> Document:
        return dict(self._call("get_model_config", model)["config"])

    def close(self) -> None:
        """Close the channel, which would keep the process from ending."""
        self._client.close()

    def _call(self, method: str, *model: str) -> Document:
        from tritonclient.utils import InferenceServerException

        try:
            document: Document = getattr(self._client, method)(*model, as_json=True, client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            raise ConnectionError(str(error)) from None
        return document
