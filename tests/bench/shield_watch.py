"""Watches, while a load runs, what a gateway does to the pool's port and what it takes for itself.

The sockets come from the kernel's sock_diag (what ss reads), filtered there by port and state: reading /proc/net/tcp each
20 ms would cost more than what is measured, as every connection that ended within the last minute is in it.
"""

import contextlib
import os
import pathlib
import socket
import stat
import struct
import threading
import time

from rig import processes_of, resident_bytes

EVERY, EVERY_PROCESS = 0.020, 0.25
# include/net/tcp_states.h; linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
ESTABLISHED, CLOSE_WAIT, LISTEN = 1, 8, 10
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, ERROR, DONE = 4, 20, 0x301, 2, 3
REQUEST_BYTECODE, SOURCE_PORT_IS = 1, 11
HEADER, ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBBB40xQ4xIIII")


def sockets_at(port):
    """(state, receive queue, inode) of each IPv4 socket whose own port this is, listening, established or half closed, by its
    cookie: the kernel gives no two sockets the same one."""
    states = 1 << ESTABLISHED | 1 << CLOSE_WAIT | 1 << LISTEN
    # One comparison: 8 bytes on if it holds, past the end (12) if not; the port is in the second word.
    test = struct.pack("=BBHBBH", SOURCE_PORT_IS, 8, 12, 0, 0, port)
    request = struct.pack("=BBBBI48x", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, states)
    request += struct.pack("=HH", 4 + len(test), REQUEST_BYTECODE) + test
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(5)
        kernel.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + request)
        while True:
            block, at = kernel.recv(1 << 20), 0
            while at < len(block):
                length, kind, *_ = HEADER.unpack_from(block, at)
                if kind == DONE:
                    return found
                if kind == ERROR:
                    raise OSError(-struct.unpack_from("=i", block, at + HEADER.size)[0], "sock_diag")
                _, state, _, _, cookie, received, _, _, inode = ANSWER.unpack_from(block, at + HEADER.size)
                found[cookie] = (state, received, inode)
                at += (length + 3) & ~3


def temporary_bytes(pids, spool):
    """Blocks of the temporary files the processes hold open: those without a name, and those in the spool directory."""
    files = {}
    for pid in pids:
        # The process, or one of its files, may be gone by now.
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    about, name = os.stat(entry.path), os.readlink(entry.path)
                    nameless = about.st_nlink == 0 and not name.startswith(("/memfd:", "/dev/"))
                    if stat.S_ISREG(about.st_mode) and (nameless or pathlib.Path(name).is_relative_to(spool)):
                        files[about.st_dev, about.st_ino] = about.st_blocks * 512
    return sum(files.values())


class Watch:
    """Samples until its block is left; `found` is then the greatest of each.

    Without a port (a pool on a Unix socket) only the gateway is watched, without a gateway only the port.
    """

    def __init__(self, port, capacity, gateway, spool):
        self.port, self.capacity, self.gateway, self.spool = port, capacity, gateway, spool
        self.stop, self.wrong = threading.Event(), None
        self.thread = threading.Thread(target=self.guarded)
        self.found = {"samples": 0}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        if self.wrong:
            raise self.wrong

    def guarded(self):
        try:
            self.run()
        except Exception as error:
            self.wrong = error

    def run(self):
        due = time.monotonic()
        while not self.stop.wait(EVERY):
            if self.port:
                self.look_at_port()
            if self.gateway and time.monotonic() >= due:
                self.look_at_gateway()
                due = time.monotonic() + EVERY_PROCESS

    def look_at_port(self):
        # A list is not of one moment: a connection may end after it was listed, and the next one be listed too. What is the same
        # in two lists was there all the time between them, at once.
        before, after = sockets_at(self.port), sockets_at(self.port)
        listed = [then for cookie, then in after.items() if before.get(cookie, (None,))[0] == then[0]]
        self.found["samples"] += 1
        self.greatest("established", sum(state == ESTABLISHED for state, _, _ in listed))
        self.greatest("receive_queue", max((queue for state, queue, _ in listed if state == LISTEN), default=0))
        # A connection that no worker has accepted yet has no inode. Both counts come from the connections themselves, each
        # counted once; against the listener's own figure one that is accepted just then would count twice.
        waiting = sum(state != LISTEN and not inode for state, _, inode in listed)
        busy = sum(state != LISTEN and bool(inode) for state, _, inode in listed)
        self.count("samples_over_capacity", sum(state == ESTABLISHED for state, _, _ in listed) > self.capacity)
        self.count("samples_queue_over_free", waiting > max(0, self.capacity - busy))

    def look_at_gateway(self):
        with contextlib.suppress(OSError):
            resident = resident_bytes(self.gateway)
            self.found.setdefault("resident_first", resident)
            self.greatest("resident", resident)
            self.greatest("temporary", temporary_bytes(processes_of(self.gateway), self.spool))

    def greatest(self, name, value):
        self.found[name] = max(self.found.get(name, 0), value)

    def count(self, name, holds):
        self.found[name] = self.found.get(name, 0) + holds
