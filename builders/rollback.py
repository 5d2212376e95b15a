"""rollback: back to the version before.

In      a published model.
Out     config.pbtxt of the older version, copied up by rename; version folders stay as they are.
"""

from __future__ import annotations

from pathlib import Path

from builders.repository import CONFIG, Published, replace_config
from planwright.errors import Fault, PlanwrightError, SpecError, did_you_mean


def rollback(repository: Path, model: str) -> tuple[int, int]:
    """Serve the newest whole version older than the served one.

    Returns:
        (version that was served, version that is served now).

    Raises:
        SpecError: No such model (exit 2).
        PlanwrightError: There is no older version that is whole (exit 1).
    """
    published = Published(repository / model)
    if not published.exists:
        known = [path.parent.name for path in repository.glob(f"*/{CONFIG}")]
        raise SpecError(
            Fault(f"there is no published model '{model}'", str(repository), fix=did_you_mean(model, known))
        )
    served = published.served()
    now = served[-1] if served else 0
    older = [version for version in published.versions() if version < now]
    for version in reversed(older):
        if published.whole(version):
            replace_config(published, (published.folder / str(version) / CONFIG).read_text())
            return now, version
    why = f"versions on disk: {', '.join(map(str, published.versions()))}; " + (
        "none of the older ones is whole" if older else "none is older"
    )
    raise PlanwrightError(
        Fault(
            f"{model} cannot go back from version {now}",
            str(published.folder),
            why,
            "build the older state again from its config.yaml",
        )
    )
