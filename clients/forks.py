"""What a forked child must not share with its parent.

In      objects that hold connections or shared memory.
Out     nothing; in a child each of them is called once, before anything else runs.

Two processes on one connection would read each other's answers, and two on one region of shared memory would overwrite them. The kernel
copies both into a child, so the child gives up its copies: it closes them without a word to the server, which still serves the parent.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Protocol


class Inherited(Protocol):
    """Something that a child must replace."""

    def after_fork(self) -> None:
        """Give up the parent's connections and memory; called in the child."""


_known: weakref.WeakSet[Inherited] = weakref.WeakSet()


def register(each: Inherited) -> None:
    """Call `each.after_fork` in every child that this process forks from now on; `each` is not kept alive."""
    _known.add(each)


def _in_child() -> None:
    for each in list(_known):
        each.after_fork()


def leave_to_parent(thing: Any) -> None:
    """Keep a library's object from being destroyed in this child: its destructor would speak on the parent's connection."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


os.register_at_fork(after_in_child=_in_child)
