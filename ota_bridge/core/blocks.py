"""The block plane's decision: may this device have this artifact, which ranges does a request mean, what is refused
and how (native protocol §5), what was served. No I/O.

Rules:
1. A device gets only artifacts of its own open deployments, and what it was granted without one; until the table is
   loaded the answer is "busy", never "not open".
2. Nothing is counted or changed before every check of a request has passed.
3. A device that asks faster than its rate gets "busy" before its request is even decoded. Refusals are limited per
   device; what is over the limit is counted and stays silent, so a loop stays cheap.
4. What was established once for a device and a name of an artifact is kept as a `Pass`, which a fast lane may use:
   while `Pass.gate` is open and the fleet-wide caps leave its device alone (`Client.free_until_mono`), a request within
   `Pass.end_bytes` and the limits is one that `answer` would serve.
5. Fleet-wide caps (`shares`) are asked before the artifact is touched, and count what goes: blocks of every artifact,
   and the bytes of whole packets, refusals included.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ota_bridge.core.artifacts import Artifact, ArtifactSource, Inline
from ota_bridge.core.asked import find_artifact, ranges_of
from ota_bridge.core.errors import ArtifactCold, BlockRefusal, StoreError
from ota_bridge.core.messages import BlockActivity, BlockRequest, BlockTrouble, Grant, GrantsChanged, GrantState
from ota_bridge.core.served import Activity, ServedCounters
from ota_bridge.core.shares import FairShares, Usage, Wait
from ota_bridge.core.values import MIN_PREFIX_BYTES, DeploymentId, DeviceId, Limits, RolloutId, Sha256

BUSY_RETRY_S: Final = 2
NOT_OPEN_RETRY_S: Final = 30
PAUSED_RETRY_S: Final = 30
TOLD_PER_S: Final = 20
"""Deployments whose progress is told in a second: each costs the database more than hundreds of blocks cost here."""
TOLD_WITHIN_S: Final = 10.0
FREE_S: Final = 1.0
"""How long a device that holds a slot need not ask for it again; shorter than any lease."""
FRAME_MAX_BYTES: Final = 512
"""More than any packet has beside its data."""
_SLACK_S: Final = 1e-9


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


@dataclass(frozen=True, slots=True)
class Declined:
    """Why there are no blocks now, before anybody is told or anything is counted."""

    code: BlockRefusal
    waits: Wait | None = None


@dataclass(frozen=True, slots=True)
class Cold:
    """Nothing was decided: this range has to be fetched first, then the request is to be answered anew."""

    artifact: Artifact
    offset: int
    length: int


@dataclass(slots=True)
class Gate:
    """Shared by all that is served for one rollout: `state` None serves, else it is the answer."""

    state: GrantState | None = None


@dataclass(slots=True)
class Pass:
    """A device's right to one artifact under one name. `memo` is the encoder's own, for the head it wrote last."""

    artifact: Artifact
    end_bytes: int
    is_image: bool
    gate: Gate
    activity: Activity
    memo: Any = None


@dataclass(slots=True, eq=False)
class Client:
    """What the block plane knows of one device."""

    device: DeviceId
    frame_bytes: int = FRAME_MAX_BYTES
    """No packet to it has more beside its data; the encoder knows."""
    grants: tuple[Grant, ...] = ()
    inline: tuple[tuple[Sha256, bytes], ...] = ()
    passes: dict[bytes, Pass] = field(default_factory=dict)
    """By the artifact's name as this device writes it."""
    ready_mono: float = 0.0
    """When the blocks that it had are paid off at its rate (GCRA's theoretical arrival time)."""
    refusal_ready_mono: float = 0.0
    refusals: int = 0
    last_refusal: BlockRefusal | None = None
    refused_mono: float = 0.0
    free_until_mono: float = 0.0
    """Until then the fleet-wide caps, if there are any, leave it alone: it holds a slot, and no rate is capped."""
    waits: Wait | None = None
    """What the last refusal was for want of."""
    is_gone: bool = False
    """Forgotten by the server; ask it for the device anew."""
    is_waiting: bool = False
    """A request waits for the disk, and those that came after it wait behind it."""

    @property
    def is_served(self) -> bool:
        """Whether there is anything that it may fetch."""
        return bool(self.grants or self.inline)


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
        device_blocks_per_s: float = 1_000,
        device_burst_blocks: int = 1_000,
        lease_s: float = 60.0,
    ) -> None:
        self.block_max = block_max
        """The largest block that can be had now: a cap on bytes may make it smaller."""
        self.window_max = window_max
        self.is_loaded = False
        self.damage = ""
        """Set once every open deployment's grant is in the table."""
        self.catch_up: Callable[[], None] = _nothing
        """Takes in changes of the table that are on their way; asked before a device is told that nothing is open."""
        self.shares: FairShares | None = None
        """The fleet-wide caps; None: there are none."""
        self.interval_s = 1.0 / device_blocks_per_s
        self.slack_s = self.interval_s * device_burst_blocks
        """A device may ask while its `ready_mono` is no further ahead than this."""
        self._source = source
        self._block_max = block_max
        self._lease_s = lease_s
        self._refusal_interval_s = 1.0 / refusals_per_s
        self._refusal_slack_s = self._refusal_interval_s * (refusals_burst - 1) + _SLACK_S
        self._totals = ServedCounters()
        self._clients: dict[DeviceId, Client] = {}
        self._holders: dict[DeploymentId, Client] = {}
        self._gates: dict[RolloutId, Gate] = {}
        self._active: list[Activity] = []
        self._troubled: list[Client] = []
        self._fading: list[Client] = []
        self._under_way: dict[DeviceId, float] = {}
        """Until the table is whole: who was downloading before, and about when it asked last."""

    # --- the table ---------------------------------------------------------------------------------------

    def client(self, device: DeviceId) -> Client:
        """What is known of this device; makes it known."""
        client = self._clients.get(device)
        if client is None:
            client = self._clients[device] = Client(device)
        return client

    def apply(self, change: GrantsChanged, *, wall: float = 0.0, mono: float = 0.0) -> None:
        """Replace what a device may fetch. The clocks place downloads that were under way before a restart."""
        client = self.client(change.device)
        for passed in client.passes.values():
            passed.artifact.close()
        client.passes = {}
        before, after = ({grant.deployment for grant in grants} for grants in (client.grants, change.grants))
        kept = before & after
        for ended in before - kept:
            self._holders.pop(ended, None)
        self._holders.update(dict.fromkeys(after - kept, client))
        client.grants, client.inline = change.grants, change.inline
        if not client.is_served:
            self._fading.append(client)
        if not self.is_loaded:
            fetched = change.fetched_wall
            self._under_way.pop(client.device, None)
            if fetched is not None:
                # The database hears of a download's last block late.
                self._under_way[client.device] = mono - max(0.0, wall - fetched - TOLD_WITHIN_S)
        elif self.shares is not None and not any(
            grant.deployment in kept and not grant.is_whole for grant in change.grants
        ):
            client.free_until_mono = 0.0
            self.shares.end(client.device, mono)

    def holder(self, deployment: DeploymentId) -> Client | None:
        """Who may fetch what this deployment brings; None: nobody, or, until the table is whole, nobody knows."""
        found = self._holders.get(deployment)
        if found is None:
            self.catch_up()
            found = self._holders.get(deployment)
        return found

    def open(self, mono: float) -> None:
        """The table is whole: from now on who is not in it is refused. Who was downloading keeps its slot."""
        self.is_loaded = True
        for device, last_mono in sorted(self._under_way.items(), key=lambda item: item[1]):
            if self.shares is not None and mono - last_mono < self._lease_s:
                self.shares.seed(device, last_mono)
        self._under_way.clear()

    def hold(self, rollout: RolloutId, state: GrantState | None) -> None:
        """Answer a whole rollout with `state` from now on, before its commit; None: as each grant says."""
        self._gate(rollout).state = state

    @property
    def held(self) -> dict[RolloutId, GrantState]:
        """The rollouts that are held, and with what answer."""
        return {rollout: gate.state for rollout, gate in self._gates.items() if gate.state is not None}

    def set_limits(self, limits: Limits, mono: float) -> None:
        """These caps from now on."""
        if not limits.are_any:
            self.shares = None
        elif self.shares is None:
            packet_max = self._block_max + FRAME_MAX_BYTES
            self.shares = FairShares(limits, lease_s=self._lease_s, mono=mono, packet_max_bytes=packet_max)
        else:
            self.shares.change(limits, mono)
        for client in self._clients.values():
            client.free_until_mono = 0.0
        largest = None if self.shares is None else self.shares.largest_bytes
        self.block_max = self._block_max if largest is None else min(self._block_max, largest - FRAME_MAX_BYTES)

    def usage(self, mono: float) -> Usage:
        """How the fleet-wide caps are used."""
        return Usage() if self.shares is None else self.shares.usage(mono)

    def _gate(self, rollout: RolloutId | None) -> Gate:
        if rollout is None:
            return Gate()
        gate = self._gates.get(rollout)
        if gate is None:
            gate = self._gates[rollout] = Gate()
        return gate

    # --- the answer --------------------------------------------------------------------------------------

    def answer(
        self, client: Client, request: BlockRequest, *, mono: float, bounds: tuple[int, int] | None = None
    ) -> Served | Refused | Cold:
        """What to send for one request. Never raises on any request that decoded.

        `bounds`: the largest block and the most blocks of a protocol with limits of its own; a cap on bytes stays.
        """
        served = self.attempt(client, request, mono=mono, frame_bytes=client.frame_bytes, bounds=bounds)
        if isinstance(served, Declined):
            return self.refuse(client, served.code, mono=mono, waits=served.waits)
        return served

    def attempt(
        self, client: Client, request: BlockRequest, *, mono: float, frame_bytes: int,
        lane: Hashable = None, spare: bool = False, bounds: tuple[int, int] | None = None,
    ) -> Served | Declined | Cold:  # fmt: skip
        """The same, and a refusal is left to the caller. `lane` and `spare` are as in `FairShares.admit`."""
        passed = self.verdict(client, request.artifact)
        if isinstance(passed, BlockRefusal):
            return Declined(passed)
        block_max, window_max = self._bounds(bounds)
        if request.size > block_max or request.count > window_max:
            return Declined(BlockRefusal.ABOVE_LIMIT)
        ranges = ranges_of(request, passed.end_bytes)
        if not ranges:
            return Declined(BlockRefusal.PAST_END)
        shares = self.shares if mono >= client.free_until_mono else None
        if shares is not None:
            sizes = [length + frame_bytes for _, length in ranges]
            admitted = shares.admit(client.device, sizes, mono, lane=lane, spare=spare)
            if isinstance(admitted, Wait):
                return Declined(BlockRefusal.BUSY, admitted)
            del ranges[admitted:]
            if not shares.are_rates_capped:
                client.free_until_mono = mono + FREE_S
        blocks: list[tuple[int, memoryview]] = []
        offset, length = ranges[0]
        try:
            for offset, length in ranges:
                blocks.append((offset, passed.artifact.view(offset, length)))
        except ArtifactCold:
            return Cold(passed.artifact, offset, length)
        except StoreError as error:
            # Fail closed, but let the device wait: the operator is told, and a good copy heals it.
            self._totals.damaged += 1
            self.damage = str(error)
            return Declined(BlockRefusal.BUSY)
        if shares is not None:
            shares.take([length + frame_bytes for _, length in ranges], mono, lane=lane)
        size = sum(len(data) for _, data in blocks)
        self.account(client, passed, len(blocks), size, offset + length, mono)
        return Served(blocks)

    def verdict(self, client: Client, artifact: bytes) -> Pass | BlockRefusal:
        """Whether this device may have what it calls `artifact`."""
        if not self.is_loaded:
            return BlockRefusal.BUSY
        passed = client.passes.get(artifact)
        if passed is None:
            passed = self._found(client, artifact)
            if passed is None:
                self.catch_up()
                passed = self._found(client, artifact)
            if passed is None:
                return BlockRefusal.NOT_OPEN
            client.passes[artifact] = passed
        match passed.gate.state:
            case GrantState.PAUSED:
                return BlockRefusal.PAUSED
            case GrantState.WITHDRAWN:
                return BlockRefusal.WITHDRAWN
        return passed

    def _bounds(self, own: tuple[int, int] | None) -> tuple[int, int]:
        if own is None:
            return self.block_max, self.window_max
        capped = None if self.shares is None else self.shares.largest_bytes
        return own[0] if capped is None else min(own[0], capped - FRAME_MAX_BYTES), own[1]

    def _found(self, client: Client, artifact: bytes) -> Pass | None:
        found = find_artifact(client.grants, artifact)
        if found is not None:
            return self._pass(client, *found)
        free = [data for digest, data in client.inline if digest.startswith(artifact)]
        if len(artifact) < MIN_PREFIX_BYTES or len(free) != 1:
            return None
        return Pass(Inline(free[0]), len(free[0]), is_image=False, gate=Gate(), activity=Activity(client.device, None))

    def _pass(self, client: Client, grant: Grant, digest: bytes) -> Pass:
        manifest = grant.manifest
        if digest == manifest.sha256:
            artifact = self._source.open(manifest)
        elif digest == manifest.merkle_root:
            artifact = self._source.open_chunk_list(manifest)
        else:
            artifact = Inline(next(data for name, data in grant.inline if name == digest))
        gate = self._gate(grant.rollout) if grant.state is GrantState.OPEN else Gate(grant.state)
        activity = next(
            (known.activity for known in client.passes.values() if known.activity.deployment == grant.deployment),
            None,
        ) or Activity(client.device, grant.deployment)
        return Pass(artifact, artifact.size_bytes, digest == manifest.sha256, gate, activity)

    def refuse(self, client: Client, code: BlockRefusal, *, mono: float, waits: Wait | None = None) -> Refused:
        """A refusal within the device's limit, or a silent one."""
        self.note(client, code, mono=mono, waits=waits)
        ready = client.refusal_ready_mono
        if ready > mono + self._refusal_slack_s or not self._may_tell(client, mono):
            self._totals.silent += 1
            return _SILENT[code]
        client.refusal_ready_mono = max(ready, mono) + self._refusal_interval_s
        return Refused(code, _RETRY_AFTER_S[code] if waits is None else waits.retry_after_s)

    def note(self, client: Client, code: BlockRefusal, *, mono: float, waits: Wait | None = None) -> None:
        """Count a refusal, and remember it for `why`."""
        if not client.refusals:
            self._troubled.append(client)
        client.refusals += 1
        client.last_refusal, client.refused_mono, client.waits = code, mono, waits
        refused = self._totals.refused
        refused[code] = refused.get(code, 0) + 1

    def _may_tell(self, client: Client, mono: float) -> bool:
        return self.shares is None or self.shares.may_tell(client.frame_bytes, mono)

    # --- accounting --------------------------------------------------------------------------------------

    def account(self, client: Client, passed: Pass, blocks: int, size: int, end: int, mono: float) -> None:
        """Blocks of `size` bytes in all were served up to `end`."""
        ready = client.ready_mono
        client.ready_mono = (max(mono, ready)) + blocks * self.interval_s
        activity = passed.activity
        if not activity.requests:
            self._active.append(activity)
        activity.mono = mono
        activity.requests += 1
        activity.bytes_sent += size
        activity.blocks_sent += blocks
        if passed.is_image and end > activity.high_water_bytes:
            activity.high_water_bytes = end

    @property
    def counters(self) -> ServedCounters:
        """Everything so far."""
        totals, active = self._totals, self._active
        return ServedCounters(
            requests=totals.requests + sum(totals.refused.values()) + sum(seen.requests for seen in active),
            blocks=totals.blocks + sum(seen.blocks_sent for seen in active),
            bytes=totals.bytes + sum(seen.bytes_sent for seen in active),
            refused=dict(totals.refused),
            silent=totals.silent,
            damaged=totals.damaged,
        )

    def drain(self, wall: float, mono: float, *, whole: bool = False) -> list[BlockActivity | BlockTrouble]:
        """What happened lately, for the database; a batch every second or so, never per block.

        That a deployment is active is told at once; how far it has come, the less often the more are active, and not
        later than after TOLD_WITHIN_S. `whole` holds nothing back.
        """
        batch: list[BlockActivity | BlockTrouble] = []
        totals = self._totals
        until = mono if whole else mono - min(TOLD_WITHIN_S, len(self._active) / TOLD_PER_S)
        later: list[Activity] = []
        for seen in self._active:
            if seen.told_mono > until:
                later.append(seen)
                continue
            seen.told_mono = mono
            if seen.deployment is not None:
                batch.append(
                    BlockActivity(
                        device=seen.device,
                        deployment=seen.deployment,
                        wall=wall - (mono - seen.mono),
                        bytes_sent=seen.bytes_sent,
                        blocks_sent=seen.blocks_sent,
                        requests=seen.requests,
                        high_water_bytes=seen.high_water_bytes,
                    )
                )
            totals.requests += seen.requests
            totals.blocks += seen.blocks_sent
            totals.bytes += seen.bytes_sent
            seen.requests = seen.blocks_sent = seen.bytes_sent = seen.high_water_bytes = 0
        self._active[:] = later
        fading, self._fading = self._fading, []
        for client in fading:
            if not client.is_served and not client.refusals and not client.is_gone:
                client.is_gone = True
                del self._clients[client.device]
        for client in self._troubled:
            assert client.last_refusal is not None
            waits = client.waits
            batch.append(
                BlockTrouble(
                    device=client.device,
                    wall=wall - (mono - client.refused_mono),
                    refusal=client.last_refusal,
                    count=client.refusals,
                    waits_for=None if waits is None else waits.share,
                    retry_after_s=0 if waits is None else waits.retry_after_s,
                )
            )
            client.refusals, client.last_refusal, client.waits = 0, None, None
            if not client.is_served:
                self._fading.append(client)
        self._troubled.clear()
        return batch


def _nothing() -> None:
    pass


_RETRY_AFTER_S: Final = {
    BlockRefusal.BUSY: BUSY_RETRY_S,
    BlockRefusal.PAUSED: PAUSED_RETRY_S,
    BlockRefusal.NOT_OPEN: NOT_OPEN_RETRY_S,
    BlockRefusal.WITHDRAWN: NOT_OPEN_RETRY_S,
    BlockRefusal.PAST_END: 0,
    BlockRefusal.ABOVE_LIMIT: 0,
    BlockRefusal.MALFORMED: 0,
}
_SILENT: Final = {code: Refused(code, 0, silent=True) for code in BlockRefusal}
