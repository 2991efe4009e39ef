"""What both benchmarks need: free ports, servers that are ended again, and what /proc says of a process.

Every server is ended by its own id when its block is left, whatever the reason, Ctrl-C included.
"""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def fail(text):
    sys.exit(f"bench: {text}")


def require(program, package, stage="bench"):
    # Debian's nginx and HAProxy are in /usr/sbin, which an ordinary user's PATH leaves out.
    if "/usr/sbin" not in os.environ["PATH"].split(":"):
        os.environ["PATH"] += ":/usr/sbin:/sbin"
    shutil.which(program) or fail(f"{program} is missing: scripts/setup.sh {stage} installs it (Debian's {package})")


def open_file_limit(wanted):
    """Raises this process's limit, and so its children's, to what is wanted if that is allowed; returns what holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def free_ports(count):
    """Ports that are free now; all are held until the last is known, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_of(root):
    """The process and everything it started."""
    children = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(stat_fields(entry.name)[1]), []).append(int(entry.name))
    found, ahead = [], [root]
    while ahead:
        found.append(ahead.pop())
        ahead += children.get(found[-1], [])
    return found


def stat_fields(pid):
    """The fields of /proc/PID/stat from the third on; the second may hold spaces and brackets."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def processor_seconds(root):
    # utime and stime are the fields 14 and 15 of proc(5).
    return sum(sum(map(int, stat_fields(pid)[11:13])) for pid in processes_of(root)) / TICKS_PER_SECOND


def resident_bytes(root):
    status = "".join(pathlib.Path(f"/proc/{pid}/status").read_text() for pid in processes_of(root))
    return sum(int(kilobytes) for kilobytes in re.findall(r"VmRSS:\s+(\d+) kB", status)) * 1024


class Server:
    """A process under test, or an upstream; it has one port of its own and is ended when its block is left."""

    def __init__(self, name, command, port, directory, core=None):
        self.name, self.command, self.port, self.core = name, command, port, core
        self.log = directory / f"{name}.out"
        self.process = None

    def start(self):
        """Starts it and does not wait until it listens."""
        # Starting it again, as after stop(), adds to what it wrote before.
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=self._pin
            )

    def _pin(self):
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})

    def listens(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def wait_until_it_listens(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.listens():
                return
            time.sleep(0.05)
        fail(f"{self.name} does not listen:\n{self.log.read_text()}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        try:
            self.start()
            self.wait_until_it_listens()
        except BaseException:
            if self.process:
                self.process.kill()
                self.process.wait()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self.process.pid
