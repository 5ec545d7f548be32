"""An operator in an empty directory, and a daemon that has everything but the MQTT links."""

import asyncio
import json
import logging
import os
import threading
from contextlib import ExitStack, aclosing

import pytest

from ota_bridge.backup import Backups
from ota_bridge.block_plane import LocalPlane
from ota_bridge.calendars import CronCalendar
from ota_bridge.cli.app import run
from ota_bridge.config import Config
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.values import DeviceId
from ota_bridge.daemon import DATABASE, rules_of
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.gateway import Gateway
from ota_bridge.intake import Intake
from ota_bridge.mqtt.control import AckToken, Incoming
from ota_bridge.outlet import nothing
from ota_bridge.queries import CelQueries
from ota_bridge.security.authority import Authority
from ota_bridge.store.blobs import BlobStore
from ota_bridge.store.sqlite import SqliteStore
from ota_bridge.switch import Switch
from ota_bridge.web.local import LocalSocket
from ota_bridge.wire import MqttMessage


class Ran:
    """What a command line did."""

    def __init__(self, code, out, err):
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self):
        return json.loads(self.out)

    def lines(self):
        """The output by line and by cell; cells are two spaces apart."""
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def own_logging():
    """`serve` sets up logging for the process; the next test has another stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def operator(tmp_path, monkeypatch, capfd):
    """Runs `ota-bridge` in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ota_bridge.config.SYSTEM_FILE", tmp_path / "none.toml")
    monkeypatch.setattr("ota_bridge.gateway.ANSWER_S", 10.0)  # a busy machine must not change what is answered
    for name in [*os.environ]:
        if name.startswith("OTA_BRIDGE_"):
            monkeypatch.delenv(name)

    def command(*words):
        capfd.readouterr()
        code = run([str(word) for word in words])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Ran(code, out, err)

    command.directory = tmp_path
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield command
    root.handlers[:] = before[0]  # `serve` sends logging to a stderr that ends with the test
    root.setLevel(before[1])
    logging.captureWarnings(capture=False)


class Link:
    """Stands for the control link: remembers what was published."""

    def __init__(self):
        self.published = []
        self.queued = 0

    def publish(self, message):
        self.published.append(message)
        return True

    def ack(self, token):
        pass


class DaemonWithoutLinks:
    """The gateway, the store and the local socket on a thread of their own."""

    def __init__(self, config):
        self.config = config
        self.link = Link()
        self.backups = Backups(config.data_dir / DATABASE)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="daemon")
        self._failure = None

    def start(self):
        self._thread.start()
        assert self._ready.wait(10)
        if self._failure is not None:
            raise self._failure

    def stop(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join(10)
            assert not self._thread.is_alive()

    def report(self, device, version="1.0.0", *, boot=1, seq=1, hw="r1", manifest_seq=0, trial=0, **more):
        """A device checks in; returns when that is committed."""
        body = {
            "type": "report_version",
            "report": {"version": version},
            "proto": 1,
            "hw": hw,
            "boot": boot,
            "seq": seq,
            "nonce": "AAAAAAAAAAAAAAAAAAAAAA==",
            "parts": {"firmware": [version, manifest_seq, "", trial]},
            **more,
        }
        product, name = device.split("/")
        message = MqttMessage(topic=f"$ota/report/{product}/{name}", payload=json.dumps(body).encode(), qos=1)
        token = AckToken(generation=1, mid=1, qos=1)
        self._loop.call_soon_threadsafe(self._gateway.hear, Incoming(message=message, token=token))
        self._loop.call_soon_threadsafe(self._gateway.take, nothing)
        deadline = threading.Event()
        for _ in range(500):
            if any(m.topic == f"$ota/update/{product}/{name}" for m in self.link.published):
                return
            deadline.wait(0.01)
        raise AssertionError("the report was not acknowledged")

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        with ExitStack() as stack:
            try:
                local = await self._build(stack)
            except Exception as error:
                self._failure = error
                return
            finally:
                self._ready.set()
            await self._end.wait()
            await local.stop()
            await asyncio.to_thread(self._gateway.store.close)

    async def _build(self, stack):
        config = self.config
        config.data_dir.mkdir(exist_ok=True)
        blobs = BlobStore(config.data_dir)
        stack.callback(blobs.close)
        loop = self._loop
        store = SqliteStore.open(config.data_dir / DATABASE, deliver=lambda told: loop.call_soon_threadsafe(told))
        authority = Authority(
            config.security.trust, config.security.online_key, own_path=config.own_trust_path, ticket_valid_s=600
        )
        dialect = NativeDialect(config.topics.root)
        server = BlockServer(blobs, block_max=16384, window_max=16, refusals_per_s=2)
        self._gateway = Gateway(
            bridge=Bridge(
                rules_of(config),
                verify=authority.verify,
                ticket=authority.ticket,
                keysets=authority.standing,
                queries=CelQueries(),
                calendar=CronCalendar(),
            ),
            store=store,
            switch=Switch(dialect),
            blocks=LocalPlane(server),
            link=self.link,
        )
        self._intake = Intake(self._gateway, blobs, authority.verify, authority.publish)
        local = LocalSocket(config.socket_path, call=self._call, subscribe=self._subscribe)
        await local.start()
        return local

    async def _call(self, caller, op, args, upload):
        if op == "release.add":
            return await self._intake.add(caller, args, upload)
        if op == "keys.publish":
            return await self._intake.publish_keyset(caller, args)
        if op == "bridge.status":
            await self._gateway.door.admit(caller, op)
            return {"control": "up", "blocks": "up", "broker": "mqtt://127.0.0.1:1", "version": "0"}
        result = await self._gateway.operate(caller, op, args)
        return {**result, "bridge": {"control": "up", "blocks": "down"}} if op == "fleet" else result

    async def _subscribe(self, caller, what, args):
        await self._gateway.door.admit(caller, what)
        if what == "backup":
            async with aclosing(self.backups.make(args)) as told:
                async for item in told:
                    yield item
            return
        device = args.get("device")
        async for event in self._gateway.events(DeviceId.parse(device) if device else None):
            yield event


@pytest.fixture
def daemon(operator):
    """Runs beside the operator, with fresh keys in the directory."""
    assert operator("keys", "new").code == 0
    running = DaemonWithoutLinks(Config.load({}, {}, operator.directory))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def image(operator):
    """An image of 20,000 bytes."""
    path = operator.directory / "fw.bin"
    path.write_bytes(bytes(range(250)) * 80)
    return path


@pytest.fixture
def publish(operator, daemon, image):
    """Adds release demo/VERSION."""

    def add(version="1.1.0", *more):
        ran = operator("release", "add", image, "--product", "demo", "--version", version, "--hw", "r1", *more)
        assert (ran.code, ran.err.count("error")) == (0, 0), ran.err
        return ran

    return add
