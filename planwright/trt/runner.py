"""Executes a plan over named tensors: pinned buffers, three streams, CUDA graphs where they can be captured.

In      a `Plan`, a profile, the number of batches in flight.
Out     `Runner`, and its `Slot`s: each holds one batch on its way through copy in, compute and copy out.

Copies in, computing and copies out run on streams of their own, so the copy of one batch overlaps the computing of
another. All batches of a runner compute in turn on one execution context. On TensorRT 8.6 a second context of a dynamic
engine needs a profile of its own and otherwise enqueues nothing, so every return value is checked here.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from . import cuda
from .plan import Plan, PlanError, Shape

_LOG = logging.getLogger(__name__)
_CAPTURE = cuda.cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


class Slot:
    """One batch's buffers and the points in the streams that it has reached."""

    def __init__(self, runner: Runner, *, timed: bool) -> None:
        self._runner = runner
        sizes = runner.capacity_bytes
        self.device = {name: cuda.Device(size) for name, size in sizes.items()}
        self.pinned = {name: cuda.Pinned(size) for name, size in sizes.items()}
        names = ("begun", "loaded", "started", "computed", "fetching", "fetched")
        self.events = {name: cuda.Event(timed=timed) for name in names}
        self.graphs: dict[tuple[Shape, ...], Any] = {}

    def host(self, name: str, shape: Shape) -> Any:
        """Return the pinned array of a tensor; fill it, then `load` it.

        Raises:
            PlanError: The shape is larger than the profile's maximum.
        """
        if self._runner.size_bytes(name, shape) > self._runner.capacity_bytes[name]:
            raise PlanError(f"tensor '{name}' of shape {list(shape)} is larger than the plan's largest")
        return self.pinned[name].view(shape, self._runner.dtypes[name])

    def free(self) -> None:
        """Free everything."""
        for graph in self.graphs.values():
            cuda.cudart.cudaGraphExecDestroy(graph)
        for buffers in (self.device, self.pinned, self.events):
            for buffer in buffers.values():
                buffer.free()


