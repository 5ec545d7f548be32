"""How values look."""

from datetime import UTC, datetime

import pytest

from ota_bridge.cli.output import Output, ago, cell, duration, plain, size, when


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (524288, "512.0 KiB"), (3 << 40, "3072.0 GiB"), (None, "-")],
)
def test_sizes(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (172_800, "2 days")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_times():
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert ago("2026-01-01T11:58:00.000Z", now) == "2 min ago"
    assert ago("2026-01-01T13:00:00Z", now) == "in 1 h"
    assert (ago(None), ago("soon"), when(None), when(5)) == ("-", "-", "-", "-")
    assert len(when("2026-01-01T11:58:00.000Z")) == 19


def test_cells():
    assert [cell(value).plain for value in (None, "", True, 0, [], ["a", "b"], "FAILED")] == [
        "-", "-", "yes", "0", "-", "a, b", "FAILED"
    ]  # fmt: skip


def test_escape_sequences_are_replaced():
    assert plain("a\x1b[31mb\x07\r\u202ec\nd").plain == "a�[31mb���c\nd"


def test_a_piped_table_cuts_nothing_off_and_has_no_trailing_spaces(capfd):
    Output(as_json=False).table(("a", "b"), [("x" * 500, "y"), ("z", "")], empty="none")
    lines = capfd.readouterr().out.splitlines()
    assert lines[1] == "x" * 500 + "  y"
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_table_without_rows_says_so_on_stderr(capfd):
    Output(as_json=False).table(("a",), [], empty="nothing there")
    assert capfd.readouterr() == ("", "nothing there\n")
