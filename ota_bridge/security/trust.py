"""The trust document `ota-trust.json`: vendor, authors, how many of them must sign, online keys, and what followed.

    {"format": 1, "vendor": "example.com", "threshold": 1,
     "authors": [{"kid": "<16 hex>", "alg": "ed25519" | "p256", "public": "<base64>"}], "online": [{…}],
     "rotations": ["<base64>", …]}

All keys are public halves. One may carry `"test": true`: it belongs to a simulator or a test, and production
must refuse it. A key stands in the document once: the online key, which lives on the bridge, must never count
as an author.

The keys in clear are keyset 1, which devices have from the factory. Each rotation is the signed step to the next
keyset (`keyset.follow`): whoever reads the document goes through all of them and ends at the keyset that counts now.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ota_bridge.core.errors import Conflict, InvalidInput, KeysetRefused, Malformed, NotFound
from ota_bridge.core.manifest import checked_domain, vendor_id
from ota_bridge.decode import Fields, read_json
from ota_bridge.security import files
from ota_bridge.security.keys import KID_BYTES, Algorithm, PublicKey
from ota_bridge.security.keyset import KEYS_MAX, KIND, Keyset, follow, payload_of, read

ROTATIONS_MAX: Final = 256
"""More are not read: a device takes no more of them in one boot."""
_FORMAT: Final = 1
_BYTES_MAX: Final = 1 << 20
_PUBLIC_BYTES_MAX: Final = 65


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom to believe; raises InvalidInput at construction. `keyset` is what counts now."""

    vendor: str
    authors: tuple[PublicKey, ...]
    """Of keyset 1, as `threshold` and `online` are."""
    threshold: int = 1
    online: tuple[PublicKey, ...] = ()
    rotations: tuple[bytes, ...] = ()
    keyset: Keyset = field(init=False, compare=False)

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
        if len(self.rotations) > ROTATIONS_MAX:
            raise InvalidInput(f"trust document: {len(self.rotations)} rotations, at most {ROTATIONS_MAX} are allowed")
        object.__setattr__(self, "keyset", self._walked())

    def _walked(self) -> Keyset:
        keyset = Keyset(
            version=1,
            vendor=self.vendor_id,
            epoch=1,
            threshold=self.threshold,
            authors=self.authors,
            online=self.online,
        )
        for number, step in enumerate(self.rotations):
            try:
                keyset = follow(keyset, step)
            except KeysetRefused as refused:
                raise InvalidInput(f"trust document: rotation {number} does not follow: {refused}") from None
        return keyset

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """All keys of keyset 1, authors first."""
        return self.authors + self.online

    @property
    def vendor_id(self) -> bytes:
        """The vendor as manifests name it."""
        return vendor_id(self.vendor)

    @property
    def test_keys(self) -> tuple[PublicKey, ...]:
        """The keys that production must refuse: whoever has them could have signed every rotation."""
        return tuple(key for key in self.keys if key.test)

    def with_author(self, key: PublicKey, *, threshold: int | None = None) -> "Trust":
        """A copy with one more author key; raises Conflict if it is there, or was rotated."""
        self._check_absent(key)
        return replace(self, authors=(*self.authors, key), threshold=threshold or self.threshold)

    def with_online(self, key: PublicKey) -> "Trust":
        """A copy with one more online key."""
        self._check_absent(key)
        return replace(self, online=(*self.online, key))

    def with_rotation(self, step: bytes) -> "Trust":
        """A copy that goes one keyset further; raises KeysetRefused, and Conflict at the end of the road.

        One that is there already changes nothing, whoever else signed it since.
        """
        claimed, following = _claimed(step), self.keyset.version + 1
        held = self.step_to(claimed)
        if held is not None and payload_of(held) == payload_of(step):
            return self
        try:
            follow(self.keyset, step)
        except KeysetRefused as refused:
            if claimed <= following:
                raise
            detail = f"{refused.detail}; it says it is keyset {claimed}: the step to keyset {following} comes first"
            raise KeysetRefused(refused.reason, detail) from None
        if len(self.rotations) >= ROTATIONS_MAX:
            raise Conflict(f"trust document: it holds {ROTATIONS_MAX} rotations, and no device goes further")
        return replace(self, rotations=(*self.rotations, step))

    def step_to(self, version: int) -> bytes | None:
        """The rotation that leads to keyset `version`, if there is one."""
        return self.rotations[version - 2] if 2 <= version <= self.keyset.version else None  # noqa: PLR2004 - from 1

    def joined(self, other: "Trust") -> "Trust":
        """The one of two documents that goes further; raises InvalidInput unless it continues the other."""
        longer, shorter = (self, other) if len(self.rotations) >= len(other.rotations) else (other, self)
        same = replace(longer, rotations=()) == replace(shorter, rotations=())
        walked = zip(longer.rotations, shorter.rotations, strict=False)
        if not same or any(payload_of(one) != payload_of(two) for one, two in walked):
            raise InvalidInput(
                "two trust documents contradict each other: they differ in keyset 1 or in a rotation that both have"
            )
        return longer

    def _check_absent(self, key: PublicKey) -> None:
        if self.rotations:
            raise Conflict(
                f"trust document: keyset {self.keyset.version} was signed; another key needs `ota-bridge keys rotate`"
            )
        if any(key.kid == present.kid for present in self.keys):
            raise Conflict(f"trust document: key {key.kid.hex()} is in it already")

    def to_json(self) -> str:
        """The document as text, indented for people."""
        document: dict[str, Any] = {
            "format": _FORMAT,
            "vendor": self.vendor,
            "threshold": self.threshold,
            "authors": _written(self.authors),
            "online": _written(self.online),
        }
        if self.rotations:
            document["rotations"] = [base64.b64encode(step).decode() for step in self.rotations]
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def parse(cls, data: bytes) -> "Trust":
        """Read the document strictly: unknown keys, wrong kids and unusable keys are refused with InvalidInput."""
        try:
            document = Fields(read_json(data, max_bytes=_BYTES_MAX), name="trust document", binary_as_text=True)
            document.only("format", "vendor", "threshold", "authors", "online", "rotations")
            document.uint("format", minimum=_FORMAT, maximum=_FORMAT)
            return cls(
                vendor=document.text("vendor", max_bytes=253),
                threshold=document.uint("threshold", minimum=1, maximum=KEYS_MAX),
                authors=_read_keys(document.array("authors", min_items=1, max_items=KEYS_MAX)),
                online=_read_keys(document.array("online", max_items=KEYS_MAX)) if "online" in document else (),
                rotations=_read_rotations(document) if "rotations" in document else (),
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


def _claimed(step: bytes) -> int:
    """The version that a step names, whoever signed it; 0 where it names none."""
    try:
        return read(step).version
    except InvalidInput:
        return 0


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


def _read_rotations(document: Fields) -> tuple[bytes, ...]:
    listed = document.array("rotations", max_items=ROTATIONS_MAX)
    return tuple(listed.binary(index, min_bytes=1, max_bytes=KIND.max_bytes) for index in range(len(listed)))


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
