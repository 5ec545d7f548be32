"""The small values that everything else is made of: names, time, content digests.

Each validates itself at construction and says what is allowed. Names go into MQTT topics and file names, so
their alphabets hold no `/`, `+`, `#`, NUL or space (native protocol §1).
"""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple, NewType, Self

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.records import record

DeploymentId = NewType("DeploymentId", str)
"""Names one deployment on the wire: 12 lower-case hex digits, random, so a restored database never reuses one."""

RolloutId = NewType("RolloutId", str)
ReleaseId = NewType("ReleaseId", str)
"""`{product}/{version}`."""

Sha256 = NewType("Sha256", bytes)
"""32 bytes: a SHA-256 digest, of an artifact unless the name says otherwise."""

FIRMWARE: Final = "firmware"
"""The component of a device that reports no components."""

MIN_PREFIX_BYTES: Final = 8
NATIVE: Final = "native"
"""The dialect of the native protocol; every other is a vendor's."""
"""The shortest digest prefix that names an artifact on the wire (native protocol §5)."""

MAX_ARTIFACT_BYTES: Final = 1 << 40
"""A bound on sizes that come from outside; offsets are 64-bit."""

MIN_BYTES_PER_S: Final = 4_096
"""The smallest cap on bytes: less would let hardly a refusal through."""

_LIMIT_MAX: Final = 10**12
_SHOWN: Final = 40
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_DEVICE: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""As long as any protocol's; the native one's are shorter."""
_COMPONENT: Final = re.compile(r"[a-z0-9_-]{1,16}")
_VERSION: Final = re.compile(r"[A-Za-z0-9._+~:-]{1,32}")
_HARDWARE: Final = re.compile(r"[A-Za-z0-9._+:-]{1,32}")
_TAG: Final = re.compile(r"[A-Za-z0-9._:=-]{1,64}")
_ATTRIBUTE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")

_NAMES_KEPT: Final = 1024
"""Names that were checked and are met again in report after report."""
ATTRIBUTES_MAX: Final = 32
ATTRIBUTE_TEXT_MAX: Final = 64
I64_MAX: Final = (1 << 63) - 1
I64_MIN: Final = -(1 << 63)


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        shown = text[:40] + "…" if len(text) > _SHOWN else text
        raise InvalidInput(f"{what} {shown!r} is not valid: allowed is {pattern.pattern}")
    return text


@lru_cache(maxsize=_NAMES_KEPT)
def checked_component(text: str) -> str:
    """`text` if it can name a component; raises InvalidInput."""
    return _checked(_COMPONENT, text, "component")


@lru_cache(maxsize=_NAMES_KEPT)
def checked_version(text: str) -> str:
    """`text` if it can be a version; raises InvalidInput."""
    return _checked(_VERSION, text, "version")


@lru_cache(maxsize=_NAMES_KEPT)
def checked_hardware_id(text: str) -> str:
    """`text` if it can be a hardware id; raises InvalidInput."""
    return _checked(_HARDWARE, text, "hardware id")


def checked_product(text: str) -> str:
    """`text` if it can name a product; raises InvalidInput."""
    return _checked(_NAME, text, "product")


def checked_tag(text: str) -> str:
    """`text` if it can be a tag; raises InvalidInput."""
    return _checked(_TAG, text, "tag")


def checked_attribute(name: str) -> str:
    """`name` if it can name an attribute; raises InvalidInput."""
    return _checked(_ATTRIBUTE, name, "attribute")


def checked_attributes(attrs: Mapping[str, object]) -> dict[str, str | int]:
    """`attrs` in the order of their names if a device may have them; raises InvalidInput."""
    if len(attrs) > ATTRIBUTES_MAX:
        raise InvalidInput(f"{len(attrs)} attributes: a device has at most {ATTRIBUTES_MAX}")
    checked: dict[str, str | int] = {}
    for name, value in sorted(attrs.items()):
        checked_attribute(name)
        if isinstance(value, int) and not isinstance(value, bool):
            if not I64_MIN <= value <= I64_MAX:
                raise InvalidInput(f"attribute {name}: the number must fit into 64 bits; write it in quotes as text")
            checked[name] = value
        elif isinstance(value, str):
            if len(value) > ATTRIBUTE_TEXT_MAX or not value.isprintable():
                raise InvalidInput(f"attribute {name}: at most {ATTRIBUTE_TEXT_MAX} printable characters")
            checked[name] = value
        else:
            raise InvalidInput(f"attribute {name}: must be text or a whole number")
    return checked


def attribute_of(text: str) -> str | int:
    """What an operator typed: a whole number if it reads as one, else text, with or without double quotes."""
    if _WHOLE.fullmatch(text) and I64_MIN <= int(text) <= I64_MAX:
        return int(text)
    if text.startswith('"'):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if isinstance(found, str):
            return found
    return text


def release_id(product: str, version: str) -> ReleaseId:
    """The id of a release."""
    return ReleaseId(f"{checked_product(product)}/{checked_version(version)}")


class _Names(NamedTuple):
    product: str
    name: str


class DeviceId(_Names):
    """Who a device is: the two topic levels that the broker's access rules prove.

    A pair, because nothing is hashed and compared as often: tuples do that without the interpreter.
    """

    __slots__ = ()

    def __new__(cls, product: str, name: str) -> Self:
        """Raises InvalidInput for names that there cannot be."""
        return super().__new__(cls, _checked(_NAME, product, "product"), _checked(_DEVICE, name, "device name"))

    def __str__(self) -> str:
        return f"{self.product}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "DeviceId":
        """Read `product/name`; raises InvalidInput."""
        product, slash, name = text.partition("/")
        if not slash:
            raise InvalidInput(f"device {text[:80]!r}: write it as PRODUCT/NAME")
        return cls(product, name)


@record
class Now:
    """One reading of the clocks: `wall` in seconds since 1970 UTC, `mono` in seconds of a clock that never steps."""

    wall: float
    mono: float


@record
class Limits:
    """Fleet-wide caps, each 0 for none: blocks per second, bytes of them per second, simultaneous downloads."""

    blocks_per_s: int = 0
    bytes_per_s: int = 0
    downloads: int = 0

    def __post_init__(self) -> None:
        for name, low in (("blocks_per_s", 1), ("bytes_per_s", MIN_BYTES_PER_S), ("downloads", 1)):
            value = getattr(self, name)
            if value and not low <= value <= _LIMIT_MAX:
                raise InvalidInput(f"{name} = {value}: allowed is 0 (no limit) or {low}..{_LIMIT_MAX}")

    @property
    def are_any(self) -> bool:
        """True if anything is capped."""
        return bool(self.blocks_per_s or self.bytes_per_s or self.downloads)


@record
class StandingLimits:
    """The caps in force, and who set them when; `set_wall` None: nobody ever did."""

    limits: Limits = Limits()
    set_wall: float | None = None
    set_by: str = ""


class Share(StrEnum):
    """What a device waits for when a cap is reached. Kept by value."""

    SLOT = "slot"
    BLOCKS = "blocks"
    BYTES = "bytes"
