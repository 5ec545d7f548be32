"""What is kept of one of Tencent's devices: how it is written, and what it decides."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.conversation import MEMORY_MAX_BYTES
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.tencent_memory import CHILDREN_MAX, Kept, Notice

ECHOES = {"echo": "-5", "echoed": frozenset({"-2", "-3"})}


def test_what_is_written_is_read_again():
    kept = Kept(
        gateway="p/g",
        children=("p/a", "p/b"),
        notices={"0123": Notice(wall=1.5, in_vain=2, has_begun=True, percent=40)},
        done="0123",
        failed=("2.0.0", "-2", 3.5),
        claims=("2.0.0", 1),
    )
    assert kept == Kept.read(kept.write())


def test_nothing_is_nothing():
    assert b"" == Kept().write()
    assert Kept() == Kept.read(b"")


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"7", b'{"notices":[]}', b'{"notices":{"a":{"x":1}}}', b'{"claims":[]}', b'{"failed":[1]}', b"\xff"],
)
def test_what_cannot_be_read_is_as_good_as_nothing(data):
    assert Kept() == Kept.read(data)


@given(st.binary(max_size=60))
def test_reading_never_fails(data):
    Kept.read(data)


def test_the_wait_for_another_notice_doubles_up_to_an_hour():
    kept, wall, waits = Kept(), 0.0, []
    for _ in range(40):
        kept = kept.noticed("d", wall)
        waits.append(kept.notices["d"].again_wall(15, wall) - wall)
        wall += waits[-1]
    assert [15, 30, 60, 120] == waits[:4]
    assert all(before <= after for before, after in pairwise(waits))
    assert 3600 == waits[-1]


def test_a_clock_that_is_set_back_makes_no_wait_longer():
    assert 115.0 == Notice(wall=86_400.0, in_vain=1).again_wall(15, 100.0)


def test_a_sign_of_life_ends_the_series():
    kept = Kept().noticed("d", 0.0).noticed("d", 15.0).alive("d", 20.0, 0, 15)
    assert (35.0, 0, True) == (
        kept.notices["d"].again_wall(15, 20.0),
        kept.notices["d"].in_vain,
        kept.notices["d"].has_begun,
    )


def test_signs_of_life_are_written_every_few_seconds_only():
    kept = Kept().alive("d", 100.0, None, 15)
    assert kept is kept.alive("d", 104.9, None, 15)
    assert 105.0 == kept.alive("d", 105.0, None, 15).notices["d"].wall
    assert 101.0 == kept.alive("d", 101.0, None, 3).notices["d"].wall
    assert 50.0 == kept.alive("d", 50.0, None, 15).notices["d"].wall, "the clock was set back"


def test_the_highest_percent_is_kept():
    kept = Kept().alive("d", 0.0, 40, 15).alive("d", 1.0, 7, 15).alive("d", 2.0, None, 15)
    assert 40 == kept.notices["d"].percent


def test_what_has_ended_is_forgotten():
    kept = Kept(done="a").noticed("a", 0.0).noticed("b", 0.0)
    assert Kept().noticed("b", 0.0) == kept.only(frozenset({"b"}))
    assert kept is kept.only(frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("before", "version", "code", "wall", "expected"),
    [
        (None, "2", "-5", 0.0, False),
        (("2", "-2", 0.0), "2", "-5", 0.0, True),
        (("2", "-2", 0.0), "2", "-5", 1000.0, True),
        (("2", "-4", 0.0), "2", "-5", 0.0, False),
        (("2", "-2", 0.0), "3", "-5", 0.0, False),
        (("2", "-5", 0.0), "2", "-5", 2.0, True),
        (("2", "-5", 0.0), "2", "-5", 4.0, False),
        (("2", "-5", 9.0), "2", "-5", 8.0, False),
        (("2", "-5", 0.0), "2", "-2", 0.0, False),
    ],
)
def test_which_failure_was_told_already(before, version, code, wall, expected):
    assert expected is Kept(failed=before).is_repeat(version, code, wall, **ECHOES)


def test_two_claims_of_a_version_are_believed_until_it_is_reported():
    kept, found = Kept(), []
    for _ in range(3):
        kept, is_believed = kept.claimed("2")
        found.append(is_believed)
    assert [True, True, False] == found
    assert kept.claimed("3")[1]
    assert kept.runs("2").claimed("2")[1]
    assert not kept.runs("1").claimed("2")[1]


def test_a_gateways_children_are_bounded_and_the_memory_with_them():
    devices = tuple(DeviceId("p" * 64, f"{index:064}") for index in range(2 * CHILDREN_MAX))
    kept = Kept().moved(devices, are_online=True)
    assert CHILDREN_MAX == len(kept.children)
    assert len(kept.write()) < MEMORY_MAX_BYTES
    assert () == kept.moved(devices, are_online=False).children
    assert json.loads(kept.write())["children"][-1] == str(devices[-1])
