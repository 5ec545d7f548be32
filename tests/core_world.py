"""A whole bridge without wires: the core over the memory store, with clocks, keys and devices that tests move by hand."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ota_bridge.calendars import CronCalendar
from ota_bridge.core.artifacts import Inline
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.catalog import ReleasePart
from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn, Update
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.errors import ArtifactDamaged, ManifestRefused, RefusedReason, StoreError
from ota_bridge.core.fleet import Device
from ota_bridge.core.keysets import KeysetStanding
from ota_bridge.core.manifest import ManifestFacts, PayloadType, class_id, vendor_id
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.core.messages import (
    BlockActivity,
    CheckIn,
    Encoding,
    Event,
    GrantsChanged,
    GrantState,
    InstalledPart,
    Output,
    Progress,
    ReportAck,
    ReportKey,
    ReportState,
    RolloutHeld,
    Saying,
)
from ota_bridge.core.notices import no_links
from ota_bridge.core.operations import Upload, add_release, carry_out, perform
from ota_bridge.core.people import Caller
from ota_bridge.core.ports import Links
from ota_bridge.core.rules import Rules
from ota_bridge.core.slices import Slice
from ota_bridge.core.values import FIRMWARE, DeviceId, Now, Sha256
from ota_bridge.queries import CelQueries
from ota_bridge.store.memory import MemoryStore
from ota_bridge.store.outcome import Committed

VENDOR = vendor_id("example.com")
START_S = 1_000_000.0
FACTORY = "1.0.0"
QUERIES = CelQueries()
CALENDAR = CronCalendar()


def image_of(version: str, component: str = FIRMWARE, size: int = 10_000) -> bytes:
    """Bytes that differ from version to version."""
    seed = hashlib.sha256(f"{component}/{version}".encode()).digest()
    return (seed * (size // 32 + 1))[:size]


def facts_of(
    version: str = "1.1.0",
    *,
    seq: int = 2,
    component: str = FIRMWARE,
    hardware: tuple[str, ...] = ("r1",),
    product: str = "prod",
    image: bytes | None = None,
    chunk_bytes: int = 4096,
    epoch: int = 1,
    **signed: Any,
) -> ManifestFacts:
    """The manifest of an image, as `security.manifest` would read it."""
    data = image_of(version, component) if image is None else image
    return ManifestFacts(
        seq=seq,
        vendor=VENDOR,
        classes=tuple(sorted(class_id(VENDOR, product, hw) for hw in hardware)),
        version=version,
        component=component,
        payload_type=PayloadType.RAW,
        size_bytes=len(data),
        sha256=Sha256(hashlib.sha256(data).digest()),
        chunk_bytes=chunk_bytes,
        merkle_root=tree_of(data, chunk_bytes)[0],
        epoch=epoch,
        **signed,
        digest=Sha256(hashlib.sha256(f"envelope {product} {component} {version} {seq}".encode()).digest()),
    )


def tree_of(data: bytes, chunk_bytes: int) -> tuple[Sha256, bytes]:
    """The Merkle root and the chunk list of an image."""
    hasher = ChunkHasher(chunk_bytes, keep_list=True)
    hasher.update(data)
    return Sha256(hasher.finish()), hasher.chunk_list


class MemorySource:
    """Artifacts for the block server, counted as they are opened and closed."""

    def __init__(self) -> None:
        self.images: dict[bytes, bytes] = {}
        self.damaged = False
        self.error: type[StoreError] = ArtifactDamaged
        self.open_now = 0

    def put(self, data: bytes) -> None:
        self.images[hashlib.sha256(data).digest()] = data

    def open(self, manifest: ManifestFacts) -> "CountedArtifact":
        return self._opened(manifest, lambda data: data)

    def open_chunk_list(self, manifest: ManifestFacts) -> "CountedArtifact":
        return self._opened(manifest, lambda data: tree_of(data, manifest.chunk_bytes)[1])

    def _opened(self, manifest: ManifestFacts, made: Any) -> "CountedArtifact":
        self.open_now += 1
        data = self.images.get(manifest.sha256)
        return CountedArtifact(self, made(bytes(manifest.size_bytes) if data is None else data), missing=data is None)


class CountedArtifact(Inline):
    """An artifact in memory that tells its source when it is closed."""

    def __init__(self, source: MemorySource, data: bytes, *, missing: bool) -> None:
        super().__init__(data)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "missing", missing)

    def view(self, offset: int, length: int) -> memoryview:
        if self.source.damaged or self.missing:
            raise self.source.error("not what its name says")
        return super().view(offset, length)

    def close(self) -> None:
        self.source.open_now -= 1


class Plain:
    """The dialect of a vendor whose devices download by URL: what it says is the update itself."""

    name = "plain"
    author_fields: ClassVar[dict[str, str]] = {}

    def hear(self, said: object, standing: Standing) -> Turn:
        return Turn()

    def hindrance(self, update: Update) -> str:
        return "" if update.url else "it has no URL"

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        return Telling(messages=[update for update in standing.updates if update.id in occasion.offered])


@dataclass(slots=True)
class FakeDevice:
    """What one device says; it decides nothing."""

    world: "World"
    id: DeviceId
    boot: int = 7
    seq: int = 0
    parts: dict[str, InstalledPart] = field(default_factory=dict)
    proto: int = 1
    """0: it speaks `Plain`."""
    hw: str | None = "r1"
    max_packet: int | None = 8192
    last: CheckIn | Progress | None = None

    def check_in(self, **changes: Any) -> list[Output]:
        """A version report with the next seq."""
        self.seq += 1
        nonce = hashlib.sha256(f"{self.id} {self.boot} {self.seq} {self.world.nonces}".encode()).digest()[:16]
        self.world.nonces += 1
        plain: dict[str, Any] = {
            "device": self.id,
            "dialect": "native" if self.proto else "plain",
            "encoding": Encoding.MSGPACK if self.proto else Encoding.JSON,
            "key": self._key(nonce) if self.proto else None,
            "parts": dict(self.parts),
            "proto": self.proto,
            "hw": self.hw if self.proto else None,
            "nonce": nonce if self.proto else None,
            "max_packet": self.max_packet if self.proto else None,
            "body": {"type": "report_version"},
        }
        self.last = CheckIn(**(plain | changes))
        return self.world.receive(self.last)

    def says(self, state: str, deployment: Deployment | str | None = None, **changes: Any) -> list[Output]:
        """A progress report with the next seq, about its one open deployment unless another is named."""
        self.seq += 1
        named = deployment.id if isinstance(deployment, Deployment) else deployment
        plain: dict[str, Any] = {
            "device": self.id,
            "dialect": "native" if self.proto else "plain",
            "key": self._key(state.encode()) if self.proto else None,
            "deployment": (named or self.open.id) if self.proto else None,
            "component": FIRMWARE,
            "state": ReportState(state),
            "body": {"type": "report_progress"},
        }
        self.last = Progress(**(plain | changes))
        return self.world.receive(self.last)

    def repeats(self) -> list[Output]:
        """The last report once more, byte for byte."""
        assert self.last is not None
        return self.world.receive(self.last)

    def restarts(self) -> list[Output]:
        """Another boot, and its check-in."""
        self.boot, self.seq = self.boot + 1, 0
        return self.check_in()

    def runs(self, version: str, *, seq: int = 2, trial: bool = False, component: str = FIRMWARE) -> "FakeDevice":
        """From now on this is what it reports."""
        digest8 = b"" if version == FACTORY else hashlib.sha256(image_of(version, component)).digest()[:8]
        self.parts[component] = InstalledPart(version=version, seq=seq, digest8=digest8, trial=trial)
        return self

    def asks(self, *, high_water: int = 4096, wall: float | None = None, deployment: str | None = None) -> list[Output]:
        """What the block plane tells after this device asked for blocks."""
        return self.world.receive(
            BlockActivity(
                device=self.id,
                deployment=deployment or self.open.id,
                wall=self.world.wall if wall is None else wall,
                bytes_sent=1024,
                blocks_sent=1,
                requests=1,
                high_water_bytes=high_water,
            )
        )

    def _key(self, content: bytes) -> ReportKey:
        return ReportKey(boot=self.boot, seq=self.seq, content=hashlib.sha256(content).digest()[:8])

    # --- what the bridge holds of it ---

    @property
    def record(self) -> Device:
        found = self.world.read(lambda unit: unit.devices.get(self.id))
        assert found is not None
        return found

    @property
    def open(self) -> Deployment:
        """Its one open deployment."""
        found = self.world.read(lambda unit: unit.deployments.open_of(self.id))
        assert len(found) == 1, found
        return found[0]

    @property
    def latest(self) -> Deployment:
        return self.all[0]

    @property
    def all(self) -> list[Deployment]:
        """Newest first."""
        return list(self.world.read(lambda unit: unit.deployments.recent_of(self.id, limit=1000)))

    @property
    def state(self) -> State:
        return self.latest.state

    def why(self) -> tuple[str, str]:
        found = self.world.do("why", device=str(self.id))
        return found["code"], found["sentence"]


class World:
    """The core, a store and two clocks."""

    def __init__(self, **rules: Any) -> None:
        self.store = MemoryStore()
        self.wall, self.mono, self.nonces = START_S, 50.0, 0
        self.facts: dict[bytes, ManifestFacts] = {}
        self.refused: dict[bytes, RefusedReason] = {}
        self.source = MemorySource()
        self.links: Links = no_links
        self.steps: dict[int, bytes] = {}
        """The signed step to each keyset that the bridge holds; 1 needs none."""
        self.bridge = Bridge(
            Rules(**rules),
            verify=self._verify,
            ticket=self._ticket,
            keysets=self._keysets,
            links=lambda deployment, manifest, wall: self.links(deployment, manifest, wall),
            queries=QUERIES,
            calendar=CALENDAR,
            dialects={"plain": Plain()},
        )
        self.server = BlockServer(self.source, block_max=16_384, window_max=16, refusals_per_s=1000)
        self.server.is_loaded = True
        self.outputs: list[Output] = []
        self.acked: set[tuple[DeviceId, int, int]] = set()
        self.last: list[Output] = []
        self.caller = Caller(user="ann")

    @property
    def now(self) -> Now:
        return Now(wall=self.wall, mono=self.mono)

    def _verify(self, envelope: bytes) -> ManifestFacts:
        if envelope in self.refused:
            raise ManifestRefused(self.refused[envelope], "no author of it is trusted")
        return self.facts[envelope]

    def _ticket(self, device: DeviceId, nonce: bytes, manifest_digest: bytes, wall: float) -> bytes:
        return f"ticket {device} {nonce.hex()} {manifest_digest.hex()[:16]} {wall}".encode()

    def _keysets(self, version: int) -> KeysetStanding:
        return KeysetStanding(newest=max(self.steps, default=1), following=self.steps.get(version + 1))

    # --- moving ---

    def commit(self, work: Any) -> Any:
        """What `work` returned, with its outputs released as the gateway does."""
        outcomes: list[Any] = []
        self.store.submit(work, outcomes.append)
        if not isinstance(outcomes[0], Committed):
            raise outcomes[0].error
        value = outcomes[0].value
        outputs = value[1] if isinstance(value, tuple) else value
        self.last = list(outputs)
        self.outputs.extend(outputs)
        for output in outputs:
            if isinstance(output, GrantsChanged):
                self.server.apply(output)
            elif isinstance(output, RolloutHeld):
                self.server.hold(output.rollout, output.state)
            elif isinstance(output, ReportAck):
                self.acked.update((output.device, output.boot, seq) for seq in output.seqs)
        return value

    def granted(self, device: DeviceId) -> dict[str, GrantState]:
        """What the block plane answers a device, by deployment."""
        client, held = self.server._clients.get(device), self.server.held
        grants = () if client is None else client.grants
        return {grant.deployment: held.get(grant.rollout, grant.state) for grant in grants}

    def receive(self, uplink: Any) -> list[Output]:
        return list(self.commit(lambda unit: self.bridge.receive(unit, uplink, self.now)))

    def tick(self) -> list[Output]:
        return list(self.commit(lambda unit: self.bridge.tick(unit, self.now).outputs))

    def passes(self, seconds: float) -> list[Output]:
        """Time goes by, and everything that falls due on the way is done when it is due."""
        end, done = self.wall + seconds, []
        while True:
            due = self.read(self.bridge.next_deadline)
            if due is None or due > end:
                break
            self.jump(max(0.0, due - self.wall))
            done += self.tick()
        self.jump(end - self.wall)
        return done

    def jump(self, seconds: float) -> None:
        """Time goes by and nothing is done."""
        self.wall += seconds
        self.mono += seconds

    def do(self, name: str, /, **args: Any) -> Any:
        """One operation by an operator, who is called ann unless a test says otherwise."""
        work = lambda unit: perform(unit, self.bridge, name, args, caller=self.caller, now=self.now)  # noqa: E731
        result = self.commit(work)[0]
        if not isinstance(result, dict) or not result.get("planning"):
            return result
        said, planned = self.last, self.plan()
        shown = self.do("rollout.status", rollout=result["id"])
        self.last = [*said, *planned]
        return {**result, **{name: shown[name] for name in result if name in shown}}

    def plan(self) -> list[Output]:
        """All slices of planning that are left, one unit of work each."""
        outputs: list[Output] = []
        more = True
        while more:
            done: list[Slice] = []

            def work(unit: Any) -> Any:
                done.append(self.bridge.plan(unit, self.now))  # noqa: B023 - it runs at once
                return done[0].outputs  # noqa: B023

            outputs += self.commit(work)
            more = done[0].more
        return outputs

    def read(self, work: Any) -> Any:
        return self.store.read(work)

    # --- making ---

    def release(
        self,
        version: str = "1.1.0",
        *,
        seq: int = 2,
        product: str = "prod",
        release: str = "",
        installs_from: tuple[str, ...] = (),
        in_advance: bool = False,
        md5: str = "",
        **facts: Any,
    ) -> str:
        """Add a release (or one more component of it, of another version than the release's); returns its id."""
        hardware = facts.get("hardware", ("r1",))
        image = facts.get("image") or image_of(version, facts.get("component", FIRMWARE))
        self.source.put(image)
        manifest = facts_of(version, seq=seq, product=product, **facts)
        envelope = b"envelope " + manifest.digest
        manifest = replace(manifest, digest=Sha256(hashlib.sha256(envelope).digest()))
        self.facts[envelope] = manifest
        part = ReleasePart(
            component=manifest.component,
            envelope=envelope,
            manifest=manifest,
            md5=md5 or hashlib.md5(image, usedforsecurity=False).hexdigest(),
            installs_from=installs_from,
        )
        upload = Upload(
            product=product, version=release or version, hardware=hardware, part=part, in_advance=in_advance
        )

        def work(unit: Any) -> Any:
            done = lambda context: add_release(context, upload)  # noqa: E731
            return carry_out(unit, self.bridge, "release.add", {}, done, caller=self.caller, now=self.now)

        return str(self.commit(work)[0]["id"])

    def device(self, name: str = "d1", *, product: str = "prod", check_in: bool = True, **changes: Any) -> FakeDevice:
        """A device with factory firmware that has checked in."""
        made = FakeDevice(world=self, id=DeviceId(product, name), **changes)
        made.runs(FACTORY, seq=1)
        if check_in:
            made.check_in()
        return made

    def rollout(self, release: str = "1.1.0", **args: Any) -> str:
        return str(self.do("rollout.start", release=release, **args)["id"])

    # --- what came out ---

    def sent(self, kind: Any, outputs: list[Output] | None = None) -> list[Any]:
        return [output for output in (self.outputs if outputs is None else outputs) if isinstance(output, kind)]

    def notices(self, outputs: list[Output] | None = None) -> list[Update]:
        """What `Plain` has said."""
        return [one.message for one in self.sent(Saying, outputs)]

    def events(self, kind: str, outputs: list[Output] | None = None) -> list[Any]:
        return [event.data for event in self.sent(Event, outputs) if event.kind == kind]
