# SegSRGAN and SuperMask on processors, weights included; docs/use/cluster.md tells how to run it.
#   docker build -t segsrgan .
FROM python:3.12-slim AS build
# Without code for graphics cards, 0.6 GB smaller; on ARM: --build-arg tensorflow=tensorflow
ARG tensorflow=tensorflow-cpu
ARG extras=dicom,report
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY weights weights
COPY segsrgan segsrgan
COPY supermask supermask
RUN sed -i "s/\"tensorflow>=/\"$tensorflow>=/" pyproject.toml \
    && python -m venv /opt/segsrgan \
    && /opt/segsrgan/bin/pip install --no-cache-dir ".[$extras]"

FROM python:3.12-slim
COPY --from=build /opt/segsrgan /opt/segsrgan
ENV PATH=/opt/segsrgan/bin:$PATH PYTHONUTF8=1 MPLCONFIGDIR=/var/tmp/matplotlib
RUN useradd --create-home --uid 1000 segsrgan
USER 1000
WORKDIR /data
ENTRYPOINT ["segsrgan"]
CMD ["--help"]
