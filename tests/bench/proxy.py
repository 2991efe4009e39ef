#!/usr/bin/env python3
"""Propylon beside nginx on this machine: processor time a request, and memory an idle connection.

What is measured: the processor time (user and system, all processes and threads, from /proc/PID/stat) that each proxy
spends, divided by the requests that were answered meanwhile. Not requests a second: those depend on the load generator
and the upstream as much as on the proxy. They are printed as well, for orientation.

How: both proxies run with one worker on core 0; the upstream (an nginx that serves files and answers POSTs) and wrk share
core 1. Each load runs in rounds, the two proxies in turn (A, B, A, B, ...), so that what changes over time on the machine
hits both. The ratio is taken within each round; printed are its median, least and greatest.

Equal terms: HTTP/1.1 and kept-alive connections on both sides, X-Forwarded-* and X-Real-IP added, bodies buffered as each
does by default (nginx with enough memory to keep 100 KB off the disk), access log to a file (then off for both, as a second table). Both write one line a request; nginx in its
default format, Propylon as JSON.

Python's standard library, nginx and wrk are all it needs. Everything listens on loopback ports that are free at the time.
"""

import argparse
import contextlib
import os
import pathlib
import re
import resource
import socket
import statistics
import subprocess
import tempfile
import time

from rig import REPOSITORY, Server, fail, free_ports, open_file_limit, processor_seconds, require, resident_bytes

PROXY_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 32

POST_SCRIPT = """wrk.method = "POST"
wrk.body = string.rep("x", {size})
wrk.headers["Content-Type"] = "application/octet-stream"
"""

# Name, path, and the size of the body that wrk posts with POST_SCRIPT, if it does.
LOADS = [("GET 1 KB", "/1k", None), ("GET 100 KB", "/100k", None), ("POST 1 KB", "/post", 1024), ("POST 10 KB", "/post", 10240)]

UPSTREAM_CONF = """
daemon off; master_process off; pid {dir}/upstream.pid; error_log {dir}/upstream.err warn;
worker_rlimit_nofile 30000;
events {{ worker_connections 20000; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_timeout 300s; keepalive_requests 100000000;
    client_body_temp_path {dir}/upstream-body; client_body_buffer_size 64k;
    server {{
        listen 127.0.0.1:{upstream} backlog=4096;
        root {dir}/www;
        location /post {{ return 200 "thanks"; }}
    }}
}}
"""

NGINX_CONF = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.err warn;
worker_rlimit_nofile 30000;
events {{ worker_connections 20000; }}
http {{
    access_log {nginx_log}; keepalive_timeout 300s; keepalive_requests 100000000;
    client_body_temp_path {dir}/nginx-body; proxy_temp_path {dir}/nginx-proxy;
    # Its default (8 of 4 KB) would send a response of 100 KB by way of the disk.
    proxy_buffers 32 8k;
    upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 100000000; keepalive_timeout 60s; }}
    server {{
        listen 127.0.0.1:{nginx} backlog=4096;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Request-ID $request_id;
            add_header X-Request-ID $request_id always;
        }}
    }}
}}
"""

PROPYLON_CONF = """
[server]
listen = ["127.0.0.1:{propylon}"]
threads = 1
max_connections = 20000
[server.client]
keepalive_timeout = "300s"
[admin]
listen = ["127.0.0.1:{admin}"]
[log]
level = "warn"
access = "{propylon_log}"
[upstreams.app]
endpoints = ["127.0.0.1:{upstream}"]
keepalive_timeout = "60s"
[[routes]]
upstream = "app"
"""


def pinned(core):
    return lambda: os.sched_setaffinity(0, {core})


def drive(port, path, script, seconds):
    """Runs wrk; returns the number of requests answered. Any failed one ends the benchmark."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s"]
    command += ["-s", str(script)] if script else []
    run = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"],
        capture_output=True, text=True, preexec_fn=pinned(LOAD_CORE), timeout=seconds + 30,
    )
    done = re.search(r"(\d+) requests in", run.stdout)
    wrong = re.search(r"Socket errors.*|Non-2xx.*", run.stdout)
    if run.returncode or not done or wrong:
        fail(f"wrk against port {port}{path}: {wrong.group() if wrong else run.stdout + run.stderr}")
    return int(done.group(1))


def script_in(directory, posted):
    return directory / f"post-{posted}.lua"


def measure(server, load, directory, seconds):
    """Microseconds of processor time a request, and requests a second."""
    _, path, posted = load
    script = script_in(directory, posted) if posted else None
    before, start = processor_seconds(server.pid), time.monotonic()
    requests = drive(server.port, path, script, seconds)
    spent, took = processor_seconds(server.pid) - before, time.monotonic() - start
    return spent / requests * 1e6, requests / took


