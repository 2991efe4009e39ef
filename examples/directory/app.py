"""A directory of places: find them, and sign in to add one."""

import os
import secrets
import time

from flask import Flask, Response, abort, jsonify, request, session
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
app.secret_key = os.environ.get("DIRECTORY_SECRET_KEY") or secrets.token_urlsafe(48)
app.config.update(SESSION_COOKIE_HTTPONLY=True)
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)

PLACES = [
    {"id": number, "name": name, "kind": kind}
    for number, (name, kind) in enumerate(
        [("Bakery on Elm", "bakery"), ("Corner Deli", "deli"), ("Grand Hall", "hall"), ("Old Library", "library")], 1
    )
]
# Of one user, for the example: the real one asks its database.
PASSWORD = os.environ.get("DIRECTORY_PASSWORD") or secrets.token_urlsafe(16)
counts = {"requests": 0}


@app.before_request
def count():
    counts["requests"] += 1


@app.get("/")
def index():
    items = "".join(f"<li>{place['name']}</li>" for place in PLACES)
    return f"<!doctype html>\n<title>Directory</title>\n<h1>Directory</h1>\n<ul>{items}</ul>\n"


@app.get("/api/places")
def places():
    kind = request.args.get("kind")
    return jsonify(places=[place for place in PLACES if kind in (None, place["kind"])])


@app.post("/api/places")
def add():
    check_token()
    if "user" not in session:
        abort(401)
    wanted = request.get_json()
    return jsonify(id=len(PLACES) + 1, name=str(wanted.get("name", ""))[:80]), 201


@app.get("/api/auth/csrf")
def csrf():
    session["csrf"] = secrets.token_urlsafe(32)
    return jsonify(token=session["csrf"])


@app.post("/api/auth/login")
def login():
    check_token()
    given = request.get_json()
    # Slow on purpose, as a good password hash is.
    time.sleep(0.05)
    if not secrets.compare_digest(str(given.get("password", "")), PASSWORD):
        return jsonify(error="wrong name or password"), 401
    session["user"] = given.get("user")
    return jsonify(user=session["user"])


def check_token():
    if not secrets.compare_digest(request.headers.get("X-CSRF-Token", ""), session.get("csrf", secrets.token_hex())):
        abort(403)


@app.get("/healthz")
def healthz():
    return jsonify(status="ok")


@app.get("/readyz")
def readyz():
    # The real one asks its database, and answers 503 where that does not answer.
    return jsonify(status="ready", places=len(PLACES))


@app.get("/metrics")
def metrics():
    text = f"# TYPE directory_requests_total counter\ndirectory_requests_total {counts['requests']}\n"
    return Response(text, mimetype="text/plain")
