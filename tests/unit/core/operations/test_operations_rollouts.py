"""Rollouts: whom they reach, how they are held and ended; and what is refused with which sentence."""

import pytest
from core_lives import confirmed, installing, offered
from core_world import World

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.messages import GrantState, Offer, RolloutChanged


@pytest.fixture
def world():
    return World()


def test_a_rollout_without_a_target_is_for_all(world):
    for number in range(3):
        world.device(f"d{number}")
    world.device("e1", product="other")
    world.release()
    started = world.do("rollout.start", release="1.1.0")
    assert ("all", 3, "running") == (started["target"], started["total"], started["state"])
    assert 3 == len(world.sent(Offer, world.last))
    assert 1 == len(set(world.sent(RolloutChanged, world.last)))


def test_a_rollout_for_named_devices_reaches_those(world):
    for number in range(3):
        world.device(f"d{number}")
    world.release()
    world.rollout(devices=["d1", "prod/d2"])
    assert ["prod/d1", "prod/d2"] == sorted(str(offer.device) for offer in world.sent(Offer))


def test_a_device_named_twice_is_one(world):
    world.device("d1")
    world.release()
    assert "1 named" == world.do("rollout.start", release="1.1.0", devices=["d1", "prod/d1"])["target"]


def test_an_empty_list_of_devices_is_never_taken_for_all(world):
    world.device()
    world.release()
    with pytest.raises(InvalidInput, match="list of devices is empty"):
        world.rollout(devices=[])
    assert [] == world.do("rollout.list")


@pytest.mark.parametrize("where", ["", " "])
def test_an_empty_query_is_never_taken_for_all(world, where):
    world.device()
    world.release()
    with pytest.raises(InvalidInput, match="the query is empty"):
        world.rollout(where=where)
    assert [] == world.do("rollout.list")


def test_a_share_reaches_its_share_and_widening_the_rest(world):
    for number in range(100):
        world.device(f"d{number}")
    world.release()
    rollout = world.rollout(percent=10)
    first = {offer.device for offer in world.sent(Offer)}
    assert 1 <= len(first) <= 25
    world.do("rollout.percent", rollout=rollout, percent=100)
    offers = [offer.device for offer in world.sent(Offer)]
    assert 100 == len(offers) == len(set(offers))
    with pytest.raises(InvalidInput, match="can only grow"):
        world.do("rollout.percent", rollout=rollout, percent=10)


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"release": "9"}, NotFound),
        ({"devices": ["nobody"]}, NotFound),
        ({"devices": ["other/e1"]}, InvalidInput),
        ({"devices": ["d1", "gone"]}, Conflict),
        ({"devices": ["d1"], "percent": 10}, InvalidInput),
        ({"percent": 101}, InvalidInput),
        ({"percent": -1}, InvalidInput),
    ],
)
def test_a_rollout_that_cannot_be_is_not_started(world, args, error):
    world.device("d1")
    world.device("e1", product="other")
    world.device("gone")
    world.do("device.retire", device="gone")
    world.release()
    with pytest.raises(error):
        world.do("rollout.start", **({"release": "1.1.0"} | args))
    assert [] == world.do("rollout.list")


def test_a_device_that_appears_later_is_in_the_rollout(world):
    world.release()
    rollout = world.rollout()
    world.device("late")
    assert 1 == world.do("rollout.status", rollout=rollout)["total"]


def test_a_paused_rollout_takes_no_new_device_until_it_goes_on(world):
    world.release()
    rollout = world.rollout()
    world.do("rollout.pause", rollout=rollout)
    device = world.device("late")
    assert [] == device.all
    world.jump(60)
    world.do("rollout.resume", rollout=rollout)
    assert State.OFFERED is device.state


def test_pause_and_resume_and_cancel_refuse_what_is_no_change(world):
    world.release()
    rollout = world.rollout()
    with pytest.raises(Conflict, match="already running"):
        world.do("rollout.resume", rollout=rollout)
    world.do("rollout.pause", rollout=rollout)
    with pytest.raises(Conflict, match="already paused"):
        world.do("rollout.pause", rollout=rollout)
    world.do("rollout.cancel", rollout=rollout)
    for operation in ("pause", "resume", "cancel"):
        with pytest.raises(Conflict, match="is canceled"):
            world.do(f"rollout.{operation}", rollout=rollout)


def test_a_canceled_rollout_cancels_what_has_not_begun_and_leaves_what_runs(world):
    waiting = offered(world, name="d1")
    rollout = waiting.open.rollout
    done = world.device("d2")
    done.runs("1.1.0").check_in()
    result = world.do("rollout.cancel", rollout=rollout)
    assert (1, "canceled") == (result["canceled"], result["state"])
    assert State.CANCELING is waiting.state
    assert {} == waiting.record.assigned


def test_canceling_an_old_rollout_leaves_the_assignments_of_a_newer_one(world):
    device = world.device()
    world.release("1.1.0", seq=2)
    world.release("1.2.0", seq=3)
    old = world.rollout("1.1.0")
    device.says("fail", result_code="REFUSED_SIZE")
    world.jump(60)
    new = world.rollout("1.2.0")
    world.do("rollout.cancel", rollout=old)
    assert new == device.record.assigned["firmware"].rollout
    assert State.OFFERED is device.state


def test_the_status_counts_each_device_once_however_often_it_tried(world):
    device = offered(world)
    rollout = device.open.rollout
    device.says("fail", result_code="-1")
    world.passes(3600)
    status = world.do("rollout.status", rollout=rollout)
    assert (1, {"OFFERED": 1}, False) == (status["total"], status["counts"], status["complete"])
    assert [2] == [row["attempt"] for row in status["deployments"]]


def test_the_devices_of_a_rollout_are_in_order(world):
    names = [f"d{number}" for number in (3, 1, 4, 0, 2)]
    for name in names:
        world.device(name)
    world.release()
    shown = world.do("rollout.status", rollout=world.rollout())
    assert [f"prod/{name}" for name in sorted(names)] == [row["device"] for row in shown["deployments"]]


def test_a_rollout_is_complete_when_nothing_of_it_is_open(world):
    device = confirmed(world)
    status = world.do("rollout.status", rollout=device.latest.rollout)
    assert (True, 1, 1, 0) == (status["complete"], status["confirmed"], status["total"], status["open"])


def test_an_install_that_got_its_go_is_canceled_only_if_the_device_can(world):
    device = installing(world)
    assert 1 == world.do("rollout.cancel", rollout=device.open.rollout)["canceled"]
    assert State.CANCELING is device.state


def test_a_pause_of_a_rollout_holds_every_one_of_its_grants(world):
    first, second = world.device("d1"), world.device("d2")
    world.release()
    rollout = world.rollout()
    world.do("rollout.pause", rollout=rollout)
    assert [GrantState.PAUSED] * 2 == [state for one in (first, second) for state in world.granted(one.id).values()]
