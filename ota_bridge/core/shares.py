"""Fair shares: fleet-wide caps on blocks and bytes per second and on simultaneous downloads, and who waits how long.

Pure; time is monotonic seconds. Rules:
1. A cap holds in every window of one second as somebody outside counts it, so it is kept over WINDOW_S: what a broker
   delivers late and then early again may come that much closer together. Bytes are those of whole packets.
2. What was not seen counts as used up: where a cap is new, as after every start, nothing passes for the first WINDOW_S.
   A change of a cap forgets nothing. So neither a kill nor a change can be used to get twice the share.
3. A download's slot is a lease: it ends `lease_s` after its device last asked, or when the device has no more to fetch,
   or when there are fewer slots. It then rests for REST_S, so that no second shows its device beside the next one.
4. A slot is needed for every artifact, so that who has none is not served at all.
5. Who must wait has a place in a line (`line`). A slot that has become free is for those in front at first, then for
   those further and further back.
6. What goes in one stream (`bodies`) must not stop for long once it has begun, and the others take what is free in
   bursts. So it gets a *lane*: a small part of the rates, cut off from the rest while it lasts, in which one packet may
   go every LANE_STEP_S. Lanes take at most half of a rate, and leave the largest packet of the others its room. What a
   stream wants beside that is of what nobody in the line waits for: who asks all the time would never let them pass.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from ota_bridge.core.line import WaitingLine
from ota_bridge.core.values import Limits, Share

WINDOW_S: Final = 1.2
REST_S: Final = 1.5
"""A slot that was given back: nobody's. And how long no slot is given after a start, when others may have had them."""
WAIT_MAX_S: Final = 300.0
PATIENCE_MAX_S: Final = 10.0
"""How long a free slot is left to those in front, at most: then whoever asks may have it."""
TOLD_PART: Final = 16
"""One part in so many of the bytes is for refusals, the rest for blocks."""
LANE_STEP_S: Final = 0.2
LANE_PACKETS: Final = 7
"""So many packets go in a lane within WINDOW_S, both ends counted."""
_LANE_MAX_S: Final = 30.0
"""Nobody who waits for a lane is told to stay away for longer."""
_HOLD_S: Final = 5.0
"""How long downloads last, before one was seen."""
_SLOT_S: Final = 0.01
_SLOTS: Final = round(WINDOW_S / _SLOT_S)


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now: for want of what, and after how many seconds to ask again."""

    share: Share
    retry_after_s: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Download slots that are held, devices that wait for one, devices that wait for blocks or bytes."""

    slots_held: int = 0
    waiting_for_slot: int = 0
    waiting_for_share: int = 0


class SlidingWindow:
    """At most `limit` units in any WINDOW_S; what came before `start_mono` counts as `limit` units at that moment."""

    def __init__(self, limit: int, start_mono: float) -> None:
        self.limit = limit
        self._slots: deque[list[int]] = deque([[int(start_mono / _SLOT_S), limit]])
        self._used = limit

    def left(self, mono: float) -> int:
        """How many units may go now; below zero after the limit was lowered."""
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


def _changed(window: SlidingWindow | None, limit: int, mono: float) -> SlidingWindow | None:
    """The window under another limit, with all that it has seen."""
    if not limit:
        return None
    if window is None:
        return SlidingWindow(limit, mono)
    window.limit = limit
    return window


@dataclass(slots=True)
class _Lease:
    since_mono: float
    used_mono: float


