"""One device on a real network: aiomqtt around the sans-IO `Device`. The only place that knows a socket.

Per connection: the reader, one writer for QoS 0 (block requests, telemetry, answers to commands) and one for
QoS 1 (reports), so that a slow acknowledgement never delays telemetry. Both queues are bounded; what does not
fit is dropped, because the device asks and reports again by itself. The loop's clock is the device's time.
"""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections.abc import Callable, Collection
from random import Random
from typing import Final

import aiomqtt

from device_sim.device import Device
from device_sim.errors import DeviceSimError, FlashPowerCut, Malformed
from device_sim.link import Link
from device_sim.model import Action, Reboot
from device_sim.options import FleetOptions
from device_sim.supply import Supply
from device_sim.wire import BlockData, decode_block

log = logging.getLogger(__name__)

QUEUE_MESSAGES: Final = 64
INCOMING_MESSAGES: Final = 512
MAX_BACKOFF_S: Final = 10.0
FLUSH_S: Final = 0.5
CANCEL_AGAIN_S: Final = 0.1
KEEPALIVE_S: Final = 60

_Item = tuple[str, bytes]


async def end_tasks(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel until they have ended: `asyncio.wait_for` of Python 3.11, inside aiomqtt, can swallow a cancel."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


def _heard(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()


class Runner:
    """The life of one device in this process."""

    def __init__(
        self,
        *,
        device: Device,
        supply: Supply,
        options: FleetOptions,
        link: Link,
        rng: Random,
        gate: asyncio.Semaphore,
        tls: ssl.SSLContext | None,
        changed: Callable[["Runner"], None],
    ) -> None:
        self.device = device
        self._supply = supply
        self.failure = ""
        self.last_error = ""
        self.ever_connected = False
        self._options, self._link, self._rng, self._gate, self._tls = options, link, rng, gate, tls
        self._changed = changed
        names = {"product": device.config.product, "device": device.config.device}
        self.id = f"{device.config.product}/{device.config.device}"
        self._report_topic, self._update_topic, self._get_topic, self._block_topic = (
            f"{options.root}/{name}/{self.id}" for name in ("report", "update", "get", "block")
        )
        self._telemetry_topic = options.telemetry_topic.format(**names)
        self._command_topic = options.command_topic.format(**names)
        self._response_topic = options.response_topic.format(**names)
        self._loop = asyncio.get_running_loop()
        self._fast: asyncio.Queue[_Item] = asyncio.Queue(QUEUE_MESSAGES)
        self._sure: asyncio.Queue[_Item] = asyncio.Queue(QUEUE_MESSAGES)
        self._timer: asyncio.TimerHandle | None = None
        self._telemetry: asyncio.TimerHandle | None = None
        self._telemetry_count = 0
        self._reboot: asyncio.Future[None] | None = None

    async def run(self, start_in_s: float) -> None:
        """Boot and stay connected until cancelled, or until the device itself breaks."""
        await asyncio.sleep(start_in_s)
        try:
            self._boot()
            backoff_s = 0.5
            while not self.failure:
                before = self._loop.time()
                await self._connection()
                backoff_s = 0.5 if self._loop.time() - before > MAX_BACKOFF_S else min(MAX_BACKOFF_S, backoff_s * 2)
                if self._reboot is not None and self._reboot.done():
                    self._boot()
                    self._after_event()
                    backoff_s = 0.5
                asleep_s = self._options.asleep_s if not self.last_error else 0.0
                await asyncio.sleep(asleep_s + self._rng.uniform(0.0, backoff_s if self.last_error else 0.1))
        except DeviceSimError as error:
            self._fail(str(error))
        finally:
            self._disarm()

    def _boot(self) -> None:
        """Boot until the power stays."""
        while True:
            try:
                self.device.boot(self._loop.time())
            except FlashPowerCut:
                self._supply.come_back()
            else:
                return

    async def _connection(self) -> None:
        """One connection from its beginning to its end, whatever ends it."""
        self.last_error = ""
        self._reboot = self._loop.create_future()
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = self._client()
                async with self._gate:
                    await stack.enter_async_context(client)
                    await client.subscribe([(self._update_topic, 1), (self._block_topic, 0)])
                    if self._options.telemetry_hz:
                        await client.subscribe(self._command_topic, 0)
                await self._serve(client)
        except FlashPowerCut:
            self._reboot_now()
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            self.last_error = str(error) or type(error).__name__
            log.info("%s: connection lost: %s", self.id, self.last_error)
        finally:
            self.device.disconnected()
            if self._telemetry is not None:
                self._telemetry.cancel()

    async def _serve(self, client: aiomqtt.Client) -> None:
        self.ever_connected = True
        for queue in (self._fast, self._sure):
            while not queue.empty():
                queue.get_nowait()
        if self._options.telemetry_hz:
            period_s = 1.0 / self._options.telemetry_hz
            self._telemetry = self._loop.call_later(self._rng.uniform(0.0, period_s), self._measure)
        self._perform(self.device.connected(self._loop.time()))
        tasks = {
            asyncio.create_task(self._read(client), name=f"read {self.id}"),
            asyncio.create_task(self._write(client, self._fast, 0), name=f"write {self.id}"),
            asyncio.create_task(self._write(client, self._sure, 1), name=f"report {self.id}"),
        }
        for task in tasks:
            task.add_done_callback(_heard)  # when the run ends here, nobody asks below
        assert self._reboot is not None
        awake_s = self._options.awake_s or None
        try:
            await asyncio.wait(tasks | {self._reboot}, timeout=awake_s, return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    if not any(task.done() for task in tasks):
                        await self._sure.join()
        finally:
            await end_tasks(tasks)
        errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            raise errors[0]

    def _client(self) -> aiomqtt.Client:
        broker, options = self._options.broker, self._options
        return aiomqtt.Client(
            broker.host,
            broker.port,
            username=self.id if options.username_from_id else broker.username,
            password=broker.password if options.password is None else options.password,
            identifier=self.id,
            protocol=aiomqtt.ProtocolVersion.V311,
            clean_session=True,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=INCOMING_MESSAGES,
            tls_context=self._tls,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            logger=log,
        )

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            topic, payload = str(message.topic), bytes(message.payload)
            if topic == self._block_topic:
                self._block(payload)
            elif topic == self._update_topic and not message.retain:
                self._perform(self.device.update(payload, self._loop.time()))
            elif topic == self._command_topic:
                self._put(self._fast, self._response_topic, payload)

    async def _write(self, client: aiomqtt.Client, queue: asyncio.Queue[_Item], qos: int) -> None:
        while True:
            topic, payload = await queue.get()
            try:
                await client.publish(topic, payload, qos)
            finally:
                queue.task_done()

    def _block(self, payload: bytes) -> None:
        if self._link.block_arrives():
            self._perform(self.device.block(payload, self._loop.time()))
            return
        with contextlib.suppress(Malformed):  # lost at our edge, yet the bridge has published it
            lost = decode_block(payload)
            if isinstance(lost, BlockData):
                self.device.stats.bytes_payload += len(lost.data)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Reboot):
                self._reboot_now()
            elif action.topic == "report":
                self._put(self._sure, self._report_topic, action.payload)
            else:
                for _ in range(self._link.request_copies()):
                    self._put(self._fast, self._get_topic, action.payload)
        self._after_event()

    def _put(self, queue: asyncio.Queue[_Item], topic: str, payload: bytes) -> None:
        if queue.full():
            self.device.stats.dropped += 1
            return
        queue.put_nowait((topic, payload))

    def _after_event(self) -> None:
        self._changed(self)
        deadline_s = self.device.deadline_s()
        if deadline_s is None:
            return
        # A timer that fires too early only looks again; most deadlines move later with every block.
        if self._timer is not None and not self._timer.cancelled():
            if self._timer.when() <= deadline_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(max(deadline_s, self._loop.time() + 0.001), self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._perform(self.device.tick(self._loop.time()))
        except FlashPowerCut:
            self._reboot_now()
        except DeviceSimError as error:
            self._fail(str(error))

    def _measure(self) -> None:
        self._telemetry_count += 1
        reading = {"n": self._telemetry_count, "t_s": round(time.time(), 3), "version": self.device.version}
        self._put(self._fast, self._telemetry_topic, json.dumps(reading).encode())
        self._telemetry = self._loop.call_later(1.0 / self._options.telemetry_hz, self._measure)

    def _fail(self, reason: str) -> None:
        log.warning("%s: %s", self.id, reason)
        self.failure = reason
        self._reboot_now()
        self._changed(self)

    def _reboot_now(self) -> None:
        if self._reboot is not None and not self._reboot.done():
            self._reboot.set_result(None)

    def _disarm(self) -> None:
        for timer in (self._timer, self._telemetry):
            if timer is not None:
                timer.cancel()
