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

from benchmarks._h100 import table as h100
from benchmarks._parts.common import ratio_words, read_record
from benchmarks._parts.markdown import met, section, spread, table, when

INTRO = """\
# Benchmarks

Each figure is a ratio of two sides measured in one run, interleaved round by round, by a script that anyone can run. The records
are in `benchmarks/results/`; this page is made from them by `python benchmarks/table.py > docs/benchmarks.md`. A script that lacks a
model or a tool names it, fails `--check` and leaves its record unchanged.
"""


def page() -> str:
    found = (
        _from_records(_embedded, "embedded"),
        _from_records(_honesty, "load_honesty"),
        _from_records(_client, "load_client"),
        _from_records(_answers, "load_answers"),
        _from_records(_shared, "shared_client"),
        _from_records(_soak, "load_soak"),
        _from_records(_tune, "tune"),
        _from_records(_same, "tune_aa"),
        _from_records(_kill, "kill_builds"),
        _from_records(_trial, "trial_load"),
        _from_records(h100.overview, *(f"h100_{step}" for step in ("build", "engine", "served", "cache", "clients", "wrong"))),
        _from_records(h100.other_ways, "h100_routes", "h100_torch", "h100_search"),
        _from_records(h100.tuned, "h100_exhaustive", "h100_bench_tune_exhaustive_resnet50_fp16", "h100_tune", "h100_pair"),
        _from_records(h100.graphs, "h100_graphs"),
    )  # fmt: skip
    return INTRO + "\n".join("\n".join(["", *lines]) for lines in found if lines) + "\n"


def _from_records(make: Callable[..., list[str]], *names: str) -> list[str]:
    """Return the section of records; nothing where one was not measured yet."""
    try:
        records = [read_record(name) for name in names]
    except FileNotFoundError:
        return []
    return make(*records)


def _embedded(record: dict[str, Any]) -> list[str]:
    rows = [(r["what"], *spread(r), f"{r['sign']} {r['target']:g}", r["detail"]) for r in record["rows"]]
    return section(
        "The embedded server",
        f"`python benchmarks/embedded.py`: one thread on each side; {record['pinning']}.",
        table("what | median: | range over rounds: | target: | absolute", rows),
        f"{record['rounds']} rounds, {when(record)}.",
    )


def _honesty(record: dict[str, Any]) -> list[str]:
    names = ("our open loop", "MLPerf LoadGen", "simulated truth", "our closed loop")
    rows = []
    for side, name in zip(("ours", "loadgen", "truth", "closed"), names, strict=True):
        found = [r[side] if side == "truth" else r[side]["latency_us"] for r in record["rounds"]]
        figures = [[f"{each[p] / 1e3:.1f}" for each in found] for p in ("p50", "p90", "p99", "p99.9")]
        rows.append([name, *map(" / ".join, figures)])
    compared = [(f["what"], *spread(f, 4), f"within {f['off']:.1%}", met(f)) for f in record["figures"]]
    return section(
        "A stall, as seen by open and closed loops",
        f"`python benchmarks/load_honesty.py`: digits over HTTP at {record['rate']:g} requests per second behind a proxy that stalls for "
        f"{record['stall_s']:g} s every\n{record['period_s']:g} s. Milliseconds, one number per round. "
        "The closed loop sends nothing during a stall, so it hardly sees it.",
        table("side | p50: | p90: | p99: | p99.9:", rows),
        table("what | median: | range over rounds: | target: | result", compared),
        f"{when(record)}.",
    )


def _client(record: dict[str, Any]) -> list[str]:
    targets = [("–", "–") if r["target"] is None else (f">= {r['target']:g}", met(r)) for r in record["rows"]]
    rows = [(r["what"], *spread(r), *target) for r, target in zip(record["rows"], targets, strict=True)]
    pinned = "server and client on one core each" if record["pinned"] else "not pinned"
    return section(
        "The load generator itself",
        "`python benchmarks/load_client.py`: our scenario, perf_analyzer and a locust user around tritonclient's own `infer`, interleaved; "
        f"{pinned},\n{record['users']} requests in flight.",
        table("what | median: | range over rounds: | target: | result", rows),
        f"{len(record['rounds'])} rounds, {when(record)}.",
    )


def _answers(record: dict[str, Any]) -> list[str]:
    healthy, swapped = record["runs"]["healthy"], record["runs"]["swapped"]
    total = {key: sum(run[key] for run in healthy) for key in ("requests", "checked")}
    shares = [run["wrong"] / max(run["checked"], 1) for run in swapped]
    return section(
        "Swapped answers",
        f"`python benchmarks/load_answers.py`: runs of the demo's length ({' '.join(record['load'])}). Of {len(healthy)} on a healthy server "
        f"({total['requests']} requests,\n{total['checked']} answers checked) {record['accused']} reported an error. Of {len(swapped)} on a server "
        f"whose digits swaps the answers of requests\nthat it merges, {record['caught']} were caught: "
        f"{min(shares):.1%} to {max(shares):.1%} of the checked answers were wrong.",
        f"{when(record)}.",
    )


