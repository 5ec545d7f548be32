"""Devices of a vendor's protocol, over whole lives, with a dialect made for these tests."""

import pytest
from core_world import World
from toy_dialect import RESEND_S, ToyDialect
from toy_world import Toy, words

from ota_bridge.core.conversation import MEMORY_MAX_BYTES
from ota_bridge.core.deployment import State
from ota_bridge.core.messages import GrantsChanged, Saying


def world_of(**rules):
    options = rules.pop("options", {})
    world = World(**rules)
    world.bridge.dialects = {"toy": ToyDialect(options)}
    return world


def offered():
    world = world_of()
    toy = Toy(world)
    toy.says(runs="1.0.0")
    world.release("1.1.0")
    world.rollout("1.1.0")
    world.plan()
    return world, toy


def test_a_device_that_nobody_knew_is_enrolled_by_its_first_word():
    world = world_of()
    toy = Toy(world)
    assert [] == toy.says(runs="1.0.0")
    record = world.read(lambda unit: unit.devices.get(toy.id))
    assert ("toy", "1.0.0") == (record.dialect, record.parts["firmware"].version)
    assert 1 == len(world.events("enrolled"))


def test_an_offer_is_said_by_the_dialect_and_after_the_grant():
    world, toy = offered()
    said = [one for one in world.outputs if isinstance(one, Saying | GrantsChanged)]
    assert [GrantsChanged, Saying] == [type(one) for one in said]
    assert [{"offer": "1.1.0", "size": 10_000, "url": ""}] == words(said)
    assert State.OFFERED is toy.state


def test_an_attempt_that_waits_is_not_served_so_that_a_device_that_goes_on_with_the_last_one_is_left_in_peace():
    world, toy = offered()
    assert [1] == [len(one.grants) for one in world.outputs if isinstance(one, GrantsChanged)][-1:]
    toy.says(said="fail", code="-4")
    assert (State.QUEUED, 2) == (toy.state, toy.deployments[0].attempt)
    assert [0] == [len(one.grants) for one in world.outputs if isinstance(one, GrantsChanged)][-1:]
    world.passes(61)
    assert State.OFFERED is toy.state
    assert [1] == [len(one.grants) for one in world.outputs if isinstance(one, GrantsChanged)][-1:]


def test_an_update_goes_its_way_and_is_confirmed_by_what_the_device_runs():
    _, toy = offered()
    toy.says(said="downloading")
    toy.says(said="downloaded")
    toy.says(said="burning")
    assert State.INSTALLING is toy.state
    assert [{"ended": "CONFIRMED"}] == toy.says(runs="1.1.0")
    assert State.CONFIRMED is toy.state


def test_done_confirms_nothing_unless_no_proof_can_follow():
    _, toy = offered()
    toy.says(said="done")
    assert State.OFFERED is toy.state
    toy.says(said="done", proof=True)
    assert State.CONFIRMED is toy.state
    assert "the device says that it is done; toy has no more proof" == toy.deployments[0].cause
    code, sentence = toy.why()
    assert "confirmed" == code
    claim = "the device says that it is done; toy has no more proof"
    assert f"it runs the assigned firmware prod/1.1.0: {claim}" in sentence


def test_a_poll_that_tells_no_version_leaves_what_is_known_and_is_answered_with_the_offer():
    world, toy = offered()
    world.passes(60)
    assert {"offer": "1.1.0", "size": 10_000, "url": ""} in toy.says()
    assert "1.0.0" == world.read(lambda unit: unit.devices.get(toy.id)).parts["firmware"].version


def test_a_poll_does_not_roll_back_what_is_being_installed():
    _, toy = offered()
    toy.says(said="burning")
    toy.says()
    assert State.INSTALLING is toy.state
    toy.says(runs="1.0.0")
    assert [State.QUEUED, State.ROLLED_BACK] == [one.state for one in toy.deployments]


def test_what_a_dialect_wants_to_be_asked_again_for_comes_at_its_time_and_no_more_often():
    world, toy = offered()
    assert world.wall + RESEND_S == toy.memory.wake_wall
    assert world.wall + RESEND_S >= world.read(world.bridge.next_deadline)
    world.outputs.clear()
    world.jump(RESEND_S - 1)
    assert [] == words(world.tick())
    world.jump(1)
    assert [{"again": "1.1.0"}] == words(world.tick())
    assert [] == words(world.tick())


