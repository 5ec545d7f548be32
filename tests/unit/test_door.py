"""What is written down of refusals: who was refused what, but no flood of it, and never at the cost of the refusal."""

import json

import pytest
from core_world import World

from ota_bridge.core.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    ManifestRefused,
    NotFound,
    RefusedReason,
    StoreError,
)
from ota_bridge.core.people import Caller
from ota_bridge.door import BURST, Door

ANN = Caller(user="ann")


@pytest.fixture
def world():
    return World()


@pytest.fixture
def door(world):
    return Door(world.store, lambda: world.now)


def entries(world):
    return world.read(lambda unit: unit.audit.page())


async def refuse(door, error, *, caller=ANN, writes=True):
    with pytest.raises(type(error)):
        async with door.recording(caller, "device.retire", {"device": "d1"}, writes=writes):
            raise error


async def test_each_refusal_of_what_writes_is_recorded_with_its_code(world, door):
    refusals = [Forbidden("no"), Conflict("it is"), NotFound("nothing"), ManifestRefused(RefusedReason.SIG, "nobody")]
    for error in refusals:
        await refuse(door, error)
    found = [(one.actor, one.action, one.subject, one.result) for one in entries(world)]
    codes = ["forbidden", "conflict", "not_found", "refused"]
    assert [("ann", "device.retire", "device d1", code) for code in codes] == found


async def test_of_what_reads_only_what_is_forbidden_is_recorded(world, door):
    await refuse(door, NotFound("nothing"), writes=False)
    assert [] == entries(world)
    await refuse(door, Forbidden("no"), writes=False)
    assert 1 == len(entries(world))


@pytest.mark.parametrize("error", [StoreError("disk full"), ConfigError("no"), ZeroDivisionError()])
async def test_what_is_no_refusal_is_not_recorded(world, door, error):
    await refuse(door, error)
    assert [] == entries(world)


async def test_what_is_too_much_of_one_user_is_counted_and_others_are_recorded(world, door):
    for _ in range(BURST + 7):
        await refuse(door, Forbidden("no"))
    await refuse(door, Forbidden("no"), caller=Caller(user="bob"))
    assert [BURST, 1] == [len([one for one in entries(world) if one.actor == name]) for name in ("ann", "bob")]
    world.jump(1)
    await refuse(door, Forbidden("no"))
    assert 7 == json.loads(entries(world)[-1].detail)["unrecorded"]
    world.jump(1)
    await refuse(door, Forbidden("no"))
    assert "unrecorded" not in json.loads(entries(world)[-1].detail)


async def test_a_refusal_stands_where_it_cannot_be_recorded(world, door):
    world.store.close()
    await refuse(door, Forbidden("no"))


async def test_who_may_comes_in_and_who_may_not_does_not(world, door):
    await door.admit(ANN, "device.retire")
    with pytest.raises(Forbidden):
        await door.admit(ANN, "user.add")
    with pytest.raises(NotFound):
        await door.admit(ANN, "what")
