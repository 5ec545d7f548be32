"""Devices: what a check-in changes, hardware ids, approval, retirement, and how fast they may appear."""

from dataclasses import replace

import pytest
from core_world import facts_of, image_of

from ota_bridge.core import fleet
from ota_bridge.core.errors import Conflict
from ota_bridge.core.fleet import Assignment, CreationLimit, Device, DeviceState, ReportLimit, runs
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, ReportKey
from ota_bridge.core.values import DeviceId, ReleaseId

ID = DeviceId("prod", "d1")


def device(**changes):
    return replace(Device(id=ID, state=DeviceState.ACTIVE, created_wall=1.0), **changes)


def check_in(**changes):
    plain = CheckIn(
        device=ID,
        dialect="native",
        encoding=Encoding.MSGPACK,
        key=ReportKey(boot=7, seq=1, content=b"x" * 8),
        parts={"firmware": InstalledPart(version="1.0.0")},
        proto=1,
        hw="r1",
        nonce=bytes(16),
    )
    return replace(plain, **changes)


def test_a_check_in_is_the_truth_about_what_runs():
    after = device().checked_in(check_in(have=((b"12345678", 9),), max_block=64), 5.0)
    assert ({"firmware": InstalledPart(version="1.0.0")}, 7, bytes(16), 64, 5.0) == (
        after.parts,
        after.boot,
        after.nonce,
        after.max_block,
        after.last_report_wall,
    )


def test_a_check_in_that_announces_the_next_sets_when_silence_begins():
    assert 3605.0 == device().checked_in(check_in(next_s=3600), 5.0).next_check_in_wall
    assert device(next_check_in_wall=9.0).checked_in(check_in(), 5.0).next_check_in_wall is None


def test_the_first_hardware_id_is_registered():
    after = device().checked_in(check_in(), 5.0)
    assert ("r1", False) == (after.hw, after.has_hw_conflict)


def test_another_hardware_id_stands_beside_the_registered_one_until_it_is_gone():
    after = device(hw="r1").checked_in(check_in(hw="r2"), 5.0)
    assert ("r1", "r2", True) == (after.hw, after.hw_reported, after.has_hw_conflict)
    assert not after.checked_in(check_in(), 6.0).has_hw_conflict


def test_an_assignment_is_given_replaced_and_taken_away():
    first = Assignment(release=ReleaseId("prod/1.1.0"), rollout=None)
    given = device().assign("firmware", first).assign("config", first)
    assert {"firmware": first, "config": first} == given.assigned
    assert {"config": first} == given.assign("firmware", None).assigned


def test_only_a_pending_device_can_be_approved():
    assert DeviceState.ACTIVE is device(state=DeviceState.PENDING).approved().state
    with pytest.raises(Conflict):
        device().approved()


def test_a_device_is_retired_once_and_is_assigned_nothing_then():
    held = device().assign("firmware", Assignment(release=ReleaseId("prod/1.1.0"), rollout=None))
    retired = held.retired()
    assert (DeviceState.RETIRED, {}) == (retired.state, retired.assigned)
    with pytest.raises(Conflict):
        retired.retired()


FACTS = facts_of()


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (None, False),
        (InstalledPart(version="1.1.0"), True),
        (InstalledPart(version="1.0.0"), False),
        (InstalledPart(version="1.0.0", digest8=FACTS.sha256[:8]), True),
        (InstalledPart(version="1.1.0", digest8=facts_of(image=image_of("x")).sha256[:8]), False),
    ],
)
def test_an_image_is_known_by_its_digest_where_the_device_knows_it_else_by_its_version(installed, expected):
    assert expected is runs(installed, version="1.1.0", image_sha256=FACTS.sha256)


def test_the_creation_limit_lets_a_burst_through_and_then_its_rate():
    limit = CreationLimit(per_s=2, burst=3)
    assert [True, True, True, False] == [limit.allow(10.0) for _ in range(4)]
    assert [False, True, False] == [limit.allow(mono) for mono in (10.4, 10.5, 10.6)]
    assert [True, True, True, False] == [limit.allow(100.0) for _ in range(4)]


def test_reports_of_each_topic_keep_to_their_own_rate():
    limit = ReportLimit(per_s=10.0, burst=5)
    assert [True] * 5 + [False] * 3 == [limit.allow("a", 1.0) for _ in range(8)]
    assert limit.allow("b", 1.0)
    assert [limit.allow("a", 1.0 + at / 20) for at in range(1, 9)] == [False, True] * 4
    assert [True] * 5 + [False] == [limit.allow("a", 60.0) for _ in range(6)]


def test_what_was_dropped_is_told_once():
    limit = ReportLimit(per_s=1.0, burst=1)
    for topic in ("a", "a", "a", "b", "c", "c"):
        limit.allow(topic, 1.0)
    assert {"a": 2, "c": 1} == limit.dropped()
    assert {} == limit.dropped()


def test_a_topic_that_names_no_device_takes_no_memory():
    limit = ReportLimit(per_s=1.0, burst=1)
    assert all(limit.allow("x" * 257, 1.0) for _ in range(9))
    assert limit == ReportLimit(per_s=1.0, burst=1)


def test_quiet_topics_are_forgotten_before_busy_ones(monkeypatch):
    monkeypatch.setattr(fleet, "HEARD_MAX", 10)
    limit = ReportLimit(per_s=1.0, burst=3)
    for topic in ("busy", "busy", "busy", *map(str, range(9))):
        assert limit.allow(topic, 100.0)
    assert limit.allow("new", 102.0)
    assert {"busy", "new"} == set(limit._ready_mono)


def test_a_flood_from_more_topics_than_are_remembered_begins_anew(monkeypatch):
    monkeypatch.setattr(fleet, "HEARD_MAX", 10)
    limit = ReportLimit(per_s=1.0, burst=1)
    assert all(limit.allow(f"topic {number}", 1.0) for number in range(1_000))
    assert len(limit._ready_mono) <= 10
