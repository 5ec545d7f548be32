import json
from dataclasses import replace

import pytest
from core_world import MemorySource, facts_of, image_of
from toy_dialect import BLOCK_BYTES, ToyBlocks

from ota_bridge import request_lines
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.errors import ArtifactCold, BlockRefusal
from ota_bridge.core.messages import BlockTrouble, Grant, GrantsChanged, GrantState
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, Share
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.request_lines import Turns, Waiting
from ota_bridge.vendor_blocks import VendorBlockGateway

DEVICE = DeviceId("prod", "t1")
UP, DOWN = b"toy/prod/t1/up", b"toy/prod/t1/down"
IMAGE = image_of("1.1.0", size=1000)
FACTS = facts_of("1.1.0", image=IMAGE)


def grant(version="1.1.0", component="firmware", image=IMAGE, state=GrantState.OPEN):
    facts = facts_of(version, component=component, image=image)
    return Grant(deployment=DeploymentId("0123456789ab"), rollout=None, state=state, manifest=facts)


class Scene:
    def __init__(self, *grants, read=None, **options):
        source = MemorySource()
        source.put(IMAGE)
        settings = {"block_max": 64, "window_max": 1, "refusals_per_s": 1e6, "device_burst_blocks": 10**6} | options
        self.server = BlockServer(source, **settings)
        self.server.is_loaded = True
        self.source = source
        if grants:
            self.server.apply(GrantsChanged(device=DEVICE, grants=grants))
        self.gateway = VendorBlockGateway(self.server, [ToyBlocks()], read=read, mono=lambda: 100.0)

    def asks(self, payload, *, topic=UP, at=100.0):
        out = []
        size = self.gateway.handle(topic, payload, at, out)
        assert size == sum(map(len, out))
        return Decoder(max_packet_bytes=1 << 20).feed(b"".join(out))


def test_a_block_is_what_the_artifact_has_there_and_may_be_larger_than_a_native_one():
    scene = Scene(grant())
    assert [(DOWN, b"256/1000:" + IMAGE[256:512])] == scene.asks(b'{"get": 256}')
    assert [(DOWN, b"900/1000:" + IMAGE[900:])] == scene.asks(b'{"get": 900}')
    assert BLOCK_BYTES > scene.server.block_max


def test_what_was_served_counts_as_progress_of_its_deployment():
    scene = Scene(grant())
    scene.asks(b'{"get": 256}')
    [activity] = scene.server.drain(5.0, 100.0, whole=True)
    found = (activity.device, activity.deployment, activity.bytes_sent, activity.high_water_bytes)
    assert (DEVICE, "0123456789ab", 256, 512) == found


def test_a_repeat_stays_unanswered_for_as_long_as_the_dialect_says_and_another_request_does_not():
    scene = Scene(grant())
    assert 1 == len(scene.asks(b'{"get": 0}', at=100.0))
    assert [] == scene.asks(b'{"get": 0}', at=101.9)
    assert 1 == len(scene.asks(b'{"get": 0}', at=102.1))
    assert 1 == len(scene.asks(b'{"get": 256}', at=102.2))
    assert 1 == len(scene.asks(b'{"get": 0}', at=102.3))


def test_after_another_message_of_the_device_it_is_no_repeat():
    scene = Scene(grant())
    assert 1 == len(scene.asks(b'{"get": 0}'))
    assert [] == scene.asks(b'{"runs": "1.0.0"}') + scene.asks(b'{"get": 0}', topic=b"toy/prod/t2/up")
    assert 1 == len(scene.asks(b'{"get": 0}', at=100.1))


@pytest.mark.parametrize(
    ("grants", "payload", "answer"),
    [
        ((), b'{"get": 0}', []),
        ((grant(), grant(component="config", version="2.0")), b'{"get": 0}', []),
        ((grant(),), b'{"get": 1000}', [(DOWN, b"no: PAST_END")]),
        ((grant(state=GrantState.PAUSED),), b'{"get": 0}', [(DOWN, b"no: PAUSED")]),
        ((grant(state=GrantState.WITHDRAWN),), b'{"get": 0}', [(DOWN, b"no: WITHDRAWN")]),
        ((grant(),), b'{"get": -1}', [(DOWN, b"what?")]),
        ((grant(),), b'{"get"', [(DOWN, b"what?")]),
        ((grant(),), b'{"runs": "1.0.0"}', []),
    ],
    ids=["no grant", "two fit", "past the end", "paused", "withdrawn", "negative", "no JSON", "no request"],
)
def test_whatever_else_is_asked_gets_the_dialects_refusal_or_silence(grants, payload, answer):
    assert answer == Scene(*grants).asks(payload)


