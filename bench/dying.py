"""Slots while devices die: 2,000 devices, 50 slots, three in ten dead in the middle of their download.

The real core, store and block table in this process, under a clock that goes by in steps of a second. A device asks for
a block a second; whoever dies asks for nothing ever again. At no second more than the slots may download, and in the
end no slot is held: neither by the block plane's table nor in what the planner counts.
"""

import random
import time
from pathlib import Path

from planner import World

from ota_bridge.core.blocks import BlockServer, Served
from ota_bridge.core.deployment import State
from ota_bridge.core.messages import BlockRequest, GrantsChanged, LimitsChanged, Offer
from ota_bridge.core.terms import OFFER_COUNTS_S
from ota_bridge.core.values import DeviceId, Now
from ota_bridge.store.blobs import BlobStore

BLOCKS, BLOCK_BYTES, LAST_S = 8, 4096, 7_200


class Site(World):
    """A fleet that downloads, under a clock of its own."""

    def __init__(self, directory: Path, fleet: int, slots: int, share: float) -> None:
        super().__init__(directory, fleet)
        self.wall = self.mono = time.time() + 3600  # after everything that was stored
        self.blobs = BlobStore(self.database.parent, cache_bytes=1 << 24, writes=False)
        self.server = BlockServer(self.blobs, block_max=16_384, window_max=16, refusals_per_s=1e9)
        self.server.open(self.mono)
        self.slots, self.share, self.random = slots, share, random.Random(1)
        self.fetching: dict[DeviceId, int] = {}
        self.dead: set[DeviceId] = set()
        self.most, self.seconds = {"leases": 0, "planner": 0}, 0

    def now(self) -> Now:
        return Now(wall=self.wall, mono=self.mono)

    def take(self, outputs) -> None:
        """What a commit put out, in the gateway's order."""
        for one in outputs:
            if isinstance(one, GrantsChanged):
                self.server.apply(one, wall=self.wall, mono=self.mono)
            elif isinstance(one, LimitsChanged):
                self.server.set_limits(one.limits, self.mono)
        for one in outputs:
            if isinstance(one, Offer) and one.device not in self.dead:
                self.fetching.setdefault(one.device, 0)

    def second(self) -> None:
        """Devices ask, the block plane tells, the core looks at what is due and plans."""
        self.wall, self.mono, self.seconds = self.wall + 1, self.mono + 1, self.seconds + 1
        for device in list(self.fetching):
            self._ask(device)
        for told in self.server.drain(self.wall, self.mono, whole=True):
            self.take(self.commit(lambda unit, told=told: self.bridge.receive(unit, told, self.now()))[0])
        self.take(self.commit(lambda unit: self.bridge.tick(unit, self.now()).outputs)[0])
        while True:
            done = self.commit(lambda unit: self.bridge.plan(unit, self.now()))[0]
            self.take(done.outputs)
            if not done.more:
                break
        leases = self.server.usage(self.mono).slots_held
        busy = self.store.read(lambda unit: unit.deployments.busy(self.wall - OFFER_COUNTS_S))
        self.most = {"leases": max(self.most["leases"], leases), "planner": max(self.most["planner"], busy)}

    def _ask(self, device: DeviceId) -> None:
        client = self.server.client(device)
        if not client.grants:
            del self.fetching[device]
            return
        manifest = client.grants[0].manifest
        done = self.fetching[device]
        request = BlockRequest(artifact=manifest.sha256[:8], offset=done * BLOCK_BYTES, size=BLOCK_BYTES, count=1)
        answer = self.server.answer(client, request, mono=self.mono)
        if not isinstance(answer, Served):
            if hasattr(answer, "artifact"):  # cold: read, and asked again in the next second
                answer.artifact.fetch(answer.offset, answer.length)
            return
        self.fetching[device] = done + 1
        if done + 1 == BLOCKS // 2 and self.random.random() < self.share:
            self.dead.add(device)
            del self.fetching[device]
        elif done + 1 == BLOCKS:
            del self.fetching[device]
            self.offered.append(device)


def measure(directory: Path, fleet: int = 2_000, slots: int = 50, share: float = 0.3) -> dict:
    site = Site(directory, fleet, slots, share)
    try:
        site.operate("limits.set", downloads=slots)
        site.take([LimitsChanged(limits=site.store.read(lambda unit: unit.limits.get().limits))])
        plan = {"timeouts": {"downloading_s": 600.0}, "tries": {"max_attempts": 1}}
        rollout = site.operate("rollout.start", release="bench/2.0.0", plan=plan)["id"]
        for _ in range(LAST_S):
            site.second()
            site.confirm()
            counts = site.store.read(lambda unit: dict(unit.deployments.counts(rollout)))
            if sum(counts.values()) == fleet and not counts.keys() - {State.CONFIRMED, State.TIMED_OUT}:
                break
        found = {
            "devices": fleet, "slots": slots, "dead": len(site.dead), "seconds": site.seconds, **site.most,
            "confirmed": counts.get(State.CONFIRMED, 0), "left": site.server.usage(site.mono).slots_held,
        }  # fmt: skip
        found["busy"] = site.store.read(lambda unit: unit.deployments.busy(site.wall - OFFER_COUNTS_S))
        if site.most["leases"] > slots or found["left"] or found["busy"]:
            raise RuntimeError(f"slots were exceeded or leaked: {found}")
        if found["confirmed"] != fleet - len(site.dead):
            raise RuntimeError(f"not everyone who lives has it: {found}, {counts}")
        return found
    finally:
        site.close()
        site.blobs.close()
