"""What is compacted: finished deployments keep what decisions are made of, pruned reports what tells a repeat."""

from collections import Counter
from dataclasses import replace

import pytest
from contract.store_samples import DEPLOYMENTS, REPORTS, U64_MAX, commit, deployment, fill, report, transition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ota_bridge.core.deployment import TERMINAL, State
from ota_bridge.core.errors import StoreError
from ota_bridge.core.values import DeviceId, RolloutId
from ota_bridge.store.old_keys import BOOTS_KEPT, KEYS_KEPT

SHARED_STORE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DEV1, DEV2 = DeviceId("prod", "dev1"), DeviceId("prod", "dev2")
R1 = RolloutId("r-000001")
LATER = 100.0


def ids(deployments):
    return [one.id for one in deployments]


def number(count):
    return f"{count:012x}"


@pytest.fixture
def put(store):
    """Puts deployments on top of what they refer to."""
    commit(store, fill)

    def put_all(*records):
        commit(store, lambda unit: [unit.deployments.put(record) for record in records])

    return put_all


def compact(store, device=DEV1, before_wall=LATER, **options):
    return commit(store, lambda unit: unit.deployments.compact(device, before_wall, **options))


def finished(count, **changes):
    return deployment(number(count), **{"state": State.CONFIRMED, "attempt": count, "latest": False} | changes)


# --- deployments -----------------------------------------------------------------------------------------------------


@SHARED_STORE
@given(record=DEPLOYMENTS.filter(lambda one: one.state in TERMINAL))
def test_any_finished_deployment_keeps_what_compacted_says(store, record):
    record = replace(record, changed_wall=min(record.changed_wall, 99.0))
    known = lambda unit: unit.deployments.get(record.id)  # noqa: E731
    commit(store, lambda unit: fill(unit))
    if store.read(known) is None:
        commit(store, lambda unit: unit.deployments.put(record))
        compact(store)

        assert store.read(known) == record.compacted()


def test_it_loses_its_transitions_and_is_found_by_id_by_device_and_by_rollout(store, put):
    put(finished(1, latest=True))
    commit(store, lambda unit: unit.deployments.record(transition(number(1))))

    assert compact(store) == 1
    assert store.read(lambda unit: unit.deployments.history(number(1))) == []
    assert store.read(lambda unit: unit.deployments.get(number(1))) == finished(1, latest=True).compacted()
    assert ids(store.read(lambda unit: unit.deployments.recent_of(DEV1))) == [number(1)]
    assert ids(store.read(lambda unit: unit.deployments.of_rollout(R1))) == [number(1)]
    assert store.read(lambda unit: unit.deployments.recent_of(DEV2)) == []
    assert compact(store) == 0


def test_only_what_ended_before_that_time_is_compacted_up_to_the_first_that_did_not(store, put):
    put(finished(1), finished(2, changed_wall=LATER), finished(3))
    commit(store, lambda unit: [unit.deployments.record(transition(number(n))) for n in (1, 2, 3)])

    assert compact(store) == 1
    assert [len(store.read(lambda unit, n=n: unit.deployments.history(number(n)))) for n in (1, 2, 3)] == [0, 1, 1]


@pytest.mark.parametrize("state", sorted(set(State) - TERMINAL))
def test_what_can_still_move_is_not_compacted(store, put, state):
    put(deployment(state=state))

    assert compact(store) == 0


