"""Fair shares: fleet-wide caps on blocks and bytes per second and on simultaneous downloads, and who waits how long.

Pure; time is monotonic seconds. Rules:
1. A cap holds in every window of one second as somebody outside counts it, so it is kept over WINDOW_S: what a broker
   delivers late and then early again may come that much closer together.
2. A new or changed cap counts what it has not seen as used up: nothing passes for the first WINDOW_S. So a restart
   cannot be used to get twice the share.
3. A download's slot is a lease: it ends `lease_s` after the device's last block, or WINDOW_S after it when the device
   has no more to fetch. Forgotten leases harm nobody, for who has none is not served.
4. Whoever must wait is told a time of its own, so that the waiters do not all come back at once.
"""

import math
from collections import OrderedDict, deque
from typing import Final

from ota_bridge.core.values import Limits

WINDOW_S: Final = 1.1
_SLOT_S: Final = 0.01
_SLOTS: Final = round(WINDOW_S / _SLOT_S)
WAIT_MIN_S: Final = 1.0
WAIT_MAX_S: Final = 300.0


class SlidingWindow:
    """At most `limit` units in any WINDOW_S; what came before `start_mono` counts as `limit` units at that moment."""

    def __init__(self, limit: int, start_mono: float) -> None:
        self.limit = limit
        self._slots: deque[list[int]] = deque([[int(start_mono / _SLOT_S), limit]])
        self._used = limit

    def left(self, mono: float) -> int:
        """How many units may go now."""
        oldest = int(mono / _SLOT_S) - _SLOTS
        slots = self._slots
        while slots and slots[0][0] < oldest:
            self._used -= slots.popleft()[1]
        return self.limit - self._used

    def take(self, units: int, mono: float) -> None:
        """Count these as gone."""
        slot = int(mono / _SLOT_S)
        if self._slots and self._slots[-1][0] >= slot:
            self._slots[-1][1] += units
        else:
            self._slots.append([slot, units])
        self._used += units


class WaitingLine:
    """Spreads those who must wait over the time that it takes to serve them."""

    def __init__(self) -> None:
        self._next_mono = 0.0

    def ticket(self, interval_s: float, mono: float) -> int:
        """Seconds after which to come back; each call's turn is `interval_s` after the one before."""
        turn = max(self._next_mono, mono + WAIT_MIN_S)
        if turn > mono + WAIT_MAX_S:
            turn = mono + WAIT_MIN_S
        self._next_mono = turn + interval_s
        return math.ceil(turn - mono)


class FairShares:
    """The caps in force; made anew when they change, with the leases of before."""

    def __init__(self, limits: Limits, *, lease_s: float, mono: float, before: "FairShares | None" = None) -> None:
        self.limits = limits
        self._lease_s = lease_s
        self._blocks = SlidingWindow(limits.blocks_per_s, mono) if limits.blocks_per_s else None
        self._bytes = SlidingWindow(limits.bytes_per_s, mono) if limits.bytes_per_s else None
        self._line = WaitingLine()
        self._slots_line = WaitingLine()
        self._leases: OrderedDict[object, float] = OrderedDict()
        """Holder → monotonic time of its last block, the longest unused first."""
        self._ended: dict[object, float] = {}
        self._slots_from_mono = mono + WINDOW_S if before is None or not before.limits.downloads else mono
        if before is not None:
            self._leases, self._ended = before._leases, before._ended  # noqa: SLF001 - one class
        while limits.downloads and len(self._leases) > limits.downloads:
            self._leases.popitem()

    def seed(self, holder: object, last_mono: float) -> None:
        """A download that was under way before the restart keeps its slot, if there is one."""
        if len(self._leases) < self.limits.downloads:
            self._leases[holder] = last_mono

    def end(self, holder: object) -> None:
        """This device has nothing more to fetch: its slot is free as soon as no second shows it beside the next."""
        last = self._leases.get(holder)
        if last is not None:
            self._ended[holder] = last + WINDOW_S

    def admit(self, holder: object, sizes: list[int], mono: float) -> tuple[int, int]:
        """How many blocks of these sizes may go now, and if none, after how many seconds to ask again.

        What may go is counted as gone. More blocks than a whole share are cut to it; else all or none.
        """
        if self.limits.downloads and not self._has_slot(holder, mono):
            return 0, self._slots_line.ticket(self._lease_s / self.limits.downloads, mono)
        count = len(sizes)
        if self._blocks is not None:
            count = min(count, self._blocks.limit)
            if count > self._blocks.left(mono):
                return 0, self._line.ticket(count / self._blocks.limit, mono)
        total = sum(sizes[:count])
        if self._bytes is not None:
            while count > 1 and total > self._bytes.limit:
                count -= 1
                total -= sizes[count]
            if total > self._bytes.left(mono):
                return 0, self._line.ticket(total / self._bytes.limit, mono)
            self._bytes.take(total, mono)
        if self._blocks is not None:
            self._blocks.take(count, mono)
        if self.limits.downloads:
            self._leases[holder] = mono
            self._leases.move_to_end(holder)
            self._ended.pop(holder, None)
        return count, 0

    def downloads(self, mono: float) -> int:
        """Slots that are held now."""
        self._expire(mono)
        return len(self._leases)

    def _has_slot(self, holder: object, mono: float) -> bool:
        if mono < self._slots_from_mono:
            return False
        last = self._leases.get(holder)
        if last is not None and mono < last + self._lease_s:
            return True
        if len(self._leases) >= self.limits.downloads:
            self._expire(mono)
        return len(self._leases) < self.limits.downloads

    def _expire(self, mono: float) -> None:
        while self._leases and next(iter(self._leases.values())) + self._lease_s <= mono:
            self._ended.pop(self._leases.popitem(last=False)[0], None)
        for holder in [holder for holder, until in self._ended.items() if until <= mono]:
            del self._ended[holder]
            self._leases.pop(holder, None)
