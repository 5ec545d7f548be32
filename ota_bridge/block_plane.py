"""The block plane as a whole: its link to the broker, its gateway, its table and its files.

What the rest of the bridge says to it are a few words (`BlockPlane`), and what it says back is what it served, once
a second. So it can run here, or in a process of its own (`block_process`), and be told the same.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from ota_bridge.block_gateway import BlockGateway
from ota_bridge.config import BlockSettings, FileSettings, LogSettings
from ota_bridge.core.blocks import BlockServer, Cold
from ota_bridge.core.messages import BlockActivity, BlockTrouble, GrantsChanged, GrantState
from ota_bridge.core.served import ServedCounters
from ota_bridge.core.shares import Usage
from ota_bridge.core.values import Limits, RolloutId
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.dialects.registry import Settings, load
from ota_bridge.file_service import FileService
from ota_bridge.files.connection import FileCounters
from ota_bridge.mqtt.blocks import BlockLink, LinkCounters, Pieces
from ota_bridge.request_lines import Read
from ota_bridge.store.blobs import BlobStore
from ota_bridge.vendor_blocks import VendorBlockGateway
from ota_bridge.wire import BrokerAddress

TELL_S: Final = 1.0
TURN_S: Final = 0.1
"""How often requests are looked at that wait for the fleet-wide caps."""
"""How often it is told what was served."""
LOOK_S: Final = 1.0
"""How often the files of artifacts are looked at: what was altered is dropped from memory."""
READERS: Final = 4

_log = logging.getLogger(__name__)

Served = Sequence[BlockActivity | BlockTrouble]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """What the block plane is built from."""

    address: BrokerAddress
    client_id: str
    root: str
    keepalive_s: int
    data_dir: Path
    blocks: BlockSettings
    log: LogSettings
    dialects: Settings = field(default_factory=dict)
    """The vendors' protocols that are set up."""
    rest_s: float = 0.0
    """How long the link may hold up its loop to read many requests at once: only where nothing else runs in it."""
    files: FileSettings = field(default_factory=FileSettings)
    link_secret: bytes = field(default=b"", repr=False)
    files_descriptor: int | None = None
    """The socket on which files are served, opened by the daemon: it stays open while this process is started anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneCounters:
    """Since the start of its process."""

    served: ServedCounters
    link: LinkCounters
    usage: Usage = field(default_factory=Usage)
    """How the fleet-wide caps are used now."""
    files: FileCounters | None = None
    """None: no files are served."""


class Listener(Protocol):
    """Whom the block plane tells."""

    async def load(self) -> None:
        """Its table is empty: say everything again, then `open`."""
        ...

    def on_served(self, served: Served) -> None:
        """What it served, and whom it refused, since the last time."""
        ...

    def set_plane(self, *, blocks: bool) -> None:
        """Its link went up or down."""
        ...


class BlockPlane(Protocol):
    """What it is told, wherever it runs."""

    def apply(self, *changes: GrantsChanged) -> None:
        """Replace what devices may fetch."""
        ...

    def hold(self, rollout: RolloutId, state: GrantState | None) -> None:
        """Answer a whole rollout with `state` from now on; None: as each grant says."""
        ...

    def set_limits(self, limits: Limits) -> None:
        """These fleet-wide caps from now on."""
        ...

    def open(self) -> None:
        """The table is whole: from now on who is not in it is refused."""
        ...

    async def settled(self) -> None:
        """Return once everything that was said before holds."""
        ...


class LocalPlane:
    """The block plane in this process: what it is told holds at once."""

    def __init__(
        self,
        server: BlockServer,
        *,
        listener: Listener | None = None,
        link: LinkCounters | None = None,
        files: FileCounters | None = None,
        jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        wall: Callable[[], float] = time.time,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server = server
        self.listener = listener
        self._link = link or LinkCounters()
        self._files = files
        self._jobs = jobs
        self._wall = wall
        self._mono = mono
        self._damaged_told = 0

    @property
    def counters(self) -> PlaneCounters:
        """Everything so far."""
        usage = self.server.usage(self._mono())
        return PlaneCounters(served=self.server.counters, link=self._link, usage=usage, files=self._files)

    def apply(self, *changes: GrantsChanged) -> None:
        """Replace what devices may fetch."""
        wall, mono = self._wall(), self._mono()
        for change in changes:
            self.server.apply(change, wall=wall, mono=mono)

    def hold(self, rollout: RolloutId, state: GrantState | None) -> None:
        """Answer a whole rollout with `state` from now on; None: as each grant says."""
        self.server.hold(rollout, state)

    def set_limits(self, limits: Limits) -> None:
        """These fleet-wide caps from now on."""
        self.server.set_limits(limits, self._mono())

    def open(self) -> None:
        """The table is whole: from now on who is not in it is refused."""
        self.server.open(self._mono())

    async def settled(self) -> None:
        """Return once everything that was said before holds."""

    async def start(self) -> None:
        """It is there."""

    def tell(self, *, whole: bool = False) -> None:
        """Say what was served lately; `whole` holds nothing back."""
        served = self.server.drain(self._wall(), self._mono(), whole=whole)
        if self.listener is not None:
            self.listener.on_served(served)
        damaged = self.server.counters.damaged
        if damaged > self._damaged_told:
            self._damaged_told = damaged
            _log.error(
                "%s: its devices are told busy until the file is back (release add, signed as it was)",
                self.server.damage,
            )

    async def run(self) -> None:
        """Serve until cancelled; what was served until then is told."""
        try:
            async with asyncio.TaskGroup() as group:
                for job in self._jobs:
                    group.create_task(job(), name=f"blocks-{getattr(job, '__name__', 'job')}")
                group.create_task(self._keep_telling(), name="blocks-told")
        finally:
            self.tell(whole=True)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self.tell()


def build_plane(settings: PlaneSettings, blobs: BlobStore) -> LocalPlane:
    """The block plane on these files; it needs a listener before it runs."""
    dialect, limits = NativeDialect(settings.root), settings.blocks
    server = BlockServer(
        blobs,
        block_max=limits.block_max,
        window_max=limits.window_max,
        refusals_per_s=limits.refusals_per_s,
        device_blocks_per_s=limits.device_blocks_per_s,
        device_burst_blocks=limits.device_burst_blocks,
        lease_s=limits.slot_lease_s,
    )
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="artifact")
    read = _reader(pool)
    gateway = BlockGateway(server, dialect, read=read)
    spoken = [blocks for vendor in load(settings.dialects) if (blocks := vendor.blocks) is not None]
    vendors = VendorBlockGateway(server, spoken, read=read)
    own = dialect.block_filter().removesuffix("+/+").encode()

    def handle(topic: bytes, payload: bytes, now: float, out: Pieces) -> int:
        return (gateway if topic.startswith(own) else vendors).handle(topic, payload, now, out)

    link = BlockLink(
        settings.address,
        client_id=settings.client_id,
        topic_filter=dialect.block_filter(),
        also=vendors.filters(),
        handler=handle if spoken else gateway.handle,
        keepalive_s=settings.keepalive_s,
        on_state=lambda up: plane.listener.set_plane(blocks=up) if plane.listener else None,
        rest_s=settings.rest_s,
    )
    gateway.send = vendors.send = link.send

    files = None
    if settings.files_descriptor is not None:
        listener = socket.socket(fileno=os.dup(settings.files_descriptor))
        files = FileService(settings.files, settings.data_dir, settings.link_secret, server, listener, pool)

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(blobs.look)
            if files is not None:
                await asyncio.to_thread(files.look)

    async def take_turns() -> None:
        while True:
            await asyncio.sleep(TURN_S)
            vendors.take_turns(time.monotonic())

    jobs = [link.run, look]
    if vendors.is_patient:
        jobs.append(take_turns)
    if files is not None:
        jobs.append(files.run)
    plane = LocalPlane(server, link=link.counters, files=None if files is None else files.counters, jobs=jobs)
    return plane


def _reader(pool: ThreadPoolExecutor) -> Read:
    """Reads artifacts from disk, the oldest request first."""
    loop = asyncio.get_running_loop()

    def read(cold: Cold, done: Callable[[], None]) -> None:
        reading = loop.run_in_executor(pool, cold.artifact.fetch, cold.offset, cold.length)

        def finished(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is not None:
                _log.error("an artifact could not be read", exc_info=future.exception())
            done()

        reading.add_done_callback(finished)

    return read
