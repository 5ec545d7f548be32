"""The composition root: builds everything from the configuration, runs it in one TaskGroup, ends it cleanly.

Start: lock the data directory, open the store (which checks itself), load the block plane's table, then the links. A
broker that is away is waited for; everything else that is wrong ends the start with one sentence. SIGTERM and SIGINT
end it within two seconds: links say goodbye, what is queued is committed, the database is closed.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import uvloop

from ota_bridge import __version__, garbage
from ota_bridge.backup import Backups
from ota_bridge.block_plane import LocalPlane, PlaneSettings, build_plane
from ota_bridge.block_process import ProcessPlane
from ota_bridge.calendars import CronCalendar
from ota_bridge.config import Config, PlaneProcess, TopicIdentity
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.delivery import Pacing
from ota_bridge.core.errors import BrokerError, ConfigError, InvalidInput, NotFound
from ota_bridge.core.fleet import Enrol, ReportLimit
from ota_bridge.core.notices import no_links
from ota_bridge.core.people import Caller
from ota_bridge.core.rollout.policy import Retries
from ota_bridge.core.rules import Rules
from ota_bridge.core.values import NATIVE, DeviceId
from ota_bridge.dialect import VendorDialect
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.dialects.registry import load, public
from ota_bridge.file_service import belongings
from ota_bridge.files.links import SignedLinks
from ota_bridge.files.server import listening
from ota_bridge.gateway import Gateway
from ota_bridge.intake import Intake
from ota_bridge.mqtt.control import ControlLink
from ota_bridge.mqtt.embedded import EmbeddedBroker
from ota_bridge.mqtt.tls import tls_context
from ota_bridge.queries import CelQueries
from ota_bridge.security.authority import Authority
from ota_bridge.security.standing_secret import standing_secret
from ota_bridge.store.blobs import BlobStore
from ota_bridge.store.lock import DataDirectoryLock
from ota_bridge.store.opening import open_store
from ota_bridge.store.outcome import Store
from ota_bridge.switch import Switch
from ota_bridge.web.local import LocalSocket
from ota_bridge.wire import BrokerAddress

DATABASE: Final = "ota-bridge.sqlite"
SWITCH_INTERVAL_S: Final = 0.0005
"""A busy thread otherwise keeps the event loop waiting for 5 ms."""

REST_S: Final = 0.001
"""Twenty requests a wake-up at 20,000 a second; a device does not notice it."""

_log = logging.getLogger(__name__)


def rules_of(config: Config) -> Rules:
    """The core's settings from the configuration."""
    timeouts, offers = config.timeouts, config.offers
    return Rules(
        enrol=Enrol(config.enrol.policy),
        enrol_per_s=config.enrol.per_s,
        enrol_burst=config.enrol.burst,
        unique_names=config.topics.identity is TopicIdentity.DEVICE,
        block_max=config.blocks.block_max,
        window_max=config.blocks.window_max,
        public_url=config.offers.public_url,
        pacing=Pacing(
            resend_after_s=offers.resend_after_s,
            min_offer_interval_s=offers.min_interval_s,
            stall_after_s=timeouts.stall_after_s,
            offered_s=timeouts.offered_s,
            downloading_s=timeouts.downloading_s,
            installing_s=timeouts.installing_s,
            trial_s=timeouts.trial_s,
            canceling_s=timeouts.canceling_s,
            silent_after_s=timeouts.silent_after_s,
        ),
        retries=Retries(max_attempts=config.retries.max_attempts, backoff_s=config.retries.backoff_s),
        keep_history_s=config.history.keep_days * 86_400.0 or None,
    )