@pytest.mark.parametrize("by_s", [-100_000.0, 100_000.0])
def test_a_clock_that_is_set_leaves_a_dialect_as_long_to_wait_as_before(by_s):
    world, _ = offered()
    world.outputs.clear()
    world.wall += by_s
    world.commit(lambda unit: world.bridge.clock_stepped(unit, by_s) or [])
    world.jump(RESEND_S - 1)
    assert [] == words(world.tick())
    world.jump(1)
    assert [{"again": "1.1.0"}] == words(world.tick())


def test_a_rollout_that_is_resumed_has_its_dialects_asked():
    world, toy = offered()
    rollout = toy.deployments[0].rollout
    world.do("rollout.pause", rollout=rollout)
    world.do("rollout.resume", rollout=rollout)
    assert [{"again": "1.1.0"}] == words(world.last)


def test_a_claim_may_have_a_reason_of_its_own():
    _, toy = offered()
    toy.says(said="done", proof=True, reason="it has been quiet for so long")
    assert "it has been quiet for so long; toy has no more proof" == toy.deployments[0].cause
    assert "it has been quiet for so long; toy has no more proof" in toy.why()[1]


def test_a_failure_of_the_dialect_is_an_event_and_stops_nobody():
    world, toy = offered()
    other = Toy(world, "t2")
    assert [] == toy.says(boom=1)
    assert [] == toy.says(boom_later=1)
    assert ["RuntimeError: the toy is broken", "RuntimeError: the toy breaks while it speaks"] == [
        event["error"] for event in world.events("dialect_failed")
    ]
    assert [{"offer": "1.1.0", "size": 10_000, "url": ""}] == other.says(runs="1.0.0")


def test_what_a_dialect_keeps_lives_and_is_bounded():
    world, toy = offered()
    assert b'{"runs": "1.0.0"}' == toy.memory.data
    assert [] == toy.says(long="x" * MEMORY_MAX_BYTES)
    assert 1 == len(world.events("dialect_failed"))
    assert b'{"runs": "1.0.0"}' == toy.memory.data


def test_a_device_that_may_not_take_part_is_shown_nothing():
    world, toy = offered()
    world.do("device.retire", device=str(toy.id))
    assert [] == [word for word in toy.says() if "offer" in word]


def test_a_cancel_is_said_where_it_can_be():
    world, toy = offered()
    toy.says(said="downloading")
    world.outputs.clear()
    rollout = toy.deployments[0].rollout
    world.do("rollout.cancel", rollout=rollout)
    assert [{"cancel": "1.1.0"}] == words(world.outputs)
    assert State.CANCELING is toy.state


def test_progress_of_a_stranger_is_not_answered_in_a_protocol_that_it_does_not_speak():
    world = world_of()
    assert [] == Toy(world).says(said="done")
    assert [] == [one for one in world.outputs if isinstance(one, Saying)]


def test_a_device_whose_dialect_is_no_longer_set_up_is_held_back_with_the_reason():
    world = world_of()
    toy = Toy(world)
    toy.says(runs="1.0.0")
    world.bridge.dialects = {}
    world.release("1.1.0")
    world.rollout("1.1.0")
    world.plan()
    assert State.QUEUED is toy.state
    assert "toy, which is not set up: it needs [dialects.toy]" in toy.why()[1]


def test_what_only_the_author_knows_is_asked_for_by_name():
    world = world_of(options={"needs": "toy.signature"})
    toy = Toy(world)
    toy.says(runs="1.0.0")
    world.release("1.1.0")
    world.rollout("1.1.0")
    world.plan()
    assert State.QUEUED is toy.state
    assert "release prod/1.1.0 lacks toy.signature" in toy.why()[1]


@pytest.mark.parametrize("state", ["downloading", "downloaded", "burning"])
def test_another_attempt_follows_a_failure_until_there_have_been_enough(state):
    world, toy = offered()
    for attempt in range(1, world.bridge.rules.retries.max_attempts + 1):
        assert attempt == toy.deployments[0].attempt
        toy.says(said=state)
        assert {"ended": "FAILED"} in toy.says(said="fail", code="-4")
        world.passes(3600)
        world.plan()
    assert {State.FAILED} == {one.state for one in toy.deployments}
    assert world.bridge.rules.retries.max_attempts == len(toy.deployments)
    assert [] == toy.says(runs="1.0.0")
