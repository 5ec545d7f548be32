import queue
import threading
from dataclasses import replace

import pytest
from contract.store_samples import PATIENCE_S, commit, deployment, device, fill, release, report, rollout, transition

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, StoreError
from ota_bridge.core.values import DeviceId
from ota_bridge.store.outcome import Committed, Failed


def everything(unit):
    return (
        unit.releases.all(),
        unit.devices.page(),
        unit.rollouts.all(),
        unit.deployments.of_rollout("r-000001"),
        unit.deployments.recent_of(DeviceId("prod", "dev1")),
        unit.deployments.history("000000000001"),
        unit.deployments.counts("r-000001"),
        unit.reports.recent(DeviceId("prod", "dev1")),
        unit.reports.seen(DeviceId("prod", "dev1"), 1, 2),
        unit.reports.knows_boot(DeviceId("prod", "dev1"), 7),
    )


def test_a_work_that_raises_leaves_no_trace_in_any_port(store):
    commit(store, lambda unit: (fill(unit), unit.deployments.put(deployment()), unit.reports.add(report())))
    before = store.read(everything)

    def work(unit):
        unit.releases.put(release(created_by="eve", parts={}))
        unit.releases.put(release("9"))
        unit.devices.put(device(label="changed"))
        unit.rollouts.put(rollout(created_by="eve"))
        unit.deployments.put(deployment(state=State.FAILED))
        unit.deployments.put(deployment("000000000002"))
        unit.deployments.record(transition())
        unit.deployments.shift_due(5.0)
        unit.reports.add(report(seq=2))
        unit.reports.add(report(boot=7))
        assert everything(unit) != before
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        commit(store, work)
    assert store.read(everything) == before


def test_the_next_work_reads_nothing_that_one_that_raised_has_written(store):
    commit(store, fill)

    def kept(unit):
        found = unit.devices.get(device().id), unit.releases.get(release().id), unit.rollouts.get("r-000001")
        return (*found, tuple(unit.rollouts.all()))

    before = commit(store, kept)

    def work(unit):
        unit.devices.put(device(label="changed"))
        unit.releases.put(release(created_by="eve"))
        unit.rollouts.put(rollout(created_by="eve"))
        assert all(one != other for one, other in zip(kept(unit), before, strict=True))
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        commit(store, work)
    assert before == commit(store, kept)


def test_a_work_sees_its_own_changes(store):
    def work(unit):
        unit.devices.put(device())
        return unit.devices.get(DeviceId("prod", "dev1"))

    assert commit(store, work) == device()


