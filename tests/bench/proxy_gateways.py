"""The servers of the benchmark beside nginx: what they are told, the certificates they show, and what they negotiate.

Each race has a pair of its own: one for plain HTTP, one for each kind of certificate. Equal terms over TLS: versions 1.2 and
1.3, HTTP/2 on, session tickets as each hands them out by default, and clients that offer one cipher suite and one group.
"""

import dataclasses
import os
import re
import subprocess

from rig import REPOSITORY, Server, fail, free_ports

PROXY_CORE, LOAD_CORE = 0, 1

# What the load generators offer, so that both proxies end up with the same: it costs a proxy more to sign or to encrypt one
# way than another. Programs that link OpenSSL read it from the file that OPENSSL_CONF names; h2load wants it said as well.
CIPHER_SUITE, GROUP = "TLS_AES_256_GCM_SHA384", "X25519"
CLIENT_CONF = f"""
openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = offer
[offer]
MinProtocol = TLSv1.3
Ciphersuites = {CIPHER_SUITE}
Groups = {GROUP}
"""

CERTIFICATES = {
    "ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "rsa": ["-newkey", "rsa:2048"],
}

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
daemon off; worker_processes 1; pid {dir}/{name}.pid; error_log {dir}/{name}.err warn;
worker_rlimit_nofile 30000;
events {{ worker_connections 20000; }}
http {{
    # What a line of Propylon's has, as far as it is known here.
    log_format full escape=json '{{"time":"$time_iso8601","request_id":"$request_id","client":"$remote_addr","client_port":$remote_port,'
        '"method":"$request_method","host":"$http_host","path":"$uri","query":"$args","protocol":"$server_protocol","status":$status,'
        '"upstream":"$proxy_host","endpoint":"$upstream_addr","upstream_status":"$upstream_status","bytes_in":"$content_length",'
        '"bytes_out":$body_bytes_sent,"duration":$request_time,"t_connect":"$upstream_connect_time",'
        '"t_first_byte":"$upstream_header_time","user_agent":"$http_user_agent","referer":"$http_referer"}}';
    access_log {log}; keepalive_timeout 300s; keepalive_requests 100000000;
    # As Debian ships it.
    sendfile on; tcp_nopush on;
    # One limit that is never met, and one that is met by all but the first.
    limit_req_zone $binary_remote_addr zone=wide:10m rate=1000000r/s;
    limit_req_zone $binary_remote_addr zone=narrow:10m rate=1r/m;
    limit_req_status 429; limit_req_log_level info;
    client_body_temp_path {dir}/{name}-body; proxy_temp_path {dir}/{name}-proxy;
    proxy_cache_path {dir}/{name}-cache levels=1:2 keys_zone=answers:10m max_size=1g inactive=1h use_temp_path=off;
    # Its default (8 of 4 KB) would send a response of 100 KB by way of the disk.
    proxy_buffers 32 8k;
    # As many as the most requests at a time, which are the streams over h2: with fewer it would open connections anew.
    upstream app {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; keepalive_timeout 60s; }}
    server {{
        listen 127.0.0.1:{plain} backlog=4096;
        {tls_listener}
        location /limited/ {{
            limit_req zone=wide burst=100000 nodelay;
            include {dir}/proxied.conf;
        }}
        location /full/ {{
            access_log {log}{full};
            limit_req zone=wide burst=100000 nodelay;
            add_header X-Content-Type-Options nosniff always;
            add_header X-Frame-Options SAMEORIGIN always;
            add_header Referrer-Policy strict-origin-when-cross-origin always;
            proxy_set_header traceparent 00-$request_id-00f067aa0ba902b7-01;
            include {dir}/proxied.conf;
        }}
        location /cached/ {{
            proxy_cache answers;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            include {dir}/proxied.conf;
        }}
        location /refused/ {{
            limit_req zone=narrow;
            include {dir}/proxied.conf;
        }}
        location / {{
            include {dir}/proxied.conf;
        }}
    }}
}}
"""

NGINX_PROXIED = """
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
"""

NGINX_TLS = """listen 127.0.0.1:{tls} ssl http2 backlog=4096;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {dir}/{certificate}.pem;
        ssl_certificate_key {dir}/{certificate}.key;
