"""Devices: registered, described, taken out, replaced; and what is refused with which sentence."""

import pytest
from core_lives import confirmed, downloading
from core_world import World

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.fleet import Enrol
from ota_bridge.core.messages import Offer


@pytest.fixture
def world():
    return World()


def test_devices_are_listed_by_product_state_and_tag(world):
    world.device("d1")
    world.device("d2")
    world.device("e1", product="other")
    world.do("device.tag", device="d2", add=["canary"])
    world.do("device.retire", device="prod/d1")
    ids = lambda **wanted: [row["id"] for row in world.do("device.list", **wanted)]  # noqa: E731
    assert ["other/e1", "prod/d1", "prod/d2"] == ids()
    assert ["prod/d1", "prod/d2"] == ids(product="prod")
    assert ["prod/d1"] == ids(state="retired")
    assert ["prod/d2"] == ids(tag="canary")
    with pytest.raises(InvalidInput, match="one of pending, active, retired"):
        world.do("device.list", state="asleep")


def test_devices_are_listed_by_a_query_and_a_typo_is_an_error(world):
    world.device("d1")
    world.device("d2")
    world.do("device.set", device="d2", attrs={"year": 2026})
    ids = lambda **wanted: [row["id"] for row in world.do("device.list", **wanted)]  # noqa: E731
    assert ["prod/d2"] == ids(where="attrs.year == 2026")
    assert ["prod/d1", "prod/d2"] == ids(where='older(versions.firmware, "1.10")')
    assert [] == ids(where="attrs.year == 2026", state="retired")
    with pytest.raises(InvalidInput, match=r"no device of prod has attrs\.yaer; known are year"):
        ids(where="attrs.yaer == 2026")
    with pytest.raises(InvalidInput, match="line 1, column 1: there is no 'yaer'"):
        ids(where="yaer == 2026")


def test_a_device_is_added_once_with_hardware_and_tags(world):
    added = world.do("device.add", device="prod/d1", hw="r1", tags=["b", "a", "a"])
    assert ("r1", ["a", "b"], "active") == (added["hw"], added["tags"], added["state"])
    with pytest.raises(Conflict, match="exists already"):
        world.do("device.add", device="prod/d1")


@pytest.mark.parametrize(
    "args",
    [
        {"device": "d1"},
        {"device": "prod/d 1"},
        {"device": "prod/d1", "hw": "r 1"},
        {"device": "prod/d1", "tags": ["a b"]},
    ],
)
def test_a_device_that_cannot_be_is_not_added(world, args):
    with pytest.raises(InvalidInput):
        world.do("device.add", **args)


def test_an_import_is_all_or_nothing_and_names_the_row(world):
    with pytest.raises(InvalidInput, match="row 2: product"):
        world.do("device.import", rows=[{"device": "prod/d1"}, {"device": "pr od/d2"}])
    with pytest.raises(Conflict, match="row 2: device prod/d1 exists"):
        world.do("device.import", rows=[{"device": "prod/d1"}, {"device": "prod/d1"}])
    with pytest.raises(Conflict, match="row 2: label 'x' is taken by prod/d1"):
        world.do("device.import", rows=[{"device": "prod/d1", "label": "x"}, {"device": "prod/d2", "label": "x"}])
    assert [] == world.do("device.list")
    assert {"added": 2} == world.do("device.import", rows=[{"device": "prod/d1", "label": "x"}, {"device": "prod/d2"}])


def test_a_device_is_approved_once(world):
    world = World(enrol=Enrol.APPROVE)
    world.device("d1")
    assert "active" == world.do("device.approve", device="d1")["state"]
    with pytest.raises(Conflict, match="is active, not pending"):
        world.do("device.approve", device="d1")


def test_tags_come_and_go(world):
    world.device("d1")
    assert ["a", "b"] == world.do("device.tag", device="d1", add=["a", "b"])["tags"]
    assert ["b"] == world.do("device.tag", device="d1", remove=["a", "never"])["tags"]
    with pytest.raises(InvalidInput):
        world.do("device.tag", device="d1", add=["a/b"])


def test_attributes_are_set_in_the_order_of_their_names_and_null_takes_one_away(world):
    world.device("d1")
    shown = world.do("device.set", device="d1", attrs={"year": 2026, "batch": "A7"})
    assert [("batch", "A7"), ("year", 2026)] == list(shown["attrs"].items())
    assert {"year": 2026, "lot": -(2**63)} == world.do(
        "device.set", device="d1", attrs={"batch": None, "lot": -(2**63)}
    )["attrs"]
    with pytest.raises(NotFound, match="prod/d1 has no attribute batch"):
        world.do("device.set", device="d1", attrs={"batch": None})


