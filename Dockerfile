# The service alone: neither torch nor Jupyter is in this image.
#   docker build -t melanoma .
#   head -c 24 /dev/urandom | base64 > key.txt    # what requests have to send
#   docker run --rm -p 8000:8000 -v "$PWD/key.txt:/run/secrets/melanoma-key:ro" --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges melanoma
# It serves the model that comes with the program; one of your own with
#     -v "$PWD/weights/mine:/data/weights/mine:ro" melanoma --run mine
# python 3.12.15 as of October 2026; the digest names just this image, for every platform
FROM python:3.12-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3 AS build
WORKDIR /src
COPY settings.ini setup.py pyproject.toml README.md constraints.txt ./
COPY melanoma melanoma
COPY nbs/pipeline nbs/pipeline
COPY weights/isic weights/isic
RUN python -m venv /opt/melanoma \
    && python -c "import configparser; c = configparser.ConfigParser(delimiters=['=']); c.read('settings.ini'); print(*(x for k in ('serve', 'dicom', 'heic') for x in c['DEFAULT'][k + '_requirements'].split()), sep='\n')" > serve.txt \
    && /opt/melanoma/bin/pip install --no-cache-dir -c constraints.txt -r serve.txt \
    && /opt/melanoma/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim-bookworm@sha256:54c85f3c47607a77f32adec749d3c81d1348bf25833671f512b26a9b6d778cb3
COPY --from=build /opt/melanoma /opt/melanoma
COPY docker/health.py /opt/health.py
RUN useradd --system --uid 10001 --no-create-home melanoma
ENV PATH=/opt/melanoma/bin:$PATH \
    MELANOMA_ROOT=/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "/opt/health.py"]
# others reach it, so it asks for a key; who wants none says --entrypoint melanoma … serve --host 0.0.0.0
ENTRYPOINT ["melanoma", "serve", "--host", "0.0.0.0", "--api-key-file", "/run/secrets/melanoma-key"]
