#!/usr/bin/env bash
# Starts three instances of the screener in the foreground, each a Gunicorn with gevent workers on a TCP port.
#   SCREENER_PORT_1, SCREENER_PORT_2, SCREENER_PORT_3   (default 5001, 5002, 5003)
#   SCREENER_WORKERS   processes of each instance       (default 2)
#   SCREEN_SECONDS     how long a screen takes          (default 0.5; see app.py)
#   VENV   a virtual environment (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/gunicorn" ] && PATH="$venv/bin:$PATH"

pids=()
stop() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

for port in "${SCREENER_PORT_1:-5001}" "${SCREENER_PORT_2:-5002}" "${SCREENER_PORT_3:-5003}"; do
  gunicorn app:app \
    --bind "127.0.0.1:$port" \
    --worker-class gevent \
    --workers "${SCREENER_WORKERS:-2}" \
    --no-control-socket &
  pids+=($!)
done
# Where one of them ends the others go on: the gateway notices.
wait || true
