#!/usr/bin/env bash
# Shows Propylon in front of Flask, Django and FastAPI, then stops everything it started. See README.md beside it.
#   KEEP=1             leave it running until Ctrl-C
#   PROPYLON_BIN=PATH  run this program instead of building one
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(dirname "$examples")

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
# Without a terminal there is nothing to embolden.
[ -t 1 ] || say() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }
# Shows a command as a person would type it, and runs it.
show() {
  printf '$ %s\n' "$*"
  "$@"
}

if [ -z "${PROPYLON_BIN:-}" ]; then
  say "building (cargo build --release)"
  "$root/scripts/setup.sh" build
  (cd "$root" && cargo build --release --locked)
  PROPYLON_BIN=${CARGO_TARGET_DIR:-$root/target}/release/propylon
fi
"$root/scripts/setup.sh" demo

RUN_DIR=$(mktemp -d "${TMPDIR:-/tmp}/propylon-demo.XXXXXX")
pids=()
stop() {
  local status=$?
  trap - EXIT INT TERM
  [ $status -eq 0 ] || [ $status -ge 128 ] || tail -n 20 "$RUN_DIR"/*.log >&2 || true
  # The gateway first: it lets go of the apps, so that they can stop at once.
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null || true
  done
  rm -rf "$RUN_DIR"
  exit $status
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints one port for each argument: the port named where it is free, else any that is.
free_ports() {
  python3 - "$@" <<'PY'
import socket, sys

held = []
for wanted in sys.argv[1:]:
    for port in (int(wanted), 0):
        probe = socket.socket()
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
            break
        except OSError:
            probe.close()
    held.append(probe)
print(*(probe.getsockname()[1] for probe in held))
PY
}

read -r listen listen_tls admin django FASTAPI_PORT_1 FASTAPI_PORT_2 FASTAPI_PORT_3 \
  < <(free_ports 8080 8443 9901 8000 8001 8002 8003)
export RUN_DIR FASTAPI_PORT_1 FASTAPI_PORT_2 FASTAPI_PORT_3
export LISTEN=127.0.0.1:$listen LISTEN_TLS=127.0.0.1:$listen_tls TLS_DIR=$RUN_DIR ADMIN=127.0.0.1:$admin DJANGO_BIND=127.0.0.1:$django
export FLASK_SOCKET=$RUN_DIR/flask.sock ACCESS_LOG=$RUN_DIR/access.log
export DJANGO_SCRIPT_NAME=/django FASTAPI_ROOT_PATH=/fastapi
export VENV=$root/.venv
gateway=http://$LISTEN
secure=https://localhost:$listen_tls
config=$RUN_DIR/gateway.toml
cp "$examples/demo/gateway.toml" "$config"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
  -keyout "$TLS_DIR/privkey.pem" -out "$TLS_DIR/fullchain.pem" 2>"$RUN_DIR/openssl.log"

# start NAME COMMAND...: in the background, its output to a log of that name.
start() {
  local name=$1
  shift
  "$@" >"$RUN_DIR/$name.log" 2>&1 </dev/null &
  pids+=($!)
}

say "starting the apps and the gateway"
note "Flask on Gunicorn (sync) at unix:$FLASK_SOCKET"
start flask "$examples/flask/start.sh"
note "Django on Gunicorn (gthread) at $DJANGO_BIND"
start django "$examples/django/start.sh"
note "FastAPI on three Uvicorn processes at ports $FASTAPI_PORT_1, $FASTAPI_PORT_2, $FASTAPI_PORT_3"
start fastapi "$examples/fastapi/start.sh"
"$PROPYLON_BIN" check --config "$config" >/dev/null
start gateway "$PROPYLON_BIN" run --config "$config"
gateway_pid=${pids[-1]}

# until_ok SECONDS URL: polls until it answers 2xx.
until_ok() {
  local end=$((SECONDS + $1))
  until curl -sf -o /dev/null --max-time 2 "$2"; do
    kill -0 "$gateway_pid" 2>/dev/null || { echo "the gateway ended" >&2 && exit 1; }
    [ $SECONDS -lt $end ] || { echo "no answer from $2 within $1 s" >&2 && exit 1; }
    sleep 0.1
  done
}
until_ok 60 "http://$ADMIN/readyz"
cat "$RUN_DIR/gateway.log"

say "who is there"
show curl -sS "$gateway/"
for app in flask django fastapi; do
  show curl -sS "$gateway/$app/"
done

say "what each app saw of a client that claims to be 6.6.6.6 and to have come by https"
for app in flask django fastapi; do
  curl -sS -H 'X-Forwarded-For: 6.6.6.6' -H 'X-Forwarded-Proto: https' "$gateway/$app/whoami" | python3 -c '
import json, sys
seen = json.load(sys.stdin)
fields = {name.lower(): value for name, value in seen["headers"]}
request_id = fields.get("x-request-id", "none")
print("{framework:8} client {client}  scheme {scheme}  prefix {prefix}  path {path}".format(**seen), " request id", request_id)'
done

say "the same over HTTPS: what the client and the gateway agree on, and what FastAPI is told"
printf '$ curl -sSv --cacert fullchain.pem %s\n' "$secure/fastapi/whoami"
curl -sSv --cacert "$TLS_DIR/fullchain.pem" -o "$RUN_DIR/seen" "$secure/fastapi/whoami" 2>"$RUN_DIR/agreed"
grep -E 'SSL connection using|ALPN: server|^< HTTP/' "$RUN_DIR/agreed" | tr -d '\r'
python3 -c '
import json, sys
print("client {client}  scheme {scheme}  host {host}".format(**json.load(sys.stdin)))' <"$RUN_DIR/seen"

say "an event stream over HTTP/2: the app has something to say every half second"
printf '$ curl -sSN --cacert fullchain.pem %s\n' "$secure/fastapi/live/events?count=4"
# The time in microseconds, whatever the language puts between seconds and their parts.
start=${EPOCHREALTIME/[.,]/}
curl -sSN --cacert "$TLS_DIR/fullchain.pem" -w 'over HTTP/%{http_version}\n' "$secure/fastapi/live/events?count=4" |
  while IFS= read -r line; do
    [[ $line != data* && $line != over* ]] || printf '%5d ms  %s\n' $(((${EPOCHREALTIME/[.,]/} - start) / 1000)) "$line"
  done

say "an upload of 1 MB, as Django received it"
head -c 1000000 /dev/urandom >"$RUN_DIR/upload"
show curl -sS --data-binary "@$RUN_DIR/upload" "$gateway/django/echo"
printf '\n$ sha256sum %s\n' "$RUN_DIR/upload"
sha256sum <"$RUN_DIR/upload"

say "30 requests over three Uvicorn processes: which process answered how many"
for _ in {1..30}; do curl -sS "$gateway/fastapi/"; done | sort | uniq -c

say "one of them is killed: 30 more requests, and their status codes"
victim=$(curl -sS "$gateway/fastapi/whoami" | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])')
show kill -KILL "$victim"
for _ in {1..30}; do curl -s -o /dev/null -w '%{http_code}\n' "$gateway/fastapi/"; done | sort | uniq -c

say "20 clients upload more slowly than anybody can wait to Flask, which has 2 workers; somebody else asks meanwhile"
python3 - "$LISTEN" "$RUN_DIR/uploading" <<'PY' &
import pathlib, socket, sys, time

address = sys.argv[1].rsplit(":", 1)
uploads = [socket.create_connection(address) for _ in range(20)]
for upload in uploads:
    upload.sendall(b"POST /flask/echo HTTP/1.1\r\nHost: slow\r\nContent-Length: 100000\r\n\r\n")
pathlib.Path(sys.argv[2]).touch()
while True:
    for upload in uploads:
        upload.sendall(b"x")
    time.sleep(0.1)
PY
slow=$!
pids+=($slow)
until [ -e "$RUN_DIR/uploading" ]; do sleep 0.1; done
show curl -sS --max-time 5 "$gateway/flask/"
kill $slow

say "Flask's Gunicorn is stopped and started while 3 clients ask without a pause: the status codes of their requests"
for client in 1 2 3; do
  while [ ! -e "$RUN_DIR/restarted" ]; do curl -s -o /dev/null -w '%{http_code}\n' "$gateway/flask/"; done >"$RUN_DIR/codes.$client" &
  clients[client]=$!
done
show kill -TERM "${pids[0]}"
wait "${pids[0]}" || true
start flask "$examples/flask/start.sh"
pids[0]=${pids[-1]}
until_ok 30 "$gateway/flask/"
touch "$RUN_DIR/restarted"
wait "${clients[@]}"
sort "$RUN_DIR"/codes.* | uniq -c

say "8 requests to a route that lets each client ask 5 times an hour: the status codes, and what the last one is told"
for _ in {1..7}; do curl -s -o /dev/null -w '%{http_code}\n' "$gateway/limited/"; done | sort | uniq -c
curl -sS -D - -o /dev/null "$gateway/limited/" | grep -iE '^(HTTP|retry-after|ratelimit)' | tr -d '\r'

say "30 clients ask at once for a report that takes Flask a second: how many got which answer, and in what time"
start=${EPOCHREALTIME/[.,]/}
for client in {1..30}; do curl -sS "$gateway/flask/slow?seconds=1" >"$RUN_DIR/report.$client" & reports[client]=$!; done
wait "${reports[@]}"
sort "$RUN_DIR"/report.* | uniq -c
printf '%5d ms\n' $(((${EPOCHREALTIME/[.,]/} - start) / 1000))
curl -sS -D - -o /dev/null "$gateway/flask/slow?seconds=1" | grep -iE '^(HTTP|age|cache-status)' | tr -d '\r'
show "$PROPYLON_BIN" purge --config "$config" --prefix "$gateway/flask/"

say "a reload: the front page changes, no connection is lost"
sed -i 's/GREETING:-three apps/GREETING:-reloaded: three apps/' "$config"
show "$PROPYLON_BIN" reload --config "$config"
show curl -sS "$gateway/"

say "a configuration that is wrong is refused, and the old one stays"
sed 's/^upstream = "flask"/upstream = "flaks"/' "$config" >"$RUN_DIR/wrong.toml"
show "$PROPYLON_BIN" check --config "$RUN_DIR/wrong.toml" 2>&1 && exit 1
note "exit code $?"

say "the access log of the last request"
until tail -n 1 "$ACCESS_LOG" | grep -q '"route":"front"'; do sleep 0.1; done
tail -n 1 "$ACCESS_LOG" | python3 -m json.tool --no-ensure-ascii

say "some metrics"
curl -sS "http://$ADMIN/metrics" |
  awk '/^propylon_(requests_total|upstream_(requests_total|healthy|retries_total))/ && ($NF > 0 || /healthy/)'

if [ -n "${KEEP:-}" ]; then
  # From here on Ctrl-C is the way it is meant to end.
  trap 'exit 0' INT
  say "running at $gateway/, $secure/fastapi/live and http://$ADMIN/ (logs in $RUN_DIR); Ctrl-C stops it"
  note "the certificate is signed by itself: a browser asks before it shows the page"
  wait "$gateway_pid"
fi
say "stopping"
