"""A small FastAPI app behind Propylon. It says what it saw, so that you can check what the gateway told it."""

import asyncio
import hashlib
import json
import os
import time
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

# Where the gateway mounts the app below a path (strip_prefix), FastAPI must know the path to build its links.
app = FastAPI(title="Behind Propylon", root_path=os.environ.get("FASTAPI_ROOT_PATH", ""))

SLOWEST_SECONDS = 60.0
BIGGEST_BYTES = 1 << 30
BLOCK = b"x" * 65536
LIVE = Path(__file__).with_name("live.html").read_text()
MOST_EVENTS = 1000


@app.get("/", response_class=PlainTextResponse)
async def index():
    return f"hello from FastAPI, process {os.getpid()}\n"


@app.get("/whoami")
async def whoami(request: Request):
    prefix = request.scope.get("root_path", "")
    return {
        "framework": "fastapi",
        "pid": os.getpid(),
        "client": request.client.host if request.client else None,
        "scheme": request.url.scheme,
        "host": request.headers.get("host"),
        "prefix": prefix,
        "path": request.scope["path"].removeprefix(prefix),
        "headers": request.headers.items(),
    }


@app.get("/healthz", response_class=PlainTextResponse)
async def healthz():
    return "ok\n"


@app.get("/slow", response_class=PlainTextResponse)
async def slow(seconds: float = 1.0):
    seconds = min(max(seconds, 0.0), SLOWEST_SECONDS)
    await asyncio.sleep(seconds)
    return f"slept {seconds} s in process {os.getpid()}\n"


@app.post("/echo")
async def echo(request: Request):
    digest, length = hashlib.sha256(), 0
    async for block in request.stream():
        digest.update(block)
        length += len(block)
    return {"length": length, "sha256": digest.hexdigest()}


@app.get("/big")
async def big(bytes: int = 1_000_000):
    async def blocks(left):
        while left > 0:
            yield BLOCK[:left]
            left -= len(BLOCK)

    return StreamingResponse(blocks(min(bytes, BIGGEST_BYTES)), media_type="application/octet-stream")


@app.get("/boom")
async def boom():
    raise RuntimeError("boom, as asked")


@app.get("/live", response_class=HTMLResponse)
async def live():
    return LIVE


@app.websocket("/live/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


@app.get("/live/events")
async def events(count: int = 5, pause: float = 0.5):
    async def told():
        for number in range(1, min(count, MOST_EVENTS) + 1):
            if number > 1:
                await asyncio.sleep(min(max(pause, 0.0), SLOWEST_SECONDS))
            said = {"number": number, "of": count, "sent": time.time(), "pid": os.getpid()}
            yield f"id: {number}\ndata: {json.dumps(said)}\n\n"

    return StreamingResponse(told(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


# Two paths, so that the gateway can let one of them have less.
@app.post("/live/upload")
@app.post("/live/small")
async def upload(request: Request):
    async with request.form() as form:
        file, digest = form["file"], hashlib.sha256()
        while block := await file.read(65536):
            digest.update(block)
        return {"name": file.filename, "length": file.size, "sha256": digest.hexdigest()}
