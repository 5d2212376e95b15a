"""validate: check that a server's answers are the golden ones.

In      a running server, the golden samples of its repository.
Out     one `ValidationRow` per model, version, transport and batch size; a table and summaries of them.

Every golden sample goes through every transport at batch 1, mid and max, and each answer is compared with that of its own sample, so that an
answer that depends on its neighbours or changes places with one shows. Then single samples are sent at once over several connections, so that
the server's own batcher merges them and an answer that reaches the wrong request shows; that row is named ``in flight``, and states when nothing
was merged, because then it has proved less.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from planwright import console
from planwright.compare import OutputCheck, compare, failed, merge
from planwright.golden import Golden, Group
from planwright.tensors import Arrays, add_batch_axis, first_sample

from . import published
from .addresses import Addresses
from .errors import ClientError, ConnectionFailed, InvalidRequest, SharedMemoryUnavailable
from .model import TritonModel
from .options import TRANSPORTS, Protocol
from .published import PublishedVersion
from .request import ModelInfo
from .shared_memory.system import uses_shared_memory

IN_FLIGHT = 8  # connections at once; the batcher merges requests that wait together
ROUNDS = 3  # how often each sends its samples
OK, WRONG, FAILED, SKIPPED = "ok", "WRONG", "FAILED", "skipped"
COLUMNS = ("model", "version", "transport", "batch", "samples", "relative error", "cosine", "verdict", "reason")


@dataclass(frozen=True)
class ValidationRow:
    """The result of one batch size over one transport.

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
    batch: str = "-"
    samples: int = 0
    relative: float | None = None
    cosine: float | None = None
    verdict: str = FAILED
    reason: str = ""
    weights: str = "real"
    merged: float | None = None

    @property
    def bad(self) -> bool:
        """True where the row counts as a failure."""
        return self.verdict in (WRONG, FAILED)

    @property
    def stage(self) -> tuple[str, str, str]:
        """Model, version and transport: what a line of the table stands for."""
        return self.model, self.version, self.transport

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


