"""The loads, each a process of its own, so that slow clients do not slow the one that measures.

    shield_load.py KIND '{"port": …, …}'

It writes one JSON value a line: first "ready", last what it found. The line "go" on standard input makes it go on;
the end of standard input makes it stop. It is started and ended by shield_stage.py.
"""

import asyncio
import collections
import json
import random
import signal
import socket
import sys
import time

from shield_http import Broken, Connection, request_head

# After a failed answer, as long as a good one takes: a failure is not to be cheaper than an answer.
PAUSE = 0.020
BODY = b"b" * 700
# Of a slow transfer: one each 0.2 s at 5 KB/s.
PIECE = 1024
BIG = 12_000_000


def tell(value):
    print(json.dumps(value), flush=True)


async def told():
    """The next line of standard input; empty at its end."""
    return (await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)).strip()


async def until_stopped(tasks):
    """Lets the tasks run until standard input ends, then ends them; what one of them raised ends this process."""
    await told()
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


class Tally:
    """What became of each request: (when it ended, seconds it took, method, id, None or why it failed)."""

    def __init__(self, port, mixed, path):
        self.port, self.mixed, self.path = port, mixed, path
        self.done = []

    async def request(self, connection, client, number):
        posts = self.mixed and (client + number) % 2
        method, name, body = ("POST", f"p{client}-{number}", BODY) if posts else ("GET", f"g{client}-{number}", b"")
        start, wrong = time.monotonic(), None
        try:
            status, answer = await connection.ask(method, f"{self.path}?id={name}", body)
            if not 200 <= status < 300:
                wrong = str(status)
            elif answer != f"{name} {len(body)}".encode():
                wrong = "another answer"
        except Broken as broken:
            wrong = str(broken)
        end = time.monotonic()
        self.done.append((end, end - start, method, name, wrong))
        if wrong:
            await asyncio.sleep(PAUSE)

    def report(self, start, end):
        """Of the answers that came between two moments; the ids of the POSTs, for the app's journal to be held against."""
        rows = [row for row in self.done if start <= row[0] <= end]
        good = sorted(row[1] for row in rows if row[4] is None)
        failed = [row for row in rows if row[4] is not None]
        return {
            "answers": len(good), "seconds": end - start, "answers_per_second": len(good) / (end - start),
            "p50_ms": percentile(good, 0.50), "p99_ms": percentile(good, 0.99),
            "failed": len(failed), "failed_get": sum(row[2] == "GET" for row in failed),
            "failed_post": [(row[3], row[4]) for row in failed if row[2] == "POST"],
            "answered_post": [row[3] for row in rows if row[2] == "POST" and row[4] is None],
            "why": dict(collections.Counter(row[4] for row in failed)),
            "first_failed": [{"after": row[0] - start, "method": row[2], "id": row[3], "why": row[4]} for row in failed[:20]],
        }


