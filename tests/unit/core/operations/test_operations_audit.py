"""The audit log as an operator asks for it."""

from dataclasses import replace

import pytest
from core_world import World

from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.people import Caller


@pytest.fixture
def world():
    made = World()
    made.device("d1")
    made.device("d2")
    made.release()
    made.do("device.tag", device="d1", add=["a"])
    made.caller = Caller(user="cho")
    made.jump(3600)
    made.do("device.tag", device="d1", add=["b"])
    made.do("device.tag", device="d2", add=["b"])
    return made


def verdict(world):
    found = world.do("audit.verify")
    return found["holds"], found["entries"], found["wrong"]


def numbers(world, **wanted):
    return [one["n"] for one in world.do("audit.list", **wanted)]


def test_entries_are_listed_oldest_first_and_picked_out(world):
    assert [1, 2, 3, 4] == numbers(world)
    assert [2, 3] == numbers(world, device="d1")
    assert [3, 4] == numbers(world, actor="cho")
    assert [3] == numbers(world, actor="cho", device="prod/d1")
    rollout = world.rollout()
    assert [5] == numbers(world, rollout=rollout)
    assert [4, 5] == numbers(world, limit=2)


def test_since_is_a_time_with_or_without_a_zone(world):
    at = world.do("audit.list")[2]["at"]
    assert [3, 4] == numbers(world, since=at) == numbers(world, since=at.rstrip("Z"))
    assert [1, 2, 3, 4] == numbers(world, since="1970-01-01")
    assert [] == numbers(world, since="1970-01-12T14:46:40.001")


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        ({"since": "yesterday"}, InvalidInput, "write a time as 2026-01-31"),
        ({"device": "d9"}, NotFound, "no device"),
        ({"rollout": "r-none"}, NotFound, "no rollout"),
        ({"rollout": "r-none", "device": "d1"}, InvalidInput, "not both"),
        ({"limit": 0}, InvalidInput, "allowed is 1..10000"),
    ],
)
def test_what_cannot_be_asked_is_said_so(world, args, error, says):
    with pytest.raises(error, match=says):
        world.do("audit.list", **args)


def test_the_log_holds_and_tells_its_head(world):
    found = world.do("audit.verify")
    last = world.do("audit.list")[-1]
    assert (True, 4, f"4:{last['digest']}") == (found["holds"], found["entries"], found["head"])
    assert found == world.do("audit.verify", head=found["head"])


def test_a_log_of_many_pages_is_verified_whole(world):
    for number in range(1100):
        world.do("limits.set", downloads=number + 1)
    log = world.store._state.audit
    assert (True, 1104, None) == verdict(world)
    log[1050] = replace(log[1050], actor="eve")
    assert (False, 1049, 1050) == verdict(world)


def test_an_end_that_was_cut_off_shows_beside_the_head_that_was_kept(world):
    head = world.do("audit.verify")["head"]
    del world.store._state.audit[4]
    assert world.do("audit.verify")["holds"]
    found = world.do("audit.verify", head=head)
    assert (False, 4) == (found["holds"], found["wrong"])
    assert "the log ends with entry 3, and entry 4 was there: its end is cut off" == found["reason"]
