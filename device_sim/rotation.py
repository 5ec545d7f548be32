"""Another keyset on its way to a device: fetch it where it was only named, judge it, put it into flash.

1. The bridge sends the step after the keyset that the last check-in named, one at a time. What is not above the own
   keyset is a repeat, and dropped; so is everything while an image is being installed or on trial.
2. A keyset that follows is one write to the flash: after a power cut the device has the old or the new one. With a
   new epoch the same write sets the seqs back, and it ends a download that the new keyset would not take.
3. A refused one changes nothing; the next check-ins say why.
4. At most `MAX_STEPS` in one boot.
"""

import hashlib
import logging
from typing import Any, Final

from device_sim.download import MAX_AGAIN
from device_sim.errors import KeysetRefusal, KeysetRefused
from device_sim.model import Phase
from device_sim.offers import Piece, read_piece
from device_sim.puller import Limits, Puller, RoundTrip
from device_sim.session import Session
from device_sim.trust import MAX_KEYSET_BYTES, follow
from device_sim.updater import Updater
from device_sim.wire import BlockData, BlockRefusal, number

log = logging.getLogger(__name__)

MAX_STEPS: Final = 256
GIVE_UP: Final = frozenset({1, 2, 6})


class Rotation:
    """The key part of a running firmware."""

    def __init__(self, session: Session, updater: Updater) -> None:
        self._s = session
        self._updater = updater
        self._steps = 0
        self._piece: Piece | None = None
        self._puller: Puller | None = None
        self._data = bytearray()
        self._again = 0

    def notice(self, message: dict[str, Any], now_s: float) -> bool:
        """An `update_keys` came; False when it is dropped."""
        version, piece = number(message, "version", -1), read_piece(message.get("keyset"), "keyset")
        own = self._s.trust.version
        if version <= own or self._steps >= MAX_STEPS or self._is_busy():
            return False
        if version > own + 1:
            self._refuse(KeysetRefused(KeysetRefusal.STEP, f"keyset {version} does not come after {own}"), now_s)
        elif piece.size_bytes > MAX_KEYSET_BYTES:
            self._refuse(KeysetRefused(KeysetRefusal.SIZE, f"a keyset of {piece.size_bytes} bytes"), now_s)
        elif piece.data is not None:
            self._judge(piece.data, now_s)
        elif self._piece != piece:
            self._fetch(piece)
        return True

    def block(self, block: BlockData, now_s: float) -> bool:
        """A piece of an artifact came; False when it is not of a keyset that is being fetched."""
        puller, piece = self._puller, self._piece
        if puller is None or piece is None or block.artifact != puller.artifact:
            return False
        self._data += b"".join(puller.take(block, now_s))
        if not puller.done:
            return True
        data = bytes(self._data)
        if hashlib.sha256(data).digest() == piece.digest:
            self._judge(data, now_s)
            return True
        self._again += 1
        self._data.clear()
        puller.rewind(0, piece.size_bytes)
        if self._again > MAX_AGAIN:
            self._refuse(KeysetRefused(KeysetRefusal.FORM, "what was fetched is not what was named"), now_s)
        return True

    def refused(self, refusal: BlockRefusal, now_s: float) -> bool:
        """The bridge would not give a block; False when that was not about a keyset."""
        puller = self._puller
        if puller is None or refusal.artifact != puller.artifact:
            return False
        if refusal.code in GIVE_UP:
            self._stop()  # the answer to the next check-in names it again
            after_s = max(2.0, min(refusal.retry_after_s, 3600.0))
            self._s.check_in_within(now_s, after_s / 2, after_s)
        else:
            puller.limits.block_bytes = max(1, min(puller.limits.block_bytes, refusal.size_max))
            puller.limits.window = max(1, min(puller.limits.window, refusal.count_max))
            puller.pause(now_s, max(min(refusal.retry_after_s, 3600.0), 0.3) * self._s.rng.uniform(1.0, 1.5))
        return True

    def reconnected(self, now_s: float) -> None:
        """What was outstanding before the line broke is lost."""
        if self._puller is not None:
            self._puller.resume(now_s)

    def deadline_s(self) -> float | None:
        """When `poll` has something to do."""
        return None if self._puller is None else self._puller.deadline_s()

    def poll(self, now_s: float) -> None:
        """Send the block request that is due."""
        request = None if self._puller is None else self._puller.poll(now_s)
        if request is not None:
            self._s.send("get", request)

    def _is_busy(self) -> bool:
        return self._s.phase in {Phase.INSTALLING, Phase.TRIAL} or self._s.will_reboot

    def _fetch(self, piece: Piece) -> None:
        config = self._s.config
        self._stop()
        self._piece = piece
        self._puller = Puller(
            digest=piece.digest,
            size_bytes=piece.size_bytes,
            position=0,
            limits=Limits(block_bytes=config.block_bytes, window=config.window),
            pace_bps=config.pace_bps,
            trip=RoundTrip(),
            rng=self._s.rng,
        )

    def _stop(self) -> None:
        self._piece = self._puller = None
        self._data.clear()
        self._again = 0

    def _judge(self, step: bytes, now_s: float) -> None:
        self._stop()
        s = self._s
        if self._is_busy():
            return
        try:
            trust, payload = follow(s.trust, step)
        except KeysetRefused as refused:
            self._refuse(refused, now_s)
            return
        changes: dict[str, Any] = {"keyset": payload}
        if trust.epoch != s.trust.epoch:
            changes |= {"epoch": trust.epoch, "seqs": {}}
        revoked = self._updater.revoked_by(trust)
        if revoked:
            changes["download"] = None
        s.storage.save(**changes)
        s.trust, s.keyset_refused = trust, ""
        self._steps += 1
        log.info("%s: keyset %d", s.config.device, trust.version)
        if revoked:
            self._updater.revoked()
        s.check_in_within(now_s, 0.0, 0.5)

    def _refuse(self, refused: KeysetRefused, now_s: float) -> None:
        self._stop()
        s = self._s
        log.warning("%s: %s", s.config.device, refused)
        if s.keyset_refused != refused.code:  # said once at once, then with the check-ins that come anyway
            s.keyset_refused = refused.code
            s.check_in_within(now_s, 1.0, 5.0)
