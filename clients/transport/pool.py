"""Connections and regions of shared memory that many threads use, each by one request at a time.

In      a function that makes one.
Out     `Pool`.

As many are made as were ever in use at once. The one used last is handed out first, so a single thread always gets the same one. No
locks: appending to a list and popping from it are atomic, and a forked child must not wait for a lock that a thread of its parent held. What
is in the pool sees to forks itself (clients/forks.py), so a child finds here what it can use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Pooled(Protocol):
    """What a pool holds."""

    def interrupt(self) -> None:
        """Make the request that uses it fail soon; called from another thread."""

    def close(self) -> None:
        """Release everything; it may be used again afterwards."""


Item = TypeVar("Item", bound=Pooled)


class Pool(Generic[Item]):
    """Items to be used by one request at a time."""

    def __init__(self, make: Callable[[], Item]) -> None:
        self.make = make
        self._idle: list[Item] = []
        self._made: list[Item] = []
        self._closed = False

    def use(self, call: Callable[[Item], Any]) -> Any:
        """Return `call` of an item that nothing else uses meanwhile."""
        item = self.take()
        try:
            return call(item)
        finally:
            self.give_back(item)

    def take(self) -> Item:
        """Return an item that nothing else uses until `give_back`."""
        try:
            return self._idle.pop()
        except IndexError:
            item = self.make()
            self._made.append(item)
            return item

    def give_back(self, item: Item) -> None:
        """Let others use the item; closes it where the pool is closed."""
        self._idle.append(item)
        if self._closed:
            self._close_idle()

    def interrupt(self) -> None:
        """Make the requests fail that use an item now."""
        for item in [each for each in self._made if each not in self._idle]:
            item.interrupt()

    def close(self) -> None:
        """Close every item; those in use are interrupted, and closed by whoever gives them back.

        The pool still works afterwards, but keeps nothing open: what is cleaned up later may need a connection.
        """
        self._closed = True
        self.interrupt()
        self._close_idle()

    def _close_idle(self) -> None:
        while True:
            try:
                item = self._idle.pop()
            except IndexError:
                return
            item.close()