def test_a_topic_that_names_nobody_is_counted_and_unanswered():
    scene = Scene(grant())
    for topic in (b"toy/pr od/t1/up", b"toy/prod/\xff\xfe/up", b"else/prod/t1/up", b"toy/prod/t1/up/more"):
        assert [] == scene.asks(b'{"get": 0}', topic=topic)
    assert 4 == scene.gateway.strangers


def test_before_the_table_is_loaded_the_answer_is_busy():
    scene = Scene(grant())
    scene.server.is_loaded = False
    assert [(DOWN, b"no: BUSY")] == scene.asks(b'{"get": 0}')


def test_a_device_that_asks_too_fast_is_told_to_wait():
    scene = Scene(grant(), device_blocks_per_s=1, device_burst_blocks=2)
    said = [scene.asks(b'{"get": %d}' % n)[0][1][:3] for n in range(5)]
    assert [b"no:"] * 2 == said[-2:]


def test_the_slots_are_the_same_as_for_native_devices():
    scene = Scene(grant())
    other = DeviceId("prod", "t2")
    scene.server.apply(GrantsChanged(device=other, grants=(grant(),)))
    scene.server.set_limits(Limits(downloads=1), 100.0)
    assert b"no:" != scene.asks(b'{"get": 0}', at=110.0)[0][1][:3]
    assert [(b"toy/prod/t2/down", b"no: BUSY")] == scene.asks(b'{"get": 0}', topic=b"toy/prod/t2/up", at=110.1)


class ColdSource(MemorySource):
    """Nothing is in memory until it was fetched."""

    def open(self, manifest):
        return ColdArtifact(self.images[manifest.sha256], set())


class ColdArtifact:
    def __init__(self, data, warm):
        self.data, self.warm, self.size_bytes = data, warm, len(data)

    def view(self, offset, length):
        if not self.warm:
            raise ArtifactCold("not in memory")
        return memoryview(self.data)[offset : offset + length]

    def fetch(self, offset, length):
        self.warm.add(offset)


def test_what_is_not_in_memory_waits_for_the_disk_and_those_behind_it_too():
    reading, late = [], []
    scene = Scene(grant(), read=lambda cold, done: reading.append((cold, done)))
    cold = scene.server._source = ColdSource()
    cold.put(IMAGE)
    scene.gateway.send = lambda pieces: late.append(b"".join(pieces)) or True
    assert [] == scene.asks(b'{"get": 0}') + scene.asks(b'{"get": 256}')
    [(first, done)] = reading
    first.artifact.fetch(first.offset, first.length)
    done()
    said = [payload for _, payload in Decoder(max_packet_bytes=1 << 20).feed(b"".join(late))]
    assert [b"0/1000:" + IMAGE[:256], b"256/1000:" + IMAGE[256:512]] == said
    assert [(DOWN, b"512/1000:" + IMAGE[512:768])] == scene.asks(b'{"get": 512}')


class DownloadBlocks(ToyBlocks):
    """Its requests tell downloads apart: `{"get": OFFSET, "of": DOWNLOAD}`."""

    repeat_s = 0.0

    def read(self, topic, payload):
        asked = super().read(topic, payload)
        return asked and replace(asked, download=json.loads(payload).get("of"))


def test_a_download_is_not_continued_with_what_was_granted_meanwhile():
    scene = Scene(grant())
    scene.gateway = VendorBlockGateway(scene.server, [DownloadBlocks()], mono=lambda: 100.0)
    other = image_of("1.2.0", size=1000)
    scene.source.put(other)
    assert [b"0/1000:" + IMAGE[:256]] == [one for _, one in scene.asks(b'{"get": 0, "of": 1}')]
    replaced = Grant(
        deployment=DeploymentId("0123456789ac"),
        rollout=None,
        state=GrantState.OPEN,
        manifest=facts_of("1.2.0", image=other),
    )
    scene.server.apply(GrantsChanged(device=DEVICE, grants=(replaced,)))
    assert [] == scene.asks(b'{"get": 256, "of": 1}')
    assert [b"256/1000:" + other[256:512]] == [one for _, one in scene.asks(b'{"get": 256, "of": 2}')]
    assert [b"256/1000:" + other[256:512]] == [one for _, one in scene.asks(b'{"get": 256}')]
    assert [b"0/1000:" + other[:256]] == [one for _, one in scene.asks(b'{"get": 0, "of": 1}')]
    assert [b"256/1000:" + other[256:512]] == [one for _, one in scene.asks(b'{"get": 256, "of": 1}')]


