#!/usr/bin/env bash
# Builds the program as the container image holds it and lays out the image's file system below a directory.
#   scripts/image.sh DIRECTORY
# Used by the Dockerfile; runs on any Debian with Rust as well. PROPYLON_BIN=PATH takes a program that is built already.
set -euo pipefail
root=$1

if [ -z "${PROPYLON_BIN:-}" ]; then
  target=$(rustc -vV | sed -n 's/^host: //p')
  # With --target, flags of the program do not apply to build scripts and macros, which cannot be static.
  RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin propylon --target "$target"
  PROPYLON_BIN=${CARGO_TARGET_DIR:-target}/$target/release/propylon
fi

install -D -m 0755 "$PROPYLON_BIN" "$root/propylon"
install -D -m 0644 LICENSE "$root/usr/share/doc/propylon/LICENSE"
install -d -m 0755 "$root/etc/propylon"
# Sockets and the pid file; temporary files.
install -d -m 0750 -o 10001 -g 10001 "$root/run/propylon"
install -d -m 1777 "$root/tmp" "$root/var/tmp"
