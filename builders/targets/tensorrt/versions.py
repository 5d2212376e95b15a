"""What differs between TensorRT 8.6, 10 and 11: the one place that knows.

In      the imported ``tensorrt`` module.
Out     a `Version`, whose methods do the same thing on each of them.

Everything not named here exists, with the same signature, in all three. Flags are taken by name and never stored as
numbers: STRONGLY_TYPED is 1 in 10 and 0 in 11. A test checks each class against the real binding wheels.

The graph has the precision. TensorRT 11 reads it from there, 10 does so for a strongly typed network, and
8.6 must be allowed each type by a flag and may then still choose a higher one, which `builders.targets.tensorrt.layers` finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

NEEDS = {"bf16": (10, 0), "fp8": (10, 0)}  # first version whose ONNX parser and builder carry the type in the graph


class Version:
    """TensorRT 11 and what all versions share."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.number = tuple(int(part) for part in trt.__version__.split(".")[:2])

    def network_flags(self) -> int:
        """Return the flags of ``create_network``; 11 knows only strongly typed networks."""
        return 0

    def allow_precision(self, config: Any, precision: str) -> None:
        """Allow what the graph says."""
        self._switch(config, self.trt.BuilderFlag.TF32, precision == "tf32")

    def hold_precision(self, network: Any, config: Any, precision: str, high: Collection[str]) -> None:
        """Nothing to do: a strongly typed network keeps the graph's types."""

    def calibrate(self, network: Any, config: Any, calibrator: Any, profile: Any, high: Collection[str]) -> None:
        """Raise LookupError: strongly typed networks take no calibrator, as the graph has the ranges; 11 has none."""
        raise LookupError(f"TensorRT {self.trt.__version__} takes no calibrator of its own")

    def watch(self, config: Any, report: Callable[[str, int, int], bool]) -> bool:
        """Report progress through `report`, which returns False to cancel; returns False where the version cannot."""
        config.progress_monitor = _monitor(self.trt, report)
        return True

    def hardware_compatibility(self, config: Any, level: str) -> None:
        """Let the plan run on other GPUs too; raises LookupError if this version has no such level."""
        known = self.trt.HardwareCompatibilityLevel.__members__
        if level.upper() not in known:
            raise LookupError(f"TensorRT {self.trt.__version__} has no hardware_compatibility {level}")
        config.hardware_compatibility_level = known[level.upper()]

    def strip(self, config: Any) -> None:
        """Leave the weights out of the plan."""
        config.set_flag(self.trt.BuilderFlag.STRIP_PLAN)

    def parser_error(self, error: Any) -> tuple[str, str, str]:
        return error.node_operator(), error.node_name(), error.desc()

    def tactic_sources(self, config: Any) -> None:
        """Nothing to switch off: external libraries are gone from 11 and off by default in 10."""

    def _switch(self, config: Any, flag: Any, on: bool) -> None:
        (config.set_flag if on else config.clear_flag)(flag)


class Version10(Version):
    """TensorRT 10: strongly typed on request."""

    def network_flags(self) -> int:
        """Request a strongly typed network, so that the graph's types hold."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


class Version8(Version):
    """TensorRT 8.6: types are allowed by flags, progress is read from the log."""

    def network_flags(self) -> int:
        """Explicit batch, without which an ONNX graph is not read."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)

    def allow_precision(self, config: Any, precision: str) -> None:
        """Allow the types of the graph; beside INT8 also FP16, in which the rest then runs where it is faster."""
        super().allow_precision(config, precision)
        if precision in ("fp16", "int8"):
            config.set_flag(self.trt.BuilderFlag.FP16)
        if precision == "int8":
            config.set_flag(self.trt.BuilderFlag.INT8)

    def hold_precision(self, network: Any, config: Any, precision: str, high: Collection[str]) -> None:
        """Keep convolutions and products of an FP16 graph in FP16, but those in `high`.

        Unconstrained, 8.6 takes FP32 kernels where they are faster. The parser gives a layer the name of its node.
        """
        if precision != "fp16":
            return
        for layer in self._weighted(network):
            if layer.name not in high:
                layer.precision = self.trt.DataType.HALF
        config.set_flag(self.trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)

    def calibrate(self, network: Any, config: Any, calibrator: Any, profile: Any, high: Collection[str]) -> None:
        """Let TensorRT find the ranges itself, at the shapes of `profile` (None for a graph of fixed shapes).

        INT8 is preferred, not obeyed: a product of two activations has no INT8 kernel here.
        """
        for layer in self._weighted(network):
            layer.precision = self.trt.DataType.FLOAT if layer.name in high else self.trt.DataType.INT8
        config.set_flag(self.trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
        config.int8_calibrator = calibrator
        if profile is not None and not config.set_calibration_profile(profile):
            raise LookupError(f"TensorRT {self.trt.__version__} does not take the calibration profile")

    def _weighted(self, network: Any) -> list[Any]:
        kinds = self.trt.LayerType
        weighted = (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY, kinds.FULLY_CONNECTED)
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        return [layer for layer in layers if layer.type in weighted]

    def watch(self, config: Any, report: Callable[[str, int, int], bool]) -> bool:
        """There is no progress monitor."""
        return False

    def strip(self, config: Any) -> None:
        """Raise LookupError: stripped plans begin with TensorRT 10."""
        raise LookupError(f"TensorRT {self.trt.__version__} cannot strip the weights from a plan")

    def parser_error(self, error: Any) -> tuple[str, str, str]:
        """8.6 names only the node's number, and the operator in its text."""
        return "", f"node {error.node()}", error.desc()

    def tactic_sources(self, config: Any) -> None:
        """Leave cuBLAS and cuDNN out, which need not be installed then."""
        source = self.trt.TacticSource
        wanted = (1 << int(source.EDGE_MASK_CONVOLUTIONS)) | (1 << int(source.JIT_CONVOLUTIONS))
        config.set_tactic_sources(wanted)


def version_of(trt: Any) -> Version:
    """Return the adapter for an imported ``tensorrt``; raises LookupError if it is older than 8.6."""
    major, minor = (int(part) for part in trt.__version__.split(".")[:2])
    if (major, minor) < (8, 6):
        raise LookupError(f"TensorRT {trt.__version__} is too old: 8.6 is the oldest that is known here")
    return (Version8 if major == 8 else Version10 if major < 11 else Version)(trt)


def _monitor(trt: Any, report: Callable[[str, int, int], bool]) -> Any:
    """Return a progress monitor; TensorRT calls it from several threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            return report(phase_name, step + 1, self.steps.get(phase_name, 0))

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