def idle_bytes(server, count):
    """Resident bytes that one more idle connection costs, after one request on each."""
    request = b"GET /1k HTTP/1.1\r\nHost: bench\r\n\r\n"

    def opened():
        connection = socket.create_connection(("127.0.0.1", server.port), 10)
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
        return (resident_bytes(server.pid) - before) / count
    finally:
        for connection in connections:
            connection.close()


def spread(values, form):
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def race(servers, directory, options):
    """Prints a table: for each load what a request costs each proxy, and the ratio."""
    print(f"{'load':<12}{'nginx us/request':>24}{'propylon us/request':>24}{'ratio':>24}{'requests/s':>20}")
    nginx, propylon = servers
    for load in LOADS:
        for server in servers:
            measure(server, load, directory, 1)
        pairs = []
        for _ in range(options.rounds):
            pairs.append([measure(server, load, directory, options.seconds) for server in (nginx, propylon)])
        costs = [[cost for cost, _ in row] for row in pairs]
        rates = [statistics.median(row[column][1] for row in pairs) for column in (0, 1)]
        columns = [
            spread([cost[0] for cost in costs], ".1f"),
            spread([cost[1] for cost in costs], ".1f"),
            spread([cost[1] / cost[0] for cost in costs], ".2f"),
        ]
        print(f"{load[0]:<12}" + "".join(f"{text:>24}" for text in columns) + f"{rates[0]:>10.0f}{rates[1]:>10.0f}", flush=True)


def prepare(directory, options):
    """Writes what the servers read; returns the ports."""
    (directory / "www").mkdir()
    (directory / "www/1k").write_bytes(b"x" * 1024)
    (directory / "www/100k").write_bytes(b"x" * 102400)
    for posted in {posted for _, _, posted in LOADS if posted}:
        script_in(directory, posted).write_text(POST_SCRIPT.format(size=posted))
    # Root's nginx would hand its worker to a user who cannot read the directory.
    directory.chmod(0o755)
    return dict(zip(("upstream", "nginx", "propylon", "admin"), free_ports(4), strict=True))


def proxies(stack, directory, ports, log):
    """Starts both proxies, with the access log on or off."""
    names = {"nginx_log": f"{directory}/nginx.log" if log else "off", "propylon_log": f"{directory}/propylon.log" if log else "off"}
    servers = []
    for name, text, command in (
        ("nginx", NGINX_CONF, ["nginx", "-p", str(directory), "-e", f"{directory}/nginx.err", "-c"]),
        ("propylon", PROPYLON_CONF, [str(REPOSITORY / "target/release/propylon"), "run", "--config"]),
    ):
        conf = directory / f"{name}.conf"
        conf.write_text(text.format(dir=directory, **ports, **names))
        if name == "propylon":
            command[0] = os.environ.get("PROPYLON_BIN", command[0])
        servers.append(stack.enter_context(Server(name, [*command, str(conf)], ports[name], directory, PROXY_CORE)))
    return servers


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each load, for each proxy (5)")
    parser.add_argument("--seconds", type=int, default=5, help="of each round (5); below 3 the clock's ticks show")
    parser.add_argument("--log", choices=["on", "off", "both"], default="both", help="access log (both: two tables)")
    parser.add_argument("--idle", type=int, default=5000, help="idle connections for the memory figure; 0 leaves it out (5000)")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1 or not 0 <= options.idle <= 15000:
        parser.error("rounds and seconds are 1 or more, idle is 0 to 15000")
    return options


def check_machine(options):
    require("nginx", "nginx-light")
    require("wrk", "wrk")
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
        ports = prepare(directory, options)
        conf = directory / "upstream.conf"
        conf.write_text(UPSTREAM_CONF.format(dir=directory, **ports))
        command = ["nginx", "-p", str(directory), "-e", f"{directory}/upstream.err", "-c", str(conf)]
        stack.enter_context(Server("upstream", command, ports["upstream"], directory, LOAD_CORE))
        version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
        print(f"{version}; {options.rounds} rounds of {options.seconds} s, {CONNECTIONS} connections; median (least to greatest)")
        for log in {"on": [True], "off": [False], "both": [True, False]}[options.log]:
            with contextlib.ExitStack() as pair:
                servers = proxies(pair, directory, ports, log)
                print(f"\naccess log {'to a file' if log else 'off'}")
                race(servers, directory, options)
        if options.idle:
            with contextlib.ExitStack() as pair:
                print(f"\nmemory of an idle connection, of {options.idle}, after one request on each")
                for server in proxies(pair, directory, ports, log=False):
                    print(f"{server.name:<12}{idle_bytes(server, options.idle) / 1024:>10.1f} KB", flush=True)


if __name__ == "__main__":
    main()
