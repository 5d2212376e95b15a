"""One load test: a scenario of config.yaml with variables of the environment on top.

In      config.yaml, the scenario's name, the environment.
Out     `ScenarioSpec`, or one `SpecError` with every mistake: its line of the file, or its variable.

A variable is named as its setting, ``PLANWRIGHT_RATE`` for ``rate``, and has the same limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from planwright.config.spec import ScenarioSpec, unused_fault
from planwright.errors import Fault, SpecError, did_you_mean


def read(path: Path, name: str, environment: Mapping[str, str]) -> ScenarioSpec:
    """Return a scenario; the defaults where `name` is empty.

    Raises:
        SpecError: With every mistake in the scenarios of the file, and in the variables.
    """
    faults: list[Fault] = []
    scenario, given = ScenarioSpec(), {key: environment.get(_variable(key), "") for key in ScenarioSpec.model_fields}
    given = {key: text for key, text in given.items() if text}
    try:
        scenario = _of_file(path, name) if name else scenario
    except SpecError as error:
        faults += error.faults
    try:
        over = ScenarioSpec.model_validate(given, strict=False)
    except ValidationError as error:
        faults += [_fault(item, given) for item in error.errors()]
    arrivals = given.get("arrivals", scenario.arrivals)
    faults += [unused_fault(_variable(key), given[key]) for key in ScenarioSpec.unused(given, arrivals)]
    if faults:
        raise SpecError(*faults)
    left_over = scenario.unused(scenario.model_fields_set, arrivals)  # the environment chose another kind of load
    kept = scenario.model_dump(include=scenario.model_fields_set - set(left_over))
    return ScenarioSpec.model_construct(**{**kept, **over.model_dump(include=over.model_fields_set)})


def _of_file(path: Path, name: str) -> ScenarioSpec:
    from planwright.config.load import load_scenarios  # with YAML and protobuf, which most load tests do not need

    known = load_scenarios(path)
    if name not in known:
        raise SpecError(Fault(f"there is no scenario '{name}'", f"{path}  loadtest", fix=did_you_mean(name, known)))
    return known[name]


def _variable(setting: str) -> str:
    return f"PLANWRIGHT_{setting.upper()}"


def _fault(item: Mapping[str, object], given: Mapping[str, str]) -> Fault:
    """Return the fault of a variable, from pydantic's."""
    from planwright.config.load import explain

    loc = item["loc"]
    assert isinstance(loc, tuple)
    why, fix = explain(item, loc, ScenarioSpec)
    repeats = item["type"] == "string_pattern_mismatch"
    what = f"{_variable(loc[0])}='{given[loc[0]]}' is not a valid value"
    return Fault(what, why="" if repeats else why, fix=fix)
