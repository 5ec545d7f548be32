"""Components that need one another: which goes first, and what goes nowhere."""

import pytest
from core_world import FACTORY, World

from ota_bridge.core.deployment import State
from ota_bridge.core.manifest import Dependency
from ota_bridge.core.messages import InstalledPart


def needs(component, seq):
    return (Dependency(component=component, min_seq=seq),)


@pytest.fixture
def world():
    return World()


@pytest.fixture
def device(world):
    made = world.device(check_in=False)
    made.runs(FACTORY, seq=1, component="radio").check_in()
    return made


def open_components(device):
    found = device.world.read(lambda unit: unit.deployments.open_of(device.id))
    return sorted(one.component for one in found)


def two(world, **radio):
    world.release("2.0", seq=2, component="radio", **radio)
    return world.release("2.0", seq=2, dependencies=needs("radio", 2))


def test_a_component_waits_until_what_it_needs_is_confirmed(world, device):
    world.rollout(two(world))
    assert ["radio"] == open_components(device)
    device.says("burning", device.open, component="radio")
    device.runs("2.0", seq=2, component="radio", trial=True).restarts()
    assert ["radio"] == open_components(device)
    assert State.TRIAL is device.open.state
    device.runs("2.0", seq=2, component="radio").check_in()
    assert ["firmware"] == open_components(device)


def test_what_is_there_already_is_not_waited_for(world, device):
    device.runs("1.5", seq=2, component="radio").check_in()
    world.rollout(two(world, image=b"another"))
    assert "firmware" in open_components(device)


def test_a_component_that_is_unchanged_is_not_sent(world, device):
    two(world)
    device.runs("2.0", seq=2, component="radio").check_in()
    world.rollout("2.0")
    assert ["firmware"] == open_components(device)


def test_an_unchanged_component_brings_no_higher_seq(world, device):
    world.release("2.0", seq=9, component="radio")
    world.release("2.0", seq=2, dependencies=needs("radio", 9))
    device.runs("2.0", seq=2, component="radio").check_in()
    world.rollout("2.0")
    assert [] == open_components(device)
    assert "lacks_component" == device.why()[0]


def test_a_component_that_nothing_brings_is_lacked(world, device):
    world.release("2.0", seq=2, dependencies=needs("radio", 7), in_advance=True)
    world.rollout("2.0")
    assert [] == open_components(device)
    code, sentence = device.why()
    assert "lacks_component" == code
    assert "it needs radio with seq 7 at least, has seq 1, and nothing that is assigned to it brings that" in sentence


def test_an_offer_waits_where_what_was_there_has_gone(world, device):
    device.runs("1.5", seq=2, component="radio").check_in()
    world.rollout(two(world, image=b"another"), devices=["d1"])
    device.parts["radio"] = InstalledPart(version="1.5", seq=1)
    world.passes(31)
    device.check_in()
    held = [one for one in device.all if one.component == "firmware"]
    assert "not offered: waits_for_component" == held[0].cause


def test_a_device_that_tells_no_seq_gets_what_is_needed_first(world):
    device = world.device(proto=0, check_in=False)
    device.parts = {name: InstalledPart(version=FACTORY) for name in ("firmware", "radio")}
    device.check_in()
    world.rollout(two(world))
    assert ["radio"] == open_components(device)
    device.parts["radio"] = InstalledPart(version="2.0")
    device.check_in()
    assert ["firmware"] == open_components(device)


def test_versions_of_components_are_their_own(world, device):
    world.release("7.1", seq=2, component="radio", release="2026.1")
    world.release("2.0", seq=2, release="2026.1", dependencies=needs("radio", 2))
    device.parts["radio"] = InstalledPart(version="7.1", seq=2)
    device.check_in()
    world.rollout("2026.1")
    assert ["firmware"] == open_components(device)
    device.parts["firmware"] = InstalledPart(version="2.0", seq=2)
    device.restarts()
    assert (State.CONFIRMED, "confirmed") == (device.state, device.why()[0])


def test_of_several_needs_the_one_that_is_not_met_is_told(world, device):
    device.runs("1.5", seq=2, component="radio").check_in()
    world.release("2.0", seq=2, dependencies=(*needs("radio", 2), *needs("sensor", 4)), in_advance=True)
    world.rollout("2.0")
    assert "it needs sensor with seq 4 at least, it is not there" in device.why()[1]
