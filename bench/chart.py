"""docs/bench.svg: CPU per block of each stack beside what mosquitto spends on the same block, with the goals."""

from html import escape

from report import median, runs_of
from rows import ROWS

ROW_NAMES = ("4096x1", "1024x16", "256x1", "4096x1+tls")
SERVER, BROKER, INK, FAINT, GOAL = "#1d4f91", "#e0a458", "#1a1a1a", "#595959", "#9a0000"
WIDTH, LEFT, RIGHT = 1000, 190, 150
BAR, BROKER_BAR, STEP, PANEL_HEAD, PANEL_GAP, TOP = 13, 7, 30, 34, 16, 84
CARD = '<rect x="1" y="1" width="{width}" height="{height:.0f}" rx="10" fill="#ffffff" stroke="#c9c9c9"/>'
TEXT = '<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{more}>{words}</text>'


def text(x: float, y: float, words: str, fill: str = INK, **more: str | float) -> str:
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return TEXT.format(x=x, y=y, fill=fill, words=escape(words), more=attributes)


def bar(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" fill="{fill}"/>'


def panel(results: dict, name: str, top: float) -> tuple[list[str], float]:
    """One row of the table as bars on a scale of its own; where the next may begin."""
    row = ROWS[name]
    found = [(stack, runs) for stack in row.stacks if (runs := runs_of(results, name, stack))]
    if not found:
        return [], top
    parts = [text(24, top + 16, row.title, font_weight="bold")]
    servers = [median(runs, "server_us") for _, runs in found]
    brokers = [median(runs, "mosquitto_us") if "ratio" in runs[0] else 0.0 for _, runs in found]
    scale = (WIDTH - LEFT - RIGHT) / max(*servers, *brokers)
    y = top + PANEL_HEAD
    for (stack, _), server_us, broker_us in zip(found, servers, brokers, strict=True):
        is_ours = stack == "bridge"
        weight = {"font_weight": "bold"} if is_ours else {}
        parts += [
            text(LEFT - 10, y + 12, stack, text_anchor="end", **weight),
            bar(LEFT, y, server_us * scale, BAR, SERVER),
            text(LEFT + server_us * scale + 6, y + 11, f"{server_us:.1f} µs", font_size=12, **weight),
        ]
        if broker_us:
            parts += [
                bar(LEFT, y + BAR, broker_us * scale, BROKER_BAR, BROKER),
                text(LEFT + broker_us * scale + 6, y + BAR + 8, f"{broker_us:.1f}", FAINT, font_size=10),
            ]
        if is_ours:
            x = LEFT + row.goal * broker_us * scale
            line = f"M{x:.1f} {y - 5:.1f}V{y + BAR + BROKER_BAR + 2:.1f}"
            parts.append(f'<path d="{line}" stroke="{GOAL}" stroke-width="2"/>')
            parts.append(text(x, y - 8, f"goal {row.goal:.2f} × mosquitto", GOAL, font_size=10, text_anchor="start"))
        y += STEP
    return parts, y + PANEL_GAP


def drawn(results: dict) -> str:
    """The chart as SVG."""
    parts, y = [], float(TOP)
    for name in ROW_NAMES:
        more, y = panel(results, name, y)
        parts += more
    about = results["machine"]
    legend = [
        text(24, 34, "CPU per delivered block: the server, and mosquitto for the same block", font_size=18),
        bar(24, 52, 26, BAR, SERVER),
        text(58, 63, "server", font_size=13),
        bar(130, 55, 26, BROKER_BAR, BROKER),
        text(164, 63, "mosquitto, beside that server", font_size=13),
        f'<path d="M392 50V68" stroke="{GOAL}" stroke-width="2"/>',
        text(402, 63, "the bridge's goal", font_size=13),
        text(WIDTH - 24, 63, "µs, medians; each panel has its own scale", FAINT, font_size=12, text_anchor="end"),
    ]
    where = f"{about['cpus']} CPUs, Python {about['python']}, mosquitto {about['mosquitto']}, loopback, {about['date']}"
    foot = text(24, y + 6, f"{where}. Every block checked. Run it: make bench", FAINT, font_size=12)
    height = y + 24
    said = "; ".join(
        f"{ROWS[name].title}: "
        + ", ".join(
            f"{stack} {median(runs, 'server_us'):.1f} µs"
            for stack in ROWS[name].stacks
            if (runs := runs_of(results, name, stack))
        )
        for name in ROW_NAMES
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        'aria-labelledby="title desc" font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" font-size="14">'
    )
    return "\n".join(
        [
            head,
            '<title id="title">CPU per delivered block</title>',
            f'<desc id="desc">{escape(said)}</desc>',
            CARD.format(width=WIDTH - 2, height=height - 2),
            *legend,
            *parts,
            foot,
            "</svg>\n",
        ]
    )
