"""The results of the race: a line for each gateway as they come, and a table and a plot for docs/performance.md."""

import statistics

from page import about, put, row
from race_loads import ratios
from rig import REPOSITORY

PLOT = REPOSITORY / "docs/performance.svg"
REFERENCE = "nginx"
COLOURS = {"nginx": "#8a8f98", "propylon": "#2563eb", "haproxy": "#0d9488", "envoy": "#c026d3", "traefik": "#ea580c", "caddy": "#ca8a04",
           "floor": "#d6d3d1"}


class Results:
    """What was measured: samples by row and gateway, and kilobytes of an idle connection."""

    def __init__(self, versions, rounds, seconds):
        self.versions, self.rounds, self.seconds = versions, rounds, seconds
        self.rows, self.idle = [], []
        self.width = max(map(len, versions)) + 2
        print("; ".join(f"{name} {version}" for name, version in versions.items()))
        print(f"{rounds} rounds of {seconds} s; median (least to greatest)")
        print(f"{'':<{self.width}}{'us/request':>24}{'to nginx':>22}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'memory MB':>11}", flush=True)

    def add(self, load, samples):
        self.rows.append((load, samples))
        print(f"{load.name}" + (f" (to reach: {load.goal})" if load.goal else ""))
        for name, mine in samples.items():
            cost = spread([sample.cost for sample in mine], ".1f")
            ratio = ""
            if name != REFERENCE and REFERENCE in samples:
                ratio = "{:.2f} ({:.2f} to {:.2f})".format(*ratios(mine, samples[REFERENCE], "cost"))
            rate, p50, p99 = (middle(mine, what) for what in ("rate", "p50", "p99"))
            memory = mine[-1].memory / 2**20
            print(f"{name:<{self.width}}{cost:>24}{ratio:>22}{rate:>12.0f}{p50 * 1e3:>9.2f}{p99 * 1e3:>9.2f}{memory:>11.0f}", flush=True)

    def add_idle(self, name, most, kilobytes):
        self.idle.append((name, most, kilobytes))
        print(f"{name}, KB (to reach: {most})")
        for gateway, each in kilobytes.items():
            print(f"{gateway:<{self.width}}{each:>24.1f}", flush=True)


def spread(values, form):
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def middle(samples, what):
    return statistics.median(getattr(sample, what) for sample in samples)


def write(results):
    """Puts what was measured where docs/performance.md has its place for it, and draws the plot."""
    put("the race", "bench", table(results))
    PLOT.write_text(plot(results))


def table(results):
    names = list(results.versions)
    lines = [
        f"{about('bench', results.versions)} {results.rounds} rounds of {results.seconds} s.",
        "",
        "**Processor time a request, as a ratio to nginx** (least to greatest of the rounds); nginx' own in microseconds.",
        "",
        row(["", *(f"{name}, µs" if name == REFERENCE else name for name in names), "to reach"]),
        row(["---"] * (len(names) + 2)),
    ]
    for load, samples in results.rows:
        cells = [load.name]
        for name in names:
            if name not in samples:
                cells.append("")
            elif name == REFERENCE:
                cells.append(f"{middle(samples[name], 'cost'):.1f}")
            else:
                cells.append("{:.2f} ({:.2f} to {:.2f})".format(*ratios(samples[name], samples[REFERENCE], "cost")))
        lines.append(row([*cells, str(load.goal or "")]))
    lines += ["", "**Latency, p50 / p99 in milliseconds, and thousands of requests a second**: each has all that its core can do.", ""]
    lines += [row(["", *names]), row(["---"] * (len(names) + 1))]
    for load, samples in results.rows:
        lines.append(row([load.name, *(latency(samples.get(name)) for name in names)]))
    lines += ["", "**Memory**: of the whole process tree after the row, in MB; of one more idle connection, in KB.", ""]
    lines += [row(["", *names]), row(["---"] * (len(names) + 1))]
    for load, samples in results.rows:
        lines.append(row([load.name, *(f"{samples[name][-1].memory / 2**20:.0f}" if name in samples else "" for name in names)]))
    for name, _, kilobytes in results.idle:
        lines.append(row([f"{name}, KB", *(f"{kilobytes[gateway]:.1f}" if gateway in kilobytes else "" for gateway in names)]))
    return "\n".join(lines)


def latency(samples):
    if not samples:
        return ""
    p50, p99, rate = (middle(samples, what) for what in ("p50", "p99", "rate"))
    return f"{p50 * 1e3:.2f} / {p99 * 1e3:.2f}, {rate / 1e3:.1f} k"


def plot(results):
    """Bars: the ratio to nginx of each gateway in each row, which has one itself."""
    bar, gap, left, right, most = 11, 14, 190, 640, 4.0
    parts, y = [], 40
    for load, samples in results.rows:
        if REFERENCE not in samples or len(samples) < 2:
            continue
        parts.append(f'<text x="{left - 8}" y="{y + bar * len(samples) / 2 + 4}" text-anchor="end">{load.name}</text>')
        for name, mine in samples.items():
            ratio = ratios(mine, samples[REFERENCE], "cost")[0]
            width = min(ratio, most) / most * (right - left)
            more = "+" if ratio > most else ""
            parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{bar - 2}" fill="{COLOURS.get(name, "#444")}"/>')
            parts.append(f'<text class="small" x="{left + width + 4:.1f}" y="{y + bar - 3}">{ratio:.2f}{more} {name}</text>')
            y += bar
        y += gap
    one = left + (right - left) / most
    grid = f'<line x1="{one}" y1="30" x2="{one}" y2="{y}" stroke="#bbb" stroke-dasharray="3 3"/>'
    style = "text{font:12px sans-serif;fill:#222}.small{font-size:9px;fill:#555}"
    title = '<text x="10" y="18">Processor time a request, as a ratio to nginx (shorter is better)</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 110} {y + 10}" role="img" '
        f'aria-label="Processor time a request of each gateway as a ratio to nginx"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{title}{grid}{"".join(parts)}</svg>\n'
    )
