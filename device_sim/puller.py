"""Pulling one artifact block by block: one window at a time, asked again only where something is missing.

`poll(now)` gives the next request when one is due, `take` swallows a block and returns the bytes that are in
order now. One window is outstanding at any time, so a restart loses at most a window and the caller's unit.
The timer adapts to the round trip (RFC 6298: only unrepeated requests are measured), restarts with each
block, backs off with jitter and never fires before `MIN_RTO_S`. Nothing is assumed about order or arrival.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from device_sim.wire import BlockData, request

MIN_RTO_S: Final = 0.3
FIRST_RTO_S: Final = 2.0
MAX_RTO_S: Final = 8.0
KEY_BYTES: Final = 8


@dataclass(slots=True, kw_only=True)
class Limits:
    """How much is asked for at once: the device's own wish, and what the bridge allows."""

    block_bytes: int
    window: int


class RoundTrip:
    """The answer time of the bridge, shared by the transfers of one connection."""

    __slots__ = ("_backoff", "_deviation_s", "_mean_s")

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0
        self._backoff = 1.0

    def sample(self, took_s: float) -> None:
        """A request that was sent once was answered after `took_s`."""
        self._backoff = 1.0
        if self._mean_s is None:
            self._mean_s, self._deviation_s = took_s, took_s / 2
            return
        self._deviation_s += (abs(took_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (took_s - self._mean_s) / 8

    def timed_out(self) -> None:
        """Wait longer from now on, until a request is answered at once again."""
        self._backoff = min(self._backoff * 2, 64.0)

    def timeout_s(self, rng: Random) -> float:
        """How long to wait without a block before asking again."""
        base = FIRST_RTO_S if self._mean_s is None else self._mean_s + 4 * self._deviation_s
        return min(MAX_RTO_S, max(MIN_RTO_S, base) * self._backoff) * rng.uniform(1.0, 1.25)


class Puller:
    """The transfer of `size_bytes` bytes of one artifact, from `position` on."""

    __slots__ = (
        "_asked_at_s", "_base", "_block", "_count", "_firm_s", "_held", "_limit", "_pace", "_repeated", "_rng",
        "_timer_s", "_trip", "_wait_s", "artifact", "limits", "position", "retries", "silent", "size_bytes",
    )  # fmt: skip

    def __init__(
        self,
        *,
        digest: bytes,
        size_bytes: int,
        position: int,
        limits: Limits,
        pace_bps: int,
        trip: RoundTrip,
        rng: Random,
    ) -> None:
        self.artifact = digest[:KEY_BYTES]
        self.size_bytes = size_bytes
        self.position = position
        self.limits = limits
        self.retries = 0
        self.silent = 0
        self._pace = pace_bps
        self._trip = trip
        self._rng = rng
        self._limit = size_bytes
        self._held: dict[int, bytes] = {}
        self._base = self._block = self._count = 0
        self._asked_at_s: float | None = None
        self._repeated = False
        self._timer_s: float | None = None
        self._wait_s = self._firm_s = 0.0

    @property
    def done(self) -> bool:
        """Whether every byte was handed out."""
        return self.position >= self.size_bytes

    def deadline_s(self) -> float | None:
        """When `poll` has something to do."""
        if self.done:
            return None
        return self._wait_s if self._timer_s is None else max(self._timer_s, self._wait_s)

    def poll(self, now_s: float) -> bytes | None:
        """The request that is due, if one is."""
        deadline = self.deadline_s()
        if deadline is None or now_s < deadline:
            return None
        if self._timer_s is not None:
            self._trip.timed_out()
            self.silent += 1
            return self._ask_again(now_s)
        return self._ask(now_s)

    def take(self, block: BlockData, now_s: float) -> list[bytes]:
        """A block came: the pieces that are in order now. What nobody asked for is dropped."""
        if not self._count:
            return []
        index, odd = divmod(block.offset - self._base, self._block)
        if odd or not self._head() <= index < self._count or index in self._held:
            return []
        if len(block.data) != self._length(index):
            return []
        if self._asked_at_s is not None and not self._repeated:
            self._trip.sample(now_s - self._asked_at_s)
        self._asked_at_s = None
        self.silent = 0
        self._held[index] = block.data
        ready: list[bytes] = []
        while (piece := self._held.pop(self._head(), None)) is not None:
            ready.append(piece)
            self.position += len(piece)
        self._timer_s = now_s + self._trip.timeout_s(self._rng)
        if self._head() >= self._count:
            self._close()
        return ready

    def rewind(self, position: int, limit: int) -> None:
        """Fetch again from `position`; the next windows stop at `limit` until it is reached."""
        self.position = position
        self._limit = limit
        self._close()

    def pause(self, now_s: float, for_s: float, *, firm: bool = False) -> None:
        """Ask for nothing until then; what is outstanding is asked for anew afterwards. A `firm` one nothing ends."""
        self._close()
        self._wait_s = max(self._wait_s, now_s + for_s)
        if firm:
            self._firm_s = self._wait_s

    def resume(self, now_s: float) -> None:
        """After a reconnect: what was outstanding is lost."""
        if self._count:
            self._close()
        self._wait_s = max(self._firm_s, min(self._wait_s, now_s + 30.0))

    def wake(self, now_s: float) -> None:
        """The bridge has just spoken: ask now, whatever an earlier refusal said, but for its place in a line."""
        self._wait_s = max(self._firm_s, min(self._wait_s, now_s))

    def _close(self) -> None:
        self._held.clear()
        self._base = self._block = self._count = 0
        self._timer_s = None

    def _head(self) -> int:
        return -(-(self.position - self._base) // self._block) if self._block else 0

    def _length(self, index: int) -> int:
        return min(self._block, self.size_bytes - self._base - index * self._block)

    def _ask(self, now_s: float) -> bytes:
        if self.position >= self._limit:
            self._limit = self.size_bytes
        left = self._limit - self.position
        self._base = self.position
        self._block = min(self.limits.block_bytes, left)
        self._count = min(self.limits.window, -(-left // self._block))
        self._repeated = False
        self._asked_at_s = now_s
        self._pay(now_s, min(left, self._block * self._count))
        self._timer_s = now_s + self._trip.timeout_s(self._rng)
        return request(self.artifact, self._base, self._block, self._count)

    def _ask_again(self, now_s: float) -> bytes:
        first = self._head()
        missing = [index - first for index in range(first, self._count) if index not in self._held]
        self.retries += 1
        self._repeated = True
        self._timer_s = now_s + self._trip.timeout_s(self._rng)
        self._pay(now_s, self._block * len(missing))
        offset = self._base + first * self._block
        if len(missing) == self._count - first:
            return request(self.artifact, offset, self._block, len(missing))
        bits = sum(1 << index for index in missing)
        return request(self.artifact, offset, self._block, len(missing), bits.to_bytes(missing[-1] // 8 + 1, "little"))

    def _pay(self, now_s: float, size_bytes: int) -> None:
        if self._pace:
            self._wait_s = max(self._wait_s, now_s) + size_bytes / self._pace
