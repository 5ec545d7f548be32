"""Releases: what is added, what stays as it is, what a withdrawal ends."""

import pytest
from core_lives import downloading
from core_world import World

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict
from ota_bridge.core.messages import CancelUpdate


@pytest.fixture
def world():
    return World()


def test_a_seq_is_taken_once_in_a_product_and_component(world):
    world.release("1.1.0", seq=2)
    with pytest.raises(Conflict, match="seq 2 of prod firmware is taken by prod/1.1.0"):
        world.release("1.2.0", seq=2)
    world.release("1.2.0", seq=2, product="other")
    world.release("1.2.0", seq=2, component="config")


def test_a_component_is_added_once_and_not_after_a_rollout(world):
    world.release(seq=2)
    with pytest.raises(Conflict, match="already has"):
        world.release(seq=3, image=b"other bytes")
    world.rollout()
    with pytest.raises(Conflict, match="has a rollout and can no longer change"):
        world.release(component="config")


def test_the_same_manifest_may_be_uploaded_again_to_put_its_file_back(world):
    world.release()
    world.rollout()
    shown = world.do("release.show", release="1.1.0")
    world.release()
    assert shown == world.do("release.show", release="1.1.0")


def test_the_same_image_signed_anew_is_told_how_to_put_its_file_back(world):
    world.release(seq=2)
    world.rollout()
    with pytest.raises(Conflict, match="holds this image, signed with seq 2; to put its file back name --seq 2"):
        world.release(seq=3)


def test_all_components_name_the_same_hardware(world):
    world.release()
    with pytest.raises(Conflict, match="for hardware r1"):
        world.release(component="config", hardware=("r2",))


def test_a_withdrawn_release_is_canceled_everywhere_and_cannot_be_started(world):
    device = downloading(world)
    result = world.do("release.withdraw", release="1.1.0", reason="it burns")
    assert (1, "withdrawn") == (result["canceled"], result["state"])
    assert (State.CANCELING, "withdrawn by ann: it burns") == (device.state, device.latest.cause)
    assert 1 == len(world.sent(CancelUpdate, world.last))
    with pytest.raises(Conflict, match="is withdrawn"):
        world.rollout()
    with pytest.raises(Conflict, match="already withdrawn"):
        world.do("release.withdraw", release="1.1.0")


def test_what_is_canceled_while_it_installs_is_granted_as_withdrawn(world):
    """A device that was too late to stop is asked once more: what it fetches then is told to be withdrawn."""
    device = downloading(world)
    world.rollout()
    world.do("release.withdraw", release="1.1.0")
    device.says("too_late")
    assert State.INSTALLING is device.state
    device.check_in()
    assert State.CANCELING is device.state
    held = world.server._clients[device.id].grants
    assert [(device.latest.id, "withdrawn")] == [(grant.deployment, grant.state) for grant in held]


def test_the_rollouts_of_a_withdrawn_release_are_canceled_with_it(world):
    downloading(world)
    world.release("1.2.0", seq=3)
    world.rollout("1.2.0", percent=0)
    world.do("rollout.pause", rollout=world.rollout(percent=0))
    world.do("release.withdraw", release="1.1.0")
    shown = {rollout["id"]: (rollout["release"], rollout["state"]) for rollout in world.do("rollout.list")}
    expected = [("prod/1.1.0", "canceled"), ("prod/1.1.0", "canceled"), ("prod/1.2.0", "running")]
    assert expected == sorted(shown.values())
