"""Long work in slices: whatever the size of a slice, the whole fleet is planned once and a restart goes on where it was."""

import itertools

import pytest
from core_world import World
from hypothesis import given, settings
from hypothesis import strategies as st

from ota_bridge.core.deployment import State
from ota_bridge.core.messages import Offer, RolloutChanged
from ota_bridge.core.operations import perform
from ota_bridge.core.people import Caller
from ota_bridge.core.slices import PAGE


def fleet(count, **rules):
    world = World(**rules)
    world.release()
    for number in range(count):
        world.device(f"d{number:03d}")
    return world


def start(world, **args):
    """A rollout of which nothing is planned yet."""
    work = lambda unit: perform(unit, world.bridge, "rollout.start", args, caller=Caller(user="ann"), now=world.now)  # noqa: E731
    return world.commit(work)[0]["id"]


def slice_of(world, devices):
    """One slice that has time for so many devices; what it said of more to do."""
    left = [devices]

    def go_on():
        left[0] -= 1
        return left[0] > 0

    def work(unit):
        done = world.bridge.plan(unit, world.now, go_on)
        return done.more, done.outputs

    return world.commit(work)[0]


def planned(world):
    return world.read(lambda unit: {str(one.device) for one in unit.deployments.all_open()})


def one_rollout(world):
    return world.read(lambda unit: unit.rollouts.all())[0]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 2 * PAGE), min_size=1, max_size=40), count=st.integers(0, 3 * PAGE))
def test_slices_of_any_size_plan_every_device_once(sizes, count):
    world = fleet(count)
    start(world, release="1.1.0")
    looked, more = 0, True
    for size in [*sizes, *[PAGE] * (count + 1)]:
        more = slice_of(world, size)
        looked = min(count, looked + size)
        assert looked == len(planned(world))
        if not more:
            break
    assert count == len(planned(world))
    assert not one_rollout(world).is_planning
    states = world.read(lambda unit: unit.deployments.counts(one_rollout(world).id))
    assert {State.OFFERED: count} == {state: number for state, number in states.items() if number} or not count


def test_a_slice_that_is_cut_is_taken_up_from_the_database_by_another_bridge():
    world = fleet(5)
    start(world, release="1.1.0")
    assert slice_of(world, 2)
    heir = World()
    heir.store, heir.facts, heir.source = world.store, world.facts, world.source
    assert {"prod/d000", "prod/d001"} == planned(heir)
    heir.plan()
    assert {f"prod/d00{number}" for number in range(5)} == planned(heir)


def test_named_devices_are_planned_by_name_and_the_unknown_are_passed_over():
    world = fleet(4)
    start(world, release="1.1.0", devices=["d003", "d001"])
    assert slice_of(world, 1)
    assert {"prod/d001"} == planned(world)
    slice_of(world, 5)
    assert {"prod/d001", "prod/d003"} == planned(world)


def test_rollouts_are_planned_one_after_the_other():
    world = fleet(2)
    world.release("2.0.0", seq=3)
    first = start(world, release="1.1.0")
    world.jump(1)
    start(world, release="2.0.0")
    assert slice_of(world, 2)
    assert slice_of(world, 1)
    by_id = {one.id: one.is_planning for one in world.read(lambda unit: unit.rollouts.all())}
    assert not by_id.pop(first)
    assert [True] == list(by_id.values())


@pytest.mark.parametrize("operation", ["rollout.pause", "rollout.cancel"])
def test_a_rollout_that_is_stopped_while_it_is_planned_plans_no_further_device(operation):
    world = fleet(6)
    rollout = start(world, release="1.1.0")
    slice_of(world, 2)
    world.do(operation, rollout=rollout)
    assert not slice_of(world, 10)
    assert len(planned(world)) <= 2


def test_a_resumed_rollout_plans_the_devices_that_were_left():
    world = fleet(6)
    rollout = start(world, release="1.1.0")
    slice_of(world, 2)
    world.do("rollout.pause", rollout=rollout)
    world.do("rollout.resume", rollout=rollout)
    world.plan()
    assert 6 == len(planned(world))


def test_a_slice_tells_that_the_rollout_changed_and_an_empty_one_tells_nothing():
    world = fleet(1)
    rollout = start(world, release="1.1.0")
    slice_of(world, 1)
    assert rollout in {told.rollout for told in world.sent(RolloutChanged, world.last)}
    slice_of(world, 1)
    slice_of(world, 1)
    assert [] == world.last


def test_what_is_due_is_done_one_by_one_where_there_is_time_for_no_more():
    world = fleet(2 * PAGE)
    world.rollout()
    world.jump(1e9)
    offered = [len(world.sent(Offer))]
    more = True
    while more:
        more = world.commit(
            lambda unit: ((tick := world.bridge.tick(unit, world.now, lambda: False)).more, tick.outputs)
        )[0]
        offered.append(len(world.sent(Offer)))
    assert [1] * 2 * PAGE == [after - before for before, after in itertools.pairwise(offered)][: 2 * PAGE]
