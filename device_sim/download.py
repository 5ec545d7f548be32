"""One image on its way into the inactive slot: chunk list, image, read-back (`native-protocol.md` §6, L0 and L1).

1. L1: the chunk list is fetched first and believed only against the manifest's root. It lies in flash, so that a
   restart does not ask for it again.
2. L1: every chunk is compared with the list BEFORE it is programmed; a bad one is fetched again at most
   `MAX_AGAIN` times, then the download fails with REFUSED_DIGEST. L0: only rule 3.
3. The whole digest is read back from flash before the download is called complete.
4. Blocks have any size and alignment: they are joined to units of a chunk (at least a sector) in order.
"""

from dataclasses import replace
from enum import Enum, auto
from random import Random
from typing import Final

from device_sim.errors import ManifestRefused
from device_sim.layout import Area
from device_sim.manifest import Manifest, read_manifest
from device_sim.merkle import HASH_BYTES, chunk_count, leaf_hash, root_of
from device_sim.model import DeviceConfig, Fault, FaultKind, Stats
from device_sim.puller import Limits, Puller, RoundTrip
from device_sim.storage import Storage
from device_sim.trust import Trust
from device_sim.wire import BlockData

MAX_AGAIN: Final = 3


class Outcome(Enum):
    """Where a download stands."""

    PULLING = auto()
    COMPLETE = auto()
    BAD = auto()


