"""A stock screener: quotes, a screen over all of them, and the pages that show both."""

import hashlib
import os
import time
from datetime import datetime, timezone

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
# Style sheets and the like may be kept for an hour.
app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 3600
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)

SYMBOLS = [f"{first}{second}{third}" for first in "ABCDE" for second in "KLMN" for third in "XYZ"]
# How long the database takes for a screen.
SCREEN_SECONDS = float(os.environ.get("SCREEN_SECONDS", "0.5"))
served = {"requests": 0}


def quote_of(symbol):
    digest = hashlib.sha256(symbol.encode()).digest()
    price = 5 + digest[0] + digest[1] / 256
    return {"symbol": symbol, "price": round(price, 2), "pe": 4 + digest[2] / 4, "dividend": round(digest[3] / 50, 2)}


def now():
    return datetime.now(timezone.utc).isoformat()


@app.before_request
def count():
    served["requests"] += 1


@app.get("/")
def index():
    return render_template("index.html", quotes=[quote_of(symbol) for symbol in SYMBOLS[:10]], as_of=now())


@app.get("/api/quotes/<symbol>")
def quote(symbol):
    if symbol not in SYMBOLS:
        return jsonify(error="no such symbol"), 404
    return jsonify(as_of=now(), quote=quote_of(symbol))


@app.get("/api/screen")
def screen():
    most = request.args.get("max_pe", 20.0, float)
    least = request.args.get("min_dividend", 0.0, float)
    time.sleep(SCREEN_SECONDS)
    quotes = (quote_of(symbol) for symbol in SYMBOLS)
    found = [quote for quote in quotes if quote["pe"] <= most and quote["dividend"] >= least]
    return jsonify(as_of=now(), found=found)


@app.post("/api/alerts")
def alert():
    wanted = request.get_json()
    if wanted.get("symbol") not in SYMBOLS:
        return jsonify(error="no such symbol"), 400
    return jsonify(symbol=wanted["symbol"], below=wanted.get("below"), since=now()), 201


@app.get("/health")
def health():
    return jsonify(status="ok")


@app.get("/metrics")
def metrics():
    text = f"# TYPE screener_requests_total counter\nscreener_requests_total {served['requests']}\n"
    return Response(text, mimetype="text/plain")
