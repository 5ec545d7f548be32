"""What is kept of executions, and how deployments look in the protocol's eyes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.dialects.test_dialect_aws_answers import UPDATE

from ota_bridge.core.conversation import MEMORY_MAX_BYTES, Standing
from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.values import DeploymentId, DeviceId
from ota_bridge.dialects.aws_executions import ENDED_KEPT, Execution, Ledger, Record, find, pack, pending, unpack
from ota_bridge.dialects.aws_requests import DETAILS_MAX_BYTES, Status

DEVICE = DeviceId("prod", "dev1")
IDS = [f"00000000000{number}" for number in range(10)]


def update(number, **changes):
    return replace(UPDATE, id=DeploymentId(IDS[number]), **changes)


def standing(*updates, ended=()):
    return Standing(device=DEVICE, wall=1e6, is_known=True, parts={}, updates=updates, ended=ended)


@pytest.mark.parametrize(
    ("state", "begun", "expected"),
    [
        (State.OFFERED, 0, Status.QUEUED),
        (State.DOWNLOADING, 0, Status.QUEUED),
        (State.OFFERED, 5, Status.IN_PROGRESS),
        (State.TRIAL, 5, Status.IN_PROGRESS),
        (State.CANCELING, 5, Status.CANCELED),
        (State.CONFIRMED, 5, Status.SUCCEEDED),
        (State.ROLLED_BACK, 5, Status.FAILED),
        (State.FAILED, 0, Status.FAILED),
        (State.REJECTED, 5, Status.REJECTED),
        (State.TIMED_OUT, 5, Status.TIMED_OUT),
        (State.CANCELED, 5, Status.CANCELED),
    ],
)
def test_a_status_is_what_the_device_has_done(state, begun, expected):
    one = Execution(update=update(1, state=state), record=Record(begun_s=begun))
    assert expected is one.status
    assert (expected not in {Status.QUEUED, Status.IN_PROGRESS}) is one.is_terminal


def test_every_state_has_a_status():
    for state in State:
        one = Execution(update=update(1, state=state), record=Record())
        assert (state in OPEN and state is not State.CANCELING) is not one.is_terminal


def test_what_ran_past_its_own_timer_is_timed_out():
    one = Execution(update=update(1, state=State.FAILED), record=Record(is_overdue=True))
    assert Status.TIMED_OUT is one.status


def test_what_is_in_progress_comes_first_and_then_what_has_waited_longest():
    ledger = Ledger(records={IDS[3]: Record(begun_s=5)})
    updates = [update(1, created_wall=30.0), update(2, created_wall=10.0), update(3, created_wall=40.0)]
    found = pending(standing(*updates), ledger)
    assert [IDS[3], IDS[2], IDS[1]] == [one.update.id for one in found]
    assert ["AFR_OTA-" + IDS[3]] == [one.job_id for one in found[:1]]


def test_a_pause_hides_what_has_not_begun():
    paused = [update(1, is_paused=True), update(2, is_paused=True), update(3, state=State.CANCELING)]
    found = pending(standing(*paused), Ledger(records={IDS[2]: Record(begun_s=5)}))
    assert [IDS[2]] == [one.update.id for one in found]


def test_a_job_is_found_by_its_id_open_or_ended_and_nothing_else_is():
    here = standing(update(1), ended=[update(2, state=State.CONFIRMED)])
    assert Status.QUEUED is find(here, Ledger(), "AFR_OTA-" + IDS[1]).status
    assert Status.SUCCEEDED is find(here, Ledger(), "AFR_OTA-" + IDS[2]).status
    assert find(here, Ledger(), "AFR_OTA-" + IDS[3]) is None
    assert find(here, Ledger(), IDS[1]) is None


def test_what_nobody_will_ask_for_is_forgotten():
    ended = [update(number, state=State.FAILED) for number in range(1, 9)]
    ledger = Ledger(records={name: Record(version=2) for name in IDS})
    kept = ledger.pruned(standing(update(0), ended=ended)).records
    assert {*IDS[: ENDED_KEPT + 1]} == set(kept)


TEXT = st.text(max_size=12)
RECORDS = st.builds(
    Record,
    version=st.integers(1, 2**32),
    begun_s=st.integers(0, 2**40),
    updated_s=st.integers(0, 2**40),
    details=st.dictionaries(TEXT, TEXT, max_size=3),
    step_ends_s=st.integers(0, 2**40),
    is_overdue=st.booleans(),
)


@given(
    st.builds(Ledger, first=TEXT, listed=st.lists(TEXT).map(tuple), records=st.dictionaries(TEXT, RECORDS, max_size=3))
)
def test_a_ledger_comes_back_as_it_was_kept(ledger):
    assert ledger == unpack(pack(ledger))


def test_the_largest_ledger_can_be_kept():
    details = {f"key-{number}": "ä" * (DETAILS_MAX_BYTES // 10 // 2 - 3) for number in range(10)}
    sizes = sum(len(key) + len(value.encode()) for key, value in details.items())
    assert DETAILS_MAX_BYTES - 100 < sizes <= DETAILS_MAX_BYTES
    record = Record(version=2**32, begun_s=2**31, updated_s=2**31, details=details, step_ends_s=2**31, is_overdue=True)
    few = {"reason": "x" * 1000}
    records = {IDS[0]: record, **{name: replace(record, details=few) for name in IDS[1 : ENDED_KEPT + 1]}}
    assert len(pack(Ledger(first=IDS[0], listed=(IDS[0],), records=records))) <= MEMORY_MAX_BYTES


def test_nothing_kept_is_an_empty_ledger():
    assert Ledger() == unpack(b"")
