import sqlite3

import pytest
from contract.store_samples import ENTRIES, chain, commit, entry
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.chain import Head, verify
from ota_bridge.core.errors import Conflict, StoreError

SHARED_STORE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def append(store, entries):
    commit(store, lambda unit: [unit.audit.append(one) for one in entries])


def whole(store):
    return store.read(lambda unit: unit.audit.page())


def test_a_new_store_has_an_empty_log(store):
    assert store.read(lambda unit: unit.audit.last()) is None
    assert whole(store) == []


@SHARED_STORE
@given(record=ENTRIES)
def test_any_entry_comes_back_as_it_was_appended(store, record):
    def work(unit):
        last = unit.audit.last()
        added = entry(last, **record)
        unit.audit.append(added)
        return added

    added = commit(store, work)

    assert store.read(lambda unit: unit.audit.last()) == added
    assert verify(store.read(lambda unit: unit.audit.page(limit=10**6))).wrong is None


def test_entries_are_listed_by_number_and_found_by_actor_subject_and_time(store):
    facts = [("ann", "device prod/d1", 10), ("cho", "device prod/d1", 20), ("ann", "limits", 30), ("ann", "", 40)]
    entries = chain(*({"actor": actor, "subject": subject, "wall_ms": wall} for actor, subject, wall in facts))
    append(store, entries)
    page = lambda **wanted: [one.n for one in store.read(lambda unit: unit.audit.page(**wanted))]  # noqa: E731
    latest = lambda **wanted: [one.n for one in store.read(lambda unit: unit.audit.latest(**wanted))]  # noqa: E731

    assert page() == latest() == [1, 2, 3, 4]
    assert page(actor="ann") == latest(actor="ann") == [1, 3, 4]
    assert page(subject="device prod/d1") == latest(subject="device prod/d1") == [1, 2]
    assert page(since_ms=20, actor="ann") == latest(since_ms=20, actor="ann") == [3, 4]
    assert page(after=1, limit=2) == [2, 3]
    assert latest(limit=2) == [3, 4]


@pytest.mark.parametrize("n", [0, 1, 2, 4])
def test_only_the_next_number_can_be_appended(store, n):
    entries = chain({}, {}, {})
    append(store, entries[:2])
    with pytest.raises(StoreError):
        append(store, [entry(None, n=n)])
    assert whole(store) == entries[:2]
    append(store, entries[2:])
    assert whole(store) == entries


def test_what_a_failed_work_appended_is_not_there(store):
    def fails(unit):
        unit.audit.append(chain({})[0])
        raise Conflict("on purpose")

    with pytest.raises(Conflict):
        commit(store, fails)
    assert whole(store) == []
    append(store, chain({}))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'cho' WHERE n = 2",
        "DELETE FROM audit WHERE n = 2",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT 2, wall_ms, 'cho', how, action, subject, result, detail, digest FROM audit WHERE n = 2",
        "INSERT INTO audit SELECT 9, wall_ms, actor, how, action, subject, result, detail, digest FROM audit WHERE n = 2",
        "UPDATE OR REPLACE audit SET n = 1 WHERE n = 2",
    ],
)
def test_the_database_itself_refuses_what_is_no_append(store, tmp_path, statement):
    append(store, chain({}, {}, {}))
    file = tmp_path / "bridge.db"
    if not file.exists():
        return  # in memory
    with sqlite3.connect(file) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert verify(whole(store)).head == Head.of(chain({}, {}, {})[-1])
