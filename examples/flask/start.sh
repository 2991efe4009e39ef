#!/usr/bin/env bash
# Starts the Flask app on Gunicorn's sync workers in the foreground, on a Unix socket.
#   FLASK_SOCKET   path of the socket      (default /tmp/propylon-flask.sock)
#   FLASK_WORKERS  how many processes      (default 2; say the same in gateway.toml)
#   VENV           a virtual environment   (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/gunicorn" ] && PATH="$venv/bin:$PATH"

exec gunicorn app:app \
  --bind "unix:${FLASK_SOCKET:-/tmp/propylon-flask.sock}" \
  --workers "${FLASK_WORKERS:-2}" \
  --no-control-socket
