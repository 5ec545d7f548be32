"""The simulated Alibaba devices against what the vendor's client put on the wire, and where the real ones give up."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from scripted import Scripted

from device_sim.clients.alibaba import alibaba_client
from device_sim.clients.alibaba_field import FOREVER_S, POLL_S
from device_sim.clients.alibaba_scan import find_value, read_uint
from device_sim.clients.alibaba_words import crc16
from device_sim.clients.model import ClientOptions, Publish, Restart, Subscribe, Unsubscribe, WentWrong
from device_sim.errors import OptionError

CAPTURE = json.loads((Path(__file__).parents[2] / "vectors/alibaba/linksdk.json").read_text())
IMAGE = Random(6).randbytes(30_001)
UPGRADE, GET_REPLY = "/ota/device/upgrade/pk/dn", "/sys/pk/dn/thing/ota/firmware/get_reply"
DOWNLOAD, REPLY = "/sys/pk/dn/thing/file/download", "/sys/pk/dn/thing/file/download_reply"
INFORM, PROGRESS = "/ota/device/inform/pk/dn", "/ota/device/progress/pk/dn"


# --- a cloud ---


def task(image=IMAGE, *, version="2.0.0", method="Md5", sign=None, module="", compact=True, **data):
    md5 = hashlib.md5(image).hexdigest()
    body = {"size": len(image), "streamId": 1397345} | ({"module": module} if module else {})
    body |= {"sign": sign or md5, "dProtocol": "mqtt", "version": version, "signMethod": method, "streamFileId": 1}
    body |= {"md5": md5} | data
    body = {key: value for key, value in body.items() if value is not None}
    whole = {"code": "1000", "data": body, "id": 1795323450848, "message": "success"}
    return json.dumps(whole, separators=(",", ":") if compact else None).encode()


def asked(payload):
    return json.loads(re.sub(rb",([}\]])", rb"\1", payload))


def frame(question, image=IMAGE, *, token=True, code=200, crc_xor=0, offset=None):
    block = question["params"]["fileBlock"]
    at = block["offset"]
    data = image[at : at + block["size"]]
    about = {"bOffset": at if offset is None else offset, "fileLength": len(image), "bSize": len(data)}
    if token and "fileToken" in question["params"]:
        about["fileToken"] = question["params"]["fileToken"]
    answer = {"code": code, "data": about, "id": question["id"], "message": "success"}
    head = json.dumps(answer, separators=(",", ":")).encode()
    return len(head).to_bytes(2, "big") + head + data + (crc16(data) ^ crc_xor).to_bytes(2, "little")


class Cloud:
    """Answers block requests; `spoils` changes how, by the number of the request from 1 (None: silence)."""

    def __init__(self, image=IMAGE, spoils=lambda _number: {}):
        self.image, self.spoils, self.requests = image, spoils, []

    def __call__(self, message):
        if not message.topic.endswith("/thing/file/download"):
            return
        self.requests.append(asked(message.payload))
        how = self.spoils(len(self.requests))
        if how is not None:
            reply = message.topic + "_reply"
            yield Publish(topic=reply, payload=frame(self.requests[-1], self.image, **how))


def scripted(*variants, **options):
    options = {"product": "pk", "name": "dn", "block_bytes": 10240, "secret": "s", **options}
    return Scripted(alibaba_client(ClientOptions(variants=frozenset(variants), **options)))


def steps(script):
    return [asked(message.payload)["params"]["step"] for message in script.sent if message.topic == PROGRESS]


def informed(script):
    return [asked(message.payload)["params"]["version"] for message in script.sent if message.topic == INFORM]


def updated(script, payload=None, cloud=None):
    """On, given a task, served until it asks no more."""
    script.power_on()
    script.deliver(UPGRADE, payload or task())
    script.serve(cloud or Cloud())
    return script


# --- as recorded ---


def test_the_sdk_says_byte_for_byte_what_the_real_one_said():
    said = [message for message in CAPTURE["messages"] if message["does"] == "says"]
    script = scripted("subscribed", product=CAPTURE["product"], name=CAPTURE["device"])
    image = Random(1).randbytes(300_001)
    script.power_on()
    [push] = [message for message in CAPTURE["messages"] if message["topic"].startswith("/ota/device/upgrade")]
    text = re.sub(r'"sign":"\w+"', f'"sign":"{hashlib.md5(image).hexdigest()}"', push["text"])
    script.deliver(push["topic"], text.encode(), qos=1)
    script.serve(Cloud(image))
    script.pass_s(5)
    assert [(one["topic"], one["qos"], one["text"]) for one in said] == [
        (one.topic, one.qos, one.payload.decode()) for one in script.sent[: len(said)]
    ]
    assert ["2.0.0"] == [asked(one.payload)["params"]["version"] for one in script.sent[len(said) :]]
    assert hashlib.sha256(image).hexdigest() == script.client.outcome.sha256


def test_the_sdk_connects_as_the_real_one():
    session = scripted(product="a1PkTest", name="dev01").client.session()
    recorded = CAPTURE["session"]
    assert (recorded["client_id"], recorded["username"], recorded["keepalive"], recorded["clean"]) == (
        session.client_id, session.username, session.keepalive_s, session.is_clean,
    )  # fmt: skip
    assert re.fullmatch("[0-9A-F]{64}", session.password)


def test_subscribe_and_first_request_go_out_back_to_back_and_the_end_unsubscribes():
    script = updated(scripted("subscribed"))
    script.pass_s(5)
    kinds = [type(action) for action in script.done]
    began = script.done.index(Subscribe(topic_filter=REPLY, qos=0))
    assert DOWNLOAD == script.done[began + 1].topic
    assert [Publish, Unsubscribe, Restart] == kinds[kinds.index(Restart) - 2 : kinds.index(Restart) + 1]


# --- the SDK ---


def test_on_a_plain_broker_the_sdk_never_hears_the_task():
    script = updated(scripted())
    assert ([UPGRADE], [INFORM]) == ([lost.topic for lost in script.lost], script.topics())


def test_the_sdk_informs_once_and_not_again_after_a_reconnect():
    script = scripted("subscribed")
    script.power_on()
    script.break_link()
    assert 3 == len([action for action in script.connect() if isinstance(action, Subscribe)])
    assert ["1.0.0"] == informed(script)


def test_the_sdk_asks_for_a_task_where_the_application_does():
    script = scripted("subscribed", "queries", "module=mcu")
    script.power_on()
    assert [
        (INFORM, b'{"id":1, "params":{"version":"1.0.0","module":"mcu"}}'),
        ("/sys/pk/dn/thing/ota/firmware/get", b'{"id":2, "params":{"module":"mcu"}}'),
    ] == [(one.topic, one.payload) for one in script.sent]
    script.deliver(GET_REPLY, task(module="mcu").replace(b'"code":"1000"', b'"code":200'))
    script.serve(Cloud())
    script.pass_s(5)
    assert "2.0.0" == script.client.outcome.version
    told = [one.payload for one in script.sent if one.topic == PROGRESS]
    assert b'"params":{"step":"100","desc":"","module":"mcu"}}' in told[-1]


def test_an_answer_without_a_task_is_let_pass():
    script = scripted("subscribed", "queries")
    script.power_on()
    script.deliver(GET_REPLY, b'{"id":"2","code":200,"data":{}}')
    assert (0, False) == (script.client.tasks, script.client.outcome.is_busy)


@pytest.mark.parametrize(
    "payload",
    [
        task(method="MD5"),
        task(method="md5"),
        task(compact=False),
        task(sign="58860fbb"),
        task(method="Sha256"),  # 32 digits of sign
        task(version=None),
        task(streamId=None),
        task(streamFileId=None),
        task(dProtocol=None),
        task(dProtocol="https"),
        task(size=0),
        b'{"data":{}}',
        b"[]",
        b"",
    ],
)
def test_a_task_that_the_sdk_does_not_like_is_let_pass_without_a_word(payload):
    script = scripted("subscribed")
    script.power_on()
    assert [] == script.deliver(UPGRADE, payload)
    assert not script.client.outcome.is_busy


def test_upper_case_digits_of_a_sign_are_the_same():
    script = updated(scripted("subscribed"), task(sign=hashlib.md5(IMAGE).hexdigest().upper()))
    script.pass_s(5)
    assert "2.0.0" == script.client.outcome.version


def test_a_wrong_sha256_is_not_seen_because_nothing_checks_it():
    script = updated(scripted("subscribed"), task(method="SHA256", sign="0" * 64))
    script.pass_s(5)
    assert ("2.0.0", ()) == (script.client.outcome.version, script.client.outcome.failures)


def test_a_wrong_md5_is_told_after_the_receive_call_and_the_demo_quits():
    script = updated(scripted("subscribed"), task(sign="0" * 32))
    script.pass_s(4.9)
    assert "-3" not in steps(script)
    script.pass_s(0.2)
    assert ("-3", "1.0.0", ("-3",)) == (
        steps(script)[-1], script.client.outcome.version, script.client.outcome.failures,
    )  # fmt: skip
    assert ["1.0.0", "1.0.0"] == informed(script)


def test_a_lost_reply_is_asked_for_again_after_ten_seconds_three_times_and_then_given_up():
    cloud = Cloud(spoils=lambda number: None if number > 1 else {})
    script = updated(scripted("subscribed"), cloud=cloud)
    script.pass_s(9.9)
    assert 2 == len(cloud.requests)
    for _ in range(3):
        script.pass_s(10)
        script.serve(cloud)
    assert [10240] * 4 == [one["params"]["fileBlock"]["offset"] for one in cloud.requests[1:]]
    script.pass_s(10)
    assert "-4" == steps(script)[-1]
    assert ("-4",) == script.client.outcome.failures


@pytest.mark.parametrize("how", [{"token": False}, {"crc_xor": 1}, {"code": 404}])
def test_a_bad_reply_is_asked_for_again_at_once_and_four_in_a_row_are_the_end(how):
    cloud = Cloud(spoils=lambda _number: how)
    script = updated(scripted("subscribed"), cloud=cloud)
    assert (4, ["-4"], ["1", "2", "3", "4"]) == (
        len(cloud.requests), steps(script), [one["id"] for one in cloud.requests],
    )  # fmt: skip
    assert 100.1 == script.now_s  # the 0.1 s are those of the restart


def test_a_good_block_forgets_the_bad_ones_before():
    cloud = Cloud(spoils=lambda number: {"crc_xor": 1} if number % 4 else {})
    script = updated(scripted("subscribed"), cloud=cloud)
    script.pass_s(5)
    assert ("2.0.0", 12) == (script.client.outcome.version, len(cloud.requests))


def test_a_repeated_or_foreign_offset_is_let_pass():
    script = scripted("subscribed")
    script.power_on()
    script.deliver(UPGRADE, task())
    question = asked(script.sent[-1].payload)
    assert [] == script.deliver(REPLY, frame(question, offset=5))
    assert 2 == len(script.deliver(REPLY, frame(question)))  # the next request and a percent
    assert [] == script.deliver(REPLY, frame(question))


def test_a_task_in_the_middle_begins_anew_and_that_is_counted():
    script = scripted("subscribed")
    script.power_on()
    script.deliver(UPGRADE, task())
    script.deliver(REPLY, frame(asked(script.sent[-1].payload)))
    done = script.deliver(UPGRADE, task())
    assert 0 == asked(done[-1].payload)["params"]["fileBlock"]["offset"]
    assert (2, 1) == (script.client.tasks, script.client.tasks_while_busy)


def test_after_a_reconnect_the_sdk_goes_on_where_it_was_if_its_subscription_is_added():
    cloud = Cloud(spoils=lambda number: None if number == 2 else {})
    script = updated(scripted("subscribed"), cloud=cloud)
    script.break_link()
    script.connect()
    script.pass_s(10)
    script.serve(cloud)
    script.pass_s(5)
    assert [0, 10240, 10240, 20480] == [one["params"]["fileBlock"]["offset"] for one in cloud.requests]
    assert "2.0.0" == script.client.outcome.version


def test_after_a_reconnect_without_that_subscription_it_gives_up_after_its_three_tries():
    cloud = Cloud(spoils=lambda number: None if number == 2 else {})
    script = scripted()
    script.power_on()
    script.subscriptions[UPGRADE] = 1  # only this one was added
    script.deliver(UPGRADE, task())
    script.serve(cloud)
    script.break_link()
    script.connect()
    for _ in range(4):
        script.pass_s(10)
        script.serve(cloud)
    assert ["-4"] == [step for step in steps(script) if step.startswith("-")]


def test_a_device_that_does_not_come_up_informs_of_the_version_before():
    script = updated(scripted("subscribed", "reverts", "brisk"))
    script.pass_s(0.2)
    assert (["1.0.0", "1.0.0"], 1) == (informed(script), script.client.outcome.installs)


def test_bad_flash_ends_in_a_wrong_checksum():
    script = updated(scripted("subscribed", "bad-flash", "brisk"))
    script.pass_s(0.2)
    assert ("-3",) == script.client.outcome.failures


def test_what_it_runs_survives_the_process(tmp_path):
    script = updated(scripted("subscribed", "brisk", state=tmp_path))
    script.pass_s(0.2)
    again = scripted("subscribed", state=tmp_path).client.outcome
    assert ("2.0.0", hashlib.sha256(IMAGE).hexdigest(), 1) == (again.version, again.sha256, again.installs)


def test_percent_runs_over_above_42_megabytes():
    script = scripted("subscribed", block_bytes=20_000_000)
    script.power_on()
    script.deliver(UPGRADE, task(size=100_000_000))
    download = script.client._download
    download.image += b"\0" * 50_000_000
    assert (50_000_000 * 100 - 2**32) // 100_000_000 == download.percent


# --- where the SDK would crash or run wild ---


def test_a_task_for_what_it_runs_is_a_loop_without_end():
    script = scripted("subscribed")
    script.power_on()
    with pytest.raises(WentWrong, match="which it runs"):
        script.deliver(UPGRADE, task(version="1.0.0"))


@pytest.mark.parametrize(
    ("payload", "why"),
    [(b"\xff\xff{}", "past the end"), (b"\x00", "past the end"), (b"\0" * (1024 * 1024 + 2), "1 MiB")],
)
def test_a_reply_that_it_reads_past_the_end_of_is_loud(payload, why):
    script = scripted("subscribed")
    script.power_on()
    script.deliver(UPGRADE, task())
    with pytest.raises(WentWrong, match=why):
        script.deliver(REPLY, payload if len(payload) != 1 else b"\x00\x09")


def test_a_long_token_runs_over_its_buffer():
    script = scripted("subscribed")
    script.power_on()
    script.deliver(UPGRADE, task())
    question = asked(script.sent[-1].payload)
    question["params"]["fileToken"] = "t" * 128
    with pytest.raises(WentWrong, match="token of 128 bytes"):
        script.deliver(REPLY, frame(question))


# --- the hand-written clients ---


def field(*variants, **options):
    return scripted(*(variants or ("field",)), block_bytes=256, **options)


def test_a_field_client_is_updated_by_a_task_in_the_order_of_the_cloud():
    script = updated(field())
    assert ("2.0.0", hashlib.sha256(IMAGE).hexdigest(), False) == (
        script.client.outcome.version, script.client.outcome.sha256, script.client.outcome.is_busy,
    )  # fmt: skip
    assert (["1.0.0", "2.0.0"], []) == (informed(script), steps(script))


def test_a_field_client_has_no_token_and_white_space():
    script = field()
    script.power_on()
    script.deliver(UPGRADE, task())
    assert (
        b'{ "id": "2331","version": "1.0","params": {"fileInfo":{"streamId":1397345,"fileId":1},'
        b'"fileBlock":{"size":256,"offset":0 }}}' == script.sent[-1].payload
    )


@pytest.mark.parametrize(
    "payload",
    [
        task(module="mcu"),
        task(extData={}),
        task(compact=False),
        task(streamFileId=2),
        json.dumps(json.loads(task()), sort_keys=True, separators=(",", ":")).encode(),
    ],
)
def test_a_field_client_reads_no_other_order_and_no_other_keys(payload):
    script = field()
    script.power_on()
    assert [] == script.deliver(UPGRADE, payload)


@pytest.mark.parametrize("how", [{"qos": 1}, {"retain": True}])
def test_a_field_client_takes_only_packets_without_flags(how):
    script = field()
    script.power_on()
    assert [] == script.deliver(UPGRADE, task(), **how)


def test_a_field_client_counts_a_repeated_block_as_the_next_and_would_boot_that():
    script = field()
    script.power_on()
    script.deliver(UPGRADE, task(IMAGE[:512]))
    question = asked(script.sent[-1].payload)
    script.deliver(REPLY, frame(question, IMAGE[:512]))
    with pytest.raises(WentWrong, match="not that image"):
        script.deliver(REPLY, frame(question, IMAGE[:512]))


def test_a_field_client_waits_for_a_lost_block_for_ever_unless_a_task_comes_again():
    script = field()
    script.power_on()
    script.deliver(UPGRADE, task())
    script.pass_s(FOREVER_S - 1)
    script.deliver(UPGRADE, task())
    script.pass_s(FOREVER_S - 1)
    assert 1 == script.client.tasks_while_busy
    with pytest.raises(WentWrong, match="waits for ever"):
        script.pass_s(2)


def test_a_field_client_has_a_small_buffer():
    script = field()
    script.power_on()
    with pytest.raises(WentWrong, match="packet of 6.. bytes"):
        script.deliver(UPGRADE, task(extData={"note": "x" * 300}))


@pytest.mark.parametrize("key", ["streamId", "size"])
def test_a_field_client_has_signed_numbers(key):
    script = field()
    script.power_on()
    with pytest.raises(WentWrong, match=f"{key} 2147483648"):
        script.deliver(UPGRADE, task(**{key: 2**31}))


def test_a_field_client_restarts_where_a_subscription_is_refused():
    script = field()
    script.client.connected(0.0)
    [restart] = script.client.subscribed(UPGRADE, granted=False, now_s=0.0)
    assert isinstance(restart, Restart)


def test_a_client_that_polls_asks_each_minute_and_again_for_a_bad_or_lost_block():
    script, cloud = field("polls"), Cloud(spoils=lambda number: (None, {"crc_xor": 9}, {})[min(number, 3) - 1])
    script.power_on()
    script.deliver(UPGRADE, task())
    assert 0 == script.client.tasks
    script.pass_s(2 * POLL_S)
    assert 3 == script.topics().count("/sys/pk/dn/thing/ota/firmware/get")
    script.deliver(GET_REPLY, task())
    for _ in range(3):
        script.serve(cloud)
        script.pass_s(16)
    assert ("2.0.0", [0, 0, 0, 256]) == (
        script.client.outcome.version,
        [one["params"]["fileBlock"]["offset"] for one in cloud.requests[:4]],
    )


def test_a_field_client_does_not_compare_versions_but_one_that_polls_does():
    script = field()
    script.power_on()
    with pytest.raises(WentWrong, match="which it runs"):
        script.deliver(UPGRADE, task(version="1.0.0"))
    script = field("polls")
    script.power_on()
    assert [] == script.deliver(GET_REPLY, task(version="1.0.0"))


def test_a_field_client_that_does_not_come_up_informs_of_the_version_before():
    assert ["1.0.0", "1.0.0"] == informed(updated(field("field", "reverts")))


# --- parts ---


def test_topics_stand_behind_a_prefix():
    script = scripted("subscribed", prefix="ali/dn")
    script.power_on()
    assert "ali/dn" + INFORM == script.sent[0].topic
    assert "ali/dn" + UPGRADE in script.subscriptions


@pytest.mark.parametrize("variants", [{"fast"}, {"field", "brisk"}, {"field", "module=x"}])
def test_a_variant_that_there_is_not_is_refused(variants):
    with pytest.raises(OptionError, match="alibaba has no variant"):
        alibaba_client(ClientOptions(product="p", name="n", variants=frozenset(variants)))


def test_the_crc_is_crc_16_arc():
    assert (0xBB3D, 0) == (crc16(b"123456789"), crc16(b""))


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (b'{"a":1}', "a", b"1"),
        (b'{"a":"x","b":2}', "b", b"2"),
        (b'{"a":{"b":[1,2]},"b":3}', "b", b"[1,2]"),  # the first at any depth
        (b'{"a":{"b":{}}}', "a", b'{"b":{}}'),
        (b'{"a":"x\\"y"}', "a", b"x\\"),  # no escapes
        (b'{"a": 1}', "a", b" 1"),
        (b'{"a": "x"}', "a", b' "x"'),  # so that no name is ever equal
        (b'{"a" :1}', "a", None),
        (b'{"v":"a","a":1}', "a", None),  # the text "a" is taken for the key
        (b'{"a":1', "a", None),
        (b'{"a":"1', "a", None),
        (b'{"a":[1', "a", None),
        (b'"a":', "a", None),
        (b"", "a", None),
    ],
)
def test_the_scanner_finds_what_the_sdks_finds(text, key, expected):
    assert expected == find_value(text, key)


@pytest.mark.parametrize(
    ("digits", "expected"), [(b"12", 12), (b"", 0), (b"4294967297", 1), (b" 1", None), (b"-1", None), (None, None)]
)
def test_numbers_are_unsigned_and_wrap(digits, expected):
    assert expected == read_uint(digits)


def test_the_block_size_is_what_it_was_told():
    script = scripted("subscribed")
    script.client._options = replace(script.client._options, block_bytes=5120)
    cloud = Cloud()
    updated(script, cloud=cloud)
    assert [5120] * 5 + [4401] == [one["params"]["fileBlock"]["size"] for one in cloud.requests]
