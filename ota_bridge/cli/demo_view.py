"""What `demo` shows: one bar per simulated device and one for the fleet, plain lines when piped, a table at the end."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ota_bridge.cli.output import Output, plain, size

_LINES_RESERVED: Final = 5
_STEP_PERCENT: Final = 10
_REDRAW_S: Final = 0.1
_DONE_PHASES: Final = frozenset({"downloaded", "installing", "trial"})


class DemoView:
    """Fed with the simulator's lines; a context manager because it owns the screen meanwhile."""

    def __init__(self, output: Output, count: int) -> None:
        self._output = output
        self._count = count
        self._devices: dict[str, Mapping[str, Any]] = {}
        self._start = time.monotonic()
        self._drawn = 0.0
        self._step = -1
        is_live = output.console.is_terminal and not output.as_json
        self._live = Live(console=output.console, auto_refresh=False, transient=True) if is_live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, line: Mapping[str, Any]) -> None:
        """One device has moved."""
        self._devices[str(line["device"])] = line
        if self._live is not None:
            self._draw(self._live)
        elif not self._output.as_json:
            self._say()

    def _draw(self, live: Live) -> None:
        now = time.monotonic()
        if now - self._drawn >= _REDRAW_S or self.settled == self._count:
            self._drawn = now
            live.update(self._picture(live.console.height), refresh=True)

    @property
    def settled(self) -> int:
        """How many devices have come to their end."""
        return sum(bool(line["settled"]) for line in self._devices.values())

    def _say(self) -> None:
        done = sum(share(line) for line in self._devices.values()) / self._count * 100
        step = int(done) // _STEP_PERCENT + 100 * (self.settled * _STEP_PERCENT // self._count)
        if step > self._step:
            self._step = step
            seconds = time.monotonic() - self._start
            self._output.say(
                f"{seconds:5.1f} s  images {done:3.0f} % in flash, {self.settled} of {self._count} settled"
            )

    def _picture(self, height: int) -> RenderableType:
        per_line = max(1, math.ceil(self._count / max(height - _LINES_RESERVED, 1)))
        width = 24 if per_line == 1 else 10
        grid = Table.grid(padding=(0, 2))
        lines = [self._devices[name] for name in sorted(self._devices)]
        for start in range(0, len(lines), per_line):
            grid.add_row(*(cell for line in lines[start : start + per_line] for cell in _cells(line, width)))
        done = sum(share(line) for line in lines)
        fleet = Table.grid(padding=(0, 2))
        fleet.add_row(
            Text("fleet", style="bold"),
            ProgressBar(total=self._count, completed=done, width=40),
            Text(f"{done / self._count:4.0%}"),
            Text(f"{self.settled} of {self._count} confirmed, {time.monotonic() - self._start:.0f} s"),
        )
        return Group(grid, Text(""), fleet)


def share(line: Mapping[str, Any]) -> float:
    """How much of the image a device has, 0..1."""
    if line["settled"] or line["phase"] in _DONE_PHASES:
        return 1.0
    return min(1.0, float(line["position"]) / float(line["size_bytes"] or 1))


def _cells(line: Mapping[str, Any], width: int) -> Sequence[RenderableType]:
    result = line["result"] if line["settled"] else line["phase"]
    style = "green" if result == "confirmed" else "cyan"
    return (
        plain(str(line["device"])),
        ProgressBar(total=1.0, completed=share(line), width=width),
        Text(f"{share(line):4.0%}"),
        Text(f"{result:<11}", style=style),
    )


def print_report(output: Output, devices: Sequence[Mapping[str, Any]]) -> None:
    """The table at the end."""
    rows = [
        (
            row["device"],
            row["old_version"],
            row["new_version"],
            row["result"] + (f": {row['reason']}" if row["reason"] else ""),
            f"{row['bytes_payload']:,}",
            f"{row['blocks']:,}",
            row["retries"],
            f"{row['seconds']:.1f} s",
        )
        for row in devices
    ]
    columns = ("device", "old version", "new version", "result", "bytes", "blocks", "retries", "time")
    output.table(columns, rows, empty="no device reported")
    payload = sum(row["bytes_payload"] for row in devices)
    image = sum(row["bytes_image"] for row in devices)
    if image:
        output.say(f"sent {size(payload)} for {size(image)} of images: {payload / image:.3f} of their size")