def _shared(record: dict[str, Any]) -> list[str]:
    counts = ("transport", "requests", "right", "wrong", "errors", "hung", "regions_left")
    return section(
        "One client, many threads and forked children",
        f"`python benchmarks/shared_client.py`: one client of {record['model']} per transport, used at once by its own process and\n"
        f"{record['children']} forked children with {record['threads']} threads each, {record['requests']} requests per thread, "
        "a third of them prepared before the fork.",
        table(
            "transport | requests: | right: | wrong: | errors: | hung: | regions left: | seconds:",
            [(*(row[name] for name in counts), f"{row['seconds']:.0f}") for row in record["rows"]],
        ),
        f"{when(record)}.",
    )


def _soak(record: dict[str, Any]) -> list[str]:
    peaks = ", ".join(f"{peak / (1 << 20):.1f}" for peak in record["quarter_peaks_bytes"])
    return section(
        "An hour of load",
        f"`python benchmarks/load_soak.py`: digits over HTTP, an open loop of {record['rate']:g} requests per second for {record['duration_s']} s,\n"
        f"every tenth answer checked. {record['requests']} requests, {record['failures']} failed, {record['checked']} checked, "
        f"{record['wrong']} wrong.\nPeak memory of locust in each quarter, MiB: {peaks}.",
        f"{when(record)}.",
    )


def _tune(record: dict[str, Any]) -> list[str]:
    sides = {
        "over_best": ("pick", "best"),
        "over_default": ("pick", "default"),
        "best_over_default": ("best", "default"),
    }

    def cells(row: dict[str, Any]) -> list[str]:
        same = [len({row["labels"][side] for side in pair}) == 1 for pair in sides.values()]
        return ["the same" if equal else ratio_words(row[name]) for name, equal in zip(sides, same, strict=True)]

    rows = [
        (r["model"], r["slo"], r["points"], f"{r['took_s'] / 60:.1f}", r["rounds"], *cells(r), r["labels"]["pick"])
        for r in record["rows"]
    ]
    ratios = "pick / best: | pick / defaults: | best / defaults:"
    missed = [f"{r['model']}: {name}" for r in record["rows"] for name, met in r["targets"].items() if not met]
    return section(
        "tune against an exhaustive search",
        "`python benchmarks/tune.py`: every setting of a grid is measured and stored; tune chooses in at most 12 points and 5 minutes; then its "
        "pick,\nthe best of the grid and Triton's defaults are measured again, interleaved. Ratios with their 95% intervals; "
        "'the same' is one setting.",
        table(f"model | SLO | points: | minutes: | rounds: | {ratios} | pick", rows),
        f"Targets missed: {'; '.join(missed) or 'none'}. {when(record)}.",
    )


def _same(record: dict[str, Any]) -> list[str]:
    return section(
        "A setting against itself",
        f"`python benchmarks/tune.py --aa`: {len(record['verdicts'])} comparisons of {record['model']} with itself, three measurements a side: "
        f"{record['gains']} reported\na gain, {record['losses']} a loss.",
        f"{when(record)}.",
    )


def _kill(record: dict[str, Any]) -> list[str]:
    outcomes = "; ".join(f"{name} {count}" for name, count in sorted(record["outcomes"].items()))
    return section(
        "Killed builds",
        f"`python benchmarks/kill_builds.py`: {record['builds']} builds killed with SIGKILL at random moments; after each, the published\n"
        "files are compared with their hashes and a running tritonserver loads them and answers the golden samples.",
        f"Faults: {len(record['faults']) or 'none'}. Moments: {outcomes}. {when(record)}.",
    )


def _trial(record: dict[str, Any]) -> list[str]:
    rows = [
        (r["what"], *spread(r), "–" if r["target"] is None else f"≤ {r['target']:g}", r["detail"] or "–")
        for r in record["rows"]
    ]
    return section(
        "The trial load and the hash check",
        "`python benchmarks/trial_load.py`: minilm built from scratch with and without the trial load; a server started on ten models of\n"
        "20 MB with cached hashes, without any, and with `--trust-repository`; interleaved.",
        table("what | median: | range over rounds: | target: | absolute", rows),
        f"{record['builds']} builds and {record['starts']} starts of each, {when(record)}.",
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description="Print docs/benchmarks.md from the records.").parse_args()
    sys.stdout.write(page())
