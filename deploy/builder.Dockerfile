# Builds plans with the TensorRT of the image that serves them: `docker compose run --rm builder`, see docs/tensorrt.md.
# The image has no PyTorch: the export and graph stages run elsewhere and leave their files in build/.
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.06-py3
FROM ${BASE_IMAGE}

WORKDIR /opt/planwright
COPY constraints constraints
COPY deploy/find_tensorrt.py find_tensorrt.py
# Packages go into a separate folder, first on the path, so that the image's Python stays unchanged. The binding matches the
# TensorRT found in the image and loads the image's own libraries; "import tensorrt" returns it.
RUN python3 find_tensorrt.py > binding.txt \
    && cat binding.txt \
    && case "$(python3 -c 'import sys; print(sys.version_info[1])')" in 10) lock=py310 ;; *) lock=py311 ;; esac \
    && python3 -m pip install --no-cache-dir --target /opt/planwright/packages -c "constraints/$lock.txt" \
        numpy "tritonclient[grpc,http]" protobuf pydantic pyyaml psutil rich cuda-python \
    && python3 -m pip install --no-cache-dir --no-deps --target /opt/planwright/packages -r binding.txt \
    && printf 'import sys\n\nimport tensorrt_bindings\n\nsys.modules[__name__] = tensorrt_bindings\n' > packages/tensorrt.py

ENV PYTHONPATH=/opt/planwright/packages PYTHONDONTWRITEBYTECODE=1
# the checkout is mounted here; docker-compose.yml has the command
WORKDIR /workspace