class Runner:
    """One execution context and its slots.

    Attributes:
        dtypes: Tensor name -> numpy type.
        capacity_bytes: Tensor name -> bytes at the profile's largest shapes.
    """

    def __init__(self, plan: Plan, *, profile: int = 0, slots: int = 2, timed: bool = False, priority: int = 0) -> None:
        """Make the context.

        Args:
            plan: The plan.
            profile: Optimization profile; one context per profile.
            slots: Batches in flight.
            timed: Record times, for the bench.
            priority: CUDA stream priority of the computing.

        Raises:
            PlanError: TensorRT makes no context, or a shape depends on values.
            cuda.CudaError: Too little memory, among others.
        """
        self.plan, self.profile = plan, profile
        self._on_host = {tensor.name for tensor in plan.tensors if tensor.is_shape}
        self.dtypes = {tensor.name: tensor.dtype for tensor in plan.tensors}
        self._context = plan.engine.create_execution_context()
        if self._context is None:
            raise PlanError(plan.log.reason("no execution context: too little GPU memory"))
        self.streams = {"in": cuda.stream(), "compute": cuda.stream(priority), "out": cuda.stream()}
        if profile and not self._context.set_optimization_profile_async(profile, int(self.streams["compute"])):
            raise PlanError(plan.log.reason(f"profile {profile} cannot be chosen"))
        self._wait_stream("compute")
        if self._context.active_optimization_profile != profile:
            raise PlanError(
                f"optimization profile {profile} is in use: this TensorRT takes one context per profile; load the plan once more, "
                "or build it with as many profiles as contexts"
            )
        self.capacity_bytes = self._capacities()
        self.slots = [Slot(self, timed=timed) for _ in range(slots)]

    def size_bytes(self, name: str, shape: Shape) -> int:
        """Return the size of a tensor."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtypes[name].itemsize

    def load(self, slot: Slot, name: str, shape: Shape, source: cuda.Pinned | None = None) -> None:
        """Copy an input to the GPU: from the slot's own pinned memory, or from `source`."""
        size = self.size_bytes(name, shape)
        pinned = source or slot.pinned[name]
        cuda.copy(slot.device[name].pointer, pinned.pointer, size, cuda.HOST_TO_DEVICE, self.streams["in"])

    def load_part(self, slot: Slot, name: str, start_bytes: int, end_bytes: int) -> None:
        """Copy some bytes of a pinned input, while the rest is still being gathered."""
        target, source = slot.device[name].pointer + start_bytes, slot.pinned[name].pointer + start_bytes
        cuda.copy(target, source, end_bytes - start_bytes, cuda.HOST_TO_DEVICE, self.streams["in"])

    def begin(self, slot: Slot) -> None:
        """Mark the beginning of a batch, for the bench."""
        slot.events["begun"].record(self.streams["in"])

    def load_from(self, slot: Slot, name: str, offset_bytes: int, pointer: int, size_bytes: int) -> None:
        """Copy a part of an input from its own place: on the GPU, or in page-locked memory of the host."""
        target = slot.device[name].pointer + offset_bytes
        cuda.copy(target, pointer, size_bytes, cuda.ANYWHERE, self.streams["in"])

    def compute(self, slot: Slot, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Enqueue the engine behind the slot's copies and return the shapes of the outputs.

        Raises:
            PlanError: The shapes are outside the profile, or TensorRT refuses.
        """
        stream = self.streams["compute"]
        slot.events["loaded"].record(self.streams["in"])
        slot.events["loaded"].block(stream)
        outputs = self._prepare(shapes)
        slot.events["started"].record(stream)
        graph = slot.graphs.get(_key(shapes))
        if graph is not None:
            cuda.call(cuda.cudart.cudaGraphLaunch, graph, stream)
        else:
            self._bind(slot)
            self._enqueue(stream)
        slot.events["computed"].record(stream)
        return outputs

    def fetch(self, slot: Slot, outputs: dict[str, Shape]) -> None:
        """Copy outputs to pinned memory behind the computing."""
        stream = self.streams["out"]
        slot.events["computed"].block(stream)
        slot.events["fetching"].record(stream)
        for name, shape in outputs.items():
            source, target = slot.device[name].pointer, slot.pinned[name].pointer
            cuda.copy(target, source, self.size_bytes(name, shape), cuda.DEVICE_TO_HOST, stream)
        slot.events["fetched"].record(stream)

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Answer one batch from host to host; the answers are copies.

        Raises:
            PlanError: An input has another type or a shape outside the profile.
        """
        slot = self.slots[0]
        for tensor in self.plan.inputs:
            array = np.asarray(inputs[tensor.name])
            if array.dtype != tensor.dtype:
                raise PlanError(f"input '{tensor.name}' is {array.dtype}, the plan takes {tensor.dtype}")
            np.copyto(slot.host(tensor.name, array.shape), array)
            self.load(slot, tensor.name, array.shape)
        outputs = self.compute(slot, {t.name: np.shape(inputs[t.name]) for t in self.plan.inputs})
        self.fetch(slot, outputs)
        slot.events["fetched"].wait()
        return {name: slot.host(name, shape).copy() for name, shape in outputs.items()}

    def describe(self, layout: Any) -> str:
        """Return TensorRT's description of the engine at the shapes of the last run; without shapes it names no formats."""
        inspector = self.plan.engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(layout))

    def profile_layers(self, profiler: Any) -> None:
        """Report the time of each layer of every following run to a ``trt.IProfiler``."""
        self._context.profiler = profiler

    def free(self) -> None:
        """Free buffers, streams and the context."""
        for stream in self.streams.values():
            cuda.cudart.cudaStreamSynchronize(stream)
        for slot in self.slots:
            slot.free()
        self.slots = []
        for stream in self.streams.values():
            cuda.cudart.cudaStreamDestroy(stream)
        self._context = None

    def _prepare(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                self.plan.log.errors.clear()
                raise PlanError(self.plan._refusal({name: shape}))
        outputs = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in self.plan.outputs}
        if any(-1 in shape for shape in outputs.values()):
            raise PlanError(f"the shape of an output depends on values, not only on shapes: {outputs}")
        return outputs

    def _bind(self, slot: Slot) -> None:
        for name, buffer in slot.device.items():
            place = slot.pinned[name].pointer if name in self._on_host else buffer.pointer
            if not self._context.set_tensor_address(name, place):
                raise PlanError(self.plan.log.reason(f"no address for '{name}'"))

    def _enqueue(self, stream: Any) -> None:
        if not self._context.execute_async_v3(int(stream)):
            raise PlanError(self.plan.log.reason("the engine enqueued nothing"))

    def capture(self, slot: Slot, shapes: dict[str, Shape]) -> bool:
        """Capture a CUDA graph of the engine at these shapes; `compute` uses it from now on.

        Returns:
            False where the engine holds what a graph cannot: it is then run plainly.
        """
        stream = self.streams["compute"]
        self._prepare(shapes)
        self._bind(slot)
        self._enqueue(stream)  # once outside: the first run of a shape may allocate, which a capture forbids
        self._wait_stream("compute")
        cuda.call(cuda.cudart.cudaStreamBeginCapture, stream, _CAPTURE)
        try:
            self._enqueue(stream)
        except PlanError as error:
            cuda.cudart.cudaStreamEndCapture(stream)
            cuda.cudart.cudaGetLastError()
            _LOG.warning("no CUDA graph for %s: %s", shapes, error)
            return False
        graph = cuda.call(cuda.cudart.cudaStreamEndCapture, stream)
        slot.graphs[_key(shapes)] = cuda.call(cuda.cudart.cudaGraphInstantiate, graph, 0)
        cuda.call(cuda.cudart.cudaGraphDestroy, graph)
        return True

    def _capacities(self) -> dict[str, int]:
        """Return the bytes of each tensor at the profile's largest shapes."""
        bounds = self.plan.profiles[self.profile] if self.plan.profiles else {}
        largest = {t.name: bounds[t.name][2] if t.name in bounds else t.shape for t in self.plan.inputs}
        shapes = {**largest, **self._prepare(largest)}
        return {name: self.size_bytes(name, shape) for name, shape in shapes.items()}

    def _wait_stream(self, name: str) -> None:
        cuda.call(cuda.cudart.cudaStreamSynchronize, self.streams[name])


def _key(shapes: dict[str, Shape]) -> tuple[Shape, ...]:
    return tuple(shapes[name] for name in sorted(shapes))
