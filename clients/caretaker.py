"""Looks after gRPC connections that nobody uses: a server that stops waits for each of them to be closed.

In      transports with an open connection.
Out     nothing; connections that the server wants closed are closed, and its questions whether anybody lives are answered.

The grpc package has threads that read all the time; here one thread looks at the idle ones now and then, while there are any. Under gevent
it is a greenlet.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Protocol

from . import forks

LOOK_EVERY_S = 0.5


class Cared(Protocol):
    """A transport that can be looked after."""

    def look_after(self) -> None:
        """Close the connection if it is idle and the server wants it closed."""

    @property
    def connected(self) -> bool:
        """True while there is a connection."""


class Caretaker:
    """Knows the transports of this process; holds none of them alive. `at_work` while its thread runs."""

    def __init__(self) -> None:
        self._begin()
        forks.register(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._cared: weakref.WeakSet[Cared] = weakref.WeakSet()
        self.at_work = False

    def after_fork(self) -> None:
        """Begin again: a forked child has no such thread, and the lock may be held for ever. Its transports give up by themselves."""
        self._begin()

    def add(self, transport: Cared) -> None:
        """Look after a transport that has just connected."""
        with self._lock:
            self._cared.add(transport)
            begin, self.at_work = not self.at_work, True
        if begin:  # not under the lock: gevent runs a new thread at once
            try:
                threading.Thread(target=self._run, name="planwright-caretaker", daemon=True).start()
            except RuntimeError:  # no more threads, or the interpreter ends: then nobody looks
                self.at_work = False

    def _run(self) -> None:
        try:
            while self._look():
                time.sleep(LOOK_EVERY_S)
        except BaseException:
            self.at_work = False  # the next connection brings a new one
            raise

    def _look(self) -> bool:
        """Look at all once; False where none is left, and the thread ends."""
        with self._lock:
            cared = list(self._cared)
        for transport in cared:
            transport.look_after()
        with self._lock:
            self._cared -= {transport for transport in cared if not transport.connected}
            self.at_work = bool(self._cared)
            return self.at_work


CARETAKER = Caretaker()
