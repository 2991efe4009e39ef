#!/usr/bin/env python3
"""The race: Propylon beside nginx, HAProxy, Envoy, Traefik, Caddy and (for its cache) Varnish, on this machine, in one run.

What is measured: the processor time (user and system, all processes and threads, from /proc/PID/stat) that each gateway spends,
divided by the requests that were answered meanwhile. It is steady where requests a second are not: those depend on the load generator
and the upstream as much as on the gateway. They are printed as well, with p50 and p99 of the latency and the memory at the end.

How: each gateway runs with one worker on core 0; the upstream (an nginx that serves files and answers POSTs) and the load generator
share core 1. Each row runs in rounds, the gateways in turn (A, B, C, A, B, C, ...), so that what changes over time on the machine hits
all. Ratios to nginx are taken within each round; printed are their median, least and greatest.

    GET, POST      HTTP/1.1, 32 connections kept alive, by wrk; "default buffers" leaves nginx those that it has by default, with which
                   it sends 100 KB by way of the disk
    limit          a limit by address that is never met, and one that refuses all but the first; "Redis" shares them through a Redis
                   beside the load, where nginx goes on with its limit_req in memory
    full set       all that a site wants at once: security fields, request id, trace, an access log in JSON to a file, a limit that is
                   never met; Propylon's metrics are always on
    cache hit      what is kept in memory, where nginx has its proxy_cache on the disk, which the machine has in its page cache
    TLS GET        the same over TLS
    TLS h2 GET     8 connections of 16 streams, by h2load
    handshake      each request on a new connection with a full handshake, 8 at a time: the cost of connection, handshake, 1 KB request
                   and closing together
    idle           the memory of an idle connection, plain and TLS, of 5000, after one request on each

"floor" is no gateway: it reads and writes the same bytes on as many connections and looks at nothing (floor.c). What it costs is what the
kernel costs, and no gateway can be below it with the same system calls.

Equal terms and configurations: race_gateways.py and configs/. Over TLS: one certificate (ECDSA P-256, or RSA-2048 where the row says so),
and a client that offers TLS 1.3 with one suite and one group; what came of it is printed. Session tickets are not used.

All of it takes about 55 minutes; --only "TLS|handshake" is one part, --gateways nginx,propylon two of them. Everything listens on
loopback ports that are free at the time.
"""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import tempfile

import race_report
from race_gateways import FLOOR, GATEWAYS, LOAD_CORE, PROXY_CORE, build_floor, negotiated, prepare, started, upstream, version
from race_loads import IDLE, LOADS, idle_bytes, measure
from rig import fail, open_file_limit, require


def race(load, servers, directory, options):
    """A list of samples for each gateway."""
    for server in servers:
        measure(server, load, directory, 1)
    rounds = [[measure(server, load, directory, options.seconds) for server in servers] for _ in range(options.rounds)]
    return {server.name: list(samples) for server, samples in zip(servers, zip(*rounds, strict=True), strict=True)}


def run_loads(directory, app_port, options, results):
    groups = {}
    for load in options.loads:
        groups.setdefault(tuple(load.needs().items()), []).append(load)
    for needs, loads in groups.items():
        racing = [gateway for gateway in options.gateways if any(load.has(gateway) for load in loads)]
        with started(directory, app_port, racing, **dict(needs)) as servers:
            if dict(needs)["certificate"]:
                print(f"  {negotiated(servers, directory)}", flush=True)
            for load in loads:
                mine = [server for server in servers if load.has(GATEWAYS[server.name])]
                results.add(load, race(load, mine, directory, options))


def run_idle(directory, app_port, options, results):
    for name, certificate, most in options.idle_rows:
        # The floor would hold a connection to the upstream for each, and Varnish has other things in mind.
        racing = [gateway for gateway in options.gateways if "TLS" in gateway.rows]
        with started(directory, app_port, racing, certificate=certificate) as servers:
            kilobytes = {server.name: idle_bytes(server, options.idle, tls=bool(certificate)) / 1024 for server in servers}
            results.add_idle(name, most, kilobytes)


def expression(text):
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join([load.name for load in LOADS] + [row[0] for row in IDLE])
    default = ",".join(name for name in GATEWAYS if name not in ("nginx-2", "varnish"))
    parser.add_argument("--rounds", type=int, default=4, help="of each row, for each gateway (4)")
    parser.add_argument("--seconds", type=int, default=3, help="of each round (3); below 3 the clock's ticks show")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections for the memory figure; 0 leaves it out (5000)")
    parser.add_argument("--only", type=expression, metavar="REGEX", default=re.compile(""), help=f"rows by name, of {names} (all)")
    parser.add_argument("--gateways", default=default, help=f"who races, of {', '.join(GATEWAYS)} ({default})")
    parser.add_argument("--write", action="store_true", help="puts the table and the plot into docs/performance.md")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1 or not 0 <= options.idle <= 15000:
        parser.error("rounds and seconds are 1 or more, idle is 0 to 15000")
    if options.write and (options.only.pattern or options.gateways != default):
        parser.error("--write puts the whole table: it goes without --only and --gateways")
    unknown = [name for name in options.gateways.split(",") if name not in GATEWAYS]
    if unknown:
        parser.error(f"no such gateway: {', '.join(unknown)} ({', '.join(GATEWAYS)})")
    options.gateways = [GATEWAYS[name] for name in options.gateways.split(",")]
    options.loads = [load for load in LOADS if options.only.search(load.name)]
    options.idle_rows = [row for row in IDLE if options.idle and options.only.search(row[0])]
    if not options.loads and not options.idle_rows:
        parser.error("--only leaves no row")
    return options


def check_machine(options):
    if any(gateway.program == str(FLOOR) for gateway in options.gateways):
        build_floor()
    for gateway in options.gateways:
        require(gateway.program, "gateways from PyPI, in .venv-bench" if "/" in gateway.program else gateway.name)
    require("wrk", "wrk")
    require("redis-server", "redis-server")
    require("h2load", "nghttp2-client")
    require("openssl", "openssl")
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        fail(f"cores {PROXY_CORE} and {LOAD_CORE} are needed: one for the gateway, one for the load")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * options.idle + 1000:
        fail(f"{hard} open files are too few for {options.idle} connections (ulimit -n)")
    open_file_limit(30000)


def main():
    options = arguments()
    check_machine(options)
    results = race_report.Results({gateway.name: version(gateway) for gateway in options.gateways}, options.rounds, options.seconds)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="propylon-race-")))
        prepare(directory)
        app_port = upstream(stack, directory)
        run_loads(directory, app_port, options, results)
        run_idle(directory, app_port, options, results)
    if options.write:
        race_report.write(results)


if __name__ == "__main__":
    main()
