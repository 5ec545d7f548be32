"""How the load goes over time: bytes that are served, and deployments that are open; and a line of bars for a terminal.

What is not nothing is kept by bucket, at first of a second; where there are too many, two become one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

BUCKETS_MAX: Final = 50_000
BARS: Final = " ▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class Curve:
    """Sums and peaks by bucket of `width_s` seconds; a bucket that is not there has had nothing, or no change."""

    width_s: float = 1.0
    bytes: dict[int, float] = field(default_factory=dict)
    open: dict[int, int] = field(default_factory=dict)
    """The most that were open at once."""
    left: dict[int, int] = field(default_factory=dict)
    """How many were open at the end of the bucket."""
    _open_now: int = 0

    def served(self, from_s: float, to_s: float, bytes_per_s: float) -> None:
        """So much was served in this time."""
        first, last = int(from_s / self.width_s), int(to_s / self.width_s)
        for place in range(first, last + 1):
            seconds = min(to_s, (place + 1) * self.width_s) - max(from_s, place * self.width_s)
            self.bytes[place] = self.bytes.get(place, 0.0) + bytes_per_s * seconds
        if len(self.bytes) > BUCKETS_MAX:
            self._widen()

    def moved(self, at_s: float, by: int) -> None:
        """So many more are open now."""
        place = int(at_s / self.width_s)
        before, self._open_now = self._open_now, self._open_now + by
        self.open[place] = max(self.open.get(place, before), self._open_now)
        self.left[place] = self._open_now
        if len(self.open) > BUCKETS_MAX:
            self._widen()

    @property
    def whole_bytes(self) -> float:
        """All that was served."""
        return sum(self.bytes.values())

    @property
    def busy_s(self) -> float:
        """Until when something was served, and a little longer."""
        last = max((place for place, size in self.bytes.items() if size > 0.0), default=-1) + 1
        return (last + max(1, last // 20)) * self.width_s

    def bytes_per_s(self, points: int) -> list[float]:
        """The busy time in at most so many parts: the highest rate of each."""
        count = round(self.busy_s / self.width_s)
        return drawn([self.bytes.get(place, 0.0) / self.width_s for place in range(count)], points)

    def open_at_most(self, points: int) -> list[float]:
        """The same for what was open."""
        found: list[float] = []
        now = 0
        for place in range(round(self.busy_s / self.width_s)):
            found.append(max(now, self.open.get(place, now)))
            now = self.left.get(place, now)
        return drawn(found, points)

    def _widen(self) -> None:
        sizes: dict[int, float] = {}
        for place, size in self.bytes.items():
            sizes[place // 2] = sizes.get(place // 2, 0.0) + size
        peaks: dict[int, int] = {}
        for place, number in self.open.items():
            peaks[place // 2] = max(peaks.get(place // 2, 0), number)
        self.bytes, self.open, self.width_s = sizes, peaks, self.width_s * 2
        self.left = {place // 2: number for place, number in sorted(self.left.items())}


def drawn(values: Sequence[float], columns: int) -> list[float]:
    """The peaks of so many columns; fewer where there are fewer values."""
    count = len(values)
    if count <= columns:
        return list(values)
    ends = [round(count * (column + 1) / columns) for column in range(columns)]
    return [max(values[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]


def sparkline(values: Sequence[float], columns: int) -> str:
    """The values as a line of bars, the highest as high as the line. What is not nothing is seen."""
    found = drawn(values, columns)
    most = max(found, default=0.0)
    if not most:
        return BARS[0] * len(found)
    return "".join(BARS[0] if value <= 0.0 else BARS[max(1, round(value / most * (len(BARS) - 1)))] for value in found)
