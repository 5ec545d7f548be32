"""Amounts as people type them."""

import pytest
import typer

from ota_bridge.cli.quantities import rate_of, seconds_of, share_of, size_of


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (size_of, "1MiB", 1 << 20),
        (size_of, "512 KiB", 512 << 10),
        (size_of, "1.5MB", 1_500_000),
        (size_of, "77", 77),
        (rate_of, "20kB/s", 20_000.0),
        (rate_of, "1MiB/s", float(1 << 20)),
        (rate_of, "500", 500.0),
        (seconds_of, "90s", 90.0),
        (seconds_of, "0.5", 0.5),
        (seconds_of, "200ms", 0.2),
        (seconds_of, "1.5h", 5400.0),
        (seconds_of, "90d", 7_776_000.0),
        (share_of, "5%", 0.05),
        (share_of, "2.5 %", 0.025),
        (share_of, "0.25", 0.25),
    ],
)
def test_what_is_written_is_read(read, text, value):
    assert value == pytest.approx(read("--option", text))


@pytest.mark.parametrize("read", [size_of, rate_of, seconds_of, share_of])
@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "5 apples", "nan", "1.2.3"])
def test_what_cannot_be_read_is_said_with_what_can(read, text):
    with pytest.raises(typer.BadParameter, match="--option: .* cannot be used; write a"):
        read("--option", text)


def test_more_than_all_is_no_share():
    with pytest.raises(typer.BadParameter, match="more than all"):
        share_of("--fail", "2")
