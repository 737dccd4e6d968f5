# `emotiw serve` in a container: docs/serving.md says how to build and run it.
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
# The small distribution: it has no TensorFlow, which serving the networks of the zoo does not need.
RUN python -m venv /opt/emotiw \
    && /opt/emotiw/bin/python -m pip install --no-cache-dir --constraint constraints.txt './light[serve,heic,interlaced]'

FROM python:3.12-slim
COPY --from=build /opt/emotiw /opt/emotiw
# Nothing is stored: the cache keeps only which engine computes fastest here.
ENV PATH=/opt/emotiw/bin:$PATH EMOTIW_OFFLINE=1 EMOTIW_CACHE=/tmp/emotiw PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --start-period=20s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["emotiw-light", "serve", "--host", "0.0.0.0"]
