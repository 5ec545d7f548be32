"""What a person sees of a run: one bar for the fleet while it lasts, a table at the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from device_sim.fleet import Progress as OnProgress
from device_sim.report import FleetReport

MAX_ROWS = 50


@contextmanager
def live_progress(count: int) -> Iterator[OnProgress]:
    """A bar for the share of all images that is in flash."""
    shares: dict[str, float] = {}
    ended: set[str] = set()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"{count} devices", total=float(count))

        def on_progress(event: dict[str, Any]) -> None:
            name = event["device"]
            if event["settled"]:
                ended.add(name)
            done = name in ended or event["phase"] in {"downloaded", "installing", "trial"}
            share = 1.0 if done else event["position"] / (event["size_bytes"] or 1)
            shares[name] = max(shares.get(name, 0.0), share)
            progress.update(bar, completed=sum(shares.values()), description=f"{len(ended)}/{count} devices")

        yield on_progress


def print_report(report: FleetReport) -> None:
    """The table; of a large fleet, those that did not confirm come first and the rest is counted."""
    console = Console()
    table = Table(title="devices")
    for heading in ("device", "old", "new", "result"):
        table.add_column(heading)
    for heading in ("bytes", "blocks", "retries", "seconds"):
        table.add_column(heading, justify="right")
    rows = sorted(report.devices, key=lambda device: (device.result == "confirmed", device.device))
    for row in rows[:MAX_ROWS]:
        result = row.result if not row.reason else f"{row.result}: {row.reason}"
        result += ", STALE" if row.stale else ""
        table.add_row(
            row.device, row.old_version, row.new_version, result, f"{row.bytes_payload:,}", f"{row.blocks:,}",
            str(row.retries), f"{row.seconds:.1f}",
        )  # fmt: skip
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"... and {len(rows) - MAX_ROWS} more")
    totals = report.totals()
    console.print(", ".join(f"{name} {value}" for name, value in totals.items()))