"""

PROPYLON_CONF = """
[server]
listen = ["127.0.0.1:{plain}"]
{tls_listener}
threads = 1
max_connections = 20000
[server.client]
keepalive_timeout = "300s"
[admin]
listen = ["127.0.0.1:{admin}"]
[log]
level = "warn"
access = "{log}"
{tls_table}
{redis_table}
[upstreams.app]
endpoints = ["127.0.0.1:{upstream}"]
keepalive_timeout = "60s"
[[routes]]
upstream = "app"
[[routes]]
path = "/limited/*"
upstream = "app"
rate_limit = {{ rate = "1000000/s" }}
[[routes]]
path = "/full/*"
upstream = "app"
rate_limit = {{ rate = "1000000/s" }}
[[routes]]
path = "/bare/*"
upstream = "app"
security_headers = "off"
[[routes]]
path = "/refused/*"
upstream = "app"
rate_limit = {{ rate = "1/m" }}
[[cache.rules]]
path = "/cached/*"
ttl = "1h"
"""

# Debian's defaults, but for a header that the others add, and one core's worth of threads. It logs to memory alone.
VARNISH_CONF = """
vcl 4.1;
backend app {{ .host = "127.0.0.1"; .port = "{upstream}"; }}
sub vcl_recv {{
    if (req.url !~ "^/cached/") {{ return (pass); }}
}}
sub vcl_backend_response {{
    set beresp.ttl = 1h;
}}
sub vcl_deliver {{
    set resp.http.X-Request-ID = req.xid;
}}
"""

PROPYLON_REDIS_TABLE = """[redis]
url = "unix://{redis}"
timeout = "1s"
"""

PROPYLON_TLS_TABLE = """[tls]
[[tls.certificates]]
cert = "{dir}/{certificate}.pem"
key = "{dir}/{certificate}.key"
"""


@dataclasses.dataclass(frozen=True)
class Racer:
    """One of the two proxies: how its configuration reads, and the command that it is started with, where {conf} is its path and {port}
    its port."""

    name: str
    conf: str
    command: list
    tls_listener: str
    tls_table: str = ""


def nginx_command(directory, name):
    return ["nginx", "-p", str(directory), "-e", f"{directory}/{name}.err", "-c", "{conf}"]


def varnish_command(directory):
    threads = ["-p", "thread_pools=1", "-p", "thread_pool_min=64", "-p", "timeout_idle=300"]
    return ["varnishd", "-F", "-n", f"{directory}/varnish", "-a", "127.0.0.1:{port}", "-f", "{conf}", "-s", "malloc,256m", *threads]


def racers(directory, against):
    """nginx, and who runs against it: Propylon, Varnish, or a second nginx, which shows what differences mean nothing."""
    first = Racer("nginx", NGINX_CONF, nginx_command(directory, "nginx"), NGINX_TLS)
    if against == "nginx":
        return [first, dataclasses.replace(first, name="nginx-2", command=nginx_command(directory, "nginx-2"))]
    if against == "varnish":
        return [first, Racer("varnish", VARNISH_CONF, varnish_command(directory), "")]
    program = os.environ.get("PROPYLON_BIN", str(REPOSITORY / "target/release/propylon"))
    command = [program, "run", "--config", "{conf}"]
    return [first, Racer("propylon", PROPYLON_CONF, command, 'listen_tls = ["127.0.0.1:{tls}"]', PROPYLON_TLS_TABLE)]


def client_environment(directory):
    return {**os.environ, "OPENSSL_CONF": f"{directory}/client.cnf"}


def prepare(directory):
    """Writes what the servers and their clients read."""
    # Root's nginx would hand its worker to a user who cannot read the directory.
    directory.chmod(0o755)
    for place in ("", "bare/", "full/", "limited/", "refused/", "cached/"):
        (directory / f"www/{place}").mkdir()
        (directory / f"www/{place}1k").write_bytes(b"x" * 1024)
        (directory / f"www/{place}100k").write_bytes(b"x" * 102400)
    (directory / "client.cnf").write_text(CLIENT_CONF)
    (directory / "proxied.conf").write_text(NGINX_PROXIED)
    for name, key in CERTIFICATES.items():
        command = ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost", *key]
        command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            fail(f"openssl made no {name} certificate: {run.stderr}")


def upstream(stack, directory):
    """Starts the upstream; returns its port."""
    (port,) = free_ports(1)
    conf = directory / "upstream.conf"
    conf.write_text(UPSTREAM_CONF.format(dir=directory, upstream=port))
    command = [word.format(conf=conf) for word in nginx_command(directory, "upstream")]
    stack.enter_context(Server("upstream", command, port, directory, LOAD_CORE))
    return port


def shared_redis(stack, directory):
    """Starts a Redis beside the load; returns its socket."""
    (port,) = free_ports(1)
    socket = directory / "redis.sock"
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--unixsocket", str(socket), "--save", ""]
    stack.enter_context(Server("redis", [*command, "--dir", str(directory)], port, directory, LOAD_CORE))
    return socket


def pair(stack, directory, app_port, *, against, certificate=None, redis=False, log=False):
    """Starts both proxies, with the access log on or off; the port of each is that of TLS if there is a certificate. With `redis`
    the limits of Propylon are in one; nginx keeps its own in its memory."""
    socket = shared_redis(stack, directory) if redis else None
    servers = []
    for racer in racers(directory, against):
        plain, tls, admin = free_ports(3)
        names = {"dir": directory, "name": racer.name, "upstream": app_port, "plain": plain, "tls": tls, "admin": admin}
        names |= {"certificate": certificate, "log": f"{directory}/{racer.name}.log" if log else "off"}
        names["full"] = " full" if log else ""
        names["tls_listener"] = racer.tls_listener.format(**names) if certificate else ""
        names["redis_table"] = PROPYLON_REDIS_TABLE.format(redis=socket) if redis else ""
        names["tls_table"] = racer.tls_table.format(**names) if certificate else ""
        conf = directory / f"{racer.name}.conf"
        conf.write_text(racer.conf.format(**names))
        port = tls if certificate else plain
        command = [word.format(conf=conf, port=port) for word in racer.command]
        servers.append(stack.enter_context(Server(racer.name, command, port, directory, PROXY_CORE)))
    return servers


def handshake_facts(server, directory):
    """What one full handshake came to, and how many session tickets followed it."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", "-ign_eof"]
    request = "GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    run = subprocess.run(
        command, input=request, capture_output=True, text=True, errors="replace", timeout=30, env=client_environment(directory)
    )
    # OpenSSL 3.5 words the group in another way than 3.0.
    patterns = {
        "version and suite": r"New, (\S+), Cipher is (\S+)",
        "group": r"(?:Temp Key: |TLS1.3 group: )([^,\s]+)",
        "signature": r"Peer signature type: (\S+)",
        "key": r"Server public key is (\d+) bit",
    }
    found = {what: re.search(pattern, run.stdout) for what, pattern in patterns.items()}
    missing = [what for what, match in found.items() if not match]
    if missing:
        fail(f"no handshake with {server.name} ({', '.join(missing)}): {run.stdout[-500:]}{run.stderr[-500:]}")
    facts = [word for match in found.values() for word in match.groups()]
    return facts, run.stdout.count("New Session Ticket arrived")


def negotiated(servers, directory):
    """One line for both: they must agree, or their costs cannot be compared."""
    facts, tickets = zip(*(handshake_facts(server, directory) for server in servers), strict=True)
    if facts[0] != facts[1]:
        fail("the proxies negotiated differently: " + "; ".join(f"{s.name} {f}" for s, f in zip(servers, facts, strict=True)))
    handed = ", ".join(f"{server.name} {count}" for server, count in zip(servers, tickets, strict=True))
    return f"{', '.join(facts[0])}-bit key; session tickets after a handshake: {handed}"
