"""HTTP, blocking: one keep-alive connection over geventhttpclient (tritonclient's own library).

In      an address and options.
Out     JSON documents, answered inference bodies; errors of the tree.
"""

from __future__ import annotations

import json
from typing import Any

from . import failures
from .errors import ClientError
from .options import Options
from .wire import HttpBody


class HttpTransport:
    """One connection to one server; not for two threads at once."""

    def __init__(self, address: str, options: Options) -> None:
        self.address, self._options = address, options
        self._client: Any = self._connect()

    def _connect(self) -> Any:
        from geventhttpclient import HTTPClient

        host, _, port = self.address.rpartition(":")
        options = self._options
        return HTTPClient(
            host, int(port), ssl=options.tls is not None, ssl_options=_ssl_options(options), concurrency=1,
            connection_timeout=min(options.timeout_s, 10.0), network_timeout=options.timeout_s,
        )  # fmt: skip

    def _reset(self) -> None:
        """Drop the connection: after a failure, what is still to come on it would answer the next request."""
        self._client.close()
        self._client = self._connect()

    def json(self, path: str, model: str) -> Any:
        """GET a document."""
        return json.loads(self._request("GET", path, b"", dict(self._options.headers), model)[0])

    def post_json(self, path: str, document: dict[str, Any], model: str) -> None:
        """POST a document."""
        headers = {"Content-Type": "application/json", **self._options.headers}
        self._request("POST", path, json.dumps(document).encode(), headers, model)

    def infer(self, body: HttpBody, model: str) -> tuple[bytes, str | None]:
        """Send a prepared body; returns the answer's bytes and the length of its JSON part."""
        headers = {**body.headers, **self._options.headers} if self._options.headers else body.headers
        return self._request("POST", body.path, body.content, headers, model)

    def _request(self, method: str, path: str, content: bytes, headers: dict[str, str], model: str) -> tuple[bytes, str | None]:
        try:
            response = self._client.request(method, path, body=content, headers=headers)
            answer = bytes(response.read())
        except ClientError:
            raise
        except TimeoutError:
            self._reset()
            raise failures.timed_out(self.address, self._options.timeout_s) from None
        except (OSError, ValueError, EOFError) as error:  # refused, reset, or half an answer
            self._reset()
            raise failures.refused(self.address, error) from None
        except Exception as error:  # geventhttpclient's own classes have no common base
            self._reset()
            if "timeout" in type(error).__name__.lower() or "timed out" in str(error):
                raise failures.timed_out(self.address, self._options.timeout_s) from None
            raise failures.refused(self.address, error) from None
        if response.status_code != 200:
            raise failures.from_http(model, response.status_code, answer)
        return answer, response.get("inference-header-content-length")

    def close(self) -> None:
        """Close the connection; an open one would hold up the server's shutdown."""
        self._client.close()


def _ssl_options(options: Options) -> dict[str, Any] | None:
    if options.tls is None:
        return None
    given = {"ca_certs": options.tls.root_certificate, "certfile": options.tls.certificate, "keyfile": options.tls.key}
    return {key: value for key, value in given.items() if value}
