"""The AWS dialect as a whole: settings, topics, streams, and every device of the simulator against it."""

import hashlib
import json

import pytest
from aws_world import IMAGE, AwsWorld
from core_world import MemorySource, facts_of
from hypothesis import given
from hypothesis import strategies as st

from device_sim.clients.aws_streams import read_block, request_cbor, request_json
from device_sim.clients.model import WentWrong
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.errors import BlockRefusal, ConfigError, Malformed
from ota_bridge.core.messages import Grant, GrantsChanged, GrantState, Rejected, Said
from ota_bridge.core.values import DeploymentId, DeviceId
from ota_bridge.dialect import Asked, MalformedFrom
from ota_bridge.dialects.aws import AwsDialect
from ota_bridge.dialects.aws_requests import BadRequest, JobsRequest
from ota_bridge.dialects.aws_streams import stream_name
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.vendor_blocks import VendorBlockGateway
from ota_bridge.wire import MqttMessage, matches

DEVICE = DeviceId("prod", "dev1")
FACTS = facts_of("1.1.0", image=IMAGE)
STREAM = stream_name(FACTS.sha256)
DIALECT = AwsDialect({"product": "prod"})

# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"produkt": "x"}, "produkt is not a setting"),
        ({"product": 1}, "str is expected"),
        ({"products": {"x": 1}}, "dialects.aws.products.x = '1'"),
        ({"prefix": "a"}, "ended by a slash"),
        ({"prefix": "+/"}, "ended by a slash"),
        ({"signature": "md5"}, "sig-HASH-ALGORITHM"),
        ({"answer_on_notify_next": True}, "list is expected"),
        ({"answer_on_notify_next": [1]}, "names of products"),
    ],
)
def test_a_wrong_setting_is_named(options, why):
    with pytest.raises(ConfigError, match=why):
        AwsDialect({"product": "demo", **options})


def test_the_signature_is_asked_of_the_author_by_the_name_that_the_devices_read():
    assert ["aws.sig-sha256-ecdsa"] == list(DIALECT.author_fields)
    assert ["aws.sig-sha256-rsa"] == list(AwsDialect({"product": "demo", "signature": "sig-sha256-rsa"}).author_fields)
    assert {} == AwsDialect({"product": "demo", "signature": ""}).author_fields


# --- topics ----------------------------------------------------------------------------------------------------------


def is_subscribed(dialect, topic):
    return any(matches(one.topic_filter, topic) for one in dialect.subscriptions())


@pytest.mark.parametrize("suffix", ["get", "start-next", "$next/get", "AFR_OTA-1/get", "AFR_OTA-1/update"])
def test_requests_are_subscribed_and_their_answers_are_not(suffix):
    topic = f"$aws/things/dev1/jobs/{suffix}"
    assert is_subscribed(DIALECT, topic)
    assert not DIALECT.is_for_blocks(MqttMessage(topic=topic, payload=b""))
    for answer in ("accepted", "rejected"):
        assert not is_subscribed(DIALECT, f"{topic}/{answer}")


@pytest.mark.parametrize("suffix", ["notify", "notify-next"])
def test_notices_are_not_subscribed(suffix):
    assert not is_subscribed(DIALECT, f"$aws/things/dev1/jobs/{suffix}")


def test_a_request_is_said_by_the_thing_of_its_topic():
    said = DIALECT.read(MqttMessage(topic="$aws/things/dev1/jobs/start-next", payload=b'{"clientToken":"t"}'))
    assert isinstance(said, Said)
    assert (DEVICE, "aws", {"request": "start-next"}) == (said.device, said.dialect, said.body)
    assert isinstance(said.said, JobsRequest)


def test_a_bad_payload_is_said_too_because_it_is_answered_and_a_bad_job_is_rejected():
    said = DIALECT.read(MqttMessage(topic="$aws/things/dev1/jobs/start-next", payload=b"{"))
    assert isinstance(said, Said)
    assert isinstance(said.said, BadRequest)
    assert "InvalidJson" == said.body["code"]
    rejected = DIALECT.read(MqttMessage(topic="$aws/things/dev1/jobs/a:b/update", payload=b"{}"))
    assert isinstance(rejected, Rejected)
    assert DEVICE == rejected.device