@pytest.mark.parametrize(
    "attrs",
    [
        {"Batch": "x"},
        {"1st": 1},
        {"x" * 33: 1},
        {"x": "y" * 65},
        {"x": "a\nb"},
        {"x": 2**63},
        {"x": -(2**63) - 1},
        {"x": 1.5},
        {"x": True},
        {"x": ["y"]},
        {f"x{number}": 1 for number in range(33)},
    ],
)
def test_attributes_are_few_short_and_of_two_kinds(world, attrs):
    device = world.device("d1")
    with pytest.raises(InvalidInput, match="attribute"):
        world.do("device.set", device="d1", attrs=attrs)
    with pytest.raises(InvalidInput, match="row 1: .*attribute"):
        world.do("device.import", rows=[{"device": "prod/d2", "attrs": attrs}])
    assert {} == device.record.attrs


@pytest.mark.parametrize("tz", ["Europe/Berlinn", "", 2])
def test_the_attribute_tz_is_a_zone_that_there_is(world, tz):
    world.device("d1")
    with pytest.raises(InvalidInput, match="attribute tz: .* is no time zone"):
        world.do("device.set", device="d1", attrs={"tz": tz})
    with pytest.raises(InvalidInput, match="row 1: attribute tz"):
        world.do("device.import", rows=[{"device": "prod/d2", "attrs": {"tz": tz}}])
    assert "Europe/Berlin" == world.do("device.set", device="d1", attrs={"tz": "Europe/Berlin"})["attrs"]["tz"]


def test_attributes_outlive_check_ins(world):
    device = world.device("d1")
    world.do("device.set", device="d1", attrs={"batch": "A7"})
    device.check_in()
    assert {"batch": "A7"} == device.record.attrs


def test_a_successor_keeps_its_own_attributes_and_gets_the_others(world):
    world.device("d1")
    heir = world.device("d2")
    world.do("device.set", device="d1", attrs={"site": "north", "batch": "A7"})
    world.do("device.set", device="d2", attrs={"batch": "B1"})
    world.do("device.replace", device="d1", successor="d2")
    assert {"batch": "B1", "site": "north"} == heir.record.attrs


@pytest.mark.parametrize("label", ["x" * 65, "a\nb", "\x1b[31m"])
def test_a_label_is_short_and_printable(world, label):
    world.device("d1")
    with pytest.raises(InvalidInput):
        world.do("device.rename", device="d1", label=label)


def test_a_label_is_nobody_elses_name(world):
    world.device("d1")
    world.device("d2")
    with pytest.raises(Conflict, match="taken by prod/d2"):
        world.do("device.rename", device="d1", label="d2")
    world.do("device.rename", device="d1", label="")


def test_a_retired_device_lets_go_of_everything(world):
    device = downloading(world)
    shown = world.do("device.retire", device="d1")
    assert ("retired", {}) == (shown["state"], shown["assigned"])
    assert State.CANCELING is device.state
    with pytest.raises(Conflict, match="already retired"):
        world.do("device.retire", device="d1")


def test_a_successor_takes_over_tags_label_and_assignments(world):
    device = confirmed(world)
    world.do("device.tag", device="d1", add=["a"])
    world.do("device.rename", device="d1", label="pump")
    world.jump(60)
    heir = world.device("d2", check_in=False)
    world.do("device.replace", device="d1", successor="d2")
    outputs = heir.check_in()
    assert 1 == len(world.sent(Offer, outputs))
    record = heir.record
    assert (("a",), "pump", device.latest.release) == (record.tags, record.label, record.assigned["firmware"].release)
    assert ("retired", "") == (device.record.state, device.record.label)


def test_where_names_are_unique_no_second_product_gets_one():
    world = World(unique_names=True)
    world.device("d1")
    with pytest.raises(Conflict, match="d1 is registered as prod/d1"):
        world.do("device.add", device="other/d1")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({}, InvalidInput),
        ({"hw": "r2", "successor": "d2"}, InvalidInput),
        ({"hw": "r 2"}, InvalidInput),
        ({"successor": "d1"}, InvalidInput),
        ({"successor": ""}, InvalidInput),
        ({"successor": "gone"}, Conflict),
        ({"successor": "other/d1"}, InvalidInput),
    ],
)
def test_a_replacement_that_cannot_be_changes_nothing(world, args, error):
    device = world.device("d1")
    world.device("gone")
    world.do("device.retire", device="gone")
    before = device.record
    with pytest.raises(error):
        world.do("device.replace", device="d1", **args)
    assert before == device.record


def test_a_device_shows_its_history_and_reports_oldest_cause_first(world):
    device = confirmed(world)
    shown = world.do("device.show", device="d1")
    assert ["opened", "offer", "blocks", "downloaded", "go", "runs_trial", "runs_confirmed"] == [
        step["event"] for step in shown["history"]
    ]
    assert 5 == len(shown["reports"])
    assert [device.latest.id] == [row["id"] for row in shown["deployments"]]
