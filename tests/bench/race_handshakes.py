#!/usr/bin/env python3
"""Full TLS handshakes, one after the other: race_handshakes.py PORT SECONDS CLIENTS prints how many were done, and p50 and p99 in
seconds, as JSON.

Each connection asks for /1k, reads the whole answer, and is closed by the server. wrk and h2load cannot be taken for this:
when they connect again they offer the session ticket they got. Here every connection says whether its session was resumed,
and one that was ends the run.
"""

import concurrent.futures
import json
import socket
import ssl
import sys
import time


class UnfitError(Exception):
    """A connection that must not be counted."""


def client_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connected(context, port):
    plain = socket.create_connection(("127.0.0.1", port), 10)
    # Or the request waits 40 ms behind the last message of the handshake, where a server has nothing to say to that one.
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname="localhost")


def one_handshake(context, port):
    with connected(context, port) as connection:
        connection.sendall(b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        blocks = []
        while block := connection.recv(65536):
            blocks.append(block)
        if connection.session_reused:
            raise UnfitError("a session was resumed")
    head, _, body = b"".join(blocks).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or len(body) != 1024:
        raise UnfitError(f"{len(body)} bytes after the head {head[:200]}")


def client(port, seconds):
    context, took, end = client_context(), [], time.monotonic() + seconds
    while (start := time.monotonic()) < end:
        one_handshake(context, port)
        took.append(time.monotonic() - start)
    return took


def main():
    port, seconds, clients = map(int, sys.argv[1:])
    with concurrent.futures.ProcessPoolExecutor(clients) as pool:
        try:
            took = sorted(sum(pool.map(client, [port] * clients, [seconds] * clients), []))
            print(json.dumps([len(took), took[len(took) // 2], took[len(took) * 99 // 100]]))
        except (OSError, UnfitError) as error:
            sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
