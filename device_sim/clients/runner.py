"""Vendors' clients on a real broker: connects them, hands over messages and the time, carries out what they want.

A run ends when every client runs the version that is wanted, is not busy and has nothing left to say; at the
time-out; when `stop` is set; or at once when one of them raises `WentWrong`, which then stands in the report.
Any other error out of a client is a bug and leaves `run`.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from device_sim.clients.connection import Connection, Ended, Event, Granted, Opened
from device_sim.clients.fetching import Fetching
from device_sim.clients.model import (
    Action,
    Downloader,
    Fetch,
    Fetched,
    HangUp,
    Incoming,
    Outcome,
    Publish,
    Read,
    Restart,
    Subscribe,
    Unsubscribe,
    VendorClient,
    WentWrong,
)
from device_sim.errors import BrokerUnreachable
from device_sim.options import BrokerUrl

log = logging.getLogger(__name__)

CONNECTING_AT_ONCE: Final = 24
STARTS_PER_S: Final = 500
CONNACK_S: Final = 10.0
SOONEST_S: Final = 0.001

Loses = Callable[[str, Publish | Incoming], bool]
"""(device, message) -> whether the line loses it: for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where, how long and until when."""

    broker: BrokerUrl
    tls: ssl.SSLContext | None = None
    until: str = ""
    """The version at which a client has come to its end; empty: any but the one that it began with."""
    timeout_s: float = 600.0
    connect_timeout_s: float = 30.0
    """Give up when nobody connects by then."""
    reconnect_s: float = 1.0
    """From a broken link to the next CONNECT."""
    stay: bool = False
    """Go on when all have come to their end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientReport:
    """How one client ended."""

    device: str
    outcome: Outcome
    is_ok: bool
    """It runs what it should and is at rest."""
    went_wrong: str = ""
    """What the vendor's own code would have done: crashed, hung, run wild."""
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How all of them ended, in the order in which they were given."""

    clients: Sequence[ClientReport]

    @property
    def is_ok(self) -> bool:
        """Every one of them is."""
        return all(client.is_ok for client in self.clients)

    @property
    def went_wrong(self) -> Sequence[str]:
        """One sentence for each that did, with its name."""
        return tuple(f"{client.device}: {client.went_wrong}" for client in self.clients if client.went_wrong)


class ClientFleet:
    """Clients by name. `run` once; meanwhile `cut` breaks a line and `outcome` looks."""

    def __init__(
        self,
        clients: Mapping[str, VendorClient],
        options: RunOptions,
        *,
        loses: Loses = lambda _device, _message: False,
    ) -> None:
        self.options, self.loses = options, loses
        self.gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._devices = {name: _Device(name, client, self) for name, client in clients.items()}
        self._waiting = len(self._devices)
        self._all_settled = asyncio.Event()

    async def run(self, stop: asyncio.Event | None = None) -> RunReport:
        """To the end; see the module for what the end is."""
        tasks = [
            asyncio.create_task(device.run(index / STARTS_PER_S), name=f"client {device.name}")
            for index, device in enumerate(self._devices.values())
        ]
        flags = [stop or asyncio.Event(), *([] if self.options.stay else [self._all_settled])]
        ends = [asyncio.create_task(flag.wait(), name="an end of the run") for flag in flags]
        connecting = asyncio.create_task(self._first_connection(), name="first connection")
        try:
            waited = {*tasks, *ends, connecting}
            done, _ = await asyncio.wait(waited, timeout=self.options.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not done:
                log.warning("time-out after %s s", self.options.timeout_s)
        finally:
            for task in (*tasks, *ends, connecting):
                task.cancel()
            await asyncio.gather(*tasks, *ends, connecting, return_exceptions=True)
        return RunReport(clients=tuple(device.report() for device in self._devices.values()))

    def outcome(self, name: str) -> Outcome:
        """How this one stands now."""
        return self._devices[name].client.outcome

    def cut(self, name: str) -> None:
        """Break this one's link without a word; it comes back after `reconnect_s`."""
        self._devices[name].cut()

    def changed(self, *, settled: int) -> None:
        """One more (1) or one less (-1) has come to its end."""
        self._waiting -= settled
        if self._waiting == 0:
            self._all_settled.set()
        else:
            self._all_settled.clear()

    async def _first_connection(self) -> None:
        await asyncio.sleep(min(self.options.connect_timeout_s, self.options.timeout_s * 0.9))
        devices = self._devices.values()
        if not any(device.connections for device in devices):
            error = next((device.last_error for device in devices if device.last_error), "no answer")
            broker = self.options.broker
            raise BrokerUnreachable(f"cannot connect to the broker {broker.host}:{broker.port}: {error}")
        await asyncio.Event().wait()


