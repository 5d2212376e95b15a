"""validate: are the bytes that are served right?

In      a running server, the golden samples of its repository.
Out     one `Row` per model, version, transport and batch size.

Every golden sample goes through every transport at batch 1, mid and max, each answer compared with its own sample, so
an answer that depends on its neighbours or changes places with one shows. Then single samples go in at once from several
connections, so that the server's own batcher merges them and an answer that reaches the wrong request shows; that row
is named ``in flight``, and says when nothing was merged, because then it has proved less.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planwright import console
from planwright.compare import OutputCheck, Tolerance, compare, merge
from planwright.golden import Golden, Group, first_sample

from . import published
from .addresses import Protocol
from .errors import ClientError, ConnectionFailed, InvalidRequest, SharedMemoryUnavailable
from .model import SharedMemory, TritonModel
from .published import PublishedVersion
from .request import Arrays, ModelInfo
from .shared_memory.system import carries

TRANSPORTS = ("http", "grpc", "shm", "cuda")
_SHARED: dict[str, SharedMemory] = {"shm": "system", "cuda": "cuda"}
IN_FLIGHT = 8  # connections at once; the batcher merges what waits together
ROUNDS = 3  # how often each sends its samples
OK, WRONG, FAILED, SKIPPED = "ok", "WRONG", "FAILED", "skipped"
Connect = Callable[[], TritonModel]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        batch: ``1``, ``16``, ``whole`` (no batch axis) or ``8 in flight``.
        relative: Worst relative error; None where nothing was compared.
        cosine: Worst cosine; None where nothing was compared.
        verdict: ok, WRONG (answers differ), FAILED (no answer) or skipped.
        weights: ``real`` or ``random``, as the model was built.
        merged: In flight: mean number of samples per execution; None where unknown.
    """

    model: str
    version: str
    transport: str
    batch: str
    samples: int
    relative: float | None
    cosine: float | None
    verdict: str
    reason: str = ""
    weights: str = "real"
    merged: float | None = None

    @property
    def bad(self) -> bool:
        """True where the row counts as a failure."""
        return self.verdict in (WRONG, FAILED)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


@dataclass(frozen=True)
class Addresses:
    """Where HTTP and gRPC are; None means: find the server that runs here."""

    http: str | None = None
    grpc: str | None = None


def validate(
    folder: Path,
    names: list[str],
    transports: list[str],
    where: Addresses,
    batches: Sequence[str] = (),
    *,
    trust: bool = False,
) -> Iterator[Row]:
    """Check models one after the other, yielding rows as they are known.

    Args:
        folder: The model repository.
        names: Published models.
        transports: Some of `TRANSPORTS`.
        where: Addresses of the server.
        batches: Only these batch sizes, each a number or ``max``, and no requests in flight together; all when empty.
        trust: Take the repository's files as they are.

    Raises:
        ConnectionFailed: The server cannot be reached, or went away.
    """
    for name in names:
        protocol: Protocol = "grpc" if list(transports) == ["grpc"] else "http"
        try:
            with TritonModel(name, where.grpc if protocol == "grpc" else where.http, protocol=protocol) as model:
                versions = model.versions()
        except ConnectionFailed:
            raise
        except ClientError as error:
            damage = None if trust else _damage(folder, name)
            yield _no_answer(name, "-", "files" if damage else protocol, damage or error)
            continue
        for number in versions:
            yield from _validate_version(folder, name, number, transports, where, batches, trust)


def _damage(folder: Path, name: str) -> InvalidRequest | None:
    """Return why `python -m serving` does not serve a published model, where its files are the reason."""
    try:
        published.require_whole(folder, name)
    except InvalidRequest as error:
        return error
    return None


