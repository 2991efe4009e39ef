"""The scenes, each for one gateway: plays it and returns what was found, as JSON will have it; None where it makes no sense."""

import time

from rig import processor_seconds, resident_bytes
from shield_stage import Load, Stage

FAST, RATE = 32, 5000
UPLOADERS, UPLOAD = 200, 64 * 1024
READERS, READ_RATE = 40, 4000


def measured(stage, options):
    """The fast clients, for as long as the options say, after a second that does not count."""
    within = options.seconds + 20
    with Load("timed", port=stage.port, clients=FAST, seconds=options.seconds, warm=1.0) as fast:
        fast.said(within)
        found = fast.said(within)
    return {name: value for name, value in found.items() if name not in ("failed_post", "answered_post")}


def calm(options, name):
    with Stage(options, name) as stage, stage.watch() as watch:
        found = measured(stage, options)
    return found | {"watch": watch.found}


def beside(options, name, settle, slow):
    """The fast clients beside slow ones that have had so many seconds to do their worst."""
    with Stage(options, name) as stage, stage.watch() as watch:
        with Load(port=stage.port, **slow) as others:
            others.said(30)
            time.sleep(settle)
            found = measured(stage, options)
            found["slow"] = others.stopped()
    return found | {"watch": watch.found}


def uploads(options, name):
    return beside(options, name, 4, {"kind": "uploaders", "clients": UPLOADERS, "size": UPLOAD, "rate": RATE})


def reads(options, name):
    return beside(options, name, 2, {"kind": "readers", "clients": READERS, "rate": READ_RATE, "patience": 2 if options.quick else 5})


def restarts(options, name, unix):
    """Gunicorn is ended and started cold three times within the 12 seconds under 16 clients."""
    if name == "direct":
        return None
    apart, times = (2, 3) if options.quick else (4, 3)
    with Stage(options, name, unix=unix) as stage, stage.watch() as watch:
        begin, took = time.monotonic(), []
        with Load("timed", port=stage.port, clients=16, seconds=apart * times, mixed=True) as clients:
            clients.said(30)
            for number in range(times):
                time.sleep(max(0, begin + number * apart + 1 - time.monotonic()))
                down = time.monotonic()
                stage.gunicorn.restart(stage.pool.workers)
                took.append(time.monotonic() - down)
            found = clients.said(apart * times + 60)
        found = judged(stage, found)
    return found | {"restarts_took": took, "watch": watch.found}


def restarts_tcp(options, name):
    return restarts(options, name, unix=False)


def restarts_unix(options, name):
    return restarts(options, name, unix=True)


def judged(stage, found):
    """Holds the POSTs against the app's journal: which of the failed had reached it, which reached it twice."""
    received = stage.gunicorn.received()
    failed, answered = found.pop("failed_post"), found.pop("answered_post")
    reached = {each for each, _ in failed if received[each]}
    lost = [row["id"] for row in found["first_failed"]]
    return found | {
        "failed_post": len(failed),
        "failed_post_that_reached_the_app": len(reached),
        "failed_post_never_sent": len(stage.never_sent(failed) - reached),
        "posts": len(failed) + len(answered),
        "posts_executed_twice": sum(times > 1 for times in received.values()),
        "answered_posts_that_never_reached_the_app": sum(received[each] == 0 for each in answered),
        "gateway_said": stage.gateway_said(lost),
    }


def recycling(options, name):
    """Workers that end after 50 requests, and close idle connections after 2 s: what is reused must still be there."""
    if name == "direct":
        return None
    arguments = ("--max-requests", "50", "--keep-alive", "2")
    requests = 1000 if options.quick else 20_000
    with Stage(options, name, *arguments, threads=2) as stage, stage.watch() as watch:
        with Load("counted", port=stage.port, clients=16, requests=requests) as clients:
            clients.said(30)
            found = judged(stage, clients.said(1200))
    return found | {"watch": watch.found}


def settled(pid, within=20):
    """Resident bytes, once they have stopped growing for a second."""
    last, deadline = resident_bytes(pid), time.monotonic() + within
    while time.monotonic() < deadline:
        time.sleep(1)
        now = resident_bytes(pid)
        if abs(now - last) < last // 500:
            return now
        last = now
    return last


def queue(options, name):
    """Many requests in front of workers that are all blocked: what each costs while it waits, and whether it is answered."""
    if name != "propylon":
        return None
    count = 1000 if options.quick else 10_000
    settings = {"queue_timeout": "120s", "patience": "120s"}
    with Stage(options, name, "--timeout", "300", **settings) as stage:
        pid = stage.gateway.pid
        with Load("queued", port=stage.port, clients=4, path="/block") as blockers:
            said(blockers, "ready", "asked")
            time.sleep(1)
            before = settled(pid)
            with Load("queued", port=stage.port, clients=count) as waiting:
                waiting.said(120)
                connected = settled(pid)
                waiting.go()
                waiting.said(60)
                queued = settled(pid)
                spent, start = processor_seconds(pid), time.monotonic()
                time.sleep(2 if options.quick else 5)
                share = (processor_seconds(pid) - spent) / (time.monotonic() - start)
                stage.gunicorn.release.touch()
                waiting.go()
                found = waiting.said(150)
            blockers.go()
            found["blockers"] = blockers.said(150)
    return found | {
        "queued": count, "bytes_each": (queued - before) / count, "bytes_each_connected": (connected - before) / count,
        "processor_share_waiting": share,
    }


def said(load, *words):
    """Leads a load from word to word."""
    for number, word in enumerate(words):
        if number:
            load.go()
        heard = load.said(60)
        assert heard == word, heard


SCENES = {
    "calm": calm,
    "uploads": uploads,
    "reads": reads,
    "restarts-tcp": restarts_tcp,
    "restarts-unix": restarts_unix,
    "recycling": recycling,
    "queue": queue,
}