@pytest.mark.parametrize(
    "topic",
    [
        "$aws/things/a b/jobs/get",
        "$aws/things//jobs/get",
        f"$aws/things/{'x' * 129}/jobs/get",
        "$aws/thing/dev1/jobs/get",
        "x/$aws/things/dev1/jobs/get",
        "$aws/things/dev1/shadow/get",
    ],
)
def test_a_topic_that_names_no_thing_is_malformed(topic):
    with pytest.raises(Malformed):
        DIALECT.read(MqttMessage(topic=topic, payload=b"{}"))
    with pytest.raises(Malformed):
        DIALECT.blocks.read(topic.replace("/jobs/", "/streams/x/get/").encode(), b"")


def test_a_name_may_be_as_long_as_the_service_allows():
    assert "x" * 128 == DIALECT.read(MqttMessage(topic=f"$aws/things/{'x' * 128}/jobs/get", payload=b"")).device.name


def test_a_thing_whose_product_is_not_set_is_malformed():
    dialect = AwsDialect({"products": {"meter-*": "meters"}})
    message = MqttMessage(topic="$aws/things/meter-1/jobs/get", payload=b"")
    assert DeviceId("meters", "meter-1") == dialect.read(message).device
    with pytest.raises(Malformed, match="no product is set"):
        dialect.read(MqttMessage(topic="$aws/things/pump-1/jobs/get", payload=b""))


def test_a_prefix_stands_before_every_topic():
    here = AwsWorld(options={"prefix": "site/a/"})
    client = here.thing("older-agent", prefix="site/a/")
    client2 = here.thing("older-agent", name="dev2")  # outside of it: nobody hears it
    here.release()
    here.rollout()
    here.passes(1)
    assert ("1.1.0", "1.0.0") == (client.outcome.version, client2.outcome.version)


# --- streams ---------------------------------------------------------------------------------------------------------


class Streams:
    """The block plane with one image for dev1."""

    def __init__(self, state=GrantState.OPEN):
        source = MemorySource()
        source.put(IMAGE)
        self.server = BlockServer(source, block_max=64, window_max=1, refusals_per_s=1e6, device_burst_blocks=10**6)
        self.server.is_loaded = True
        grant = Grant(deployment=DeploymentId("0123456789ab"), rollout=None, state=state, manifest=FACTS)
        self.server.apply(GrantsChanged(device=DEVICE, grants=(grant,)))
        self.gateway = VendorBlockGateway(self.server, [DIALECT.blocks], mono=lambda: 100.0)

    def asks(self, payload, *, encoding="json", stream=STREAM, thing="dev1", operation="get"):
        out = []
        topic = f"$aws/things/{thing}/streams/{stream}/{operation}/{encoding}"
        size = self.gateway.handle(topic.encode(), payload, 100.0, out)
        assert size == sum(map(len, out))
        base = topic.removesuffix(f"{operation}/{encoding}").encode()
        found = Decoder(max_packet_bytes=1 << 20).feed(b"".join(out))
        return [(name.removeprefix(base).decode(), data) for name, data in found]

    def blocks(self, payload, *, encoding="json", size=4096):
        answers = self.asks(payload, encoding=encoding)
        assert {f"data/{encoding}"} >= {topic for topic, _ in answers}
        found = [read_block(data, encoding, size) for _, data in answers]
        assert all(IMAGE[one.index * size : (one.index + 1) * size] == one.data for one in found)
        return [one.index for one in found]


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_one_block_is_answered_with_exactly_that_one(encoding):
    write = request_json if encoding == "json" else request_cbor
    for offset in range(8):
        assert [offset] == Streams().blocks(write(0, 4096, offset, 1), encoding=encoding)


def test_the_junk_bitmap_of_the_streams_library_leaves_no_gaps():
    assert [2, 3, 4, 5] == Streams().blocks(request_cbor(0, 4096, 2, 4), encoding="cbor")


