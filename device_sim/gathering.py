"""Manifest and ticket of an offer, as bytes: at hand in the long form, pulled one after the other in the short."""

import hashlib
from collections.abc import Callable

from device_sim.download import MAX_AGAIN, Outcome
from device_sim.offers import Offer, Piece
from device_sim.puller import Puller
from device_sim.wire import BlockData


class Gathering:
    """What is still to be fetched before an offer can be judged."""

    def __init__(self, offer: Offer, make_puller: Callable[[Piece], Puller]) -> None:
        self.offer = offer
        self._make_puller = make_puller
        self._pieces = [offer.manifest] + ([] if offer.ticket is None else [offer.ticket])
        self._parts: list[bytes] = []
        self._data = bytearray()
        self._again = 0
        self.puller: Puller | None = None
        self.outcome = Outcome.PULLING
        self._advance()

    @property
    def envelope(self) -> bytes:
        """The manifest's envelope."""
        return self._parts[0]

    @property
    def ticket(self) -> bytes | None:
        """The ticket, if the offer names one."""
        return self._parts[1] if len(self._parts) > 1 else None

    def take(self, block: BlockData, now_s: float) -> None:
        """A block of the piece that is being pulled came."""
        puller = self.puller
        assert puller is not None
        for part in puller.take(block, now_s):
            self._data += part
        if not puller.done:
            return
        if hashlib.sha256(self._data).digest() == self._pieces[len(self._parts)].digest:
            self._parts.append(bytes(self._data))
            self._advance()
            return
        self._again += 1
        self._data.clear()
        puller.rewind(0, puller.size_bytes)
        if self._again > MAX_AGAIN:
            self.outcome, self.puller = Outcome.BAD, None

    def _advance(self) -> None:
        self._data.clear()
        self._again = 0
        while len(self._parts) < len(self._pieces):
            piece = self._pieces[len(self._parts)]
            if piece.data is None:
                self.puller = self._make_puller(piece)
                return
            self._parts.append(piece.data)
        self.outcome, self.puller = Outcome.COMPLETE, None
