"""Arguments that no client can use, and that fail when they are printed, compared or read.

In      nothing.
Out     an array, whose truth is ambiguous; a number too long to write; objects that raise whatever is done to them.
"""

from __future__ import annotations

from collections import UserDict
from typing import Any

import numpy as np


class Unsaid:
    """Something of another library that cannot even be printed, compared or counted."""

    def fail(self, *_: Any) -> Any:
        raise RuntimeError("not that either")

    __repr__ = __str__ = __eq__ = __bool__ = __index__ = __len__ = __iter__ = fail
    __hash__ = object.__hash__


class Closed(UserDict[str, Any]):
    """A mapping, such as an archive of arrays, whose file was closed."""

    def __getitem__(self, name: str) -> Any:
        raise ValueError("the file is closed")


ARRAY: Any = np.array([1, 2])
HUGE: Any = 10**5000  # Python refuses to write it
UNSAID: Any = Unsaid()