def test_a_work_that_raises_does_not_disturb_its_neighbours(store):
    outcomes = queue.SimpleQueue()
    works = [
        lambda unit: unit.devices.put(device("a")),
        lambda unit: (unit.devices.put(device("b")), 1 // 0),
        lambda unit: (unit.devices.put(device("c")), unit.devices.count())[1],
    ]
    for work in works:
        store.submit(work, outcomes.put)

    first, second, third = (outcomes.get(timeout=PATIENCE_S) for _ in works)
    assert first == Committed(None)
    assert isinstance(second, Failed)
    assert isinstance(second.error, ZeroDivisionError)
    assert third == Committed(2)
    assert [one.id.name for one in store.read(lambda unit: unit.devices.page())] == ["a", "c"]


def test_outcomes_come_in_the_order_of_submission(store):
    outcomes = queue.SimpleQueue()
    for number in range(500):
        store.submit(lambda unit, number=number: number, outcomes.put)

    assert [outcomes.get(timeout=PATIENCE_S) for _ in range(500)] == [Committed(number) for number in range(500)]


def test_a_receiver_that_raises_does_not_disturb_the_others(store):
    outcomes = queue.SimpleQueue()
    store.submit(lambda unit: 1, lambda outcome: 1 // 0)
    store.submit(lambda unit: 2, outcomes.put)

    assert outcomes.get(timeout=PATIENCE_S) == Committed(2)


def test_a_receiver_may_submit_more(store):
    outcomes = queue.SimpleQueue()
    store.submit(lambda unit: 1, lambda _: store.submit(lambda unit: 2, outcomes.put))

    assert outcomes.get(timeout=PATIENCE_S) == Committed(2)


def test_a_work_may_submit_more_which_runs_after_it(store):
    outcomes = queue.SimpleQueue()

    def work(unit):
        store.submit(lambda later: later.devices.count(), outcomes.put)
        unit.devices.put(device())

    store.submit(work, outcomes.put)
    assert [outcomes.get(timeout=PATIENCE_S) for _ in range(2)] == [Committed(None), Committed(1)]


def test_reading_cannot_write(store):
    with pytest.raises(StoreError):
        store.read(lambda unit: unit.devices.put(device()))
    assert store.read(lambda unit: unit.devices.count()) == 0


def test_what_a_read_raises_comes_through(store):
    with pytest.raises(Conflict):
        store.read(lambda unit: (_ for _ in ()).throw(Conflict("no")))


def test_many_threads_may_submit_and_read(store):
    outcomes = queue.SimpleQueue()

    def work(number):
        for index in range(20):
            store.submit(lambda unit, index=index: unit.devices.put(device(f"{number}-{index}")), outcomes.put)
            store.read(lambda unit: unit.devices.count())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert [outcomes.get(timeout=PATIENCE_S) for _ in range(80)] == [Committed(None)] * 80
    assert store.read(lambda unit: unit.devices.count()) == 80


def test_ids_are_new_and_of_their_shape(store):
    def work(unit):
        return [unit.new_deployment_id() for _ in range(20)], [unit.new_rollout_id() for _ in range(5)]

    deployments, rollouts = commit(store, work)
    assert len(set(deployments)) == 20
    assert all(len(name) == 12 and set(name) <= set("0123456789abcdef") for name in deployments)
    assert all(len(name) == 8 and name[:2] == "r-" and set(name[2:]) <= set("0123456789abcdef") for name in rollouts)


def test_a_closed_store_takes_nothing_and_closes_again(store):
    store.close()
    store.close()

    with pytest.raises(StoreError, match="closed"):
        store.submit(lambda unit: None, lambda outcome: None)
    with pytest.raises(StoreError, match="closed"):
        store.read(lambda unit: None)


def test_what_a_work_put_is_found_by_every_question_of_the_same_work(store):
    commit(store, fill)
    first, second = device("dev1", label="one"), device("dev2", label="two")

    def work(unit):
        for number, one in enumerate((first, second, first, second)):
            unit.devices.get(one.id)
            unit.devices.put(replace(one, label=f"{one.label}{number}", parts={}))
        return [
            unit.devices.named("two3"),
            unit.devices.page(product="prod", limit=1),
            unit.devices.get(first.id),
            unit.devices.count(),
            unit.devices.installed(product="prod"),
        ]

    last = replace(second, label="two3")
    named, page, got, count, installed = commit(store, work)
    assert ([last], ["one2"], "one2", 2, [{}]) == (named, [one.label for one in page], got.label, count, installed)
    assert last == store.read(lambda unit: unit.devices.get(second.id))


def test_a_device_that_was_put_twice_is_as_it_was_where_the_work_failed(store):
    commit(store, fill)
    before = store.read(lambda unit: unit.devices.get(device("dev1").id))

    def work(unit):
        unit.devices.get(before.id)
        unit.devices.put(replace(before, label="a"))
        unit.devices.put(replace(before, label="b"))
        raise Conflict("on purpose")

    with pytest.raises(Conflict):
        commit(store, work)
    assert before == commit(store, lambda unit: unit.devices.get(before.id))
    assert before == store.read(lambda unit: unit.devices.get(before.id))


def test_open_deployments_are_as_they_were_put_whatever_was_asked_before(store):
    commit(store, fill)
    one, other = deployment(), deployment("000000000002", device=device("dev2").id)

    def work(unit):
        found = []
        for record in (
            one,
            other,
            replace(one, cause="x"),
            replace(one, state=State.FAILED),
            replace(one, latest=False),
        ):
            unit.deployments.put(record)
            found.append([unit.deployments.open_of(record.device), unit.deployments.get(record.id)])
        found.append(unit.deployments.open_of(other.device))
        return found

    changed, failed, again = replace(one, cause="x"), replace(one, state=State.FAILED), replace(one, latest=False)
    expected = [[[one], one], [[other], other], [[changed], changed], [[], failed], [[again], again], [other]]
    assert expected == commit(store, work)

    def fails(unit):
        unit.deployments.open_of(one.device)
        unit.deployments.put(replace(one, cause="y"))
        raise Conflict("on purpose")

    with pytest.raises(Conflict):
        commit(store, fails)
    assert [again] == commit(store, lambda unit: unit.deployments.open_of(one.device))
    commit(store, lambda unit: unit.deployments.shift_due(5.0))
    due = replace(again, due_wall=7.0)
    commit(store, lambda unit: (unit.deployments.open_of(one.device), unit.deployments.put(due)))
    commit(store, lambda unit: unit.deployments.shift_due(5.0))
    assert [12.0] == [found.due_wall for found in commit(store, lambda unit: unit.deployments.open_of(one.device))]
