"""The few questions that the launcher asks its own server, over plain HTTP.

In      ``host:port`` and the admin key.
Out     JSON values; None while the server does not answer.

No proxy is used, whatever the environment says: the server is on this machine.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, *, headers: dict[str, str] | None = None, post: bool = False, timeout_s: float = 5.0) -> Any:
    """Return the JSON answer (an empty one as {}), None on any failure."""
    request = urllib.request.Request(url, data=b"{}" if post else None, headers=headers or {})
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            body = response.read()
        return json.loads(body) if body else {}
    except (OSError, urllib.error.URLError, json.JSONDecodeError):
        return None


def index(url: str, headers: dict[str, str]) -> list[dict[str, Any]] | None:
    """Return the repository index: name, version, state, reason of each model."""
    found = ask(f"http://{url}/v2/repository/index", headers=headers, post=True)
    return found if isinstance(found, list) else None


def instances(url: str, model: str, version: str) -> int | None:
    """Return how many instances a ready version is configured for; None where it does not answer."""
    config = ask(f"http://{url}/v2/models/{model}/versions/{version}/config")
    return (
        sum(group.get("count", 0) for group in config.get("instance_group", [])) if isinstance(config, dict) else None
    )
