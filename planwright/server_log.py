"""Why a model did not load, in tritonserver's own words.

In      the text of a server's log.
Out     one sentence; empty where the log says nothing about the model.

A config.pbtxt that the server cannot read or does not accept never gets a state, so neither the repository index nor the
load API has the reason: it stands in the log alone.
"""

from __future__ import annotations

import re
from pathlib import Path

_ERROR = re.compile(r"^E\d{4} .*?\] \"?(.*?)\"?$", re.MULTILINE)
_POLLED = re.compile(r"^Poll failed for model directory '[^']*': ")


def reason(text: str, model: str) -> str:
    r"""Return the last error that names `model`.

    Example:
        >>> reason("E1125 08:04:30.6 12699 x.cc:1460] \"Poll failed for model directory 'a': no dims for a\"", "a")
        'no dims for a'
    """
    named = [line for line in _ERROR.findall(text) if f"'{model}'" in line]
    return _POLLED.sub("", named[-1]) if named else ""


def reason_in(log: str, model: str, *, offset: int = 0) -> str:
    """Return the last error in a log file, from `offset` on, that names `model`; empty where it cannot be read."""
    try:
        with Path(log).open("rb") as stream:
            stream.seek(offset)
            return reason(stream.read().decode(errors="replace"), model)
    except OSError:
        return ""
