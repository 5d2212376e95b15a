"""The settings of a run: its load test, where things are, and where records go.

In      the environment, and a scenario of config.yaml: the settings of the load itself are those of `ScenarioSpec`, each with a variable.
Out     `Settings`.

PLANWRIGHT_SCENARIO     entry below ``loadtest:`` in config.yaml to start from       (default: none)
PLANWRIGHT_MODELS       models to load, with weights: ``digits=3,minilm``            (default: all published)
PLANWRIGHT_ARRIVALS     closed, poisson, constant, or trace:FILE                     (default: closed)
PLANWRIGHT_RATE         open loop: requests per second, or a profile: docs/loadtest.md(default: 100)
PLANWRIGHT_USERS        closed loop: a profile of users, instead of locust's --users (default: none)
PLANWRIGHT_WAIT_S       closed loop: think time: seconds a user waits between requests(default: 0)
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
from functools import cached_property
from pathlib import Path

from clients import published
from measure.workload import arrivals as arrival_times
from measure.workload.arrivals import Arrival
from planwright.config import load_profile, scenario
from planwright.config.load_profile import Profile
from planwright.config.spec import ScenarioSpec
from planwright.errors import Fault, PlanwrightError, SpecError, did_you_mean
from planwright.repository_folder import repository_folder, require_repository
from planwright.server_info import SERVER_FILE, ServerInfo


@dataclass(frozen=True)
class Settings:
    """A run's settings; see the module's docstring.

    Attributes:
        test: The settings of the load itself.
        scenario: Name of the scenario they started from; empty for none.
        models: The run's models with their weights.
        trace: Arrivals of a trace; empty for other kinds of load.
        unready: Why no load can start although the settings are valid, such as no published models; reported once the
            command line is known to be valid.
    """

    test: ScenarioSpec
    scenario: str
    models: tuple[tuple[str, int], ...]
    trace: tuple[Arrival, ...]
    runs: Path
    repository: Path
    http_url: str
    grpc_url: str
    page: bool = True
    unready: PlanwrightError | None = None

    @cached_property
    def open_loop(self) -> bool:
        return self.test.kind != "closed"

    @cached_property
    def rate(self) -> Profile | None:
        """Requests per second of an open loop that follows no trace."""
        return load_profile.parse(self.test.rate) if self.test.kind in ("poisson", "constant") else None

    @cached_property
    def users(self) -> Profile | None:
        """A closed loop's profile of users; None for locust's --users."""
        return load_profile.parse(self.test.users) if self.test.users else None

    @cached_property
    def batches(self) -> tuple[tuple[int, int], ...]:
        """(samples per request, weight) of each size."""
        return load_profile.batch_sizes(self.test.batch)

    @property
    def batch(self) -> int | str:
        """Return samples per request for the report: a number, or ``1=8,16=2`` where sizes are mixed."""
        if len(self.batches) == 1:
            return self.batches[0][0]
        return ",".join(f"{size}={weight}" for size, weight in self.batches)

    @property
    def weighted(self) -> list[str]:
        return [name for name, weight in self.models for _ in range(weight)]

    @property
    def steady(self) -> bool:
        """True where the load never changes on purpose."""
        profile = self.rate if self.open_loop else self.users
        return self.test.kind != "trace" and (profile is None or profile.steady)


# the variables that are not named as a setting of a scenario; those of the server and its backend are set beside ours
_OTHERS = ("SCENARIO", "RUNS", "PAGE", "CONFIG", "REPOSITORY", "SERVER_FILE", "URL", "GRPC_URL",
           "TRITONSERVER_DIR", "SERVER_VENV", "TENSORRT_PLUGINS", "TENSORRT_VERSION_COMPATIBLE")  # fmt: skip
VARIABLES = tuple(f"PLANWRIGHT_{name.upper()}" for name in (*ScenarioSpec.model_fields, *_OTHERS))


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that nothing reads, with the nearest one that exists."""
    unknown = sorted(name for name in environment if name.startswith("PLANWRIGHT_") and name not in VARIABLES)
    return [f"unknown variable {name}; {did_you_mean(name, VARIABLES)}" for name in unknown]


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings; `Settings.unready` carries a problem that is not one of the variables themselves.

    Raises:
        SpecError: A value is not of its kind, or names an unknown scenario; all of them at once (exit 2).
    """
    server_file = Path(environment.get("PLANWRIGHT_SERVER_FILE", SERVER_FILE))
    server = ServerInfo.read(server_file)
    given = environment.get("PLANWRIGHT_REPOSITORY")
    repository = repository_folder(Path(given) if given else None, server_file)
    name, faults, test = environment.get("PLANWRIGHT_SCENARIO", ""), list[Fault](), ScenarioSpec()
    try:
        test = scenario.read(Path(environment.get("PLANWRIGHT_CONFIG", "config.yaml")), name, environment)
    except SpecError as error:
        faults += error.faults
    page = environment.get("PLANWRIGHT_PAGE") or "on"
    if page not in ("on", "off"):
        faults.append(Fault(f"PLANWRIGHT_PAGE='{page}' is not a valid value", fix="use on or off"))
    if faults:
        raise SpecError(*faults)
    models: tuple[tuple[str, int], ...] = ()
    trace: tuple[Arrival, ...] = ()
    unready: PlanwrightError | None = None
    try:
        require_repository(Path(given) if given else None, server_file)
        models = tuple((each, test.models.get(each, 1)) for each in published.select(repository, list(test.models)))
        file = test.arrivals.partition(":")[2]
        weighted = [each for each, weight in models for _ in range(weight)]
        trace = tuple(arrival_times.read_trace(Path(file), weighted)) if file else ()
    except PlanwrightError as error:
        unready = error
    return Settings(
        test=test, scenario=name, models=models, page=page == "on", trace=trace, unready=unready,
        runs=Path(environment.get("PLANWRIGHT_RUNS", "runs")), repository=repository,
        http_url=environment.get("PLANWRIGHT_URL") or (server.http_url if server else "localhost:8000"),
        grpc_url=environment.get("PLANWRIGHT_GRPC_URL") or (server.grpc_url if server else "localhost:8001"),
    )  # fmt: skip
