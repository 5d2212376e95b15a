"""The one client of Triton's management API: what a server says of itself, and loading and unloading models.

In      an address or a `ServerInfo`, whose admin key opens the restricted calls.
Out     JSON values; `RefusedError` with Triton's own sentence, or `UnreachableError` where Triton does not answer.

It speaks HTTP through the standard library. A server on this machine is never called through a proxy, whatever
``http_proxy`` says. A model whose config.pbtxt the server cannot read or rejects never gets a state, so neither the
repository index nor the load API has the reason: it is read from the server's log.
"""

from __future__ import annotations

import ipaddress
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from planwright.server_info import ServerInfo

Document = dict[str, Any]
_ERROR = re.compile(r"^E\d{4} .*?\] \"?(.*?)\"?$", re.MULTILINE)
_POLLED = re.compile(r"^Poll failed for model directory '[^']*': ")
_STATE = re.compile(r"^load failed for model '[^']*': version \d+ is at \w+ state: ")
_FRAMES = re.compile(r"\n\s*At:\s*\n.*", re.DOTALL)  # the Python frames that a stub adds


class RefusedError(Exception):
    """The server did not do it; the text says why.

    Attributes:
        status: HTTP status; 0 where there is none.
    """

    def __init__(self, why: str, status: int = 0) -> None:
        self.status = status
        super().__init__(why)


class UnreachableError(RefusedError):
    """Nothing answers there, or something that is not Triton."""


class TritonAdmin:
    """One server.

    Args:
        address: ``host:port``, or a URL.
        headers: Those that open the restricted APIs.
        log: The server's log, which has the reason where the answer does not.
        timeout_s: Of each call that names no other.
    """

    name = "HTTP"

    def __init__(
        self, address: str, headers: Mapping[str, str] | None = None, log: str = "", *, timeout_s: float = 10.0
    ) -> None:
        self._base = address if "://" in address else f"http://{address}"
        self._headers, self._log, self._timeout_s = dict(headers or {}), log, timeout_s
        no_proxy = [urllib.request.ProxyHandler({})] if _is_loopback(self._base) else []
        self._opener = urllib.request.build_opener(*no_proxy)

    @classmethod
    def of(cls, server: ServerInfo) -> TritonAdmin:
        """Return the client of a server started by ``python -m serving``."""
        return cls(server.http_url, server.admin_headers, server.log)

    def metadata(self, *, timeout_s: float | None = None) -> Document:
        """Return the server's name and version."""
        return self._document("v2", timeout_s=timeout_s)

    def ready(self) -> bool:
        """Return whether the server and all its models are ready."""
        try:
            self._call("v2/health/ready")
        except RefusedError:
            return False
        return True

    def index(self) -> list[Document]:
        """Return name, version, state and reason of each model in the repository."""
        found = self._call("v2/repository/index", {})
        if not isinstance(found, list):
            raise UnreachableError(f"the answer is not an index: {found!r:.200}")
        return found

    def statistics(self) -> Document:
        """Return ``model_stats``: all versions of all models that are loaded."""
        return self._document("v2/models/stats")

    def config(self, model: str, version: str = "", *, timeout_s: float | None = None) -> Document:
        """Return the config of a model that is loaded."""
        place = f"/versions/{version}" if version else ""
        return self._document(f"v2/models/{model}{place}/config", timeout_s=timeout_s)

    def load(self, model: str, config: Mapping[str, Any] | None = None, *, timeout_s: float) -> None:
        """Load a model, or load it again where it changed.

        Args:
            model: Its name.
            config: Takes the place of its config.pbtxt until it is loaded again.
            timeout_s: Most time for it.

        Raises:
            RefusedError: With the reason, from the answer or, where that has none, from the server's log.
        """
        log = Path(self._log)
        offset = log.stat().st_size if log.is_file() else 0
        override = {"parameters": {"config": json.dumps(config)}} if config is not None else {}
        try:
            self._call(self.path(model, "load"), override, timeout_s)
        except UnreachableError:
            raise
        except RefusedError as error:
            reason = load_error(str(error), self._log, model, offset=offset)
            raise RefusedError(reason, error.status) from None

    def unload(self, model: str) -> None:
        """Unload a model; the server goes on with it after it has answered."""
        self._call(self.path(model, "unload"), {})

    def url(self, model: str, action: str) -> str:
        """Return the address of an action on a model, for messages."""
        return f"{self._base}/{self.path(model, action)}"

    @staticmethod
    def path(model: str, action: str) -> str:
        """Return the path of an action on a model."""
        return f"v2/repository/models/{model}/{action}"

    def close(self) -> None:
        """Do nothing: each call has a connection of its own."""

    def _document(self, path: str, *, timeout_s: float | None = None) -> Document:
        found = self._call(path, timeout_s=timeout_s)
        if not isinstance(found, dict):
            raise UnreachableError(f"the answer is not a JSON object: {found!r:.200}")
        return found

    def _call(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        """Send a GET, or a POST where there is a body; returns the JSON answer, {} for an empty one."""
        data = json.dumps(body).encode() if body is not None else None
        try:
            request = urllib.request.Request(f"{self._base}/{path}", data, self._headers)
            with self._opener.open(request, timeout=timeout_s or self._timeout_s) as response:
                content = response.read()
            return json.loads(content) if content else {}
        except urllib.error.HTTPError as error:
            raise RefusedError(_message(error), error.code) from None
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            raise UnreachableError(str(error) or type(error).__name__) from None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _message(error: urllib.error.HTTPError) -> str:
    """Return Triton's sentence; status and body where something else answered."""
    body = error.read().decode(errors="replace")
    try:
        return str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return f"{error.code} {body or error.reason}"


def logged_error(text: str, model: str) -> str:
    r"""Return the last error in the text of a log that names `model`.

    Example:
        >>> logged_error("E1125 08:04:30.6 12699 x.cc:1460] \"Poll failed for model directory 'a': no dims for a\"", "a")
        'no dims for a'
    """
    named = [line for line in _ERROR.findall(text) if f"'{model}'" in line]
    return _POLLED.sub("", named[-1]) if named else ""


def _error_in_log(log: str, model: str, *, offset: int = 0) -> str:
    """Return the last error in a log file, from `offset` on, that names `model`; empty where it cannot be read."""
    try:
        with Path(log).open("rb") as stream:
            stream.seek(offset)
            return logged_error(stream.read().decode(errors="replace"), model)
    except OSError:
        return ""


def load_error(answer: str, log: str, model: str, *, offset: int = 0) -> str:
    r"""Return why a load failed: from the load API or the index, or from the log where their answer has no reason.

    Example:
        >>> load_error("load failed for model 'a': version 1 is at UNAVAILABLE state: Invalid argument: no;\n", "", "a")
        'Invalid argument: no'
    """
    given = _STATE.sub("", _FRAMES.sub("", answer)).strip().removesuffix(";")
    only_in_log = not given or "failed to poll" in given
    return (only_in_log and _error_in_log(log, model, offset=offset)) or given