class PatientToy(ToyBlocks):
    """Its devices ask once."""

    wait_max_s = 5.0


def patient(**more):
    """A device that has to wait for the one slot, which another holds; and what it is sent later."""
    scene = Scene(grant(), **more)
    scene.gateway = VendorBlockGateway(scene.server, [PatientToy()], mono=lambda: 100.0)
    scene.late = []
    scene.gateway.send = lambda pieces: scene.late.append(b"".join(pieces)) or True
    scene.other = DeviceId("prod", "t2")
    scene.server.apply(GrantsChanged(device=scene.other, grants=(grant(),)))
    scene.server.set_limits(Limits(downloads=1), 100.0)
    assert 1 == len(scene.asks(b'{"get": 0}', topic=b"toy/prod/t2/up", at=110.0))
    return scene


def frees(scene, at):
    """The other device has come to its end."""
    scene.server.apply(GrantsChanged(device=scene.other, grants=()), mono=at)


def late(scene, *, until):
    """What it is sent up to then, looking every tenth of a second."""
    for tenth in range(1101, round(until * 10) + 1):
        scene.gateway.take_turns(tenth / 10)
    return Decoder(max_packet_bytes=1 << 20).feed(b"".join(scene.late))


def test_a_request_that_the_caps_hold_up_is_answered_when_its_turn_comes():
    scene = patient()
    assert scene.gateway.is_patient
    assert [] == scene.asks(b'{"get": 0}', at=110.0)
    [trouble] = [one for one in scene.server.drain(5.0, 110.0, whole=True) if isinstance(one, BlockTrouble)]
    assert (DEVICE, BlockRefusal.BUSY, Share.SLOT) == (trouble.device, trouble.refusal, trouble.waits_for)
    assert [] == late(scene, until=112)
    frees(scene, 112.0)
    assert [(DOWN, b"0/1000:" + IMAGE[:256])] == late(scene, until=115)


def test_what_the_device_says_meanwhile_takes_the_place_of_what_waits():
    scene = patient()
    scene.asks(b'{"get": 0}', at=110.0)
    scene.asks(b'{"get": 256}', at=110.0)
    frees(scene, 110.0)
    assert [(DOWN, b"256/1000:" + IMAGE[256:512])] == late(scene, until=115)
    scene = patient()
    scene.asks(b'{"get": 0}', at=110.0)
    scene.asks(b'{"runs": "1.0.0"}', at=110.0)
    frees(scene, 110.0)
    assert [] == late(scene, until=115)


def test_what_has_waited_for_too_long_is_refused():
    scene = patient()
    scene.asks(b'{"get": 0}', at=110.0)
    late(scene, until=115.1)
    assert 0 == len(scene.gateway._turns)
    frees(scene, 115.1)
    assert [(DOWN, b"no: BUSY")] == late(scene, until=120)


def test_what_comes_before_the_table_is_loaded_waits_for_it():
    scene = patient()
    scene.server.set_limits(Limits(), 110.0)
    scene.server.is_loaded = False
    assert [] == scene.asks(b'{"get": 0}', at=110.0)
    scene.server.is_loaded = True
    assert [(DOWN, b"0/1000:" + IMAGE[:256])] == late(scene, until=115)


def test_devices_that_ask_again_are_told_at_once():
    assert not Scene(grant()).gateway.is_patient


def test_what_waits_for_its_turn_is_bounded(monkeypatch):
    monkeypatch.setattr(request_lines, "TURNS_MAX", 2)
    turns = Turns()
    devices = {number: DeviceId("prod", f"t{number}") for number in (1, 2, 3)}
    kept = [turns.keep(devices[number], Waiting(b"%d" % number, b""), due_mono=1.0) for number in (1, 2, 3, 1)]
    assert [True, True, False, True] == kept
    assert ([b"2", b"1"], 0) == ([one.topic for one in turns.due(1.0)], len(turns))


def test_a_device_has_one_request_that_waits_whatever_topics_it_asks_on():
    turns, other = Turns(), DeviceId("prod", "t2")
    for device, topic in ((DEVICE, b"a"), (other, b"x"), (DEVICE, b"b")):
        turns.keep(device, Waiting(topic, b""), due_mono=1.0)
    assert [b"x", b"b"] == [one.topic for one in turns.due(1.0)]
    turns.keep(DEVICE, Waiting(b"a", b""), due_mono=1.0)
    turns.drop_of(DEVICE)
    assert [] == turns.due(1.0)
