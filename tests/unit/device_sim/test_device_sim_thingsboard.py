"""ThingsBoard's clients against what the real ones put on the wire, and each way in which a server brings them down."""

import hashlib
import json
import zlib
from pathlib import Path
from random import Random

import pytest

from device_sim.clients.model import ClientOptions, Incoming, Publish, Restart, Subscribe, Unsubscribe, WentWrong
from device_sim.clients.thingsboard import thingsboard_client
from device_sim.errors import OptionError

VECTORS = Path(__file__).parents[2] / "vectors" / "thingsboard"
ATTRIBUTES = "v1/devices/me/attributes"
NO_FIRMWARE = "Missing shared attribute firmware keys. Ensure you assigned an OTA update with binary"


def image_of(size):
    return Random(6).randbytes(size)


IMAGE = image_of(10_000)


def client(*variants, **changes):
    options = {"product": "demo", "name": "token", "version": "1.0", "block_bytes": 4096, **changes}
    return thingsboard_client(ClientOptions(variants=frozenset(variants), **options))


def firmware(image=IMAGE, **changes):
    return {
        "fw_checksum": hashlib.sha256(image).hexdigest(),
        "fw_checksum_algorithm": "SHA256",
        "fw_size": len(image),
        "fw_title": "demo",
        "fw_version": "2.0",
        **changes,
    }


class Server:
    """Answers one client as a server does that makes no mistake, unless it is told to."""

    def __init__(self, device, image=IMAGE, info=None, prefix=""):
        self.device, self.image, self.prefix = device, image, prefix
        self.info = firmware(image) if info is None else info
        self.now_s = 0.0
        self.said = []
        self.actions = []
        self.lost = set()
        self.lying = {}

    def run(self, actions, until_s=1000.0):
        """Carry out what the client wants, and the time it waits for, until nothing is left."""
        todo = list(actions)
        while True:
            while todo:
                todo += self.carry_out(todo.pop(0))
            due = self.device.next_deadline()
            if due is None or due > until_s:
                return self
            self.now_s = max(self.now_s, due)
            todo += self.device.tick(self.now_s)

    def boot(self, until_s=1000.0):
        return self.run([*self.device.started(self.now_s), *self.device.connected(self.now_s)], until_s)

    def carry_out(self, action):
        self.actions.append(action)
        if isinstance(action, Restart):
            self.now_s += action.after_s
            return [
                *self.device.disconnected(self.now_s),
                *self.device.started(self.now_s),
                *self.device.connected(self.now_s),
            ]
        if not isinstance(action, Publish):
            return []
        topic = action.topic.removeprefix(self.prefix)
        if topic.startswith("v1/devices/me/telemetry"):
            told = json.loads(action.payload)
            self.said.append(told[0] if isinstance(told, list) else told)
        if topic.startswith(f"{ATTRIBUTES}/request/"):
            answer = {"shared": self.info} if self.info else {}
            return self.send(topic.replace("request", "response"), json.dumps(answer).encode())
        if topic.startswith("v2/fw/request/"):
            return self.chunk(topic, action.payload)
        return []

    def chunk(self, topic, payload):
        index = int(topic.rpartition("/")[2])
        size = int(payload) if payload else len(self.image)
        if index in self.lost:
            self.lost.remove(index)
            return []
        data = self.lying.get(index, self.image[index * size : (index + 1) * size])
        return [] if data is None else self.send(topic.replace("request", "response"), data)

    def send(self, topic, payload, at_s=None):
        return self.device.received(Incoming(topic=self.prefix + topic, payload=payload), at_s or self.now_s)

    @property
    def states(self):
        return [told.get("fw_state") for told in self.said]

    @property
    def chunks_asked(self):
        return [a.topic for a in self.actions if isinstance(a, Publish) and "/chunk/" in a.topic]


# --- the captures ---


def as_step(action):
    if isinstance(action, Subscribe):
        return {"subscribe": action.topic_filter, "qos": action.qos}
    if isinstance(action, Unsubscribe):
        return {"unsubscribe": action.topic_filter}
    if isinstance(action, Publish):
        return {"publish": action.topic, "qos": action.qos, "text": action.payload.decode()}
    return {"restart": True}


def digests(text, image):
    for name in ("sha256", "sha512"):
        text = text.replace(f"{{{name}}}", hashlib.new(name, image).hexdigest())
    return text