def test_a_device_with_many_is_compacted_in_parts(store, put):
    put(*[finished(n) for n in range(1, 6)])

    assert [compact(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_the_order_of_a_devices_deployments_stays(store, put):
    put(*[finished(n) for n in (5, 2, 9)])
    compact(store)
    put(finished(1))
    compact(store)
    put(deployment(number(7)))

    found = [number(n) for n in (7, 1, 9, 2, 5)]
    assert ids(store.read(lambda unit: unit.deployments.recent_of(DEV1))) == found
    assert ids(store.read(lambda unit: unit.deployments.recent_of(DEV1, limit=3))) == found[:3]


def test_pages_of_a_rollout_go_over_both_in_the_order_of_their_ids(store, put):
    put(*[finished(n, latest=True, component=f"c{n % 2}") for n in (1, 3, 5, 6)])
    compact(store)
    put(*[deployment(number(n), device=DEV2) for n in (2, 4)])

    page = lambda after: ids(  # noqa: E731
        store.read(lambda unit: unit.deployments.of_rollout(R1, after=after, limit=2))
    )
    assert [page(None), page(number(2)), page(number(4)), page(number(6))] == [
        [number(1), number(2)],
        [number(3), number(4)],
        [number(5), number(6)],
        [],
    ]


def test_the_counts_of_a_rollout_are_the_recount_over_both(store, put):
    put(finished(1, latest=True, stage=1), finished(2, latest=True, state=State.FAILED, earlier_end=State.TIMED_OUT))
    put(deployment(number(3), device=DEV2), finished(4, latest=True, rollout=None))
    before = store.read(lambda unit: dict(unit.deployments.tallies(R1)))
    compact(store)

    assert store.read(lambda unit: dict(unit.deployments.tallies(R1))) == before
    assert before == recount(store)
    assert before == {
        (1, State.CONFIRMED, None): 1,
        (0, State.FAILED, State.TIMED_OUT): 1,
        (0, State.QUEUED, None): 1,
    }


def recount(store):
    latest = store.read(lambda unit: unit.deployments.of_rollout(R1))
    return dict(Counter((one.stage, one.state, one.earlier_end) for one in latest))


def test_one_that_another_attempt_follows_is_no_longer_counted(store, put):
    put(finished(1, latest=True))
    compact(store)
    put(replace(finished(1, latest=True).compacted(), latest=False))

    assert store.read(lambda unit: dict(unit.deployments.tallies(R1))) == recount(store) == {}
    assert not store.read(lambda unit: unit.deployments.get(number(1))).latest


def test_what_was_served_late_is_added_to_one_that_was_compacted(store, put):
    put(finished(1, latest=True))
    compact(store)
    late = replace(finished(1, latest=True).compacted(), bytes_sent=77, requests=3)
    put(late)

    assert store.read(lambda unit: unit.deployments.get(number(1))) == late
    assert store.read(lambda unit: dict(unit.deployments.tallies(R1))) == recount(store)


def test_terminal_is_terminal_once_it_is_compacted_too(store, put):
    put(finished(1))
    compact(store)

    with pytest.raises(StoreError):
        put(deployment(number(1), state=State.TRIAL))
    with pytest.raises(StoreError):
        commit(store, lambda unit: unit.deployments.record(transition(number(1))))


# --- reports ---------------------------------------------------------------------------------------------------------


def prune(store, *, boot, keep=1, before_wall=LATER, device=DEV1):
    return commit(store, lambda unit: unit.reports.prune(device, before_wall, keep=keep, boot=boot))


def seen(store, boot, seq):
    return store.read(lambda unit: unit.reports.seen(DEV1, boot, seq))


def add(store, *records):
    commit(store, lambda unit: [unit.reports.add(record) for record in records])


def test_the_last_reports_stay_and_so_do_the_young_ones(store):
    add(store, *[report(seq=seq, wall=wall) for seq, wall in enumerate((1.0, LATER, 2.0, 3.0, 4.0))], report("dev2"))

    assert prune(store, boot=1, keep=2) == 2
    left = store.read(lambda unit: unit.reports.recent(DEV1))
    assert [one.key.seq for one in left] == [4, 3, 1]
    assert len(store.read(lambda unit: unit.reports.recent(DEV2))) == 1
    assert prune(store, boot=1, keep=2) == 0


@pytest.mark.parametrize("boot", [0, 1, 2**63, U64_MAX])
def test_a_repeat_of_the_present_boot_is_known_by_its_content_also_after_more_were_pruned(store, boot):
    for seq in range(3):
        add(store, report(key=replace_key(boot, 2**63 + seq)))
        prune(store, boot=boot, keep=0)

    assert [seen(store, boot, 2**63 + seq) for seq in range(4)] == [b"%08d" % n for n in range(3)] + [None]


def replace_key(boot, seq):
    return replace(report(boot=boot, seq=seq).key, content=b"%08d" % (seq - 2**63))


def test_of_an_earlier_boot_only_its_number_is_known(store):
    add(store, report(boot=5), report(boot=6), report(boot=7))
    prune(store, boot=7, keep=0)

    assert [seen(store, boot, 1) is None for boot in (5, 6, 7)] == [True, True, False]
    assert [store.read(lambda unit, b=b: unit.reports.knows_boot(DEV1, b)) for b in (4, 5, 6, 7)] == [False] + [
        True
    ] * 3
    assert not store.read(lambda unit: unit.reports.knows_boot(DEV2, 5))


def test_reports_without_a_key_go_without_a_trace(store):
    add(store, report(key=None), report(key=None))

    assert prune(store, boot=None) == 1
    assert len(store.read(lambda unit: unit.reports.recent(DEV1))) == 1


def test_what_is_known_of_one_device_is_bounded(store):
    for boot in range(BOOTS_KEPT + 2):
        add(store, report(boot=boot))
    prune(store, boot=BOOTS_KEPT + 1, keep=0)
    knows = store.read(lambda unit: [unit.reports.knows_boot(DEV1, b) for b in range(BOOTS_KEPT + 2)])
    assert knows == [False, False] + [True] * BOOTS_KEPT

    add(store, *[report(boot=9_000, seq=seq) for seq in range(KEYS_KEPT + 1)])
    prune(store, boot=9_000, keep=0)
    assert [seen(store, 9_000, seq) is None for seq in (0, 1, KEYS_KEPT)] == [True, False, False]


@SHARED_STORE
@given(records=st.lists(REPORTS, max_size=8, unique_by=lambda one: (one.device, one.key)), keep=st.integers(0, 3))
def test_whatever_is_pruned_the_keys_of_the_present_boot_stay_known(store, records, keep):
    known = []

    def fresh(unit):
        for record in records:
            key = record.key
            if key is not None and unit.reports.seen(record.device, key.boot, key.seq) is None:
                unit.reports.add(record)
                known.append(record)

    commit(store, fresh)
    for boot in (1, 1):
        for device in (DEV1, DEV2):
            prune(store, device=device, boot=boot, keep=keep)
    for one in known:
        assert store.read(lambda unit, d=one.device, b=one.key.boot: unit.reports.knows_boot(d, b))
        if one.key.boot == 1:
            found = store.read(lambda unit, d=one.device, s=one.key.seq: unit.reports.seen(d, 1, s))
            assert found == one.key.content
