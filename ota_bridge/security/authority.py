"""Whom the daemon trusts, and its own online key: the core's `ManifestVerifier` and `TicketIssuer`.

The trust document is read again whenever the file changes, so that a key can be added or taken away while the daemon
runs; every envelope is then checked anew. Used on one thread.
"""

import logging
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import ConfigError, InvalidInput, ManifestRefused, RefusedReason
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.values import DeviceId
from ota_bridge.security import manifest, tokens
from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.trust import Trust

_log = logging.getLogger(__name__)

VERIFIED_MAX: Final = 1024
"""How many verified envelopes are remembered."""


class Authority:
    """Checks manifests against the trust document and signs tickets."""

    def __init__(
        self, trust_path: Path, online_key_path: Path, *, ticket_valid_s: int, allow_test_keys: bool = False
    ) -> None:
        self._trust_path = trust_path
        self._allow_test_keys = allow_test_keys
        self._ticket_valid_s = ticket_valid_s
        self._stamp: tuple[int, int, int] | None = None
        self._trust: Trust | None = None
        self._verified: dict[bytes, ManifestFacts] = {}
        self._online: SigningKey | None = self._load_online(online_key_path)

    @staticmethod
    def _load_online(path: Path) -> SigningKey | None:
        if not path.exists():
            _log.warning("no online key at %s: offers carry no freshness ticket (ota-bridge keys new makes one)", path)
            return None
        loaded = load_key(path)
        if loaded.warning:
            _log.warning("online key: %s", loaded.warning)
        return loaded.key

    def trust(self) -> Trust:
        """The document as it stands now; raises ConfigError or InvalidInput."""
        try:
            status = self._trust_path.stat()
        except OSError as error:
            self._trust, self._stamp = None, None
            raise ConfigError(f"no trust document at {self._trust_path}: ota-bridge keys new makes one") from error
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._trust is None or stamp != self._stamp:
            self._verified.clear()
            self._trust = None
            trust = Trust.load(self._trust_path)
            if trust.test_keys and not self._allow_test_keys:
                raise ConfigError(
                    f"{self._trust_path} holds a test key; remove it, or set security.allow_test_keys for a laboratory"
                )
            self._trust, self._stamp = trust, stamp
        return self._trust

    def verify(self, envelope: bytes) -> ManifestFacts:
        """What the manifest says; raises ManifestRefused, also when there is nobody to trust."""
        try:
            trust = self.trust()
        except (ConfigError, InvalidInput) as error:
            raise ManifestRefused(RefusedReason.SIG, str(error)) from error
        known = self._verified.get(envelope)
        if known is None:
            known = manifest.verify(envelope, trust)
            if len(self._verified) >= VERIFIED_MAX:
                self._verified.clear()
            self._verified[envelope] = known
        return known

    def ticket(self, device: DeviceId, nonce: bytes, manifest_digest: bytes, wall: float) -> bytes | None:
        """A freshness ticket for one device, nonce and manifest; None without an online key."""
        if self._online is None:
            return None
        return tokens.issue(
            self._online,
            device=str(device),
            nonce=nonce,
            manifest_digest=manifest_digest,
            time_s=int(wall),
            valid_s=self._ticket_valid_s,
        )
