"""The bridge's core and its AWS dialect, joined with the simulator's devices by a broker without wires or time."""

import json
from collections import deque
from random import Random

from core_world import World

from device_sim.clients.aws import AwsClient
from device_sim.clients.model import ClientOptions, Incoming, Publish, Restart, Subscribe, Unsubscribe
from ota_bridge.core.messages import Saying
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.aws import AwsDialect
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.vendor_blocks import VendorBlockGateway
from ota_bridge.wire import MqttMessage, matches

SIGNATURE = "MEUCIQDmAZd1PxBOjYTMzJnPrLUMTMwSB1OTHXLCWQAxkoNCqQIgVhGRyXkQmyPvXdGE4KjfgBxcLEOkYwGhAbAI8fbbUE8="
IMAGE = Random(9).randbytes(30_000)


class AwsWorld:
    """A world with things in it. `log` holds every message: (topic, payload)."""

    def __init__(self, *, options=None, **rules):
        self.world = World(**rules)
        self.dialect = AwsDialect({"product": "prod"} | (options or {}))
        self.world.bridge.dialects = {"aws": self.dialect}
        self.blocks = VendorBlockGateway(self.world.server, [self.dialect.blocks], mono=lambda: self.world.mono)
        self.things, self.filters = {}, {}
        self.log, self.loses = [], lambda topic, payload: False
        self.is_up = True
        self._queue = deque()

    # --- the bridge ---

    def release(self, version="1.1.0", image=IMAGE, seq=2, **metadata):
        self.world.release(version, image=image, seq=seq)
        given = {"sig-sha256-ecdsa": SIGNATURE} | metadata
        fields = {f"aws.{name}": value for name, value in given.items() if value is not None}
        if fields:
            self.world.do("release.describe", release=version, metadata=fields)
        return version

    def rollout(self, version="1.1.0", **args):
        found = self.world.rollout(version, **args)
        self.world.plan()
        self.flush(self.world.outputs)
        self.settle()
        return found

    def do(self, name, **args):
        """An operation, and what the bridge says then."""
        before = len(self.world.outputs)
        found = self.world.do(name, **args)
        self.world.plan()
        self.flush(self.world.outputs[before:])
        self.settle()
        return found

    def deployments(self, name="dev1"):
        return list(self.world.read(lambda unit: unit.deployments.recent_of(DeviceId("prod", name), limit=100)))

    def state(self, name="dev1"):
        return str(self.deployments(name)[0].state)

    def flush(self, outputs):
        for one in outputs:
            if isinstance(one, Saying):
                self._queue.append((one.message.topic, one.message.payload, None))
        self.world.outputs.clear()

    # --- things ---

    def thing(self, *variants, name="dev1", start=True, **more):
        given = {"product": "", "name": name, "variants": frozenset(variants), "block_bytes": 4096} | more
        self.things[name] = AwsClient(ClientOptions(**given))
        self.filters[name] = set()
        if start:
            self.act(name, self.things[name].started(self.now))
            self.act(name, self.things[name].connected(self.now))
            self.settle()
        return self.things[name]

    @property
    def now(self):
        return self.world.mono

    def act(self, name, actions):
        for action in actions:
            match action:
                case Publish():
                    self._queue.append((action.topic, action.payload, name))
                case Subscribe(topic_filter=topic):
                    self.filters[name].add(topic)
                    self._queue.append((None, topic, name))
                case Unsubscribe(topic_filter=topic):
                    self.filters[name].discard(topic)
                case Restart():
                    self._queue.append((None, action, name))

    def reconnect(self, name="dev1"):
        self.filters[name].clear()
        self.act(name, self.things[name].disconnected(self.now))
        self.act(name, self.things[name].connected(self.now))
        self.settle()

    # --- the broker ---

    def settle(self):
        """Until nobody has anything to say without time going by."""
        while self._queue:
            topic, payload, name = self._queue.popleft()
            if isinstance(payload, Restart):
                self.filters[name].clear()
                self.things[name].disconnected(self.now)
                self.act(name, self.things[name].started(self.now))
                self.act(name, self.things[name].connected(self.now))
            elif topic is None:
                self.act(name, self.things[name].subscribed(payload, granted=True, now_s=self.now))
            else:
                self._carry(topic, payload)

    def _carry(self, topic, payload):
        self.log.append((topic, payload))
        if self.loses(topic, payload):
            return
        if any(matches(one.topic_filter, topic) for one in self.dialect.subscriptions()):
            self._hear(topic, payload)
        elif any(matches(one, topic) for one in self.blocks.filters()):
            out = []
            self.blocks.handle(topic.encode(), payload, self.now, out)
            for found, data in Decoder(max_packet_bytes=1 << 20).feed(b"".join(out)):
                self._queue.append((found.decode(), data, None))
        for name, client in self.things.items():
            if any(matches(one, topic) for one in self.filters[name]):
                message = Incoming(topic=topic, payload=bytes(payload))
                self.act(name, client.received(message, self.now))

    def _hear(self, topic, payload):
        if not self.is_up:
            return
        said = self.dialect.read(MqttMessage(topic=topic, payload=payload, qos=1))
        if said is not None:
            self.flush(self.world.receive(said))
        self._drain()

    def _drain(self):
        for told in self.world.server.drain(self.world.wall, self.world.mono, whole=True):
            self.flush(self.world.receive(told))

    def passes(self, seconds):
        """Time goes by, for things and for the bridge."""
        end = self.now + seconds
        while True:
            self._drain()
            due = self.world.read(self.world.bridge.next_deadline)
            dues = [one for one in (client.next_deadline() for client in self.things.values()) if one is not None]
            if due is not None:
                dues.append(self.now + max(0.0, due - self.world.wall))
            step = min([*dues, end]) - self.now
            self.world.jump(max(step, 0.0) + 1e-6)
            for name, client in self.things.items():
                self.act(name, client.tick(self.now))
            self.world.plan()
            self.flush([*self.world.outputs, *self.world.tick()] if self.is_up else [])
            self.settle()
            if self.now >= end:
                return

    # --- a hand-made thing ---

    def says(self, suffix, body=None, *, name="dev1"):
        """What a thing publishes under `jobs/`; what comes back, (topic behind the thing, body) each."""
        before = len(self.log)
        payload = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self._queue.append((f"$aws/things/{name}/jobs/{suffix}", payload, name))
        self.settle()
        return self.heard(since=before + 1)

    def heard(self, since=0, name="dev1"):
        """What the bridge has said under `jobs/` since then."""
        own = f"$aws/things/{name}/jobs/"
        found = [(topic.removeprefix(own), payload) for topic, payload in self.log[since:] if topic.startswith(own)]
        return [
            (topic, json.loads(payload))
            for topic, payload in found
            if not topic.endswith(("get", "start-next", "update"))
        ]
