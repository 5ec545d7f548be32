"""Delivery: which bytes answer a block request, and when a deployment has to be looked at again.

Two halves, both without I/O. `BlockServer` is the block plane's decision: is this device allowed this artifact, which
ranges does the request mean, what is refused and how (native protocol §5), what was served. `Pacing` is the slow half:
when an offer is due, when a download has stalled, when a state has lasted too long.

Rules of the block server:
1. A device gets only artifacts of its own open deployments; until the table is loaded the answer is "busy",
   never "not open".
2. Nothing is counted or changed before every check of a request has passed.
3. Refusals are limited per device; what is over the limit is counted and stays silent, so a loop stays cheap.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from ota_bridge.core.deployment import FETCHING, Deployment, State
from ota_bridge.core.errors import BlockRefusal, StoreError
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.messages import (
    BlockActivity,
    BlockRequest,
    BlockTrouble,
    Grant,
    GrantsChanged,
    GrantState,
)
from ota_bridge.core.values import MIN_PREFIX_BYTES, DeploymentId, DeviceId, RolloutId

BUSY_RETRY_S = 2
NOT_OPEN_RETRY_S = 30
PAUSED_RETRY_S = 30
REOPEN_S = 10
"""How often an artifact that could not be opened is tried again: its file may have been put back."""


class Artifact(Protocol):
    """Bytes that can be served: an image, a chunk list, a manifest."""

    @property
    def size_bytes(self) -> int: ...

    def view(self, offset: int, length: int) -> memoryview:
        """These bytes, checked against their digest; raises ArtifactDamaged."""
        ...

    def close(self) -> None:
        """No more views will be asked for."""
        ...


class ArtifactSource(Protocol):
    """Opens what a manifest names; raises ArtifactDamaged."""

    def open(self, manifest: ManifestFacts) -> Artifact:
        """The image."""
        ...

    def open_chunk_list(self, manifest: ManifestFacts) -> Artifact:
        """The leaves of its hash tree, 32 bytes each."""
        ...


@dataclass(frozen=True, slots=True)
class Inline:
    """A small artifact held in memory."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return len(self.data)

    def view(self, offset: int, length: int) -> memoryview:
        """A slice of it."""
        return memoryview(self.data)[offset : offset + length]

    def close(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True, slots=True)
class Served:
    """The blocks of one request: (offset, bytes) pairs, in the order asked."""

    blocks: Sequence[tuple[int, memoryview]]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there are no blocks. `silent`: over the device's limit of refusals, say nothing."""

    code: BlockRefusal
    retry_after_s: int
    silent: bool = False


@dataclass(slots=True)
class _Job:
    """One artifact that a device may fetch; None where it could not be opened."""

    grant: Grant
    artifact: Artifact | None
    is_image: bool
    tried_mono: float = 0.0


@dataclass(slots=True)
class _Activity:
    wall: float = 0.0
    bytes_sent: int = 0
    blocks_sent: int = 0
    requests: int = 0
    high_water_bytes: int = 0


@dataclass(slots=True)
class _Client:
    """What the block plane knows of one device."""

    jobs: dict[bytes, _Job] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()
    refusal_ready_mono: float = 0.0
    refusals: int = 0
    last_refusal: BlockRefusal | None = None


@dataclass(slots=True)
class BlockCounters:
    """Since the start of the process."""

    requests: int = 0
    blocks: int = 0
    bytes: int = 0
    refused: dict[BlockRefusal, int] = field(default_factory=dict)
    silent: int = 0
    damaged: int = 0


def wanted_blocks(request: BlockRequest) -> Iterator[int]:
    """The indices of the blocks that a request asks for, at most `count` of them, in rising order."""
    if request.missing is None:
        yield from range(request.count)
        return
    found = 0
    for byte_index, byte in enumerate(request.missing):
        for bit in range(8):
            if byte >> bit & 1:
                if found == request.count:
                    return
                found += 1
                yield byte_index * 8 + bit