@dataclass(slots=True, kw_only=True)
class _Parts:
    """Everything that runs, for the operations that look at the whole."""

    config: Config
    address: BrokerAddress
    gateway: Gateway
    control: ControlLink
    plane: LocalPlane | ProcessPlane
    intake: Intake
    backups: Backups

    async def call(self, caller: Caller, op: str, args: dict[str, Any], upload: AsyncIterator[bytes] | None) -> Any:
        """One request of the local socket."""
        if op == "release.add":
            return await self.intake.add(caller, args, upload)
        if op == "keys.publish":
            return await self.intake.publish_keyset(caller, args)
        if op == "bridge.status":
            await self._admit(caller, op, args)
            return self.status()
        result = await self.gateway.operate(caller, op, args)
        if op in {"limits.show", "limits.set"}:
            return {**result, "in_use": self._in_use()}
        return {**result, "bridge": self.gateway.planes()} if op == "fleet" else result

    async def _admit(self, caller: Caller, name: str, args: dict[str, Any]) -> None:
        async with self.gateway.door.recording(caller, name, args, writes=False):
            await self.gateway.door.admit(caller, name)

    def _in_use(self) -> dict[str, int]:
        return asdict(self.plane.counters.usage)

    def status(self) -> dict[str, Any]:
        """How the daemon is."""
        counters = {
            "gateway": self.gateway.counters,
            "control": self.control.counters,
            "blocks": self.plane.counters.link,
        }
        if self.plane.counters.files is not None:
            counters["files"] = self.plane.counters.files
        served = self.plane.counters.served
        return {
            **self.gateway.planes(),
            "broker": str(self.address),
            "embedded": not self.config.broker.url,
            "root": self.config.topics.root,
            "dialects": [NATIVE, *self.config.dialects],
            "data_dir": str(self.config.data_dir),
            "shares": self._in_use(),
            "counters": {name: _plain(counter) for name, counter in counters.items()},
            "served": {
                "requests": served.requests,
                "blocks": served.blocks,
                "bytes": served.bytes,
                "refused": {code.name.lower(): number for code, number in served.refused.items()},
                "silent": served.silent,
                "damaged": served.damaged,
            },
        }

    async def subscribe(self, caller: Caller, what: str, args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """One stream of the local socket."""
        if what == "backup":
            await self._admit(caller, what, args)
            async with contextlib.aclosing(self.backups.make(args)) as told:
                async for item in told:
                    yield item
            return
        if what != "events":
            raise NotFound(f"no stream {what[:40]!r}; known are backup and events")
        await self._admit(caller, what, args)
        named = args.get("device")
        if named is not None and not isinstance(named, str):
            raise InvalidInput("events: device must be PRODUCT/NAME")
        async for event in self.gateway.events(DeviceId.parse(named) if named else None):
            yield event


def _plain(counters: Any) -> dict[str, int]:
    return {name: getattr(counters, name) for name in counters.__slots__ if not name.startswith("_")}


async def serve(config: Config, *, on_ready: Callable[[BrokerAddress], None] = lambda _address: None) -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigError or StoreError when it cannot start."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    vendors = load(config.dialects, root=config.topics.root)
    _make_data_dir(config.data_dir)
    with DataDirectoryLock(config.data_dir):
        blobs = BlobStore(config.data_dir, cache_bytes=config.blocks.cache_bytes)
        store = await asyncio.to_thread(open_store, str(config.data_dir / DATABASE), lambda told: _on_loop(loop, told))
        try:
            with _files_socket(config) as files:
                async with _broker(config, vendors) as (control_address, blocks_address):
                    parts = await _build(config, store, blobs, control_address, blocks_address, vendors, files)
                    await _run(parts, stop, lambda: on_ready(control_address))
        finally:
            await asyncio.to_thread(store.close)
            await asyncio.sleep(0)  # what the store told while closing
            blobs.close()
    _log.info("stopped")


def _on_loop(loop: asyncio.AbstractEventLoop, told: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(told)


def _make_data_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"data_dir {path}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def _broker(
    config: Config, vendors: Sequence[VendorDialect]
) -> AsyncIterator[tuple[BrokerAddress, BrokerAddress]]:
    """Whom the two links connect to; starts the embedded broker where no URL is given."""
    control, blocks = config.broker_address(), config.blocks_address()
    if control is not None and blocks is not None:
        for address in (control, blocks):  # the links read the files again each time, and would go on trying
            if address.tls is not None:
                await asyncio.to_thread(tls_context, address.tls)
        yield control, blocks
        return
    filters = [one.topic_filter for vendor in vendors for one in vendor.subscriptions()]
    filters += [one for vendor in vendors if vendor.blocks is not None for one in vendor.blocks.filters()]
    roots = sorted({one.partition("/")[0] for one in filters if one.startswith("$")})
    embedded = EmbeddedBroker(root=config.topics.root, roots=roots)
    try:
        await embedded.start(config.embedded.host, config.embedded.port)
    except BrokerError as error:
        raise ConfigError(f"{error}; set embedded.port, or broker.url to use the broker that runs there") from error
    try:
        address = BrokerAddress(host=config.embedded.host, port=embedded.port)
        yield address, address
    finally:
        await embedded.stop()


@contextlib.contextmanager
def _files_socket(config: Config) -> Iterator[socket.socket | None]:
    """Where files are served, if they are: opened here, so that it outlives the process of the block plane."""
    if not config.files.host:
        yield None
        return
    _, used = belongings(config.files, config.data_dir)  # what is wrong with them is said before anything runs
    if used is not None:
        used.close()
    with listening(config.files.host, config.files.port) as listener:
        yield listener


async def _build(
    config: Config,
    store: Store,
    blobs: BlobStore,
    control_address: BrokerAddress,
    blocks_address: BrokerAddress,
    vendors: Sequence[VendorDialect],
    files: socket.socket | None,
) -> _Parts:
    authority = Authority(
        config.security.trust,
        config.security.online_key,
        own_path=config.own_trust_path,
        ticket_valid_s=int(config.offers.ticket_valid_s),
        allow_test_keys=config.security.allow_test_keys,
    )
    if config.security.trust.exists():
        authority.trust()
    else:
        _log.warning("no trust document at %s: no release can be added (keys new makes one)", config.security.trust)
    dialect = NativeDialect(config.topics.root, public(vendors))
    secret = standing_secret(config.link_secret_path) if files is not None else b""
    bridge = Bridge(
        rules_of(config),
        verify=authority.verify,
        ticket=authority.ticket,
        keysets=authority.standing,
        links=SignedLinks(config.files.url, secret, config.files.valid_s) if files is not None else no_links,
        queries=CelQueries(),
        calendar=CronCalendar(),
        dialects={vendor.name: vendor for vendor in vendors},
    )
    plane = _plane(config, blobs, blocks_address, files, secret)
    limit = ReportLimit(per_s=config.reports.device_per_s, burst=config.reports.device_burst)
    switch = Switch(dialect, vendors)
    gateway = Gateway(bridge=bridge, store=store, switch=switch, blocks=plane, limit=limit)
    plane.listener = gateway
    down = {**gateway.planes(), "control": "down", "blocks": "unknown"}
    control = ControlLink(
        control_address,
        client_id=f"{config.broker.client_id_prefix}-control",
        subscriptions=switch.subscriptions(),
        will=dialect.state("bridge", down),
        on_message=gateway.hear,
        on_bundle=gateway.take,
        on_state=lambda up: gateway.set_plane(control=up),
        keepalive_s=config.broker.keepalive_s,
    )
    gateway.link = control
    intake = Intake(gateway, blobs, authority.verify, authority.publish)
    return _Parts(
        config=config,
        address=control_address,
        gateway=gateway,
        control=control,
        plane=plane,
        intake=intake,
        backups=Backups(config.data_dir / DATABASE),
    )


def _plane(
    config: Config, blobs: BlobStore, address: BrokerAddress, files: socket.socket | None, secret: bytes
) -> LocalPlane | ProcessPlane:
    """The block plane, here or in a process of its own."""
    settings = PlaneSettings(
        address=address,
        client_id=f"{config.broker.client_id_prefix}-blocks",
        root=config.topics.root,
        keepalive_s=config.broker.keepalive_s,
        data_dir=config.data_dir,
        blocks=config.blocks,
        log=config.log,
        dialects=config.dialects,
        files=config.files,
        link_secret=secret,
        files_descriptor=None if files is None else files.fileno(),
    )
    where = config.blocks.process
    if where is PlaneProcess.OWN or (where is PlaneProcess.AUTO and config.broker.url):
        return ProcessPlane(replace(settings, rest_s=REST_S))
    return build_plane(settings, blobs)


async def _run(parts: _Parts, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    await parts.plane.start()
    await parts.gateway.begin()
    await parts.gateway.load()
    local = LocalSocket(
        parts.config.socket_path, call=parts.call, subscribe=parts.subscribe, group=parts.config.local.group
    )
    await local.start()
    _log.info(
        "ota-bridge %s serves %s, topics %s/…, operators at %s",
        __version__, parts.address, parts.config.topics.root, parts.config.socket_path,
    )  # fmt: skip
    try:
        async with asyncio.TaskGroup() as group:
            blocks = group.create_task(parts.plane.run(), name="block-plane")
            tasks = [
                group.create_task(parts.control.run(), name="control-link"),
                group.create_task(parts.gateway.run(), name="pump"),
                group.create_task(garbage.tidy(), name="tidy"),
            ]
            garbage.search_less()
            on_ready()
            await stop.wait()
            _log.info("stopping")
            await local.stop()
            blocks.cancel()
            await asyncio.wait({blocks})
            parts.control.publish(
                parts.gateway.dialect.state("bridge", {**parts.gateway.planes(), "control": "down", "blocks": "down"})
            )
            for task in tasks:
                task.cancel()
    finally:
        await local.stop()


def run(config: Config, *, on_ready: Callable[[BrokerAddress], None] = lambda _address: None) -> None:
    """Serve until a signal; the entry for the CLI."""
    uvloop.run(serve(config, on_ready=on_ready))
