"""Downloads as flows: each has its own pace, and together they have what the site can carry.

Pure; time is seconds. A flow of so many bytes ends when its share of the time has carried them. Where the site is the
narrower, it is shared fairly: who cannot use an equal part leaves the rest to the others.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

_AT_ONCE_S: Final = 1e-6
"""What ends within this time has ended: the difference is one of rounding."""


@dataclass(slots=True)
class _Pace:
    """The flows of one pace. `served_bytes` is what one of them has got since there are any."""

    bytes_per_s: float
    served_bytes: float = 0.0
    share: float = 0.0
    """Bytes per second of each now."""
    ends: list[tuple[float, int, Hashable]] = field(default_factory=list)
    """A heap: at how many served bytes a flow ends. Those of `_flows` that are not here any more have been stopped."""
    count: int = 0


class Flows:
    """The downloads that are under way."""

    def __init__(
        self, capacity_bytes_per_s: float = inf, told: Callable[[float, float, float], object] = lambda *_: None
    ) -> None:
        """`told` hears of each time between two changes: from, to, bytes per second of all together."""
        self._capacity = capacity_bytes_per_s
        self._told = told
        self._paces: dict[float, _Pace] = {}
        self._flows: dict[Hashable, tuple[_Pace, float, int]] = {}
        self._number = 0
        self._at_s = 0.0
        self._rate = 0.0

    def __len__(self) -> int:
        return len(self._flows)

    def begin(self, key: Hashable, size_bytes: float, bytes_per_s: float, at_s: float) -> None:
        """A download begins. One that has the same key ends."""
        self.stop(key, at_s)
        self._move(at_s)
        pace = self._paces.setdefault(bytes_per_s, _Pace(bytes_per_s))
        self._number += 1
        end = pace.served_bytes + size_bytes
        heappush(pace.ends, (end, self._number, key))
        self._flows[key] = (pace, end, self._number)
        pace.count += 1
        self._share_out()

    def stop(self, key: Hashable, at_s: float) -> float:
        """A download ends before its end: how many bytes it lacks."""
        flow = self._flows.pop(key, None)
        if flow is None:
            return 0.0
        self._move(at_s)
        pace, end, _ = flow
        lacks_bytes = max(0.0, end - pace.served_bytes)
        pace.count -= 1
        self._share_out()
        return lacks_bytes

    def next_end_s(self) -> float:
        """When the next download is whole; infinity: never."""
        found = inf
        for pace in self._paces.values():
            self._drop_stopped(pace)
            if pace.ends:
                found = min(found, self._at_s + max(0.0, pace.ends[0][0] - pace.served_bytes) / pace.share)
        return found

    def whole(self, at_s: float) -> list[Hashable]:
        """The downloads that are whole now; they are under way no more."""
        self._move(at_s)
        found: list[Hashable] = []
        for pace in self._paces.values():
            self._drop_stopped(pace)
            while pace.ends and pace.ends[0][0] - pace.served_bytes <= pace.share * _AT_ONCE_S:
                _, _, key = heappop(pace.ends)
                del self._flows[key]
                pace.count -= 1
                found.append(key)
                self._drop_stopped(pace)
        if found:
            self._share_out()
        return found

    def _move(self, at_s: float) -> None:
        passed = at_s - self._at_s
        if passed <= 0.0:
            return
        if self._rate:
            self._told(self._at_s, at_s, self._rate)
            for pace in self._paces.values():
                if pace.count:
                    pace.served_bytes += pace.share * passed
        self._at_s = at_s

    def _share_out(self) -> None:
        """The slowest first: what it does not use is the others'."""
        left, flows, self._rate = self._capacity, len(self._flows), 0.0
        for pace in sorted(self._paces.values(), key=lambda one: one.bytes_per_s):
            if not pace.count:
                pace.served_bytes, pace.ends = 0.0, []
                continue
            pace.share = min(pace.bytes_per_s, left / flows)
            flows -= pace.count
            left -= pace.share * pace.count
            self._rate += pace.share * pace.count
            if len(pace.ends) > 2 * pace.count + 16:
                pace.ends = [end for end in pace.ends if self._is_under_way(end)]
                heapify(pace.ends)

    def _drop_stopped(self, pace: _Pace) -> None:
        while pace.ends and not self._is_under_way(pace.ends[0]):
            heappop(pace.ends)

    def _is_under_way(self, end: tuple[float, int, Hashable]) -> bool:
        flow = self._flows.get(end[2])
        return flow is not None and flow[2] == end[1]
