"""Closes idle gRPC connections that the server wants closed, so that they do not delay its shutdown.

In      transports with an open connection.
Out     nothing; idle connections are closed when the server announces its shutdown, and its pings are answered.

A server that stops waits for each connection to be closed. The grpc package has threads that read all the time; here one thread reads the idle
connections now and then, while there are any. Under gevent it is a greenlet.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

from .. import fork_safety

CHECK_EVERY_S = 0.5


class Monitored(Protocol):
    """A transport whose idle connection can be checked."""

    def check_idle(self) -> None:
        """Close the connection if it is idle and the server wants it closed."""

    @property
    def connected(self) -> bool:
        """True while there is a connection."""


class IdleConnectionMonitor:
    """Closes idle connections of this process's transports, without keeping them alive. `at_work` while its thread runs."""

    def __init__(self) -> None:
        self._reset()
        fork_safety.register(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._monitored: weakref.WeakSet[Monitored] = weakref.WeakSet()
        self.at_work = False

    def after_fork(self) -> None:
        """Start from scratch: a forked child has no such thread, and its copy of the lock may stay held."""
        self._reset()

    def add(self, transport: Monitored) -> None:
        """Monitor a transport that has just connected."""
        with self._lock:
            self._monitored.add(transport)
            start, self.at_work = not self.at_work, True
        if start:  # not under the lock: gevent runs a new thread at once
            try:
                threading.Thread(target=self._run, name="planwright-idle-connections", daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter shuts down: idle connections then stay open
                self.at_work = False

    def _run(self) -> None:
        try:
            while self._check():
                time.sleep(CHECK_EVERY_S)
        except BaseException:
            self.at_work = False  # the next connection starts another thread
            raise

    def _check(self) -> bool:
        """Check all once; False where none is left, so that the thread ends."""
        with self._lock:
            monitored = list(self._monitored)
        for transport in monitored:
            transport.check_idle()
        with self._lock:
            self._monitored -= {transport for transport in monitored if not transport.connected}
            self.at_work = bool(self._monitored)
            return self.at_work


MONITOR = IdleConnectionMonitor()