def test_a_bitmap_is_honoured_in_rising_order_and_up_to_the_count():
    bitmap = bytes([0b1011_0101])
    assert [0, 2, 4, 5, 7] == Streams().blocks(request_cbor(0, 4096, 0, 8, bitmap), encoding="cbor")
    assert [1, 3] == Streams().blocks(request_cbor(0, 4096, 1, 2, bitmap), encoding="cbor")
    assert [0, 2, 4, 5, 7] == Streams().blocks(json.dumps({"f": 0, "l": 4096, "b": "0xb5"}).encode())


def test_bits_and_counts_past_the_end_are_ignored():
    assert [6, 7] == Streams().blocks(request_cbor(0, 4096, 6, 9, b"\xff\xff"), encoding="cbor")
    assert [6, 7] == Streams().blocks(request_json(0, 4096, 6, 50))


def test_no_more_than_128_kib_go_for_one_request():
    assert list(range(118)) == Streams().blocks(b'{"f":0,"l":256}', size=256)
    asked = DIALECT.blocks.read(f"$aws/things/dev1/streams/{STREAM}/get/json".encode(), b'{"f":0,"l":256}')
    assert (512, 512) == (asked.count, DIALECT.blocks.count_max)


def test_a_token_comes_back_and_nothing_else_is_added():
    [(_, data)] = Streams().asks(b'{"c":"rdy","s":1,"f":0,"l":256,"n":1}')
    assert ["c", "f", "i", "l", "p"] == list(json.loads(data))
    [(_, data)] = Streams().asks(b'{"f":0,"l":256,"n":1}')
    assert ["f", "i", "l", "p"] == list(json.loads(data))


