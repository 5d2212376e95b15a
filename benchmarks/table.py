"""docs/benchmarks.md from the records: ``python benchmarks/table.py > docs/benchmarks.md``.

In      benchmarks/results/*.json.
Out     Markdown on standard output; a test keeps the page equal to the records.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._common import read_record

INTRO = """\
# Benchmarks

Each figure is a ratio of two sides measured in one run, interleaved round by round, by a script that anyone can run. The records
lie in `benchmarks/results/`; this page is made from them by `python benchmarks/table.py > docs/benchmarks.md`.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([INTRO, *_embedded(read_record("embedded")), "", *_kill(read_record("kill_builds"))]) + "\n"


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


def _where(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("onnxruntime", "tritonclient"))
    return f"{record['cpu']}, {record['cores']} cores, Python {record['python']}, {versions}"


if __name__ == "__main__":
    argparse.ArgumentParser(description="Print docs/benchmarks.md from the records.").parse_args()
    sys.stdout.write(page())
