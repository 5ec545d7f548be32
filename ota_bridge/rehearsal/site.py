"""What a rehearsal begins with: the fleet, the releases, the rules and limits; made up, or a copy of the real ones."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.manifest import CHUNK_BYTES_DEFAULT, ManifestFacts, PayloadType, class_id, vendor_id
from ota_bridge.core.messages import Encoding, InstalledPart
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rules import Rules
from ota_bridge.core.values import FIRMWARE, DeviceId, Limits, Sha256, release_id
from ota_bridge.rehearsal.cohort import dealt

VENDOR: Final = "rehearsal.invalid"
SIZE_BYTES: Final = 1 << 20
NAMED_SINCE_S: Final = 86_400.0
"""How long before the start the devices that are made up were registered."""
PAGE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """See the module."""

    devices: Sequence[Device]
    releases: Sequence[Release]
    start_wall: float
    rules: Rules = field(default_factory=Rules)
    limits: Limits = field(default_factory=Limits)
    lease_s: float = 60.0
    device_blocks_per_s: float = 1000.0


def made_up_release(name: str, *, size_bytes: int, hw: Sequence[str], seq: int = 2, start_wall: float = 0.0) -> Release:
    """A release of one component, as large as it is said to be; raises InvalidInput."""
    product, slash, version = name.partition("/")
    if not slash:
        raise InvalidInput(f"release {name[:80]!r}: write it as PRODUCT/VERSION, for it is in no database here")
    digest = hashlib.sha256(name.encode()).digest()
    vendor = vendor_id(VENDOR)
    facts = ManifestFacts(
        seq=seq,
        vendor=vendor,
        classes=tuple(sorted({class_id(vendor, product, one) for one in hw})),
        version=version,
        component=FIRMWARE,
        payload_type=PayloadType.RAW,
        size_bytes=size_bytes,
        sha256=Sha256(digest),
        chunk_bytes=CHUNK_BYTES_DEFAULT,
        merkle_root=Sha256(digest),
        digest=Sha256(hashlib.sha256(b"manifest " + digest).digest()),
    )
    return Release(
        id=release_id(product, version),
        product=product,
        version=version,
        hardware=tuple(hw),
        parts={FIRMWARE: ReleasePart(component=FIRMWARE, envelope=facts.digest, manifest=facts, md5="0" * 32)},
        state=ReleaseState.ACTIVE,
        created_wall=start_wall,
        created_by="rehearsal",
    )


def made_up_fleet(
    count: int,
    *,
    product: str,
    start_wall: float,
    hw: Sequence[str] = ("r1",),
    versions: Mapping[str, float] | None = None,
    components: Sequence[str] = (FIRMWARE,),
) -> list[Device]:
    """So many devices, named as `device-sim` does; hardware and versions are spread over them evenly."""
    counts = dealt(count, list((versions or {"1.0.0": 1.0}).values()))
    runs = [name for name, number in zip(versions or {"1.0.0": 1.0}, counts, strict=True) for _ in range(number)]
    registered = start_wall - NAMED_SINCE_S
    # A step that has no divisor in common with the count visits everyone: versions do not go by name.
    step = next(step for step in range(max(1, int(count * 0.618)), 2 * count + 2) if _gcd(step, count) == 1)
    found: list[Device] = []
    for number in range(count):
        version = runs[min(number * step % count, len(runs) - 1)]
        found.append(
            Device(
                id=DeviceId(product, f"dev-{number + 1:04d}"),
                state=DeviceState.ACTIVE,
                created_wall=registered,
                hw=hw[number % len(hw)],
                dialect="native",
                encoding=Encoding.MSGPACK,
                proto=1,
                boot=1,
                nonce=bytes(16),
                parts={name: InstalledPart(version=version, seq=0) for name in components},
                last_report_wall=start_wall - 1.0,
            )
        )
    return found


def _gcd(one: int, other: int) -> int:
    while other:
        one, other = other, one % other
    return one


def copied_fleet(unit: UnitOfWork, product: str) -> list[Device]:
    """The devices of a product as they are on record, with nothing assigned to them and nothing said yet."""
    found: list[Device] = []
    after: DeviceId | None = None
    while page := unit.devices.page(product=product, after=after, limit=PAGE):
        found += page
        after = page[-1].id
    if not found:
        raise NotFound(f"there is no device of {product} on record; leave out --fleet and name --devices")
    return found


def product_of(release: str, releases: Sequence[Release]) -> str:
    """The product of a release that is named as PRODUCT/VERSION, or as VERSION where only one product has it."""
    product, slash, _ = release.partition("/")
    if slash:
        return product
    known = {one.product for one in releases if one.version == release}
    if len(known) == 1:
        return known.pop()
    raise InvalidInput(f"release {release[:80]!r}: write it as PRODUCT/VERSION")
