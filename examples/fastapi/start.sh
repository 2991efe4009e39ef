#!/usr/bin/env bash
# Starts three Uvicorn processes of one worker each in the foreground, on three TCP ports.
#   FASTAPI_PORT_1, FASTAPI_PORT_2, FASTAPI_PORT_3   (default 8001, 8002, 8003)
#   VENV   a virtual environment (default: the repository's .venv, else what PATH offers)
# One process to a port, and not `--workers 3` on one port: so the gateway sees each process, gives the next request to the
# idlest one, and notices when one is gone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/uvicorn" ] && PATH="$venv/bin:$PATH"

pids=()
stop() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for port in "${FASTAPI_PORT_1:-8001}" "${FASTAPI_PORT_2:-8002}" "${FASTAPI_PORT_3:-8003}"; do
  uvicorn app:app --host 127.0.0.1 --port "$port" &
  pids+=($!)
done
wait || true
