"""Whether a counter or the catalog tells how old what runs is."""

import pytest
from core_world import World

from ota_bridge.core.known import is_in_catalog, is_known
from ota_bridge.core.messages import InstalledPart


@pytest.fixture
def world():
    made = World()
    made.release("7.1", component="radio", release="2026.1")
    return made


@pytest.mark.parametrize(
    ("component", "installed", "expected"),
    [
        ("radio", InstalledPart(version="7.1"), True),
        ("radio", InstalledPart(version="2026.1"), False),
        ("firmware", InstalledPart(version="7.1"), False),
        ("radio", InstalledPart(version="6.0"), False),
    ],
)
def test_a_version_is_looked_for_among_the_components_own(world, component, installed, expected):
    assert expected is world.read(lambda unit: is_in_catalog(unit, "prod", component, installed))
    assert expected is world.read(lambda unit: is_known(unit, "prod", component, installed))
    assert not world.read(lambda unit: is_in_catalog(unit, "other", component, installed))


@pytest.mark.parametrize("installed", [None, InstalledPart(version="6.0", seq=1)])
def test_a_counter_tells_it_too_and_nothing_is_nothing_unknown(world, installed):
    assert world.read(lambda unit: is_known(unit, "prod", "radio", installed))