class BlockServer:
    """The authorisation table and the answer to every block request. Used on one thread."""

    def __init__(
        self,
        source: ArtifactSource,
        *,
        block_max: int,
        window_max: int,
        refusals_per_s: float,
        refusals_burst: int = 4,
    ) -> None:
        self.block_max = block_max
        self.window_max = window_max
        self.is_loaded = False
        """Set once every open deployment's grant is in the table."""
        self.counters = BlockCounters()
        self._source = source
        self._refusal_interval_s = 1.0 / refusals_per_s
        self._refusal_slack_s = self._refusal_interval_s * (refusals_burst - 1)
        self._clients: dict[DeviceId, _Client] = {}
        self._activity: dict[tuple[DeviceId, DeploymentId], _Activity] = {}
        self._held: dict[RolloutId, GrantState] = {}

    # --- the table ---------------------------------------------------------------------------------------

    def apply(self, change: GrantsChanged) -> None:
        """Replace what a device may fetch."""
        client = self._client(change.device)
        before = client.jobs
        client.grants, client.jobs = change.grants, {}
        for grant in change.grants:
            self._open(client, grant)
        # Closed only now: what stays open is not opened twice.
        for job in before.values():
            if job.artifact is not None:
                job.artifact.close()

    def hold(self, rollout: RolloutId, state: GrantState | None) -> None:
        """Answer a whole rollout with `state` from now on, before its commit; None: as each grant says."""
        if state is None:
            self._held.pop(rollout, None)
        else:
            self._held[rollout] = state

    def _client(self, device: DeviceId) -> _Client:
        client = self._clients.get(device)
        if client is None:
            client = self._clients[device] = _Client()
        return client

    def _open(self, client: _Client, grant: Grant) -> None:
        manifest = grant.manifest
        image = self._opened(self._source.open, manifest)
        chunk_list = self._opened(self._source.open_chunk_list, manifest)
        for digest, job in (
            (manifest.sha256, _Job(grant, image, is_image=True)),
            (manifest.merkle_root, _Job(grant, chunk_list, is_image=False)),
        ):
            other = client.jobs.get(bytes(digest))
            if other is not None and other.artifact is not None:
                other.artifact.close()  # two components of one image
            client.jobs[bytes(digest)] = job
        for digest, data in grant.inline:
            client.jobs[bytes(digest)] = _Job(grant, Inline(data), is_image=False)

    def _opened(self, open_: Callable[[ManifestFacts], Artifact], manifest: ManifestFacts) -> Artifact | None:
        try:
            return open_(manifest)
        except StoreError:
            self.counters.damaged += 1
            return None

    # --- the answer --------------------------------------------------------------------------------------

    def answer(self, device: DeviceId, request: BlockRequest, *, wall: float, mono: float) -> Served | Refused:
        """What to send for one request. Never raises on any request that decoded."""
        self.counters.requests += 1
        job = self._verdict(self._client(device), request)
        if isinstance(job, BlockRefusal):
            return self.refuse(device, job, mono=mono)
        if job.artifact is None and mono - job.tried_mono >= REOPEN_S:
            job.tried_mono = mono
            open_ = self._source.open if job.is_image else self._source.open_chunk_list
            job.artifact = self._opened(open_, job.grant.manifest)
        blocks = self._slices(job, request)
        if isinstance(blocks, BlockRefusal):
            return self.refuse(device, blocks, mono=mono)
        self._account(device, job, blocks, wall)
        return Served(blocks)

    def _verdict(self, client: _Client, request: BlockRequest) -> _Job | BlockRefusal:
        if not self.is_loaded:
            return BlockRefusal.BUSY
        job = _find(client.jobs, request.artifact)
        if job is None:
            return BlockRefusal.NOT_OPEN
        state = job.grant.state
        if job.grant.rollout is not None:
            state = self._held.get(job.grant.rollout, state)
        if state is GrantState.PAUSED:
            return BlockRefusal.PAUSED
        if state is GrantState.WITHDRAWN:
            return BlockRefusal.WITHDRAWN
        if request.size > self.block_max or request.count > self.window_max:
            return BlockRefusal.ABOVE_LIMIT
        return job

    def _slices(self, job: _Job, request: BlockRequest) -> list[tuple[int, memoryview]] | BlockRefusal:
        if job.artifact is None:
            return BlockRefusal.BUSY
        end = job.artifact.size_bytes
        blocks: list[tuple[int, memoryview]] = []
        try:
            for index in wanted_blocks(request):
                offset = request.offset + index * request.size
                if offset >= end:
                    break
                blocks.append((offset, job.artifact.view(offset, min(request.size, end - offset))))
        except StoreError:
            # Fail closed, but let the device wait: the operator is told, and a good copy heals it.
            self.counters.damaged += 1
            return BlockRefusal.BUSY
        return blocks or BlockRefusal.PAST_END

    def refuse(self, device: DeviceId, code: BlockRefusal, *, mono: float) -> Refused:
        """A refusal within the device's limit, or a silent one."""
        client = self._client(device)
        client.refusals += 1
        client.last_refusal = code
        self.counters.refused[code] = self.counters.refused.get(code, 0) + 1
        ready = max(client.refusal_ready_mono, mono)
        if ready - mono > self._refusal_slack_s + 1e-9:
            self.counters.silent += 1
            return Refused(code, 0, silent=True)
        client.refusal_ready_mono = ready + self._refusal_interval_s
        return Refused(code, _retry_after_s(code))

    # --- accounting --------------------------------------------------------------------------------------

    def _account(self, device: DeviceId, job: _Job, blocks: list[tuple[int, memoryview]], wall: float) -> None:
        size = sum(len(data) for _, data in blocks)
        self.counters.blocks += len(blocks)
        self.counters.bytes += size
        key = (device, job.grant.deployment)
        activity = self._activity.get(key)
        if activity is None:
            activity = self._activity[key] = _Activity()
        activity.wall = wall
        activity.requests += 1
        activity.bytes_sent += size
        activity.blocks_sent += len(blocks)
        if job.is_image:
            last_offset, last = blocks[-1]
            activity.high_water_bytes = max(activity.high_water_bytes, last_offset + len(last))

    def drain(self, wall: float) -> list[BlockActivity | BlockTrouble]:
        """What happened since the last call, for the database; a batch every second or so, never per block."""
        batch: list[BlockActivity | BlockTrouble] = [
            BlockActivity(
                device=device,
                deployment=deployment,
                wall=seen.wall,
                bytes_sent=seen.bytes_sent,
                blocks_sent=seen.blocks_sent,
                requests=seen.requests,
                high_water_bytes=seen.high_water_bytes,
            )
            for (device, deployment), seen in self._activity.items()
        ]
        self._activity.clear()
        idle: list[DeviceId] = []
        for device, client in self._clients.items():
            if client.last_refusal is not None:
                batch.append(BlockTrouble(device=device, wall=wall, refusal=client.last_refusal, count=client.refusals))
                client.refusals, client.last_refusal = 0, None
            elif not client.grants:
                idle.append(device)
        for device in idle:
            del self._clients[device]
        return batch


