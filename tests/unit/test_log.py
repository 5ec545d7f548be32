"""Log lines: for people, and as JSON."""

import io
import json
import logging
import warnings

import pytest

from ota_bridge.log import set_up_logging


@pytest.fixture
def logged():
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    stream = io.StringIO()

    def set_up(level="info", *, as_json=False):
        set_up_logging(level, as_json=as_json, stream=stream)
        return logging.getLogger("ota_bridge.gateway")

    set_up.text = stream.getvalue
    yield set_up
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before[0], before[1]
    root.setLevel(before[1])


def test_a_line_for_people_holds_level_logger_message_and_fields(logged):
    logged().info("device %s appeared", "d1", extra={"device": "acme/d1", "note": "two words", "empty": ""})
    [line] = logged.text().splitlines()
    assert line[24:] == 'INFO    gateway  device d1 appeared  device=acme/d1  note="two words"  empty=""'


def test_a_json_line_holds_the_same(logged):
    logged(as_json=True).warning("lost", extra={"count": 3, "path": io})
    entry = json.loads(logged.text())
    assert entry["time"].endswith("Z")
    assert {name: entry[name] for name in ("level", "logger", "message", "count")} == {
        "level": "warning",
        "logger": "ota_bridge.gateway",
        "message": "lost",
        "count": 3,
    }


def test_text_from_outside_cannot_forge_a_line(logged):
    logged().info("name %s", "x\n2026-01-01 ERROR forged\x1b[31m", extra={"more": "a\nb"})
    assert len(logged.text().splitlines()) == 1
    assert "\x1b" not in logged.text()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_is_kept(logged, as_json):
    log = logged(as_json=as_json)
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("it broke")
    assert "ZeroDivisionError" in logged.text()


def test_the_level_is_kept_and_libraries_are_quiet(logged):
    logged("warning").info("not this")
    logging.getLogger("amqtt.broker").info("nor this")
    logging.getLogger("amqtt.broker").warning("but this")
    assert [line.split("  ")[-1] for line in logged.text().splitlines()] == ["but this"]


def test_warnings_of_python_are_logged(logged):
    logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning" in logged.text()
