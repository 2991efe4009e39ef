"""The figures as a Markdown table: a row for each thing that is measured, its aim beside it, a column for each gateway."""

from shield_gateways import SPOOL_DISK

MB = 1 << 20
SLOW = ("uploads", "reads")
WATCHED = ("calm", "uploads", "reads", "restarts-tcp", "recycling")


def rate(results, name, scene):
    found = results.get(scene, {}).get(name)
    return found and (f"{found['answers_per_second']:.1f}/s", found["answers_per_second"] < (190 if scene == "calm" else 185))


def percentiles(results, name, scene):
    found = results.get(scene, {}).get(name)
    if not found or found["p99_ms"] is None:
        return found and ("none answered", True)
    text = f"{found['p50_ms']:.0f} / {found['p99_ms']:.0f} ms"
    quiet = results.get("calm", {}).get(name)
    if scene == "calm" or not quiet or not quiet["p99_ms"]:
        return text, False
    ratio = found["p99_ms"] / quiet["p99_ms"]
    return f"{text}, x {ratio:.2f}", ratio >= 1.2


def failed(results, name, scene):
    found = results.get(scene, {}).get(name)
    return found and (f"{found['failed']}{reasons(found)}", found["failed"] > 0)


def slow(results, name, scene):
    found = (results.get(scene, {}).get(name) or {}).get("slow")
    if not found:
        return None
    if scene == "uploads":
        return f"{found['whole']} whole, {found['failed']} failed{reasons(found)}", found["failed"] > 0
    text = f"{found['began']} began, {found['broken']} broken{reasons(found)}"
    return text, found["broken"] > 0 or found["began"] < 40


def reasons(found):
    most = sorted(found["why"].items(), key=lambda item: -item[1])[:2]
    return f" ({', '.join(f'{text} x {count}' for text, count in most)})" if most else ""


def failed_get(results, name, scene):
    found = results.get(scene, {}).get(name)
    return found and (f"{found['failed_get']} of {found['answers'] + found['failed'] - found['posts']}", found["failed_get"] > 0)


def failed_post(results, name, scene):
    found = results.get(scene, {}).get(name)
    if not found:
        return None
    text = f"{found['failed_post']} of {found['posts']}"
    if found["failed_post"]:
        text += f"; {found['failed_post_never_sent']} never sent, {found['failed_post_that_reached_the_app']} executed"
    return text, found["failed_post_never_sent"] > 0


def twice(results, name, scene):
    found = results.get(scene, {}).get(name)
    if not found:
        return None
    lost = found["answered_posts_that_never_reached_the_app"]
    text = f"{found['posts_executed_twice']}" + (f"; {lost} answered, never executed" if lost else "")
    return text, found["posts_executed_twice"] + lost > 0


def watched(results, name, key):
    return {scene: results[scene][name]["watch"].get(key, 0) for scene in WATCHED if results.get(scene, {}).get(name)}


def connections(results, name, _):
    found = watched(results, name, "established")
    over = sum(watched(results, name, "samples_over_capacity").values())
    sync = max((count for scene, count in found.items() if scene != "recycling"), default=0)
    text = " / ".join(filter(None, [str(sync), str(found["recycling"]) if "recycling" in found else ""]))
    return found and (f"{text}; over in {over} of {samples(results, name)} samples", over > 0)


def receive_queue(results, name, _):
    found = watched(results, name, "receive_queue")
    over = sum(watched(results, name, "samples_queue_over_free").values())
    return found and (f"{max(found.values())}; over in {over} samples", over > 0)


def samples(results, name):
    return sum(watched(results, name, "samples").values())


def resident(results, name, _):
    if name == "direct":
        return None
    found, first = watched(results, name, "resident"), watched(results, name, "resident_first")
    return found and (f"{max(found.values()) / MB:.0f} MB; at first {min(first.values()) / MB:.0f}", False)


def temporary(results, name, _):
    if name == "direct":
        return None
    found = watched(results, name, "temporary")
    return found and (f"{max(found.values()) / MB:.0f} MB", name == "propylon" and max(found.values()) > SPOOL_DISK)


def queue_memory(results, name, scene):
    found = results.get(scene, {}).get(name)
    if not found:
        return None
    text = f"{found['bytes_each'] / 1024:.1f} KB of {found['queued']}; connected only {found['bytes_each_connected'] / 1024:.1f}"
    return text, found["bytes_each"] > 8192


def queue_processor(results, name, scene):
    found = results.get(scene, {}).get(name)
    return found and (f"{found['processor_share_waiting'] * 100:.1f} % of a core", False)


def queue_answers(results, name, scene):
    found = results.get(scene, {}).get(name)
    return found and (f"{found['answered']}, {found['failed']} failed{reasons(found)}", found["failed"] > 0)


def restart_rows(scene, about):
    return [
        (scene, f"{about}: failed GETs", "0", failed_get),
        (scene, f"{about}: failed POSTs", "0 never sent", failed_post),
        (scene, f"{about}: POSTs executed twice", "0", twice),
        (scene, f"{about}: why", "", lambda results, name, scene: failed(results, name, scene) and (failed(results, name, scene)[0], False)),
    ]


# The scene (or none: over all of them), what the row says, its aim, and what makes its cells: text and whether it misses the aim.
ROWS = [
    ("calm", "calm: answers", "190/s", rate),
    ("calm", "calm: p50 / p99", "", percentiles),
    ("calm", "calm: failed", "0", failed),
    ("uploads", "200 slow uploaders: answers", "185/s", rate),
    ("uploads", "200 slow uploaders: p50 / p99, against calm", "x < 1.2", percentiles),
    ("uploads", "200 slow uploaders: failed", "0", failed),
    ("uploads", "200 slow uploaders: their uploads", "none failed", slow),
    ("reads", "40 slow readers: answers", "185/s", rate),
    ("reads", "40 slow readers: p50 / p99, against calm", "x < 1.2", percentiles),
    ("reads", "40 slow readers: failed", "0", failed),
    ("reads", "40 slow readers: their answers", "40 began", slow),
    *restart_rows("restarts-tcp", "3 restarts, TCP"),
    *restart_rows("restarts-unix", "3 restarts, Unix socket"),
    *restart_rows("recycling", "workers end after 50 requests"),
    (None, "connections to the pool, sync / gthread, at most", "4 / 8", connections),
    (None, "listener's receive queue, at most", "free workers", receive_queue),
    (None, "resident memory, at most", "", resident),
    (None, "temporary files, at most", f"{SPOOL_DISK // MB} MB", temporary),
    ("queue", "a queued request", "8 KB", queue_memory),
    ("queue", "processor time while they wait", "", queue_processor),
    ("queue", "queued requests answered", "all", queue_answers),
]


def table(results, names):
    """The table, and what Propylon misses, one line each."""
    lines = [f"| | aim | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    missed = []
    for scene, about, aim, cell in ROWS:
        if scene and scene not in results:
            continue
        cells = {name: cell(results, name, scene) or ("", False) for name in names}
        if any(text for text, _ in cells.values()):
            marked = (f"**{text}**" if miss else text for text, miss in cells.values())
            lines.append(f"| {about} | {aim} | {' | '.join(marked)} |")
        if cells.get("propylon", ("", False))[1]:
            missed.append(f"{about}: {cells['propylon'][0]} (aim: {aim})")
    return "\n".join(lines), missed
