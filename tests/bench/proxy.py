#!/usr/bin/env python3
"""Propylon beside nginx on this machine: processor time a request, and memory an idle connection.

What is measured: the processor time (user and system, all processes and threads, from /proc/PID/stat) that each proxy
spends, divided by the requests that were answered meanwhile. Not requests a second: those depend on the load generator
and the upstream as much as on the proxy. They are printed as well, for orientation.

How: both proxies run with one worker on core 0; the upstream (an nginx that serves files and answers POSTs) and the load
generator share core 1. Each load runs in rounds, the two proxies in turn (A, B, A, B, ...), so that what changes over time
on the machine hits both. The ratio is taken within each round; printed are its median, least and greatest.

    GET, POST      HTTP/1.1, 32 connections kept alive, by wrk
    limit          a limit by address that is never met, and one that refuses all but the first; "Redis" shares them through
                   a Redis beside the load, where nginx goes on with its limit_req in memory
    bare, full set nothing but proxying (with the log off); and all that a site wants at once: security fields, request id, trace, an access
                   log in JSON with the same members (with the log on), a limit that is never met, metrics
    cache hit      what is kept in memory, where nginx has its proxy_cache on the disk of the machine, which has it in its page cache
                   (and Varnish its memory, with --against varnish)
    TLS GET        the same over TLS
    TLS h2 GET     8 connections of 16 streams, by h2load
    handshake      each request on a new connection with a full handshake, 8 at a time: the cost of connection, handshake,
                   1 KB request and closing together
    idle           the memory of an idle connection, plain and TLS

All of it takes about 20 minutes; --only "TLS|handshake" is one part.

Equal terms: kept-alive connections on both sides, HTTP/1.1 to the upstream, X-Forwarded-* and X-Real-IP added, bodies buffered
as each does by default (nginx with enough memory to keep 100 KB off the disk), access log to a file (then off for both, as a
second table). Both write one line a request; nginx in its default format, Propylon as JSON. Over TLS: one certificate (ECDSA
P-256, or RSA-2048 where the row says so), and a client that offers TLS 1.3 with one suite and one group; what came of it
is printed. Session tickets are handed out, as is the default of both, and not used.

Python's standard library, nginx, wrk, h2load, openssl and redis-server are all it needs. Everything listens on loopback ports that are free
at the time.
"""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import statistics
import subprocess
import tempfile

from proxy_gateways import LOAD_CORE, PROXY_CORE, negotiated, pair, prepare, racers, upstream
from proxy_loads import IDLE, LOADS, idle_bytes, measure
from rig import fail, open_file_limit, require


def spread(values, form):
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def race(servers, loads, directory, options):
    """Prints a row for each load: what a request costs each proxy, and the ratio."""
    for load in loads:
        for server in servers:
            measure(server, load, directory, 1)
        pairs = []
        for _ in range(options.rounds):
            pairs.append([measure(server, load, directory, options.seconds) for server in servers])
        costs = [[cost for cost, _ in row] for row in pairs]
        rates = [statistics.median(row[column][1] for row in pairs) for column in (0, 1)]
        columns = [
            spread([cost[0] for cost in costs], ".1f"),
            spread([cost[1] for cost in costs], ".1f"),
            spread([cost[1] / cost[0] for cost in costs], ".2f"),
        ]
        print(f"{load.name:<22}" + "".join(f"{text:>26}" for text in columns) + f"{rates[0]:>10.0f}{rates[1]:>10.0f}", flush=True)


def table(directory, app_port, options, log):
    """Races the chosen loads, with a pair of proxies for plain HTTP, one for each certificate, and one with Redis."""
    print(f"\naccess log {'to a file' if log else 'off'}")
    titles = [f"{racer.name} us/request" for racer in racers(directory, options.against)] + ["ratio"]
    print(f"{'load':<22}" + "".join(f"{title:>26}" for title in titles) + f"{'requests/s':>20}", flush=True)
    for needs in dict.fromkeys(load.needs() for load in options.loads):
        certificate, redis = needs
        with contextlib.ExitStack() as stack:
            servers = pair(stack, directory, app_port, against=options.against, certificate=certificate, redis=redis, log=log)
            if certificate:
                print(f"  {negotiated(servers, directory)}")
            race(servers, [load for load in options.loads if load.needs() == needs], directory, options)


def memory(directory, app_port, options):
    for name, certificate in options.idle_rows:
        with contextlib.ExitStack() as stack:
            kind = "TLS connection" if certificate else "connection"
            print(f"\nmemory of an idle {kind}, of {options.idle}, after one request on each")
            for server in pair(stack, directory, app_port, against=options.against, certificate=certificate):
                print(f"{server.name:<12}{idle_bytes(server, options.idle, tls=bool(certificate)) / 1024:>10.1f} KB", flush=True)


def row_names():
    return [load.name for load in LOADS] + [name for name, _ in IDLE]


def expression(text):
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each load, for each proxy (5)")
    parser.add_argument("--seconds", type=int, default=5, help="of each round (5); below 3 the clock's ticks show")
    parser.add_argument("--log", choices=["on", "off", "both"], default="both", help="access log (both: two tables)")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections for the memory figure; 0 leaves it out (5000)")
    parser.add_argument("--only", type=expression, metavar="REGEX", default="", help=f"rows by name, of {', '.join(row_names())} (all)")
    parser.add_argument("--against", choices=["propylon", "nginx", "varnish"], default="propylon",
                        help="who races nginx (propylon); a second nginx shows what differences mean nothing; varnish has rows of the cache alone")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1 or not 0 <= options.idle <= 15000:
        parser.error("rounds and seconds are 1 or more, idle is 0 to 15000")
    options.loads = [load for load in LOADS if options.only.search(load.name)]
    options.idle_rows = [row for row in IDLE if options.idle and options.only.search(row[0])]
    if options.against == "varnish":
        options.loads = [load for load in options.loads if load.path.startswith("/cached/") and not load.certificate]
        options.idle_rows = []
    if not options.loads and not options.idle_rows:
        parser.error("--only leaves no row")
    return options


def check_machine(options):
    require("nginx", "nginx-light")
    if options.against == "varnish":
        require("varnishd", "varnish")
    require("wrk", "wrk")
    require("redis-server", "redis-server")
    require("h2load", "nghttp2-client")
    require("openssl", "openssl")
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        fail(f"cores {PROXY_CORE} and {LOAD_CORE} are needed: one for the proxy, one for the load")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * options.idle + 1000:
        fail(f"{hard} open files are too few for {options.idle} connections (ulimit -n)")
    open_file_limit(30000)


def main():
    options = arguments()
    check_machine(options)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="propylon-bench-")))
        prepare(directory)
        app_port = upstream(stack, directory)
        version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
        print(f"{version}; {options.rounds} rounds of {options.seconds} s; median (least to greatest)")
        if options.loads:
            for log in {"on": [True], "off": [False], "both": [True, False]}[options.log]:
                table(directory, app_port, options, log)
        memory(directory, app_port, options)


if __name__ == "__main__":
    main()
