"""A bare ASGI app for the integration tests: no framework, so that a test sees what the server itself made of a request.

The paths of wsgi.py, and:
…/duplex              every piece of the body twice, as it comes
/events?count=&gap=   server-sent events, one every gap seconds
/events-until-disconnect   one event, and then as the next
/until-disconnect     waits for http.disconnect, then appends one line to $RECORD_FILE
WebSocket, any path   echoes every message; closes with 1000 on "bye", with 4001 and "why" on "bye 4001 why"; where
                      there is a $RECORD_FILE, notes the code it was closed with
/refuse               a WebSocket is refused before it begins
/whoami               the scope is the first message; the first subprotocol is taken
"""

import asyncio
import hashlib
import json
import os
import signal
from urllib.parse import parse_qs

BLOCK = b"x" * 65536


def record(line):
    """One line in one write, so that several processes may append to one file."""
    with open(os.environ["RECORD_FILE"], "ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def described(scope):
    """The scope as JSON can hold it: bytes as Latin-1, which maps each byte to one character."""
    return {
        "server": "asgi",
        "pid": os.getpid(),
        "client": scope.get("client"),
        "scheme": scope.get("scheme"),
        "path": scope["path"],
        "raw_path": (scope.get("raw_path") or b"").decode("latin-1"),
        "root_path": scope.get("root_path"),
        "query_string": scope["query_string"].decode("latin-1"),
        "http_version": scope.get("http_version"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
    }


async def body_of(receive):
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client left before its body ended")
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def websocket(scope, receive, send):
    await receive()
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close", "code": 1000})
        return
    subprotocols = scope.get("subprotocols") or [None]
    await send({"type": "websocket.accept", "subprotocol": subprotocols[0]})
    if scope["path"] == "/whoami":
        await send({"type": "websocket.send", "text": json.dumps(described(scope))})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            if "RECORD_FILE" in os.environ:
                record(f"disconnect {message.get('code')}")
            return
        text = message.get("text")
        if text is not None and text.split(" ")[0] == "bye":
            code, reason = (text.split(" ")[1:] + ["1000", ""])[:2]
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
            return
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def start(send, status, *fields):
    await send({"type": "http.response.start", "status": status, "headers": list(fields)})


async def answer(send, value, status=200):
    body = json.dumps(value).encode()
    length = str(len(body)).encode()
    await start(send, status, (b"content-type", b"application/json"), (b"content-length", length))
    await send({"type": "http.response.body", "body": body})


async def duplex(receive, send):
    await start(send, 200, (b"content-type", b"application/octet-stream"))
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        # More than it read: the pipe back is full before the pipe here is empty.
        await send({"type": "http.response.body", "body": message["body"] * 2, "more_body": more})


async def big(send, count):
    await start(send, 200, (b"content-type", b"application/octet-stream"))
    while count > 0:
        await send({"type": "http.response.body", "body": BLOCK[:count], "more_body": True})
        count -= len(BLOCK)
    await send({"type": "http.response.body", "body": b""})


async def events(send, count, gap):
    await start(send, 200, (b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"))
    for number in range(count):
        body = f"data: {number}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(gap)
    await send({"type": "http.response.body", "body": b""})


async def http(scope, receive, send):
    path = scope["path"]
    query = parse_qs(scope["query_string"].decode("latin-1"))

    def argument(name, default):
        return query.get(name, [default])[0]

    who = f"{scope['method']} {path}"
    if path == "/whoami":
        await answer(send, described(scope))
    elif path == "/healthz":
        await answer(send, "ok")
    elif path == "/slow":
        await asyncio.sleep(min(float(argument("seconds", "1")), 60))
        await answer(send, {"pid": os.getpid()})
    elif path == "/echo":
        body = await body_of(receive)
        await answer(send, {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()})
    elif path.endswith("/duplex"):
        await duplex(receive, send)
    elif path == "/big":
        await big(send, int(argument("bytes", "1000000")))
    elif path == "/boom":
        raise RuntimeError("boom, as asked")
    elif path == "/status":
        code = int(argument("code", "200"))
        if code in (204, 304):
            await start(send, code, (b"etag", b'"x"'))
            await send({"type": "http.response.body", "body": b""})
        else:
            await answer(send, {"pid": os.getpid()}, code)
    elif path == "/record":
        record(who)
        await answer(send, {"pid": os.getpid()})
    elif path == "/die":
        record(who)
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/events":
        await events(send, int(argument("count", "10")), float(argument("gap", "0.1")))
    elif path == "/events-until-disconnect":
        await start(send, 200, (b"content-type", b"text/event-stream"))
        await send({"type": "http.response.body", "body": b"data: here\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        record(who)
    elif path == "/until-disconnect":
        while (await receive())["type"] != "http.disconnect":
            pass
        record(who)
    else:
        await answer(send, {"server": "asgi", "pid": os.getpid()})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)
