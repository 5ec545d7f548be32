"""The clients of AWS IoT Jobs and MQTT file streams: what they send, byte for byte, and what a server can do to them."""

import base64
import hashlib
import json
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from unit.device_sim.aws_cloud import JOB, STREAM, Cloud, cbor_block, document, json_block

from device_sim.clients.aws import AwsClient
from device_sim.clients.aws_agent import DROPS_MAX, MOMENTUM_MAX, AgentDevice
from device_sim.clients.aws_documents import NotForUs, core_json, read_for_agent, read_for_jobs
from device_sim.clients.aws_flash import version_of, word
from device_sim.clients.aws_streams import read_block
from device_sim.clients.model import ClientOptions, Incoming, Publish, Subscribe, WentWrong
from device_sim.errors import OptionError

VECTORS = Path(__file__).parents[2] / "vectors" / "aws"
IMAGE = Random(7).randbytes(20_000)
BLOCK = 4096


def options(*variants, **more):
    return ClientOptions(
        **({"product": "", "name": "dev1", "variants": frozenset(variants), "block_bytes": BLOCK} | more)
    )


def cloud(*variants, image=IMAGE, job_document=None, **more):
    return Cloud(options(*variants, **more), image, job_document=job_document)


def vector(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def payload_of(step):
    return bytes.fromhex(step["hex"]) if "hex" in step else step["text"].encode()


# --- the recordings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exchange-jobs-json", "exchange-jobs-cbor", "exchange-older-agent"])
def test_a_client_sends_what_the_vendors_sent_byte_for_byte(name):
    case = vector(name)
    recorded = [(step["topic"], payload_of(step)) for step in case["exchange"] if step["from"] == "device"]
    answered = [json.loads(step["text"]) for step in case["exchange"] if step["from"] == "server"]
    job = next(answer["execution"] for answer in answered if "execution" in answer)
    image = Random(1).randbytes(case["image_bytes"])
    is_agent = "older-agent" in case["variants"]
    world = Cloud(
        options(*case["variants"], block_bytes=case["block_bytes"]),
        image,
        job_document=job["jobDocument"],
        device=(lambda one: AgentDevice(one.options, one.flash, status_every=16)) if is_agent else None,
    ).start()
    assert recorded == [(publish.topic, publish.payload) for publish in world.published]
    assert hashlib.sha256(image).hexdigest() == world.client.outcome.sha256


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_a_recorded_block_is_read(encoding):
    case = vector("blocks")
    for sample in case["json"] if encoding == "json" else case["cbor_heads"]:
        if encoding == "json":
            payload = sample["text"].encode()
        else:
            head = bytes.fromhex(sample["hex"])
            at = head.index(b"\x61p\x59\x10\x00") + 5
            payload = head + bytes(case["block_bytes"] - len(head) + at) + b"\xff"
        block = read_block(payload, encoding, case["block_bytes"])
        assert (sample["index"], case["block_bytes"]) == (block.index, len(block.data))
        assert {0: "498581e50049", 1: "35f875900632"}[block.index] == block.data[:6].hex()


# --- whole updates -------------------------------------------------------------------------------------------------

EVERY = [
    (),
    ("jobs-cbor",),
    ("jobs-json", "several"),
    ("jobs-cbor", "several"),
    ("lab",),
    ("lab", "jobs-cbor"),
    ("older-agent",),
    ("older-agent", "several"),
    ("sdk",),
]


@pytest.mark.parametrize("variants", EVERY, ids="+".join)
def test_each_client_takes_an_update_and_says_so(variants):
    world = cloud(*variants).start()
    outcome = world.client.outcome
    assert ("1.1.0", hashlib.sha256(IMAGE).hexdigest(), 1) == (outcome.version, outcome.sha256, outcome.installs)
    assert (False, ()) == (outcome.is_busy, tuple(outcome.failures))
    assert "SUCCEEDED" == world.updates()[-1]["status"]
    assert (0 if "lab" in variants else 1) == outcome.restarts


@pytest.mark.parametrize("variants", EVERY, ids="+".join)
def test_a_client_with_nothing_pending_waits_in_peace(variants):
    world = cloud(*variants)
    world.job["status"] = "SUCCEEDED"
    world.start()
    assert not world.client.outcome.is_busy
    assert world.client.next_deadline() is None
    assert 1 == len(world.published)


@pytest.mark.parametrize("variants", [v for v in EVERY if "lab" not in v], ids="+".join)
def test_a_block_that_is_lost_is_asked_for_again(variants):
    world = cloud(*variants)
    world.lost_blocks = {0, 2}
    world.start()
    while world.client.outcome.is_busy:
        world.tick()
    assert hashlib.sha256(IMAGE).hexdigest() == world.client.outcome.sha256


def test_the_lab_demo_waits_for_ever_for_a_block_that_is_lost():
    world = cloud("lab")
    world.lost_blocks = {2}
    world.start()
    with pytest.raises(WentWrong, match="never came"):
        world.tick()


@pytest.mark.parametrize("variants", [v for v in EVERY if "several" not in v], ids="+".join)
def test_a_broken_link_in_the_middle_costs_no_more_than_the_client_does(variants):
    world = cloud(*variants)
    world.lost_blocks = {3}
    world.start()
    asked_before = len(world.requests())
    world.reconnect()
    if world.client.outcome.is_busy:
        world.tick()
    assert hashlib.sha256(IMAGE).hexdigest() == world.client.outcome.sha256
    again = {"lab": 5, "sdk": 1}
    assert again.get(variants[0] if variants else "", 2) == len(world.requests()) - asked_before


def test_the_streams_library_asks_with_a_version_of_one_and_the_older_agent_with_a_map_of_what_it_lacks():
    assert b'{"s": 1,"f": 0,"l": 4096,"o": 4,"n": 1}' == cloud().start().requests()[-1]
    assert b"\xa6accrdyaf\x00al\x19\x10\x00ao\x00abA\x10an\x01" == cloud("older-agent").start().requests()[-1]
    assert b"\xa6accrdyaf\x00al\x19\x10\x00ao\x04abDMQ==an\x01" == cloud("jobs-cbor").start().requests()[-1]


def test_topics_get_the_prefix_and_lose_it():
    world = cloud("older-agent", prefix="tb/dev1/").start()
    assert "1.1.0" == world.client.outcome.version
    assert {"tb/dev1/$aws/things/dev1"} == {publish.topic[:24] for publish in world.published}
    assert all(topic.startswith("tb/dev1/$aws/") for topic in world.subscribed)


def test_what_is_in_between_subscribes_the_answers():
    client = AwsClient(options("lab", "auto-subscribe"))
    client.started(0)
    actions = client.connected(0)
    assert [
        "$aws/things/dev1/jobs/start-next/accepted",
        "$aws/things/dev1/jobs/start-next/rejected",
        "$aws/things/dev1/jobs/$next/get/accepted",
        "$aws/things/dev1/jobs/$next/get/rejected",
        "$aws/things/dev1/jobs/+/update/accepted",
        "$aws/things/dev1/jobs/+/update/rejected",
    ] == [action.topic_filter for action in actions if isinstance(action, Subscribe)]
    assert isinstance(actions[-1], Publish)


def test_the_lab_demo_expects_version_two_and_the_others_none():
    assert {"status": "SUCCEEDED", "expectedVersion": "2"} == cloud("lab").start().updates()[-1]
    assert {"status": "SUCCEEDED"} == cloud().start().updates()[-1]
    assert {"status": "SUCCEEDED", "expectedVersion": "2"} == cloud("version-2").start().updates()[-1]


def test_an_unknown_variant_and_a_name_too_long_are_refused():
    with pytest.raises(OptionError, match="no variant esp8266"):
        AwsClient(options("esp8266"))
    with pytest.raises(OptionError, match="up to 128"):
        AwsClient(options(name="x" * 129))


def test_the_flash_is_kept_in_its_directory(tmp_path):
    world = cloud(state=tmp_path).start()
    again = AwsClient(options(state=tmp_path))
    assert world.client.outcome.version == again.outcome.version == "1.1.0"
    assert world.client.outcome.sha256 == again.outcome.sha256


# --- signatures ----------------------------------------------------------------------------------------------------


@pytest.fixture
def signer(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "signer.pem").write_bytes(public)
    return lambda image: base64.b64encode(key.sign(image, ec.ECDSA(SHA256()))).decode()


@pytest.mark.parametrize("variants", [(), ("older-agent",)], ids="+".join)
def test_an_image_with_the_authors_signature_is_taken(variants, signer, tmp_path):
    signed = document(len(IMAGE), **{"sig-sha256-ecdsa": signer(IMAGE)})
    world = cloud(*variants, job_document=signed, state=tmp_path).start()
    assert "1.1.0" == world.client.outcome.version


def test_the_esp32_is_silent_about_a_bad_signature(signer, tmp_path):
    world = cloud(state=tmp_path).start()
    assert ("1.0.0", ("the signature does not hold",)) == (
        world.client.outcome.version,
        tuple(world.client.outcome.failures),
    )
    assert [] == world.updates()


def test_the_older_agent_fails_with_its_code_for_a_bad_signature(signer, tmp_path):
    world = cloud("older-agent", state=tmp_path).start()
    assert {"status": "FAILED", "statusDetails": {"reason": "0x000000e3: 0x00000000"}} == world.updates()[-1]
    assert "1.0.0" == world.client.outcome.version


def test_the_sdk_fails_a_bad_signature_in_words(signer, tmp_path):
    world = cloud("sdk", state=tmp_path).start()
    failed = world.updates()[-1]
    assert ("FAILED", {"reason": "the signature does not hold"}) == (failed["status"], failed["statusDetails"])
    assert "1.0.0" == world.client.outcome.version


# --- the older agent's restart -------------------------------------------------------------------------------------


def test_the_older_agent_reports_its_way_through_the_self_test():
    assert [
        {"status": "IN_PROGRESS", "statusDetails": {"receive": "1/5"}},
        {"status": "IN_PROGRESS", "statusDetails": {"self_test": "ready", "updatedBy": "0x01000000"}},
        {"status": "IN_PROGRESS", "statusDetails": {"self_test": "active", "updatedBy": "0x01010000"}},
        {"status": "SUCCEEDED", "statusDetails": {"reason": "accepted  v1.1.0", "updatedBy": "  v1.0.0"}},
    ] == cloud("older-agent").start().updates()


@pytest.mark.parametrize(
    ("head", "code"), [(b"version=1.0.0 ", "0x00000010"), (b"version=0.9.0 ", "0x0000000f")], ids=["same", "older"]
)
def test_an_image_that_is_not_newer_is_rejected_after_the_restart_and_rolled_back(head, code):
    world = cloud("older-agent", image=head + IMAGE).start()
    assert {"status": "FAILED", "statusDetails": {"reason": f"rejected: {code}"}} == world.updates()[-1]
    assert ("1.0.0", 2) == (world.client.outcome.version, world.client.outcome.restarts)


def test_details_that_are_not_given_back_make_it_roll_back_for_ever():
    world = cloud("older-agent")
    answers = world.answers

    def forgets(publish):
        found = answers(publish)
        world.details = None
        return found

    world.answers = forgets
    with pytest.raises(WentWrong, match="no self_test"):
        world.start()


def test_an_image_on_trial_is_rolled_back_when_nobody_answers():
    world = cloud("older-agent")
    answers = world.answers

    def deaf_after_the_download(publish):
        found = answers(publish)
        world.is_silent = world.is_silent or b"ready" in publish.payload
        return found

    world.answers = deaf_after_the_download
    world.start()
    world.tick()
    assert ("1.0.0", False) == (world.client.outcome.version, world.client.outcome.is_busy)


# --- notifications at the wrong time --------------------------------------------------------------------------------


def in_the_middle(*variants):
    world = cloud(*variants)
    world.lost_blocks = {3}
    return world.start()


def test_a_notification_in_the_middle_makes_the_older_agent_begin_again():
    world = in_the_middle("older-agent")
    asked_before = len(world.requests())
    world.deliver("jobs/notify-next", {"timestamp": 1, "execution": world.execution()})
    assert "1.1.0" == world.client.outcome.version
    assert 5 == len(world.requests()) - asked_before


def test_an_answer_that_is_late_each_time_makes_it_loop():
    world = in_the_middle("older-agent")
    with pytest.raises(WentWrong, match="for ever"):
        for _ in range(DROPS_MAX + 1):
            world.lost_blocks = {3}
            world.deliver("jobs/notify-next", {"timestamp": 1, "execution": world.execution()})


def test_a_notification_that_comes_with_the_answer_is_ignored():
    client = AwsClient(options("older-agent"))
    world = cloud("older-agent")
    client.started(0)
    client.connected(0)
    client.subscribed("$aws/things/dev1/jobs/notify-next", granted=True, now_s=0)
    body = json.dumps({"timestamp": 1, "clientToken": "x", "execution": world.execution()}).encode()
    answer = Incoming(topic="$aws/things/dev1/jobs/$next/get/accepted", payload=body)
    notice = Incoming(topic="$aws/things/dev1/jobs/notify-next", payload=body)
    assert 1 == len(client.received(answer, 0))
    assert [] == client.received(notice, 0)


def test_the_same_job_again_in_the_middle_takes_the_esp32_its_signature():
    world = in_the_middle()
    with pytest.raises(WentWrong, match="signature is forgotten"):
        world.deliver("jobs/notify-next", {"timestamp": 1, "execution": world.execution()})


def test_another_job_in_the_middle_makes_the_esp32_ask_for_ever():
    world = in_the_middle()
    with pytest.raises(WentWrong, match="for ever"):
        world.deliver(
            "jobs/notify-next", {"timestamp": 1, "execution": world.execution() | {"jobId": "AFR_OTA-probe2"}}
        )


def test_a_job_that_is_taken_back_in_the_middle_ends_without_a_word():
    world = in_the_middle()
    world.deliver("jobs/notify-next", {"timestamp": 1})
    world.tick()
    assert ("1.0.0", 1) == (world.client.outcome.version, len(world.client.outcome.failures))


@pytest.mark.parametrize("variants", [(), ("older-agent",)], ids="+".join)
def test_a_notification_begins_an_update_without_being_asked(variants):
    world = cloud(*variants)
    world.job["status"] = "SUCCEEDED"
    world.start()
    world.job |= {"status": "QUEUED", "jobId": "AFR_OTA-probe2"}
    world.deliver("jobs/notify-next", {"timestamp": 1, "execution": world.execution()})
    assert "1.1.0" == world.client.outcome.version


def test_the_older_agent_gives_up_after_its_last_request():
    world = in_the_middle("older-agent")
    world.is_silent = True
    for _ in range(MOMENTUM_MAX):
        world.tick()
    assert {"status": "FAILED", "statusDetails": {"reason": "aborted: 0x00000000"}} == world.updates()[-1]
    assert world.client.next_deadline() is None
    world.is_silent = False
    before = len(world.published)
    world.reconnect()
    assert before == len(world.published)


def test_a_wildcard_hears_other_things():
    world = cloud("older-agent", "wildcard").start()
    message = Incoming(topic="$aws/things/dev2/jobs/notify-next", payload=b"{}")
    with pytest.raises(WentWrong, match="another thing"):
        world.client.received(message, 0)


# --- what a server must not send ----------------------------------------------------------------------------------


def job_message(job_document, **changes):
    execution = {"jobId": JOB, "status": "QUEUED", "versionNumber": 1, "jobDocument": job_document} | changes
    return json.dumps({"timestamp": 1, "clientToken": "x", "execution": execution}).encode()


GOOD = json.dumps(document(20_000), separators=(",", ":"))
SPOILED = [
    ("a stream name of 45 bytes", job_message(document(9, stream="x" * 45)), "stream name of 45"),
    ("no file path", job_message(document(9, without=["filepath"])), "lacks filepath"),
    ("no certificate", job_message(document(9, without=["certfile"])), "lacks certfile"),
    ("no signature", job_message(document(9, without=["sig-sha256-ecdsa"])), "lacks sig-sha256-ecdsa"),
    ("a signature that is not base64", job_message(document(9, **{"sig-sha256-ecdsa": "?"})), "not base64"),
    ("HTTP before MQTT", job_message(document(9, protocols=["HTTP", "MQTT"])), "only the first"),
    ("a size with a fraction", job_message(document(10.0)), "no unsigned decimal"),
    ("a size of 33 bits", job_message(document(2**32)), "no unsigned decimal"),
    ("a document as text", job_message(GOOD), "not an object"),
    ("an escaped slash", job_message(document(9)).replace(b"/device", b"\\/device"), "holds an escape"),
    ("an escaped letter", job_message(document(9)).replace(b"AFR_OTA-0", b"\\u0041FR_OTA-0"), "holds an escape"),
    ("a zero byte behind it", job_message(document(9)) + b"\0", "no JSON"),
    ("a job id of 64 characters", job_message(document(9), jobId="x" * 64), "job id of 64"),
    ("a message of 5001 bytes", job_message(document(9), statusDetails={"x": "y" * 4600}), "for a buffer of 5000"),
]


@pytest.mark.parametrize(("payload", "why"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_a_job_message_that_the_libraries_cannot_use_is_told(payload, why):
    world = cloud()
    world.is_silent = True
    world.start()
    with pytest.raises(WentWrong, match=why):
        world.deliver("jobs/start-next/accepted", payload)


def test_numbers_in_quotes_are_numbers_to_the_libraries():
    assert 10 == read_for_jobs(core_json(json.dumps(document("10")).encode())).size_bytes


def test_a_document_of_another_kind_is_not_for_the_ota_code():
    with pytest.raises(NotForUs):
        read_for_jobs({"other": {}})
    with pytest.raises(NotForUs):
        read_for_agent({"other": {}})


@pytest.mark.parametrize(
    "job_document",
    [
        {"custom": 1},
        document(9, **{"sig-sha256-ecdsa": "?"}),
        document(9, **{"sig-sha256-ecdsa": base64.b64encode(bytes(385)).decode()}),
        document(0),
        document(9, protocols=["MQTT", "HTTP", "COAP"]),
    ],
    ids=["custom", "no base64", "385 bytes", "no bytes", "protocols of 22"],
)
def test_the_older_agent_fails_a_document_that_does_not_conform(job_document):
    world = cloud("older-agent", job_document=job_document).start()
    assert {"status": "FAILED", "statusDetails": {"reason": "0x0000000c: 0x00000004"}} == world.updates()[-1]


def test_the_older_agent_drops_a_file_beyond_its_bitmap_silently():
    with pytest.raises(WentWrong, match="too large"):
        cloud("older-agent", job_document=document(128 * 8 * BLOCK + 1)).start()


def test_the_buffer_of_the_older_agent_has_1530_bytes_beyond_a_block():
    world = cloud("older-agent", block_bytes=1024)
    world.details = {"x": "y" * 2200}
    with pytest.raises(WentWrong, match="buffer of 2554"):
        world.start()


def test_no_job_has_to_be_said_with_timestamp_and_token():
    world = cloud("older-agent")
    world.is_silent = True
    world.start()
    with pytest.raises(WentWrong, match="bad document"):
        world.deliver("jobs/$next/get/accepted", {"timestamp": 1})


BLOCK_0 = IMAGE[:BLOCK]
WRONG_BLOCKS = [
    ("json", json_block(0, BLOCK_0).replace(b'"l":4096', b'"l":4095'), "l says 4095"),
    ("json", json_block(0, BLOCK_0).replace(b'"l":4096', b'"l":4096.0'), "no number"),
    ("json", json_block(0, BLOCK_0).replace(b'"i":0', b'"i":12345678901'), "ten digits"),
    ("json", json_block(0, BLOCK_0).replace(b'"i":0', b'"i":-1'), "no number"),
    ("json", json_block(0, b"\xff" * 3).replace(b"////", b"\\/\\/\\/\\/"), "escape"),
    ("json", json_block(0, bytes(BLOCK + 1)), "payload of 4097"),
    ("json", json_block(0, bytes(BLOCK + 1200)), "copied over a buffer"),
    ("json", b'{"f":0,"i":0,"l":1}', "is not a string"),
    ("cbor", cbor_block(0, BLOCK_0)[:-1], "no CBOR"),
    ("cbor", cbor_block(0, bytes(BLOCK + 1)), "payload of 4097"),
    ("cbor", cbor_block(0, b"ab").replace(b"\x61p\x59\x00\x02", b"\x61p\x79\x00\x02"), "no byte string"),
    ("cbor", cbor_block(0, BLOCK_0).replace(b"\x61i\x00", b"\x61i\x20"), "no unsigned"),
    ("cbor", cbor_block(0, BLOCK_0).replace(b"\x61i\x00", b"\x61i\x610"), "no unsigned"),
    ("cbor", cbor_block(0, bytes(BLOCK + 1600)), "copied over a buffer of 5626"),
    ("cbor", b"\xa1\x61f\x00", "without i, l, p"),
    ("cbor", b"\x80", "is a map"),
]


@pytest.mark.parametrize(("encoding", "payload", "why"), WRONG_BLOCKS)
def test_a_block_that_the_libraries_cannot_use_is_told(encoding, payload, why):
    with pytest.raises(WentWrong, match=why):
        read_block(payload, encoding, BLOCK)


@pytest.mark.parametrize("variants", [("jobs-json",), ("lab",)], ids="+".join)
@pytest.mark.parametrize(
    ("index", "data", "why"), [(1, BLOCK_0, "came after"), (0, b"x", "is appended"), (5, BLOCK_0, "of 5")]
)
def test_blocks_are_appended_as_they_come(variants, index, data, why):
    world = cloud(*variants)
    world.lost_blocks = {0}
    world.start()
    with pytest.raises(WentWrong, match=why):
        world.deliver(f"streams/{STREAM}/data/json", json_block(index, data))


def test_a_block_that_comes_twice_is_asked_past_by_the_esp32_and_appended_by_the_lab_demo():
    world = in_the_middle()
    asked_before = len(world.requests())
    world.is_silent = True
    world.deliver(f"streams/{STREAM}/data/json", json_block(2, IMAGE[2 * BLOCK : 3 * BLOCK]))
    assert [b'{"s": 1,"f": 0,"l": 4096,"o": 3,"n": 1}'] == world.requests()[asked_before:]
    world = in_the_middle("lab")
    with pytest.raises(WentWrong, match="appended again"):
        world.deliver(f"streams/{STREAM}/data/json", json_block(2, IMAGE[2 * BLOCK : 3 * BLOCK]))


@pytest.mark.parametrize(
    ("index", "data"), [(3, b"x"), (5, BLOCK_0), (4, BLOCK_0)], ids=["short", "past the end", "long"]
)
def test_a_block_of_the_wrong_size_ends_the_older_agents_update(index, data):
    world = in_the_middle("older-agent")
    with pytest.raises(WentWrong, match="the update fails"):
        world.deliver(f"streams/{STREAM}/data/cbor", cbor_block(index, data))


def test_the_older_agent_ignores_a_block_that_it_has():
    world = in_the_middle("older-agent")
    before = len(world.published)
    world.deliver(f"streams/{STREAM}/data/cbor", cbor_block(2, IMAGE[2 * BLOCK : 3 * BLOCK]))
    assert before == len(world.published)


def test_a_junk_bitmap_that_is_taken_at_its_word_costs_requests():
    world = cloud("jobs-cbor", "several", image=Random(3).randbytes(BLOCK * 16))
    asked = len(world.start().requests())
    assert 4 == asked


def test_the_sdk_counts_versions_and_looks_for_the_next_job_when_its_own_is_taken_away():
    world = cloud("sdk").start()
    assert [2, 3, 4] == [update["expectedVersion"] for update in world.updates()]
    world = cloud("sdk")
    world.lost_blocks = {3}
    world.start()
    world.job["versionNumber"] = 9
    world.tick()
    assert ["jobs/AFR_OTA-probe1/update/rejected: VersionMismatch"] == list(world.client.outcome.failures)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda world: setattr(world, "state", lambda: {"status": "IN_PROGRESS", "versionNumber": 2}),
            "the execution is",
        ),
        (
            lambda world: setattr(
                world, "state", lambda: {"status": "IN_PROGRESS", "versionNumber": 3, "statusDetails": {}}
            ),
            "came back",
        ),
    ],
    ids=["a version that does not count", "details that are lost"],
)
def test_the_sdk_holds_a_server_to_what_it_answers(change, why):
    world = cloud("sdk")
    change(world)
    with pytest.raises(WentWrong, match=why):
        world.start()


def test_the_version_is_compiled_into_the_image_or_one_step_up():
    assert "2.3.4" == version_of(b"head version=2.3.4\0", "1.0.0")
    assert "1.1.0" == version_of(b"x", "1.0.0")
    assert 0x01020003 == word("1.2.3")