def replayed(name, device):
    """What the real client did and what ours does, when the server says what it said."""
    vector = json.loads((VECTORS / f"{name}.json").read_text())
    image = image_of(vector["image_bytes"])
    real, ours, now_s = [], [], 0.0

    def until(at_s):
        while (due := device.next_deadline()) is not None and due <= at_s:
            ours.extend(map(as_step, device.tick(due)))

    ours += map(as_step, [*device.started(0.0), *device.connected(0.0)])
    for step in vector["steps"]:
        now_s = step["at_s"]
        until(now_s)
        if step["from"] == "device":
            if "connect" not in step and "disconnect" not in step:
                real.append({key: value for key, value in step.items() if key not in {"at_s", "from"}})
            continue
        if "offset" in step:
            payload = image[step["offset"] : step["offset"] + step["length"]]
        else:
            payload = digests(step["text"], image).encode()
        ours += map(as_step, device.received(Incoming(topic=step["publish"], payload=payload, qos=step["qos"]), now_s))
    until(now_s + 2)
    return real, ours


def test_the_python_client_says_what_the_real_one_said_in_the_same_order():
    device = client("python", "untitled")
    real, ours = replayed("python", device)
    assert real == ours
    assert ("2.0", hashlib.sha256(image_of(307_200)).hexdigest(), 1) == (
        device.outcome.version,
        device.outcome.sha256,
        device.outcome.installs,
    )


def test_the_cpp_client_says_what_the_real_one_said_in_the_same_order():
    device = client("cpp")
    real, ours = replayed("cpp", device)
    assert [*real, {"restart": True}] == ours
    assert "2.0" == device.outcome.version


@pytest.mark.parametrize(("name", "variants"), [("python", {"untitled"}), ("cpp", {"cpp"})])
def test_they_connect_as_the_real_ones(name, variants):
    step = json.loads((VECTORS / f"{name}.json").read_text())["steps"][0]["connect"]
    session = client(*variants, name="TOKEN").session()
    assert (step["client_id"], step["username"], step["password"], step["keepalive_s"], step["is_clean"]) == (
        session.client_id,
        session.username,
        session.password,
        session.keepalive_s,
        session.is_clean,
    )


# --- what goes right ---


@pytest.mark.parametrize("variants", [(), ("untitled",), ("cpp",)])
@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 8192, 10_000])
def test_an_image_of_any_size_arrives(variants, size):
    image = image_of(size)
    device = client(*variants)
    server = Server(device, image).boot()
    assert ("2.0", hashlib.sha256(image).hexdigest(), ()) == (
        device.outcome.version,
        device.outcome.sha256,
        device.outcome.failures,
    )
    assert not device.outcome.is_busy
    assert "UPDATED" == server.states[-1]


def test_the_cpp_client_asks_one_chunk_past_the_end_of_an_exact_multiple():
    server = Server(client("cpp"), image_of(8192)).boot()
    assert [f"v2/fw/request/1/chunk/{n}" for n in range(3)] == server.chunks_asked


def test_the_python_client_takes_the_whole_image_in_one_message_when_it_names_no_size():
    server = Server(client(block_bytes=0)).boot()
    assert ["v2/fw/request/1/chunk/0"] == server.chunks_asked
    assert "2.0" == server.device.outcome.version


def test_a_chunk_size_above_the_image_is_not_named():
    server = Server(client(block_bytes=20_000)).boot()
    assert [b""] == [a.payload for a in server.actions if isinstance(a, Publish) and "/chunk/" in a.topic]


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        ("MD5", hashlib.md5(IMAGE).hexdigest()),
        ("SHA384", hashlib.sha384(IMAGE).hexdigest()),
        ("sha512", hashlib.sha512(IMAGE).hexdigest()),
        ("CRC32", zlib.crc32(IMAGE).to_bytes(4, "little").hex()),
    ],
)
def test_the_python_client_knows_other_checksums_in_any_case(algorithm, digest):
    info = firmware(fw_checksum=digest, fw_checksum_algorithm=algorithm)
    assert "2.0" == Server(client(), info=info).boot().device.outcome.version


def test_what_is_behind_a_prefix_gets_the_filter_that_matches_chunks():
    server = Server(client(prefix="tb/d1/"), prefix="tb/d1/").boot()
    assert "tb/d1/v2/fw/response/+/chunk/+" == server.actions[0].topic_filter
    assert "2.0" == server.device.outcome.version
    assert {True} == {getattr(a, "topic", getattr(a, "topic_filter", "")).startswith("tb/d1/") for a in server.actions}


def test_states_of_the_python_client_leave_it_late_and_in_pairs():
    device = client()
    server = Server(device)
    server.run([*device.started(0.0), *device.connected(0.0)], until_s=0.5)
    assert ["IDLE"] == server.states
    server.now_s = 1.0
    server.run(device.tick(1.0), until_s=1.5)
    assert ["IDLE", "DOWNLOADING"] == server.states  # and all chunks
    assert [] == list(device.tick(2.5))
    assert ["DOWNLOADED", "VERIFIED"] == [
        json.loads(a.payload)[0]["fw_state"] for a in device.tick(3.5) if isinstance(a, Publish)
    ]


