#!/usr/bin/env bash
# Starts three Uvicorn processes of one worker each in the foreground, on three TCP ports.
#   PRODUCTS_PORT_1, PRODUCTS_PORT_2, PRODUCTS_PORT_3   (default 8001, 8002, 8003)
#   PRODUCTS_MAX_REQUESTS   requests after which a process is replaced   (default 1000, up to a tenth more)
#   VENV   a virtual environment (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/uvicorn" ] && PATH="$venv/bin:$PATH"

requests=${PRODUCTS_MAX_REQUESTS:-1000}

# Uvicorn ends after --limit-max-requests. It is started again, as systemd does with Restart=always.
keep() {
  trap 'kill "$server" 2>/dev/null; wait; exit 0' TERM
  while :; do
    uvicorn app:app --host 127.0.0.1 --port "$1" \
      --limit-max-requests "$requests" --limit-max-requests-jitter "$((requests / 10))" &
    server=$!
    wait "$server" || sleep 1
  done
}

pids=()
stop() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for port in "${PRODUCTS_PORT_1:-8001}" "${PRODUCTS_PORT_2:-8002}" "${PRODUCTS_PORT_3:-8003}"; do
  keep "$port" &
  pids+=($!)
done
wait || true
