from dataclasses import replace

import pytest
from contract.store_samples import DEPLOYMENTS, TRANSITIONS, commit, deployment, fill, transition
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.errors import StoreError
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId, release_id

SHARED_STORE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DEV1, DEV2 = DeviceId("prod", "dev1"), DeviceId("prod", "dev2")
R1 = RolloutId("r-000001")


def ids(deployments):
    return [one.id for one in deployments]


@pytest.fixture
def put(store):
    """Puts deployments on top of what they refer to."""
    commit(store, fill)

    def put_all(*records):
        commit(store, lambda unit: [unit.deployments.put(record) for record in records])

    return put_all


@SHARED_STORE
@given(record=DEPLOYMENTS)
def test_any_deployment_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: (fill(unit), unit.deployments.put(record)))

    assert store.read(lambda unit: unit.deployments.get(record.id)) == record


@SHARED_STORE
@given(record=TRANSITIONS)
def test_any_transition_comes_back_as_it_was_recorded(store, record):
    commit(store, lambda unit: (fill(unit), unit.deployments.put(deployment(record.deployment))))
    commit(store, lambda unit: unit.deployments.record(record))

    assert record in store.read(lambda unit: unit.deployments.history(record.deployment))


def test_an_unknown_deployment_is_none_and_has_no_history(store):
    assert store.read(lambda unit: unit.deployments.get(DeploymentId("f" * 12))) is None
    assert store.read(lambda unit: unit.deployments.history(DeploymentId("f" * 12))) == []


@pytest.mark.parametrize("state", State)
def test_open_of_a_device_is_what_can_still_move(store, put, state):
    put(deployment(state=state), deployment("000000000002", device=DEV2))

    assert ids(store.read(lambda unit: unit.deployments.open_of(DEV1))) == (["000000000001"] if state in OPEN else [])


def test_recent_of_a_device_is_what_was_put_last_first_whatever_the_clock_said(store, put):
    put(
        deployment("00000000000c", created_wall=1.0, state=State.FAILED),
        deployment("00000000000b", created_wall=9.0, state=State.CANCELED),
        deployment("00000000000a", created_wall=3.0),
        deployment("00000000000d", created_wall=9.0, device=DEV2),
    )
    put(deployment("00000000000c", created_wall=1.0, state=State.TIMED_OUT))

    recent = store.read(lambda unit: unit.deployments.recent_of(DEV1))
    assert ids(recent) == ["00000000000a", "00000000000b", "00000000000c"]
    assert ids(store.read(lambda unit: unit.deployments.recent_of(DEV1, limit=1))) == ["00000000000a"]


def test_of_a_rollout_are_the_latest_attempts_page_by_page(store, put):
    put(
        deployment("000000000003", latest=False, state=State.FAILED),
        deployment("000000000002", state=State.CONFIRMED),
        deployment("000000000001"),
        deployment("000000000004"),
        deployment("000000000005", rollout=RolloutId("r-000002")),
        deployment("000000000006", rollout=None),
    )

    def page(**arguments):
        return ids(store.read(lambda unit: unit.deployments.of_rollout(R1, **arguments)))

    assert page() == ["000000000001", "000000000002", "000000000004"]
    assert page(open_only=True) == ["000000000001", "000000000004"]
    assert page(after=DeploymentId("000000000001"), limit=1) == ["000000000002"]
    assert page(after=DeploymentId("000000000001"), limit=1, open_only=True) == ["000000000004"]


def test_all_open_goes_page_by_page(store, put):
    put(*(deployment(f"{number:012x}", state=State.TRIAL) for number in (3, 1, 2)), deployment("f" * 12))
    put(deployment("f" * 12, state=State.CONFIRMED))

    first = store.read(lambda unit: unit.deployments.all_open(limit=2))
    assert ids(first) == ["000000000001", "000000000002"]
    assert ids(store.read(lambda unit: unit.deployments.all_open(after=first[-1].id))) == ["000000000003"]


def test_due_are_the_open_ones_whose_time_has_come_earliest_first(store, put):
    put(
        deployment("00000000000a", due_wall=30.0),
        deployment("00000000000b", due_wall=10.0),
        deployment("00000000000c", due_wall=20.0),
        deployment("00000000000d", due_wall=5.0, state=State.CONFIRMED),
        deployment("00000000000e"),
    )

    assert ids(store.read(lambda unit: unit.deployments.due(20.0))) == ["00000000000b", "00000000000c"]
    assert ids(store.read(lambda unit: unit.deployments.due(20.0, limit=1))) == ["00000000000b"]
    assert store.read(lambda unit: unit.deployments.next_due_wall()) == 10.0


def test_nothing_open_has_no_next_due(store, put):
    put(deployment(due_wall=5.0, state=State.CONFIRMED))

    assert store.read(lambda unit: unit.deployments.next_due_wall()) is None


def test_an_attempt_that_is_no_longer_the_latest_is_not_counted_any_more(store, put):
    put(first := deployment("00000000000a", state=State.FAILED))
    put(replace(first, latest=False))
    put(deployment("00000000000b", state=State.QUEUED))
    assert {State.QUEUED: 1} == store.read(lambda unit: unit.deployments.counts(R1))


def test_counts_leave_out_states_that_none_is_in(store, put):
    put(
        deployment("00000000000a", state=State.TRIAL),
        deployment("00000000000b", state=State.TRIAL),
        deployment("00000000000c", state=State.FAILED),
        deployment("00000000000d", state=State.CANCELED, latest=False),
    )

    assert store.read(lambda unit: unit.deployments.counts(R1)) == {State.TRIAL: 2, State.FAILED: 1}
    assert store.read(lambda unit: unit.deployments.counts(RolloutId("r-000002"))) == {}


def test_history_is_in_the_order_of_recording_whatever_the_clock_said(store, put):
    put(deployment())
    records = [transition(wall=wall, cause=cause) for wall, cause in ((2.0, "a"), (1.0, "b"), (2.0, "c"))]
    commit(store, lambda unit: [unit.deployments.record(record) for record in records])

    history = store.read(lambda unit: unit.deployments.history(DeploymentId("000000000001")))
    assert [one.cause for one in history] == ["a", "b", "c"]


def test_shift_due_moves_what_is_due_and_what_waits_to_retry(store, put):
    put(deployment("00000000000a", due_wall=10.0, retry_wall=20.0), deployment("00000000000b", retry_wall=1.0))
    put(deployment("00000000000c"))

    commit(store, lambda unit: unit.deployments.shift_due(-3.5))

    found = store.read(lambda unit: unit.deployments.all_open())
    assert [(one.due_wall, one.retry_wall) for one in found] == [(6.5, 16.5), (None, -2.5), (None, None)]


@pytest.mark.parametrize(
    "dangling",
    [
        {"device": DeviceId("prod", "nobody")},
        {"release": release_id("prod", "9")},
        {"rollout": RolloutId("r-ffffff")},
    ],
)
def test_a_deployment_that_refers_to_nothing_is_refused(store, put, dangling):
    with pytest.raises(StoreError):
        put(deployment(**dangling))
    assert store.read(lambda unit: unit.deployments.all_open()) == []


def test_a_transition_of_no_deployment_is_refused(store):
    with pytest.raises(StoreError):
        commit(store, lambda unit: unit.deployments.record(transition()))
