"""When the wall clock counts as set, and that each step is followed once and by a commit."""

import pytest

from ota_bridge.clock import STEP_S, ClockWatch
from ota_bridge.core.errors import StoreError
from ota_bridge.core.values import Now
from ota_bridge.store.memory import MemoryStore


class Waiting(MemoryStore):
    """Commits when the test says so."""

    def __init__(self):
        super().__init__()
        self.queued, self.last, self.refuses = [], None, False

    def submit(self, work, on_done):
        if self.refuses:
            raise StoreError("the queue is full")
        self.queued.append((work, on_done))

    def last_commit_wall(self):
        return self.last

    def commit(self):
        queued, self.queued = self.queued, []
        for work, on_done in queued:
            super().submit(work, on_done)


class Watched:
    def __init__(self):
        self.store, self.moved, self.followed = Waiting(), [], 0
        self.fails = False
        self.watch = ClockWatch(store=self.store, move=self._move, followed=self._followed)

    def _move(self, unit, by_s):
        if self.fails:
            raise StoreError("the disk is full")
        self.moved.append(by_s)

    def _followed(self):
        self.followed += 1


@pytest.fixture
def watched():
    return Watched()


def now(wall, mono=0.0):
    return Now(wall=wall, mono=mono)


def test_the_first_look_only_learns_the_time(watched):
    assert not watched.watch.was_set(now(1e9))
    assert watched.watch.follow(now(1e9))
    assert [] == watched.store.queued


async def test_a_step_in_the_first_second_counts_too(watched):
    await watched.watch.begin(now(1e9))
    assert watched.watch.was_set(now(1e9 + 3600, 0.5))
    assert not watched.watch.follow(now(1e9 + 3600, 1.0))
    watched.store.commit()
    assert [3599.0] == watched.moved


@pytest.mark.parametrize("by_s", [STEP_S, -STEP_S, 3.2e8, -3.2e8])
def test_a_step_counts_until_it_is_committed(watched, by_s):
    watched.watch.follow(now(1e9))
    assert watched.watch.was_set(now(1e9 + by_s))
    assert not watched.watch.follow(now(1e9 + by_s))
    assert not watched.watch.follow(now(1e9 + by_s + 1, 1.0))
    assert 1 == len(watched.store.queued)
    watched.store.commit()
    assert ([by_s], 1) == (watched.moved, watched.followed)
    assert not watched.watch.was_set(now(1e9 + by_s))
    assert watched.watch.follow(now(1e9 + by_s))


def test_less_than_a_step_is_drift_and_is_learned(watched):
    for number in range(100):
        assert watched.watch.follow(now(1e9 + number * (STEP_S - 1)))
    assert [] == watched.store.queued


def test_time_that_goes_by_is_no_step(watched):
    watched.watch.follow(now(1e9, 0.0))
    assert not watched.watch.was_set(now(1e9 + 86_400, 86_400.0))


@pytest.mark.parametrize("how", ["fails", "refuses"])
def test_what_was_not_committed_is_tried_again_whole(watched, how, caplog):
    watched.watch.follow(now(1e9))
    watched.fails, watched.store.refuses = how == "fails", how == "refuses"
    if how == "refuses":
        with pytest.raises(StoreError):
            watched.watch.follow(now(1e9 + 100))
    else:
        watched.watch.follow(now(1e9 + 100))
        watched.store.commit()
        assert "could not follow the clock, trying again: the disk is full" in caplog.text
    watched.fails = watched.store.refuses = False
    assert watched.watch.was_set(now(1e9 + 100))
    watched.watch.follow(now(1e9 + 100))
    watched.store.commit()
    assert ([100.0], 1) == (watched.moved, watched.followed)


def test_a_step_while_one_is_on_its_way_is_followed_after_it(watched):
    watched.watch.follow(now(1e9))
    watched.watch.follow(now(1e9 + 1000))
    watched.watch.follow(now(1e9 + 5000))
    watched.store.commit()
    assert watched.watch.was_set(now(1e9 + 5000))
    watched.watch.follow(now(1e9 + 5000))
    watched.store.commit()
    assert [1000.0, 4000.0] == watched.moved


@pytest.mark.parametrize(
    ("last", "expected"), [(None, []), (1e9 - 86_400, []), (1e9 + STEP_S - 1, []), (1e9 + 3.2e8, [-3.2e8])]
)
async def test_a_last_commit_that_lies_ahead_is_a_clock_that_was_set_back(watched, last, expected):
    watched.store.last = last
    await watched.watch.begin(now(1e9, 5.0))
    assert bool(expected) is watched.watch.was_set(now(1e9, 5.0))
    watched.watch.follow(now(1e9, 5.0))
    watched.store.commit()
    assert expected == watched.moved
