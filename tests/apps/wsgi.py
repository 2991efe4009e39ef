"""A bare WSGI app for the integration tests: no framework, so that a test sees what the server itself made of a request.

Paths (all methods unless said otherwise):
/               who answered
/whoami         the whole environ as the server gave it, strings only
/healthz        200 "ok"
/slow?seconds=  answers after that long; where there is a $RECORD_FILE, appends one line to it first
/echo           length and SHA-256 of the body
/big?bytes=     that many bytes, without a Content-Length where the server allows it
/boom           raises
/status?code=   that status; 204 and 304 without a body
/record         appends one line to $RECORD_FILE, then answers: counts side effects
/die            appends one line to $RECORD_FILE, then kills its own process before answering
"""

import hashlib
import json
import os
import signal
import time
from urllib.parse import parse_qs

BLOCK = b"x" * 65536


def body_of(environ):
    """The request body, whether it came with a length or chunked."""
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return stream.read()
    return stream.read(int(environ.get("CONTENT_LENGTH") or 0))


def record(line):
    """One line in one write, so that several processes may append to one file."""
    with open(os.environ["RECORD_FILE"], "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def blocks(count):
    while count > 0:
        yield BLOCK[:count]
        count -= len(BLOCK)


def app(environ, start_response):
    path = environ.get("PATH_INFO", "")
    query = parse_qs(environ.get("QUERY_STRING", ""))

    def argument(name, default):
        return query.get(name, [default])[0]

    def answer(value, status="200 OK"):
        body = json.dumps(value).encode()
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    who = f"{environ['REQUEST_METHOD']} {path}"
    if path == "/whoami":
        seen = {name: value for name, value in environ.items() if isinstance(value, str)}
        return answer({"server": "wsgi", "pid": os.getpid(), "environ": seen})
    if path == "/healthz":
        return answer("ok")
    if path == "/slow":
        if "RECORD_FILE" in os.environ:
            record(who)
        time.sleep(min(float(argument("seconds", "1")), 60))
        return answer({"pid": os.getpid()})
    if path == "/echo":
        body = body_of(environ)
        return answer({"length": len(body), "sha256": hashlib.sha256(body).hexdigest()})
    if path == "/big":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return blocks(int(argument("bytes", "1000000")))
    if path == "/boom":
        raise RuntimeError("boom, as asked")
    if path == "/status":
        code = int(argument("code", "200"))
        if code in (204, 304):
            start_response(f"{code} As Asked", [("ETag", '"x"')])
            return []
        return answer({"pid": os.getpid()}, f"{code} As Asked")
    if path == "/record":
        record(who)
        return answer({"pid": os.getpid()})
    if path == "/die":
        record(who)
        os.kill(os.getpid(), signal.SIGKILL)
    return answer({"server": "wsgi", "pid": os.getpid()})
