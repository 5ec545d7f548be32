"""Reports on their way: each is repeated with jitter until the bridge itself acknowledges it.

The key of a report is its boot and `seq`; a repeat is byte for byte the same. Of each kind only the newest
waits (a later check-in says all that an earlier one did), so the outbox is bounded by the number of kinds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Final

from device_sim.wire import Encoding, encode

FIRST_RETRY_S: Final = 2.0
MAX_RETRY_S: Final = 15.0


class Kind(StrEnum):
    """What a report is about."""

    CHECK_IN = "check_in"
    PROGRESS = "progress"
    DOWNLOADED = "downloaded"
    BURNING = "burning"
    DEFER = "defer"
    CLAIM = "claim"
    FINAL = "final"


@dataclass(slots=True, kw_only=True)
class _Pending:
    kind: Kind
    seq: int
    body: bytes
    next_at_s: float
    retry_s: float = FIRST_RETRY_S


class Outbox:
    """The unacknowledged reports of one boot."""

    __slots__ = ("_boot", "_encoding", "_pending", "_rng", "_seq")

    def __init__(self, *, boot: int, encoding: Encoding, rng: Random) -> None:
        self._boot = boot
        self._encoding: Encoding = encoding
        self._rng = rng
        self._seq = 0
        self._pending: dict[Kind, _Pending] = {}

    def add(self, kind: Kind, message: dict[str, Any], now_s: float) -> int:
        """Put a report in the place of an older one of its kind; returns its `seq`."""
        self._seq += 1
        body = encode({**message, "boot": self._boot, "seq": self._seq}, self._encoding)
        self._pending.pop(kind, None)
        self._pending[kind] = _Pending(kind=kind, seq=self._seq, body=body, next_at_s=now_s)
        return self._seq

    def drop(self, kind: Kind) -> None:
        """A report that no longer matters."""
        self._pending.pop(kind, None)

    def waits(self, kind: Kind) -> bool:
        """Whether a report of this kind is unacknowledged."""
        return kind in self._pending

    def seq_of(self, kind: Kind) -> int:
        """The `seq` of the waiting report of this kind, or 0."""
        waiting = self._pending.get(kind)
        return 0 if waiting is None else waiting.seq

    def acknowledge(self, seqs: Iterable[int], *, keep: Kind | None = None) -> set[Kind]:
        """Drop the acknowledged reports; `keep` names a kind that waits for more than an acknowledgement."""
        wanted = set(seqs)
        found = {kind for kind, pending in self._pending.items() if pending.seq in wanted}
        for kind in found - {keep}:
            del self._pending[kind]
        return found

    def due(self, now_s: float) -> list[bytes]:
        """The reports to send now, oldest first."""
        bodies: list[bytes] = []
        for pending in self._pending.values():
            if pending.next_at_s <= now_s:
                bodies.append(pending.body)
                pending.next_at_s = now_s + pending.retry_s * self._rng.uniform(0.75, 1.25)
                pending.retry_s = min(MAX_RETRY_S, pending.retry_s * 2)
        return bodies

    def send_again(self, now_s: float) -> None:
        """After a reconnect: whatever was sent may be lost, so all of it is due, spread a little."""
        for pending in self._pending.values():
            pending.retry_s = FIRST_RETRY_S
            pending.next_at_s = now_s + self._rng.uniform(0.0, 0.2)

    def deadline_s(self) -> float | None:
        """When the next report is due."""
        return min((pending.next_at_s for pending in self._pending.values()), default=None)