@pytest.mark.parametrize("size", [256, 512, 1024, 4096, 16_384, 131_072])
@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_a_packet_has_no_more_beside_its_data_than_is_counted_and_than_buffers_hold(size, encoding):
    write = request_json if encoding == "json" else request_cbor
    topic = f"$aws/things/dev1/streams/{STREAM}/get/{encoding}".encode()
    asked = DIALECT.blocks.read(topic, write(0, size, 0, 1))
    [(name, pieces)] = DIALECT.blocks.blocks_of(asked, [(0, memoryview(bytes(size)))], size)
    payload = sum(map(len, pieces))
    assert payload + len(name) + 7 <= size + asked.frame_bytes
    assert payload <= (size if encoding == "cbor" else -(-size // 3) * 4) + 64


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_describe_tells_the_file_and_its_size(encoding):
    payload = b'{"c":"x"}' if encoding == "json" else b"\xa1\x61c\x61x"
    [(topic, data)] = Streams().asks(payload, encoding=encoding, operation="describe")
    assert f"description/{encoding}" == topic
    if encoding == "json":
        assert {"c": "x", "s": 1, "d": "", "r": [{"f": 0, "z": len(IMAGE)}]} == json.loads(data)
    [(topic, _)] = Streams().asks(b"", encoding=encoding, operation="describe")
    assert f"description/{encoding}" == topic


@pytest.mark.parametrize(
    ("payload", "more", "code"),
    [
        (request_json(0, 4096, 8, 1), {}, "InvalidRequest"),
        (request_json(1, 4096, 0, 1), {}, "ResourceNotFound"),
        (request_json(0, 128, 0, 1), {}, "BlockSizeOutOfBounds"),
        (b'{"c":"t","s":2,"f":0,"l":4096}', {}, "VersionMismatch"),
        (b"{", {}, "InvalidJson"),
        (request_json(0, 4096, 0, 1), {"stream": "AFR_OTA-x"}, "ResourceNotFound"),
        (request_json(0, 4096, 0, 1), {"stream": stream_name(bytes(32))}, "ResourceNotFound"),
        (request_json(0, 4096, 0, 1), {"thing": "dev2"}, "ResourceNotFound"),
        (b"{", {"operation": "describe"}, "InvalidJson"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_code(payload, more, code):
    [(topic, data)] = Streams().asks(payload, **more)
    body = json.loads(data)
    assert ("rejected/json", code, code) == (topic, body["o"], body["code"])
    assert ("t" if b'"c":"t"' in payload else None) == body.get("c") == body.get("clientToken")


def test_a_request_past_the_end_is_refused_in_the_services_words():
    [(_, data)] = Streams().asks(request_json(0, 4096, 8, 1))
    assert "the data requested is out of the range of data available" == json.loads(data)["message"]


@pytest.mark.parametrize("state", [GrantState.PAUSED, GrantState.WITHDRAWN])
def test_what_is_held_back_is_refused(state):
    [(topic, _)] = Streams(state).asks(request_json(0, 4096, 0, 1))
    assert "rejected/json" == topic


def test_every_refusal_of_the_block_plane_has_a_code():
    asked = DIALECT.blocks.read(f"$aws/things/dev1/streams/{STREAM}/get/cbor".encode(), request_cbor(0, 4096, 0, 1))
    for code in BlockRefusal:
        [(topic, _)] = DIALECT.blocks.refusal(asked, code, 30)
        assert topic.endswith(b"/rejected/cbor")


@given(st.binary(max_size=80), st.sampled_from(["get/json", "get/cbor", "describe/json", "describe/cbor", "get/xml"]))
def test_no_request_raises_anything_else(payload, suffix):
    topic = f"$aws/things/dev1/streams/{STREAM}/{suffix}".encode()
    try:
        asked = DIALECT.blocks.read(topic, payload)
    except MalformedFrom as error:
        [(name, _)] = DIALECT.blocks.malformed(error)
        assert name.startswith(f"$aws/things/dev1/streams/{STREAM}/rejected/".encode())
    else:
        assert asked is None or isinstance(asked, Asked)


@given(st.binary(max_size=40))
def test_no_topic_raises_anything_else(level):
    for topic in (level, b"$aws/things/" + level, b"$aws/things/dev1/streams/" + level + b"/get/json"):
        try:
            DIALECT.blocks.read(topic, b"{}")
        except Malformed:
            continue


# --- every device of the simulator -----------------------------------------------------------------------------------

EVERY = [
    ("jobs-json", "auto-subscribe"),
    ("jobs-cbor", "auto-subscribe"),
    ("jobs-json", "several", "auto-subscribe"),
    ("jobs-cbor", "several", "auto-subscribe"),
    ("jobs-json", "version-2", "auto-subscribe"),
    ("lab", "auto-subscribe"),
    ("lab", "jobs-cbor", "auto-subscribe"),
    ("older-agent", "auto-subscribe"),
    ("older-agent", "several", "auto-subscribe"),
    ("older-agent", "wildcard"),
    ("sdk",),
]
DEAF = [("jobs-json",), ("jobs-cbor", "several"), ("older-agent",), ("older-agent", "several")]


def updated(here, client):
    outcome = client.outcome
    assert ("1.1.0", hashlib.sha256(IMAGE).hexdigest(), ()) == (
        outcome.version,
        outcome.sha256,
        tuple(outcome.failures),
    )
    assert (1, False) == (outcome.installs, outcome.is_busy)
    assert "CONFIRMED" == here.state()


@pytest.mark.parametrize("variants", EVERY, ids="+".join)
def test_each_device_is_updated_when_it_asks(variants):
    here = AwsWorld()
    client = here.thing(*variants)
    here.release()
    here.world.rollout("1.1.0")
    here.reconnect()
    here.act("dev1", client.started(here.now))
    here.reconnect()
    here.passes(30)
    updated(here, client)


@pytest.mark.parametrize("variants", [v for v in [*EVERY, *DEAF] if "lab" not in v], ids="+".join)
def test_each_device_that_listens_is_updated_by_the_notice(variants):
    here = AwsWorld(options={"answer_on_notify_next": ["*"]} if variants in DEAF else {})
    client = here.thing(*variants)
    here.release()
    here.rollout()
    here.passes(30)
    updated(here, client)


@pytest.mark.parametrize("variants", DEAF, ids="+".join)
def test_a_device_that_hears_no_answers_is_updated_when_it_starts_where_its_product_wants_that(variants):
    here = AwsWorld(options={"answer_on_notify_next": ["prod"]})
    client = here.thing(*variants, start=False)
    here.says("get")
    here.release()
    here.rollout()
    here.act("dev1", client.started(here.now))
    here.act("dev1", client.connected(here.now))
    here.settle()
    here.passes(30)
    updated(here, client)


@pytest.mark.parametrize("variants", [v for v in [*EVERY, *DEAF] if "lab" not in v], ids="+".join)
def test_a_link_that_breaks_in_the_middle_and_blocks_that_get_lost_cost_only_time(variants):
    here = AwsWorld(options={"answer_on_notify_next": ["*"]} if variants in DEAF else {})
    client = here.thing(*variants)
    here.release()
    seen = []

    def loses(topic, payload):
        if "/data/" in topic:
            seen.append(topic)
            return len(seen) in {2, 5}
        return False

    here.loses = loses
    here.rollout()
    assert client.outcome.is_busy
    here.reconnect()
    here.passes(60)
    updated(here, client)


def test_a_block_that_comes_twice_does_not_make_every_block_come_twice():
    here = AwsWorld()
    here.thing("jobs-json", "auto-subscribe")
    here.release()
    carry, doubled = here._carry, []

    def twice(topic, payload):
        carry(topic, payload)
        if "/data/" in topic and not doubled:
            doubled.append(topic)
            carry(topic, payload)

    here._carry = twice
    here.rollout()
    here.passes(10)
    assert "CONFIRMED" == here.state()
    blocks = [payload for topic, payload in here.log if "/data/" in topic]
    assert -(-len(IMAGE) // 4096) + 2 >= len(blocks)


def test_a_device_that_asks_while_the_bridge_is_away_goes_on_when_it_is_back():
    here = AwsWorld()
    client = here.thing("older-agent", "auto-subscribe")
    here.release()
    here.loses = lambda topic, payload: topic.endswith("get/cbor") and not here.is_up
    here.is_up = False
    here.world.rollout("1.1.0")
    here.reconnect()
    assert "1.0.0" == client.outcome.version
    here.is_up = True
    here.reconnect()
    updated(here, client)


def test_each_attempt_of_a_bad_image_fails_with_the_agents_code_and_then_there_is_peace(tmp_path, ec_public):
    here = AwsWorld()
    (tmp_path / "signer.pem").write_bytes(ec_public)
    client = here.thing("older-agent", "auto-subscribe", state=tmp_path)
    here.release()
    here.rollout()
    here.passes(10_000)
    assert [("FAILED", "-4")] * 3 == [(str(one.state), one.result_code) for one in here.deployments()]
    assert all("0x000000e3" in one.cause for one in here.deployments())
    before = len(here.log)
    here.passes(100_000)
    here.reconnect()
    assert {"$aws/things/dev1/jobs/$next/get", "$aws/things/dev1/jobs/$next/get/accepted"} == {
        topic for topic, _ in here.log[before:]
    }
    assert ("1.0.0", False) == (client.outcome.version, client.outcome.is_busy)


@pytest.fixture
def ec_public():
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_an_image_that_is_not_newer_ends_at_once():
    here = AwsWorld()
    client = here.thing("older-agent", "auto-subscribe")
    here.release(image=b"version=1.0.0 " + IMAGE)
    here.rollout()
    here.passes(10_000)
    assert [("FAILED", "REFUSED_ROLLBACK")] == [(str(one.state), one.result_code) for one in here.deployments()]
    assert ("1.0.0", False) == (client.outcome.version, client.outcome.is_busy)


def test_a_mixed_fleet_is_told_apart_by_its_topics():
    here = AwsWorld()
    clients = [here.thing(*variants, name=f"dev{number}") for number, variants in enumerate(EVERY[:5] + EVERY[7:9])]
    here.release()
    here.rollout()
    here.passes(30)
    assert {"1.1.0"} == {client.outcome.version for client in clients}


def test_a_wildcard_without_rules_of_access_hears_what_is_not_its_own():
    here = AwsWorld()
    here.thing("older-agent", "wildcard")
    with pytest.raises(WentWrong, match="rules of access"):
        here.thing("older-agent", name="dev2")