def test_the_cpp_client_that_is_told_instead_of_asking_updates_as_well():
    server = Server(client("cpp", "push")).boot()
    assert [] == server.chunks_asked
    server.run(server.send(ATTRIBUTES, json.dumps({"mood": 1}).encode()))
    assert [] == server.chunks_asked
    server.run(server.send(ATTRIBUTES, json.dumps(firmware()).encode()))
    assert "2.0" == server.device.outcome.version


# --- what they survive ---


def test_the_cpp_client_asks_again_for_a_chunk_that_was_lost():
    server = Server(client("cpp"))
    server.lost = {1}
    server.boot()
    assert ["0", "1", "1", "2"] == [topic.rpartition("/")[2] for topic in server.chunks_asked]
    assert "2.0" == server.device.outcome.version


@pytest.mark.parametrize("wrong", [b"", b"short", IMAGE[:4096] + b"x"])
def test_the_cpp_client_drops_a_chunk_of_the_wrong_length(wrong):
    server = Server(client("cpp"))
    server.lying = {0: wrong}
    server.boot(until_s=4.0)
    assert 1 == len(server.chunks_asked)
    server.lying = {}
    assert "2.0" == server.run([]).device.outcome.version


def test_the_cpp_client_gives_up_a_chunk_after_twelve_retries():
    server = Server(client("cpp"))
    server.lying = {1: None}
    server.boot()
    assert 13 == server.chunks_asked.count("v2/fw/request/1/chunk/1")
    assert "FAILED" == server.states[-1]
    assert "1.0" == server.device.outcome.version
    assert not server.device.outcome.is_busy


def test_the_cpp_client_keeps_its_download_over_a_reconnect():
    server = Server(client("cpp"))
    server.lying = {1: None}
    server.boot(until_s=3.0)
    server.device.disconnected(3.0)
    assert [] == list(server.device.tick(5.0))
    server.lying = {}
    server.run(server.device.connected(6.0))
    assert "2.0" == server.device.outcome.version


def test_the_python_client_that_lost_a_chunk_is_freed_by_attributes_and_begins_anew():
    server = Server(client())
    server.lost = {1}
    server.boot(until_s=60.0)
    assert server.device.outcome.is_busy
    server.run(server.send(ATTRIBUTES, json.dumps(firmware()).encode(), at_s=60.0))
    assert ["v2/fw/request/1/chunk/0", "v2/fw/request/1/chunk/1"] + [
        f"v2/fw/request/2/chunk/{n}" for n in range(3)
    ] == server.chunks_asked
    assert "2.0" == server.device.outcome.version


def test_the_python_client_is_silent_after_a_reconnect_unless_its_application_asks_again():
    for variants, expected in (((), 0), (("asks-again",), 1)):
        server = Server(client(*variants))
        server.lost = {1}
        server.boot(until_s=60.0)
        server.device.disconnected(60.0)
        again = [a.topic for a in server.device.connected(61.0) if isinstance(a, Publish)]
        assert expected == sum(topic.startswith(f"{ATTRIBUTES}/request/") for topic in again)


def test_what_the_python_client_would_have_said_is_lost_with_the_link():
    device = client()
    server = Server(device)
    server.run([*device.started(0.0), *device.connected(0.0)], until_s=0.5)
    assert [] == list(device.disconnected(0.6))
    assert [] == list(device.tick(1.5))


@pytest.mark.parametrize("variants", [(), ("cpp",)])
def test_no_firmware_leaves_them_as_they_are(variants):
    server = Server(client(*variants), info={}).boot()
    assert [] == server.chunks_asked
    assert "1.0" == server.device.outcome.version
    assert ((NO_FIRMWARE,) if variants else ()) == server.device.outcome.failures


def test_the_cpp_client_says_that_nobody_answered():
    device = client("cpp")
    device.started(0.0)
    device.connected(0.0)
    (told,) = device.tick(5.0)
    assert json.loads(told.payload)["fw_error"].startswith("Did not receive requested")


@pytest.mark.parametrize(
    ("changes", "state", "error"),
    [
        ({"fw_title": "other"}, "FAILED", "Received firmware title (other) is different"),
        ({"fw_checksum_algorithm": "CRC32"}, "FAILED", "Received checksum algorithm (CRC32) is not supported"),
        ({"fw_checksum_algorithm": "sha256"}, "FAILED", "Received checksum algorithm (sha256) is not supported"),
        ({"fw_title": None}, "FAILED", "Received shared attribute firmware keys were NULL"),
        ({"fw_version": "1.0"}, "UPDATED", ""),
        ({"fw_version": "1.0.1"}, "UPDATED", ""),  # it begins like its own
    ],
)
def test_the_cpp_client_refuses_without_downloading(changes, state, error):
    server = Server(client("cpp"), info=firmware(**changes)).boot()
    assert [] == server.chunks_asked
    assert state == server.said[-1]["fw_state"]
    assert server.said[-1]["fw_error"].startswith(error)


