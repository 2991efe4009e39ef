#!/usr/bin/env python3
"""How the cost of a request grows with what there is: connections, routes, endpoints, kept answers.

What is measured: processor time a request, as in the race (race.py), of two Propylons that take turns: one with little of the thing, one
with much. Printed is the ratio of the second to the first, taken within each round: median, least and greatest.

    open connections     32 that ask, beside so many that are idle
    busy connections     so many that ask all at once, of an upstream that takes 128 at a time: the rest waits in its queue
    routes               the request is for the last of them
    endpoints            of one upstream
    kept answers         hits of 64 bytes, each request another one at random

Busy connections cost every gateway more, because what the kernel and the gateway know of each falls out of the processor's caches: the
rows "busy, nginx" and "busy, haproxy" are the same load before those, which hand all to the upstream at once.

All of it takes about 10 minutes and 3 GB of memory; --only REGEX picks rows.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import re
import socket
import tempfile

import race_gateways
from page import about, put, row
from race_gateways import CONFIGS, GATEWAYS, LOAD_CORE, PROXY_CORE, fill, prepare, version
from race_loads import generated, measure, ratios
from rig import Server, fail, free_ports, open_file_limit, require

PROPYLON = GATEWAYS["propylon"]
# The most a request may cost with much of a thing, as a ratio to little of it.
GOAL = 1.2

CONF = """
[server]
listen = ["127.0.0.1:@plain@"]
threads = 1
max_connections = 19000
[server.client]
keepalive_timeout = "600s"
[admin]
listen = ["127.0.0.1:@admin@"]
[log]
level = "error"
access = "off"
@rest@
"""
UPSTREAM = """[upstreams.app]
endpoints = [{endpoints}]
keepalive_timeout = "60s"
{more}
"""
ROUTE = """[[routes]]
path = "{path}"
upstream = "app"
security_headers = "off"
"""
CACHE = """[cache]
memory = "4GiB"
[[cache.rules]]
path = "/n/*"
ttl = "1h"
"""
# Asks for one answer after the other.
EACH = """
local last = {first}
request = function()
    last = last + 1
    return wrk.format("GET", "/n/" .. last)
end
"""
AT_RANDOM = """
math.randomseed(7)
request = function()
    return wrk.format("GET", "/n/" .. math.random({most}))
