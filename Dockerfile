# Builds Tandem and the image that serves it.
#
#   docker build -t tandem .
#   docker run --rm -p 50051:50051 -p 8080:8080 tandem                              the demo model
#   docker run --rm -p 50051:50051 -v DIR:/models:ro tandem serve --model /models   yours
#
# The image holds /opt/tandem (the program and the demo model) and the libraries that the program is
# linked to. It runs as user 65532 and writes nothing; --read-only is fine.

# The same release in both stages: the libraries that the linker saw are the ones it runs with.
FROM debian:12 AS build
WORKDIR /src
COPY . .
RUN ./setup && cmake --install build/release --prefix /opt/tandem --strip

FROM debian:12-slim
# The owners of the libraries named in the program; tests/deploy/dockerfile_test.py compares.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      libabsl20220623 libcivetweb1 libedit2 libfmt9 libgrpc++1.51 libgrpc29 \
      libprometheus-cpp-core1.0 libprotobuf32 libspdlog1.10 libssl3 libstdc++6 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tandem /opt/tandem

ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
ARG LICENSES=NOASSERTION
LABEL org.opencontainers.image.title="tandem" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="${LICENSES}"

# Numeric, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
# No shell in between: signals reach the program, which drains on SIGTERM.
ENTRYPOINT ["/opt/tandem/bin/tandem"]
CMD ["serve"]
