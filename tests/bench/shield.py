#!/usr/bin/env python3
"""How well Propylon, nginx and HAProxy shield a real Gunicorn on this machine, in one run.

The pool is Gunicorn from .venv with 4 sync workers and an app that takes 20 ms: 200 answers a second is all it can do. Each
scene starts a pool and a gateway afresh, and is played for the gateways in turn:

    calm           32 fast clients alone, each asking again as soon as it is answered
    uploads        the same beside 200 clients that upload 64 KiB at 5 KB/s
    reads          the same beside 40 clients that read 12 MB at 4 KB/s
    restarts-tcp   Gunicorn ended with TERM and started cold three times within 12 s under 16 clients, GET and POST in turn
    restarts-unix  the same on a Unix socket
    recycling      gthread, 4 workers of 2 threads, which end after 50 requests and close idle connections after 2 s
    queue          10,000 requests before workers that are all blocked (Propylon alone)

Meanwhile, each 20 ms, the connections at the pool's port and the listener's receive queue are counted; each 250 ms the
gateway's resident memory and temporary files. Every POST carries an id, and the app keeps a journal of those it got: a failed
POST the app had got is told from the others, and one that it got twice is found.

In the table a figure in bold misses the aim; "direct" is without a gateway. Only failures are exact: rates and times depend on
the machine, and are to be compared within a run. Python's standard library, .venv, nginx and HAProxy are all it needs.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time

from page import about, put
from rig import REPOSITORY, fail, open_file_limit
from shield_gateways import GATEWAYS, unsupported, version
from shield_report import table
from shield_scenes import SCENES
from shield_stage import GUNICORN

COLUMNS = ["direct", *GATEWAYS]


def names_of(known):
    def parse(text):
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return [name for name in known if name in names]

    return parse


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short scenes, to see that all works; no figures to quote")
    parser.add_argument("--seconds", type=float, help="of measuring in calm, uploads and reads (10; 3 with --quick)")
    parser.add_argument("--only", type=names_of(list(SCENES)), default=list(SCENES), metavar="SCENE,…", help="these scenes alone")
    parser.add_argument("--gateways", type=names_of(COLUMNS), default=COLUMNS, metavar="NAME,…", help=f"of {', '.join(COLUMNS)} (all)")
    parser.add_argument("--propylon", type=pathlib.Path, default=REPOSITORY / "target/release/propylon", metavar="PATH")
    parser.add_argument("--write", action="store_true", help="puts the table into docs/performance.md")
    parser.add_argument("--json", type=pathlib.Path, metavar="PATH", help="writes all that was found there")
    options = parser.parse_args()
    options.seconds = options.seconds or (3 if options.quick else 10)
    if options.seconds < 1:
        parser.error("seconds are 1 or more")
    if options.write and (options.only != list(SCENES) or options.gateways != COLUMNS):
        parser.error("--write puts the whole table: it goes without --only and --gateways")
    options.propylon = options.propylon.absolute()
    return options


def check_machine(options):
    """Ends the benchmark if something is missing; returns what everything calls itself."""
    sys.version_info >= (3, 11) or fail("Python 3.11 or newer is needed")
    GUNICORN.exists() or fail(f"{GUNICORN} is missing: scripts/setup.sh bench makes .venv")
    versions = {name: version(name, options.propylon) for name in options.gateways if name != "direct"}
    gunicorn = subprocess.run([GUNICORN, "--version"], capture_output=True, text=True).stdout.strip()
    options.left_out = []
    if "propylon" in options.gateways:
        with tempfile.TemporaryDirectory(prefix="propylon-shield-") as directory:
            options.left_out = unsupported(options.propylon, pathlib.Path(directory))
    needed = 12_000 if "queue" in options.only and not options.quick else 4000
    limit = open_file_limit(20_000)
    if limit < needed:
        fail(f"{limit} open files are too few, {needed} are needed (ulimit -n)")
    return {"gunicorn": gunicorn, **versions}


def play(options):
    """Each scene for each gateway in turn, so that what changes on the machine over time hits all."""
    results = {}
    for scene in options.only:
        for name in options.gateways:
            start = time.monotonic()
            found = SCENES[scene](options, name)
            if found is not None:
                results.setdefault(scene, {})[name] = found
                print(f"{scene}, {name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return results


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    options = arguments()
    # Ended by a signal, it ends what it started, too. SIGINT is ignored in what a script starts in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    versions = check_machine(options)
    cores = len(os.sched_getaffinity(0))
    print(f"{', '.join(versions.values())}; Python {platform.python_version()}; {cores} cores; {options.seconds:g} s\n", flush=True)
    results = play(options)
    if options.json:
        found = {"versions": versions, "cores": cores, "seconds": options.seconds, "quick": options.quick}
        options.json.write_text(json.dumps(found | {"left_out": options.left_out, "scenes": results}, indent=1) + "\n")
    text, missed = table(results, options.gateways)
    print(text)
    if options.write:
        known = {name: re.search(r"\d+(\.\d+)+", called).group() for name, called in versions.items()}
        put("the worker pool", "bench-shield", f"{about('bench-shield', known)}\n\n{text}")
    if options.left_out:
        print(f"\nThis build of Propylon knows no {' and no '.join(options.left_out)}: it was measured without.")
    if missed:
        print("\nPropylon misses:\n" + "\n".join(f"- {line}" for line in missed))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
