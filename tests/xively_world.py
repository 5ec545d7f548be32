"""A simulated Xively device and the bridge, joined without wires: both planes, lost messages, time moved by hand."""

import cbor2
from core_world import World, image_of

from device_sim.clients.model import ClientOptions, Incoming, Publish, Restart
from device_sim.clients.xively import XivelyClient, xively_client
from ota_bridge.core.messages import Said, Saying
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.xively import XivelyDialect
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.vendor_blocks import VendorBlockGateway
from ota_bridge.wire import MqttMessage

NAMES = {0: "INFO", 1: "LIST", 2: "GET", 3: "CHUNK", 4: "STATUS"}


def shown(payload):
    """A message in a few words: what happened is compared by these."""
    body = cbor2.loads(payload)
    kind = NAMES[body["msgtype"]]
    match kind:
        case "INFO":
            return (kind, *(f"{one['N']}={one['R']}" for one in body["list"]))
        case "LIST":
            return (kind, *(f"{one['N']}={one['R']}" for one in body["list"]))
        case "STATUS":
            return (kind, body["N"], body["P"], body["S"])
    return (kind, body["N"], body["O"])


class Scene:
    """One device and the bridge. `said` is everything that went over the wire, in order; `loses` takes some away."""

    def __init__(self, *variants, files=(), options=None, fetch_url=None, loses=None, product="prod", **rules):
        self.world = World(**rules)
        self.dialect = XivelyDialect({"product": product} | (options or {}))
        self.world.bridge.dialects = {"xively": self.dialect}
        self.gateway = VendorBlockGateway(self.world.server, [self.dialect.blocks], mono=lambda: self.world.mono)
        self.gateway.send = self._late
        made = ClientOptions(
            product=product, name="d1", variants=frozenset({*variants, *(f"file={file}" for file in files)})
        )
        self.client = XivelyClient(made, fetch_url=fetch_url) if fetch_url else xively_client(made)
        self.id = DeviceId(product, "d1")
        self.loses = loses or (lambda message: False)
        self.is_connected = False
        self.said = []
        self._starts_at = None
        self.client.started(0.0)

    # --- the device ---

    def connects(self, *, info_is_lost=False):
        """SUBACK comes; what it says then may be lost."""
        if self.is_connected:
            self.client.disconnected(self.world.mono)
        self.is_connected = True
        self.client.connected(self.world.mono)
        actions = self.client.subscribed("xi/ctrl/v1/d1/cln", granted=True, now_s=self.world.mono)
        if not info_is_lost:
            self._carry_out(actions)
        return self

    def leaves(self):
        self.is_connected = False
        self.client.disconnected(self.world.mono)

    def hears(self, payload, topic="xi/ctrl/v1/d1/cln"):
        self._down(topic, payload)

    def _carry_out(self, actions):
        for action in actions:
            match action:
                case Publish():
                    self._up(action)
                case Restart():
                    self.leaves()
                    self._starts_at = self.world.mono + action.after_s

    def _up(self, message):
        words = shown(message.payload)
        if not self.loses(words):
            self.said.append(words)
            self.speaks(message.payload, message.topic)

    def speaks(self, payload, topic="xi/ctrl/v1/d1/svc"):
        """A message reaches both planes of the bridge."""
        out = []
        self.gateway.handle(topic.encode(), payload, self.world.mono, out)
        self._late(out)
        message = MqttMessage(topic=topic, payload=payload)
        if not self.dialect.is_for_blocks(message):
            heard = self.dialect.read(message)
            if heard is not None:
                self._deliver(self.world.receive(heard))
            return heard
        return None

    def _late(self, pieces):
        for answer_topic, data in Decoder(max_packet_bytes=1 << 20).feed(b"".join(pieces)):
            self._down(answer_topic.decode(), data)
        return True

    def _deliver(self, outputs):
        for one in outputs:
            if isinstance(one, Saying):
                assert one.message.qos == 0
                assert one.message.retain is False
                self._down(one.message.topic, one.message.payload)

    def _down(self, topic, payload):
        words = shown(payload)
        if self.is_connected and not self.loses(words):
            self.said.append(words)
            self._carry_out(self.client.received(Incoming(topic=topic, payload=payload), self.world.mono))

    # --- the bridge ---

    def passes(self, seconds):
        """Time goes by on both sides: a second at a time where something happens, else to what is due next."""
        end = self.world.wall + seconds
        while self.world.wall < end:
            served = self.world.server.drain(self.world.wall, self.world.mono, whole=True)
            for activity in served:
                self._deliver(self.world.receive(activity))
            due = self.world.read(self.world.bridge.next_deadline)
            step = 1.0
            if not served and self._starts_at is None and not len(self.gateway._turns):
                step = max(1.0, min(end if due is None else due, end) - self.world.wall)
            self.world.jump(step)
            self.gateway.take_turns(self.world.mono)
            if self._starts_at is not None and self._starts_at <= self.world.mono:
                self._starts_at = None
                self.client.started(self.world.mono)
                self.connects()
            self._deliver(self.world.tick())
            self._deliver(self.world.plan())
        return self

    def release(self, version="2.0", *, files=(), **more):
        """A release of the firmware, and of these components with it."""
        found = self.world.release(version, **more)
        for seq, component in enumerate(files, 2):
            image = image_of(version, component, 2_500)
            self.world.release(version, component=component, seq=seq, image=image)
        return found

    def rollout(self, version="2.0"):
        self.world.rollout(version)
        self._deliver(self.world.last)
        return self

    def does(self, name, **args):
        """An operator's command."""
        result = self.world.do(name, **args)
        self._deliver(self.world.last)
        return result

    @property
    def deployments(self):
        return list(self.world.read(lambda unit: unit.deployments.recent_of(self.id, limit=100)))

    @property
    def states(self):
        """Component to the states of its attempts, newest first."""
        found = {}
        for one in self.deployments:
            found.setdefault(one.component, []).append(one.state.value)
        return found

    def lists(self):
        return [one for one in self.said if one[0] == "LIST"]

    def why(self):
        return self.world.do("why", device=str(self.id))["sentence"]


def heard(scene, said):
    """What the core makes of a record of the dialect."""
    return scene.world.receive(Said(device=scene.id, dialect="xively", said=said))
