"""What the store in memory keeps beside its records, so that no question costs a look at all of them.

Everything here follows from the records: `change(before, after)` moves it along, and `change(after, before)` back.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush, nsmallest
from itertools import islice
from math import inf
from typing import Any, Final, Generic, TypeVar

from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.values import DeploymentId, RolloutId

T = TypeVar("T", bound=Any)

_FEW: Final = 8
"""So many new items are put in one by one; more are sorted in at once."""
_HEAP_MIN: Final = 64
_LAST: Final = "\U0010ffff"
"""After every id."""

Tally = tuple[int, State, State | None]


class Line(Generic[T]):
    """Items in order, each once. What is added is sorted in when somebody asks; what is removed is passed over."""

    def __init__(self) -> None:
        self._members: set[T] = set()
        self._items: list[T] = []
        """Sorted; those before `_head` are gone, and some others may be."""
        self._head = 0
        self._new: list[T] = []

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, item: T) -> bool:
        return item in self._members

    def add(self, item: T) -> None:
        """Put one in."""
        if item not in self._members:
            self._members.add(item)
            self._new.append(item)

    def remove(self, item: T) -> None:
        """Take one out, if it is there."""
        self._members.discard(item)

    def after(self, item: T | None) -> Iterator[T]:
        """Those that come after `item`, or all."""
        self._settle()
        items, members = self._items, self._members
        start = self._head if item is None else bisect_right(items, item, self._head)
        return (items[place] for place in range(start, len(items)) if items[place] in members)

    def first(self, limit: int, after: T | None = None) -> list[T]:
        """So many of these."""
        return list(islice(self.after(after), limit))

    def place(self, item: T) -> int:
        """How many come before `item`, which need not be there."""
        self._settle(whole=True)
        return bisect_left(self._items, item, self._head) - self._head

    def at(self, place: int) -> T | None:
        """The one that so many come before."""
        self._settle(whole=True)
        return self._items[self._head + place] if place < len(self._members) else None

    def _settle(self, *, whole: bool = False) -> None:
        """Sort in what is new; with `whole`, and where most are gone, drop what is gone."""
        items, members = self._items, self._members
        if len(self._new) <= _FEW and not (whole and len(items) - self._head + len(self._new) != len(members)):
            for item in self._new:
                place = bisect_left(items, item, self._head)
                if item in members and not (place < len(items) and items[place] == item):
                    insort(items, item, self._head)
        else:
            # Both halves are sorted, or nearly so: that is quick.
            kept = [item for item in islice(items, self._head, None) if item in members]
            self._items = items = sorted({*kept, *(item for item in self._new if item in members)})
            self._head = 0
        self._new.clear()
        while self._head < len(items) and items[self._head] not in members:
            self._head += 1
        if self._head > _HEAP_MIN and self._head * 2 > len(items):
            del items[: self._head]
            self._head = 0


class DeploymentIndex:
    """What is asked of deployments, kept up to date."""

    def __init__(self) -> None:
        self.open: Line[DeploymentId] = Line()
        self.latest: dict[RolloutId, Line[DeploymentId]] = {}
        self.tallies: dict[RolloutId, dict[Tally, int]] = {}
        self.waiting: dict[DeploymentId, tuple[int, int]] = {}
        """For a slot: in the order of these, urgent ones first, then as they were made."""
        self._born: dict[DeploymentId, int] = {}
        self._count = 0
        self._downloading = 0
        self._offered: Line[tuple[float, DeploymentId]] = Line()
        self._due: list[tuple[float, DeploymentId]] = []
        """A heap. An entry that its record does not confirm is out of date."""

    def change(self, before: Deployment | None, after: Deployment | None) -> None:
        """One record became another; None: there was or is none."""
        if before is not None:
            self._leave(before, after)
        if after is not None:
            self._enter(before, after)

    def due(self, records: Mapping[DeploymentId, Deployment], wall: float, limit: int) -> list[Deployment]:
        """The first of those that are due, earliest first."""
        found: list[tuple[float, DeploymentId]] = []
        while self._due and self._due[0][0] <= wall and len(found) < limit:
            entry = heappop(self._due)
            if self._is_valid(records, entry) and not (found and found[-1] == entry):
                found.append(entry)
        for entry in found:
            heappush(self._due, entry)
        return [records[name] for _, name in found]

    def next_due_wall(self, records: Mapping[DeploymentId, Deployment]) -> float | None:
        """When the first is due."""
        while self._due and not self._is_valid(records, self._due[0]):
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def for_slots(self, limit: int) -> list[DeploymentId]:
        """The first of those that wait for a slot."""
        return nsmallest(limit, self.waiting, key=self.waiting.__getitem__)

    def busy(self, offered_since_wall: float) -> int:
        """How many download and are not stalled, or were offered since."""
        offered = len(self._offered)
        if offered:
            offered -= self._offered.place((offered_since_wall, DeploymentId(_LAST)))
        return self._downloading + offered

    def offered_wall_after(self, wall: float) -> float | None:
        """When the first of those that are offered was offered after this time."""
        found = self._offered.first(1, (wall, DeploymentId(_LAST)))
        return found[0][0] if found else None

    def _leave(self, before: Deployment, after: Deployment | None) -> None:
        if before.rollout is not None and before.latest:
            tallies = self.tallies[before.rollout]
            key = (before.stage, before.state, before.earlier_end)
            tallies[key] -= 1
            if not tallies[key]:
                del tallies[key]
            if after is None or not after.latest or after.rollout != before.rollout:
                self.latest[before.rollout].remove(before.id)
        if _downloads(before):
            self._downloading -= 1
        elif before.state is State.OFFERED:
            self._offered.remove((_offered_wall(before), before.id))
        if after is None:
            del self._born[before.id]
        if before.is_open and (after is None or not after.is_open):
            self.open.remove(before.id)
        if before.slot_rank and (after is None or not after.slot_rank):
            del self.waiting[before.id]

    def _enter(self, before: Deployment | None, after: Deployment) -> None:
        if after.rollout is not None and after.latest:
            tallies = self.tallies.setdefault(after.rollout, {})
            key = (after.stage, after.state, after.earlier_end)
            tallies[key] = tallies.get(key, 0) + 1
            if before is None or not before.latest or before.rollout != after.rollout:
                self.latest.setdefault(after.rollout, Line()).add(after.id)
        if _downloads(after):
            self._downloading += 1
        elif after.state is State.OFFERED:
            self._offered.add((_offered_wall(after), after.id))
        if before is None:
            self._count += 1
            self._born[after.id] = self._count
        if after.slot_rank:
            self.waiting[after.id] = (-after.slot_rank, self._born[after.id])
        if after.is_open:
            if before is None or not before.is_open:
                self.open.add(after.id)
            if after.due_wall is not None and (
                before is None or not before.is_open or before.due_wall != after.due_wall
            ):
                self._put_due((after.due_wall, after.id))

    def _put_due(self, entry: tuple[float, DeploymentId]) -> None:
        heappush(self._due, entry)
        if len(self._due) > _HEAP_MIN and len(self._due) > 8 * len(self.open):
            self._due = [entry for entry in self._due if entry[1] in self.open]
            heapify(self._due)

    @staticmethod
    def _is_valid(records: Mapping[DeploymentId, Deployment], entry: tuple[float, DeploymentId]) -> bool:
        record = records.get(entry[1])
        return record is not None and record.is_open and record.due_wall == entry[0]


def _offered_wall(deployment: Deployment) -> float:
    return -inf if deployment.offered_wall is None else deployment.offered_wall


def _downloads(deployment: Deployment) -> bool:
    return deployment.state is State.DOWNLOADING and not deployment.stalled
