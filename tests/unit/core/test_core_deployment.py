"""The state machine over the whole product of states and events, and what a check-in means, written out."""

from dataclasses import replace
from itertools import product

import pytest

from ota_bridge.core.deployment import (
    CHECK_IN,
    FETCHING,
    OPEN,
    TERMINAL,
    TRANSITIONS,
    Deployment,
    DeploymentEvent,
    Installed,
    Meaning,
    State,
)
from ota_bridge.core.errors import IllegalTransition
from ota_bridge.core.messages import BlockActivity
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId

E, S = DeploymentEvent, State


def deployment(state=State.QUEUED, **changes):
    plain = Deployment(
        id=DeploymentId("0123456789ab"),
        device=DeviceId("prod", "d1"),
        component="firmware",
        release=ReleaseId("prod/1.1.0"),
        rollout=RolloutId("r-000001"),
        attempt=1,
        state=state,
        cause="because",
        created_wall=1.0,
        changed_wall=2.0,
        size_bytes=1000,
        old_version="1.0.0",
    )
    return replace(plain, **changes)


# What each open state knows. All that is not here must be illegal.
EXPECTED = {
    S.QUEUED: "offer:OFFERED blocks:DOWNLOADING cancel:CANCELED",
    S.OFFERED: "offer:OFFERED defer:DEFERRED blocks:DOWNLOADING downloading:DOWNLOADING downloaded:DOWNLOADED"
    " go:INSTALLING fail:FAILED reject:REJECTED cancel:CANCELING canceled:CANCELED",
    S.DEFERRED: "offer:OFFERED defer:DEFERRED blocks:DOWNLOADING downloading:DOWNLOADING downloaded:DOWNLOADED"
    " go:INSTALLING fail:FAILED reject:REJECTED cancel:CANCELING canceled:CANCELED",
    S.DOWNLOADING: "offer:DOWNLOADING defer:DEFERRED blocks:DOWNLOADING downloading:DOWNLOADING downloaded:DOWNLOADED"
    " go:INSTALLING fail:FAILED reject:REJECTED cancel:CANCELING canceled:CANCELED",
    S.DOWNLOADED: "offer:DOWNLOADED defer:DEFERRED blocks:DOWNLOADED downloading:DOWNLOADING downloaded:DOWNLOADED"
    " go:INSTALLING fail:FAILED reject:REJECTED cancel:CANCELING canceled:CANCELED",
    S.INSTALLING: "go:INSTALLING fail:FAILED rolled_back:ROLLED_BACK cancel:CANCELING runs_old:ROLLED_BACK",
    S.TRIAL: "fail:FAILED rolled_back:ROLLED_BACK runs_old:ROLLED_BACK",
    S.CANCELING: "fail:FAILED reject:CANCELED rolled_back:ROLLED_BACK cancel:CANCELING canceled:CANCELED"
    " too_late:INSTALLING runs_old:CANCELED",
}
ALWAYS = " time_out:TIMED_OUT runs_trial:TRIAL runs_confirmed:CONFIRMED runs_newer:CANCELED"


def expected_target(state, event):
    rows = (EXPECTED[state] + ALWAYS).split() if state in EXPECTED else []
    return next((State(row.partition(":")[2]) for row in rows if row.partition(":")[0] == event), None)


@pytest.mark.parametrize(("state", "event"), list(product(State, DeploymentEvent)))
def test_each_pair_does_what_the_table_says_or_raises_and_changes_nothing(state, event):
    before = deployment(state)
    kept = replace(before)
    target = expected_target(state, event)
    if target is None:
        with pytest.raises(IllegalTransition):
            before.moved(event, "cause", 9.0)
        assert not before.can(event)
    else:
        after = before.moved(event, "cause", 9.0)
        assert (target, "cause") == (after.state, after.cause)
        assert before.can(event)
    assert kept == before


def test_terminal_states_know_no_event():
    assert {state: {} for state in TERMINAL} == {state: TRANSITIONS[state] for state in TERMINAL}


def test_every_state_is_in_the_table_and_is_either_open_or_terminal():
    assert set(State) == set(TRANSITIONS) == OPEN | TERMINAL
    assert frozenset() == OPEN & TERMINAL
    assert FETCHING < OPEN


def reachable(start):
    found, edge = {start}, [start]
    while edge:
        for target in TRANSITIONS[edge.pop()].values():
            if target not in found:
                found.add(target)
                edge.append(target)
    return found


