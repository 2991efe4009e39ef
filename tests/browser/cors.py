"""Asks a gateway from pages of two origins, with a real browser, and says what each page could read, as one line of JSON.

    .venv/bin/python tests/browser/cors.py PORT    a gateway on 127.0.0.1, which tests/it/cors.rs starts
"""

import json
import signal
import sys
import tempfile

from webdriver import Browser, Driver

# For all of it, so that nobody waits for a browser that hangs.
WHOLE_SECONDS = 120

ASK = """
const [url, options] = arguments;
return fetch(url, options).then(
    (answer) => answer.text().then((text) => ({
        status: answer.status, text: text.trim(), id: answer.headers.get("x-request-id") !== null,
        secret: answer.headers.get("x-secret") !== null,
    })),
    (error) => ({ error: error.name }),
);
"""


def main():
    signal.alarm(WHOLE_SECONDS)
    port = sys.argv[1]
    # To a browser these two are two origins.
    page, api = f"http://localhost:{port}/page", f"http://127.0.0.1:{port}"
    simple = {"method": "GET"}
    asked_first = {"method": "PUT", "headers": {"X-Token": "1", "Content-Type": "application/json"}, "body": "{}"}
    with_cookies = {"method": "GET", "credentials": "include"}
    loads = {
        "simple": ("/allowed", simple),
        "asked first": ("/allowed", asked_first),
        "method not named": ("/allowed", {"method": "DELETE"}),
        "field not named": ("/allowed", {"method": "GET", "headers": {"X-Other": "1"}}),
        "with cookies": ("/allowed", with_cookies),
        "an error of the app": ("/allowed/fails", simple),
        "an error of the gateway": ("/allowed/limited", simple),
        "too large": ("/allowed/small", {"method": "POST", "body": "x" * 5000}),
        "any origin": ("/any", simple),
        "any origin with cookies": ("/any", with_cookies),
        "another origin": ("/other", simple),
        "another origin, asked first": ("/other", asked_first),
        "the app's own": ("/own", simple),
        "nobody": ("/none", simple),
    }
    with tempfile.TemporaryDirectory() as folder, Driver(folder) as driver, Browser(driver, folder, "none") as browser:
        browser.open(page)
        print(json.dumps({name: browser.run(ASK, api + path, options) for name, (path, options) in loads.items()}))


main()
