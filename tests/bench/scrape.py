#!/usr/bin/env python3
"""How long a scrape of /metrics takes, and /status, with 50 upstreams of 20 endpoints, after each endpoint has answered.

One worker thread on one core; the apps are one nginx on another. The time is that of a client, from connecting to the last byte, 200 times;
printed are the median and the slowest, the size of the page and how many series it has. Needs nginx.
"""

import argparse
import contextlib
import http.client
import os
import pathlib
import statistics
import tempfile
import time

from race_gateways import LOAD_CORE, PROXY_CORE
from rig import REPOSITORY, Server, fail, free_ports, open_file_limit, require

APPS = """
daemon off; master_process off; pid {dir}/apps.pid; error_log {dir}/apps.err warn;
worker_rlimit_nofile 10000;
events {{ worker_connections 5000; }}
http {{
    access_log off; keepalive_timeout 300s;
    server {{ {listeners} location / {{ return 200 "answer"; }} }}
}}
"""

GATEWAY = """
[server]
listen = ["127.0.0.1:{plain}"]
threads = 1
[admin]
listen = ["127.0.0.1:{admin}"]
[log]
level = "warn"
access = "off"
"""


def fetched(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        fail(f"{path} at port {port}: {answer.status}")
    return body


def configuration(options, ports, plain, admin):
    parts = [GATEWAY.format(plain=plain, admin=admin)]
    for number in range(options.upstreams):
        of_this = ports[number * options.endpoints:][:options.endpoints]
        endpoints = ", ".join(f'"127.0.0.1:{port}"' for port in of_this)
        parts.append(f'[upstreams.app{number}]\nendpoints = [{endpoints}]\nbalance = "round_robin"\nworkers = 4')
        parts.append(f'[[routes]]\npath = "/app{number}/*"\nupstream = "app{number}"')
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstreams", type=int, default=50)
    parser.add_argument("--endpoints", type=int, default=20, help="of each upstream")
    options = parser.parse_args()
    require("nginx", "nginx-light")
    open_file_limit(20000)
    program = os.environ.get("PROPYLON_BIN", str(REPOSITORY / "target/release/propylon"))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = pathlib.Path(name)
        *ports, plain, admin = free_ports(options.upstreams * options.endpoints + 2)
        listeners = " ".join(f"listen 127.0.0.1:{port};" for port in ports)
        (directory / "apps.conf").write_text(APPS.format(dir=directory, listeners=listeners))
        command = ["nginx", "-p", str(directory), "-e", f"{directory}/apps.err", "-c", str(directory / "apps.conf")]
        stack.enter_context(Server("apps", command, ports[-1], directory, LOAD_CORE))
        conf = directory / "gateway.toml"
        conf.write_text(configuration(options, ports, plain, admin))
        stack.enter_context(Server("propylon", [program, "run", "--config", str(conf)], plain, directory, PROXY_CORE))
        for number in range(options.upstreams):
            for _ in range(options.endpoints):
                fetched(plain, f"/app{number}/x")
        for path in ("/metrics", "/status"):
            times = []
            for _ in range(200):
                start = time.perf_counter()
                page = fetched(admin, path)
                times.append((time.perf_counter() - start) * 1e3)
            series = sum(not line.startswith(b"#") for line in page.splitlines()) if path == "/metrics" else None
            print(f"{path:<10}{statistics.median(times):>8.1f} ms, at most {max(times):.1f} ms; {len(page) / 1024:.0f} KB"
                  + (f", {series} series" if series else ""), flush=True)


if __name__ == "__main__":
    main()
