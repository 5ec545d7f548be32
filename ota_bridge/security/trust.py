"""The trust document `ota-trust.json`: vendor, authors, how many of them must sign, online keys.

    {"format": 1, "vendor": "example.com", "threshold": 1,
     "authors": [{"kid": "<16 hex>", "alg": "ed25519" | "p256", "public": "<base64>"}], "online": [{…}]}

All keys are public halves. One may carry `"test": true`: it belongs to a simulator or a test, and production
must refuse it. A key stands in the document once: the online key, which lives on the bridge, must never count
as an author.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ota_bridge.core.errors import Conflict, InvalidInput, Malformed, NotFound
from ota_bridge.core.manifest import checked_domain, vendor_id
from ota_bridge.decode import Fields, read_json
from ota_bridge.security import files
from ota_bridge.security.keys import KID_BYTES, Algorithm, PublicKey

KEYS_MAX: Final = 32
_FORMAT: Final = 1
_BYTES_MAX: Final = 65536
_PUBLIC_BYTES_MAX: Final = 65


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom to believe; raises InvalidInput at construction."""

    vendor: str
    authors: tuple[PublicKey, ...]
    threshold: int = 1
    online: tuple[PublicKey, ...] = ()

    def __post_init__(self) -> None:
        checked_domain(self.vendor)
        kids = [key.kid for key in self.keys]
        if len(kids) > KEYS_MAX:
            raise InvalidInput(f"trust document: {len(kids)} keys, at most {KEYS_MAX} are allowed")
        for kid in kids:
            if kids.count(kid) > 1:
                raise InvalidInput(f"trust document: key {kid.hex()} stands in it twice")
        if not 1 <= self.threshold <= len(self.authors):
            count = len(self.authors)
            raise InvalidInput(
                f"trust document: threshold {self.threshold} with {count} author keys; it must be 1..{count}"
            )

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """All keys, authors first."""
        return self.authors + self.online

    @property
    def vendor_id(self) -> bytes:
        """The vendor as manifests name it."""
        return vendor_id(self.vendor)

    @property
    def test_keys(self) -> tuple[PublicKey, ...]:
        """The keys that production must refuse."""
        return tuple(key for key in self.keys if key.test)

    def with_author(self, key: PublicKey, *, threshold: int | None = None) -> "Trust":
        """A copy with one more author key."""
        self._check_absent(key)
        return replace(self, authors=(*self.authors, key), threshold=threshold or self.threshold)

    def with_online(self, key: PublicKey) -> "Trust":
        """A copy with one more online key."""
        self._check_absent(key)
        return replace(self, online=(*self.online, key))

    def _check_absent(self, key: PublicKey) -> None:
        if any(key.kid == present.kid for present in self.keys):
            raise Conflict(f"trust document: key {key.kid.hex()} is in it already")

    def to_json(self) -> str:
        """The document as text, indented for people."""
        document = {
            "format": _FORMAT,
            "vendor": self.vendor,
            "threshold": self.threshold,
            "authors": _written(self.authors),
            "online": _written(self.online),
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def parse(cls, data: bytes) -> "Trust":
        """Read the document strictly: unknown keys, wrong kids and unusable keys are refused with InvalidInput."""
        try:
            document = Fields(read_json(data, max_bytes=_BYTES_MAX), name="trust document", binary_as_text=True)
            document.only("format", "vendor", "threshold", "authors", "online")
            document.uint("format", minimum=_FORMAT, maximum=_FORMAT)
            return cls(
                vendor=document.text("vendor", max_bytes=253),
                threshold=document.uint("threshold", minimum=1, maximum=KEYS_MAX),
                authors=_read_keys(document.array("authors", min_items=1, max_items=KEYS_MAX)),
                online=_read_keys(document.array("online", max_items=KEYS_MAX)) if "online" in document else (),
            )
        except Malformed as error:
            raise InvalidInput(str(error)) from None

    @classmethod
    def load(cls, path: Path) -> "Trust":
        """Read the file; raises NotFound or InvalidInput."""
        try:
            data, _ = files.read_bounded(path, _BYTES_MAX)
        except FileNotFoundError:
            raise NotFound(f"trust document {path} does not exist; `ota-bridge keys new` makes one") from None
        except OSError as error:
            raise InvalidInput(f"trust document {path} cannot be read: {error.strerror}") from None
        try:
            return cls.parse(data)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None

    def save(self, path: Path) -> None:
        """Write the file atomically, in the place of an older one; raises InvalidInput when it cannot."""
        try:
            files.replace(path, self.to_json().encode(), mode=0o644)
        except OSError as error:
            raise InvalidInput(f"trust document {path} cannot be written: {error.strerror}") from None


def _written(keys: Iterable[PublicKey]) -> list[dict[str, Any]]:
    return [
        {
            "kid": key.kid.hex(),
            "alg": str(key.algorithm),
            "public": base64.b64encode(key.raw).decode(),
            **({"test": True} if key.test else {}),
        }
        for key in keys
    ]


def _read_keys(listed: Fields) -> tuple[PublicKey, ...]:
    return tuple(_read_key(listed.mapping(index), index) for index in range(len(listed)))


def _read_key(entry: Fields, index: int) -> PublicKey:
    entry.only("kid", "alg", "public", "test")
    key = PublicKey(
        algorithm=entry.choice("alg", Algorithm),
        raw=entry.binary("public", min_bytes=1, max_bytes=_PUBLIC_BYTES_MAX),
        test=entry.optional(entry.flag, "test") or False,
    )
    if entry.text("kid", max_bytes=2 * KID_BYTES) != key.kid.hex():
        raise Malformed(f"trust document: the kid of key {index} is not that of its public key ({key.kid.hex()})")
    return key
