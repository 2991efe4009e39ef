#!/usr/bin/env bash
# Starts the API on Uvicorn and the site on Gunicorn in the foreground, each on a TCP port.
#   API_PORT, API_WORKERS     Uvicorn's port and processes     (default 8001, 8; say the same to the gateway)
#   SITE_PORT, SITE_WORKERS   Gunicorn's port and processes    (default 8000, 4; say the same to the gateway)
#   DJANGO_ALLOWED_HOSTS, DJANGO_SECRET_KEY: see website.py
#   VENV                      a virtual environment (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/uvicorn" ] && PATH="$venv/bin:$PATH"

# One key for all workers, or what one signs the other refuses.
export DJANGO_SECRET_KEY=${DJANGO_SECRET_KEY:-$(python3 -c 'import secrets; print(secrets.token_urlsafe(48))')}

pids=()
stop() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
}
trap 'stop; exit 0' INT TERM
trap stop EXIT

uvicorn api:app --host 127.0.0.1 --port "${API_PORT:-8001}" --workers "${API_WORKERS:-8}" &
pids+=($!)
gunicorn website:application \
  --bind "127.0.0.1:${SITE_PORT:-8000}" \
  --workers "${SITE_WORKERS:-4}" \
  --no-control-socket &
pids+=($!)
wait || true
