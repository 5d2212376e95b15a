"""Decide whether a run passed, failed or is inconclusive.

In      report.json's value before its verdict, what ended the run.
Out     ``verdict``: pass, fail or inconclusive, with reasons; the loud one first.

Failures: the server gone, wrong or failed or unanswered requests, an SLO missed, requests that were due and never sent.
Inconclusive: a chosen model or transport that got no request, the client as the limit, sends that were late by the client's own
fault, counters of the server that disagree, a rate that was not offered, windows that differ, checking that cost too much, too few
requests for a 99th percentile.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from measure.record.answer_checks import LIMIT
from measure.report.schema import ClientFigures, ModelFigures, RunReport, Second, Verdict, Windows
from planwright.decimals import exact

ENOUGH_FOR_P99 = 100  # below this a 99th percentile is one sample
BUSY = 0.9  # share of a core from which the client itself may be what is measured
SERVER_BUSY = 0.9  # share of its instances' time from which the server is the limit, however busy the client
LATE_SHARE, LATE_US = 0.1, 1000.0  # lateness of the median send: of the median latency, and at least a millisecond
RATE_OFF = 0.005  # offered against configured
STABLE, WINDOWS = 0.1, 3  # perf_analyzer's rule: three windows within 10%
LEAST_WINDOW_S = 3
LOUD = "THE CLIENT IS THE LIMIT"


def verdict(report: RunReport, *, stopped_by: str, lost_server: bool, steady: bool) -> Verdict:
    failures = [stopped_by] if stopped_by else []
    if lost_server:
        failures.append("the server did not answer at the end of the run")
    for row in report.models:
        failures += _failures(row)
    if report.load.unsent:
        failures.append(
            f"{report.load.unsent} of {report.load.due} requests were never sent, even after the load ended: the "
            "server does not keep up with this rate, or there are too few connections (--users)"
        )
    uncertain = [*_client(report), *_counted(report), *_offered(report), *_checking(report.client)]
    for row in report.models:
        if row.measured < ENOUGH_FOR_P99:
            uncertain.append(f"{row.name}: {row.measured} requests after the warm-up are too few for a 99th percentile")
        uncertain += _unstable(row) if steady else []
    uncertain += _not_requested(report) if report.models else ["nothing was measured"]
    reasons = [*failures, *uncertain]
    return Verdict(status="fail" if failures else "inconclusive" if uncertain else "pass", reasons=reasons)


def passed(report: RunReport) -> str:
    """Return what a run that passed has shown, and for which models."""
    checked = sum(row.checked for row in report.models)
    limits = {row.model: bool(row.slo) for row in report.models}
    having, lacking = ([name for name, has in limits.items() if has is given] for given in (True, False))
    parts = [
        "no request failed",
        f"none of {checked} checked answers is wrong" if checked else "no answer was checked",
        f"the SLO of {', '.join(having)} is met" if having else "",
        f"{', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no SLO" if lacking else "",
        "the server's counters are not known" if report.server_note else "",
    ]
    return ", ".join(filter(None, parts))


def _failures(row: ModelFigures) -> Iterator[str]:
    name, p99_ms, limit_ms = row.name, row.latency_us.p99 / 1000, row.slo.get("p99_ms")
    if row.wrong:
        yield f"{name}: {row.wrong} of {row.checked} checked answers are wrong"
    if row.failures > row.wrong:
        yield f"{name}: {row.failures - row.wrong} of {row.requests} requests failed"
    if row.unanswered:
        yield f"{name}: {row.unanswered} requests were never answered"
    if limit_ms is not None and row.measured and p99_ms > limit_ms:
        yield f"{name}: p99 is {p99_ms:.2f} ms, the SLO is {exact(limit_ms)} ms"


def _not_requested(report: RunReport) -> Iterator[str]:
    """Name the models, the transports, and the pairs of both that were to be covered and got no request."""
    pairs = [tuple(pair) for pair in report.not_requested]
    models, transports = ({getattr(row, key) for row in report.models} for key in ("model", "protocol"))
    for model in dict.fromkeys(model for model, _ in pairs if model not in models):
        yield f"{model} got no request: run longer, or leave it out of PLANWRIGHT_MODELS"
    for transport in dict.fromkeys(transport for _, transport in pairs if transport not in transports):
        yield f"nothing was sent over {transport}: add users (--users), or choose transports with --tags"
    for model, transport in pairs:
        if model in models and transport in transports:
            yield f"{model} got no request over {transport}: run longer, or add users (--users)"


def _client(report: RunReport) -> Iterator[str]:
    client, load = report.client, report.load
    server_busy = max((row.busy_share for row in report.server.values()), default=None)
    if client.cpu_share > BUSY and server_busy is None:
        yield (
            f"{LOUD}, or the server is: the client used {client.cpu_share:.0%} of a core, and server utilization is unknown; "
            "use locust --processes, or read the rates as a lower bound"
        )
    elif client.cpu_share > BUSY and (server_busy or 0.0) < SERVER_BUSY:
        yield (
            f"{LOUD}: it used {client.cpu_share:.0%} of a core while the server's instances computed {server_busy:.0%} of the "
            "time; use locust --processes, or read the rates as a lower bound"
        )
    service_us = statistics.fmean([row.service_us.p50 for row in report.models] or [0.0])
    late_us = load.late_us.p50
    if late_us > max(LATE_US, LATE_SHARE * service_us):
        yield f"{LOUD}: half of its requests went out more than {late_us / 1000:.1f} ms late, though connections were free"


def _counted(report: RunReport) -> Iterator[str]:
    for model, server in report.server.items():
        rows = [row for row in report.models if row.model == model]
        ours, theirs = sum(row.requests - row.failures + row.wrong for row in rows), server.requests
        # the server may have counted a request that was cut off, or that failed for the client
        unknown = sum(row.unanswered + row.cancelled + row.failures - row.wrong for row in rows)
        changes = ", ".join(server.changes)
        if rows and changes:
            yield f"{model}: {changes} during the run: its figures are not of one version alone"
        if rows and theirs > ours + unknown:
            yield f"{model}: the server counted {theirs} answers, the client {ours}: is another client sending requests?"
        elif rows and theirs < ours and not changes:
            yield (
                f"{model}: the server counted {theirs} answers, the client {ours}: "
                "was the model reloaded, or is this one of several servers behind a load balancer?"
            )


def _offered(report: RunReport) -> Iterator[str]:
    load, due = report.load, max(report.load.due, 1)
    configured, offered = load.asked_per_s, load.offered_per_s
    scatter = 3 / math.sqrt(due) if load.arrivals == "poisson" else 0.0  # three standard deviations
    # each process may have one more request, or one less, at the edges of its run
    edge = report.client.processes / due
    if configured and abs(offered / configured - 1) > max(RATE_OFF, scatter, edge):
        yield f"{offered:.1f} requests per second were offered, {configured:.1f} were configured"


def _checking(client: ClientFigures) -> Iterator[str]:
    checking = client.checking
    if checking.automatic:
        # the budget is kept, but for a few first answers: these matter by what they take of a core
        if checking.high * client.cpu_share > LIMIT:
            yield (
                f"checking {checking.count} answers took up to {checking.high * client.cpu_share:.1%} of a core, more than "
                f"{LIMIT:.0%}, because the answers are large: run longer"
            )
    elif checking.high > LIMIT:
        yield (
            f"checking answers cost the client {checking.share:.1%} of its CPU time (up to {checking.high:.1%}), more than "
            f"{LIMIT:.0%}: lower PLANWRIGHT_CHECK, or leave it out"
        )


def _unstable(row: ModelFigures) -> Iterator[str]:
    windows = row.stability
    if windows is not None and not windows.stable:
        rates, medians_us = windows.answers_per_s, windows.p50_us
        parts = [] if _close(rates) else [f"{', '.join(f'{rate:.1f}' for rate in rates)} answers/s"]
        parts += [] if _close(medians_us) else [f"p50 {', '.join(f'{us / 1000:.2f}' for us in medians_us)} ms"]
        yield f"{row.name}: the last {WINDOWS} windows differ by more than {STABLE:.0%}: {'; '.join(parts)}; run longer"


def stability(series: Sequence[Second], warmup_s: float, end_s: float = math.inf) -> Windows | None:
    """Compare the last three windows; None where the run is too short for windows of three seconds.

    Only rows that lie between the end of the warm-up and the end of the load count, and not the first, in which users connect.
    """
    rows = [row for row in series[1:] if warmup_s <= row.t_s and row.t_s + row.width_s <= end_s]
    size = len(rows) // WINDOWS
    if not rows or size * rows[0].width_s < LEAST_WINDOW_S:
        return None
    rows = rows[len(rows) - size * WINDOWS :]
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    rates = [sum(row.answers for row in part) / sum(row.width_s for row in part) for part in parts]
    medians = [statistics.fmean(row.p50_us for row in part) for part in parts]
    return Windows(stable=_close(rates) and _close(medians), answers_per_s=rates, p50_us=medians)


def _close(values: Sequence[float]) -> bool:
    mean = statistics.fmean(values)
    return bool(mean) and max(abs(value / mean - 1) for value in values) <= STABLE
