"""Looks at the page /live of the FastAPI example through a gateway, with a real browser.

Both must run already: `tests/it/browser.rs` starts them, and so does `make demo KEEP=1`, whose transcript says in which
directory the certificate is. It says what it saw, a line each, and ends with 1 at the first thing that is not as it
must be: then it shows what the browser wrote to its console, and where there is a picture of the page.

    .venv/bin/python tests/browser/check.py --secure https://localhost:8443/fastapi/live --cert fullchain.pem \\
        --plain http://localhost:8080/fastapi/live
"""

import argparse
import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from webdriver import DEADLINE, Browser, Driver, Failed, within

# For all of it, so that nobody waits for a browser that hangs.
WHOLE_SECONDS = 120
UPLOAD_BYTES = 100_000
# The gateway takes 64 KiB of it, the sockets on the way not all of the rest: it answers while the browser still sends.
TOO_MUCH_BYTES = 16_000_000


def expect(seen, wanted, what):
    if seen != wanted:
        raise Failed(f"{what}: {seen!r} instead of {wanted!r}")


def arrived(browser, what, condition):
    """Waits until the browser shows a page for which the condition holds. Its own page for an error never is."""

    def probe():
        if browser.run("return location.protocol") == "chrome-error:":
            raise Failed(f"the browser shows an error instead of {what}: {browser.text('body')}")
        return browser.run("return document.readyState") == "complete" and condition()

    within(DEADLINE, what, probe)


def loaded(browser, url, protocol):
    browser.open(url)
    arrived(browser, url, lambda: browser.text("h1") == "Live, behind Propylon")
    expect(browser.run("return protocol()"), protocol, f"the protocol of {url}")
    expect(browser.run("return location.href"), url, "the page's address")
    print(f"page: {browser.text('p')}")


def talks(browser, scheme):
    lines = lambda: browser.text("#socket").splitlines()
    within(DEADLINE, "the WebSocket opens", lambda: lines() and lines()[0].startswith(f"open: {scheme}://"))
    browser.click("#send")
    within(DEADLINE, "the text comes back", lambda: lines()[1:] == ["text: hello"])
    browser.click("#bytes")
    within(DEADLINE, "the bytes come back", lambda: lines()[2:] == ["bytes: 0,1,127,128,255"])
    browser.click("#close")
    within(DEADLINE, "the WebSocket closes", lambda: lines()[3:])
    expect(lines()[3:], ["closed: 1000 bye"], "the end of the WebSocket")
    print(f"WebSocket: {'; '.join(lines())}")


def listens(browser):
    """Each event comes while others are still to be sent: what was held back would come after the last of them."""
    within(DEADLINE, "five events", lambda: browser.run("return arrivals.length") == 5)
    events = browser.run("return arrivals")
    expect([event["number"] for event in events], [1, 2, 3, 4, 5], "the events")
    late = [event["number"] for event in events[:-2] if event["came"] >= events[-1]["sent"]]
    expect(late, [], "events that came only when the last was sent")
    expect(browser.run("return stream.readyState"), 2, "the state of the stream, which the page has closed")
    gaps = [b["came"] - a["came"] for a, b in zip(events, events[1:])]
    print(f"events: {len(events)}, after one another by {', '.join(f'{gap:.2f} s' for gap in gaps)}")


def uploads(browser, url, folder):
    content = os.urandom(UPLOAD_BYTES)
    Path(folder, "upload.bin").write_bytes(content)
    browser.type("input[type=file]", str(Path(folder, "upload.bin")))
    browser.click("#send-file")
    arrived(browser, "the app's answer", lambda: browser.run("return location.href") == f"{url}/upload")
    said = json.loads(browser.text("pre"))
    wanted = {"name": "upload.bin", "length": UPLOAD_BYTES, "sha256": hashlib.sha256(content).hexdigest()}
    expect(said, wanted, "the upload as the app received it")
    print(f"upload: {said}")


def is_refused(browser, url, protocol, folder):
    """Sees the gateway's own page, although the browser has not said all that it had to say."""
    loaded(browser, url, protocol)
    with Path(folder, "too-much.bin").open("wb") as file:
        file.truncate(TOO_MUCH_BYTES)
    browser.type("input[type=file]", str(Path(folder, "too-much.bin")))
    browser.click("#send-too-much")
    arrived(browser, "the page of the refusal", lambda: browser.run("return location.href") == f"{url}/small")
    expect(browser.run("return document.title"), "413 Payload Too Large", "the title")
    expect(browser.text("h1"), "413 Payload Too Large", "the heading")
    entry = browser.run("return performance.getEntriesByType('navigation')[0].toJSON()")
    expect([entry["responseStatus"], entry["nextHopProtocol"]], [413, protocol], "the status and the protocol")
    print(f"too much: {browser.text('body').splitlines()}, over {protocol}")


def is_redirected(browser, url, target):
    browser.open(url)
    arrived(browser, target, lambda: browser.text("h1") == "Live, behind Propylon")
    expect(browser.run("return [location.href, protocol()]"), [target, "h2"], f"where {url} leads")
    print(f"redirect: {url} -> {target}")


def key_hash(certificate):
    """The SHA-256 of the key as the certificate holds it (SubjectPublicKeyInfo), in base64."""
    command = ["openssl", "x509", "-in", certificate, "-noout", "-pubkey"]
    pem = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    der = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-----")))
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def check(browser, asked, folder):
    loaded(browser, asked.secure, "h2")
    talks(browser, "wss")
    listens(browser)
    if asked.picture:
        browser.screenshot(asked.picture)
    uploads(browser, asked.secure, folder)
    is_refused(browser, asked.secure, "h2", folder)
    is_refused(browser, asked.plain, "http/1.1", folder)
    loaded(browser, asked.plain, "http/1.1")
    talks(browser, "ws")
    listens(browser)
    uploads(browser, asked.plain, folder)
    if asked.redirected:
        is_redirected(browser, *asked.redirected)


def too_late(*_):
    raise Failed(f"not within {WHOLE_SECONDS} s: the whole check")


def main():
    parser = argparse.ArgumentParser(description="Looks at the page /live through a gateway, with a real browser.")
    parser.add_argument("--secure", required=True, help="the page's address over HTTPS")
    parser.add_argument("--cert", required=True, help="the certificate that is shown there")
    parser.add_argument("--plain", required=True, help="the page's address over HTTP")
    parser.add_argument("--redirected", nargs=2, metavar=("FROM", "TO"), help="an address that leads to another")
    parser.add_argument("--picture", type=Path, help="a file for a picture of the page")
    parser.add_argument("--failures", type=Path, default=tempfile.gettempdir(), help="where to put a picture")
    asked = parser.parse_args()
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(WHOLE_SECONDS)
    with tempfile.TemporaryDirectory() as folder, Driver(folder) as driver:
        with Browser(driver, folder, key_hash(asked.cert)) as browser:
            print(f"Chromium {browser.version}")
            try:
                check(browser, asked, folder)
            except Failed as failure:
                tell(failure, browser, asked.failures / "browser-check.png")
                sys.exit(1)


def tell(failure, browser, picture):
    print(f"FAILED: {failure}", file=sys.stderr)
    for line in browser.console() or ["nothing"]:
        print(f"console: {line}", file=sys.stderr)
    browser.screenshot(picture)
    print(f"at {browser.run('return location.href')}, pictured in {picture}", file=sys.stderr)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
