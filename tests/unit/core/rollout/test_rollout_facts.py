"""What a query may ask of a device, and which keys it asks for in vain."""

import pytest

from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.rollout.facts import NEVER_S, VARIABLES, facts_of, missing_keys, unknown_keys
from ota_bridge.core.values import DeviceId

NOW = 1000.0


def device(**changes):
    return Device(id=DeviceId("prod", "d1"), state=DeviceState.ACTIVE, created_wall=100.0, **changes)


def test_a_device_that_told_nothing_has_every_variable():
    assert {
        "product": "prod",
        "name": "d1",
        "label": "",
        "state": "active",
        "hw": "",
        "tags": [],
        "attrs": {},
        "versions": {},
        "seqs": {},
        "on_trial": False,
        "last_seen_s": NEVER_S,
        "added_s": 900,
        "keyset": -1,
        "proto": 0,
    } == facts_of(device(), NOW)


def test_the_table_names_exactly_the_variables_that_there_are():
    assert list(VARIABLES) == list(facts_of(device(), NOW))


def test_components_tell_versions_seqs_and_trials():
    parts = {
        "firmware": InstalledPart(version="1.0", seq=2**64 - 1),
        "config": InstalledPart(version="7", trial=True),
    }
    facts = facts_of(device(parts=parts), NOW)
    assert ({"firmware": "1.0", "config": "7"}, {"firmware": 2**63 - 1}, True) == (
        facts["versions"],
        facts["seqs"],
        facts["on_trial"],
    )


@pytest.mark.parametrize(("last_wall", "seen_s"), [(1000.0, 0), (990.5, 9), (2000.0, 0), (-1e12, NEVER_S)])
def test_a_report_was_whole_seconds_ago_and_never_in_the_future(last_wall, seen_s):
    assert seen_s == facts_of(device(last_report_wall=last_wall), NOW)["last_seen_s"]


def test_missing_keys_are_those_that_this_device_has_not():
    facts = facts_of(device(attrs={"batch": "x"}), NOW)
    asked = {("attrs", "batch"), ("attrs", "year"), ("versions", "radio")}
    assert ("attrs.year", "versions.radio") == missing_keys(asked, facts)


def test_unknown_keys_are_those_that_no_device_has():
    fleet = [facts_of(device(attrs=attrs), NOW) for attrs in ({"batch": "x"}, {"year": 1})]
    asked = {("attrs", "batch"), ("attrs", "year"), ("attrs", "btach"), ("seqs", "x")}
    assert (("attrs.btach", "seqs.x"), {"attrs": {"batch", "year"}, "seqs": set()}) == unknown_keys(asked, fleet)
    assert ((), {"attrs": {"batch"}}) == unknown_keys({("attrs", "batch")}, fleet)
    assert ((), {}) == unknown_keys(asked, [])
