"""An app that writes down each request it is given, for WSGI (`recorder:wsgi`) and ASGI (`recorder:asgi`).

One JSON line a request goes to $RECORD_FILE before the answer does, so whoever has the answer can read the line. Bytes are
written as Latin-1, which maps each byte to one character. GET /healthz is answered and not written down. Of a request below
/streamed/ ASGI writes a line before its body is read as well.
"""

import json
import os


def record(line):
    """In one write, so that a reader never sees half a line."""
    with open(os.environ["RECORD_FILE"], "ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def wsgi_body(environ):
    """The body, and whether all of it came."""
    stream, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
    if not length and environ.get("wsgi.input_terminated"):
        return stream.read(), True
    body = stream.read(int(length or 0))
    return body, len(body) == int(length or 0)


def wsgi_fields(environ):
    """Names as the server made them, without the letters that WSGI puts in front."""
    fields = []
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            fields.append([name[5:].replace("_", "-").lower(), value])
        elif name in ("CONTENT_LENGTH", "CONTENT_TYPE") and value:
            fields.append([name.replace("_", "-").lower(), value])
    return fields


def wsgi(environ, start_response):
    if environ["PATH_INFO"] != "/healthz":
        try:
            body, whole = wsgi_body(environ)
        except Exception:  # Each server has an exception of its own for a client that left.
            body, whole = b"", False
        record(
            {
                "method": environ["REQUEST_METHOD"],
                "path": environ["SCRIPT_NAME"] + environ["PATH_INFO"],
                "query": environ.get("QUERY_STRING", ""),
                "target": environ.get("RAW_URI", environ.get("REQUEST_URI")),
                "fields": wsgi_fields(environ),
                "body": body.decode("latin-1"),
                "whole": whole,
            }
        )
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"seen"]


async def asgi_body(receive):
    """The body, and whether all of it came."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request":
            return body, False
        if not message.get("more_body"):
            return body, True


def asgi_target(scope):
    """The target as it came, where the server keeps it."""
    if not scope.get("raw_path"):
        return None
    # The specification has no query in raw_path; one that is there all the same stays where it is.
    query = scope["query_string"]
    return (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    if scope["type"] != "http":
        record({"method": scope["type"], "path": scope["path"]})
        return
    if scope["path"].startswith("/streamed/"):
        record({"begun": scope["path"]})
    if scope["path"] != "/healthz":
        body, whole = await asgi_body(receive)
        record(
            {
                "method": scope["method"],
                # Text to ASGI, decoded as UTF-8; back to the bytes it came from.
                "path": scope["path"].encode("utf-8", "surrogateescape").decode("latin-1"),
                "query": scope["query_string"].decode("latin-1"),
                "target": asgi_target(scope),
                "fields": [[name.decode("latin-1").lower(), value.decode("latin-1")] for name, value in scope["headers"]],
                "body": body.decode("latin-1"),
                "whole": whole,
            }
        )
    fields = [(b"content-type", b"text/plain"), (b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"seen"})