def validate(
    folder: Path,
    names: list[str],
    transports: list[str],
    where: Addresses,
    batches: Sequence[str] = (),
    *,
    trust: bool = False,
) -> Iterator[ValidationRow]:
    """Check models one after the other, yielding rows as they are known.

    Args:
        folder: The model repository.
        names: Published models.
        transports: Some of `TRANSPORTS`.
        where: Addresses of the server.
        batches: Only these batch sizes, each a number or ``max``, and no requests in flight together; all when empty.
        trust: Do not compare the repository's files with their published hashes.

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
            yield ValidationRow(name, "-", "files" if damage else protocol, reason=_reason(damage or error))
            continue
        for number in versions:
            found = _load(folder, name, number, trust=trust)
            if isinstance(found, ValidationRow):
                yield found
                continue
            for transport in transports:
                yield from _TransportCheck(*found, transport, where).rows(batches)


def _damage(folder: Path, name: str) -> InvalidRequest | None:
    """Return why `python -m serving` does not serve a published model, where its files are the reason."""
    try:
        published.require_whole(folder, name)
    except InvalidRequest as error:
        return error
    return None


def _load(folder: Path, name: str, number: str, *, trust: bool) -> tuple[PublishedVersion, Golden] | ValidationRow:
    """Return a version and its golden samples, or the row that says why they cannot be used."""
    stage = "files"
    try:
        version = published.version(folder, name, number)
        if not trust:
            published.require_whole(folder, name, [number])
        stage = "golden"
        golden = version.golden()
        expected, tolerances = _output_names(golden), set(version.tolerances)
        if not expected or not expected <= tolerances:
            why = f"golden.npz has answers for {sorted(expected)}, build.json tolerances for {sorted(tolerances)}"
            raise InvalidRequest(published.damaged(version, why))
    except InvalidRequest as error:
        return ValidationRow(name, number, stage, reason=_reason(error))
    return version, golden


def _reason(error: ClientError) -> str:
    return f"{error.faults[0].what}: {error.faults[0].why}"


def _output_names(golden: Golden) -> set[str]:
    return {name for group in golden.groups for name in group.outputs}


@dataclass(frozen=True)
class _TransportCheck:
    """Checks a version's golden samples over one transport."""

    version: PublishedVersion
    golden: Golden
    transport: str
    where: Addresses

    def connect(self) -> TritonModel:
        protocol: Protocol = "grpc" if self.transport == "grpc" else "http"
        return TritonModel(self.version.model, self.where.grpc if protocol == "grpc" else self.where.http, protocol=protocol,
                           shared_memory=TRANSPORTS[self.transport], version=self.version.version, allow_nan=True)  # fmt: skip

    def rows(self, batches: Sequence[str]) -> Iterator[ValidationRow]:
        """Yield the rows of all batch sizes; an error of the server ends them with a row."""
        try:
            yield from self._answered(batches)
        except SharedMemoryUnavailable as error:
            yield self._row(SKIPPED, _reason(error))
        except ClientError as error:
            if isinstance(error, ConnectionFailed):
                self._raise_if_gone(error)
            yield self._row(FAILED, _reason(error))

    def _raise_if_gone(self, error: ConnectionFailed) -> None:
        """Raise `error` if the server went away, not only this transport: then HTTP does not answer either."""
        try:
            with TritonModel(self.version.model, self.where.http) as model:
                model.versions()
        except ConnectionFailed:
            raise error from None
        except ClientError:
            return

    def _row(self, verdict: str, reason: str, batch: str = "-", **figures: Any) -> ValidationRow:
        version = self.version
        return ValidationRow(version.model, version.version, self.transport, batch, verdict=verdict, reason=reason,
                             weights=version.weights, **figures)  # fmt: skip

    def _answered(self, batches: Sequence[str]) -> Iterator[ValidationRow]:
        groups = self.golden.groups
        with self.connect() as model:
            info = model.info
            self._check_outputs(info)
            if TRANSPORTS[self.transport] and not any(uses_shared_memory(info, group.inputs) for group in groups):
                yield self._row(SKIPPED, "no tensor of the model goes through shared memory")
                return
            for size in batch_sizes(info, batches):
                yield self._batch_row(model, size)
            if batches or not info.max_batch_size:
                return
            before = model.statistics()
            count = min(IN_FLIGHT, info.queue or IN_FLIGHT)
            checks = self._in_flight(count)
            merged = _mean_batch(before, model.statistics())
        yield self._compared_row(f"{count} in flight", checks, merged)

    def _check_outputs(self, info: ModelInfo) -> None:
        expected, served = _output_names(self.golden), {tensor.name for tensor in info.outputs}
        if not expected <= served:
            why = f"golden.npz has answers for {sorted(expected)}, the server outputs {sorted(served)}"
            raise InvalidRequest(published.damaged(self.version, why))

    def _batch_row(self, model: TritonModel, size: int) -> ValidationRow:
        info = model.info
        if size > info.limit:
            reason = f"the model takes at most {console.many(info.limit, 'sample')} per request"
            return self._row(SKIPPED, reason, str(size))
        checks: list[OutputCheck] = []
        for group in self.golden.batches(size or 1):
            answers = model.standalone().infer_batch(sample_inputs(info, group))
            checks += check_answers(group, answers if info.batches else add_batch_axis(answers), self.version)
        return self._compared_row(str(size) if size else "whole", checks)

    def _compared_row(self, batch: str, checks: list[OutputCheck], merged: float | None = None) -> ValidationRow:
        outputs = [merge([c for c in checks if c.output == name]) for name in dict.fromkeys(c.output for c in checks)]
        wrong = [check for check in outputs if not check.passed]
        reason = "; ".join(f"{check.output}: {check.reason}" for check in wrong)
        if not wrong and merged is not None:
            reason = f"{merged:.1f} samples per execution"
            if merged <= 1:
                reason = "the server merged nothing, so requests could not be mixed up"
        relative, cosine = max(check.relative for check in outputs), min(check.cosine for check in outputs)
        return self._row(WRONG if wrong else OK, reason, batch, samples=outputs[0].samples, relative=relative,
                         cosine=cosine, merged=merged)  # fmt: skip

    def _in_flight(self, count: int) -> list[OutputCheck]:
        """Send single samples over `count` connections at once; answers are compared afterwards, so that this delays no request."""
        samples = list(self.golden.samples())
        start = threading.Barrier(count)

        def worker(offset: int) -> list[OutputCheck]:
            try:
                with self.connect() as model:
                    mine = [samples[i % len(samples)] for i in range(offset, max(len(samples), count), count)]
                    requests = [(group, model.standalone().prepare(group.inputs)) for group in mine]
                    start.wait(60)
                    answers = [(group, request.infer()) for _ in range(ROUNDS) for group, request in requests]
            except BaseException:
                start.abort()  # the others would wait for a connection that never comes
                raise
            return [check for group, answer in answers for check in check_answers(group, answer, self.version)]

        with ThreadPoolExecutor(count) as pool:
            return _gather([pool.submit(worker, offset) for offset in range(count)])


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


