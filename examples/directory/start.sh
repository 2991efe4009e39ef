#!/usr/bin/env bash
# Starts the directory on Gunicorn with gevent workers in the foreground, on a TCP port.
#   DIRECTORY_PORT        the port                              (default 8000)
#   DIRECTORY_WORKERS     processes                             (default 8; say the same to the gateway)
#   DIRECTORY_KEEPALIVE   seconds an idle connection is kept    (default 5)
#   DIRECTORY_PASSWORD, DIRECTORY_SECRET_KEY: see app.py
#   VENV                  a virtual environment (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/gunicorn" ] && PATH="$venv/bin:$PATH"

# One key for all workers, or what one signs the other refuses.
export DIRECTORY_SECRET_KEY=${DIRECTORY_SECRET_KEY:-$(python3 -c 'import secrets; print(secrets.token_urlsafe(48))')}

exec gunicorn app:app \
  --bind "127.0.0.1:${DIRECTORY_PORT:-8000}" \
  --worker-class gevent \
  --workers "${DIRECTORY_WORKERS:-8}" \
  --keep-alive "${DIRECTORY_KEEPALIVE:-5}" \
  --no-control-socket