def _find(jobs: dict[bytes, _Job], artifact: bytes) -> _Job | None:
    """The job whose digest begins with `artifact`; None where there is none or the prefix fits two."""
    if len(artifact) < MIN_PREFIX_BYTES:
        return None
    found = [job for digest, job in jobs.items() if digest.startswith(artifact)]
    return found[0] if len(found) == 1 else None


def _retry_after_s(code: BlockRefusal) -> int:
    match code:
        case BlockRefusal.BUSY:
            return BUSY_RETRY_S
        case BlockRefusal.PAUSED:
            return PAUSED_RETRY_S
        case BlockRefusal.NOT_OPEN | BlockRefusal.WITHDRAWN:
            return NOT_OPEN_RETRY_S
        case BlockRefusal.PAST_END | BlockRefusal.ABOVE_LIMIT | BlockRefusal.MALFORMED:
            return 0


# --- the slow half -----------------------------------------------------------------------------------------------


class Due(StrEnum):
    """What a deployment needs when its time has come."""

    OFFER = "offer"
    STALL = "stall"
    TIME_OUT = "time_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How long things may take, in seconds."""

    resend_after_s: float = 60
    min_offer_interval_s: float = 30
    stall_after_s: float = 60
    offered_s: float = 604_800
    downloading_s: float = 86_400
    installing_s: float = 3_600
    trial_s: float = 3_600
    canceling_s: float = 86_400

    def earliest_offer_wall(self, last_offer_wall: float | None, wall: float) -> float:
        """When this device may get the next notice: never more often than `min_offer_interval_s` (boot loops)."""
        if last_offer_wall is None or last_offer_wall > wall:
            return wall
        return max(wall, last_offer_wall + self.min_offer_interval_s)

    def next_due(self, deployment: Deployment) -> tuple[float, Due] | None:
        """When this open deployment needs something next, and what; None: nothing but a message moves it.

        The caller leaves paused rollouts out.
        """
        since = deployment.changed_wall
        if deployment.retry_wall is not None and is_served(deployment):
            return (deployment.retry_wall, Due.OFFER)
        match deployment.state:
            case State.QUEUED:
                return (deployment.created_wall, Due.OFFER)
            case State.OFFERED:
                if deployment.resent or deployment.offered_wall is None:
                    return (since + self.offered_s, Due.TIME_OUT)
                return (deployment.offered_wall + self.resend_after_s, Due.OFFER)
            case State.DEFERRED:
                return (since + self.resend_after_s, Due.OFFER)
            case State.DOWNLOADING:
                last = max(since, deployment.last_block_wall or since)
                offered = deployment.offered_wall
                if offered is not None and offered >= last and not deployment.resent:
                    return (offered + self.resend_after_s, Due.OFFER)  # the device came back and asked for nothing
                if deployment.stalled:
                    return (last + self.downloading_s, Due.TIME_OUT)
                return (last + self.stall_after_s, Due.STALL)
            case State.DOWNLOADED:
                return (since + self.downloading_s, Due.TIME_OUT)
            case State.INSTALLING:
                return (since + self.installing_s, Due.TIME_OUT)
            case State.TRIAL:
                return (since + self.trial_s, Due.TIME_OUT)
            case State.CANCELING:
                return (since + self.canceling_s, Due.TIME_OUT)
            case _:
                return None


def is_served(deployment: Deployment) -> bool:
    """True while blocks of this deployment may be asked for."""
    return deployment.state in FETCHING
