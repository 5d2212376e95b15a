"""One row per model: ready, or why not.

In      the repository index of a server that has started, its log, and the models that were kept from it.
Out     `Row`s, and an error where no model at all is ready.

A reason is looked for where it is: the index has it for a model that failed while it loaded, only the log for one whose
config.pbtxt the server did not accept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from planwright import integrity, server_log
from planwright.errors import Fault, StageError
from serving import repository
from serving.options import Options
from serving.trust import Refused

READY = "READY"


class Row(NamedTuple):
    """One line of the table."""

    name: str
    version: str
    status: str


def rows(options: Options, index: list[dict[str, Any]], refused: Refused) -> list[Row]:
    """Return a row for each model and version that the server knows, and for each that should have been loaded."""
    wanted = {model.name for model in repository.chosen(options.repository, options.mode, options.load)}
    known = [
        model for model in index if model["name"] not in refused and (model.get("state") or model["name"] in wanted)
    ]
    found = [Row(model["name"], str(model.get("version", "")), _status(options, model)) for model in known]
    found += [Row(name, "", f"REFUSED: {'; '.join(map(str, files))}") for name, files in refused.items()]
    return sorted(found)


def _status(options: Options, model: dict[str, Any]) -> str:
    """Return READY, or the state and its reason."""
    state = str(model.get("state") or "UNAVAILABLE")
    if state == READY:
        return READY
    reason = server_log.sentence(str(model.get("reason", "")), str(options.log), model["name"])
    return f"{state}: {reason}" if reason else state


def require_one_ready(options: Options, table: list[Row], refused: Refused) -> None:
    """Refuse to stay where there are models and none is ready.

    Raises:
        StageError: With the reason of each model (exit 1).
    """
    if not table or any(row.status == READY for row in table):
        return
    fix = "correct the model, or build it again: python builders/build_all.py"
    failed = [
        Fault(f"model '{row.name}' could not be loaded", str(options.repository / row.name), row.status, fix)
        for row in table
        if row.name not in refused
    ]
    raise StageError("serve", *failed, *faults(refused))


def faults(refused: Refused) -> list[Fault]:
    """Return what to say of every file that keeps a model from being served."""
    found = [integrity.fault(name, each) for name, files in refused.items() for each in files]
    return [Fault(f.what, f.where, f.why, f"{f.fix}; to serve it as it is: --trust-repository", f.check) for f in found]
