"""The gateways, each set up for the pool as its own manual advises.

nginx (Debian's 1.22): buffers both ways as it does by default, disk included; no kept-alive connections to sync workers,
which close each; to gthread some, given up before Gunicorn does. It has no queue: `max_conns` would answer 502 past it.
HAProxy (Debian's 2.6): as many connections as the pool has slots, the rest in its queue, failed connects tried again; the
body is waited for as far as its buffer (`tune.bufsize`) goes. Without a check, which would answer 503 while the app is away,
and without `retry-on all-retryable-errors`, which would send a POST twice.
All three write an access log and take as long a queue as the loads need.
"""

import dataclasses
import pathlib
import re
import subprocess

from rig import REPOSITORY, Server, fail, free_ports, require

# Ours, for the scenes that read it back.
SPOOL_DISK = 2 << 30

NGINX_CONF = """
daemon off; worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/nginx.err warn;
worker_rlimit_nofile 20000;
events {{ worker_connections 10000; }}
http {{
    access_log {dir}/nginx.log; keepalive_requests 100000000; client_max_body_size 10m;
    proxy_buffering on; proxy_request_buffering on;
    client_body_temp_path {spool}/body; proxy_temp_path {spool}/proxy;
    upstream app {{ server {app}; {keepalive} }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://app;
            {reuse}
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
"""

HAPROXY_CONF = """
global
    maxconn 8000
    nbthread 2
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option forwardfor
    option http-buffer-request
    option redispatch
    retries 3
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout queue 10s
    timeout http-request 10s
    timeout http-keep-alive 75s
    {purge}
frontend in
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server app {app} maxconn {capacity}
"""

PROPYLON_CONF = """
[server]
listen = ["127.0.0.1:{port}"]
max_connections = 20000
[server.client]
header_timeout = "{patience}"
keepalive_timeout = "300s"
[admin]
listen = ["127.0.0.1:{admin}"]
[log]
level = "warn"
access = "{dir}/propylon.log"
{spooled}[upstreams.app]
preset = "{preset}"
workers = {workers}
threads = {threads}
endpoints = ["{app}"]
{queued}[[routes]]
upstream = "app"
"""
SPOOLED = '[spool]\ndir = "{spool}"\nmemory = "64MiB"\ndisk = "2GiB"\n'
QUEUED = 'queue = {{ max = 20000, timeout = "{queue_timeout}" }}\n'


@dataclasses.dataclass
class Pool:
    """What a gateway is told of the pool: its port or its Unix socket, and its size."""

    port: int | None
    path: pathlib.Path
    workers: int
    threads: int

    @property
    def capacity(self):
        return self.workers * self.threads


def nginx(pool, directory, names):
    names["app"] = f"127.0.0.1:{pool.port}" if pool.port else f"unix:{pool.path}"
    threaded = pool.threads > 1
    # Gunicorn closes an idle connection after 2 s.
    names["keepalive"] = f"keepalive {pool.capacity}; keepalive_timeout 1s;" if threaded else ""
    names["reuse"] = 'proxy_http_version 1.1; proxy_set_header Connection "";' if threaded else ""
    return NGINX_CONF, ["nginx", "-p", str(directory), "-e", f"{directory}/nginx.err", "-c"]


def haproxy(pool, _, names):
    names["app"] = f"127.0.0.1:{pool.port}" if pool.port else f"unix@{pool.path}"
    # Idle connections are given up from then on; by default after 5 s, which is longer than Gunicorn keeps them.
    names["purge"] = "default-server pool-purge-delay 1s" if pool.threads > 1 else ""
    return HAPROXY_CONF, ["haproxy", "-db", "-f"]


def propylon(pool, _, names):
    names["app"] = f"127.0.0.1:{pool.port}" if pool.port else f"unix:{pool.path}"
    names["preset"] = "gunicorn-gthread" if pool.threads > 1 else "gunicorn-sync"
    left_out = names["left_out"]
    names["spooled"] = "" if "spool" in left_out else SPOOLED.format(**names)
    names["queued"] = "" if "queue" in left_out else QUEUED.format(**names)
    return PROPYLON_CONF, [str(names["program"]), "run", "--config"]


GATEWAYS = {"nginx": nginx, "haproxy": haproxy, "propylon": propylon}


def gateway(name, pool, directory, program, left_out, queue_timeout="10s", patience="10s"):
    """A server that is started when its block is entered; its temporary files are in `directory`/spool."""
    port, admin = free_ports(2)
    names = dataclasses.asdict(pool) | {
        "dir": directory, "spool": directory / "spool", "port": port, "admin": admin, "capacity": pool.capacity,
        "program": program, "left_out": left_out, "queue_timeout": queue_timeout, "patience": patience,
    }
    text, command = GATEWAYS[name](pool, directory, names)
    conf = directory / f"{name}.conf"
    conf.write_text(text.format(**names))
    return Server(name, [*command, str(conf)], port, directory)


def unsupported(program, directory):
    """Which of [spool] and queue this build of Propylon does not know yet; it is measured without them, and that is said."""
    pool = Pool(1, pathlib.Path("/nowhere"), 4, 1)
    (directory / "spool").mkdir()
    server = gateway("propylon", pool, directory, program, ())
    check = subprocess.run([program, "check", "--config", server.command[-1]], capture_output=True, text=True)
    found = set(re.findall(r"`(spool|queue)` is not supported yet", check.stdout + check.stderr))
    if check.returncode and not found:
        fail(f"{program} refuses its configuration:\n{check.stdout}{check.stderr}")
    return sorted(found)


def version(name, program):
    """What the gateway says it is; ends the benchmark, with how to install it, if it is not there."""
    if name == "propylon":
        program.exists() or fail(f"{program} is missing: make build makes {REPOSITORY / 'target/release/propylon'}")
        command = [program, "--version"]
    else:
        require(name, "nginx-light" if name == "nginx" else name)
        command = [name, "-v"]
    said = subprocess.run(command, capture_output=True, text=True)
    return (said.stdout + said.stderr).splitlines()[0].removeprefix("nginx version: ").partition(" - ")[0]
