"""Whether one client gives right answers when threads and forked children use it at once.

In      the published model digits.
Out     a table and benchmarks/results/shared_client.json; ``--check`` exits 1 where an answer is wrong, an unexpected error occurs, a child hangs,
        or shared memory is left behind.

Per transport: a client is created and used, its own threads keep using it, and meanwhile children are forked that use it with threads of
their own, all at the same time. A third of the requests were prepared before the fork.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._parts.common import Inputs, parser, run_module, serve, stamp, verdict
from planwright import console
from planwright.server_info import ServerInfo

MODEL = "digits"
WAYS = {"http": ("http", None), "grpc": ("grpc", None), "http+shm": ("http", "system"), "grpc+shm": ("grpc", "system")}


def main(argv: Sequence[str]) -> int:
    p = parser(__doc__, check="exit 1 where anything went wrong")
    p.add_argument("--children", type=int, default=20, help="forked per transport (default: %(default)s)")
    p.add_argument("--threads", type=int, default=8, help="per process (default: %(default)s)")
    p.add_argument("--requests", type=int, default=500, help="per thread (default: %(default)s)")
    p.add_argument("--limit-s", type=float, default=900.0, help="when a child counts as hung (default: %(default)g)")
    args = p.parse_args(argv)
    inputs = Inputs()
    inputs.models(args.repository, MODEL)
    inputs.require()
    counts = {"children": args.children, "threads": args.threads, "requests": args.requests, "limit_s": args.limit_s}
    with serve(args.repository) as server:
        rows = [measure(server, args.repository, name, counts) for name in WAYS]
    console.table(
        f"one client, {args.children} forked children and the parent, {args.threads} threads each",
        ["transport", "requests", "right", "wrong", "errors", "hung", "regions left", "seconds", ""],
        [[*(row[k] for k in ("transport", "requests", "right", "wrong", "errors", "hung", "regions_left", "seconds")),
          verdict(row["met"])] for row in rows],
    )  # fmt: skip
    met = all(row["met"] for row in rows)
    value = {**stamp(), "model": MODEL, **counts, "met": met, "rows": rows}
    return inputs.conclude("shared_client", value, met=met, check=args.check)


def measure(server: ServerInfo, repository: Path, transport: str, counts: dict[str, Any]) -> dict[str, Any]:
    protocol, memory = WAYS[transport]
    url = server.grpc_url if protocol == "grpc" else server.http_url
    options = {"url": url, "protocol": protocol, "shared_memory": memory}
    job = {"model": MODEL, "repository": str(repository), "options": options, **counts}
    began = time.monotonic()
    done = run_module("benchmarks._parts.burst", json.dumps(job))
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    requests = (counts["children"] + 1) * counts["threads"] * counts["requests"]
    right, wrong = found.pop("right", 0), found.pop("WRONG", 0)
    ended, last = found.pop("children ended", 0), found.pop("right at the end", 0)
    hung, regions_left = found.pop("hung threads", 0) + counts["children"] - ended, left(server)
    return {
        "transport": transport, "requests": requests, "right": right, "wrong": wrong, "errors": requests - right - wrong, "hung": hung,
        "regions_left": regions_left, "seconds": round(time.monotonic() - began, 1),
        "met": right == requests and not hung and last == 2 and not regions_left,
        "texts": {**found, **({done.stderr[-500:]: 1} if done.stderr else {})},
    }  # fmt: skip


def left(server: ServerInfo) -> int:
    """Return how many regions of clients are still registered."""
    import tritonclient.http as httpclient

    client = httpclient.InferenceServerClient(server.http_url)
    try:
        return len(client.get_system_shared_memory_status())
    finally:
        client.close()


if __name__ == "__main__":
    console.run(main)
