# One image for all processes; the command selects the process (docker-compose.yml).
# It contains neither a compiler nor the embedded servers. `make image` passes the version and the commit.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY gateway gateway
COPY schemas schemas
COPY eventlog eventlog
COPY streams streams
COPY analytics analytics
COPY sinks sinks
COPY recovery recovery
COPY scheduler scheduler
COPY console console
COPY ops ops
COPY local local
COPY bench bench
ARG BUILD=
RUN if [ -n "$BUILD" ]; then printf '%s\n' "$BUILD" > ops/runtime/BUILD; fi && \
    /venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home billing && install -d -m 0700 -o billing /var/lib/billing /var/lib/payloads
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 BILLING_STATE_DIR=/tmp/billing
USER 10001
ARG BUILD=
ARG VERSION=
ARG REVISION=
ARG CREATED=
LABEL org.opencontainers.image.title="billing-stream" \
      org.opencontainers.image.description="Stripe webhooks through Kafka into Postgres and e-mail" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.ref.name="$BUILD" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim"
ENTRYPOINT ["billing"]
CMD ["--help"]
