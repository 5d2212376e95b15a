"""The sections of docs/benchmarks.md that stand on records of h100.py.

In      benchmarks/results/h100_*.json.
Out     Markdown lines.
"""

from __future__ import annotations

from typing import Any

from benchmarks._parts.common import ratio_words, read_record
from measure import statistics


def section() -> list[str]:
    """Return the section made from the records of h100.py."""
    build, engine, served = (read_record(f"h100_{step}") for step in ("build", "engine", "served"))
    cache, clients, wrong = (read_record(f"h100_{step}") for step in ("cache", "clients", "wrong"))
    figures = [figure for record in (build, engine, served, cache) for figure in record["figures"]]
    return [
        "## TensorRT on one H100",
        "",
        "`python benchmarks/h100.py --prepare` where PyTorch is, then `python benchmarks/h100.py` on the GPU machine. ResNet-50 has seeded",
        "random weights and takes uint8 pictures; host copies are on, inputs are fresh random batches, each return value is checked.",
        "",
        "| what | measured | target |",
        "| --- | ---: | ---: |",
        *(f"| {f['what']} | {f['value']:g} | {f['sign']} {f['target']:g} |" for f in figures),
        "",
        *_built(build),
        "",
        *_alone(engine),
        "",
        *_through_triton(served),
        "",
        _loaded(clients),
        "",
        f"Planted faults: {len([row for row in wrong['rows'] if 'fault' in row]) + 2}, each told with its cause; missed: {len(wrong['missed'])}.",
        "",
        f"{_where(engine)}; tritonserver 2.51, perf_analyzer 2.60 on the same cores.",
    ]


def _built(record: dict[str, Any]) -> list[str]:
    rows = []
    for row in record["rows"]:
        realised = row["realised"]
        share = "-" if realised["share"] is None else f"{realised['share']:.0%}"
        rows.append(
            f"| {row['model']} | {realised['verdict']} | {share} | {_proof(row)} | {row['build_seconds']:.0f} |"
        )
    return [
        "What the engines really compute: the share of convolution and matrix time in the asked precision, all time by precision, the worst",
        "cosine to the golden answers. 'opaque' is time in layers that cannot be looked into. Built with a timing cache.",
        "",
        "| model | verdict | asked | time by precision | cosine | score | build s |",
        "| --- | --- | ---: | --- | ---: | --- | ---: |",
        *rows,
    ]


