"""The golden answers of a model on the trial server, by `python -m clients validate` as a process of its own.

In      a server file, a repository.
Out     how many checks passed, or `Unanswered` with the first that did not.

Builders and clients do not import each other. The process is started long before it is needed, so that its imports cost no
time; it waits for its command line on standard input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from planwright.files import ROOT

ANSWER_S = 3600.0
_ENTRY = (
    "import json, sys; from clients.__main__ import main; from planwright import console; "
    "words = sys.stdin.readline(); words and console.run(main, json.loads(words))"
)


class UnansweredError(Exception):
    """An answer is wrong or missing; the text says which."""


class Answers:
    """One run of validate; `close` it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", _ENTRY], cwd=ROOT, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip

    def close(self) -> None:
        """End the process, also where it was never used."""
        self._process.kill()
        self._process.communicate()

    def check(self, model: str, repository: Path, server_file: Path) -> int:
        """Send golden samples at batch 1 and max over HTTP; returns how many checks passed.

        Raises:
            UnansweredError: An answer is wrong or missing, or there is none within an hour.
        """
        words = ["validate", model, "--json", "--transport", "http", "--batch", "1", "--batch", "max", "--trust-repository",
                 "--repository", str(repository.resolve()), "--server-file", str(server_file.resolve())]  # fmt: skip
        try:
            out, err = self._process.communicate(json.dumps(words) + "\n", timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            raise UnansweredError(f"no answer within {ANSWER_S:g} s") from None
        document = _document(out)
        rows = document.get("rows", [])
        bad = next((row for row in rows if row["verdict"] in ("WRONG", "FAILED")), None)
        if bad is not None:
            raise UnansweredError(f"{bad['verdict']} at batch {bad['batch']}: {bad['reason']}")
        if self._process.returncode:
            first = (document.get("errors") or [{"what": err.strip()[-2000:]}])[0]
            raise UnansweredError("; ".join(filter(None, [first["what"], first.get("why", "")])))
        return len(rows)


def _document(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found
