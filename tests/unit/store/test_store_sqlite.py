"""Group commit: what is told when, and what happens when the disk fails."""

import queue
import resource
import sqlite3
import threading

import pytest
from contract.store_samples import PATIENCE_S, commit, device

from ota_bridge.core.errors import Conflict, StoreError
from ota_bridge.core.values import DeviceId
from ota_bridge.store.outcome import Committed, Failed
from ota_bridge.store.sqlite import Limits, SqliteStore, open_readonly

DEV1 = DeviceId("prod", "dev1")


class Deliveries:
    """Runs what the store delivers and keeps what each call told."""

    def __init__(self):
        self.calls = queue.SimpleQueue()
        self.before = lambda: None
        self._told = []

    def __call__(self, run):
        self.before()
        run()
        told, self._told = self._told, []
        self.calls.put(told)

    def tell(self, outcome):
        self._told.append(outcome)

    def take(self, count):
        """The next `count` outcomes, by call."""
        calls = []
        while sum(map(len, calls)) < count:
            calls.append(self.calls.get(timeout=PATIENCE_S))
        return calls


class Gate:
    """A work that keeps the writer busy until it is opened, so that what follows is queued behind it."""

    def __init__(self, store):
        self._open = threading.Event()
        self._entered = threading.Event()
        self.outcomes = queue.SimpleQueue()
        store.submit(self._work, self.outcomes.put)
        assert self._entered.wait(PATIENCE_S)

    def _work(self, unit):
        self._entered.set()
        assert self._open.wait(PATIENCE_S)

    def open(self):
        self._open.set()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "bridge.db"


@pytest.fixture
def deliveries():
    return Deliveries()


@pytest.fixture
def store(path, deliveries):
    opened = SqliteStore.open(path, deliver=deliveries, group_max=3, queue_max=10)
    yield opened
    opened.close()