end
"""


@dataclasses.dataclass(frozen=True)
class Thing:
    """What grows: `conf` makes the rest of a configuration for so many, `prepare` does what is to be done before, and `load` asks. Another
    gateway than Propylon has the configuration of the race."""

    name: str
    little: int
    much: int
    conf: object
    load: object
    prepare: object = None
    gateway: str = "propylon"


def upstream_conf(port, count=1, more=""):
    # The upstream listens on all of 127.0.0.0/8.
    addresses = (f'"127.0.{number // 250}.{number % 250 + 1}:{port}"' for number in range(count))
    return UPSTREAM.format(endpoints=", ".join(addresses), more=more)


def plain_conf(port, _count):
    return upstream_conf(port) + ROUTE.format(path="/*")


def queue_conf(port, _count):
    return upstream_conf(port, more='max_in_flight = 128\nqueue = { max = 20000, timeout = "60s" }') + ROUTE.format(path="/*")


def routes_conf(port, count):
    routes = "".join(ROUTE.format(path=f"/app{number}/*") for number in range(count - 1))
    return upstream_conf(port) + routes + ROUTE.format(path="/1k")


def endpoints_conf(port, count):
    return upstream_conf(port, count) + ROUTE.format(path="/*")


def cache_conf(port, _count):
    return upstream_conf(port) + ROUTE.format(path="/*") + CACHE


def small_file(thing, server, count, directory, seconds):
    return measure(server, Ask("/1k", 32), directory, seconds)


def many_at_once(thing, server, count, directory, seconds):
    return measure(server, Ask("/1k", count), directory, seconds)


def random_hit(thing, server, count, directory, seconds):
    return measure(server, Ask("/n/1", 32, script(directory, AT_RANDOM.format(most=count))), directory, seconds)


@dataclasses.dataclass(frozen=True)
class Ask:
    """A load of wrk: so many connections, and a script where it does not ask for one path alone."""

    path: str
    connections: int
    script: pathlib.Path | None = None

    def drive(self, _load, port, directory, seconds):
        command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
        command += ["-s", str(self.script)] if self.script else []
        run = generated([*command, f"http://127.0.0.1:{port}{self.path}"], directory, seconds)
        done = re.search(r"(\d+) requests in", run.stdout)
        if run.returncode or not done or "Non-2xx" in run.stdout or "Socket errors" in run.stdout:
            fail(f"wrk against port {port}: {run.stdout}{run.stderr}")
        return int(done.group(1)), 0.0, 0.0


def script(directory, text):
    path = directory / "requests.lua"
    path.write_text(text)
    return path


@contextlib.contextmanager
def idle(server, count):
    """Connections that have asked once and say nothing more."""
    connections = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", server.port), 10)
            connections.append(connection)
            connection.sendall(b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n")
            got = b""
            while len(got.partition(b"\r\n\r\n")[2]) < 1024:
                got += connection.recv(65536) or fail("an idle connection was closed")
        yield
    finally:
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def kept(server, count, directory):
    """As many answers are in the cache, or somewhat more, each asked for once."""
    entries = 0
    while entries < count:
        Ask("/n/1", 32, script(directory, EACH.format(first=entries))).drive(None, server.port, directory, 1)
        before, entries = entries, kept_now(server)
        if entries == before:
            fail(f"{entries} answers are kept, and no more of them")
    yield


def kept_now(server):
    return int(float(re.search(r'^propylon_cache_entries\{[^}]*tier="memory"[^}]*\} (\S+)', metrics(server), re.M).group(1)))


def metrics(server):
    with socket.create_connection(("127.0.0.1", server.admin), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


THINGS = [
    Thing("open connections", 100, 10_000, plain_conf, small_file, lambda server, count, _: idle(server, count)),
    Thing("busy connections", 100, 10_000, queue_conf, many_at_once),
    # Of 20,000 connections it has one for the client and one for the upstream of each.
    Thing("busy, nginx", 100, 9_000, None, many_at_once, gateway="nginx"),
    Thing("busy, haproxy", 100, 9_000, None, many_at_once, gateway="haproxy"),
    Thing("routes", 10, 10_000, routes_conf, small_file),
    Thing("endpoints", 1, 1000, endpoints_conf, small_file),
    Thing("kept answers", 10_000, 1_000_000, cache_conf, random_hit, kept),
]


def start(stack, directory, thing, count, app_port):
    if thing.gateway != "propylon":
        gateway = dataclasses.replace(GATEWAYS[thing.gateway], name=f"{thing.gateway}-{count}")
        return race_gateways.start(stack, directory, app_port, [gateway])[0]
    plain, admin = free_ports(2)
    name = f"propylon-{count}"
    conf = directory / f"{name}.toml"
    conf.write_text(fill(CONF, {"plain": plain, "admin": admin, "rest": thing.conf(app_port, count)}))
    server = Server(name, [PROPYLON.program, "run", "--config", str(conf)], plain, directory, PROXY_CORE)
    stack.enter_context(server)
    server.admin = admin
    return server


def compare(thing, directory, app_port, options):
    with contextlib.ExitStack() as stack:
        pairs = [(count, start(stack, directory, thing, count, app_port)) for count in (thing.little, thing.much)]
        if thing.prepare:
            for count, server in pairs:
                stack.enter_context(thing.prepare(server, count, directory))
        for count, server in pairs:
            thing.load(thing, server, count, directory, 2)
        rounds = [[thing.load(thing, server, count, directory, options.seconds) for count, server in pairs] for _ in range(options.rounds)]
    little, much = zip(*rounds, strict=True)
    median, least, most = ratios(much, little, "cost")
    costs = " ".join(f"{sorted(sample.cost for sample in samples)[len(samples) // 2]:>8.1f}" for samples in (little, much))
    ratio = f"{median:.2f} ({least:.2f} to {most:.2f})"
    print(f"{thing.name:<20}{thing.little:>8} {thing.much:>9} {costs}   {ratio}", flush=True)
    return row([thing.name, f"{thing.little:,}", f"{thing.much:,}", *costs.split(), ratio])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="for each of the two (5)")
    parser.add_argument("--seconds", type=int, default=3, help="of each round (3)")
    parser.add_argument("--only", type=re.compile, metavar="REGEX", default=re.compile(""), help="rows by name")
    parser.add_argument("--write", action="store_true", help="puts the table into docs/performance.md")
    options = parser.parse_args()
    if options.write and options.only.pattern:
        parser.error("--write puts the whole table: it goes without --only")
    return options


def main():
    options = arguments()
    require("haproxy", "haproxy")
    require("nginx", "nginx-light")
    require("wrk", "wrk")
    open_file_limit(40000)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="propylon-growth-")))
        prepare(directory)
        (app_port,) = free_ports(1)
        conf = directory / "upstream.conf"
        text = fill((CONFIGS / "upstream.conf").read_text(), {"dir": directory, "app": app_port})
        text = text.replace(f"listen 127.0.0.1:{app_port}", f"listen {app_port}")
        text = text.replace("location /post", f'location /n/ {{ return 200 "{"x" * 64}"; }}\n        location /post')
        conf.write_text(text)
        stack.enter_context(Server("upstream", ["nginx", "-p", str(directory), "-e", f"{directory}/upstream.err", "-c", str(conf)],
                                   app_port, directory, LOAD_CORE))
        print(f"microseconds of processor time a request; much to little (to reach: {GOAL})")
        print(f"{'':<20}{'little':>8} {'much':>9} {'little':>8} {'much':>8}   ratio")
        things = [thing for thing in THINGS if options.only.search(thing.name)]
        rows = [compare(thing, directory, app_port, options) for thing in things]
    if options.write:
        versions = {name: version(GATEWAYS[name]) for name in dict.fromkeys(thing.gateway for thing in things)}
        head = [row(["", "little", "much", "little, µs", "much, µs", "much to little"]), row(["---"] * 6)]
        put("growth", "bench-growth", "\n".join([about("bench-growth", versions), "", *head, *rows]))


if __name__ == "__main__":
    main()
