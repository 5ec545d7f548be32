"""What an operator names is found, or said not to be there."""

import pytest
from core_world import World

from ota_bridge.core.errors import InvalidInput, NotFound


@pytest.fixture
def world():
    return World()


def test_a_device_is_found_by_its_name_its_label_or_in_full(world):
    world.device("d1")
    world.do("device.rename", device="d1", label="pump 3")
    assert {"prod/d1"} == {world.do("device.show", device=name)["id"] for name in ("d1", "prod/d1", "pump 3")}


@pytest.mark.parametrize(
    ("name", "error"), [("d9", NotFound), ("prod/d9", NotFound), ("prod/", InvalidInput), ("a/b/c", InvalidInput)]
)
def test_a_device_that_is_not_there_is_said_so(world, name, error):
    world.device("d1")
    for operation in ("why", "device.show", "device.retire", "device.approve"):
        with pytest.raises(error):
            world.do(operation, device=name)


def test_an_ambiguous_name_lists_what_it_may_mean(world):
    world.device("d1")
    world.device("d1", product="other")
    with pytest.raises(InvalidInput, match="ambiguous: other/d1, prod/d1"):
        world.do("why", device="d1")


def test_a_release_is_found_by_version_where_that_is_clear_and_by_id(world):
    world.release()
    assert "prod/1.1.0" == world.do("release.show", release="1.1.0")["id"]
    assert "prod/1.1.0" == world.do("release.show", release="prod/1.1.0")["id"]
    world.release(product="other")
    with pytest.raises(InvalidInput, match="ambiguous: other/1.1.0, prod/1.1.0"):
        world.do("release.show", release="1.1.0")


@pytest.mark.parametrize("name", ["9", "prod/9", "x/", "/", "prod/1.1.0/x"])
def test_a_release_that_is_not_there_is_said_so(world, name):
    world.release()
    with pytest.raises(NotFound, match="no release"):
        world.do("release.show", release=name)


@pytest.mark.parametrize("operation", ["pause", "resume", "cancel", "percent", "status"])
def test_an_unknown_rollout_is_said_so(world, operation):
    with pytest.raises(NotFound, match="no rollout 'r-none'"):
        world.do(f"rollout.{operation}", rollout="r-none", **({"percent": 1} if operation == "percent" else {}))