def other_connection_counts(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        count = connection.execute("SELECT count(*) FROM devices").fetchone()[0]
    connection.close()
    return count


def test_nothing_is_told_before_another_connection_can_see_it(store, path, deliveries):
    seen_at_delivery = []
    deliveries.before = lambda: seen_at_delivery.append(other_connection_counts(path))

    def work(unit):
        unit.devices.put(device())
        return other_connection_counts(path)

    store.submit(work, deliveries.tell)

    assert deliveries.take(1) == [[Committed(0)]]
    assert seen_at_delivery == [1]


def test_a_group_is_told_in_one_call_and_is_never_larger_than_its_limit(store, deliveries):
    gate = Gate(store)
    for number in range(9):
        store.submit(lambda unit, number=number: number, deliveries.tell)
    gate.open()

    calls = deliveries.take(9)
    assert [outcome.value for call in calls for outcome in call] == list(range(9))
    assert max(map(len, calls)) <= 3
    assert len(calls) <= 6


def test_a_group_that_has_run_too_long_commits_what_it_has(path, deliveries):
    store = SqliteStore.open_with(path, deliveries, Limits(group_s=0.0))
    gate = Gate(store)
    for number in range(4):
        store.submit(lambda unit, number=number: number, deliveries.tell)
    gate.open()

    assert [call for call in deliveries.take(4) if call] == [[Committed(number)] for number in range(4)]
    store.close()


def test_a_failing_work_rolls_back_only_itself_within_a_group(store, deliveries):
    def fail(unit):
        unit.devices.put(device("b"))
        raise Conflict("no")

    gate = Gate(store)
    for work in (lambda unit: unit.devices.put(device("a")), fail, lambda unit: unit.devices.put(device("c"))):
        store.submit(work, deliveries.tell)
    gate.open()

    first, second, third = (outcome for call in deliveries.take(3) for outcome in call)
    assert (first, third) == (Committed(None), Committed(None))
    assert isinstance(second.error, Conflict)
    assert store.read(lambda unit: [one.id.name for one in unit.devices.page()]) == ["a", "c"]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(store, deliveries):
    gate = Gate(store)
    for _ in range(10):
        store.submit(lambda unit: None, deliveries.tell)
    with pytest.raises(StoreError, match="10 units of work behind"):
        store.submit(lambda unit: None, deliveries.tell)

    gate.open()
    deliveries.take(10)
    store.submit(lambda unit: 5, deliveries.tell)
    assert deliveries.take(1) == [[Committed(5)]]


def test_close_commits_and_tells_what_was_queued(store, path, deliveries):
    gate = Gate(store)
    for number in range(7):
        store.submit(lambda unit, number=number: unit.devices.put(device(str(number))), deliveries.tell)
    gate.open()
    store.close()

    assert [outcome for call in deliveries.take(7) for outcome in call] == [Committed(None)] * 7
    reader = open_readonly(path)
    assert reader.read(lambda unit: unit.devices.count()) == 7
    reader.close()


def test_close_leaves_one_whole_file_and_no_log(store, path):
    store.close()

    assert [file.name for file in path.parent.iterdir()] == ["bridge.db"]


def test_a_receiver_may_close_the_store(path):
    closed = threading.Event()
    store = SqliteStore.open(path, deliver=lambda run: run())
    store.submit(lambda unit: None, lambda outcome: (store.close(), closed.set()))

    assert closed.wait(PATIENCE_S)
    store.close()


def test_the_writer_outlives_a_delivery_that_raises(path):
    outcomes = queue.SimpleQueue()
    failed = threading.Event()

    def deliver(run):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("the event loop is closed")
        run()

    store = SqliteStore.open(path, deliver=deliver)
    store.submit(lambda unit: unit.devices.put(device()), outcomes.put)
    assert failed.wait(PATIENCE_S)
    store.submit(lambda unit: unit.devices.count(), outcomes.put)

    assert outcomes.get(timeout=PATIENCE_S) == Committed(1)
    store.close()


def test_reads_see_one_state_while_the_writer_goes_on(store):
    def work(unit):
        before = unit.devices.count()
        commit_elsewhere = threading.Thread(target=lambda: done.put(put()))
        commit_elsewhere.start()
        done.get(timeout=PATIENCE_S)
        commit_elsewhere.join(PATIENCE_S)
        return before, unit.devices.count()

    def put():
        told = queue.SimpleQueue()
        store.submit(lambda unit: unit.devices.put(device()), told.put)
        return told.get(timeout=PATIENCE_S)

    done = queue.SimpleQueue()
    assert store.read(work) == (0, 0)
    assert store.read(lambda unit: unit.devices.count()) == 1


# --- the disk ------------------------------------------------------------------------------------------------


def big(name):
    return device(name, label="x" * 3000)


def test_a_full_database_fails_what_does_not_fit_and_recovers(path):
    store = SqliteStore.open(path, deliver=lambda run: run())
    commit(store, lambda unit: unit.devices.put(device("first")))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 3}")

    stored, failures = [], []
    for number in range(10):
        try:
            commit(store, lambda unit, number=number: unit.devices.put(big(str(number))))
            stored.append(str(number))
        except StoreError as error:
            failures.append(str(error))

    assert stored
    assert failures
    assert all("disk is full" in failure for failure in failures)
    names = store.read(lambda unit: [one.id.name for one in unit.devices.page()])
    assert names == sorted([*stored, "first"])

    store._db.execute("PRAGMA max_page_count = 1000000")
    commit(store, lambda unit: unit.devices.put(big("last")))
    assert store.read(lambda unit: unit.devices.get(DeviceId("prod", "last"))) == big("last")
    store.close()


def test_a_commit_that_the_file_system_refuses_fails_the_group_and_recovers(path, deliveries):
    store = SqliteStore.open(path, deliver=deliveries)
    store.submit(lambda unit: unit.devices.put(device("first")), deliveries.tell)
    deliveries.take(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log_bytes = path.with_name("bridge.db-wal").stat().st_size
    gate = Gate(store)
    for number in range(3):
        store.submit(lambda unit, number=number: unit.devices.put(big(str(number))), deliveries.tell)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log_bytes, hard))
        gate.open()
        told = [outcome for call in deliveries.take(3) for outcome in call]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [type(outcome) for outcome in told] == [Failed] * 3
    assert all(isinstance(outcome.error, StoreError) for outcome in told)
    assert store.read(lambda unit: unit.devices.count()) == 1
    commit(store, lambda unit: unit.devices.put(big("last")))
    assert store.read(lambda unit: unit.devices.count()) == 2
    store.close()


