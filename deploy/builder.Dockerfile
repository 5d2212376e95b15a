# Builds plans with the TensorRT of the image that serves them: `docker compose run --rm builder`. docs/tensorrt.md says how.
# The image has no PyTorch: export and graph are made elsewhere and lie in build/.
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.06-py3
FROM ${BASE_IMAGE}

WORKDIR /opt/planwright
COPY constraints constraints
COPY deploy/find_tensorrt.py find_tensorrt.py
# Into a folder of their own, which comes first on the path: the image's Python stays as it is. The binding is that of the
# TensorRT found in the image, and it loads the image's own libraries; "import tensorrt" is to mean it.
RUN python3 find_tensorrt.py > binding.txt \
    && cat binding.txt \
    && case "$(python3 -c 'import sys; print(sys.version_info[1])')" in 10) lock=py310 ;; *) lock=py311 ;; esac \
    && python3 -m pip install --no-cache-dir --target /opt/planwright/packages -c "constraints/$lock.txt" \
        numpy "tritonclient[grpc,http]" protobuf pydantic pyyaml psutil rich cuda-python \
    && python3 -m pip install --no-cache-dir --no-deps --target /opt/planwright/packages -r binding.txt \
    && printf 'import sys\n\nimport tensorrt_bindings\n\nsys.modules[__name__] = tensorrt_bindings\n' > packages/tensorrt.py

ENV PYTHONPATH=/opt/planwright/packages PYTHONDONTWRITEBYTECODE=1
# the checkout is mounted here; docker-compose.yml says what runs
WORKDIR /workspace
