"""Ends a run whose requests were all cancelled.

In      the requests of a run that starts.
Out     onnxruntime's run options, whose terminate flag is set once every one of these requests was cancelled.

The server itself drops cancelled requests that are still queued; this is for the running ones. Checking whether a request was
cancelled is a round trip to the server of 0.15 ms, so a thread does it, and only for runs that are long already.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import onnxruntime as ort

CHECK_AFTER_S = 0.1
CHECK_EVERY_S = 0.05


class CancelWatch:
    """Watches one run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._run: tuple[float, list[Any], Any] | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, requests: list[Any]) -> Any:
        """Return the options to run with."""
        options = ort.RunOptions()
        with self._lock:
            self._run = (time.monotonic(), requests, options)
        return options

    def end(self) -> bool:
        """Stop watching, because answered requests must not be checked; return whether the run was cancelled."""
        with self._lock:
            cancelled = self._run is not None and bool(self._run[2].terminate)
            self._run = None
        return cancelled

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_EVERY_S):
            with self._lock:
                if self._run is None or time.monotonic() - self._run[0] < CHECK_AFTER_S:
                    continue
                _, requests, options = self._run
                if all(request.is_cancelled() for request in requests):
                    options.terminate = True
