"""How the tensorrt backend reads and writes tensors, in the real stub of the real server: by DLPack, without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from planwright.server_info import ServerInfo
from tests._project import ROOT
from tests._server import running_server

CONFIG = """\
name: "bits"
backend: "python"
max_batch_size: 64
input [{name: "x" data_type: TYPE_FP32 dims: [5000]}]
output [{name: "same" data_type: TYPE_BOOL dims: [1]}, {name: "bf16" data_type: TYPE_BF16 dims: [5000]}]
instance_group [{count: 1 kind: KIND_CPU}]
"""
MODEL = """\
import ctypes, sys
sys.path.insert(0, "@FOLDER@")
import numpy as np
import triton_python_backend_utils as pb_utils
import trt_dlpack

class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tensor = pb_utils.get_input_tensor_by_name(request, "x")
        array = tensor.as_numpy()
        lies = (ctypes.c_uint8 * array.nbytes).from_address(trt_dlpack.address_of(tensor))
        same = np.full((len(array), 1), bytes(lies) == array.tobytes())
        bits = np.ascontiguousarray((array.view(np.uint32) >> 16).astype(np.uint16))
        answer = pb_utils.Tensor.from_dlpack("bf16", trt_dlpack.BFloat16(bits))
        assert len(trt_dlpack._alive) <= 1, "arrays that were given away are kept"
        return pb_utils.InferenceResponse([pb_utils.Tensor("same", same), answer])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    repository = tmp_path_factory.mktemp("bits")
    (repository / "bits/1").mkdir(parents=True)
    (repository / "bits/config.pbtxt").write_text(CONFIG)
    folder: Path = ROOT / "serving/backends/tensorrt"
    (repository / "bits/1/model.py").write_text(MODEL.replace("@FOLDER@", str(folder)))
    with running_server(repository) as info:
        yield info


@pytest.mark.parametrize("rows", [1, 7, 64, 3])
def test_bytes_are_read_where_they_lie_and_bf16_is_given(server: ServerInfo, rows: int) -> None:
    sent = np.random.default_rng(rows).standard_normal((rows, 5000), dtype=np.float32)
    tensor = grpcclient.InferInput("x", list(sent.shape), "FP32")
    tensor.set_data_from_numpy(sent)
    client = grpcclient.InferenceServerClient(server.grpc_url)
    try:
        answer = client.infer("bits", [tensor])
        assert answer.as_numpy("same").all()
        assert answer.get_output("bf16").datatype == "BF16"
        expected = (sent.view(np.uint32) & 0xFFFF0000).view(np.float32)
        assert np.array_equal(answer.as_numpy("bf16"), expected)
    finally:
        client.close()
