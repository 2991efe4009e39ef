#!/usr/bin/env python3
"""Has the security fields judged by a grader that is not ours: Mozilla's HTTP observatory, as its npm package.

Each site of pages.py runs on Gunicorn or Uvicorn, behind Propylon with HTTPS, once with each preset. Prints what the observatory's tests say,
and its grade; ends with 1 where `strict` has not got the best one, A+.

Needs Node.js 20 or newer with npm, and what scripts/setup.sh installs for the demo.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from rig import REPOSITORY, Server, fail, free_ports  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = REPOSITORY / "target/grade"
SERVERS = {
    "flask": ["gunicorn", "--chdir", str(HERE), "-b", "127.0.0.1:{port}", "pages:app"],
    "django": ["gunicorn", "--chdir", str(HERE), "-b", "127.0.0.1:{port}", "pages:app"],
    "fastapi": ["uvicorn", "--app-dir", str(HERE), "--port", "{port}", "pages:app"],
}
CONF = """
[server]
listen = ["127.0.0.1:{http}"]
listen_tls = ["127.0.0.1:{https}"]
https_redirect = true
[admin]
listen = ["127.0.0.1:{admin}"]
[[tls.certificates]]
cert = "{dir}/site.pem"
key = "{dir}/site.key"
[upstreams.site]
endpoints = ["127.0.0.1:{app}"]
[[routes]]
upstream = "site"
security_headers = "{preset}"
"""


def install():
    """Without the scripts of packages: one downloads authorities, which are not needed for a site on this machine."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    (TOOLS / "package.json").write_text((HERE / "package.json").read_text())
    run = subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=TOOLS, capture_output=True, text=True)
    if run.returncode:
        fail(f"npm: {run.stdout}{run.stderr}")


def certificate(directory):
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:P-256", "-addext", "subjectAltName=DNS:localhost"]
    run = subprocess.run([*command, "-keyout", f"{directory}/site.key", "-out", f"{directory}/site.pem"], capture_output=True, text=True)
    if run.returncode:
        fail(f"openssl: {run.stderr}")


def grade(framework, preset, directory):
    app, http, https, admin = free_ports(4)
    os.environ["FRAMEWORK"] = framework
    command = [word.format(port=app) for word in SERVERS[framework]]
    command[0] = str(REPOSITORY / ".venv/bin" / command[0])
    conf = directory / "gateway.toml"
    conf.write_text(CONF.format(dir=directory, app=app, http=http, https=https, admin=admin, preset=preset))
    program = os.environ.get("PROPYLON_BIN", str(REPOSITORY / "target/release/propylon"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(Server(framework, command, app, directory))
        stack.enter_context(Server("propylon", [program, "run", "--config", str(conf)], https, directory))
        environment = {**os.environ, "NODE_EXTRA_CA_CERTS": f"{directory}/site.pem"}
        command = ["node", str(HERE / "grade.mjs"), str(TOOLS), str(http), str(https)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    if run.returncode:
        fail(f"the observatory failed: {run.stdout}{run.stderr}")
    print(f"{framework}, {preset}\n{run.stdout}", flush=True)
    return re.search(r"^grade (\S+),", run.stdout, re.MULTILINE).group(1)


def main():
    install()
    with tempfile.TemporaryDirectory(prefix="propylon-grade-") as name:
        directory = pathlib.Path(name)
        certificate(directory)
        grades = {(framework, preset): grade(framework, preset, directory) for preset in ("off", "basic", "strict") for framework in SERVERS}
    for (framework, preset), got in grades.items():
        print(f"{framework:<10}{preset:<8}{got}")
    sys.exit(any(got != "A+" for (_, preset), got in grades.items() if preset == "strict"))


main()
