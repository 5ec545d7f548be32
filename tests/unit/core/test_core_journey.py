"""The way to a release, in words."""

import pytest
from core_world import FACTORY, World

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.manifest import Dependency
from ota_bridge.core.messages import InstalledPart


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


# --- release path ------------------------------------------------------------------------------------------------


def path(world, **args):
    shown = world.do("release.path", release="3.0", **args)["parts"]["firmware"]
    return shown["runs"], [step["version"] for step in shown["steps"]], shown["code"], shown["reason"]


def test_the_path_of_a_version_is_shown(world):
    assert ("1.0", ["2.0", "2.5", "3.0"], None, None) == path(world, version="1.0")
    assert ("2.5", ["3.0"], None, None) == path(world, version="2.5")
    world.release("3.5", seq=5)
    assert ("3.5", [], "anti_rollback", None) == path(world, version="3.5")
    code, reason = path(world, version="0.9")[2:]
    assert ("no_path", "no path from 0.9 to 3.0: 3.0 installs from 2.5, and no release leads from 0.9 to there") == (
        code,
        reason,
    )


def test_the_path_of_a_device_is_shown_though_it_is_not_assigned_the_release(world):
    device = world.device()
    assert ("1.0.0", ["2.0", "2.5", "3.0"], None, None) == path(world, device="d1")
    device.runs("3.0", seq=4).check_in()
    assert ("3.0", [], "runs_it", None) == path(world, device="d1")
    assert {} == device.record.assigned


def test_a_path_is_not_there_for_other_hardware_or_without_the_component(world):
    world.device("d2", hw="r9")
    assert ("1.0.0", [], "wrong_hardware", None) == path(world, device="d2")
    world.device("d3", check_in=False).check_in(parts={"radio": InstalledPart(version="1")})
    assert (None, [], "no_such_component", None) == path(world, device="d3")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "name a device, or the version"),
        ({"device": "d1", "version": "1"}, "and not both"),
        ({"device": "d1", "component": "radio"}, "prod/3.0 has no component 'radio'; it has firmware"),
        ({"version": "1 0"}, "version"),
        ({"device": "other"}, "is not a prod"),
    ],
)
def test_what_a_path_is_asked_for_is_checked(world, args, says):
    world.device()
    world.device("other", product="b")
    with pytest.raises(InvalidInput, match=says):
        world.do("release.path", release="3.0", **args)


def test_a_path_counts_what_comes_with_the_same_release(world):
    device = world.device(check_in=False)
    device.runs(FACTORY, seq=1, component="radio").check_in()
    world.release("4.0", seq=5, component="radio")
    world.release("4.0", seq=5, dependencies=(Dependency(component="radio", min_seq=5),))
    shown = world.do("release.path", release="4.0", device="d1")["parts"]["firmware"]
    assert ("waits_for_component", ["4.0"]) == (shown["code"], [step["version"] for step in shown["steps"]])
