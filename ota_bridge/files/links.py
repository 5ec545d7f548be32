"""Links: short URLs, each for the image of one deployment, that need no table because they prove themselves.

    BASE/f/CODE      CODE: 46 characters, base64url without padding, of 34 bytes:

     6  the deployment's id
     8  the first bytes of the image's SHA-256
     4  until when it holds: seconds since 1970, big-endian
    16  the first bytes of an HMAC-SHA256 over a label and the 18 bytes before, under the bridge's secret

1. A deployment is one device's, so a link is for one device and one image; it ends with the deployment, or before.
2. Whoever has a link may fetch the image: it is as secret as the notice that it came in.
3. Every notice has a link of its own. Those of before hold as long as they say.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.values import DeploymentId

PATH: Final = "/f/"
PREFIX_BYTES: Final = 8
_CODE: Final = re.compile(r"[A-Za-z0-9_-]{45}[AQgw]")
"""The last character holds two bits: no two codes mean the same."""
_ID_BYTES: Final = 6
_TIME_BYTES: Final = 4
_MAC_BYTES: Final = 16
_FACTS_BYTES: Final = _ID_BYTES + PREFIX_BYTES + _TIME_BYTES
_U32: Final = (1 << 32) - 1
_LABEL: Final = b"ota-bridge link 1\0"


class LinkFault(StrEnum):
    """Why a code is not a link that can be used."""

    MALFORMED = "malformed"
    FORGED = "forged"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a link says."""

    deployment: DeploymentId
    image: bytes
    """The first bytes of the image's SHA-256."""
    until_s: int
    mark: bytes
    """No other link has the same."""


class SignedLinks:
    """Makes links: the port `core.ports.Links`."""

    def __init__(self, base: str, secret: bytes, valid_s: int) -> None:
        self._start = base.rstrip("/") + PATH
        self._secret = secret
        self._valid_s = valid_s

    def __call__(self, deployment: DeploymentId, manifest: ManifestFacts, wall: float) -> str:
        """The link that this deployment's device gets at `wall`."""
        until_s = min(int(wall) + self._valid_s, _U32)
        return self._start + make_code(self._secret, deployment, manifest.sha256, until_s)


def make_code(secret: bytes, deployment: DeploymentId, sha256: bytes, until_s: int) -> str:
    """The last part of a link that holds until `until_s`."""
    facts = bytes.fromhex(deployment) + sha256[:PREFIX_BYTES] + until_s.to_bytes(_TIME_BYTES, "big")
    return base64.urlsafe_b64encode(facts + _mac(secret, facts)).rstrip(b"=").decode()


def read_code(secret: bytes, code: str, wall: float) -> Link | LinkFault:
    """What a code says, if it is whole, the bridge's own, and holds at `wall`."""
    if not _CODE.fullmatch(code):
        return LinkFault.MALFORMED
    raw = base64.urlsafe_b64decode(code + "==")
    facts, mac = raw[:_FACTS_BYTES], raw[_FACTS_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, facts)):
        return LinkFault.FORGED
    until_s = int.from_bytes(facts[-_TIME_BYTES:], "big")
    if wall > until_s:
        return LinkFault.EXPIRED
    return Link(
        deployment=DeploymentId(facts[:_ID_BYTES].hex()),
        image=facts[_ID_BYTES : _ID_BYTES + PREFIX_BYTES],
        until_s=until_s,
        mark=mac[:PREFIX_BYTES],
    )


def _mac(secret: bytes, facts: bytes) -> bytes:
    return hmac.digest(secret, _LABEL + facts, hashlib.sha256)[:_MAC_BYTES]
