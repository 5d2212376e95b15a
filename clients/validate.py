"""validate: are the bytes that are served right?

In      a running server, the golden samples of its repository.
Out     one `Row` per model, version, transport and batch size.

Every golden sample goes through every transport at batch 1, mid and max; then single samples go in at once from several
connections, so that the server's own batcher merges them and an answer that reaches the wrong request shows. The last
row of a transport is named ``in flight``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planwright.compare import OutputCheck, compare, merge
from planwright.golden import Golden, Group

from . import published
from .core import Arrays
from .errors import ClientError, SharedMemoryUnavailable
from .published import PublishedVersion
from .sync import TritonModel

TRANSPORTS = ("http", "grpc", "shm")
IN_FLIGHT = 4  # connections at once; the batcher merges what waits together
OK, WRONG, FAILED, SKIPPED = "ok", "WRONG", "FAILED", "skipped"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        batch: ``1``, ``16``, ``whole`` (no batch axis) or ``4 in flight``.
        verdict: ok, WRONG (answers differ), FAILED (no answer) or skipped.
    """

    model: str
    version: str
    transport: str
    batch: str
    samples: int
    relative: float
    cosine: float
    verdict: str
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


@dataclass(frozen=True)
class Addresses:
    """Where HTTP and gRPC are; None means: find the server that runs here."""

    http: str | None = None
    grpc: str | None = None


def validate(folder: Path, names: list[str], transports: list[str], where: Addresses) -> Iterator[Row]:
    """Check models one after the other, yielding rows as they are known.

    Raises:
        ClientError: The server cannot be reached at all.
    """
    for name in names:
        try:
            versions = _served_versions(name, where)
        except ClientError as error:
            if type(error).__name__ == "ConnectionFailed":
                raise
            yield _no_answer(name, "-", "http", error)
            continue
        for number in versions:
            yield from _validate_version(published.version(folder, name, number), transports, where)


def _served_versions(name: str, where: Addresses) -> list[str]:
    with TritonModel(name, where.http) as model:
        return list(model._retry(lambda: model._transport.json(f"/v2/models/{name}", name))["versions"])


def _validate_version(version: PublishedVersion, transports: list[str], where: Addresses) -> Iterator[Row]:
    golden = version.golden()
    for transport in transports:

        def connect(transport: str = transport) -> TritonModel:
            protocol: Any = "grpc" if transport == "grpc" else "http"
            url = where.grpc if transport == "grpc" else where.http
            shared: Any = "system" if transport == "shm" else None
            return TritonModel(version.model, url, protocol=protocol, shared_memory=shared, version=version.version)

        try:
            yield from _validate_transport(version, golden, transport, connect)
        except SharedMemoryUnavailable as error:
            reason = f"{error.faults[0].what}: {error.faults[0].why}"
            yield Row(version.model, version.version, transport, "-", 0, 0.0, 1.0, SKIPPED, reason)
        except ClientError as error:
            yield _no_answer(version.model, version.version, transport, error)


def _no_answer(model: str, version: str, transport: str, error: ClientError) -> Row:
    fault = error.faults[0]
    return Row(model, version, transport, "-", 0, float("inf"), -1.0, FAILED, f"{fault.what}: {fault.why}")


def _validate_transport(version: PublishedVersion, golden: Golden, transport: str, connect: Callable[[], TritonModel]) -> Iterator[Row]:
    with connect() as model:
        for size in batch_sizes(model):
            checks = [check for group in golden.batches(size or 1) for check in _ask(model, group, version, whole=size == 0)]
            yield _row(version, transport, str(size) if size else "whole", checks)
        if not model.info.max_batch_size or transport == "shm":
            return
    yield _row(version, transport, f"{IN_FLIGHT} in flight", _at_once(golden, version, connect))


def batch_sizes(model: TritonModel) -> list[int]:
    """Return 1, mid and max; 1 and N for a static batch; 0 where there is no batch axis."""
    info = model.info
    if not info.batches:
        return [0]
    return sorted({1, info.fixed_batch}) if info.fixed_batch else sorted({1, (1 + info.max_batch_size) // 2, info.max_batch_size})


def _ask(model: TritonModel, group: Group, version: PublishedVersion, *, whole: bool = False) -> list[OutputCheck]:
    inputs = {name: array[0] for name, array in group.inputs.items()} if whole else group.inputs
    answers = model.infer_batch(inputs)
    return check_answers(group, {n: a[None] for n, a in answers.items()} if whole else answers, version)


def check_answers(group: Group, answers: Arrays, version: PublishedVersion) -> list[OutputCheck]:
    """Compare the answers to one batch of golden samples with what they should be."""
    tolerances = version.tolerances
    return [compare(name, expected, answers[name], tolerances[name]) for name, expected in group.outputs.items()]


def _at_once(golden: Golden, version: PublishedVersion, connect: Callable[[], TritonModel]) -> list[OutputCheck]:
    samples = list(golden.samples())

    def worker(offset: int) -> list[OutputCheck]:
        with connect() as model:
            mine = samples[offset::IN_FLIGHT] * 3
            return list(itertools.chain.from_iterable(_ask(model, group, version) for group in mine))

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(itertools.chain.from_iterable(pool.map(worker, range(IN_FLIGHT))))


def _row(version: PublishedVersion, transport: str, batch: str, checks: list[OutputCheck]) -> Row:
    merged = [merge([c for c in checks if c.output == name]) for name in dict.fromkeys(c.output for c in checks)]
    failed = [check for check in merged if not check.passed]
    reason = "; ".join(f"{check.output}: {check.reason}" for check in failed)
    worst = max(merged, key=lambda check: check.relative)
    cosine = min(check.cosine for check in merged)
    verdict = WRONG if failed else OK
    return Row(version.model, version.version, transport, batch, merged[0].samples, worst.relative, cosine, verdict, reason)
