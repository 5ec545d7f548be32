"""What commands print: results on stdout as tables or JSON, notes and bars on stderr.

1. With `--json` stdout holds exactly one JSON document (one per line for streams), and errors are there too.
2. Tables have no frames and no colours when piped, and nothing is cut off: a line is a record.
3. Names and reasons come from devices: unprintable characters are replaced, nothing is read as markup.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH: Final = 2000
_KIB: Final = 1024
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400

STYLES: Final[Mapping[str, str]] = {
    "CONFIRMED": "green",
    "ok": "green",
    "active": "green",
    "running": "green",
    "DOWNLOADING": "cyan",
    "INSTALLING": "cyan",
    "TRIAL": "cyan",
    "warning": "yellow",
    "pending": "yellow",
    "paused": "yellow",
    "DEFERRED": "yellow",
    "failure": "red",
    "FAILED": "red",
    "REJECTED": "red",
    "ROLLED_BACK": "red",
    "TIMED_OUT": "red",
    "withdrawn": "red",
    "canceled": "red",
}
"""The colour of a word that stands alone in a cell."""


class Output:
    """Where one command prints."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(stderr=False)
        self.stderr = _console(stderr=True)

    def json(self, value: object) -> None:
        """The result, with `--json`."""
        sys.stdout.write(json.dumps(value, indent=2 if sys.stdout.isatty() else None) + "\n")
        sys.stdout.flush()

    def say(self, sentence: str) -> None:
        """A line of the result for people."""
        if not self.as_json:
            self.console.print(plain(sentence))

    def note(self, sentence: str) -> None:
        """A line beside the result."""
        self.stderr.print(plain(sentence))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Rows under upper-case heads; `empty` is said where there are none."""
        listed = [[cell(value) for value in row] for row in rows]
        if listed:
            self.show(table(columns, listed))
        else:
            self.note(empty)

    def show(self, renderable: RenderableType) -> None:
        """Anything; without the spaces at the ends of lines when piped."""
        if self.console.is_terminal:
            self.console.print(renderable)
            return
        with self.console.capture() as capture:
            self.console.print(renderable)
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
        sys.stdout.flush()

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values of one thing; empty values are left out."""
        grid = Table.grid(padding=(0, 2))
        for name, value in pairs:
            if value not in (None, "", [], {}):
                grid.add_row(Text(name, style="dim"), cell(value))
        self.show(grid)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Progress]:
        """A progress bar for bytes, on a terminal only; advance it with `update(task_id=0, completed=…)`."""
        hidden = self.as_json or not self.stderr.is_terminal
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            console=self.stderr,
            transient=True,
            disable=hidden,
        ) as progress:
            progress.add_task(title, total=total)
            yield progress


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def table(columns: Sequence[str], rows: Iterable[Sequence[Text]]) -> Table:
    """A table without frames."""
    built = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        built.add_column(Text(name.upper()), justify="left", no_wrap=True)
    for row in rows:
        built.add_row(*row)
    return built


def cell(value: object) -> Text:
    """A value as it stands in a table."""
    if isinstance(value, Text):
        return value
    if value is None or value == "":
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list | tuple):
        return plain(", ".join(str(one) for one in value)) if value else Text("-", style="dim")
    text = str(value)
    return Text(text, style=STYLES[text]) if text in STYLES else plain(text)


def plain(text: str) -> Text:
    """Text from outside, made harmless."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text))


def size(count: object) -> str:
    """A number of bytes for people."""
    if not isinstance(count, int | float) or isinstance(count, bool):
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < _KIB or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    raise AssertionError


def counted(number: int, noun: str) -> str:
    """A number of things: "1 device", "2 devices"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def when(iso: object) -> str:
    """An ISO 8601 time as local time."""
    time = _parsed(iso)
    return "-" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def ago(iso: object, now: datetime | None = None) -> str:
    """How long an ISO 8601 time is past, or ahead."""
    time = _parsed(iso)
    if time is None:
        return "-"
    past_s = ((now or datetime.now(UTC)) - time).total_seconds()
    text = duration(abs(past_s))
    return f"{text} ago" if past_s >= 0 else f"in {text}"


def duration(seconds: float) -> str:
    """A span of time in its largest unit."""
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.0f} h" if seconds < 2 * _DAY_S else f"{seconds / _DAY_S:.0f} days"


def _parsed(iso: object) -> datetime | None:
    if not isinstance(iso, str) or not iso:
        return None
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
