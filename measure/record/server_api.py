"""What a server says of itself, over HTTP or, where that does not answer, over gRPC.

In      addresses.
Out     JSON documents: server metadata, statistics of all models, the config of one; the same by either protocol.

Only Triton's own endpoints for that are read, so a server without metrics says as much as one with them.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, Protocol

TIMEOUT_S = 10.0
# what a server that is gone, or something else that listens there, can make of a request
UNREADABLE = (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
Document = dict[str, Any]


class Api(Protocol):
    """One protocol; what cannot be read raises one of `UNREADABLE`."""

    name: str

    def identity(self) -> Document:
        """Return the server's name and version."""

    def statistics(self) -> Document:
        """Return ``model_stats``: all versions of all models that are loaded."""

    def config(self, model: str) -> Document:
        """Return the config of a model that is loaded."""

    def close(self) -> None:
        """Close the connection."""


class Http:
    """Over HTTP."""

    name = "HTTP"

    def __init__(self, url: str) -> None:
        self._base = url if "://" in url else f"http://{url}"

    def identity(self) -> Document:
        """Return the server's name and version."""
        return self._get("/v2")

    def statistics(self) -> Document:
        """Return ``model_stats``: all versions of all models that are loaded."""
        return self._get("/v2/models/stats")

    def config(self, model: str) -> Document:
        """Return the config of a model that is loaded."""
        return self._get(f"/v2/models/{model}/config")

    def close(self) -> None:
        """Do nothing: each request has a connection of its own."""

    def _get(self, path: str) -> Document:
        try:
            with urllib.request.urlopen(self._base + path, timeout=TIMEOUT_S) as response:
                document: Document = json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise ConnectionError(f"{error.code} {error.read().decode(errors='replace')}") from None
        return document


class Grpc:
    """Over gRPC."""

    name = "gRPC"

    def __init__(self, url: str) -> None:
        from tritonclient.grpc import InferenceServerClient

        self._client = InferenceServerClient(url.partition("://")[2] or url, ssl=url.startswith("grpcs://"))

    def identity(self) -> Document:
        """Return the server's name and version."""
        return self._call("get_server_metadata")

    def statistics(self) -> Document:
        """Return ``model_stats``: all versions of all models that are loaded."""
        return self._call("get_inference_statistics")

    def config(self, model: str) -> Document:
        """Return the config of a model that is loaded."""
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
