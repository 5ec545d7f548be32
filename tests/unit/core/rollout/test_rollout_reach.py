"""What is refused when a release is made: what no device can come to, and what is not known to lead there."""

import pytest
from core_world import World, facts_of, image_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.manifest import Dependency
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.rollout import reach
from ota_bridge.core.values import release_id


def needs(component, seq):
    return (Dependency(component=component, min_seq=seq),)


@pytest.fixture
def world():
    """A product of which no device is known."""
    return World()


@pytest.fixture
def fleet(world):
    world.device().runs("1.0.0", seq=1).check_in()
    return world


# --- never -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"min_present_seq": 2}, "signed for what has seq 2 at least, and has 2 itself"),
        ({"precursor_sha256": facts_of("2.0").sha256}, "signed for its own image alone"),
        ({"dependencies": needs("firmware", 1)}, "needs itself; sign a min present seq instead"),
        ({"installs_from": ("2.0",)}, "installs only from 2.0, a cycle: 2.0 -> 2.0"),
        ({"installs_from": ("3.0",)}, "installs only from 3.0, of which the seq is not lower"),
    ],
    ids=["seq", "own image", "needs itself", "itself", "what is later"],
)
def test_what_no_device_can_ever_install_is_refused_even_in_advance(world, facts, says):
    world.release("3.0", seq=3)
    for in_advance in (False, True):
        with pytest.raises(InvalidInput, match=says):
            world.release("2.0", seq=2, in_advance=in_advance, **facts)
    assert ["prod/3.0"] == [row["id"] for row in world.do("release.list")]


def test_a_cycle_is_refused_and_shown(fleet):
    fleet.release("2.0", seq=2, installs_from=("4.0",), in_advance=True)
    fleet.release("3.0", seq=3, installs_from=("2.0",), in_advance=True)
    with pytest.raises(InvalidInput, match=r"installs only from 3.0, a cycle: 4.0 -> 3.0 -> 2.0 -> 4.0$"):
        fleet.release("4.0", seq=4, installs_from=("3.0",), in_advance=True)


def test_what_looks_like_a_cycle_and_has_a_way_in_is_none(world):
    world.release("2.0", seq=2, installs_from=("3.0", "1.0"))
    world.release("3.0", seq=3, installs_from=("2.0",))


def test_components_that_wait_for_one_another_are_refused(fleet):
    fleet.release("2.0", seq=5, component="radio", dependencies=needs("firmware", 7), in_advance=True)
    with pytest.raises(InvalidInput, match=r"prod/2.0 wait for one another: firmware -> radio -> firmware"):
        fleet.release("2.0", seq=7, dependencies=needs("radio", 5), in_advance=True)


def test_components_that_need_what_was_there_before_do_not_wait_for_one_another(world):
    device = world.device(check_in=False).runs("1.0.0", seq=1).runs("1.0.0", seq=1, component="radio")
    device.check_in()
    world.release("2.0", seq=5, component="radio", dependencies=needs("firmware", 1))
    world.release("2.0", seq=7, dependencies=needs("radio", 1))


# --- dead ends ---------------------------------------------------------------------------------------------------


def test_a_dead_end_is_refused_unless_what_leads_there_comes_later(fleet):
    says = (
        "prod/3.0 firmware 3.0 is a dead end: it installs from >=2,<3, devices run 1.0.0 and the catalog brings "
        "nothing else; add first what leads there, or say --in-advance if that comes later"
    )
    with pytest.raises(InvalidInput) as refused:
        fleet.release("3.0", seq=9, installs_from=(">=2,<3",))
    assert says == str(refused.value)
    fleet.release("3.0", seq=9, installs_from=(">=2,<3",), in_advance=True)
    fleet.release("2.0", seq=2, installs_from=(">=1,<2",))


def test_a_stone_has_to_be_reached_itself(fleet):
    fleet.release("2.0", seq=2, installs_from=("1.5",), in_advance=True)
    with pytest.raises(InvalidInput, match="is a dead end"):
        fleet.release("3.0", seq=3, installs_from=("2.0",))
    fleet.release("1.5", seq=1, installs_from=("1.0.0",), in_advance=True)
    with pytest.raises(InvalidInput, match="is a dead end"):
        fleet.release("3.0", seq=3, installs_from=("2.0",))
    fleet.device("d2").runs("1.5", seq=1).check_in()
    fleet.release("3.0", seq=3, installs_from=("2.0",))


