"""The curve of a rehearsal as an SVG: bytes per second, what is open, and a line where each stage opens."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from ota_bridge.rehearsal.report import amount, clock

WIDTH: Final = 900
HEIGHT: Final = 170
_LEFT: Final = 90
_TOP: Final = 40
_BETWEEN: Final = 60
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#333}.axis{stroke:#999}.stage{stroke:#c60;stroke-dasharray:4 3}"
    ".bytes{fill:#7ab;fill-opacity:.6;stroke:#357}.open{fill:#ccc;fill-opacity:.6;stroke:#777}"
)


def rehearsal_svg(view: Mapping[str, Any]) -> str:
    """A picture of `report.rehearsal_view`."""
    curve = view["curve"]
    seconds = max(float(curve["seconds"]), 1.0)
    charts = [
        ("bytes", "bytes per second", curve["bytes_per_s"], f"{amount(max(curve['bytes_per_s'], default=0))}/s"),
        ("open", "updates under way", curve["open"], f"{max(curve['open'], default=0):,}"),
    ]
    tall = _TOP + len(charts) * (HEIGHT + _BETWEEN)
    head = f"{view['devices']:,} devices, seed {view['seed']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + _LEFT + 20} {tall}">',
        f"<style>{_STYLE}</style>",
        f'<text x="{_LEFT}" y="18">{escape(head)}</text>',
    ]
    for place, (kind, title, values, most) in enumerate(charts):
        top = _TOP + place * (HEIGHT + _BETWEEN)
        parts += _chart(kind, title, values, most, top)
        parts += _stages(view, seconds, top)
        bottom = top + HEIGHT + 16
        parts += [
            f'<text x="{_LEFT}" y="{bottom}">0</text>',
            f'<text x="{_LEFT + WIDTH}" y="{bottom}" text-anchor="end">{escape(clock(seconds))}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _chart(kind: str, title: str, values: Sequence[float], most: str, top: int) -> list[str]:
    high = max(values, default=0) or 1
    step = WIDTH / max(len(values), 1)
    points = [f"{_LEFT},{top + HEIGHT}"]
    for number, value in enumerate(values):
        y = f"{top + HEIGHT * (1 - value / high):.1f}"
        points += [f"{_LEFT + number * step:.1f},{y}", f"{_LEFT + (number + 1) * step:.1f},{y}"]
    points.append(f"{_LEFT + WIDTH},{top + HEIGHT}")
    return [
        f'<polygon class="{kind}" points="{" ".join(points)}"/>',
        f'<path class="axis" fill="none" d="M{_LEFT} {top}V{top + HEIGHT}H{_LEFT + WIDTH}"/>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{escape(most)}</text>',
        f'<text x="{_LEFT + WIDTH}" y="{top - 6}" text-anchor="end">{escape(title)}</text>',
    ]


def _stages(view: Mapping[str, Any], seconds: float, top: int) -> list[str]:
    found: list[str] = []
    for rollout in view["rollouts"]:
        for number, stage in enumerate(rollout["stages"]):
            if stage["opened_s"] > seconds:
                continue
            x = _LEFT + WIDTH * stage["opened_s"] / seconds
            found += [
                f'<line class="stage" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}"/>',
                f'<text x="{x + 4:.1f}" y="{top + 12 + 14 * (number % 4)}">{escape(stage["name"])}</text>',
            ]
    return found
