"""The rows of the race: who generates each load, and what is measured.

A load generator that reports a failed request ends the race: what failed cost the gateway something else.
"""

import dataclasses
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from race_gateways import CIPHER_SUITE, GROUP, LOAD_CORE, client_environment
from race_handshakes import client_context, connected
from rig import fail, processor_seconds, resident_bytes

CONNECTIONS = 32
H2_CONNECTIONS, H2_STREAMS = 8, 16
HANDSHAKE_CLIENTS = 8

POST_SCRIPT = """wrk.method = "POST"
wrk.body = string.rep("x", {size})
wrk.headers["Content-Type"] = "application/octet-stream"
"""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One round of one gateway: microseconds of processor time a request, requests a second, seconds of latency, bytes resident at
    the end."""

    cost: float
    rate: float
    p50: float
    p99: float
    memory: int


@dataclasses.dataclass(frozen=True)
class Load:
    """A row: `drive` gets the load, a port, the benchmark's directory and the seconds, and returns the requests and their p50 and p99 in
    seconds. Gateways have it that have its `kind`, and TLS if there is a certificate; without one it is plain HTTP."""

    name: str
    path: str
    drive: Callable
    certificate: str | None = None
    kind: str = "plain"
    # The size of the body that wrk posts, if it does.
    posted: int | None = None
    # Whether every answer but the first is to be 429.
    refused: bool = False
    # Whether limits are shared through Redis.
    redis: bool = False
    # Whether requests are logged.
    log: bool = False
    # The most that it may cost as a ratio to nginx, and what is aimed at.
    goal: float | None = None
    aim: float | None = None

    def needs(self):
        """What the gateways must be started with."""
        return {"certificate": self.certificate, "redis": self.redis, "log": self.log}

    def has(self, gateway):
        return {self.kind, "TLS" if self.certificate else self.kind} <= gateway.rows


def generated(command, directory, seconds):
    """Runs a load generator on its core."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 30, env=client_environment(directory),
        preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE}),
    )


def duration(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit]


def wrk(load, port, directory, seconds):
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", "--latency"]
    if load.posted:
        script = directory / f"post-{load.posted}.lua"
        script.write_text(POST_SCRIPT.format(size=load.posted))
        command += ["-s", str(script)]
    # Over TLS the name is sent as the server's name, which an address must not be.
    origin = f"https://localhost:{port}" if load.certificate else f"http://127.0.0.1:{port}"
    run = generated([*command, f"{origin}{load.path}"], directory, seconds)
    done = re.search(r"(\d+) requests in", run.stdout)
    wrong = re.search(r"Socket errors.*|Non-2xx.*", run.stdout)
    if load.refused and wrong and done:
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", wrong.group())
        # The first of all, and one when the minute is over.
        wrong = None if refused and int(done.group(1)) - int(refused.group(1)) <= 2 else wrong
    if run.returncode or not done or wrong:
        fail(f"wrk against port {port}{load.path}: {wrong.group() if wrong else run.stdout + run.stderr}")
    latency = [duration(re.search(rf"^ +{share}% +(\S+)$", run.stdout, re.MULTILINE).group(1)) for share in (50, 99)]
    return int(done.group(1)), *latency