def check_answers(group: Group, answers: Arrays, version: PublishedVersion) -> list[OutputCheck]:
    """Compare the answers to one batch of golden samples, ``(samples, ...)`` each, with the expected ones."""
    tolerances = version.tolerances
    return [
        compare(name, expected, answers[name], tolerances[name])
        if name in answers
        else failed(name, len(expected), "the server left it out")
        for name, expected in group.outputs.items()
    ]


def _gather(futures: list[Future[list[OutputCheck]]]) -> list[OutputCheck]:
    """Return all checks; of several errors raise the cause, not the barrier that broke because of it."""
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error
    return [check for future in futures for check in future.result()]


def _mean_batch(before: dict[str, int], after: dict[str, int]) -> float | None:
    executions = after["execution_count"] - before["execution_count"]
    return (after["inference_count"] - before["inference_count"]) / executions if executions > 0 else None


def condensed(rows: Iterable[ValidationRow]) -> list[ValidationRow]:
    """Fold the rows of each model, version and transport into one with the worst figures, unless one of them is not ok.

    A healthy repository of ten models has over a hundred rows.
    """
    found: list[ValidationRow] = []
    for _, group in groupby(rows, lambda row: row.stage):
        members = list(group)
        found += [_worst(members)] if all(row.verdict == OK for row in members) else members
    return found


def _worst(rows: Sequence[ValidationRow]) -> ValidationRow:
    return ValidationRow(
        *rows[0].stage, ", ".join(row.batch for row in rows), sum(row.samples for row in rows),
        max(row.relative or 0.0 for row in rows), min(1.0 if row.cosine is None else row.cosine for row in rows), OK,
        "; ".join(row.reason for row in rows if row.reason), rows[0].weights,
    )  # fmt: skip


def show(rows: Iterable[ValidationRow], *, verbose: bool) -> None:
    """Print the table; `verbose` for a line per row."""
    console.table("golden answers", COLUMNS, [_cells(row) for row in (rows if verbose else condensed(rows))])


def _cells(row: ValidationRow) -> tuple[object, ...]:
    model = row.model + (" (random weights)" if row.weights == "random" else "")
    relative = "-" if row.relative is None else f"{row.relative:.2g}"
    cosine = "-" if row.cosine is None else f"{row.cosine:.6f}"
    return (model, row.version, row.transport, row.batch, row.samples, relative, cosine, row.verdict, row.reason)


def first_failures(rows: Iterable[ValidationRow]) -> list[ValidationRow]:
    """Return the first bad row of each model that has one."""
    first: dict[str, ValidationRow] = {}
    for row in rows:
        if row.bad:
            first.setdefault(row.model, row)
    return list(first.values())


def summaries(rows: Sequence[ValidationRow]) -> list[dict[str, object]]:
    """Return one entry per model: which versions were served, with which weights, and the first failing stage."""
    failing = {row.model: row.transport for row in first_failures(rows)}
    found: list[dict[str, object]] = []
    for name in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == name]
        found.append(
            {
                "model": name,
                "versions": list(dict.fromkeys(row.version for row in own)),
                "weights": own[0].weights,
                "failures": sum(row.bad for row in own),
                "skipped": list(dict.fromkeys(row.transport for row in own if row.verdict == SKIPPED)),
                "first_failing_stage": failing.get(name),
            }
        )
    return found
