"""A small Flask app behind Propylon. It says what it saw, so that you can check what the gateway told it."""

import hashlib
import os
import time

from flask import Flask, Response, jsonify, request
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
# Propylon deletes what the client claimed and sends exactly one value of each of these fields, so one hop is right.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)

SLOWEST_SECONDS = 60.0
BIGGEST_BYTES = 1 << 30
BLOCK = b"x" * 65536


@app.get("/")
def index():
    return Response(f"hello from Flask, process {os.getpid()}\n", mimetype="text/plain")


@app.get("/whoami")
def whoami():
    return jsonify(
        framework="flask",
        pid=os.getpid(),
        client=request.remote_addr,
        scheme=request.scheme,
        host=request.host,
        prefix=request.script_root,
        path=request.path,
        headers=[[name, value] for name, value in request.headers.items()],
    )


@app.get("/healthz")
def healthz():
    return Response("ok\n", mimetype="text/plain")


@app.get("/slow")
def slow():
    seconds = min(request.args.get("seconds", 1.0, float), SLOWEST_SECONDS)
    time.sleep(max(seconds, 0.0))
    return Response(f"slept {seconds} s in process {os.getpid()}\n", mimetype="text/plain")


@app.post("/echo")
def echo():
    body = request.get_data(cache=False)
    return jsonify(length=len(body), sha256=hashlib.sha256(body).hexdigest())


@app.get("/big")
def big():
    size = min(request.args.get("bytes", 1_000_000, int), BIGGEST_BYTES)

    def blocks(left):
        while left > 0:
            yield BLOCK[:left]
            left -= len(BLOCK)

    return Response(blocks(size), mimetype="application/octet-stream")


@app.get("/boom")
def boom():
    raise RuntimeError("boom, as asked")