def h2load(load, port, directory, seconds):
    log = directory / "h2load.log"
    log.unlink(missing_ok=True)
    command = ["h2load", "-t1", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", f"-D{seconds}", f"--connect-to=127.0.0.1:{port}"]
    command += [f"--tls13-ciphers={CIPHER_SUITE}", f"--groups={GROUP}", f"--log-file={log}", f"https://localhost:{port}{load.path}"]
    run = generated(command, directory, seconds)
    counts = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", run.stdout)
    done, succeeded, *wrong = map(int, counts.groups()) if counts else (0, 0, 1)
    # It would take HTTP/1.1 as well, if that is all the server speaks.
    as_told = "Application protocol: h2\n" in run.stdout and f"Cipher: {CIPHER_SUITE}\n" in run.stdout
    if run.returncode or not as_told or succeeded == 0 or done != succeeded or any(wrong):
        fail(f"h2load against port {port}{load.path}: {run.stdout + run.stderr}")
    # When it began, the status, and how long it took in microseconds.
    took = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
    return succeeded, took[len(took) // 2] / 1e6, took[len(took) * 99 // 100] / 1e6


def handshakes(load, port, directory, seconds):
    program = pathlib.Path(__file__).with_name("race_handshakes.py")
    run = generated([sys.executable, "-B", str(program), str(port), str(seconds), str(HANDSHAKE_CLIENTS)], directory, seconds)
    if run.returncode:
        fail(f"handshakes at port {port}: {run.stdout}{run.stderr}")
    return tuple(json.loads(run.stdout))


LOADS = [
    Load("GET 1 KB", "/1k", wrk, goal=1.25, aim=1.0),
    Load("GET 100 KB", "/100k", wrk, goal=0.6),
    Load("GET 100 KB, default buffers", "/default/100k", wrk, kind="default", goal=0.6),
    Load("POST 1 KB", "/post", wrk, posted=1024),
    Load("POST 10 KB", "/post", wrk, posted=10240, goal=1.5, aim=1.0),
    Load("TLS GET 1 KB", "/1k", wrk, "ecdsa", goal=1.2, aim=1.0),
    Load("TLS GET 100 KB", "/100k", wrk, "ecdsa"),
    Load("TLS h2 GET 1 KB", "/1k", h2load, "ecdsa", goal=1.3, aim=1.0),
    Load("TLS h2 GET 100 KB", "/100k", h2load, "ecdsa"),
    Load("handshake ECDSA P-256", "/1k", handshakes, "ecdsa", goal=0.8),
    Load("handshake RSA-2048", "/1k", handshakes, "rsa", goal=0.8),
    Load("cache hit 1 KB", "/cached/1k", wrk, kind="cache", goal=0.8, aim=0.5),
    Load("cache hit 100 KB", "/cached/100k", wrk, kind="cache", goal=0.5),
    Load("cache hit TLS 1 KB", "/cached/1k", wrk, "ecdsa", kind="cache"),
    Load("cache hit TLS h2 1 KB", "/cached/1k", h2load, "ecdsa", kind="cache"),
    Load("full set GET 1 KB", "/full/1k", wrk, kind="full", log=True, goal=1.2, aim=1.0),
    Load("limit GET 1 KB", "/limited/1k", wrk, kind="limit"),
    Load("limit refused", "/refused/1k", wrk, kind="refused", refused=True, goal=0.7),
    Load("limit Redis GET 1 KB", "/limited/1k", wrk, kind="redis", redis=True),
    Load("limit Redis refused", "/refused/1k", wrk, kind="redis", refused=True, redis=True),
]

# The memory of idle connections: the row's name, the certificate if they are TLS ones, and how many KB one may cost.
IDLE = [("idle connection", None, 8), ("idle TLS connection", "ecdsa", 30)]


def measure(server, load, directory, seconds):
    before, start = processor_seconds(server.pid), time.monotonic()
    requests, p50, p99 = load.drive(load, server.port, directory, seconds)
    spent, took = processor_seconds(server.pid) - before, time.monotonic() - start
    return Sample(spent / requests * 1e6, requests / took, p50, p99, resident_bytes(server.pid))


def is_established(connection):
    # Its first byte is the state; 1 is ESTABLISHED.
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1


def idle_bytes(server, count, tls):
    """Resident bytes that one more idle connection costs, after one request on each."""
    request = b"GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n"
    context = client_context() if tls else None

    def opened():
        connection = connected(context, server.port) if tls else socket.create_connection(("127.0.0.1", server.port), 10)
        # Over TLS the session tickets come before the answer, and are read with it.
        connection.sendall(request)
        got = b""
        while not (got.partition(b"\r\n\r\n")[1] and len(got.partition(b"\r\n\r\n")[2]) >= 1024):
            block = connection.recv(65536)
            if not block:
                fail(f"{server.name} closed a connection after {len(got)} bytes")
            got += block
        return connection

    connections = []
    try:
        # The first ones pay for pools and tables that all share.
        connections += [opened() for _ in range(100)]
        before = resident_bytes(server.pid)
        connections += [opened() for _ in range(count)]
        after = resident_bytes(server.pid)
        closed = sum(not is_established(connection) for connection in connections)
        if closed:
            fail(f"{server.name} closed {closed} idle connections")
        return (after - before) / count
    finally:
        for connection in connections:
            connection.close()


def ratios(samples, reference, what):
    """Of each round to the reference's of the same round: median, least and greatest."""
    of = [getattr(mine, what) / getattr(theirs, what) for mine, theirs in zip(samples, reference, strict=True)]
    return statistics.median(of), min(of), max(of)