def test_every_state_can_be_reached_from_queued():
    assert set(State) == reachable(State.QUEUED)


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_can_end_and_by_time_alone(state):
    assert State.TIMED_OUT is TRANSITIONS[state][DeploymentEvent.TIME_OUT]
    assert TERMINAL & reachable(state)


@pytest.mark.parametrize("event", list(DeploymentEvent))
def test_every_event_is_known_to_a_state(event):
    assert any(event in row for row in TRANSITIONS.values())


# native-protocol §4, word for word, and the device that is past it: rows are what is installed, columns (same boot, new).
FETCHES = ("QUEUED", "OFFERED", "DEFERRED", "DOWNLOADING", "DOWNLOADED")
ALL_OPEN = (*FETCHES, "INSTALLING", "TRIAL", "CANCELING")
PROTOCOL_4 = {
    **{(Installed.OFFERED_TRIAL, state): (E.RUNS_TRIAL, E.RUNS_TRIAL) for state in ALL_OPEN},
    **{(Installed.OFFERED, state): (E.RUNS_CONFIRMED, E.RUNS_CONFIRMED) for state in ALL_OPEN},
    **{(Installed.NEWER, state): (E.RUNS_NEWER, E.RUNS_NEWER) for state in ALL_OPEN},
    **{(Installed.OLD, state): (Meaning.OFFER_AGAIN, Meaning.OFFER_AGAIN) for state in FETCHES},
    (Installed.OLD, "INSTALLING"): (Meaning.NOTHING, E.RUNS_OLD),
    (Installed.OLD, "TRIAL"): (E.RUNS_OLD, E.RUNS_OLD),
    (Installed.OLD, "CANCELING"): (Meaning.CANCEL_AGAIN, E.RUNS_OLD),
}


def test_what_a_check_in_means_is_what_the_protocol_says():
    expected = {
        (installed, State(state), new_boot): meanings[new_boot]
        for (installed, state), meanings in PROTOCOL_4.items()
        for new_boot in (False, True)
    }
    assert expected == dict(CHECK_IN)


def test_what_a_check_in_means_is_complete():
    assert set(product(Installed, OPEN, (False, True))) == set(CHECK_IN)


@pytest.mark.parametrize(("key", "meaning"), list(CHECK_IN.items()))
def test_every_event_that_a_check_in_asks_for_is_legal(key, meaning):
    _, state, _ = key
    if isinstance(meaning, DeploymentEvent):
        assert meaning in TRANSITIONS[state]


@pytest.mark.parametrize(
    ("state", "target"),
    [("INSTALLING", "ROLLED_BACK"), ("TRIAL", "ROLLED_BACK"), ("CANCELING", "CANCELED")],
)
def test_an_old_image_in_a_new_boot_ends_what_was_under_way(state, target):
    event = CHECK_IN[Installed.OLD, State(state), True]
    assert State(target) is TRANSITIONS[State(state)][event]


def test_staying_in_a_state_does_not_start_its_time_again():
    assert 2.0 == deployment(State.OFFERED).moved(E.OFFER, "again", 9.0).changed_wall
    assert 9.0 == deployment(State.QUEUED).moved(E.OFFER, "offered", 9.0).changed_wall


def test_a_move_ends_a_stall():
    assert not deployment(State.DOWNLOADING, stalled=True).moved(E.DOWNLOADED, "all", 9.0).stalled


def activity(**changes):
    plain = BlockActivity(
        device=DeviceId("prod", "d1"),
        deployment=DeploymentId("0123456789ab"),
        wall=7.0,
        bytes_sent=100,
        blocks_sent=2,
        requests=1,
        high_water_bytes=500,
    )
    return replace(plain, **changes)


def test_activity_adds_up_and_the_position_never_goes_back():
    seen = deployment(State.DOWNLOADING).with_activity(activity())
    seen = seen.with_activity(activity(wall=6.0, high_water_bytes=300))
    assert (7.0, 500, 200, 4, 2) == (
        seen.last_block_wall,
        seen.high_water_bytes,
        seen.bytes_sent,
        seen.blocks_sent,
        seen.requests,
    )
    assert seen.has_begun


def test_a_step_of_the_clock_moves_all_that_is_measured_from():
    before = deployment(
        due_wall=1.0, offered_wall=2.0, retry_wall=3.0, claimed_wall=4.0, last_block_wall=5.0, changed_wall=6.0
    )
    after = before.shifted(100.0)
    assert (101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 1.0) == (
        after.due_wall,
        after.offered_wall,
        after.retry_wall,
        after.claimed_wall,
        after.last_block_wall,
        after.changed_wall,
        after.created_wall,
    )
    assert deployment(changed_wall=7.0) == deployment().shifted(5.0)