class ImageDownload:
    """The download that `storage.settings.download` records; begins where its marks end."""

    def __init__(
        self,
        *,
        config: DeviceConfig,
        storage: Storage,
        manifest: Manifest,
        limits: Limits,
        trip: RoundTrip,
        rng: Random,
        stats: Stats,
        fault: Fault,
    ) -> None:
        self._config, self._storage, self._rng, self._stats, self._fault = config, storage, rng, stats, fault
        self._trip = trip
        self._part = bytearray()
        self._again = 0
        self._list_again = 0
        self.manifest = manifest
        self.limits = limits
        self.outcome = Outcome.PULLING
        record = storage.settings.download
        assert record is not None
        self._slot = storage.layout.slots[record.slot]
        self._leaves = config.level == "L1"
        self._in_list = self._leaves and not record.list_verified
        if record.list_spoiled:
            self._wipe_list()
        self.puller = self._list_puller() if self._in_list else self._image_puller()
        if record.image_verified:
            self.outcome = Outcome.COMPLETE
        elif self.puller.done:
            self._finished()

    @property
    def position(self) -> int:
        """How many bytes of the image are in flash."""
        return 0 if self._in_list else self.puller.position - len(self._part)

    def take(self, block: BlockData, now_s: float) -> None:
        """A block came; program what became whole."""
        self._part += b"".join(self.puller.take(block, now_s))
        while self.outcome is Outcome.PULLING and (unit := self._next_unit()):
            if not self._store(unit):
                return  # what came behind the bad chunk is fetched again

    def _next_unit(self) -> bytes:
        start = self.puller.position - len(self._part)
        size = min(self._unit_bytes(), self.puller.size_bytes - start)
        if not size or len(self._part) < size:
            return b""
        unit = bytes(self._part[:size])
        del self._part[:size]
        return unit

    def _unit_bytes(self) -> int:
        return self._area.sector_bytes if self._in_list else self._area.unit_bytes(self.manifest.chunk_bytes)

    @property
    def _area(self) -> Area:
        return self._storage.layout.chunk_list if self._in_list else self._slot

    def _store(self, unit: bytes) -> bool:
        end = self.puller.position - len(self._part)
        start = end - len(unit)
        if not self._in_list:
            unit = self._damage(start, unit)
            if self._leaves and not self._chunks_hold(start, unit):
                self._bad_chunk(start, end)
                return False
        self._storage.program_unit(self._area, start // self._unit_bytes(), start, unit)
        self._again = 0
        if end == self.puller.size_bytes:
            self._finished()
        return True

    def _chunks_hold(self, start: int, unit: bytes) -> bool:
        size = self.manifest.chunk_bytes
        count = chunk_count(len(unit), size)
        leaves = self._storage.read_list(start // size * HASH_BYTES, count * HASH_BYTES)
        found = b"".join(leaf_hash(unit[at : at + size]) for at in range(0, len(unit), size))
        return leaves == found

    def _bad_chunk(self, start: int, end: int) -> None:
        self._stats.bad_chunks += 1
        self._again += 1
        if self._again > MAX_AGAIN:
            self.outcome = Outcome.BAD
            return
        self._part.clear()
        self.puller.rewind(start, end)

    def _damage(self, start: int, unit: bytes) -> bytes:
        at = self._fault.chunk * self.manifest.chunk_bytes - start
        if not 0 <= at < len(unit):
            return unit
        if self._fault.kind is not FaultKind.CORRUPT_CHUNK:
            if self._fault.kind is not FaultKind.CORRUPT_CHUNK_ONCE or not self._fault.armed:
                return unit
            self._fault.armed = False
        return unit[:at] + bytes([unit[at] ^ 1]) + unit[at + 1 :]

    def _finished(self) -> None:
        record = self._storage.settings.download
        assert record is not None
        if not self._in_list:
            whole = self._storage.digest(record.slot, self.manifest.size_bytes) == self.manifest.digest
            self.outcome = Outcome.COMPLETE if whole else Outcome.BAD
            if whole:
                self._storage.save(download=replace(record, image_verified=True))
            return
        size = self.puller.size_bytes
        if root_of(self._storage.read_list(0, size)) == self.manifest.root:
            self._storage.save(download=replace(record, list_verified=True))
            self._in_list = False
            self.puller = self._image_puller()
            return
        self._list_again += 1
        if self._list_again > MAX_AGAIN:
            self.outcome = Outcome.BAD
            return
        self._storage.save(download=replace(record, list_spoiled=True))
        self._wipe_list()
        self.puller = self._list_puller()

    def _wipe_list(self) -> None:
        # The note stays until all of it is erased: a torn erase may leave marks of units that are gone.
        self._storage.prepare_list(list_bytes(self.manifest))
        record = self._storage.settings.download
        assert record is not None
        self._storage.save(download=replace(record, list_spoiled=False))

    def _list_puller(self) -> Puller:
        return self._puller(self.manifest.root, list_bytes(self.manifest))

    def _image_puller(self) -> Puller:
        return self._puller(self.manifest.digest, self.manifest.size_bytes)

    def _puller(self, digest: bytes, size: int) -> Puller:
        unit = self._unit_bytes()
        done = self._storage.units_done(self._area, chunk_count(size, unit))
        position = min(done * unit, size)
        if position < size:
            self._storage.clean_unit(self._area, position, min(unit, size - position))
        self._part.clear()
        return Puller(
            digest=digest,
            size_bytes=size,
            position=position,
            limits=self.limits,
            pace_bps=self._config.pace_bps,
            trip=self._trip,
            rng=self._rng,
        )


def list_bytes(manifest: Manifest) -> int:
    """The size of an image's chunk list."""
    return chunk_count(manifest.size_bytes, manifest.chunk_bytes) * HASH_BYTES


def held_image(storage: Storage, trust: Trust) -> tuple[bytes, int] | None:
    """The image that is (partly) in the inactive slot, by its digest, and how many bytes of it, by the marks."""
    record = storage.settings.download
    envelope = None if record is None else storage.envelope(record.slot)
    if record is None or envelope is None:
        return None
    try:
        manifest = read_manifest(trust, envelope)
    except ManifestRefused:
        return None
    area = storage.layout.slots[record.slot]
    unit = area.unit_bytes(manifest.chunk_bytes)
    done = storage.units_done(area, chunk_count(manifest.size_bytes, unit))
    return (manifest.digest, min(done * unit, manifest.size_bytes)) if done else None
