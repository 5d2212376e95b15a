"""Load and unload models on a running server: Triton's management API.

In      a `ServerInfo`, whose admin key opens the API, and a model's name.
Out     nothing, or `RefusedError` with Triton's own sentence.

No proxy is used, whatever the environment says: the server is on this machine.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planwright import server_log
from planwright.server_info import ServerInfo

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RefusedError(Exception):
    """The server refused; the text is its reason, `status` the HTTP status, 0 where it did not answer."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class GoneError(RefusedError):
    """The server did not answer at all."""


def load(server: ServerInfo, model: str, *, timeout_s: float, config: Mapping[str, Any] | None = None) -> None:
    """Load a model, or reload it where it changed; `config` overrides its config.pbtxt.

    Raises:
        RefusedError: With the reason, from the answer or, where that has none, from the server's log.
    """
    log = Path(server.log)
    written = log.stat().st_size if log.is_file() else 0
    try:
        _call(server, model, "load", timeout_s, {"parameters": {"config": json.dumps(config)}} if config else {})
    except GoneError:
        raise
    except RefusedError as error:
        reason = server_log.sentence(str(error), server.log, model, offset=written)
        raise RefusedError(reason, error.status) from None


def unload(server: ServerInfo, model: str, *, timeout_s: float = 10.0) -> None:
    """Unload a model; the server goes on with it after it has answered.

    Raises:
        RefusedError: With the reason.
    """
    _call(server, model, "unload", timeout_s, {})


def url(server: ServerInfo, model: str, action: str) -> str:
    """Return the address of an action on a model."""
    return f"http://{server.http_url}/v2/repository/models/{model}/{action}"


def _call(server: ServerInfo, model: str, action: str, timeout_s: float, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json", **server.admin_headers}
    request = urllib.request.Request(url(server, model, action), json.dumps(body).encode(), headers)
    try:
        with _DIRECT.open(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        raise RefusedError(_message(error.read().decode(errors="replace")), error.code) from None
    except OSError as error:
        raise GoneError(str(error)) from None


def _message(body: str) -> str:
    try:
        return str(json.loads(body).get("error", body))
    except (json.JSONDecodeError, AttributeError):
        return body
