"""docs/benchmarks.md from the records: ``python benchmarks/table.py > docs/benchmarks.md``.

In      benchmarks/results/*.json.
Out     Markdown on standard output; a test keeps the page equal to the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._h100 import table
from benchmarks._parts.common import ratio_words, read_record

INTRO = """\
# Benchmarks

Each figure is a ratio of two sides measured in one run, interleaved round by round, by a script that anyone can run. The records
lie in `benchmarks/results/`; this page is made from them by `python benchmarks/table.py > docs/benchmarks.md`. A script that lacks a
model or a tool names it, fails `--check` and leaves its record as it was.
"""


def page() -> str:
    """Return the page."""
    made = (
        _section(_embedded, "embedded"),
        _section(_honesty, "load_honesty"),
        _section(_client, "load_client"),
        _section(_answers, "load_answers"),
        _section(_shared, "shared_client"),
        _section(_soak, "load_soak"),
        _section(_tune, "tune"),
        _section(_same, "tune_aa"),
        _section(_kill, "kill_builds"),
        _section(_trial, "trial_load"),
        table.section(),
        _section(table.other_ways, "h100_routes", "h100_torch", "h100_search"),
        _section(table.tuned, "h100_exhaustive", "h100_bench_tune_exhaustive_resnet50_fp16", "h100_tune", "h100_pair"),
        _section(table.graphs, "h100_graphs"),
    )
    parts = [part for part in made if part]
    return INTRO + "\n".join("\n".join(["", *part]) for part in parts) + "\n"


def _section(make: Callable[..., list[str]], *names: str) -> list[str]:
    """Return the section of records; nothing where one was not measured yet."""
    try:
        records = [read_record(name) for name in names]
    except FileNotFoundError:
        return []
    return make(*records)


def _embedded(record: dict[str, Any]) -> list[str]:
    rows = [
        f"| {r['what']} | {r['ratio']:.3f} | {r['low']:.3f} – {r['high']:.3f} | {r['sign']} {r['target']:g} | {r['detail']} |"
        for r in record["rows"]
    ]
    return [
        "## The embedded server",
        "",
        "`python benchmarks/embedded.py`: one thread on each side; " + record["pinning"] + ".",
        "",
        "| what | median | range over rounds | target | absolute |",
        "| --- | ---: | ---: | ---: | --- |",
        *rows,
        "",
        f"{record['rounds']} rounds, {record['created'][:10]}, {_where(record)}.",
    ]


def _honesty(record: dict[str, Any]) -> list[str]:
    sides = {
        "ours": "our open loop",
        "loadgen": "MLPerf LoadGen",
        "truth": "simulated truth",
        "closed": "our closed loop",
    }
    rows = []
    for side, name in sides.items():
        found = [r[side] if side == "truth" else r[side]["latency_us"] for r in record["rounds"]]
        cells = (" / ".join(f"{each[p] / 1e3:.1f}" for each in found) for p in ("p50", "p90", "p99", "p99.9"))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    figures = [
        f"| {f['what']} | {f['ratio']:.4f} | {f['low']:.4f} – {f['high']:.4f} | within {f['off']:.1%} | {'met' if f['met'] else 'missed'} |"
        for f in record["figures"]
    ]
    return [
        "## A stall, seen by open and closed loops",
        "",
        f"`python benchmarks/load_honesty.py`: digits over HTTP at {record['rate']:g} requests per second behind a proxy that stalls for "
        f"{record['stall_s']:g} s every",
        f"{record['period_s']:g} s. Milliseconds, one number per round. The closed loop does not ask during a stall, so it hardly sees it.",
        "",
        "| side | p50 | p90 | p99 | p99.9 |",
        "| --- | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        "| what | median | range over rounds | target | |",
        "| --- | ---: | ---: | ---: | --- |",
        *figures,
        "",
        f"{record['created'][:10]}, {_where(record)}.",
    ]


def _client(record: dict[str, Any]) -> list[str]:
    rows = [
        f"| {r['what']} | {r['ratio']:.3f} | {r['low']:.3f} – {r['high']:.3f} | {_target(r)} |" for r in record["rows"]
    ]
    pinned = "server and client on a core each" if record["pinned"] else "not pinned"
    return [
        "## The load generator itself",
        "",
        f"`python benchmarks/load_client.py`: our scenario, perf_analyzer and a locust user around tritonclient's own `infer`, in turn; {pinned},",
        f"{record['users']} requests in flight.",
        "",
        "| what | median | range over rounds | target | |",
        "| --- | ---: | ---: | ---: | --- |",
        *rows,
        "",
        f"{len(record['rounds'])} rounds, {record['created'][:10]}, {_where(record)}.",
    ]


def _target(row: dict[str, Any]) -> str:
    return " | " if row["target"] is None else f">= {row['target']:g} | {'met' if row['met'] else 'missed'}"


def _answers(record: dict[str, Any]) -> list[str]:
    healthy, swapped = record["runs"]["healthy"], record["runs"]["swapped"]
    total = {key: sum(run[key] for run in healthy) for key in ("requests", "checked")}
    shares = [run["wrong"] / max(run["checked"], 1) for run in swapped]
    return [
        "## Swapped answers",
        "",
        f"`python benchmarks/load_answers.py`: runs of the demo's length ({' '.join(record['load'])}). Of {len(healthy)} on a healthy server "
        f"({total['requests']} requests,",
        f"{total['checked']} answers checked) {record['accused']} were accused. Of {len(swapped)} on a server whose digits swaps the answers of requests",
        f"that it merges, {record['caught']} were caught: {min(shares):.1%} to {max(shares):.1%} of the checked answers were wrong.",
        "",
        f"{record['created'][:10]}, {_where(record)}.",
    ]


def _shared(record: dict[str, Any]) -> list[str]:
    counts = ("requests", "right", "wrong", "errors", "hung", "regions_left")
    rows = [
        f"| {r['transport']} | {' | '.join(str(r[name]) for name in counts)} | {r['seconds']:.0f} |"
        for r in record["rows"]
    ]
    return [
        "## One client, many threads and forked children",
        "",
        f"`python benchmarks/shared_client.py`: one client of {record['model']} per transport, used at once by its own process and",
        f"{record['children']} forked children with {record['threads']} threads each, {record['requests']} requests per thread, "
        "a third of them prepared before the fork.",
        "",
        "| transport | requests | right | wrong | errors | hung | regions left | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        f"{record['created'][:10]}, {_where(record)}.",
    ]


def _soak(record: dict[str, Any]) -> list[str]:
    peaks = ", ".join(f"{peak / (1 << 20):.1f}" for peak in record["quarter_peaks_bytes"])
    return [
        "## An hour of load",
        "",
        f"`python benchmarks/load_soak.py`: digits over HTTP, an open loop of {record['rate']:g} requests per second for {record['duration_s']} s,",
        f"every tenth answer checked. {record['requests']} requests, {record['failures']} failed, {record['checked']} checked, {record['wrong']} wrong.",
        f"Peak memory of locust in each quarter, MiB: {peaks}.",
        "",
        f"{record['created'][:10]}, {_where(record)}.",
    ]


def _tune(record: dict[str, Any]) -> list[str]:
    ratios = {
        "over_best": ("pick", "best"),
        "over_default": ("pick", "default"),
        "best_over_default": ("best", "default"),
    }

    def told(row: dict[str, Any]) -> str:
        labels = row["labels"]
        return " | ".join(
            "the same" if labels[one] == labels[other] else ratio_words(row[name])
            for name, (one, other) in ratios.items()
        )

    rows = [
        f"| {r['model']} | {r['slo']} | {r['points']} | {r['took_s'] / 60:.1f} | {r['rounds']} | {told(r)} | {r['labels']['pick']} |"
        for r in record["rows"]
    ]
    missed = [f"{r['model']}: {name}" for r in record["rows"] for name, met in r["targets"].items() if not met]
    return [
        "## tune against an exhaustive search",
        "",
        "`python benchmarks/tune.py`: every setting of a grid is measured and stored; tune chooses in at most 12 points and 5 minutes; then its pick,",
        "the best of the grid and Triton's defaults are measured anew, interleaved. Ratios with their 95% intervals; 'the same' is one setting.",
        "",
        "| model | SLO | points | minutes | rounds | pick / best | pick / defaults | best / defaults | pick |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *rows,
        "",
        f"Targets missed: {'; '.join(missed) or 'none'}. {record['created'][:10]}, {_where(record)}.",
    ]


def _same(record: dict[str, Any]) -> list[str]:
    return [
        "## A setting against itself",
        "",
        f"`python benchmarks/tune.py --aa`: {len(record['verdicts'])} comparisons of {record['model']} with itself, three measurements a side: "
        f"{record['gains']} said gain,",
        f"{record['losses']} loss.",
        "",
        f"{record['created'][:10]}, {_where(record)}.",
    ]


def _kill(record: dict[str, Any]) -> list[str]:
    outcomes = "; ".join(f"{name} {count}" for name, count in sorted(record["outcomes"].items()))
    faults = "none" if not record["faults"] else f"{len(record['faults'])}"
    return [
        "## Killed builds",
        "",
        f"`python benchmarks/kill_builds.py`: {record['builds']} builds killed with SIGKILL at random moments, and after each the published",
        "files are compared with their hashes and a running tritonserver loads them and answers the golden samples.",
        "",
        f"Faults: {faults}. Moments: {outcomes}. {record['created'][:10]}, {_where(record)}.",
    ]


def _trial(record: dict[str, Any]) -> list[str]:
    rows = [
        f"| {r['what']} | {r['value']:.3f} | {r['low']:.3f} – {r['high']:.3f} | {_limit(r)} | {r['detail']} |"
        for r in record["rows"]
    ]
    return [
        "## The trial load and the check of hashes",
        "",
        "`python benchmarks/trial_load.py`: minilm built from nothing with and without the trial load; a server started on ten models of",
        "20 MB with hashes that it remembers, with none yet, and with `--trust-repository`; in turn.",
        "",
        "| what | median | range over rounds | target | absolute |",
        "| --- | ---: | ---: | ---: | --- |",
        *rows,
        "",
        f"{record['builds']} builds and {record['starts']} starts of each, {record['created'][:10]}, {_where(record)}.",
    ]


def _limit(row: dict[str, Any]) -> str:
    return "" if row["target"] is None else f"≤ {row['target']:g}"


def _where(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("onnxruntime", "tritonclient"))
    return f"{record['cpu']}, {record['cores']} cores, Python {record['python']}, {versions}"


if __name__ == "__main__":
    argparse.ArgumentParser(description="Print docs/benchmarks.md from the records.").parse_args()
    sys.stdout.write(page())
