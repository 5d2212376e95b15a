"""The sections of docs/benchmarks.md made from records of h100.py.

In      records of h100.py.
Out     Markdown lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks._parts.common import ratio_words
from benchmarks._parts.markdown import section, table
from measure import statistics

Record = dict[str, Any]


def overview(build: Record, engine: Record, served: Record, cache: Record, clients: Record, wrong: Record) -> list[str]:
    figures = [figure for record in (build, engine, served, cache) for figure in record["figures"]]
    rows = [(f["what"], f"{f['value']:g}", f"{f['sign']} {f['target']:g}") for f in figures]
    faults = len([row for row in wrong["rows"] if "fault" in row]) + 2
    return section(
        "TensorRT on one H100",
        "`python benchmarks/h100.py --prepare` where PyTorch is installed, then `python benchmarks/h100.py` on the GPU machine. ResNet-50 has seeded\n"
        "random weights and takes uint8 images; host copies are on, inputs are fresh random batches, every return value is checked.",
        table("what | measured: | target:", rows),
        *_built(build),
        *_alone(engine),
        *_through_triton(served),
        _loaded(clients),
        f"Injected faults: {faults}, each reported with its cause; missed: {len(wrong['missed'])}.",
        f"{_when(engine)}; tritonserver 2.51, perf_analyzer 2.60 on the same cores.",
    )


def _built(record: Record) -> tuple[str, list[str]]:
    rows = []
    for row in record["rows"]:
        realised = row["realised"]
        share = "-" if realised["share"] is None else f"{realised['share']:.0%}"
        rows.append((row["model"], realised["verdict"], share, *_proof(row), f"{row['build_seconds']:.0f}"))
    text = (
        "What the engines really compute: the share of convolution and matrix time in the requested precision, all time by precision, the worst\n"
        "cosine to the golden answers. 'opaque' is time in layers that cannot be inspected. Built with a timing cache."
    )
    return text, table("model | verdict | requested: | time by precision | cosine: | score | build s:", rows)


def _alone(record: Record) -> tuple[str, list[str]]:
    rows = [
        (r["model"], r["batch"], r["streams"], "yes" if r["graphs"] else "no", f"{r['samples_per_s']:.0f}", f"{r['low']:.0f} – {r['high']:.0f}",
         f"{r['compute_ms']:.3f}", f"{r['latency_median_ms']:.2f}", r["gpu_memory_mib"])
        for r in record["rows"]
    ]  # fmt: skip
    text = "The engine alone; latency is that of one batch with three in flight on each stream. `resnet50_fp16_fixed` has static shapes."
    return text, table("engine | batch: | streams: | CUDA graph | images/s: | range: | compute ms: | p50 ms: | GPU MiB:", rows)  # fmt: skip


def _through_triton(record: Record) -> tuple[str, list[str]]:
    names = {
        "cuda": "CUDA shared memory, batch 64",
        "system": "system shared memory, batch 64",
        "single": "256 single images in flight",
    }
    rows = [
        (names[r["case"]], r["instances"], _rates(r["images_per_s"]), f"{r['share_of_engine']:.3f}")
        for r in record["rows"]
        if "case" in r
    ]
    alone = _rates(next(r["engine_alone"] for r in record["rows"] if "engine_alone" in r))
    text = (
        f"Served by the embedded server with the Python-based backend, beside the engine alone in the same step ({alone}\n"
        "images/s at batch 64, one stream):"
    )
    return text, table("case | instances: | images/s, three rounds: | of the engine alone:", rows)


def _rates(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def _loaded(record: Record) -> str:
    loads = [row for row in record["rows"] if "load" in row]
    total, checked = (sum(row[key] for row in loads) for key in ("requests", "checked"))
    wrong = sum(row["wrong"] + row["failures"] for row in loads)
    answers = [row for row in record["rows"] if "transport" in row]
    return (
        f"Clients: {len(answers)} checks over http, grpc, system and CUDA shared memory, {sum(row['verdict'] != 'ok' for row in answers)} not ok. "
        f"locust, five models at once: {total} requests, {checked} answers checked, {wrong} wrong or failed."
    )


def other_ways(routes: Record, torch: Record, search: Record) -> list[str]:
    raced = [
        (r["engine"], r["precision"], r["batch"], f"{r['samples_per_s']:.0f}", r["range"], f"{r['p50_ms']:.2f}")
        for r in torch["rows"]
    ]
    return section(
        "Other ways, on the same H100",
        "A network built by its source with TensorRT's own API, and INT8 with ranges calibrated by TensorRT 8.6 itself:",
        table(
            "model | verdict | time by precision | cosine: | score",
            [(row["route"], row["realised"]["verdict"], *_proof(row)) for row in routes["rows"]],
        ),
        "ResNet-50 as a plan and in PyTorch, interleaved, by `python -m builders bench --torch`: one stream, host copies on, three batches in flight.\n"
        "`torch.compile` in its default mode, so without CUDA graphs: at batch 1 PyTorch's time goes into launching kernels.",
        table("engine | precision | batch: | samples/s: | range: | p50 ms:", raced),
        *(_kept(row) for row in search["rows"]),
        f"{_when(torch)}.",
    )


def _proof(row: Record) -> tuple[str, str, str]:
    by = ", ".join(f"{name} {value:.0%}" for name, value in row["realised"]["by_precision"].items())
    cosine = min(output["cosine"] for output in row["verify"]["outputs"])
    return by, f"{cosine:.6f}", ", ".join(f"{name} {value:.4f}" for name, value in row["verify"]["score"].items())


def _kept(row: Record) -> str:
    engine = row["engine"]
    names = engine["keep_fp32"] if "keep_fp32" in engine else engine["keep_high"]  # its name in older records
    return (
        f"`python -m builders search {row['search']} --engine` kept {len(names)} products in FP32, judged by {engine['builds']} engines; "
        f"at batch {engine['batch']} that costs {1 - engine['after_per_s'] / engine['before_per_s']:.0%} of the samples per second "
        f"({engine['before_per_s']:.0f} with all in INT8, {engine['after_per_s']:.0f} with the list)."
    )


def tuned(record: Record, search: Record, tune: Record, pair: Record) -> list[str]:
    rows = [
        (r["label"], _rates(r["rates_per_s"]), f"{r['latency_us'] / 1e3:.1f}", "yes" if r["within"] else "no")
        for r in record["rows"]
    ]
    chosen, compared = tune["rows"][0], pair["rows"][0]
    defaults = f"the best of Triton's defaults ({compared['labels']['default']})"
    over = [("the best of the grid", ratio_words(compared["over_best"])), (defaults, ratio_words(compared["over_default"]))]  # fmt: skip
    return section(
        "Settings of the server, on one H100",
        f"Every setting of a grid for resnet50_fp16, those near the best twice. Load: {search['load']} per measurement. SLO {search['slo']}.",
        table("setting | infer/sec: | p99 ms: | within the SLO", rows),
        f"Best of the grid within the SLO: {search['best']['label']}.",
        f"`python -m loadtest tune` searches beyond the grid: in {chosen['points']} points and {chosen['took_s']:.0f} s it chose "
        f"{compared['labels']['pick']}.\nMeasured again in {compared['rounds']} interleaved rounds, ratios with their 95% intervals; its p99 "
        f"{compared['pick_latency_us']['mean'] / 1e3:.1f} ms:",
        table("tune's pick over | ratio:", over),
        f"{_when(pair)}.",
    )


def graphs(record: Record) -> list[str]:
    points = [row["sweep"] for row in record["rows"]]
    return section(
        "CUDA graphs and power, on one H100",
        "`python -m loadtest sweep` over CUDA graphs: 32 requests of eight images in flight, in CUDA shared memory, two measurements a setting.",
        table(
            "setting | infer/sec: | mean batch: | watts: | joules per inference: | against the first",
            [_swept(point, points[0]) for point in points],
        ),
        f"{_when(record)}.",
    )


def _swept(point: Record, base: Record) -> tuple[str, ...]:
    values = [each["throughput_per_s"]["values"] for each in (base, point)]
    return (
        point["label"], _rates(values[1]), f"{point['mean_batch']:.0f}", f"{point['gpu_w']:.0f}",
        f"{point['joules_per_inference']:.4f}", "-" if point is base else statistics.compare(*values),
    )  # fmt: skip


def _when(record: Record) -> str:
    gpu = record["gpu"]
    return (
        f"{record['created'][:10]}, {gpu['gpu']}, driver {gpu['driver']}, TensorRT {gpu['tensorrt']}, "
        f"Python {record['python']}, {record['cores']} cores"
    )
