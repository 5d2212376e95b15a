"""digits_api: the digits model as a TensorRT network built layer by layer, the pattern for what ONNX cannot express.

In      ``image`` uint8 [8, 8]; the weights of the exported ONNX file, by name.
Out     ``scores`` FP32 [10], as digits.

The onnxruntime target serves the ONNX file itself. Use fp32 or tf32: casts to lower types would be layers of the network too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from builders.zoo import digits


class Model(digits.Model):
    """The same samples, weights and labels, built through TensorRT's API."""

    @staticmethod
    def fill_network(trt: Any, network: Any, weights: Mapping[str, Any]) -> None:
        """Add every layer; inputs and outputs have the names of the ONNX file."""
        image = network.add_input("image", trt.uint8, (-1, 8, 8))
        real = network.add_cast(image, trt.float32).get_output(0)
        eighth, shift, power = (np.array([value], np.float32) for value in (1 / 8, -1.0, 1.0))
        shaped = _reshaped(network, real, (0, 1, 8, 8))
        value = network.add_scale(shaped, trt.ScaleMode.UNIFORM, shift, eighth, power).get_output(0)
        for index in (0, 2):
            value = _convolution(trt, network, value, weights, f"layers.{index}")
        pool = network.add_pooling_nd(value, trt.PoolingType.MAX, (2, 2))
        pool.stride_nd = (2, 2)
        flat = _reshaped(network, pool.get_output(0), (0, 512))
        hidden = _relu(trt, network, _linear(trt, network, flat, weights, "layers.7"))
        scores = _linear(trt, network, hidden, weights, "layers.9")
        scores.name = "scores"
        network.mark_output(scores)


def _reshaped(network: Any, value: Any, shape: tuple[int, ...]) -> Any:
    """A 0 in `shape` keeps the dimension, so that the batch stays dynamic."""
    layer = network.add_shuffle(value)
    layer.reshape_dims = shape
    return layer.get_output(0)


def _convolution(trt: Any, network: Any, value: Any, weights: Mapping[str, Any], name: str) -> Any:
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    layer = network.add_convolution_nd(value, len(bias), kernel.shape[2:], kernel, bias)
    layer.padding_nd = (1, 1)
    layer.name = name
    return _relu(trt, network, layer.get_output(0))


def _relu(trt: Any, network: Any, value: Any) -> Any:
    return network.add_activation(value, trt.ActivationType.RELU).get_output(0)


def _linear(trt: Any, network: Any, value: Any, weights: Mapping[str, Any], name: str) -> Any:
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    matrix = network.add_constant(kernel.shape, kernel).get_output(0)
    plain, turned = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    product = network.add_matrix_multiply(value, plain, matrix, turned)
    product.name = name
    row = network.add_constant((1, len(bias)), bias).get_output(0)
    return network.add_elementwise(product.get_output(0), row, trt.ElementWiseOperation.SUM).get_output(0)
