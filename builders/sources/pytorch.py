"""Base class of PyTorch models: export by TorchScript or dynamo, reference answers by the eager model.

In      ``build_model()`` of the subclass, a module that takes its inputs in the order of `input_names`.
Out     an FP32 ONNX file at the requested opset, and reference answers.

The dynamo exporter can silently stay at opset 18 and accepts a model in train mode: the model is put into eval mode
here, and `builders.graphs.check` reads the opset back. The fast path of attention is disabled during the export, because neither
exporter supports its fused operator.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from builders.error_log import captured
from builders.graphs.batch_axis import rows
from builders.sources import torch_contract, torch_export
from builders.sources.base import Source
from planwright.errors import PlanwrightError
from planwright.golden import Arrays


class TorchSource(Source):
    """A PyTorch model.

    Class attributes:
        input_names: In the order of the module's arguments.
        output_names: In the order of the module's results; the keys if it returns a dict, a dataclass or a namedtuple.
        dynamic_axes: Axes that vary, other than the batch: input or output name → {axis: name}; axis 0 is the batch.
    """

    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime")
    _built: Any = None

    @abstractmethod
    def build_model(self) -> Any:
        """Return the ``torch.nn.Module`` with its weights."""

    @property
    def model(self) -> Any:
        """The module on the CPU, built once, in eval mode."""
        if self._built is None:
            torch_contract.check_names(self)
            with self.blame.during("build_model()"):
                built = self.build_model()
            torch_contract.check_module(self, built)
            self._built = built.eval().cpu()
        return self._built

    def reference(self, inputs: Arrays) -> Arrays:
        """Run the eager model on one batch."""
        import torch

        model = self.model  # built first: a zoo file may train, which inference mode forbids
        try:
            with torch.inference_mode():
                answers = model(*torch_contract.tensors(self, inputs))
        except PlanwrightError:
            raise
        except Exception as error:
            raise torch_contract.refused(self, self.model, inputs, error) from error
        found = torch_contract.named(self, answers)
        return {name: answer.cpu().numpy() for name, answer in zip(self.output_names, found, strict=True)}

    def warnings(self) -> list[str]:
        """Name inputs whose float type differs from that of the weights: clients would have to send it."""
        return torch_contract.other_types(self.model, self.samples().golden[0])

    def write_onnx(self, path: Path) -> None:
        """Export with a dynamic batch axis, or a fixed one if config.yaml sets it."""
        import torch

        samples = self.samples()
        torch_contract.check_axes(self, samples)
        size = self.spec.batch.fixed or 2  # the tracer would take a batch of 1 for a constant
        example = rows([torch_export.example(self, samples.golden)], size if self.batched else 0)
        args = torch_contract.tensors(self, example)
        for parameter in self.model.parameters():  # a TorchScript module has no requires_grad_ of its own
            parameter.requires_grad_(False)
        with torch.no_grad():
            keyed = torch_contract.by_key(self.model(*args), self.output_names) is not None
            module = torch_export.flat(self.model, self.output_names) if keyed else self.model
            try:
                with captured(self.log), _plain_attention():
                    torch_export.export(self, module, args, path)
            except PlanwrightError:
                raise
            except Exception as error:
                raise torch_export.refused(self, module, args, error) from error


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
