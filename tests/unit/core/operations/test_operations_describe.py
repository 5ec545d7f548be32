import pytest
from core_world import World
from toy_dialect import ToyDialect
from toy_world import Toy, words

from ota_bridge.core.catalog import METADATA_MAX, METADATA_TEXT_MAX
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound

NEEDS = {"needs": "toy.signature"}


def world_with_a_release():
    world = World()
    world.bridge.dialects = {"toy": ToyDialect(NEEDS)}
    world.release("1.1.0")
    return world


def describe(world, **more):
    return world.do("release.describe", **{"release": "1.1.0", "metadata": {"toy.signature": "c2ln"}, **more})


def test_what_a_release_lacks_is_named_with_what_it_is_until_it_is_told():
    world = world_with_a_release()
    lacks = describe(world, metadata={"toy.other": "x"})["lacks"]
    assert {"firmware": {"toy.signature": "a secret of the author"}} == lacks
    assert {} == describe(world)["lacks"]
    part = world.do("release.show", release="1.1.0")["parts"]["firmware"]
    assert {"toy.other": "x", "toy.signature": "c2ln"} == part["metadata"]


def test_devices_that_waited_for_it_are_offered_it_as_soon_as_it_is_told():
    world = world_with_a_release()
    toy = Toy(world)
    toy.says(runs="1.0.0")
    world.rollout("1.1.0")
    world.plan()
    assert State.QUEUED is toy.state
    describe(world)
    assert [{"offer": "1.1.0", "size": 10_000, "url": ""}] == words(world.tick())
    assert State.OFFERED is toy.state


def test_what_was_told_does_not_change_and_can_be_told_again():
    world = world_with_a_release()
    describe(world)
    assert {} == describe(world)["lacks"]
    with pytest.raises(Conflict, match=r"toy.signature of release prod/1.1.0 is set and does not change"):
        describe(world, metadata={"toy.signature": "b3RoZXI="})


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"release": "9.9"}, NotFound, "9.9"),
        ({"component": "radio"}, NotFound, "has no component 'radio'; it has firmware"),
        ({"metadata": {"signature": "x"}}, InvalidInput, "metadata 'signature': write DIALECT.NAME"),
        ({"metadata": {"toy.x": 1}}, InvalidInput, "metadata toy.x: at most 4096 printable"),
        ({"metadata": {"toy.x": "a\nb"}}, InvalidInput, "metadata toy.x"),
        ({"metadata": {"toy.x": "x" * (METADATA_TEXT_MAX + 1)}}, InvalidInput, "metadata toy.x"),
        ({"metadata": {f"toy.x{n}": "x" for n in range(METADATA_MAX + 1)}}, InvalidInput, "at most 16"),
    ],
)
def test_what_cannot_be_told_says_why(change, error, says):
    with pytest.raises(error, match=says):
        describe(world_with_a_release(), **change)
