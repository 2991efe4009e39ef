"""A browser to drive: Chromium without a window, through the WebDriver protocol of its driver.

The protocol is JSON over HTTP and we need ten of its commands, so the standard library does; a client library would
bring a dozen packages and a habit of fetching drivers by itself.
"""

import base64
import http.client
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

# For anything that should happen at once; far above what a loaded machine needs.
DEADLINE = 60.0
# A driver that starts a browser, or loads a page.
SLOW = 60.0
# What the protocol calls the member that holds an element's id.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Failed(Exception):
    """Something did not come to be."""


def within(deadline, what, probe):
    """Calls `probe` until it gives something that counts as true, and returns that."""
    end = time.monotonic() + deadline
    while not (found := probe()):
        if time.monotonic() > end:
            raise Failed(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.02)
    return found


class Driver:
    """chromedriver on a port that is free; it ends with the block."""

    def __init__(self, folder):
        program = shutil.which("chromedriver")
        if not program:
            raise Failed("chromedriver is missing: scripts/setup.sh test")
        self.log = Path(folder, "chromedriver.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([program, "--port=0"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.port = int(within(DEADLINE, "the driver names its port", self._port))
        except BaseException:
            self.process.kill()
            raise

    def _port(self):
        if self.process.poll() is not None:
            raise Failed(f"the driver ended: {self.log.read_text()}")
        found = re.search(r"started successfully on port (\d+)", self.log.read_text())
        return found and found[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, method, path, body=None):
        """One command; what the browser refuses is an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SLOW)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            value = json.loads(answer.read())["value"]
        finally:
            connection.close()
        if answer.status != 200:
            raise Failed(f"{method} {path.split('/', 3)[-1]}: {value['error']}: {value['message']}")
        return value


class Browser:
    """A browser with a new profile, which trusts the system's authorities and the key with this hash alone."""

    def __init__(self, driver, folder, key_hash):
        self.driver = driver
        flags = [
            "--headless",
            # It runs as root in a container, where its own sandbox does not.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            # Nothing but what the check asks for goes out.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=760,760",
            f"--user-data-dir={Path(folder, 'profile')}",
            f"--ignore-certificate-errors-spki-list={key_hash}",
        ]
        options = {"args": flags, "binary": shutil.which("chromium") or "chromium"}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = driver.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.version = session["capabilities"]["browserVersion"]
        self.path = f"/session/{session['sessionId']}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.ask("DELETE", self.path)

    def open(self, url):
        self.driver.ask("POST", self.path + "/url", {"url": url})

    def run(self, script, *arguments):
        """The value of JavaScript's `return`."""
        return self.driver.ask("POST", self.path + "/execute/sync", {"script": script, "args": arguments})

    def _element(self, selector):
        body = {"using": "css selector", "value": selector}
        return f"{self.path}/element/{self.driver.ask('POST', self.path + '/element', body)[ELEMENT]}"

    def click(self, selector):
        self.driver.ask("POST", self._element(selector) + "/click", {})

    def type(self, selector, text):
        """Text into a field, or the path of a file into a field for files."""
        self.driver.ask("POST", self._element(selector) + "/value", {"text": text})

    def text(self, selector):
        """What is to be read there: hidden text is not."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def console(self):
        entries = self.driver.ask("POST", self.path + "/se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def screenshot(self, file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.driver.ask("GET", self.path + "/screenshot")))
