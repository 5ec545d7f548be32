"""`history compact`: what is old made small by hand."""

import pytest

from ota_bridge.cli.session import Session


def test_it_says_how_much_was_compacted(operator, daemon):
    assert operator("history", "compact").out == "compacted 0 deployments and removed 0 old reports\n"
    assert operator("history", "compact", "--json").json == {"deployments": 0, "reports": 0}


@pytest.mark.parametrize("days", ["0", "-1", "x"])
def test_days_that_cannot_be_are_refused(operator, daemon, days):
    assert operator("history", "compact", "--keep-days", days).code == 2


def test_it_goes_on_until_the_whole_fleet_was_looked_at(operator, daemon, monkeypatch):
    monkeypatch.setattr("ota_bridge.core.operations.history.DEVICES_MAX", 2)
    for number in range(1, 6):
        operator("device", "add", f"demo/d{number}")
    asked = []
    call = Session.call

    def counted(self, op, args, **options):
        asked.append(args["after"])
        return call(self, op, args, **options)

    monkeypatch.setattr(Session, "call", counted)
    assert operator("history", "compact").code == 0
    assert asked == [None, "demo/d2", "demo/d4"]
