"""A bad line at the device's edge: blocks and block requests are lost or doubled, by a seed.

Only `get` and `block` suffer: reports have QoS 1 and their own acknowledgement. Loss hits incoming blocks and
outgoing requests alike, doubling hits requests, so that the same block comes twice.
"""

from random import Random


class Link:
    """The line of one device."""

    __slots__ = ("_dup", "_loss", "_rng")

    def __init__(self, *, loss: float, dup: float, rng: Random) -> None:
        self._loss = loss
        self._dup = dup
        self._rng = rng

    def request_copies(self) -> int:
        """How many times the next request reaches the broker: 0, 1 or 2."""
        if self._loss and self._rng.random() < self._loss:
            return 0
        return 2 if self._dup and self._rng.random() < self._dup else 1

    def block_arrives(self) -> bool:
        """Whether the next block reaches the device."""
        return not self._loss or self._rng.random() >= self._loss