def test_the_python_client_downloads_a_foreign_title():
    server = Server(client(), info=firmware(fw_title="other", fw_version="1.0")).boot()
    assert 1 == server.device.outcome.installs


def test_a_wrong_checksum_is_told_by_the_python_client_which_asks_again():
    server = Server(client())
    server.info = firmware(fw_checksum="00")
    server.boot(until_s=1.5)
    server.info = {}  # nothing is offered any more
    server.run([])
    assert ("Checksum verification failed!",) == server.device.outcome.failures
    assert ["DOWNLOADED", "FAILED"] == server.states[-2:]
    assert not server.device.outcome.is_busy


# --- what brings them down ---


@pytest.mark.parametrize("variants", [(), ("cpp",)])
def test_a_server_that_goes_on_with_a_wrong_checksum_is_told_so(variants):
    with pytest.raises(WentWrong, match="wrong checksum"):
        Server(client(*variants), info=firmware(fw_checksum="00")).boot()


def test_an_upper_case_checksum_is_a_wrong_one():
    info = firmware(fw_checksum=hashlib.sha256(IMAGE).hexdigest().upper())
    with pytest.raises(WentWrong, match="wrong checksum"):
        Server(client(), info=info).boot()


def test_a_lost_chunk_that_nobody_heals_hangs_the_python_client():
    server = Server(client())
    server.lost = {1}
    with pytest.raises(WentWrong, match=r"waits for chunk 1 of request 1 without end"):
        server.boot()


def test_a_doubled_chunk_runs_the_python_client_past_its_end():
    server = Server(client())
    server.boot(until_s=0.5)
    chunk = IMAGE[:4096]
    server.device.tick(1.0)
    with pytest.raises(WentWrong, match=r"12288 of 10000 bytes: it asks without end; .*chunk/0 came when chunk 1"):
        for _ in range(3):
            server.send("v2/fw/response/1/chunk/0", chunk, at_s=1.0)


def test_an_empty_chunk_before_the_end_makes_the_python_client_ask_for_ever():
    server = Server(client())
    server.lying = {2: b""}
    with pytest.raises(WentWrong, match="empty chunk with 8192 of 10000 bytes"):
        server.boot()


def test_other_attributes_in_a_download_cost_the_python_client_its_checksum():
    server = Server(client())
    server.lying = {2: None}
    server.boot(until_s=10.0)
    server.send(ATTRIBUTES, b'{"mood":1}', at_s=10.0)
    server.info = {}
    server.run(server.send("v2/fw/response/1/chunk/2", IMAGE[8192:], at_s=11.0))
    assert ("Checksum verification failed!",) == server.device.outcome.failures


@pytest.mark.parametrize(
    ("topic", "payload", "why"),
    [
        (ATTRIBUTES, b"{", "no JSON"),
        (ATTRIBUTES, b"[]", "no object"),
        (f"{ATTRIBUTES}/response/1", b'{"shared":null}', "no object"),
        ("v2/fw/response/0/chunk/0", b"x", "before any download"),
        ("v1/devices/me/rpc/response/1", b"5", "RPC answer"),
        ("v1/devices/me/rpc/response/1", b'{"rateLimits":{"messages":"many"}}', "rate limits"),
    ],
)
def test_messages_that_end_the_receive_thread_of_the_python_client(topic, payload, why):
    device = client()
    device.started(0.0)
    device.connected(0.0)
    with pytest.raises(WentWrong, match=why):
        device.received(Incoming(topic=topic, payload=payload), 0.1)


@pytest.mark.parametrize("variants", [(), ("cpp",)])
def test_a_size_that_is_no_number_is_loud(variants):
    with pytest.raises(WentWrong, match="fw_size"):
        Server(client(*variants), info=firmware(fw_size="10000")).boot()


def test_an_algorithm_that_is_missing_ends_the_python_client():
    info = firmware()
    del info["fw_checksum_algorithm"]
    with pytest.raises(WentWrong, match="algorithm"):
        Server(client(), info=info).boot()


def test_variants_that_there_are_not_are_refused():
    with pytest.raises(OptionError, match="no variant 'rust'"):
        client("rust")
    with pytest.raises(OptionError, match="the Python client of thingsboard has no variant 'push'"):
        client("push")
    with pytest.raises(OptionError, match=r"the C\+\+ client of thingsboard has no variant 'untitled'"):
        client("cpp", "untitled")
