"""docs/performance.md: where each benchmark puts what it measured, and what is said of the machine and of the run."""

import datetime
import pathlib
import re
import subprocess
import sys

from rig import REPOSITORY, fail

PAGE = REPOSITORY / "docs/performance.md"


def put(name, target, text):
    """Replaces what stands between the two marks of `name`."""
    page = PAGE.read_text()
    before, mark, rest = page.partition(f"<!-- {name}: make {target} ARGS=--write -->\n")
    _, end, after = rest.partition(f"<!-- the end of {name} -->")
    mark and end or fail(f"{PAGE} has no place for {name}:\n{text}")
    PAGE.write_text(f"{before}{mark}{text}\n{end}{after}")


def about(target, versions):
    """When, of what, with which command and on which machine: the first words above a table."""
    arguments = f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else ""
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{datetime.date.today()}, commit {commit()}, `make {target}{arguments}`. {machine()}. {listed}."


def row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    kernel = pathlib.Path("/proc/sys/kernel/osrelease").read_text().strip()
    congestion = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return f"{cpu.group(1).strip() if cpu else 'An unknown processor'}, two cores of a virtual machine, Linux {kernel} ({congestion})"


def commit():
    def git(*words):
        return subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True).stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if git("status", "--porcelain", "src") else "")