class DownloadSlots:
    """`limit` leases, who holds them and who waits for one."""

    def __init__(self, limit: int, lease_s: float, mono: float) -> None:
        self.limit = limit
        self._lease_s = lease_s
        self._from_mono = self._free_since_mono = mono + REST_S
        self._leases: OrderedDict[Hashable, _Lease] = OrderedDict()
        """The longest unused first."""
        self._resting: OrderedDict[Hashable, float] = OrderedDict()
        """Who gave its slot back, and when that is free."""
        self._since_sum = 0.0
        self._hold_s = _HOLD_S
        self._line = WaitingLine(WAIT_MAX_S)

    def waiting(self, mono: float) -> int:
        """How many wait for a slot."""
        return self._line.waiting(mono)

    def held(self, mono: float) -> int:
        """Slots that are held now."""
        self._expire(mono)
        return len(self._leases)

    def change(self, limit: int, mono: float) -> None:
        """There are so many from now on; when they become fewer, the youngest downloads lose theirs."""
        self._expire(mono)
        if self._taken >= self.limit:
            self._free_since_mono = max(mono, self._free_since_mono)
        self.limit = limit
        if len(self._leases) > limit:
            youngest = sorted(self._leases, key=lambda holder: self._leases[holder].since_mono)[limit:]
            for holder in youngest:
                self.end(holder, mono)

    def seed(self, holder: Hashable, last_mono: float) -> None:
        """A download that was under way before the restart keeps its slot. To be called in the order of `last_mono`."""
        if len(self._leases) >= self.limit:
            self._since_sum -= self._leases.popitem(last=False)[1].since_mono
        self._begin(holder, last_mono)

    def end(self, holder: Hashable, mono: float) -> None:
        """This device has nothing more to fetch, or no right to it any more."""
        lease = self._leases.pop(holder, None)
        if lease is not None:
            self._over(lease, mono)
            self._resting[holder] = mono + REST_S

    def ask(self, holder: Hashable, mono: float) -> int:
        """0 where this device holds a slot or has got one now, else after how many seconds to ask again."""
        self._expire(mono)
        lease = self._leases.get(holder)
        if mono < self._from_mono:
            if lease is not None:
                return math.ceil(self._from_mono - mono)
        elif lease is not None:
            lease.used_mono = mono
            self._leases.move_to_end(holder)
            return 0
        elif self._may_begin(holder, mono):
            self._begin(holder, mono)
            return 0
        return self._line.wait(holder, 1, self._interval_s(mono), mono)

    @property
    def _taken(self) -> int:
        return len(self._leases) + len(self._resting)

    def _may_begin(self, holder: Hashable, mono: float) -> bool:
        if holder in self._resting:
            return self._taken <= self.limit
        free = self.limit - self._taken
        if not self._line.may_have(holder, 1, free, mono):
            return False
        if self._line.is_at_hand(holder):
            return True
        too_far_back = max(0, self._line.ahead(holder) + 1 - free)
        patience_s = min(self._interval_s(mono) * too_far_back / free, PATIENCE_MAX_S)
        return mono >= self._free_since_mono + patience_s

    def _begin(self, holder: Hashable, mono: float) -> None:
        self._line.leave(holder)
        self._resting.pop(holder, None)
        self._leases[holder] = _Lease(mono, mono)
        self._since_sum += mono

    def _over(self, lease: _Lease, mono: float) -> None:
        self._since_sum -= lease.since_mono
        self._hold_s += (mono - lease.since_mono - self._hold_s) / 8

    def _interval_s(self, mono: float) -> float:
        """About how long it takes until one of the slots becomes free."""
        held = len(self._leases)
        age_s = mono - self._since_sum / held if held else 0.0
        return (max(self._hold_s, 2 * age_s) + REST_S) / self.limit

    def _expire(self, mono: float) -> None:
        while self._leases:
            holder, lease = next(iter(self._leases.items()))
            if lease.used_mono + self._lease_s > mono:
                break
            self._is_free(lease.used_mono + self._lease_s)
            del self._leases[holder]
            self._over(lease, lease.used_mono)
        while self._resting:
            holder, until_mono = next(iter(self._resting.items()))
            if until_mono > mono:
                break
            self._is_free(until_mono)
            del self._resting[holder]

    def _is_free(self, since_mono: float) -> None:
        """One that is taken becomes free; remembered where it is the only one."""
        if self._taken == self.limit:
            self._free_since_mono = max(self._free_since_mono, since_mono)


@dataclass(slots=True)
class _Lane:
    """What is cut off for it: `blocks` and `bytes`, each 0 where that is not capped."""

    packet_bytes: int
    blocks: int
    bytes: int
    used_mono: float = -math.inf


