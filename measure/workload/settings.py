"""What a run shall do; the one place that reads the environment and config.yaml's ``loadtest``.

PLANWRIGHT_SCENARIO     entry below ``loadtest:`` in config.yaml to start from       (default: none)
PLANWRIGHT_MODELS       models to load, with weights: ``digits=3,minilm``            (default: all published)
PLANWRIGHT_ARRIVALS     closed, poisson, constant, or trace:FILE                     (default: closed)
PLANWRIGHT_RATE         open loop: requests per second, or a profile: docs/loadtest.md(default: 100)
PLANWRIGHT_USERS        closed loop: a profile of users, instead of locust's --users (default: none)
PLANWRIGHT_WAIT_S       closed loop: seconds a user rests before its next request    (default: 0)
PLANWRIGHT_LENGTH_S     closed loop: seconds that count, after the warm-up           (default: until -t or Ctrl-C)
PLANWRIGHT_BATCH        samples per request                                          (default: 1)
PLANWRIGHT_CHECK        share of answers that are checked, 0 to 1                    (default: what 1.2% of the CPU time allows)
PLANWRIGHT_WARMUP_S     seconds at the start that do not count                       (default: 1)
PLANWRIGHT_TIMEOUT_S    limit of one request                                         (default: 60)
PLANWRIGHT_SEED         of Poisson arrivals                                          (default: 1)
PLANWRIGHT_RUNS         folder of the run records                                    (default: runs)
PLANWRIGHT_PAGE         off: report.json alone, python -m loadtest report makes it   (default: on)
PLANWRIGHT_CONFIG       config.yaml with the scenario                                (default: config.yaml)
PLANWRIGHT_REPOSITORY   model repository with the golden samples                     (default: that of the server)
PLANWRIGHT_SERVER_FILE  written by python -m serving                                 (default: .planwright/server.json)
PLANWRIGHT_URL, PLANWRIGHT_GRPC_URL   addresses                                      (default: of the server file)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients import published
from clients.addresses import Protocol
from clients.model import SharedMemory
from measure.workload import arrivals as arrival_times
from measure.workload import profile as load_profile
from measure.workload.arrivals import Arrival
from measure.workload.profile import Profile
from planwright.errors import Fault, SpecError, did_you_mean
from planwright.repository_folder import require_repository
from planwright.server_info import SERVER_FILE, ServerInfo

MOST_SAMPLES = 1 << 20
# what a report calls a transport -> protocol, and where tensors lie
TRANSPORTS: dict[str, tuple[Protocol, SharedMemory | None]] = {
    "http": ("http", None), "grpc": ("grpc", None), "shm": ("grpc", "system"), "cuda": ("grpc", "cuda"),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """A run's settings; see the module's docstring. `rate` and `trace` are for an open loop, `users` for a closed one."""

    scenario: str
    models: tuple[tuple[str, int], ...]
    arrivals: str
    rate: Profile | None
    trace: tuple[Arrival, ...]
    users: Profile | None
    batches: tuple[tuple[int, int], ...]
    check: float | None
    warmup_s: float
    wait_s: float
    timeout_s: float
    seed: int
    runs: Path
    repository: Path
    http_url: str
    grpc_url: str
    server: ServerInfo | None
    length_s: float = 0.0
    page: bool = True
    rate_text: str = ""
    users_text: str = ""

    @property
    def batch(self) -> int | str:
        """Return samples per request for the report: a number, or ``1=8,16=2`` where sizes are mixed."""
        if len(self.batches) == 1:
            return self.batches[0][0]
        return ",".join(f"{size}={weight}" for size, weight in self.batches)

    @property
    def weighted(self) -> list[str]:
        """Every model's name as often as its weight says."""
        return [name for name, weight in self.models for _ in range(weight)]

    @property
    def steady(self) -> bool:
        """True where the load never changes on purpose."""
        profile = self.rate if self.arrivals != "closed" else self.users
        return self.arrivals != "trace" and (profile is None or profile.steady)


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings.

    Raises:
        SpecError: A value is not of its kind, or names an unknown model or scenario; all of them at once (exit 2).
        MachineError: There is no repository (exit 3).
    """
    words = _Words(environment)
    server_file = Path(environment.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE))
    server = ServerInfo.read(server_file)
    given = environment.get("PLANWRIGHT_REPOSITORY")
    repository = require_repository(Path(given) if given else None, server_file)
    weights = words.weights()
    arrivals, _, trace_file = words.text("ARRIVALS", "closed").partition(":")
    if arrivals not in arrival_times.KINDS or bool(trace_file) != (arrivals == "trace"):
        fix = "use closed, poisson, constant or trace:FILE"
        words.faults.append(Fault(f"PLANWRIGHT_ARRIVALS is '{words.text('ARRIVALS', '')}'", fix=fix))
    opened = arrivals in ("poisson", "constant")
    words.refuse_unused("RATE", opened, "an open loop's", "PLANWRIGHT_ARRIVALS=poisson (or constant)")
    words.refuse_unused("LENGTH_S", arrivals == "closed", "a closed loop's", "PLANWRIGHT_ARRIVALS=closed")
    words.refuse_unused("USERS", arrivals == "closed", "a closed loop's", "PLANWRIGHT_ARRIVALS=closed")
    numbers: dict[str, Any] = {
        "batches": words.batches(),
        "check": words.number("CHECK", 0, (0, 1)) if words.text("CHECK", "") else None,
        "warmup_s": words.number("WARMUP_S", 1, (0, 3600)),
        "wait_s": words.number("WAIT_S", 0, (0, 3600)),
        "length_s": words.number("LENGTH_S", 0, (0, 86400)),
        "timeout_s": words.number("TIMEOUT_S", 60, (0.001, 3600)),
        "seed": int(words.number("SEED", 1, (0, 1 << 31))),
        "rate": words.profile("RATE", "100") if opened else None,
        "users": words.profile("USERS", "") if arrivals == "closed" else None,
    }
    page = words.on("PAGE")
    if words.faults:
        raise SpecError(*words.faults)
    names = published.select(repository, list(weights))
    models = tuple((name, weights.get(name, 1)) for name in names)
    weighted = [name for name, weight in models for _ in range(weight)]
    trace = tuple(arrival_times.read_trace(Path(trace_file), weighted)) if trace_file else ()
    return Settings(
        scenario=words.scenario, models=models, arrivals=arrivals, trace=trace, rate_text=words.text("RATE", "100") if opened else "",
        users_text=words.text("USERS", ""), page=page,
        runs=Path(environment.get("PLANWRIGHT_RUNS", "runs")), repository=repository, server=server,
        http_url=environment.get("PLANWRIGHT_URL") or (server.http_url if server else "localhost:8000"),
        grpc_url=environment.get("PLANWRIGHT_GRPC_URL") or (server.grpc_url if server else "localhost:8001"),
        **numbers,
    )  # fmt: skip


class _Words:
    """The environment over the chosen scenario of config.yaml, and the faults found while reading them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.faults: list[Fault] = []
        self.scenario = environment.get("PLANWRIGHT_SCENARIO", "")
        self._scenario = _scenario(Path(environment.get("PLANWRIGHT_CONFIG", "config.yaml")), self.scenario)

    def text(self, name: str, default: str) -> str:
        """Return a setting as text."""
        found = self._environment.get(f"PLANWRIGHT_{name}") or self._scenario.get(name.lower())
        return default if found in (None, "") else str(found)

    def number(self, name: str, default: float, limits: tuple[float, float]) -> float:
        """Return a number within limits; a fault is noted and the default returned where it is none."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not limits[0] <= value <= limits[1]:
            self.faults.append(
                Fault(f"PLANWRIGHT_{name} is '{text}'", fix=f"give a number from {limits[0]:g} to {limits[1]:g}")
            )
            return default
        return value

    def on(self, name: str) -> bool:
        """Return whether something is on, as it is where nothing is said."""
        text = self.text(name, "on")
        if text not in ("on", "off"):
            self.faults.append(Fault(f"PLANWRIGHT_{name} is '{text}'", fix="write on or off"))
        return text == "on"

    def batches(self) -> tuple[tuple[int, int], ...]:
        """Return (samples per request, weight) of each size of ``8`` or ``1=3,16``."""
        text = self.text("BATCH", "1")
        parts = [piece.strip().partition("=") for piece in text.split(",")]
        found = {
            int(size): int(weight or 1) for size, _, weight in parts if size.isdigit() and (weight or "1").isdigit()
        }
        if len(found) < len(parts) or not all(1 <= size <= MOST_SAMPLES and weight for size, weight in found.items()):
            fix = f"give a size from 1 to {MOST_SAMPLES}, or several with weights: 1=8,16=2"
            self.faults.append(Fault(f"PLANWRIGHT_BATCH is '{text}'", fix=fix))
            return ((1, 1),)
        return tuple(found.items())

    def profile(self, name: str, default: str) -> Profile | None:
        """Return a profile, None where none is given."""
        text = self.text(name, default)
        if not text:
            return None
        try:
            return load_profile.parse(text, f"PLANWRIGHT_{name}")
        except SpecError as error:
            self.faults += error.faults
            return None

    def refuse_unused(self, name: str, used: bool, whose: str, fix: str) -> None:
        """Note a fault where a setting is given that this kind of load would not look at.

        A scenario's own setting may be left over where the environment asks for another kind of load.
        """
        variable = f"PLANWRIGHT_{name}"
        text = str(self._environment.get(variable) or "")
        if not text and "PLANWRIGHT_ARRIVALS" not in self._environment:
            text = self.text(name, "")
        if text and not used:
            self.faults.append(
                Fault(f"{variable} is '{text}', which is {whose} setting", fix=f"{fix}, or leave it out")
            )

    def weights(self) -> dict[str, int]:
        """Return model -> weight; empty for all models."""
        given = self._scenario.get("models") or {}
        text = self._environment.get("PLANWRIGHT_MODELS") or ",".join(f"{n}={w}" for n, w in given.items())
        found: dict[str, int] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, _, weight = part.partition("=")
            if weight and not (weight.isdigit() and int(weight)):
                fault = Fault(
                    f"'{part}' is not a model with a weight", "PLANWRIGHT_MODELS", fix="write digits=3,minilm"
                )
                self.faults.append(fault)
            found[name] = int(weight) if weight.isdigit() else 1
        return found


def _scenario(path: Path, name: str) -> dict[str, Any]:
    """Return the scenario's settings; empty where none is asked for."""
    if not name:
        return {}
    from planwright.config.load import load_scenarios

    known = load_scenarios(path)
    if name not in known:
        raise SpecError(Fault(f"there is no scenario '{name}'", f"{path}  loadtest", fix=did_you_mean(name, known)))
    return known[name].model_dump(exclude_none=True)
