"""Which version answers.

In      a model's name.
Out     the newest served version, as the server says it.
"""

from __future__ import annotations

import json
import urllib.request

from clients import TritonModel


def newest_served(http_url: str, name: str, model: TritonModel) -> str:
    """Return the version that answers a request without one; `model` has proved that the server answers."""
    assert model.info.name == name  # reading it raises a clear error where the server is gone
    with urllib.request.urlopen(f"http://{http_url}/v2/models/{name}", timeout=10) as response:
        versions = json.loads(response.read())["versions"]
    return str(max(versions, key=int))
