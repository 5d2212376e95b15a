"""A pool of connections or shared-memory regions, each used by one request at a time.

In      a function that makes one.
Out     `Pool`.

It makes as many as were ever in use at once. The one used last is handed out first, so a single thread always gets the same one. No
locks: appending to a list and popping from it are atomic, and a forked child must not wait for a lock that a thread of its parent held. The
items handle forks themselves (clients/fork_safety.py), so the pool of a forked child holds items that the child can use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Pooled(Protocol):
    """An item of a pool."""

    def interrupt(self) -> None:
        """Make the current request fail soon; called from another thread."""

    def close(self) -> None:
        """Release everything; it may be used again afterwards."""


Item = TypeVar("Item", bound=Pooled)
Result = TypeVar("Result")


class Pool(Generic[Item]):
    """Items to be used by one request at a time."""

    def __init__(self, make: Callable[[], Item]) -> None:
        self.make = make
        self._idle: list[Item] = []
        self._made: list[Item] = []
        self._closed = False

    def use(self, call: Callable[[Item], Result]) -> Result:
        """Return the result of `call` on an item that nothing else uses meanwhile."""
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
        """Return the item to the pool, or close it where the pool is closed."""
        self._idle.append(item)
        if self._closed:
            self._close_idle()

    def interrupt(self) -> None:
        """Make all current requests fail."""
        for item in [each for each in self._made if each not in self._idle]:
            item.interrupt()

    def close(self) -> None:
        """Close every item; those in use are interrupted, and closed when they are returned.

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
