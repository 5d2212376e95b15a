"""Make forks safe: children get new connections and memory, and no import is in progress during a fork.

In      objects that hold connections or shared memory; names of the modules that requests need.
Out     nothing; in a forked child `after_fork` of every registered object has run before anything else.

Two processes on one connection would read each other's answers, and two on one region of shared memory would overwrite them. The kernel
copies both into a child, so the child closes its copies without telling the server, which still serves the parent.

An import holds a lock of its module. Where a process forks while another of its threads imports, the child inherits a lock that is never
released, and its first request would hang. So a client imports what its requests need when it is made, and a fork waits until that is done.
`import clients` itself stays light: an application pays for a protocol when it makes a client that speaks it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from planwright.errors import Fault

from .errors import InvalidRequest


class Inherited(Protocol):
    """Holds what a forked child must not share with its parent."""

    def after_fork(self) -> None:
        """Give up the parent's connections and memory; called in the child."""


_registered: weakref.WeakSet[Inherited] = weakref.WeakSet()
IMPORT_LOCK = threading.RLock()  # held over imports; a fork waits for it


def register(item: Inherited) -> None:
    """Call `item.after_fork` in every child forked from now on; `item` is not kept alive."""
    _registered.add(item)


def leave_to_parent(item: Any) -> None:
    """Keep a library's object from being destroyed in this child: its destructor would use the parent's connection."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))


def preload(modules: Iterable[str], protocol: str) -> None:
    """Import the modules that requests of `protocol` need; names that begin with a dot are of this package.

    Raises:
        InvalidRequest: A package is missing.
    """
    with IMPORT_LOCK:
        for name in modules:
            try:
                importlib.import_module(name, __package__)
            except ImportError as error:
                what, fix = f"a package of protocol='{protocol}' is missing", "pip install 'tritonclient[all]' hpack"
                raise InvalidRequest(Fault(what, name, str(error), fix)) from None


def _after_fork_in_child() -> None:
    for item in list(_registered):
        item.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
os.register_at_fork(before=IMPORT_LOCK.acquire, after_in_parent=IMPORT_LOCK.release, after_in_child=IMPORT_LOCK.release)