def test_a_withdrawn_release_leads_nowhere(fleet):
    fleet.release("2.0", seq=2)
    fleet.do("release.withdraw", release="2.0")
    with pytest.raises(InvalidInput, match="is a dead end"):
        fleet.release("3.0", seq=3, installs_from=("2.0",))


def test_the_first_releases_of_a_product_may_be_added_in_any_order(world):
    world.release("4.0", seq=4, installs_from=(">=3,<4",))
    world.release("3.0", seq=3, installs_from=("2.0",))
    world.release("2.0", seq=2, installs_from=("1.0",))


def test_a_retired_device_leads_nowhere(world):
    world.device("old").runs("2.0", seq=2).check_in()
    world.device("new").runs("1.0", seq=1).check_in()
    world.do("device.retire", device="old")
    with pytest.raises(InvalidInput, match="devices run 1.0 and"):
        world.release("3.0", seq=3, installs_from=("2.0",))


def test_another_component_is_not_in_the_way(fleet):
    fleet.release("7.0", seq=7, component="radio", installs_from=("6.0",))


def test_what_devices_run_already_is_no_dead_end(world):
    world.device().runs("3.0", seq=3).check_in()
    world.release("3.0", seq=3, installs_from=("2.0",), image=image_of("3.0"))


@pytest.mark.parametrize(
    ("seq", "says"),
    [(1, "which no device reports; add that component first"), (9, "which no device reports")],
)
def test_a_component_that_is_needed_must_be_there(fleet, seq, says):
    with pytest.raises(InvalidInput, match=says):
        fleet.release("2.0", seq=2, dependencies=needs("radio", seq))
    fleet.release("2.0", seq=2, dependencies=needs("radio", seq), in_advance=True)


def test_a_component_that_is_needed_may_come_with_this_release_another_or_the_factory(world):
    world.release("2.0", seq=4, component="radio")
    world.release("2.0", seq=2, dependencies=needs("radio", 4))
    world.release("3.0", seq=3, dependencies=needs("radio", 3))
    with pytest.raises(InvalidInput, match="of which seq 4 is the highest that is known"):
        world.release("4.0", seq=5, dependencies=needs("radio", 5))
    device = world.device(check_in=False)
    device.parts["radio"] = InstalledPart(version="x", seq=5)
    device.check_in()
    world.release("4.0", seq=5, dependencies=needs("radio", 5))


# --- what stays as it is -----------------------------------------------------------------------------------------


def test_what_was_declared_does_not_change(world):
    world.release("2.0", installs_from=("1.0",))
    world.release("2.0")
    with pytest.raises(Conflict, match="installs from 1.0, which does not change"):
        world.release("2.0", installs_from=("1.1",))
    shown = world.do("release.show", release="2.0")
    assert ["1.0"] == shown["parts"]["firmware"]["installs_from"]


def test_an_unchanged_component_stands_in_several_releases_as_it_was_signed(world):
    for version in ("2.0", "3.0"):
        world.release("7.1", seq=2, component="radio", release=version)
    with pytest.raises(Conflict, match="seq 2 of prod radio is taken by prod/2.0"):
        world.release("7.2", seq=2, component="radio", release="4.0")


# --- no legitimate release is refused ------------------------------------------------------------------------------


def plain(version, seq, bounds):
    part = ReleasePart(
        component="firmware",
        envelope=b"e",
        manifest=facts_of(version, seq=seq),
        md5="0" * 32,
        installs_from=bounds,
    )
    return Release(
        id=release_id("prod", version),
        product="prod",
        version=version,
        hardware=("r1",),
        parts={"firmware": part},
        state=ReleaseState.ACTIVE,
        created_wall=1.0,
        created_by="ann",
    )


@given(st.permutations(range(1, 7)), st.booleans())
def test_a_chain_is_never_refused_for_good_in_whatever_order_its_links_come(order, known):
    """Each installs from the one before alone; devices run some link of it, or are not known yet."""
    links = [plain(f"{number}.0", number, (f"{number - 1}.0",)) for number in range(1, 7)]
    fleet = [{"firmware": InstalledPart(version="0.0", seq=0)}] if known else []
    added = []
    for number in order:
        release = links[number - 1]
        assert "" == reach.never(release, release.parts["firmware"], added, fleet)
        added.append(release)
    for release in links:
        others = [other for other in links if other is not release]
        assert "" == reach.dead_end(release, release.parts["firmware"], others, fleet)


def test_a_new_epoch_counts_anew_after_the_releases_of_the_one_before(fleet):
    fleet.release("1.5", seq=9)
    fleet.release("2.0", seq=1, epoch=2, installs_from=("1.5",))
