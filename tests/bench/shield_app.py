"""The app behind the gateways: what a plain WSGI app does to a worker, with a journal of what has reached it.

    /ready   answers at once
    /work    takes 20 ms, as an app that waits for its database; ?id=… of a POST goes into the journal first
    /quick   the same in 2 ms
    /upload  reads the body
    /big     answers 12 MB
    /block   holds its worker until the file named in SHIELD_RELEASE exists

Bodies are read to their end and their size is part of the answer, so that the client sees a truncated one.
"""

import os
import time
import urllib.parse

BIG = b"x" * 12_000_000
TAKES = {"/work": 0.020, "/quick": 0.002}
# Lines this short, written at once to a file opened for appending, never mix, whichever worker writes them.
JOURNAL = os.open(os.environ["SHIELD_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
# Each worker's own import: so many of these, so many workers have started.
os.write(JOURNAL, f"@{os.getpid()}\n".encode())


def application(environ, start_response):
    path, posts = environ["PATH_INFO"], environ["REQUEST_METHOD"] == "POST"
    name = urllib.parse.parse_qs(environ["QUERY_STRING"]).get("id", [""])[0]
    if posts and name:
        # Before anything else: from here on the app has got it, and a side effect may have happened.
        os.write(JOURNAL, f"{name}\n".encode())
    size = len(environ["wsgi.input"].read()) if posts else 0
    time.sleep(TAKES.get(path, 0))
    if path == "/block":
        while not os.path.exists(os.environ["SHIELD_RELEASE"]):
            time.sleep(0.05)
    body = BIG if path == "/big" else f"{name} {size}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
