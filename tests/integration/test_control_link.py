"""ControlLink on a real mosquitto: what is acknowledged when, lost connections, broker crashes, TLS."""

import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap

import pytest
import uvloop
from brokers import (
    HOST,
    OPEN_CONF,
    Mosquitto,
    client,
    eventually,
    free_port,
    issue_certificates,
    mosquitto,
    mosquitto_on,
    received_until,
    running,
)

from ota_bridge.mqtt.control import ControlLink, Incoming
from ota_bridge.wire import BrokerAddress, MqttMessage, Subscription

pytestmark = pytest.mark.mosquitto

__all__ = ["mosquitto"]
REPORTS = Subscription(topic_filter="$ota/report/+/+", qos=1)
STATE = "$ota/state/bridge"
WILL = MqttMessage(topic=STATE, payload=b"down", qos=1, retain=True)

# Only mosquitto itself keeps what is queued: nothing is saved when it is killed.
PERSISTENT_CONF = OPEN_CONF.replace(
    "persistence false", "persistence true\nautosave_interval 1\nautosave_on_changes true"
)


class Bridge:
    """The link's owner: remembers what came, acknowledges as told, publishes its state when it is up."""

    def __init__(self, address: BrokerAddress, *, ack: bool = True, **options) -> None:
        self.incoming: list[Incoming] = []
        self.states: list[bool] = []
        self.ack = ack
        arguments = {"client_id": "bridge-control", "subscriptions": [REPORTS], "will": WILL, "backoff_max_s": 0.2}
        self.link = ControlLink(
            address,
            on_message=self._on_message,
            on_state=self._on_state,
            rng=random.Random(1),
            **(arguments | options),
        )

    @property
    def payloads(self) -> list[bytes]:
        return [each.message.payload for each in self.incoming]

    def _on_message(self, incoming: Incoming) -> None:
        self.incoming.append(incoming)
        if self.ack:
            self.link.ack(incoming.token)

    def _on_state(self, up: bool) -> None:
        self.states.append(up)
        if up:
            self.link.publish(MqttMessage(topic=STATE, payload=b"up", qos=1, retain=True))


@contextlib.asynccontextmanager
async def bridge_on(address: BrokerAddress, **options):
    bridge = Bridge(address, **options)
    async with running(bridge.link.run()):
        await asyncio.wait_for(bridge.link.wait_connected(), 10)
        yield bridge


def cut(bridge: Bridge) -> None:
    """As if the network had gone: no DISCONNECT, no farewell."""
    bridge.link._connection._transport.abort()


async def test_an_unacknowledged_report_comes_again_on_the_next_connection(mosquitto):
    async with bridge_on(mosquitto.address, ack=False) as bridge, client(mosquitto.address) as device:
        await device.publish("$ota/report/p/d", b"first", 1)
        await device.publish("$ota/report/p/d", b"second", 1)
        await eventually(lambda: len(bridge.incoming) == 2)
        bridge.link.ack(bridge.incoming[0].token)
        await device.subscribe("$ota/event/p/d", 0)
        bridge.link.publish(MqttMessage(topic="$ota/event/p/d", payload=b"the ack is out"))
        await received_until(device, b"the ack is out")
        cut(bridge)
        await eventually(lambda: bridge.states == [True, False, True])
        await eventually(lambda: len(bridge.incoming) == 3)
        assert bridge.payloads == [b"first", b"second", b"second"]


async def test_a_stale_ack_leaves_the_redelivered_report_unacknowledged(mosquitto):
    async with bridge_on(mosquitto.address, ack=False) as bridge, client(mosquitto.address) as device:
        await device.publish("$ota/report/p/d", b"report", 1)
        await eventually(lambda: len(bridge.incoming) == 1)
        cut(bridge)
        await eventually(lambda: len(bridge.incoming) == 2)
        bridge.link.ack(bridge.incoming[0].token)
        assert bridge.link.counters.stale_acks == 1
        cut(bridge)
        await eventually(lambda: len(bridge.incoming) == 3)
        bridge.link.ack(bridge.incoming[2].token)
        assert (bridge.link.counters.acked, bridge.payloads) == (1, [b"report"] * 3)


async def test_a_bridge_that_is_killed_before_the_ack_gets_the_report_again(mosquitto, tmp_path):
    program = tmp_path / "bridge.py"
    program.write_text(
        textwrap.dedent(f"""
        import asyncio
        from ota_bridge.mqtt.control import ControlLink
        from ota_bridge.wire import BrokerAddress, Subscription

        async def main():
            link = ControlLink(
                BrokerAddress(host="{HOST}", port={mosquitto.port}),
                client_id="bridge-control",
                subscriptions=[Subscription(topic_filter="$ota/report/+/+", qos=1)],
                will=None,
                on_message=lambda incoming: print("got", incoming.message.payload.decode(), flush=True),
                on_state=lambda up: print("up" if up else "down", flush=True),
            )
            await link.run()

        asyncio.run(main())
        """)
    )
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "up\n"
        async with client(mosquitto.address) as device:
            await device.publish("$ota/report/p/d", b"report", 1)
        assert process.stdout.readline() == "got report\n"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
        process.stdout.close()
    async with bridge_on(mosquitto.address) as bridge:
        await eventually(lambda: bridge.payloads == [b"report"])


async def test_reports_that_came_while_it_was_away_are_delivered_then(mosquitto):
    async with bridge_on(mosquitto.address):
        pass
    async with client(mosquitto.address) as device:
        for number in range(50):
            await device.publish("$ota/report/p/d", b"%d" % number, 1)
    async with bridge_on(mosquitto.address) as bridge:
        await eventually(lambda: len(bridge.incoming) == 50)
        assert bridge.payloads == [b"%d" % number for number in range(50)]


