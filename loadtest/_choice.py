"""Which user classes run: those named on the command line, those of ``--tags``, else HTTP and gRPC.

In      locust's environment before anything is spawned.
Out     the environment with the classes that were asked for.

Left alone, locust would spawn classes whose every task a tag took away and fail in them, and shared memory is not for every server.
"""

from __future__ import annotations

from typing import Any

from planwright import console
from planwright.errors import Fault, SpecError, did_you_mean

UNASKED = ("http", "grpc")


def choose(environment: Any, **_: Any) -> None:
    """Keep the classes that were asked for; an unknown tag ends the run with exit code 2."""
    options = environment.parsed_options
    asked, refused = set(getattr(options, "tags", None) or ()), set(getattr(options, "exclude_tags", None) or ())
    known = [tag for user in environment.user_classes for tag in tags_of(user)]
    unknown = sorted((asked | refused) - set(known))
    if unknown:
        faults = (Fault(f"there is no tag '{tag}'", "--tags", fix=did_you_mean(tag, known)) for tag in unknown)
        raise SystemExit(console.fail(SpecError(*faults)))
    named = bool(getattr(options, "user_classes", None))
    environment.user_classes[:] = [
        user for user in environment.user_classes if _wanted(tags_of(user), asked, refused, named=named)
    ]


def tags_of(user: Any) -> list[str]:
    """Return the tags of a user class's tasks."""
    return [tag for task in user.tasks for tag in sorted(getattr(task, "locust_tag_set", ()))]


def transport_of(user: Any) -> str:
    """Return the transport of a user class of ours; empty for a class of another kind."""
    return str(getattr(user, "transport", ""))


def _wanted(tags: list[str], asked: set[str], refused: set[str], *, named: bool) -> bool:
    if asked or refused:
        return (not asked or bool(asked & set(tags))) and not (tags and set(tags) <= refused)
    return named or not tags or bool(set(UNASKED) & set(tags))
