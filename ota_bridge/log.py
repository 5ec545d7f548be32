"""Logging: one line per record on stderr, for people or, with a setting, as JSON.

Fields go in `extra`: `log.info("device appeared", extra={"device": "acme/d1"})`. Text from outside cannot
forge a line: everything unprintable is escaped. Levels: error means an operator must act, warning that
something was lost or refused, info what happens a few times a minute, debug the rest.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_QUIET: Final = ("asyncio", "amqtt", "transitions", "aiomqtt", "paho", "passlib", "websockets")
"""Libraries that tell at info what we tell ourselves."""


def set_up_logging(level: str, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (stderr), replacing what was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)


class TextLines(logging.Formatter):
    """`2025-01-31 12:00:00.123 INFO    gateway  connected  broker=mqtt://host:1883`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, then the traceback if there is one."""
        time = datetime.fromtimestamp(record.created).astimezone()
        head = f"{time:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d} {record.levelname:<7} {_short(record.name)}"
        pairs = "".join(f"  {key}={_shown(value)}" for key, value in _fields(record).items())
        line = f"{head}  {_one_line(record.getMessage())}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One object per line: time (UTC), level, logger, message, the fields, and error with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _short(name: str) -> str:
    return name.removeprefix("ota_bridge.")


def _shown(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text) if " " in text or not text else text


def _one_line(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