async def test_leaving_is_clean_and_a_lost_link_publishes_the_will(mosquitto):
    async with client(mosquitto.address) as operator:
        await operator.subscribe(STATE, 1)
        async with bridge_on(mosquitto.address) as bridge:
            assert await received_until(operator, b"up") == [(STATE, b"up")]
            cut(bridge)
            assert await received_until(operator, b"up") == [(STATE, b"down"), (STATE, b"up")]
            bridge.link.publish(MqttMessage(topic=STATE, payload=b"leaving", qos=1, retain=True))
        await operator.publish(STATE, b"marker", 1)
        assert await received_until(operator, b"marker") == [(STATE, b"leaving"), (STATE, b"marker")]


async def test_it_survives_the_brokers_death_and_publishes_its_state_to_the_new_one(tmp_path, caplog):
    broker = Mosquitto(OPEN_CONF, tmp_path)
    broker.start()
    try:
        async with bridge_on(broker.address) as bridge:
            for _ in range(3):
                broker.kill()
                await eventually(lambda: not bridge.link.connected)
                assert bridge.link.publish(MqttMessage(topic="$ota/event/p/d", payload=b"lost")) is False
                broker.start()
                await asyncio.wait_for(bridge.link.wait_connected(), 10)
            async with client(broker.address) as device:
                await device.subscribe(STATE, 1)
                assert await received_until(device, b"up") == [(STATE, b"up")]
                await device.publish("$ota/report/p/d", b"after", 1)
                await eventually(lambda: bridge.payloads == [b"after"])
            assert bridge.link.counters.connects == 4
            assert bridge.link.counters.dropped_down == 3
    finally:
        broker.stop()
    # The system of a killed broker says end of stream or reset, by what it had not read yet.
    assert re.search(r"was lost( \(.+\))?; next attempt in \d+\.\d s", caplog.text)


async def test_a_report_survives_the_brokers_death_where_the_broker_saves_it(tmp_path):
    broker = Mosquitto(PERSISTENT_CONF, tmp_path)
    broker.start()
    try:
        async with bridge_on(broker.address, ack=False) as bridge:
            async with client(broker.address) as device:
                await device.publish("$ota/report/p/d", b"report", 1)
            await eventually(lambda: bridge.payloads == [b"report"])
            broker.stop()
            broker.start()
            await eventually(lambda: bridge.payloads == [b"report", b"report"])
    finally:
        broker.stop()


async def test_retained_messages_are_marked_as_such(mosquitto):
    async with client(mosquitto.address) as device:
        await device.publish("$ota/report/p/d", b"old", 1, retain=True)
    async with bridge_on(mosquitto.address) as bridge, client(mosquitto.address) as device:
        await device.publish("$ota/report/p/d", b"new", 1)
        await eventually(lambda: len(bridge.incoming) == 2)
        assert [(each.message.payload, each.message.retain) for each in bridge.incoming] == [
            (b"old", True),
            (b"new", False),
        ]


async def test_a_packet_that_the_broker_refuses_is_not_repeated_for_ever(tmp_path):
    with mosquitto_on(tmp_path, OPEN_CONF + "max_packet_size 4096\n") as broker:
        async with bridge_on(broker.address) as bridge:
            bridge.link.publish(MqttMessage(topic="$ota/update/p/d", payload=bytes(5_000), qos=1))
            await eventually(lambda: bridge.states == [True, False, True])
            async with client(broker.address) as device:
                await device.publish("$ota/report/p/d", b"after", 1)
                await eventually(lambda: bridge.payloads == [b"after"])
            assert (bridge.link.counters.connects, bridge.link.counters.unconfirmed) == (2, 1)


async def test_over_tls_with_a_certificate_thousands_of_messages_come_in_order(tmp_path):
    authority = issue_certificates(tmp_path)
    server, ours = authority.issue("localhost", server=True), authority.issue("bridge-control")
    port = free_port()
    conf = (
        f"listener {port} {HOST}\nallow_anonymous false\nrequire_certificate true\nuse_identity_as_username true\n"
        f"cafile {server.ca}\ncertfile {server.certificate}\nkeyfile {server.key}\n"
        "max_inflight_messages 200\nmax_queued_messages 20000\nset_tcp_nodelay true\n"
    )
    broker = Mosquitto(conf, tmp_path, ports=(port,))
    broker.start()
    try:
        address = BrokerAddress(host="localhost", port=port, tls=ours)
        async with bridge_on(address) as bridge:
            expected = [b"%d" % number for number in range(2_000)]
            for payload in expected:
                assert bridge.link.publish(MqttMessage(topic="$ota/report/p/d", payload=payload, qos=1))
            bridge.link.publish(MqttMessage(topic="$ota/report/p/d", payload=bytes(16_500), qos=1))
            await eventually(lambda: len(bridge.incoming) == 2_001)
            assert bridge.payloads == [*expected, bytes(16_500)]
    finally:
        broker.stop()


def test_it_works_on_uvloop(tmp_path):
    with mosquitto_on(tmp_path) as broker:

        async def main() -> None:
            async with bridge_on(broker.address) as bridge, client(broker.address) as device:
                await device.publish("$ota/report/p/d", b"1", 1)
                await eventually(lambda: len(bridge.incoming) == 1)
                cut(bridge)
                await eventually(lambda: bridge.states == [True, False, True])
                await device.publish("$ota/report/p/d", b"2", 1)
                await eventually(lambda: bridge.payloads[-1] == b"2")
                assert bridge.payloads == [b"1", b"2"]

        uvloop.run(main())