class FairShares:
    """The caps in force."""

    def __init__(self, limits: Limits, *, lease_s: float, mono: float, packet_max_bytes: int = 0) -> None:
        """`packet_max_bytes`: what lanes leave room for."""
        self.limits = Limits()
        self._packet_max_bytes = packet_max_bytes
        self._lanes: dict[Hashable, _Lane] = {}
        self._lane_line = WaitingLine(_LANE_MAX_S)
        self._lease_s = lease_s
        self._slots: DownloadSlots | None = None
        self._blocks: SlidingWindow | None = None
        self._bytes: SlidingWindow | None = None
        self._told: SlidingWindow | None = None
        self._line = WaitingLine(lease_s / 3)  # or a lease would end while its device waits as it was told
        self.change(limits, mono)

    def change(self, limits: Limits, mono: float) -> None:
        """These caps from now on."""
        told = limits.bytes_per_s // TOLD_PART
        for lane in tuple(self._lanes):  # they are as large as the old caps allowed
            self.close_lane(lane, mono)
        self.limits = limits
        self._blocks = _changed(self._blocks, limits.blocks_per_s, mono)
        self._bytes = _changed(self._bytes, limits.bytes_per_s - told, mono)
        self._told = _changed(self._told, told, mono)
        if not limits.downloads:
            self._slots = None
        elif self._slots is None:
            self._slots = DownloadSlots(limits.downloads, self._lease_s, mono)
        else:
            self._slots.change(limits.downloads, mono)

    @property
    def are_rates_capped(self) -> bool:
        """True while blocks or bytes per second are capped."""
        return self._blocks is not None or self._bytes is not None

    @property
    def are_bytes_capped(self) -> bool:
        """True while bytes per second are capped."""
        return self._bytes is not None

    @property
    def largest_bytes(self) -> int | None:
        """The largest packet that can ever pass; None for any."""
        return None if self._bytes is None else self._bytes.limit

    def seed(self, holder: Hashable, last_mono: float) -> None:
        """See `DownloadSlots.seed`."""
        if self._slots is not None:
            self._slots.seed(holder, last_mono)

    def end(self, holder: Hashable, mono: float) -> None:
        """This device has nothing more to fetch."""
        if self._slots is not None:
            self._slots.end(holder, mono)

    def admit(
        self, holder: Hashable, sizes: Sequence[int], mono: float, *, lane: Hashable = None, spare: bool = False
    ) -> int | Wait:
        """How many packets of these sizes may go now, from the first on; nothing is counted before `take`.

        More than a whole share is cut to it; else all or none. In a lane, if there is that one: one packet.
        `spare`: only of what nobody waits for, and without a place in the line.
        """
        if (waits := self._slot(holder, mono)) is not None:
            return waits
        blocks, bytes_ = self._blocks, self._bytes
        count, total = len(sizes), sum(sizes)
        own = self._lanes.get(lane)
        if own is not None:
            is_due = mono >= own.used_mono + LANE_STEP_S
            return 1 if is_due and sizes[0] <= own.packet_bytes else Wait(self._tighter, 1)
        if blocks is not None and count > blocks.limit:
            count = blocks.limit
            total = sum(sizes[:count])
        while bytes_ is not None and count > 1 and total > bytes_.limit:
            count -= 1
            total -= sizes[count]
        return self._turn(holder, count, total, mono, spare=spare) or count

    def _slot(self, holder: Hashable, mono: float) -> Wait | None:
        retry_after_s = 0 if self._slots is None else self._slots.ask(holder, mono)
        return Wait(Share.SLOT, retry_after_s) if retry_after_s else None

    def _turn(self, holder: Hashable, count: int, total: int, mono: float, *, spare: bool = False) -> Wait | None:
        """None, if it is the turn of one who wants so many packets with so many bytes in all, and there is as much."""
        blocks, bytes_ = self._blocks, self._bytes
        if blocks is None and bytes_ is None:
            return None
        units, free, tighter = 0.0, 1.0, Share.BLOCKS
        if blocks is not None:
            units, free = count / blocks.limit, blocks.left(mono) / blocks.limit
        if bytes_ is not None:
            units, left = max(units, total / bytes_.limit), bytes_.left(mono) / bytes_.limit
            if left < free or blocks is None:
                free, tighter = left, Share.BYTES
        if spare:
            return None if self._line.may_have(None, units, free, mono) else Wait(tighter, 1)
        if not self._line.may_have(holder, units, free, mono):
            return Wait(tighter, self._line.wait(holder, units, WINDOW_S, mono))
        self._line.leave(holder)
        return None

    @property
    def _tighter(self) -> Share:
        return Share.BLOCKS if self._bytes is None else Share.BYTES

    # --- lanes -------------------------------------------------------------------------------------------

    def open_lane(self, lane: Hashable, holder: Hashable, packet_bytes: int, mono: float) -> Wait | None:
        """A lane for packets up to this size. None: it is there, or nobody gets one: no rate is capped, or too small.

        Wait: it needs a slot, or all lanes that there can be are taken, or it is not the holder's turn yet.
        """
        free = self._free_lanes(packet_bytes)
        if lane in self._lanes or free is None:
            return None
        if (waits := self._slot(holder, mono)) is not None:
            return waits
        if not self._lane_line.may_have(holder, 1, free, mono):
            return Wait(self._tighter, self._lane_line.wait(holder, 1, _HOLD_S, mono))
        waits = self._turn(holder, LANE_PACKETS, LANE_PACKETS * packet_bytes, mono)
        if waits is not None:
            return waits
        self._lane_line.leave(holder)
        own = self._lanes[lane] = _Lane(
            packet_bytes,
            blocks=0 if self._blocks is None else LANE_PACKETS,
            bytes=0 if self._bytes is None else LANE_PACKETS * packet_bytes,
        )
        self._cut(-1, own)
        return None

    def has_lane(self, lane: Hashable) -> bool:
        """True while it is there: a change of the caps closes all of them."""
        return lane in self._lanes

    def close_lane(self, lane: Hashable, mono: float) -> None:
        """What was cut off for it is for all again, and counts as used just now."""
        own = self._lanes.pop(lane, None)
        if own is not None:
            self._cut(1, own)
            if self._blocks is not None:
                self._blocks.take(own.blocks, mono)
            if self._bytes is not None:
                self._bytes.take(own.bytes, mono)

    def even(self, streams: int) -> tuple[int | None, int | None]:
        """Blocks and bytes that each of so many streams may send every LANE_STEP_S, if nobody else sends anything."""
        steps = LANE_PACKETS * max(1, streams)
        blocks, bytes_ = self._whole_blocks, self._whole_bytes
        return None if blocks is None else blocks // steps, None if bytes_ is None else bytes_ // steps

    @property
    def _whole_blocks(self) -> int | None:
        return None if self._blocks is None else self._blocks.limit + sum(own.blocks for own in self._lanes.values())

    @property
    def _whole_bytes(self) -> int | None:
        return None if self._bytes is None else self._bytes.limit + sum(own.bytes for own in self._lanes.values())

    def _free_lanes(self, packet_bytes: int) -> int | None:
        """How many more there can be; None if there can be none at all."""
        free: list[int] = []
        if self._blocks is not None and self._whole_blocks is not None:
            most = self._whole_blocks // 2
            if most < LANE_PACKETS:
                return None
            free.append((most - (self._whole_blocks - self._blocks.limit)) // LANE_PACKETS)
        if self._bytes is not None and self._whole_bytes is not None:
            cost = LANE_PACKETS * packet_bytes
            most = min(self._whole_bytes // 2, self._whole_bytes - self._packet_max_bytes)
            if most < cost:
                return None
            free.append((most - (self._whole_bytes - self._bytes.limit)) // cost)
        return min(free, default=None)

    def _cut(self, sign: int, own: _Lane) -> None:
        if self._blocks is not None:
            self._blocks.limit += sign * own.blocks
        if self._bytes is not None:
            self._bytes.limit += sign * own.bytes

    # --- what goes ---------------------------------------------------------------------------------------

    def take(self, sizes: Sequence[int], mono: float, *, lane: Hashable = None) -> None:
        """These packets go."""
        own = self._lanes.get(lane)
        if own is not None:
            own.used_mono = mono
            return
        if self._blocks is not None:
            self._blocks.take(len(sizes), mono)
        if self._bytes is not None:
            self._bytes.take(sum(sizes), mono)

    def may_tell(self, size: int, mono: float) -> bool:
        """True, and counted, if a refusal of `size` bytes may go."""
        if self._told is None:
            return True
        if size > self._told.left(mono):
            return False
        self._told.take(size, mono)
        return True

    def usage(self, mono: float) -> Usage:
        """How the caps are used."""
        slots = self._slots
        return Usage(
            slots_held=0 if slots is None else slots.held(mono),
            waiting_for_slot=0 if slots is None else slots.waiting(mono),
            waiting_for_share=self._line.waiting(mono),
        )
