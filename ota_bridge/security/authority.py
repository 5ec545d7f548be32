"""Whom the daemon trusts, and its own online key: the core's `ManifestVerifier`, `TicketIssuer` and `Keysets`.

1. Two trust documents are joined: the operator's, and the daemon's own, to which published rotations are added. One has
   to continue the other.
2. Both are read again whenever a file changes, and the online key too, so that keys can be added or taken away while
   the daemon runs; every envelope and every rotation is then checked anew.
3. The daemon holds no author's key: it stores what was signed elsewhere, and passes it on.

Used from any thread.
"""

import logging
import threading
from pathlib import Path
from typing import Any, Final

from ota_bridge.core.errors import ConfigError, InvalidInput, ManifestRefused, OperatorError, RefusedReason
from ota_bridge.core.keysets import KeysetStanding
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.values import DeviceId
from ota_bridge.security import manifest, tokens
from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.trust import Trust

_log = logging.getLogger(__name__)

VERIFIED_MAX: Final = 1024
"""How many verified envelopes are remembered."""

_Stamp = tuple[int, int, int] | None


class Authority:
    """Checks manifests against the keyset that counts, signs tickets, and keeps the rotations."""

    def __init__(
        self,
        trust_path: Path,
        online_key_path: Path,
        *,
        ticket_valid_s: int,
        own_path: Path | None = None,
        allow_test_keys: bool = False,
    ) -> None:
        """`own_path` is where published rotations are kept; without it none can be published."""
        self._trust_path = trust_path
        self._own_path = own_path
        self._online_path = online_key_path
        self._allow_test_keys = allow_test_keys
        self._ticket_valid_s = ticket_valid_s
        self._lock = threading.RLock()
        self._stamps: tuple[_Stamp, _Stamp] | None = None
        self._trust: Trust | None = None
        self._verified: dict[bytes, ManifestFacts] = {}
        self._online: SigningKey | None = None
        self._online_stamp: _Stamp = None
        if _stamp(online_key_path) is None:
            _log.warning(
                "no online key at %s: offers carry no freshness ticket (ota-bridge keys new makes one)", online_key_path
            )
        else:
            self._online = self._load_online()
            self._online_stamp = _stamp(online_key_path)

    # --- trust -------------------------------------------------------------------------------------------

    def trust(self) -> Trust:
        """What counts now; raises ConfigError or InvalidInput."""
        with self._lock:
            stamps = _stamp(self._trust_path), _stamp(self._own_path)
            if self._trust is None or stamps != self._stamps:
                self._verified.clear()
                self._trust = None
                self._trust = self._load_trust()
                self._stamps = stamps
            return self._trust

    def _load_trust(self) -> Trust:
        if _stamp(self._trust_path) is None:
            raise ConfigError(f"no trust document at {self._trust_path}: ota-bridge keys new makes one")
        trust = newest(self._trust_path, self._own_path)
        if trust.test_keys and not self._allow_test_keys:
            raise ConfigError(
                f"{self._trust_path} holds a test key; remove it, or set security.allow_test_keys for a laboratory"
            )
        return trust

    def verify(self, envelope: bytes) -> ManifestFacts:
        """What the manifest says; raises ManifestRefused, also when there is nobody to trust."""
        with self._lock:
            try:
                trust = self.trust()
            except (ConfigError, OperatorError) as error:
                raise ManifestRefused(RefusedReason.SIG, str(error)) from error
            known = self._verified.get(envelope)
            if known is None:
                known = manifest.verify(envelope, trust)
                if len(self._verified) >= VERIFIED_MAX:
                    self._verified.clear()
                self._verified[envelope] = known
            return known

    # --- rotations ---------------------------------------------------------------------------------------

    def standing(self, version: int) -> KeysetStanding:
        """What a device with keyset `version` is to be sent."""
        try:
            trust = self.trust()
        except (ConfigError, OperatorError):
            return KeysetStanding(newest=version)  # no manifest holds either, and that is what operators are told
        return KeysetStanding(newest=trust.keyset.version, following=trust.step_to(version + 1))

    def publish(self, step: bytes) -> dict[str, Any]:
        """Keep a rotation that follows; raises KeysetRefused, ConfigError, Conflict or InvalidInput.

        Returns what operators are told.
        """
        if self._own_path is None:
            raise ConfigError("rotations have no place here")
        with self._lock:
            before = self.trust()
            trust = before.with_rotation(step)
            if trust is not before:
                trust.save(self._own_path)
                self._trust = None
            keyset, online = trust.keyset, self._online_key()
        return {
            "version": keyset.version,
            "epoch": keyset.epoch,
            "threshold": keyset.threshold,
            "authors": [key.kid.hex() for key in keyset.authors],
            "online": [key.kid.hex() for key in keyset.online],
            "already": trust is before,
            "has_online_key": online is not None and any(key.kid == online.kid for key in keyset.online),
        }

    # --- tickets -----------------------------------------------------------------------------------------

    def ticket(self, device: DeviceId, nonce: bytes, manifest_digest: bytes, wall: float) -> bytes | None:
        """A freshness ticket for one device, nonce and manifest; None without an online key."""
        online = self._online_key()
        if online is None:
            return None
        return tokens.issue(
            online,
            device=str(device),
            nonce=nonce,
            manifest_digest=manifest_digest,
            time_s=int(wall),
            valid_s=self._ticket_valid_s,
        )

    def _online_key(self) -> SigningKey | None:
        with self._lock:
            stamp = _stamp(self._online_path)
            if stamp is not None and stamp != self._online_stamp:
                self._online_stamp = stamp
                try:
                    self._online = self._load_online()
                except OperatorError as error:
                    _log.error("the online key stays the one before: %s", error)
            return self._online

    def _load_online(self) -> SigningKey:
        loaded = load_key(self._online_path)
        if loaded.warning:
            _log.warning("online key: %s", loaded.warning)
        return loaded.key


def newest(trust_path: Path, own_path: Path | None) -> Trust:
    """The operator's trust document, or the daemon's own where that goes further; raises NotFound or InvalidInput."""
    trust = Trust.load(trust_path)
    if own_path is None or _stamp(own_path) is None:
        return trust
    try:
        return trust.joined(Trust.load(own_path))
    except InvalidInput as error:
        raise InvalidInput(f"{trust_path} and {own_path}: {error}") from None


def _stamp(path: Path | None) -> _Stamp:
    """Differs when a file was written to or replaced; None where there is none that can be seen."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