def _validate_version(
    folder: Path, name: str, number: str, transports: list[str], where: Addresses, batches: Sequence[str], trust: bool
) -> Iterator[Row]:
    try:
        version = published.version(folder, name, number)
        if not trust:
            published.require_whole(folder, name, [number])
    except InvalidRequest as error:
        yield _no_answer(name, number, "files", error)
        return
    try:
        golden = version.golden()
        _check_golden(version, golden)
    except InvalidRequest as error:
        yield _no_answer(name, number, "golden", error)
        return
    for transport in transports:
        connect = _connector(version, transport, where)
        try:
            yield from _validate_transport(version, golden, transport, connect, batches)
        except SharedMemoryUnavailable as error:
            reason = f"{error.faults[0].what}: {error.faults[0].why}"
            yield Row(name, number, transport, "-", 0, None, None, SKIPPED, reason, version.weights)
        except ConnectionFailed as error:
            _raise_if_gone(name, where, error)
            yield _no_answer(name, number, transport, error, version.weights)
        except ClientError as error:
            yield _no_answer(name, number, transport, error, version.weights)


def _connector(version: PublishedVersion, transport: str, where: Addresses) -> Connect:
    protocol: Protocol = "grpc" if transport == "grpc" else "http"
    url = where.grpc if transport == "grpc" else where.http

    def connect() -> TritonModel:
        return TritonModel(version.model, url, protocol=protocol, shared_memory=_SHARED.get(transport),
                           version=version.version, allow_nan=True)  # fmt: skip

    return connect


def _raise_if_gone(name: str, where: Addresses, error: ConnectionFailed) -> None:
    """Distinguish a server that went away from a transport that does not work: only then HTTP does not answer either."""
    try:
        with TritonModel(name, where.http) as model:
            model.versions()
    except ConnectionFailed:
        raise error from None
    except ClientError:
        return


def _no_answer(model: str, version: str, transport: str, error: ClientError, weights: str = "real") -> Row:
    fault = error.faults[0]
    return Row(model, version, transport, "-", 0, None, None, FAILED, f"{fault.what}: {fault.why}", weights)


def _validate_transport(
    version: PublishedVersion, golden: Golden, transport: str, connect: Connect, batches: Sequence[str]
) -> Iterator[Row]:
    with connect() as model:
        _check_served(version, golden, model.info)
        if transport in _SHARED and not any(carries(model.info, group.inputs) for group in golden.groups):
            reason = "no tensor of the model goes through shared memory"  # ok would say more than was measured
            yield Row(version.model, version.version, transport, "-", 0, None, None, SKIPPED, reason, version.weights)
            return
        for size in batch_sizes(model.info, batches):
            yield _batch_row(version, golden, transport, model, size)
        if batches or not model.info.max_batch_size:
            return
        before = model.statistics()
        count = min(IN_FLIGHT, model.info.queue or IN_FLIGHT)
        checks = _at_once(golden, version, connect, count)
        merged = _mean_batch(before, model.statistics())
    yield _row(version, transport, f"{count} in flight", checks, merged)


def _batch_row(version: PublishedVersion, golden: Golden, transport: str, model: TritonModel, size: int) -> Row:
    if size > model.info.limit:
        reason = f"the model takes at most {console.many(model.info.limit, 'sample')} per request"
        return Row(
            version.model, version.version, transport, str(size), 0, None, None, SKIPPED, reason, version.weights
        )
    checks = [check for group in golden.batches(size or 1) for check in _ask(model, group, version)]
    return _row(version, transport, str(size) if size else "whole", checks)


def _check_golden(version: PublishedVersion, golden: Golden) -> None:
    """Refuse golden samples that have no answers, or answers that nothing says how to judge."""
    expected, judged = _outputs(golden), set(version.tolerances)
    if not expected or not expected <= judged:
        raise InvalidRequest(
            published.damaged(
                version, f"golden.npz has answers for {sorted(expected)}, build.json tolerances for {sorted(judged)}"
            )
        )


def _check_served(version: PublishedVersion, golden: Golden, info: ModelInfo) -> None:
    """Refuse to compare what is not the same set of tensors."""
    served = {tensor.name for tensor in info.outputs}
    if not _outputs(golden) <= served:
        raise InvalidRequest(
            published.damaged(
                version, f"golden.npz has answers for {sorted(_outputs(golden))}, the server outputs {sorted(served)}"
            )
        )


def _outputs(golden: Golden) -> set[str]:
    return {name for group in golden.groups for name in group.outputs}


