#!/usr/bin/env bash
# Starts two replicas of the app in the foreground, as `docker compose up --scale app=2` would: each a Gunicorn with workers of
# Uvicorn's, on a TCP port.
#   COURSES_PORT_1, COURSES_PORT_2   (default 8001, 8002)
#   COURSES_WORKERS        processes of each replica                   (default 2 x cores + 1)
#   COURSES_MAX_REQUESTS   requests after which a worker is replaced   (default 1000, up to a tenth more)
#   REPORT_SECONDS         how long a report takes                     (default 0.5; see app.py)
#   VENV   a virtual environment (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/gunicorn" ] && PATH="$venv/bin:$PATH"

workers=${COURSES_WORKERS:-$((2 * $(nproc) + 1))}
requests=${COURSES_MAX_REQUESTS:-1000}

pids=()
stop() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for port in "${COURSES_PORT_1:-8001}" "${COURSES_PORT_2:-8002}"; do
  gunicorn app:app \
    --bind "127.0.0.1:$port" \
    --worker-class uvicorn_worker.UvicornWorker \
    --workers "$workers" \
    --threads 4 \
    --timeout 30 \
    --max-requests "$requests" \
    --max-requests-jitter "$((requests / 10))" \
    --no-control-socket &
  pids+=($!)
done
wait || true