def _alone(record: dict[str, Any]) -> list[str]:
    rows = [
        f"| {r['model']} | {r['batch']} | {r['streams']} | {'yes' if r['graphs'] else 'no'} | {r['samples_per_s']:.0f} | {r['low']:.0f} – {r['high']:.0f} "
        f"| {r['compute_ms']:.3f} | {r['latency_median_ms']:.2f} | {r['gpu_memory_mib']} |"
        for r in record["rows"]
    ]
    return [
        "The engine alone; latency is of one batch with three in flight on each stream. `resnet50_fp16_fixed` has static shapes.",
        "",
        "| engine | batch | streams | CUDA graph | images/s | range | compute ms | p50 ms | GPU MiB |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]


def _through_triton(record: dict[str, Any]) -> list[str]:
    names = {
        "cuda": "CUDA shared memory, batch 64",
        "system": "system shared memory, batch 64",
        "single": "256 single pictures in flight",
    }
    rows = [
        f"| {names[r['case']]} | {r['instances']} | {', '.join(f'{v:.0f}' for v in r['images_per_s'])} | {r['share_of_engine']:.3f} |"
        for r in record["rows"]
        if "case" in r
    ]
    alone = next(r["engine_alone"] for r in record["rows"] if "engine_alone" in r)
    return [
        f"Served by the embedded server with the Python-based backend, beside the engine alone in the same step ({', '.join(f'{v:.0f}' for v in alone)}",
        "images/s at batch 64, one stream):",
        "",
        "| case | instances | images/s, three rounds | of the engine alone |",
        "| --- | ---: | ---: | ---: |",
        *rows,
    ]


def _loaded(record: dict[str, Any]) -> str:
    loads = [row for row in record["rows"] if "load" in row]
    total, checked = (sum(row[key] for row in loads) for key in ("requests", "checked"))
    wrong = sum(row["wrong"] + row["failures"] for row in loads)
    answers = [row for row in record["rows"] if "transport" in row]
    return (
        f"Clients: {len(answers)} checks over http, grpc, system and CUDA shared memory, {sum(row['verdict'] != 'ok' for row in answers)} not ok. "
        f"locust, five models at once: {total} requests, {checked} answers checked, {wrong} wrong or failed."
    )


def other_ways(routes: dict[str, Any], torch: dict[str, Any], search: dict[str, Any]) -> list[str]:
    """Return what other roads into a plan gave, PyTorch beside the plan, and what INT8 must leave high."""
    return [
        "## Other ways, on the same H100",
        "",
        "A network that its source builds with TensorRT's own API, and INT8 with ranges that TensorRT 8.6 finds itself:",
        "",
        "| model | verdict | time by precision | cosine | score |",
        "| --- | --- | --- | ---: | --- |",
        *(_routed(row) for row in routes["rows"]),
        "",
        "ResNet-50 as a plan and in PyTorch, in turn, by `python -m builders bench --torch`: one stream, host copies on, three batches in flight.",
        "`torch.compile` in its default mode, so without CUDA graphs: at batch 1 PyTorch's time goes into launching kernels.",
        "",
        "| engine | precision | batch | samples/s | range | p50 ms |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(_raced(row) for row in torch["rows"]),
        "",
        *(_kept_high(row) for row in search["rows"]),
        "",
        f"{_where(torch)}.",
    ]


def _routed(row: dict[str, Any]) -> str:
    return f"| {row['route']} | {row['realised']['verdict']} | {_proof(row)} |"


def _proof(row: dict[str, Any]) -> str:
    """Return the cells that say what an engine computes and how right it is."""
    by = ", ".join(f"{name} {value:.0%}" for name, value in row["realised"]["by_precision"].items())
    cosine = min(output["cosine"] for output in row["verify"]["outputs"])
    score = ", ".join(f"{name} {value:.4f}" for name, value in row["verify"]["score"].items())
    return f"{by} | {cosine:.6f} | {score}"


def _raced(row: dict[str, Any]) -> str:
    return f"| {row['engine']} | {row['precision']} | {row['batch']} | {row['samples_per_s']:.0f} | {row['range']} | {row['p50_ms']:.2f} |"


def _kept_high(row: dict[str, Any]) -> str:
    engine = row["engine"]
    return (
        f"`python -m builders search {row['search']} --engine` kept {len(engine['keep_fp32'])} products high, judged by {engine['builds']} engines; "
        f"at batch {engine['batch']} that costs {1 - engine['after_per_s'] / engine['before_per_s']:.0%} of the samples per second "
        f"({engine['before_per_s']:.0f} with all in INT8, {engine['after_per_s']:.0f} with the list)."
    )


def tuned(record: dict[str, Any], search: dict[str, Any], tune: dict[str, Any], pair: dict[str, Any]) -> list[str]:
    """Return what each setting of the server gave, what tune chose, and both measured anew."""
    rows = [
        f"| {row['label']} | {', '.join(f'{rate:.0f}' for rate in row['rates_per_s'])} | {row['latency_us'] / 1e3:.1f} | {'yes' if row['within'] else 'no'} |"
        for row in record["rows"]
    ]
    return [
        "## Settings of the server, on one H100",
        "",
        f"Every setting of a grid for resnet50_fp16, each near the best twice. Load: {search['load']} per measurement. SLO {search['slo']}.",
        "",
        "| setting | infer/sec | p99 ms | within the SLO |",
        "| --- | ---: | ---: | --- |",
        *rows,
        "",
        f"Best of the grid within the SLO: {search['best']['label']}.",
        "",
        *_chosen(tune["rows"][0], pair["rows"][0]),
        "",
        f"{_where(pair)}.",
    ]


def _chosen(tune: dict[str, Any], pair: dict[str, Any]) -> list[str]:
    return [
        f"`python -m loadtest tune` looks further than the grid: in {tune['points']} points and {tune['took_s']:.0f} s it chose {pair['labels']['pick']}.",
        f"Measured anew in {pair['rounds']} interleaved rounds, ratios with their 95% intervals; its p99 {pair['pick_latency_us']['mean'] / 1e3:.1f} ms:",
        "",
        "| tune's pick over | ratio |",
        "| --- | ---: |",
        f"| the best of the grid | {ratio_words(pair['over_best'])} |",
        f"| the best of Triton's defaults ({pair['labels']['default']}) | {ratio_words(pair['over_default'])} |",
    ]


def graphs(record: dict[str, Any]) -> list[str]:
    """Return what CUDA graphs and instances gave through CUDA shared memory, with the GPU's power."""
    points = [row["sweep"] for row in record["rows"]]
    return [
        "`python -m loadtest sweep` over CUDA graphs: 32 requests of eight pictures in flight, in CUDA shared memory, two measurements a setting.",
        "",
        "| setting | infer/sec | mean batch | watts | joules per inference | against the first |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_swept(point, points[0]) for point in points),
        "",
        f"{_where(record)}.",
    ]


def _swept(point: dict[str, Any], base: dict[str, Any]) -> str:
    values = [each["throughput_per_s"]["values"] for each in (base, point)]
    rates, comparison = ", ".join(f"{rate:.0f}" for rate in values[1]), statistics.compare(*values)
    return (
        f"| {point['label']} | {rates} | {point['mean_batch']:.0f} | {point['gpu_w']:.0f} | {point['joules_per_inference']:.4f} "
        f"| {'-' if point is base else comparison} |"
    )


def _where(record: dict[str, Any]) -> str:
    gpu = record["gpu"]
    return (
        f"{record['created'][:10]}, {gpu['gpu']}, driver {gpu['driver']}, TensorRT {gpu['tensorrt']}, "
        f"Python {record['python']}, {record['cores']} cores"
    )
