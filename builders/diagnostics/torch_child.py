"""The child process that measures a model in PyTorch: ``python -m builders.diagnostics.torch_child``.

In      JSON lines on stdin: first the model and the shapes of its inputs, then one setting per line.
Out     a JSON line per request: what is here, then `Figures`, or ``error``.

Conditions are those of `builders.diagnostics.bench_engine`: pinned inputs, another random batch each time, copies to the GPU and back, three
batches in flight per stream. Convolutions run channels-last and FP16 by autocast, which is how PyTorch is fastest without
changing the model. What other libraries print goes to stderr, because stdout carries the answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from builders.diagnostics.lanes import SLOTS, BenchSetting, Figures, Times, measure_host, measure_lanes, random_pool
from builders.sources.base import load_source
from builders.sources.pytorch import TorchSource
from planwright.config.spec import ModelSpec

Run = Callable[..., Any]
SHAPES = 64
COSINE = 0.99  # FP16 and compiled answers against eager FP32: another model would be far off


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    model = TorchModel(json.loads(sys.stdin.readline()))
    send({"torch": model.version, "device": model.device, "precisions": model.precisions})
    for line in sys.stdin:
        try:
            send(asdict(model.measure(**json.loads(line))))
        except Exception as error:  # PyTorch raises any class; its message is the answer
            send({"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"})
    return 0


class TorchModel:
    def __init__(self, request: dict[str, Any]) -> None:
        import torch

        spec = ModelSpec.model_validate(request["spec"])
        source = load_source(spec, Path(request["root"]), random_weights=request["random_weights"])
        if not isinstance(source, TorchSource):
            raise SystemExit(f"{spec.source} is not a PyTorch model")
        self.version, self.device = torch.__version__, "cuda" if torch.cuda.is_available() else "cpu"
        self.precisions = ["fp32", "fp16"] if self.device == "cuda" else ["fp32"]
        self._source, self._inputs = source, request["inputs"]
        self._module = source.model.to(self.device, memory_format=torch.channels_last).requires_grad_(False)
        self._compiled: dict[tuple[str, int], Any] = {}
        # old and new name; beyond the limit a shape would silently run eager
        for limit in ("cache_size_limit", "recompile_limit"):
            if hasattr(torch._dynamo.config, limit):
                setattr(torch._dynamo.config, limit, SHAPES)

    def measure(self, variant: str, precision: str, batch: int, streams: int, seconds: float) -> Figures:
        shapes = {name: (batch, *item["shape"]) for name, item in self._inputs.items()}
        pool = random_pool({name: item["datatype"] for name, item in self._inputs.items()}, shapes)
        run = self._runner(variant, precision, batch)
        self._check(run, pool[0])
        measure = self._on_gpu if self.device == "cuda" else _on_cpu
        return measure(run, pool, BenchSetting(batch, streams), seconds)

    def _runner(self, variant: str, precision: str, batch: int) -> Callable[..., Any]:
        import torch

        module = self._module
        if variant == "compile":
            key = (precision, batch)
            if key not in self._compiled:
                self._compiled[key] = torch.compile(module, dynamic=False)
            module = self._compiled[key]

        def run(*args: Any) -> tuple[Any, ...]:
            low = torch.autocast("cuda", torch.float16) if precision == "fp16" else contextlib.nullcontext()
            with torch.inference_mode(), low:
                found = module(*args)
            return found if isinstance(found, tuple) else (found,)

        return run

    def _check(self, run: Callable[..., Any], inputs: dict[str, Any]) -> None:
        """Compare with eager FP32, so that what is timed is the model; also the warm-up that compiles."""
        args = [self._host(inputs[name]).to(self.device) for name in self._source.input_names]
        for wanted, found in zip(self._runner("eager", "fp32", 0)(*args), run(*args), strict=True):
            pairs = [tensor.double().flatten().cpu().numpy() for tensor in (wanted, found)]
            cosine = pairs[0] @ pairs[1] / (np.linalg.norm(pairs[0]) * np.linalg.norm(pairs[1]) or 1.0)
            if cosine < COSINE:
                raise ValueError(f"its answers have a cosine of {cosine:.3f} to eager FP32")

    def _host(self, array: Any) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.device == "cuda" else tensor

    def _on_gpu(self, run: Run, pool: list[dict[str, Any]], setting: BenchSetting, seconds: float) -> Figures:
        import torch

        ready = [[self._host(batch[name]) for name in self._source.input_names] for batch in pool]
        lanes = [_GpuLane(run, ready) for _ in range(SLOTS * setting.streams)]
        found = measure_lanes(lanes, setting.batch, seconds=seconds)
        torch.cuda.synchronize()
        return found


def _on_cpu(run: Run, pool: list[dict[str, Any]], setting: BenchSetting, seconds: float) -> Figures:
    import torch

    def answer(inputs: dict[str, Any]) -> Any:
        return run(*(torch.from_numpy(array) for array in inputs.values()))

    return measure_host(answer, pool, setting, seconds)


class _GpuLane:
    """One batch in flight on a CUDA stream of its own, copied in and out."""

    def __init__(self, run: Callable[..., Any], pool: list[list[Any]]) -> None:
        import torch

        self._torch, self._run, self._pool, self._turn = torch, run, pool, 0
        self._stream = torch.cuda.Stream()
        self._host: list[Any] = []
        self._began, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._enqueue_ms = 0.0

    def send(self) -> None:
        self._turn = (self._turn + 1) % len(self._pool)
        begun = time.perf_counter()
        with self._torch.cuda.stream(self._stream):
            self._began.record()
            found = self._run(*(tensor.to("cuda", non_blocking=True) for tensor in self._pool[self._turn]))
            if not self._host:
                self._host = [self._torch.empty_like(item, device="cpu").pin_memory() for item in found]
            for target, item in zip(self._host, found, strict=True):
                target.copy_(item, non_blocking=True)
            self._ended.record()
        self._enqueue_ms = (time.perf_counter() - begun) * 1e3

    def receive(self) -> Times:
        self._ended.synchronize()
        taken_ms = self._began.elapsed_time(self._ended)
        return (taken_ms, self._enqueue_ms, 0.0, taken_ms, 0.0)


if __name__ == "__main__":
    sys.exit(main())
