"""Does one client give right answers when threads and forked children use it at once.

In      the published model digits.
Out     a table and benchmarks/results/shared_client.json; ``--check`` exits 1 where an answer is wrong, an error escapes, a child hangs, or
        shared memory is left behind.

Per transport: a client is made and used, its own threads go on using it, and meanwhile children are forked that use it with threads of
their own, all at the same time. Part of the requests were prepared before the fork.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._parts.common import Inputs, serve, stamp  # noqa: E402
from planwright import console  # noqa: E402
from planwright.server_info import ServerInfo  # noqa: E402

MODEL = "digits"
TRANSPORTS = {
    "http": ("http", None),
    "grpc": ("grpc", None),
    "http+shm": ("http", "system"),
    "grpc+shm": ("grpc", "system"),
}


def main(argv: Sequence[str]) -> int:
    """Measure every transport."""
    p = console.Parser(prog="benchmarks/shared_client.py", description=(__doc__ or "").splitlines()[0])
    p.add_argument("--children", type=int, default=20, help="forked per transport (default: %(default)s)")
    p.add_argument("--threads", type=int, default=8, help="per process (default: %(default)s)")
    p.add_argument("--requests", type=int, default=500, help="per thread (default: %(default)s)")
    p.add_argument(
        "--limit-s", type=float, default=900.0, help="a child hangs that needs longer (default: %(default)g)"
    )
    p.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    p.add_argument("--check", action="store_true", help="exit 1 where anything is not right")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.require()
    counts = {"children": args.children, "threads": args.threads, "requests": args.requests, "limit_s": args.limit_s}
    with serve(args.repository) as server:
        rows = [measure(server, args.repository, name, counts) for name in TRANSPORTS]
    console.table(
        f"one client, {args.children} forked children and the parent, {args.threads} threads each",
        ["transport", "requests", "right", "wrong", "errors", "hung", "regions left", "seconds", ""],
        [[*(row[k] for k in ("transport", "requests", "right", "wrong", "errors", "hung", "regions_left", "seconds")),
          "met" if row["met"] else "MISSED"] for row in rows],
    )  # fmt: skip
    met = all(row["met"] for row in rows)
    value = {**stamp(), "model": MODEL, **counts, "met": met, "rows": rows}
    return inputs.conclude("shared_client", value, met=met, check=args.check)


def measure(server: ServerInfo, repository: Path, transport: str, counts: dict[str, Any]) -> dict[str, Any]:
    """Return what one client's answers were like over one transport."""
    protocol, memory = TRANSPORTS[transport]
    url = server.grpc_url if protocol == "grpc" else server.http_url
    options = {"url": url, "protocol": protocol, "shared_memory": memory}
    job = {"model": MODEL, "repository": str(repository), "options": options, **counts}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._parts.burst", json.dumps(job)], cwd=ROOT, capture_output=True, text=True
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return judged(transport, found, counts, done.stderr, round(time.monotonic() - began, 1), left(server))


def judged(
    transport: str, found: dict[str, int], counts: dict[str, Any], said: str, seconds: float, regions_left: int
) -> dict[str, Any]:
    """Return a row of the record; every request and every child must be accounted for."""
    requests = (counts["children"] + 1) * counts["threads"] * counts["requests"]
    right, wrong = found.pop("right", 0), found.pop("WRONG", 0)
    ended, last = found.pop("children ended", 0), found.pop("right at the end", 0)
    hung = found.pop("hung threads", 0) + counts["children"] - ended
    errors = requests - right - wrong
    met = right == requests and not hung and last == 2 and not regions_left
    return {
        "transport": transport, "requests": requests, "right": right, "wrong": wrong, "errors": errors, "hung": hung,
        "regions_left": regions_left, "seconds": seconds, "met": met, "texts": {**found, **({said[-500:]: 1} if said else {})},
    }  # fmt: skip


def left(server: ServerInfo) -> int:
    """Return how many regions of clients the server still has."""
    import tritonclient.http as httpclient

    client = httpclient.InferenceServerClient(server.http_url)
    try:
        return len(client.get_system_shared_memory_status())
    finally:
        client.close()


if __name__ == "__main__":
    console.run(main)
