"""A Flask app with a login, for the tests that no user sees what is another's.

/healthz      200
/login        POST user=NAME: logs in
/             who is logged in, from the session
/untouched    a page that does not look at the session
/careless     who is logged in, said without Vary and with a lifetime for everybody: an app's mistake

SESSION_COOKIE names the session's cookie.
"""

import os
import secrets

from flask import Flask, make_response, request, session

app = Flask(__name__)
app.secret_key = "for tests alone"
app.config["SESSION_COOKIE_NAME"] = os.environ.get("SESSION_COOKIE", "session")


@app.get("/healthz")
def healthz():
    return "ok"


@app.post("/login")
def login():
    session["user"] = request.form["user"]
    session["secret"] = secrets.token_hex(8)
    # What CVE-2023-30861 needs: the cookie is sent anew with each answer, looked at or not.
    session.permanent = True
    return f"welcome {session['user']} {session['secret']}"


@app.get("/")
def index():
    return f"<p>user {session.get('user', 'nobody')} {session.get('secret', '')}</p>"


@app.get("/untouched")
def untouched():
    return "<p>the same for everybody</p>"


@app.get("/careless")
def careless():
    # The session is read behind Flask's back, so that no Vary is added.
    name = app.config["SESSION_COOKIE_NAME"]
    data = app.session_interface.get_signing_serializer(app).loads(request.cookies[name]) if name in request.cookies else {}
    response = make_response(f"<p>user {data.get('user', 'nobody')} {data.get('secret', '')}</p>")
    response.headers["Cache-Control"] = "public, max-age=60"
    return response