def percentile(ordered, share):
    """Nearest rank, in milliseconds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else None


async def timed(port, clients, seconds, warm=0.0, mixed=False, path="/work"):
    """Closed loop for some seconds after the warm-up; what is under way at the end of a warmed-up run is not counted."""
    tally = Tally(port, mixed, path)
    start = time.monotonic() + warm
    end = start + seconds

    async def client(own):
        connection, number = Connection(port), 0
        while time.monotonic() < end:
            await tally.request(connection, own, number)
            number += 1
        connection.close()

    tasks = [asyncio.create_task(client(own)) for own in range(clients)]
    tell("ready")
    # Without a warm-up every request counts, the last ones too: the deadline of each is the connection's.
    await asyncio.wait(tasks, timeout=warm + seconds if warm else None)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tell(tally.report(start, end if warm else time.monotonic()))


async def counted(port, clients, requests, path="/quick"):
    """Closed loop, GET and POST in turn, until so many requests have been made."""
    tally = Tally(port, True, path)
    start, left = time.monotonic(), iter(range(requests))

    async def client(own):
        connection, number = Connection(port), 0
        for _ in left:
            await tally.request(connection, own, number)
            number += 1
        connection.close()

    tell("ready")
    await asyncio.gather(*(client(own) for own in range(clients)))
    tell(tally.report(start, time.monotonic()))


async def uploaders(port, clients, size, rate):
    """Each uploads so many bytes at so many a second, again and again, on a new connection each time."""
    found = collections.Counter()

    async def upload(length):
        connection = Connection(port)
        try:
            async with asyncio.timeout(length / rate + 60):
                connection.reader, connection.writer = await asyncio.open_connection("127.0.0.1", port)
                connection.writer.write(request_head("POST", "/upload", length))
                due = time.monotonic()
                for sent in range(0, length, PIECE):
                    connection.writer.write(b"u" * min(PIECE, length - sent))
                    await connection.writer.drain()
                    due += PIECE / rate
                    await asyncio.sleep(due - time.monotonic())
                status, answer = await connection.answer()
                return "whole" if status == 200 and answer == f" {length}".encode() else str(status)
        except (OSError, EOFError, ValueError, IndexError) as error:
            # A TimeoutError is an OSError.
            return type(error).__name__
        finally:
            connection.close()

    async def client():
        # The first is a part of one, so that they do not all end at once; after that they stay apart.
        length = random.randint(PIECE, size)
        while True:
            outcome = await upload(length)
            found[outcome] += 1
            length = size
            if outcome != "whole":
                await asyncio.sleep(0.5)

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    tell("ready")
    await until_stopped(tasks)
    tell({"whole": found.pop("whole", 0), "failed": sum(found.values()), "why": dict(found)})


async def readers(port, clients, rate, patience):
    """Each asks for 12 MB and reads them at so many bytes a second. Ready when each has its first bytes, or patience ends."""
    got, why = [0] * clients, collections.Counter()
    loop = asyncio.get_running_loop()

    async def client(own):
        # They come one after the other, within a second.
        await asyncio.sleep(own / clients)
        with socket.socket() as connection:
            # Before connecting, or the kernel takes a large part of the answer for the client.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, request_head("GET", "/big", 0))
            due = time.monotonic()
            while got[own] < BIG:
                piece = await loop.sock_recv(connection, PIECE)
                if not piece or (got[own] == 0 and not piece.startswith(b"HTTP/1.1 200")):
                    why[piece.partition(b"\r\n")[0].decode("latin-1") or "closed"] += 1
                    return
                got[own] += len(piece)
                due = max(due + PIECE / rate, time.monotonic())
                await asyncio.sleep(due - time.monotonic())

    async def tolerant(own):
        try:
            await client(own)
        except OSError as error:
            why[type(error).__name__] += 1

    tasks = [asyncio.create_task(tolerant(own)) for own in range(clients)]
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and not all(got):
        await asyncio.sleep(0.05)
    tell("ready")
    await until_stopped(tasks)
    tell({"began": sum(map(bool, got)), "bytes": sum(got), "broken": sum(why.values()), "why": dict(why)})


async def queued(port, clients, path="/quick"):
    """Connects all, says ready; at "go" asks on all, says "asked"; at "go" reads all the answers."""
    held = []
    for _ in range(clients):
        held.append(socket.create_connection(("127.0.0.1", port), 30))
    tell("ready")
    await told()
    for connection in held:
        connection.sendall(request_head("GET", path, 0))
    tell("asked")
    await told()
    # One after the other is as good as all at once: each answer waits in its socket.
    found, deadline = collections.Counter(), time.monotonic() + 120
    for connection in held:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            line = connection.recv(65536).partition(b"\r\n")[0].decode("latin-1")
            found[line[9:12] or "closed"] += 1
        except OSError as error:
            found[type(error).__name__] += 1
    tell({"answered": found.pop("200", 0), "failed": sum(found.values()), "why": dict(found)})


KINDS = {each.__name__: each for each in (timed, counted, uploaders, readers, queued)}

if __name__ == "__main__":
    # Ctrl-C reaches the whole group; the one who started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(KINDS[sys.argv[1]](**json.loads(sys.argv[2])))