@dataclass(slots=True)
class _Device:
    """The life of one client in this process."""

    name: str
    client: VendorClient
    fleet: ClientFleet
    connections: int = 0
    last_error: str = ""
    _went_wrong: str = ""
    _settled: bool = False
    _began_with: str = ""
    _connection: Connection | None = None
    _is_open: bool = False
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    """An answer to CONNECT."""
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    """This connection ends."""
    _end: asyncio.Event = field(default_factory=asyncio.Event)
    """It went wrong, or has a bug."""
    _restart: Restart | None = None
    _timer: asyncio.TimerHandle | None = None
    _bug: Exception | None = None
    _fetching: Fetching = field(init=False)

    def __post_init__(self) -> None:
        self._fetching = Fetching(self._fetched)

    async def run(self, start_in_s: float) -> None:
        """Connect, and again, until cancelled or gone wrong."""
        await asyncio.sleep(start_in_s)
        self._began_with = self.client.outcome.version
        self._step(self.client.started)
        try:
            while not self._end.is_set():
                await self._connected_once()
                if not self._end.is_set():
                    await self._between()
        finally:
            self._disarm()
            self._fetching.hang_up()
        if self._bug is not None:
            raise self._bug

    def report(self) -> ClientReport:
        return ClientReport(
            device=self.name,
            outcome=self.client.outcome,
            is_ok=self._is_there and not self._went_wrong,
            went_wrong=self._went_wrong,
            connections=self.connections,
        )

    def cut(self) -> None:
        if self._connection is not None:
            self._connection.drop()

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def _is_there(self) -> bool:
        seen, until = self.client.outcome, self.fleet.options.until
        return not seen.is_busy and (seen.version == until if until else seen.version != self._began_with)

    async def _connected_once(self) -> None:
        """One connection from its CONNECT to its end, whatever ends it."""
        options = self.fleet.options
        self._heard.clear()
        self._over.clear()
        connection = Connection(self.client.session(), options.broker, options.tls, self._take_events)
        self._connection = connection
        try:
            async with self.fleet.gate:
                await connection.open()
            async with asyncio.timeout(CONNACK_S):
                await self._heard.wait()
            await self._over.wait()
        except (OSError, TimeoutError) as error:
            self.last_error = str(error) or type(error).__name__
            log.info("%s: cannot connect: %s", self.name, self.last_error)
        finally:
            await connection.close()
            self._connection, self._is_open = None, False
            self._look()

    async def _between(self) -> None:
        if self._restart is None:
            self._step(self.client.disconnected)  # which may end the process
        if self._restart is None:
            await self._pause(self.fleet.options.reconnect_s)
            return
        self._disarm()
        self._fetching.hang_up()
        await self._pause(self._restart.after_s)
        self._restart = None
        self._step(self.client.started)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end.wait()

    def _stop(self) -> None:
        for event in (self._heard, self._over, self._end):
            event.set()

    # --- what happens, and what the client wants then ---

    def _take_events(self) -> None:
        if self._connection is not None:
            for event in self._connection.events():
                if self._restart is None and not self._end.is_set():
                    self._happened(event)
        self._look()

    def _happened(self, event: Event) -> None:
        match event:
            case Opened():
                self.connections += 1
                self._is_open = True
                self._heard.set()
                self._step(self.client.connected)
            case Granted():
                self._step(
                    lambda now_s: self.client.subscribed(event.topic_filter, granted=event.is_granted, now_s=now_s)
                )
            case Incoming():
                if not self.fleet.loses(self.name, event):
                    self._step(lambda now_s: self.client.received(event, now_s))
            case Ended():
                self.last_error = event.reason
                self._heard.set()
                self._over.set()
            case _:
                assert_never(event)

    def _step(self, act: Callable[[float], Sequence[Action]]) -> None:
        """Tell the client something and do what it says."""
        try:
            for action in act(self._now_s):
                self._perform(action)
                if self._restart is not None:
                    break
        except WentWrong as error:
            log.info("%s: %s", self.name, error)
            self._went_wrong = str(error)
            self._stop()
        except Exception as error:  # noqa: BLE001  out of a callback of the loop it would only be logged
            self._bug = error
            self._stop()
        self._arm()
        self._look()

    def _perform(self, action: Action) -> None:
        if isinstance(action, Restart):
            self._restart = action
            self._over.set()
        elif isinstance(action, Fetch | Read | HangUp):
            self._perform_download(action)
        elif self._connection is None or not self._is_open:
            log.debug("%s: no link: %s is lost", self.name, type(action).__name__)
        elif isinstance(action, Publish):
            if not self.fleet.loses(self.name, action):
                self._connection.publish(action.topic, action.payload, action.qos)
        elif isinstance(action, Subscribe):
            self._connection.subscribe(action.topic_filter, action.qos)
        elif isinstance(action, Unsubscribe):
            self._connection.unsubscribe(action.topic_filter)
        else:
            assert_never(action)

    def _perform_download(self, action: Fetch | Read | HangUp) -> None:
        if isinstance(action, Fetch):
            self._fetching.fetch(action)
        elif isinstance(action, Read):
            self._fetching.read(action)
        else:
            self._fetching.hang_up()

    def _fetched(self, result: Fetched) -> None:
        client = self.client
        assert isinstance(client, Downloader)
        if self._restart is None and not self._end.is_set():
            self._step(lambda now_s: client.fetched(result, now_s))

    def _look(self) -> None:
        """Whether it has come to its end: it runs the version, is connected, and nothing of it is on the way."""
        quiet = self._is_open and self._restart is None and self._connection is not None and self._connection.is_quiet
        settled = quiet and self._is_there and not self._went_wrong
        if settled is not self._settled:
            self._settled = settled
            self.fleet.changed(settled=1 if settled else -1)

    # --- the time ---

    def _arm(self) -> None:
        self._disarm()
        if self._restart is None and not self._end.is_set() and (at_s := self.client.next_deadline()) is not None:
            self._timer = asyncio.get_running_loop().call_at(max(at_s, self._now_s + SOONEST_S), self._tick)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self._step(self.client.tick)
