import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.rollout.gates import Gate, next_admission_wall, stage_verdict, tally, wanted
from ota_bridge.core.rollout.plan import FAILURES, Action, FailureGate, Pace, Stage, SuccessGate

WALL = 1000.0
FIVE = Stage(devices=5, success=SuccessGate(share=0.8, min_count=3))


def counts(*, stage=0, **numbers):
    """`CONFIRMED=3, QUEUED_after_FAILED=1`."""
    found = {}
    for name, number in numbers.items():
        state, _, before = name.partition("_after_")
        found[stage, State(state), State(before) if before else None] = number
    return found


def verdict(stage, members=5, met=None, wall=WALL, **numbers):
    return stage_verdict(stage, tally(counts(**numbers), 0, members), met, wall)


@pytest.mark.parametrize(
    ("numbers", "gate"),
    [
        ({}, Gate.NOT_MET),
        ({"CONFIRMED": 3}, Gate.NOT_MET),
        ({"CONFIRMED": 4}, Gate.MET),
        ({"CONFIRMED": 3, "CANCELED": 2}, Gate.MET),
        ({"CONFIRMED": 2, "CANCELED": 2}, Gate.NOT_MET),
        ({"DOWNLOADED": 5, "INSTALLING": 0}, Gate.NOT_MET),
        ({"TRIAL": 5}, Gate.NOT_MET),
    ],
)
def test_only_confirmed_devices_open_a_gate(numbers, gate):
    assert gate is verdict(FIVE, **numbers).gate


def test_a_gate_says_what_it_waits_for():
    assert "3 of 4 confirmed" == verdict(FIVE, CONFIRMED=3, QUEUED=2).sentence


def test_soaking_begins_when_the_counts_are_enough():
    stage = Stage(devices=5, success=SuccessGate(soak_s=60))
    first = verdict(stage, CONFIRMED=5)
    assert (Gate.SOAKING, WALL + 60) == (first.gate, first.until_wall)
    assert Gate.SOAKING is verdict(stage, CONFIRMED=5, met=WALL - 59.9).gate
    assert Gate.MET is verdict(stage, CONFIRMED=5, met=WALL - 60).gate


@pytest.mark.parametrize(
    ("gate", "numbers", "failed"),
    [
        (FailureGate(count=2), {"FAILED": 1}, False),
        (FailureGate(count=2), {"FAILED": 1, "TIMED_OUT": 1}, True),
        (FailureGate(count=2, kinds=(State.FAILED,)), {"FAILED": 1, "TIMED_OUT": 9}, False),
        (FailureGate(count=1), {"QUEUED_after_ROLLED_BACK": 1}, True),
        (FailureGate(count=1), {"CONFIRMED_after_ROLLED_BACK": 1}, False),
        (FailureGate(count=1), {"QUEUED_after_CANCELED": 1, "CANCELED": 3}, False),
        (FailureGate(share=0.5), {"FAILED": 1, "CONFIRMED": 1}, True),
        (FailureGate(share=0.5), {"FAILED": 1, "CONFIRMED": 2}, False),
        (FailureGate(share=0.5, min_executed=3), {"FAILED": 2}, False),
        (FailureGate(share=0.5, min_executed=3), {"FAILED": 2, "CONFIRMED": 1}, True),
        (FailureGate(share=1.0), {"OFFERED": 5}, False),
    ],
)
def test_a_stage_fails_by_what_has_ended(gate, numbers, failed):
    found = verdict(Stage(failure=gate), members=10, **numbers)
    assert failed is (found.gate is Gate.FAILED)
    assert (Action.PAUSE if failed else None) is found.action


def test_a_failure_that_is_forgiven_makes_the_share_of_the_others_no_smaller():
    stage = Stage(failure=FailureGate(share=0.5))
    found = tally(counts(CONFIRMED=2, FAILED=4), 0, 10)
    assert Gate.FAILED is stage_verdict(stage, found, None, WALL, forgiven=2).gate
    assert Gate.FAILED is not stage_verdict(stage, found, None, WALL, forgiven=3).gate


def test_failure_is_looked_at_before_success():
    stage = Stage(success=SuccessGate(share=0.5), failure=FailureGate(count=1))
    assert Gate.FAILED is verdict(stage, members=4, CONFIRMED=3, FAILED=1).gate


def test_a_stage_without_devices_waits_for_nothing():
    assert Gate.MET is verdict(FIVE, members=0).gate


def test_a_stage_that_has_lost_all_its_devices_has_proved_nothing():
    found = verdict(Stage(success=SuccessGate(share=0.5)), members=2, CANCELED=2)
    assert (Gate.NOT_MET, "0 of 1 confirmed, 2 canceled") == (found.gate, found.sentence)


def test_a_stage_that_waits_for_nobody_does_not_wait_because_somebody_was_taken_out():
    assert Gate.MET is verdict(Stage(success=SuccessGate(share=0.0)), members=2, CANCELED=1).gate


def test_a_device_that_is_taken_out_lowers_the_share_and_no_minimum():
    assert Gate.MET is verdict(Stage(success=SuccessGate(share=1.0)), members=4, CONFIRMED=3, CANCELED=1).gate
    found = verdict(Stage(success=SuccessGate(share=1.0, min_count=4)), members=4, CONFIRMED=3, CANCELED=1)
    assert (Gate.NOT_MET, "3 of 4 confirmed, 1 canceled") == (found.gate, found.sentence)


def test_a_step_on_the_way_is_no_success_and_may_be_a_failure():
    stage = Stage(success=SuccessGate(share=0.5), failure=FailureGate(count=2))
    step = {(~0, State.CONFIRMED, None): 3, (0, State.CONFIRMED, None): 1}
    assert Gate.NOT_MET is stage_verdict(stage, tally(step, 0, 4), None, WALL).gate
    assert (1, 3) == (tally(step, 0, 4).confirmed, tally(step, 0, 4).open)
    assert Gate.FAILED is stage_verdict(stage, tally({(~0, State.FAILED, None): 2}, 0, 4), None, WALL).gate


def test_other_stages_are_not_counted():
    found = tally({**counts(stage=1, CONFIRMED=9), **counts(stage=0, CONFIRMED=1)}, 0, 5)
    assert (1, 5) == (found.confirmed, found.size)


@given(
    st.dictionaries(
        st.tuples(st.just(0), st.sampled_from(list(State)), st.none() | st.sampled_from(FAILURES)),
        st.integers(0, 50),
        max_size=20,
    ),
    st.integers(0, 100),
    st.floats(0, 1),
    st.integers(0, 10),
)
def test_what_is_wanted_can_be_reached(numbers, members, share, least):
    found = tally(numbers, 0, members)
    stage = Stage(success=SuccessGate(share=share, min_count=least))
    assert 0 <= wanted(stage, found) <= found.size + found.canceled
    if not found.canceled:
        assert wanted(stage, found) <= found.size
    assert found.open == sum(n for (_, state, _), n in numbers.items() if state in OPEN)
    assert found.executed <= found.size


def test_the_pace_spaces_admissions():
    assert 1006.0 == next_admission_wall(Pace(per_min=10), WALL, 0, 100)
    assert 1000.6 == pytest.approx(next_admission_wall(Pace(over_s=60), WALL, 0, 100))
