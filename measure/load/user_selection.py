"""Which user classes run, and which models each user calls.

In      locust's environment before anything is spawned; the run's models, repeated by its weight.
Out     the classes named on the command line, those of ``--tags``, else those of HTTP and gRPC; `Turns.models` of each user.

Left alone, locust would spawn classes whose every task a tag took away and fail in them, and shared memory is not for every server.
All models are covered, however few users there are: each user has one model where there are enough users, else several in turn.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from clients.options import TRANSPORTS
from measure.load.workers import is_worker
from planwright import console
from planwright.errors import Fault, PlanwrightError, SpecError, did_you_mean

BASE_MODULE = "measure.load.user"
BY_DEFAULT = ("http", "grpc")  # shared memory works only on the server's own machine


def choose(environment: Any, names: Sequence[str], unready: PlanwrightError | None = None) -> None:
    """Keep the user classes that were chosen.

    Ends the process with exit code 2 where a tag, or a class's transport or model, is unknown; then for the reason `unready`
    for which no load can start.
    """
    options = environment.parsed_options
    wanted, refused = set(getattr(options, "tags", None) or ()), set(getattr(options, "exclude_tags", None) or ())
    known = [tag for user in environment.user_classes for tag in tags_of(user)]
    unknown = sorted((wanted | refused) - set(known))
    if unknown:
        missing = (Fault(f"there is no tag '{tag}'", "--tags", fix=did_you_mean(tag, known)) for tag in unknown)
        _end(environment, SpecError(*missing))
    if unready is not None:
        _end(environment, unready)
    named = bool(getattr(options, "user_classes", None))
    faults = [fault for user in environment.user_classes for fault in _faults(user, names)]
    if faults:
        _end(environment, SpecError(*faults))
    users = environment.user_classes
    users[:] = [user for user in users if _wanted(tags_of(user), wanted, refused, named=named)]


def _end(environment: Any, error: PlanwrightError) -> NoReturn:
    """Report an error and end the process; forked workers (--processes) leave the report to their master."""
    forked = is_worker(environment) and getattr(environment.parsed_options, "processes", None)
    raise SystemExit(error.exit_code if forked else console.fail(error))


def tags_of(user: Any) -> list[str]:
    return [tag for task in user.tasks for tag in sorted(getattr(task, "locust_tag_set", ()))]


def transport_of(user: Any) -> str:
    """Return the transport of a user class of ours; empty for a class of another kind."""
    return str(getattr(user, "transport", ""))


def models_of(user: Any, names: Sequence[str]) -> tuple[str, ...]:
    own = getattr(user, "models", ())
    return tuple(name for name in names if not own or name in own)


def covered(users: Sequence[Any], names: Sequence[str]) -> list[str]:
    called = {name for user in users if transport_of(user) for name in models_of(user, names)}
    return [name for name in names if name in called]


def pairs(users: Sequence[Any], names: Sequence[str]) -> list[tuple[str, str]]:
    found = {(name, transport_of(user)) for user in users if transport_of(user) for name in models_of(user, names)}
    return sorted(found, key=lambda pair: names.index(pair[0]))


class Turns:
    """The models of one transport, shared by its users."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._users: list[object] = []
        self._shares: dict[int, tuple[str, ...]] = {}

    def join(self, user: object) -> None:
        """Add a user; the others' models may change."""
        self._users.append(user)
        self._shares.clear()

    def leave(self, user: object) -> None:
        if user in self._users:
            self._users.remove(user)
            self._shares.clear()

    def models(self, user: object) -> tuple[str, ...]:
        """Return the models of a user that has joined.

        Example:
            >>> turns = Turns(["a", "a", "b"])
            >>> turns.join(1), turns.join(2)
            (None, None)
            >>> turns.models(1), turns.models(2)
            (('a', 'b'), ('a',))
        """
        share = self._shares.get(id(user))
        if share is None:
            place, count = self._users.index(user), len(self._users)
            share = self._shares[id(user)] = self._names[place % len(self._names) :: count]
        return share


def _faults(user: Any, names: Sequence[str]) -> Iterator[Fault]:
    transport, title = transport_of(user), user.__name__
    place = place_of(user)
    if transport and transport not in TRANSPORTS:
        yield Fault(f"{title}.transport is '{transport}'", place, fix=did_you_mean(transport, list(TRANSPORTS)))
    if not user.tasks:
        yield Fault(f"{title} has no task", place, fix="put @task above a method that calls self.send()")
    models = getattr(user, "models", ())
    if isinstance(models, str):
        yield Fault(f"{title}.models is text", place, fix=f'write models = ("{models}",)')
        return
    if any(not isinstance(name, str) for name in models):
        yield Fault(f"{title}.models is {models!r}", place, fix="give names of models")
        return
    for name in models:
        if name not in names:
            fix = f"{did_you_mean(name, sorted(set(names)))}; PLANWRIGHT_MODELS chooses among those that are published"
            yield Fault(f"{title} calls '{name}', which is not among this run's models", place, fix=fix)

    if overrides(user, "inputs") and not overrides(user, "check"):
        what = f"{title} has its own inputs() and no check() for the answers to them"
        yield Fault(what, place_of(user.inputs), fix="write check(self, inputs, outputs), see docs/write-a-scenario.md")


def place_of(written: Any) -> str:
    """Return ``file:line`` of a class or function."""
    return f"{inspect.getsourcefile(written)}:{inspect.getsourcelines(written)[1]}"


def overrides(user: Any, method: str) -> bool:
    """Return whether a class of ours has its own version of a method of `Infer`, whose module this one cannot import."""
    return getattr(getattr(user, method, None), "__module__", BASE_MODULE) != BASE_MODULE


def _wanted(tags: list[str], wanted: set[str], refused: set[str], *, named: bool) -> bool:
    if wanted or refused:
        return (not wanted or bool(wanted & set(tags))) and not (tags and set(tags) <= refused)
    return named or not tags or bool(set(BY_DEFAULT) & set(tags))
