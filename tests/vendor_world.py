"""A vendor's clients and the bridge with their dialect, without wires and in a time that tests move: whole lives in a moment.

`VendorWorld(dialect)`, `add(client)`, `power_on(name)`, `passes(seconds)`. Messages go through `read`, the core and the block
gateway as in the daemon; a client hears what it has subscribed. `loses` takes messages off the line, in both directions.
"""

import hashlib
from collections.abc import Callable

from core_world import World
from scripted import Scripted, matches

from device_sim.clients.model import Publish, VendorClient
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Rejected, Saying
from ota_bridge.core.values import DeviceId
from ota_bridge.dialect import VendorDialect
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.vendor_blocks import VendorBlockGateway
from ota_bridge.wire import MqttMessage

LONGEST_S, SOONEST_S = 60.0, 0.01
ROUNDS_MAX = 200_000

Loses = Callable[[str, str, bytes], bool]
"""(client, topic, payload) -> whether it gets lost."""


class VendorWorld:
    """The bridge with one dialect, and clients on its line."""

    def __init__(self, dialect: VendorDialect, **rules: object) -> None:
        self.world, self.dialect = World(**rules), dialect
        self.world.bridge.dialects = {dialect.name: dialect}
        self.scripts: dict[str, Scripted] = {}
        self.told: list[MqttMessage] = []
        """All that the dialect said."""
        self.blocks: list[tuple[str, bytes]] = []
        """All that the block plane said."""
        self.rejected: list[Rejected] = []
        self.loses: Loses = lambda _name, _topic, _payload: False
        self.world.server = BlockServer(
            self.world.source, block_max=16_384, window_max=16, refusals_per_s=1000, device_burst_blocks=10**6
        )
        self.world.server.is_loaded = True
        blocks = dialect.blocks
        self.gateway = VendorBlockGateway(
            self.world.server, [] if blocks is None else [blocks], mono=lambda: self.world.mono
        )
        self._block_filters = self.gateway.filters()

    def add(self, name: str, client: VendorClient) -> Scripted:
        """A client that is not on yet."""
        self.scripts[name] = Scripted(client, now_s=self.world.mono)
        return self.scripts[name]

    def power_on(self, *names: str) -> None:
        for name in names or self.scripts:
            self.scripts[name].now_s = self.world.mono
            self.scripts[name].power_on()
        self.pump()

    def rollout(self, version: str, image: bytes, **facts: object) -> str:
        """Bring this image to all; returns the rollout."""
        md5 = hashlib.md5(image).hexdigest()
        rollout = self.do("rollout.start", release=self.world.release(version, image=image, md5=md5, **facts))["id"]
        self.plan()
        return rollout

    def do(self, name: str, **args: object) -> dict:
        """An operator's command."""
        done = self.world.do(name, **args)
        self._say(self.world.last)
        self.pump()
        return done

    def plan(self) -> None:
        self._say(self.world.plan())
        self.pump()

    def passes(self, seconds: float) -> None:
        """Time goes by; clients and bridge do what falls due when it is due."""
        end = self.world.mono + seconds
        while self.world.mono < end:
            due = self.world.read(self.world.bridge.next_deadline)
            wakes = [] if due is None else [max(SOONEST_S, due - self.world.wall)]
            wakes += [self._until(one) for one in self.scripts.values()]
            self.world.jump(min([LONGEST_S, end - self.world.mono, *wakes]))
            for script in self.scripts.values():
                script.pass_s(max(0.0, self.world.mono - script.now_s))
            self.pump()
            self._drain()
            self._say(self.world.tick())
            self.plan()

    def _until(self, script: Scripted) -> float:
        deadline = script.client.next_deadline()
        return LONGEST_S if deadline is None else max(SOONEST_S, deadline - script.now_s)

    def pump(self) -> None:
        """Carry messages until there are none."""
        for _ in range(ROUNDS_MAX):
            waiting = [(name, script) for name, script in self.scripts.items() if script.unserved]
            if not waiting:
                return
            for name, script in waiting:
                message = script.unserved.popleft()
                if not self.loses(name, message.topic, message.payload):
                    self._carry(message)
        raise AssertionError("messages without end")

    def _carry(self, message: Publish) -> None:
        if any(matches(one, message.topic) for one in self._block_filters):
            out: list[bytes | memoryview] = []
            self.gateway.handle(message.topic.encode(), message.payload, self.world.mono, out)
            for topic, payload in Decoder(max_packet_bytes=1 << 24).feed(b"".join(out)):
                self.blocks.append((topic.decode(), bytes(payload)))
                self._deliver(topic.decode(), bytes(payload), 0)
        if any(matches(one.topic_filter, message.topic) for one in self.dialect.subscriptions()):
            self._heard(MqttMessage(topic=message.topic, payload=message.payload, qos=message.qos))

    def _heard(self, message: MqttMessage) -> None:
        if self.dialect.is_for_blocks(message):
            return
        try:
            said = self.dialect.read(message)
        except Malformed:
            return
        if isinstance(said, Rejected):
            self.rejected.append(said)
        if said is not None:
            self._drain()
            self._say(self.world.receive(said))

    def _drain(self) -> None:
        for activity in self.world.server.drain(self.world.wall, self.world.mono, whole=True):
            self._say(self.world.receive(activity))

    def _say(self, outputs: object) -> None:
        for output in outputs:
            if isinstance(output, Saying):
                assert isinstance(output.message, MqttMessage)
                self.told.append(output.message)
                self._deliver(output.message.topic, output.message.payload, output.message.qos)

    def _deliver(self, topic: str, payload: bytes, qos: int) -> None:
        for name, script in self.scripts.items():
            if not self.loses(name, topic, payload):
                script.deliver(topic, payload, qos=qos)

    # --- looking ---

    def says(self, topic: str, payload: bytes) -> list[MqttMessage]:
        """A message of nobody in particular; what the dialect said to it."""
        before = len(self.told)
        self._heard(MqttMessage(topic=topic, payload=payload))
        return self.told[before:]

    def deployments(self, device: DeviceId) -> list:
        return list(self.world.read(lambda unit: unit.deployments.recent_of(device, limit=100)))

    def states(self, device: DeviceId) -> list[str]:
        """Of all attempts, oldest first."""
        return [one.state.value for one in self.deployments(device)][::-1]
