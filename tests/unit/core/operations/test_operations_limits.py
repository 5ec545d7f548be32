"""The fleet-wide caps: kept, told, refused."""

import pytest
from core_world import World

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.messages import LimitsChanged
from ota_bridge.core.values import Limits


@pytest.fixture
def world():
    return World()


def test_nothing_is_capped_until_somebody_says_so(world):
    shown = {"blocks_per_s": 0, "bytes_per_s": 0, "downloads": 0, "set": None, "set_by": None}
    assert shown == world.do("limits.show")


def test_a_cap_is_set_kept_told_to_the_block_plane_and_shown_with_who_set_it(world):
    result = world.do("limits.set", downloads=50)
    assert [LimitsChanged(limits=Limits(downloads=50))] == world.last
    assert (50, "ann") == (result["downloads"], result["set_by"])
    assert result == world.do("limits.show")


def test_what_is_not_named_stays_and_zero_lifts(world):
    world.do("limits.set", downloads=50, blocks_per_s=100)
    world.do("limits.set", bytes_per_s=100_000, blocks_per_s=0)
    shown = world.do("limits.show")
    assert (0, 100_000, 50) == (shown["blocks_per_s"], shown["bytes_per_s"], shown["downloads"])


@pytest.mark.parametrize("wrong", [{}, {"downloads": -1}, {"bytes_per_s": 10}, {"blocks_per_s": 10**13}])
def test_a_cap_that_cannot_be_changes_nothing(world, wrong):
    world.do("limits.set", downloads=50)
    with pytest.raises(InvalidInput, match=r"allowed is|at least one of"):
        world.do("limits.set", **wrong)
    assert 50 == world.do("limits.show")["downloads"]
