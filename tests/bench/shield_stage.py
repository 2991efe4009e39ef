"""What a scene is played on: a real Gunicorn, one gateway or none before it, a watch, and loads in processes of their own."""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import tempfile
import time

from rig import REPOSITORY, Server, fail, free_ports
from shield_gateways import Pool, gateway
from shield_watch import Watch

HERE = pathlib.Path(__file__).resolve().parent
GUNICORN = REPOSITORY / ".venv/bin/gunicorn"


class Gunicorn(Server):
    """The pool: from .venv, with its defaults, apart from what is given."""

    def __init__(self, pool, directory, *arguments):
        self.path = pool.path
        bind = f"127.0.0.1:{pool.port}" if pool.port else f"unix:{pool.path}"
        kind = "gthread" if pool.threads > 1 else "sync"
        command = [str(GUNICORN), "--bind", bind, "--workers", str(pool.workers), "--threads", str(pool.threads)]
        command += ["--worker-class", kind, "--no-control-socket", "--log-level", "warning", "--chdir", str(HERE)]
        command += [*arguments, "shield_app:application"]
        super().__init__("gunicorn", command, pool.port, directory)
        self.journal, self.release = directory / "journal", directory / "release"

    def start(self):
        os.environ.update(SHIELD_JOURNAL=str(self.journal), SHIELD_RELEASE=str(self.release), PYTHONDONTWRITEBYTECODE="1")
        super().start()

    def listens(self):
        """Whether it answers: its socket is there before its workers are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            if self.port is None:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(5)
                connection.sock.connect(str(self.path))
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        return False

    def journalled(self):
        return self.journal.read_text().split() if self.journal.exists() else []

    def received(self):
        """How often each id of a POST reached the app."""
        return collections.Counter(entry for entry in self.journalled() if not entry.startswith("@"))

    def workers_started(self):
        return sum(entry.startswith("@") for entry in self.journalled())

    def restart(self, workers):
        """Ends it and starts it cold; waits until its workers have started, without a connection of our own to its port."""
        self.stop()
        before, deadline = self.workers_started(), time.monotonic() + 30
        self.start()
        while self.workers_started() < before + workers:
            if time.monotonic() > deadline or self.process.poll() is not None:
                fail(f"Gunicorn did not start again:\n{self.log.read_text()}")
            time.sleep(0.02)


class Load:
    """One process of shield_load.py, ended when its block is left."""

    def __init__(self, kind, **about):
        self.kind, self.about = kind, about
        self.process, self.unread = None, b""

    def __enter__(self):
        command = [sys.executable, str(HERE / "shield_load.py"), self.kind, json.dumps(self.about)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def said(self, within):
        """The next value it says."""
        deadline = time.monotonic() + within
        while b"\n" not in self.unread:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            block = os.read(self.process.stdout.fileno(), 1 << 20) if ready else b""
            if not block:
                fail(f"the load {self.kind} {'ended' if ready else f'said nothing for {within} s'}")
            self.unread += block
        line, _, self.unread = self.unread.partition(b"\n")
        return json.loads(line)

    def go(self):
        self.process.stdin.write(b"go\n")

    def stopped(self):
        """Makes it stop; what it found."""
        self.process.stdin.close()
        return self.said(30)


class Stage:
    """A pool, the gateway before it (none for "direct"), and the port the clients talk to; all gone when the block is left."""

    def __init__(self, options, name, *arguments, workers=4, threads=1, unix=False, **settings):
        self.options, self.name, self.arguments, self.settings = options, name, arguments, settings
        self.shape = {"workers": workers, "threads": threads, "unix": unix}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="propylon-shield-")))
            # Root's nginx hands its work to a user who must reach the socket and the spool.
            directory.chmod(0o755)
            self.spool = directory / "spool"
            self.spool.mkdir()
            port = None if self.shape["unix"] else free_ports(1)[0]
            pool = Pool(port, directory / "app.sock", self.shape["workers"], self.shape["threads"])
            self.gunicorn = stack.enter_context(Gunicorn(pool, directory, *self.arguments))
            self.gateway, self.pool, self.port = None, pool, port
            if self.name != "direct":
                program, left_out = self.options.propylon, self.options.left_out
                self.gateway = stack.enter_context(gateway(self.name, pool, directory, program, left_out, **self.settings))
                self.port = self.gateway.port
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *about):
        return self.stack.__exit__(*about)

    def watch(self):
        return Watch(self.pool.port, self.pool.capacity, self.gateway and self.gateway.pid, self.spool)

    def never_sent(self, failed):
        """Of (id, why) of failed POSTs, the ids of those that were not sent to the pool, by the gateway's own account.

        Propylon answers 502 or 504 once it has sent something, and 503 if not. HAProxy answers 503 if not, and otherwise
        502 or, on a connection that served a request before, nothing at all. nginx answers 502 to all of them, but its
        error log says at what it failed.
        """
        if self.name == "propylon":
            return {each for each, why in failed if why not in ("502", "504")}
        if self.name == "haproxy":
            return {each for each, why in failed if why == "503"}
        lines = (self.spool.parent / "nginx.err").read_text(errors="replace").splitlines()
        connecting = [line for line in lines if "while connecting to upstream" in line]
        ids = {line.partition("?id=")[2].partition(" ")[0] for line in connecting}
        return {each for each, _ in failed if each in ids}

    def gateway_said(self, names):
        """The lines the gateway logged of the requests with these ids, for whoever wants to know why."""
        if not self.gateway or not names:
            return []
        log = self.gateway.log if self.name == "haproxy" else self.gateway.log.with_suffix(".log")
        marks = [f"id={name}{end}" for name in names for end in ' "&']
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return [line for line in lines if any(mark in line for mark in marks)][:20]
