"""Base of the PyTorch models in the zoo: export by TorchScript or dynamo, answers by the eager model.

In      ``build_model()`` of the subclass, an eval-mode module that takes its inputs in the order of `input_names`.
Out     an FP32 ONNX file at the asked opset, and reference answers.

The dynamo exporter can stay at opset 18 in silence and accepts a model in train mode: the model is put into eval mode
here, and `builders.onnx_check` reads the opset back.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from builders.batch_axis import rows
from builders.source import Source
from planwright.golden import Arrays


class TorchSource(Source):
    """A PyTorch model.

    Class attributes:
        input_names, output_names: In the order of the module's arguments and results.
        dynamic_axes: Axes that vary beside the batch: input or output name → {axis: name}; axis 0 is the batch.
    """

    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime")
    input_names: ClassVar[tuple[str, ...]] = ()
    output_names: ClassVar[tuple[str, ...]] = ()
    dynamic_axes: ClassVar[Mapping[str, Mapping[int, str]]] = {}
    _built: Any = None

    @property
    def batched(self) -> bool:
        """False where config.yaml says ``batch: none``: the samples are what the module takes."""
        return self.spec.batch.axis

    @abstractmethod
    def build_model(self) -> Any:
        """Return the ``torch.nn.Module`` with its weights."""

    @property
    def model(self) -> Any:
        """The module, built once, in eval mode."""
        if self._built is None:
            self._built = self.build_model().eval()
        return self._built

    def reference(self, inputs: Arrays) -> Arrays:
        """Run the eager model on one batch."""
        import torch

        model = self.model  # built first: a zoo file may train, which inference mode forbids
        with torch.inference_mode():
            answers = model(*(torch.from_numpy(inputs[name]) for name in self.input_names))
        answers = answers if isinstance(answers, tuple) else (answers,)
        return {name: answer.numpy() for name, answer in zip(self.output_names, answers, strict=True)}

    def write_onnx(self, path: Path) -> None:
        """Export with a batch axis that is dynamic, or fixed where config.yaml says so."""
        import torch

        size = self.spec.batch.fixed or 2  # a batch of 1 would be taken for a constant by the tracer
        example = rows([self.samples().golden[0]], size if self.batched else 0)
        args = tuple(torch.from_numpy(example[name]) for name in self.input_names)
        self.model.requires_grad_(False)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporters warn about their own deprecations
            if self.spec.export.exporter == "dynamo":
                self._dynamo(args, path)
            else:
                self._torchscript(args, path)

    def _axes(self, name: str) -> dict[int, str]:
        batch = {} if self.spec.batch.fixed or not self.batched else {0: "batch"}
        return {**batch, **self.dynamic_axes.get(name, {})}

    def _torchscript(self, args: Any, path: Path) -> None:
        import torch

        names = (*self.input_names, *self.output_names)
        torch.onnx.export(
            self.model,
            args,
            str(path),
            dynamo=False,
            opset_version=self.spec.export.opset,
            input_names=list(self.input_names),
            output_names=list(self.output_names),
            dynamic_axes={name: self._axes(name) for name in names if self._axes(name)},
        )

    def _dynamo(self, args: Any, path: Path) -> None:
        import torch

        shapes = tuple(dict.fromkeys(self._axes(name), torch.export.Dim.DYNAMIC) for name in self.input_names)
        torch.onnx.export(
            self.model,
            args,
            str(path),
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=self.spec.export.opset,
            input_names=list(self.input_names),
            output_names=list(self.output_names),
            dynamic_shapes=shapes,
        )
