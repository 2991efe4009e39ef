#!/usr/bin/env bash
# Starts the Django app on Gunicorn's gthread workers in the foreground, on a TCP port.
#   DJANGO_BIND          address           (default 127.0.0.1:8000)
#   DJANGO_WORKERS       processes         (default 2; say the same in gateway.toml)
#   DJANGO_THREADS       threads of each   (default 4; say the same in gateway.toml)
#   DJANGO_ALLOWED_HOSTS, DJANGO_SECRET_KEY, DJANGO_SCRIPT_NAME: see app.py
#   VENV                 a virtual environment (default: the repository's .venv, else what PATH offers)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
venv=${VENV:-$PWD/../../.venv}
[ -x "$venv/bin/gunicorn" ] && PATH="$venv/bin:$PATH"

# One key for all workers, or what one signs the other refuses.
export DJANGO_SECRET_KEY=${DJANGO_SECRET_KEY:-$(python3 -c 'import secrets; print(secrets.token_urlsafe(48))')}

exec gunicorn app:application \
  --bind "${DJANGO_BIND:-127.0.0.1:8000}" \
  --worker-class gthread \
  --workers "${DJANGO_WORKERS:-2}" \
  --threads "${DJANGO_THREADS:-4}" \
  --no-control-socket