class Refusing:
    """The writer's connection with one statement that fails."""

    def __init__(self, db, statement):
        self._db = db
        self.statement = statement

    def __getattr__(self, name):
        return getattr(self._db, name)

    def execute(self, sql, *arguments):
        if self.statement and sql.startswith(self.statement):
            raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(sql, *arguments)

    @classmethod
    def into(cls, store, statement):
        store._db = refusing = cls(store._db, statement)
        store._execute = refusing.execute
        return refusing


@pytest.mark.parametrize("statement", ["BEGIN", "COMMIT", "SAVEPOINT", "RELEASE"])
def test_a_group_that_cannot_begin_or_end_fails_as_a_whole_and_the_next_one_works(store, deliveries, statement):
    refusing = Refusing.into(store, statement)
    for number in range(5):
        store.submit(lambda unit, number=number: unit.devices.put(device(str(number))), deliveries.tell)

    told = [outcome for call in deliveries.take(5) for outcome in call]
    assert [type(outcome.error) for outcome in told] == [StoreError] * 5
    assert all("disk I/O error" in str(outcome.error) for outcome in told)
    assert store.read(lambda unit: unit.devices.count()) == 0
    refusing.statement = ""
    store.submit(lambda unit: unit.devices.put(device()), deliveries.tell)
    assert deliveries.take(1) == [[Committed(None)]]
    assert store.read(lambda unit: unit.devices.count()) == 1


def test_the_work_after_a_group_that_was_lost_reads_nothing_of_it(store, deliveries):
    refusing = Refusing.into(store, "COMMIT")
    store.submit(lambda unit: unit.devices.put(device("lost")), deliveries.tell)
    deliveries.take(1)
    refusing.statement = ""
    store.submit(lambda unit: unit.devices.get(DeviceId("prod", "lost")), deliveries.tell)
    assert [[Committed(None)]] == deliveries.take(1)


def test_what_a_rollback_that_failed_left_open_is_not_committed_with_the_next_group(store, deliveries):
    def refuse():
        raise sqlite3.OperationalError("disk I/O error")

    refusing = Refusing.into(store, "COMMIT")
    refusing.rollback = refuse
    store.submit(lambda unit: unit.devices.put(device("lost")), deliveries.tell)
    assert isinstance(deliveries.take(1)[0][0].error, StoreError)
    refusing.statement = ""
    del refusing.rollback
    store.submit(lambda unit: unit.devices.put(device("kept")), deliveries.tell)
    assert deliveries.take(1) == [[Committed(None)]]
    names = ("lost", "kept")
    found = store.read(lambda unit: [unit.devices.get(DeviceId("prod", name)) for name in names])
    assert found == [None, device("kept")]


def test_when_an_error_ends_the_transaction_all_before_it_in_the_group_fail_too(store, deliveries):
    def lose_all(unit):
        store._db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    gate = Gate(store)
    for work in (lambda unit: unit.devices.put(device("a")), lose_all):
        store.submit(work, deliveries.tell)
    gate.open()
    told = [outcome for call in deliveries.take(2) for outcome in call]

    stored = store.read(lambda unit: unit.devices.count())
    assert stored == sum(isinstance(outcome, Committed) for outcome in told)
    assert isinstance(told[1].error, StoreError)
    store.submit(lambda unit: unit.devices.put(device("c")), deliveries.tell)
    assert deliveries.take(1) == [[Committed(None)]]


def test_the_writer_runs_with_the_settings_that_durability_needs(store):
    settings = ("journal_mode", "synchronous", "mmap_size", "busy_timeout", "foreign_keys", "wal_autocheckpoint")
    found = {name: store._db.execute(f"PRAGMA {name}").fetchone() for name in settings}

    assert found == {
        "journal_mode": ("wal",),
        "synchronous": (2,),
        "mmap_size": (0,),
        "busy_timeout": (5000,),
        "foreign_keys": (1,),
        "wal_autocheckpoint": (1000,),
    }


def test_the_log_is_emptied_when_nothing_is_queued(path):
    emptied = threading.Event()
    store = SqliteStore.open_with(path, lambda run: run(), Limits(idle_s=0.01))
    empty_log = store._empty_log
    store._empty_log = lambda: (empty_log(), emptied.set())
    commit(store, lambda unit: unit.devices.put(device()))
    emptied.clear()

    assert emptied.wait(PATIENCE_S)
    assert path.with_name("bridge.db-wal").stat().st_size == 0
    store.close()
