"""Check that a plan loads under the server's TensorRT.

In      the TensorRT that built a plan, the server's part of config.yaml.
Out     nothing, or a `StageError`: nothing is published that the server could not load.

A plan loads only under the same version, all four parts, unless it was built VERSION_COMPATIBLE: then a later one of
the same major does as well. The embedded server runs plans in Python, with the TensorRT of .venv-server.
"""

from __future__ import annotations

from builders.stage import Job
from planwright.errors import Fault, StageError

PACKAGED_PARTS = 3  # up to 10.7 the package index names three parts of the version only: the fourth is unknown


def check(job: Job) -> None:
    """Refuse a plan that the server would refuse; raises StageError that names both versions."""
    if job.target.name != "tensorrt" or job.server.tensorrt is None:
        return
    here, there = job.target.versions()["tensorrt"], job.server.tensorrt
    if fits(here, there, version_compatible=job.model.compile.version_compatible):
        return
    image = job.server.image or "the server"
    fix = (
        f"build in the server's image (docker compose run --rm builder), install tensorrt {there} here, "
        "or set compile.version_compatible: true within one major version"
    )
    raise StageError(
        "publish",
        Fault(f"{job.model.name} was built with a different TensorRT version than the server's", f"{job.server.where}  server.tensorrt: {there}",
              f"the plan is of TensorRT {here}, {image} has {there}", fix, "python -m builders doctor"),
    )  # fmt: skip


def fits(built: str, served: str, *, version_compatible: bool) -> bool:
    """Return whether a plan of TensorRT `built` loads under `served`.

    Example:
        >>> fits("10.16.1.11", "10.16.1.11", version_compatible=False), fits("10.13.3.9", "10.16.1.11", version_compatible=True)
        (True, True)
        >>> fits("8.6.1.2", "8.6.1.6", version_compatible=False), fits("10.16.1.11", "11.0.0.114", version_compatible=True)
        (False, False)
        >>> fits("10.7.0", "10.7.0.23", version_compatible=False), fits("10.7.1", "10.7.0.23", version_compatible=False)
        (True, False)
    """
    old, new = ([int(part) for part in text.split(".")] for text in (built, served))
    known = min(len(old), len(new))
    if old[:known] == new[:known] and known >= PACKAGED_PARTS:
        return True
    return version_compatible and old[0] == new[0] and old <= new
