"""Load and unload models on a running server: Triton's management API.

In      a `ServerInfo`, whose admin key opens the API, and a model's name.
Out     nothing, or `RefusedError` with Triton's own sentence.

No proxy is used, whatever the environment says: the server is on this machine.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

from planwright import server_log
from planwright.server_info import ServerInfo

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RefusedError(Exception):
    """The server did not do it; the text says why."""


class GoneError(RefusedError):
    """The server did not answer at all."""


def load(server: ServerInfo, model: str, *, timeout_s: float) -> None:
    """Load a model, or load it again where it changed.

    Raises:
        RefusedError: With the reason, from the answer or, where that has none, from the server's log.
    """
    log = Path(server.log)
    written = log.stat().st_size if log.is_file() else 0
    try:
        _call(server, model, "load", timeout_s)
    except GoneError:
        raise
    except RefusedError as error:
        raise RefusedError(server_log.sentence(str(error), server.log, model, offset=written)) from None


def unload(server: ServerInfo, model: str, *, timeout_s: float = 10.0) -> None:
    """Unload a model; the server goes on with it after it has answered.

    Raises:
        RefusedError: With the reason.
    """
    _call(server, model, "unload", timeout_s)


def url(server: ServerInfo, model: str, action: str) -> str:
    """Return the address of an action on a model."""
    return f"http://{server.http_url}/v2/repository/models/{model}/{action}"


def _call(server: ServerInfo, model: str, action: str, timeout_s: float) -> None:
    headers = {"Content-Type": "application/json", **server.admin_headers}
    request = urllib.request.Request(url(server, model, action), data=b"{}", headers=headers, method="POST")
    try:
        with _DIRECT.open(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        raise RefusedError(_message(error.read().decode(errors="replace"))) from None
    except OSError as error:
        raise GoneError(str(error)) from None


def _message(body: str) -> str:
    try:
        return str(json.loads(body).get("error", body))
    except (json.JSONDecodeError, AttributeError):
        return body
