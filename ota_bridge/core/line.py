"""Who waits for something that is scarce, in which order, and when each is told to come back.

Pure; time is monotonic seconds. Rules:
1. Whoever asks in vain gets a place at the end and keeps it until served, however often it asks; who does not come back
   within about twice the time it was told has left.
2. Each is told a time of its own: about half of what those before it will take, so that it comes rather early than
   late and the waiters do not all come at once. The nearer to the front, the sooner it asks again.
3. Who was told to come in a moment is *at hand*: what is free is kept for those at hand, and only what they leave goes
   to others, such as one that has just arrived. What nobody at hand wants is not kept.
"""

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

WAIT_MIN_S: Final = 1.0
AT_HAND_S: Final = 2
"""Whose turn is due within this time is at hand."""
KEPT_FOR_S: Final = 3.5
"""How long something is kept for one at hand: devices come up to half as late again as they were told."""
EARLY: Final = 0.5
_GOLDEN: Final = 0.618034
"""Multiples of it, modulo 1, are spread evenly however many there are."""


@dataclass(slots=True)
class _Place:
    """A place in the line: `number` orders them, `until_mono` is when it is lost."""

    number: int
    until_mono: float = 0.0


class WaitingLine:
    """One line. Units are what the holder shares out: slots, or parts of a second's share."""

    def __init__(self, longest_s: float) -> None:
        """Nobody is told to stay away for longer than `longest_s`."""
        self._longest_s = longest_s
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()
        """By number."""
        self._numbers: list[int] = []
        self._issued = 0
        self._at_hand: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """Holder → units it wants, monotonic time until which they are kept; in the order of that time."""
        self._wanted = 0.0

    def waiting(self, mono: float) -> int:
        """How many stand in it."""
        self._forget(mono)
        return len(self._places)

    def ahead(self, holder: Hashable) -> int:
        """How many stand before this one."""
        place = self._places.get(holder)
        return len(self._numbers) if place is None else bisect_left(self._numbers, place.number)

    def is_at_hand(self, holder: Hashable) -> bool:
        """True if it was told to come in a moment, and the moment is not over."""
        return holder in self._at_hand

    def may_have(self, holder: Hashable, units: float, free: float, mono: float) -> bool:
        """True if this one may have so much of what is free now."""
        self._forget(mono)
        if holder in self._at_hand:
            return units <= free
        return units + self._wanted <= free

    def wait(self, holder: Hashable, units: float, unit_s: float, mono: float) -> int:
        """Keep or take a place; returns after how many seconds to come back. A unit becomes free every `unit_s`."""
        self._forget(mono)
        self._is_no_longer_at_hand(holder)
        place = self._places.get(holder)
        if place is None or place.until_mono <= mono:
            self.leave(holder)
            self._issued += 1
            place = self._places[holder] = _Place(self._issued)
            self._numbers.append(place.number)
        wait_s = max(WAIT_MIN_S, EARLY * units * unit_s * bisect_left(self._numbers, place.number))
        is_near = wait_s <= AT_HAND_S
        if wait_s > self._longest_s:
            wait_s = self._longest_s * (1.0 + place.number * _GOLDEN % 1.0) / 2.0
        told_s = math.ceil(wait_s)
        place.until_mono = mono + 2 * told_s + 2
        if is_near:
            self._at_hand[holder] = (units, mono + KEPT_FOR_S)
            self._wanted += units
        return told_s

    def leave(self, holder: Hashable) -> None:
        """It was served, or wants nothing any more."""
        self._is_no_longer_at_hand(holder)
        place = self._places.pop(holder, None)
        if place is not None:
            del self._numbers[bisect_left(self._numbers, place.number)]

    def _is_no_longer_at_hand(self, holder: Hashable) -> None:
        found = self._at_hand.pop(holder, None)
        if found is not None:
            self._wanted = self._wanted - found[0] if self._at_hand else 0.0

    def _forget(self, mono: float) -> None:
        while self._at_hand:
            holder, (_, until_mono) = next(iter(self._at_hand.items()))
            if until_mono > mono:
                break
            self._is_no_longer_at_hand(holder)
        while self._places:
            holder, place = next(iter(self._places.items()))
            if place.until_mono > mono:
                break
            self.leave(holder)
