# Two stages: the first compiles one static program, the second holds it and nothing else.
#   docker build -t propylon .
FROM rust:1.95-bookworm AS build
# A crate compiles C with cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The manifest names the integration tests, so they must be there for it to be read.
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests/it tests/it
COPY LICENSE scripts/image.sh ./
# Builds the program with the C library in it, and lays out /image: the whole file system of the second stage.
RUN ./image.sh /image

FROM scratch
COPY --from=build /image/ /
# A number: there is no list of users, and Kubernetes can see that it is not root.
USER 10001:10001
# The gateway, and the admin listener (off the internet, please).
EXPOSE 8080 9901
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/propylon", "health", "--config", "/etc/propylon/gateway.toml"]
# TERM drains: give it at least server.shutdown_delay and server.shutdown_timeout (docker stop --time).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/propylon"]
CMD ["run", "--config", "/etc/propylon/gateway.toml"]
