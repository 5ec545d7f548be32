"""Old history, made small by hand."""

import pytest
from core_lives import confirmed
from core_world import World

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.operations import history
from ota_bridge.core.people import Caller

DAY_S = 86_400.0


def owned(**rules):
    """A world whose operator may do everything: what is removed does not come back."""
    world = World(**rules)
    world.caller = Caller(user="root", is_owner=True)
    return world


def test_what_is_older_than_the_rules_keep_is_compacted_and_counted():
    world = owned()
    device = confirmed(world)
    assert {"deployments": 0, "reports": 0, "next": None} == world.do("history.compact")
    world.jump(31 * DAY_S)
    assert 1 == world.do("history.compact")["deployments"]
    assert [] == world.do("device.show", device=str(device.id))["history"]
    assert ["CONFIRMED"] == [one["state"] for one in world.do("device.show", device=str(device.id))["deployments"]]


def test_another_number_of_days_may_be_named():
    world = owned(keep_history_s=None)
    confirmed(world)
    world.jump(3 * DAY_S)
    assert 0 == world.do("history.compact", keep_days=4)["deployments"]
    assert 1 == world.do("history.compact", keep_days=2)["deployments"]


@pytest.mark.parametrize(("args", "says"), [({}, "name --keep-days"), ({"keep_days": 0}, "at least 1 is kept")])
def test_a_time_that_cannot_be_is_refused(args, says):
    with pytest.raises(InvalidInput, match=says):
        owned(keep_history_s=None).do("history.compact", **args)


def test_one_call_looks_at_some_devices_and_names_where_to_go_on(monkeypatch):
    monkeypatch.setattr(history, "DEVICES_MAX", 2)
    world = owned(enrol_burst=100)
    devices = [world.device(f"d{number}") for number in range(5)]
    world.release()
    world.rollout()
    for device in devices:
        device.runs("1.1.0").restarts()
    world.jump(31 * DAY_S)
    found, after = [], None
    while True:
        result = world.do("history.compact", after=after)
        after = result["next"]
        found.append((result["deployments"], after))
        if after is None:
            break
    assert [(2, "prod/d1"), (2, "prod/d3"), (1, None)] == found
