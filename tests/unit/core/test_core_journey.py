"""The way to a release, in words."""

import pytest
from core_world import FACTORY, World

from ota_bridge.core.manifest import Dependency


@pytest.fixture
def world():
    made = World()
    made.release("2.0", seq=2, installs_from=(">=1,<2",))
    made.release("2.5", seq=3, installs_from=("2.0",))
    made.release("3.0", seq=4, installs_from=("2.5",))
    return made


def installs(device, version, seq):
    device.world.passes(31)
    device.check_in()
    device.says("burning")
    device.runs(version, seq=seq).restarts()


def test_why_tells_the_whole_path_and_how_far_it_is(world):
    device = world.device()
    world.rollout("3.0")
    told = []
    for version, seq in (("2.0", 2), ("2.5", 3), ("3.0", 4)):
        told.append(device.why()[1])
        installs(device, version, seq)
    for number, sentence in enumerate(told, start=1):
        assert f"(1.0.0 -> 2.0 -> 2.5 -> 3.0: step {number} of 3)" in sentence
    assert "firmware prod/2.5 (1.0.0" in told[1]
    assert ("confirmed", "prod/d1: it runs the assigned firmware prod/3.0.") == device.why()


def test_a_path_of_one_step_is_not_told(world):
    device = world.device()
    world.rollout("2.0")
    assert "step" not in device.why()[1]


def test_a_step_that_was_done_in_another_rollout_is_none_of_this_one(world):
    device = world.device()
    world.rollout("2.0")
    installs(device, "2.0", 2)
    world.rollout("3.0")
    assert "(2.0 -> 2.5 -> 3.0: step 1 of 2)" in device.why()[1]


def test_a_device_without_a_path_is_told_why(world):
    device = world.device(check_in=False)
    device.runs("0.9", seq=1).check_in()
    world.rollout("3.0")
    code, sentence = device.why()
    assert "no_path" == code
    assert (
        "prod/d1: firmware prod/3.0 does not go there: no path from 0.9 to 3.0: 3.0 installs from 2.5, "
        "and no release leads from 0.9 to there." == sentence
    )


def test_a_stone_that_failed_for_good_is_named(world):
    device = world.device()
    world.rollout("3.0")
    device.says("reject")
    code, sentence = device.why()
    assert "final_refusal" == code
    assert "firmware prod/2.0 ended REJECTED" in sentence


def test_a_component_that_waits_says_for_what(world):
    device = world.device(check_in=False)
    device.runs(FACTORY, seq=1, component="radio").check_in()
    world.release("4.0", seq=5, component="radio")
    world.release("4.0", seq=5, dependencies=(Dependency(component="radio", min_seq=5),))
    world.rollout("4.0")
    device.says("reject", device.open, component="radio")
    code, sentence = device.why()
    assert "waits_for_component" == code
    assert "it needs radio with seq 5 at least, has seq 1, and waits until that is confirmed" in sentence
