"""What the environment says about a run; the one place that reads it.

PLANWRIGHT_MODELS       models to load, with weights: ``digits=3,minilm``   (default: all published)
PLANWRIGHT_BATCH        samples per request                                 (default: 1)
PLANWRIGHT_CHECK        share of answers that are checked, 0 to 1           (default: 0.05)
PLANWRIGHT_WARMUP_S     seconds at the start that do not count              (default: 1)
PLANWRIGHT_WAIT_S       seconds a user rests between an answer and its next request   (default: 0)
PLANWRIGHT_RUNS         folder of the run records                           (default: runs)
PLANWRIGHT_REPOSITORY   model repository with the golden samples            (default: that of the server)
PLANWRIGHT_SERVER_FILE  written by python -m serving                        (default: .planwright/server.json)
PLANWRIGHT_URL, PLANWRIGHT_GRPC_URL   addresses                             (default: of the server file)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clients import published
from planwright.errors import Fault, SpecError
from planwright.server_info import SERVER_FILE, ServerInfo


@dataclass(frozen=True)
class Settings:
    """A run's settings; see the module's docstring."""

    models: tuple[tuple[str, int], ...]
    batch: int
    check: float
    warmup_s: float
    wait_s: float
    runs: Path
    repository: Path
    http_url: str
    grpc_url: str
    metrics_url: str
    server: ServerInfo | None


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings.

    Raises:
        SpecError: A value is not of its kind, or names an unknown model; all of them at once (exit 2).
        MachineError: There is no repository (exit 3).
    """
    faults: list[Fault] = []
    server_file = Path(environment.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE))
    server = ServerInfo.read(server_file)
    given = environment.get("PLANWRIGHT_REPOSITORY")
    repository = published.repository_folder(Path(given) if given else None, server_file)
    weights = _weights(environment.get("PLANWRIGHT_MODELS", ""), faults)
    batch = int(_number(environment, "PLANWRIGHT_BATCH", 1, (1, 1 << 20), faults))
    check = _number(environment, "PLANWRIGHT_CHECK", 0.05, (0, 1), faults)
    warmup_s = _number(environment, "PLANWRIGHT_WARMUP_S", 1, (0, 3600), faults)
    wait_s = _number(environment, "PLANWRIGHT_WAIT_S", 0, (0, 3600), faults)
    if faults:
        raise SpecError(*faults)
    names = published.select(repository, list(weights))
    return Settings(
        tuple((name, weights.get(name, 1)) for name in names), batch, check, warmup_s, wait_s,
        Path(environment.get("PLANWRIGHT_RUNS", "runs")), repository,
        environment.get("PLANWRIGHT_URL") or (server.http_url if server else "localhost:8000"),
        environment.get("PLANWRIGHT_GRPC_URL") or (server.grpc_url if server else "localhost:8001"),
        server.metrics_url if server else "localhost:8002", server,
    )  # fmt: skip


def _weights(text: str, faults: list[Fault]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, weight = part.partition("=")
        if weight and not weight.isdigit():
            faults.append(
                Fault(f"'{part}' is not a model with a weight", "PLANWRIGHT_MODELS", fix="write digits=3,minilm")
            )
        found[name] = int(weight) if weight.isdigit() else 1
    return found


def _number(
    environment: Mapping[str, str], name: str, default: float, limits: tuple[float, float], faults: list[Fault]
) -> float:
    text = environment.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not limits[0] <= value <= limits[1]:
        faults.append(Fault(f"{name} is '{text}'", fix=f"give a number from {limits[0]:g} to {limits[1]:g}"))
        return default
    return value
