# Two stages: the first compiles, the second holds the program and nothing to compile with.
#   docker build -t propylon .
FROM rust:1.95-bookworm AS build
# A crate compiles C with cmake.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The manifest names the integration tests, so they must be there for it to be read.
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests/it tests/it
RUN cargo build --release --locked --bin propylon

FROM debian:bookworm-slim
RUN groupadd --gid 10001 propylon \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin propylon \
 && mkdir -p /etc/propylon \
 && install -d -o propylon -g propylon -m 0750 /run/propylon
COPY --from=build /build/target/release/propylon /usr/local/bin/propylon
COPY LICENSE /usr/share/doc/propylon/LICENSE
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
# The gateway, and the admin listener (off the internet, please).
EXPOSE 8080 9901
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
  CMD ["propylon", "health", "--config", "/etc/propylon/gateway.toml"]
# TERM drains: give it at least server.shutdown_delay and server.shutdown_timeout (docker stop --time).
STOPSIGNAL SIGTERM
ENTRYPOINT ["propylon"]
CMD ["run", "--config", "/etc/propylon/gateway.toml"]
