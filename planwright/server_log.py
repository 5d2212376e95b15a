"""Why a model did not load, in tritonserver's own words.

In      the server's answer, its log.
Out     one sentence; empty where neither mentions the model.

A model whose config.pbtxt the server cannot read or rejects never gets a state, so neither the repository index nor the
load API has the reason: only the log has it.
"""

from __future__ import annotations

import re
from pathlib import Path

_ERROR = re.compile(r"^E\d{4} .*?\] \"?(.*?)\"?$", re.MULTILINE)
_POLLED = re.compile(r"^Poll failed for model directory '[^']*': ")
_STATE = re.compile(r"^load failed for model '[^']*': version \d+ is at \w+ state: ")
_FRAMES = re.compile(r"\n\s*At:\s*\n.*", re.DOTALL)  # the Python frames that a stub adds


def reason(text: str, model: str) -> str:
    r"""Return the last error in the text of a log that names `model`.

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


def sentence(answer: str, log: str, model: str, *, offset: int = 0) -> str:
    r"""Return why a load failed: from the load API or the index, or from the log where their answer has no reason.

    Example:
        >>> sentence("load failed for model 'a': version 1 is at UNAVAILABLE state: Invalid argument: no;\n", "", "a")
        'Invalid argument: no'
    """
    given = _STATE.sub("", _FRAMES.sub("", answer)).strip().removesuffix(";")
    only_in_log = not given or "failed to poll" in given
    return (only_in_log and reason_in(log, model, offset=offset)) or given
