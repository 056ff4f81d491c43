# Images for training and for scoring, each for CPUs or for NVIDIA GPUs:
#
#   docker build --target training --build-arg VARIANT=cuda -t tsa-training .
#   docker build --target serving  --build-arg VARIANT=cpu  -t tsa-serving .
#
# RUN_AS=root is for platforms whose mounted folders only root can write.
ARG PYTHON=3.11
ARG VARIANT=cpu

FROM python:${PYTHON}-slim-bookworm AS base
ENV PATH=/opt/tsa/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM base AS build
RUN python -m venv /opt/tsa
WORKDIR /src
COPY constraints.txt ./

# PyTorch alone, so that a change of the sources does not fetch gigabytes again
FROM build AS torch-cpu
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu -c constraints.txt torch

FROM build AS torch-cuda
RUN pip install --no-cache-dir -c constraints.txt torch

# hadolint ignore=DL3006
FROM torch-${VARIANT} AS sources
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src

FROM sources AS serving-packages
RUN pip install --no-cache-dir -c constraints.txt '.[explain,onnx,redis,serve,sign]'

FROM sources AS training-packages
RUN pip install --no-cache-dir -c constraints.txt '.[mlflow,sagemaker,sign,track,tune]'

FROM base AS runtime
# OpenMP for LightGBM
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home tsa && mkdir -p /opt/ml && chown tsa /opt/ml
WORKDIR /home/tsa
COPY src/tsa/markets markets

# docker run --rm -v $PWD/ml:/opt/ml -p 8080:8080 tsa-serving serve    as SageMaker does it
# docker run --rm -v $PWD:/data tsa-serving tsa score /data/bundle /data/payments.parquet --out /data/scores.parquet
FROM runtime AS serving
ARG RUN_AS=tsa
COPY --from=serving-packages /opt/tsa /opt/tsa
COPY --chmod=755 docker/serve /usr/local/bin/serve
USER ${RUN_AS}
CMD ["serve"]

# docker run --rm -v $PWD/ml:/opt/ml tsa-training train      as SageMaker does it
# docker run --rm -v $PWD:/data tsa-training tsa train ...    or by hand
FROM runtime AS training
ARG RUN_AS=tsa
# a compiler for training.compile
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=training-packages /opt/tsa /opt/tsa
COPY --chmod=755 docker/train /usr/local/bin/train
USER ${RUN_AS}
CMD ["train"]
