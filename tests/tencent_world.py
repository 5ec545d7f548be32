"""A Tencent device and the bridge's core with their dialect between them, on one clock, without wires."""

from core_world import World
from tencent_line import NAME, PRODUCT, FileServer, device
from tencent_line import World as Line

from ota_bridge.core.messages import Rejected, Saying
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.dialects.tencent import TencentDialect
from ota_bridge.switch import Switch
from ota_bridge.wire import MqttMessage

OLD, NEW = "1.0.0", "2.0.0"
URL = "http://ota.test/{sha256}"


class Meeting:
    """The device's messages go through the dialect into the core, and what comes out goes back."""

    def __init__(self, *variants, image=b"", options=None, rules=None, **client):
        self.core = World(**{"public_url": URL} | (rules or {}))
        self.dialect = TencentDialect(options or {})
        self.switch = Switch(NativeDialect("$ota", self.dialect.report), [self.dialect])
        self.core.bridge.dialects = {"tencent": self.dialect}
        self.image = image or bytes(index % 253 for index in range(20_000))
        self.start_wall = self.core.wall
        self.said_to = []
        """Every message that went to the device, with the second."""
        self.loses = lambda message: False
        self.client = device(*variants, **client)
        self.server = FileServer(self.image)
        self.line = Line(self.client, self.server, self.answer)
        self.is_up = True

    def answer(self, topic, text):
        """What the bridge says to a message of the device."""
        self.follow()
        uplink = self.switch.decode(MqttMessage(topic=topic, payload=text.encode(), qos=1))
        assert not isinstance(uplink, Rejected), uplink
        if uplink is not None:
            yield from self.out(self.core.receive(uplink))

    def out(self, outputs):
        """What reaches the device."""
        for message in (one.message for one in outputs if isinstance(one, Saying)):
            self.said_to.append((self.line.now_s, message))
            assert (0, False) == (message.qos, message.retain)
            if self.is_up and not self.loses(message):
                yield message.topic, message.payload

    def deliver(self, outputs):
        for topic, payload in list(self.out(outputs)):
            self.line.send(topic, payload)

    def follow(self):
        """The core's clock goes with the device's."""
        self.core.jump(self.start_wall + self.line.now_s - self.core.wall)

    def run(self, for_s=120.0, until=lambda: False):
        end_s = self.line.now_s + for_s
        while not until():
            due = self.core.read(self.core.bridge.next_deadline)
            due_s = end_s if due is None else min(end_s, max(due - self.start_wall, self.line.now_s))
            self.line.run(for_s=due_s - self.line.now_s, until=until)
            if until():
                break
            self.follow()
            self.deliver(self.core.tick())
            self.deliver(self.core.plan())
            if due_s >= end_s:
                break
            if due is not None and self.core.read(self.core.bridge.next_deadline) == due:
                self.line.run(for_s=0.5, until=until)  # it stays due
        return self

    def cut(self):
        self.is_up = False
        self.line.cut()

    def connect(self):
        self.is_up = True
        self.line.connect()

    def release(self, version=NEW, product=PRODUCT, **changes):
        self.core.release(version, product=product, image=changes.pop("image", self.image), **changes)

    def rollout(self, version=NEW, product=PRODUCT):
        self.follow()
        name = self.core.rollout(f"{product}/{version}")
        self.deliver(self.core.last)
        return name

    def do(self, name, **args):
        self.follow()
        self.core.do(name, **args)
        self.deliver(self.core.last)

    def deployments(self, product=PRODUCT, name=NAME):
        """Oldest first."""
        return self.core.read(lambda unit: unit.deployments.recent_of(DeviceId(product, name)))[::-1]

    def states(self, product=PRODUCT, name=NAME):
        return [one.state.value for one in self.deployments(product, name)]

    def why(self, product=PRODUCT, name=NAME):
        return self.core.do("why", device=f"{product}/{name}")["sentence"]

    def notices(self):
        """The seconds at which `update_firmware` or `update_resource` went out."""
        return [at_s for at_s, message in self.said_to if b"update_" in message.payload]


def updating(*variants, **options):
    """A device that has checked in and was told of an update."""
    met = Meeting(*variants, **options)
    met.release()
    met.run(for_s=1)
    met.rollout()
    return met
