"""What `watch` shows, and why a device is where it is."""

import pytest
from core_lives import downloading
from core_world import World


@pytest.fixture
def world():
    return World()


def test_the_fleet_is_everything_that_watch_shows(world):
    device = downloading(world)
    fleet = world.do("fleet")
    assert ["prod/d1"] == [row["id"] for row in fleet["devices"]]
    assert [device.open.id] == [row["id"] for row in fleet["devices"][0]["open"]]
    assert 40 == fleet["devices"][0]["open"][0]["percent"]
    assert 1 == len(fleet["rollouts"])
    assert {"devices": [], "rollouts": []} == world.do("fleet", product="other")