def batch_sizes(info: ModelInfo, chosen: Sequence[str] = ()) -> list[int]:
    """Return 1, mid and max, 1 and N for a static batch, or those `chosen`; 0 where there is no batch axis."""
    if not info.batches:
        return [0]
    if chosen:
        return sorted({info.limit if size == "max" else int(size) for size in chosen})
    if info.fixed_batch:
        return sorted({1, info.fixed_batch})
    return sorted({1, (1 + info.limit) // 2, info.limit})


def sample_inputs(info: ModelInfo, group: Group) -> Arrays:
    """Return golden inputs as `infer_batch` and `prepare` take them; without a batch axis, the first sample's tensors."""
    return group.inputs if info.batches else first_sample(group.inputs)


def _ask(model: TritonModel, group: Group, version: PublishedVersion) -> list[OutputCheck]:
    answers = model.standalone().infer_batch(sample_inputs(model.info, group))
    return check_answers(group, answers if model.info.batches else {n: a[None] for n, a in answers.items()}, version)


def check_answers(group: Group, answers: Arrays, version: PublishedVersion) -> list[OutputCheck]:
    """Compare the answers to one batch of golden samples with what they should be."""
    tolerances = version.tolerances
    return [_compare(name, expected, answers, tolerances[name]) for name, expected in group.outputs.items()]


def _compare(name: str, expected: Any, answers: Arrays, tolerance: Tolerance) -> OutputCheck:
    if name not in answers:
        return OutputCheck(
            name, len(expected), float("inf"), float("inf"), -1.0, 0.0, 0.0, False, "the server left it out"
        )
    return compare(name, expected, answers[name], tolerance)


def _at_once(golden: Golden, version: PublishedVersion, connect: Connect, count: int) -> list[OutputCheck]:
    """Send single samples from all connections together; comparing comes after, so that it does not hold them apart."""
    samples = list(golden.samples())
    start = threading.Barrier(count)

    def worker(offset: int) -> list[OutputCheck]:
        with _ready_or_abort(start, connect) as model:
            mine = [samples[i % len(samples)] for i in range(offset, max(len(samples), count), count)]
            answers: list[tuple[Group, Arrays]] = []
            try:
                requests = [(group, model.standalone().prepare(group.inputs)) for group in mine]
                start.wait(60)
                for _ in range(ROUNDS):
                    answers += [(group, request.infer()) for group, request in requests]
            except BaseException:
                start.abort()  # the others would wait for a connection that never comes
                raise
        return [check for group, answer in answers for check in check_answers(group, answer, version)]

    with ThreadPoolExecutor(count) as pool:
        return _gather([pool.submit(worker, offset) for offset in range(count)])


def _ready_or_abort(start: threading.Barrier, connect: Connect) -> TritonModel:
    try:
        return connect()
    except BaseException:
        start.abort()
        raise


def _gather(futures: list[Any]) -> list[OutputCheck]:
    """Return all checks; of several errors the cause, not the barrier that broke because of it."""
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error
    return [check for future in futures for check in future.result()]


def _mean_batch(before: dict[str, int], after: dict[str, int]) -> float | None:
    runs = after["execution_count"] - before["execution_count"]
    return (after["inference_count"] - before["inference_count"]) / runs if runs > 0 else None


def _row(
    version: PublishedVersion, transport: str, batch: str, checks: list[OutputCheck], merged: float | None = None
) -> Row:
    outputs = [merge([c for c in checks if c.output == name]) for name in dict.fromkeys(c.output for c in checks)]
    failed = [check for check in outputs if not check.passed]
    reason = "; ".join(f"{check.output}: {check.reason}" for check in failed)
    if not failed and merged is not None:
        reason = (
            f"{merged:.1f} samples per execution"
            if merged > 1
            else "the server merged nothing, so requests could not be mixed up"
        )
    relative, cosine = max(check.relative for check in outputs), min(check.cosine for check in outputs)
    verdict = WRONG if failed else OK
    return Row(
        version.model,
        version.version,
        transport,
        batch,
        outputs[0].samples,
        relative,
        cosine,
        verdict,
        reason,
        version.weights,
        merged,
    )
