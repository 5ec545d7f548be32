"""A ThingsBoard device and the bridge without wires: both planes, the simulator's client, one clock, and faults on the line."""

from dataclasses import dataclass, field

from core_world import World, image_of

from device_sim.clients.model import ClientOptions, Incoming, Publish, Restart, Subscribe, Unsubscribe
from device_sim.clients.thingsboard import thingsboard_client
from ota_bridge.core.deployment import Deployment
from ota_bridge.core.messages import Saying
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.thingsboard import ThingsBoard
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.vendor_blocks import VendorBlockGateway
from ota_bridge.wire import MqttMessage, matches

PREFIX = "tb/d1/"
IMAGE = image_of("2.0", size=30_000)


@dataclass
class Line:
    """What happens to messages on their way to the device; (topic without prefix, payload) → payloads."""

    to_device: object = lambda topic, payload: [payload]
    to_bridge: object = lambda topic, payload: [payload]


@dataclass
class Life:
    """One device beside one bridge."""

    variants: tuple = ("python",)
    options: dict = field(default_factory=lambda: {"product": "prod"})
    client_options: dict = field(default_factory=dict)
    rules: dict = field(default_factory=dict)

    def __post_init__(self):
        self.world = World(**self.rules)
        self.dialect = ThingsBoard(self.options)
        self.world.bridge.dialects = {"thingsboard": self.dialect}
        self.blocks = VendorBlockGateway(self.world.server, [self.dialect.blocks], mono=lambda: self.world.mono)
        self.blocks.send = self._send_late
        options = {"product": "prod", "name": "d1", "version": "1.0", "block_bytes": 4096, "prefix": PREFIX}
        self.client = thingsboard_client(
            ClientOptions(**{**options, **self.client_options}, variants=frozenset(self.variants))
        )
        self.line = Line()
        self.filters = {}
        self.is_online = self.is_serving = True
        self.to_device = []
        """(topic without prefix, payload) of all that reached the device."""
        self.from_device = []
        self.id = DeviceId("prod", "d1")
        self._drain_wall = None
        """When what was served is told to the core: within a second."""

    # --- scenes ---

    def offers(self, version="2.0", image=IMAGE, seq=2):
        """A release of this version goes out to all devices."""
        self.world.release(version, image=image, seq=seq)
        self.world.rollout(version)
        self._release(self.world.plan())
        return self

    def boot(self):
        self._act([*self.client.started(self.world.mono)])
        return self.connect()

    def connect(self):
        self.is_online = True
        self.filters.clear()
        self._act(self.client.connected(self.world.mono))
        return self

    def disconnect(self):
        self.is_online = False
        self.filters.clear()
        self._act(self.client.disconnected(self.world.mono))
        return self

    def passes(self, seconds):
        """Time goes by for both, and everything happens when it is due."""
        end = self.world.wall + seconds
        while True:
            due = [end] if self._drain_wall is None else [self._drain_wall, end]
            if len(self.blocks._turns):
                due.append(self.world.wall + 0.1)
            deadline = self.client.next_deadline()
            if deadline is not None:
                due.append(self.world.wall + max(0.0, deadline - self.world.mono))
            waits = self.world.read(self.world.bridge.next_deadline)
            if waits is not None and self.is_serving:
                due.append(max(waits, self.world.wall))
            self.world.jump(max(0.0, min(due) - self.world.wall))
            if self.world.wall >= end:
                return self
            self._tick()

    def _tick(self):
        if self._drain_wall is not None and self.world.wall >= self._drain_wall:
            self._drain_wall = None
            for told in self.world.server.drain(self.world.wall, self.world.mono, whole=True):
                self._release(self.world.receive(told))
        if self.is_serving:
            self.blocks.take_turns(self.world.mono)
            self._release(self.world.tick())
        deadline = self.client.next_deadline()
        if deadline is not None and deadline <= self.world.mono:
            self._act(self.client.tick(self.world.mono))

    # --- the wires ---

    def _act(self, actions):
        for action in actions:
            match action:
                case Subscribe():
                    self.filters[action.topic_filter] = action.qos
                case Unsubscribe():
                    self.filters.pop(action.topic_filter, None)
                case Publish() if self.is_online:
                    self._publish(action)
                case Restart():
                    self.disconnect()
                    self.world.jump(action.after_s)
                    self.boot()
                    return

    def _publish(self, action):
        tail = action.topic.removeprefix(PREFIX)
        self.from_device.append((tail, action.payload))
        for payload in self.line.to_bridge(tail, action.payload):
            self._deliver(action.topic, payload)  # the broker's echo
            if self.is_serving:
                self._bridge_hears(MqttMessage(topic=action.topic, payload=payload, qos=action.qos))

    def _bridge_hears(self, message):
        is_heard = any(matches(one.topic_filter, message.topic) for one in self.dialect.subscriptions())
        if is_heard and not self.dialect.is_for_blocks(message):
            said = self.dialect.read(message)
            self._release([] if said is None else self.world.receive(said))
        if any(matches(one, message.topic) for one in self.blocks.filters()):
            out = []
            self._drain_wall = self._drain_wall or self.world.wall + 1.0
            self.blocks.handle(message.topic.encode(), message.payload, self.world.mono, out)
            self._send_late(out)

    def _send_late(self, pieces):
        for topic, payload in Decoder(max_packet_bytes=1 << 27).feed(b"".join(pieces)):
            self._deliver(topic.decode(), payload)
        return True

    def _release(self, outputs):
        for output in outputs:
            if isinstance(output, Saying):
                assert not output.message.retain
                self._deliver(output.message.topic, output.message.payload)

    def _deliver(self, topic, payload):
        if not self.is_online or not any(matches(one, topic) for one in self.filters):
            return
        tail = topic.removeprefix(PREFIX)
        for copy in self.line.to_device(tail, payload):
            self.to_device.append((tail, copy))
            self._act(self.client.received(Incoming(topic=topic, payload=copy), self.world.mono))

    # --- what came of it ---

    @property
    def deployments(self) -> list[Deployment]:
        """Newest first."""
        return list(self.world.read(lambda unit: unit.deployments.recent_of(self.id)))

    @property
    def states(self):
        return [(one.state.value, one.attempt) for one in self.deployments]

    def heard(self, tail):
        """Payloads that reached the device on topics that begin so."""
        return [payload for topic, payload in self.to_device if topic.startswith(tail)]

    def asked(self, tail="v2/fw/request/"):
        return [topic for topic, _ in self.from_device if topic.startswith(tail)]

    def why(self):
        found = self.world.do("why", device=str(self.id))
        return found["code"], found["sentence"]
