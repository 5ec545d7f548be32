"""Tencent's dialect over whole lives, with a device that behaves as the vendor's own does."""

import hashlib
import json

import pytest
from tencent_line import DOWN, NAME, PRODUCT, vector
from tencent_world import NEW, OLD, Meeting, updating

from ota_bridge.core.conversation import Update
from ota_bridge.core.delivery import Pacing
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import ConfigError, Malformed
from ota_bridge.core.messages import Rejected, Said
from ota_bridge.core.rollout.policy import Retries
from ota_bridge.core.values import DeviceId, Sha256
from ota_bridge.dialects.tencent import TencentDialect
from ota_bridge.wire import MqttMessage

MISSING = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
BIG = bytes(index % 251 for index in range(300_000))


# --- the way of an update --------------------------------------------------------------------------------------------


def test_an_update_is_confirmed_by_what_the_device_runs_then():
    met = updating().run()
    assert ["CONFIRMED"] == met.states()
    assert (NEW, hashlib.sha256(met.image).hexdigest()) == (met.client.outcome.version, met.client.outcome.sha256)
    assert f"it runs the assigned firmware {PRODUCT}/{NEW}" in met.why()
    assert 1 == len(met.notices())


@pytest.mark.parametrize("variants", [("hub",), ("explorer",)])
def test_a_notice_has_exactly_its_five_keys_and_no_escapes(variants):
    met = updating(*variants)
    [notice] = [message for _, message in met.said_to if b"update_firmware" in message.payload]
    assert DOWN == notice.topic
    md5, sha256 = hashlib.md5(met.image).hexdigest(), hashlib.sha256(met.image).hexdigest()
    text = f'"file_size":20000,"md5sum":"{md5}","type":"update_firmware","url":"http://ota.test/{sha256}"'
    assert f'{{{text},"version":"2.0.0"}}'.encode() == notice.payload


def test_a_version_report_is_answered_with_code_0_in_the_vendors_own_words():
    met = Meeting().run(for_s=1)
    assert [b'{"result_code":0,"result_msg":"success","type":"report_version_rsp","version":"1.0.0"}'] == [
        message.payload for _, message in met.said_to
    ]


def test_the_answer_can_be_left_out():
    met = Meeting(options={"version_rsp": False})
    met.release()
    met.rollout()
    met.run()
    assert ["CONFIRMED"] == met.states()
    assert {b"update_firmware"} == {message.payload.split(b'"')[9] for _, message in met.said_to}


def test_done_is_a_claim_and_moves_the_update_no_further_than_installing():
    met = updating()
    met.run(until=lambda: "done" in met.line.words())
    assert State.INSTALLING is met.deployments()[0].state
    assert met.deployments()[0].claimed_wall is not None


def test_a_device_that_runs_the_old_version_after_done_gets_it_twice_and_no_more():
    met = updating("stock").run(for_s=86_400)
    assert ["ROLLED_BACK", "ROLLED_BACK"] == met.states()
    assert 2 == met.client.outcome.installs


def test_percent_is_kept_as_told():
    met = updating(image=BIG)
    met.run(until=lambda: "34" in met.line.words())
    assert 34 == met.deployments()[0].percent


def test_percent_is_not_believed_where_it_wraps():
    met = updating(image=bytes(50_000_000))
    met.run(for_s=30)
    assert (State.DOWNLOADING, None) == (met.deployments()[0].state, met.deployments()[0].percent)
    met.run(for_s=1200)
    assert ["CONFIRMED"] == met.states()


def test_a_falling_percent_is_not_believed():
    met = updating(image=BIG)
    met.run(until=lambda: "51" in met.line.words())
    report = met.line.texts()[-1].replace('"51"', '"7"')
    met.deliver(
        met.core.receive(met.switch.decode(MqttMessage(topic=f"$ota/report/{PRODUCT}/{NAME}", payload=report.encode())))
    )
    assert 51 == met.deployments()[0].percent


# --- notices that are lost -------------------------------------------------------------------------------------------


def test_a_notice_that_nothing_follows_goes_out_again_and_less_and_less_often():
    met = Meeting()
    met.release()
    met.run(for_s=1)
    met.loses = lambda message: b"update_firmware" in message.payload
    met.rollout()
    met.run(for_s=3 * 3600)
    steps = [round(after - before) for before, after in zip(met.notices(), met.notices()[1:], strict=False)]
    assert [15, 30, 15, 120] == steps[:4], "the third is the core's own, a minute after the first"
    assert steps[4:] == sorted(steps[4:])
    assert 3600 == steps[-1]
    met.loses = lambda message: False
    assert "CONFIRMED" == met.run(for_s=3600).states()[0]


def test_a_device_that_comes_back_without_a_report_is_told_again():
    met = Meeting()
    met.release()
    met.run(for_s=1)
    met.cut()
    met.rollout()
    met.connect()
    assert ["CONFIRMED"] == met.run(for_s=30).states()


def test_a_device_that_downloads_is_told_nothing():
    met = updating(image=BIG).run()
    assert 1 == len(met.notices())


def test_a_paused_rollout_sends_nothing_and_a_resumed_one_does():
    met = Meeting()
    met.release()
    met.run(for_s=1)
    met.loses = lambda message: b"update_firmware" in message.payload
    rollout = met.rollout()
    met.do("rollout.pause", rollout=rollout)
    met.run(for_s=7200)
    assert 1 == len(met.notices())
    met.loses = lambda message: False
    met.do("rollout.resume", rollout=rollout)
    assert ["CONFIRMED"] == met.run().states()


def test_no_notice_goes_out_again_while_its_window_is_closed():
    met = Meeting()
    met.release()
    met.run(for_s=1)
    met.loses = lambda message: b"update_firmware" in message.payload
    hour = int(met.core.wall // 3600 % 24)
    window = {"cron": f"0 {hour} * * *", "length_s": 3600}
    met.core.do("rollout.start", release=f"{PRODUCT}/{NEW}", plan={"windows": [window]})
    met.deliver(met.core.last)
    left_s = 3600 - met.core.wall % 3600
    met.run(for_s=left_s)
    told = len(met.notices())
    assert told > 1
    met.loses = lambda message: False
    met.run(for_s=80_000 - left_s)
    assert (told, ["OFFERED"]) == (len(met.notices()), met.states())
    assert ["CONFIRMED"] == met.run(for_s=7200).states()


# --- a link or a process that ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cut", "kill"])
def test_a_download_that_was_cut_off_is_resumed_at_once(end):
    met = updating(image=BIG)
    met.run(until=lambda: "34" in met.line.words())
    if end == "cut":
        met.cut()
        met.connect()
    else:
        met.line.kill()
    began_s = met.line.now_s
    met.run(until=lambda: len(met.server.requests) == 2)
    assert met.line.now_s - began_s < 2
    met.run()
    assert ["CONFIRMED"] == met.states()
    assert b"bytes=104979-300000" in met.server.requests[1]


def test_what_is_kept_survives_the_bridge():
    met = updating(image=BIG)
    met.run(until=lambda: "34" in met.line.words())
    met.core.bridge = met.core.bridge.__class__(
        met.core.bridge.rules,
        verify=met.core._verify,
        ticket=met.core._ticket,
        dialects={"tencent": TencentDialect({})},
    )
    assert ["CONFIRMED"] == met.run().states()


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_wrong_md5_is_tried_as_often_as_is_set_and_then_the_device_is_left_in_peace():
    met = Meeting()
    met.release(md5="0" * 32)
    met.run(for_s=1)
    met.rollout()
    met.run(for_s=86_400)
    assert ["FAILED"] * 3 == met.states()
    assert ["-4"] * 3 == [one.result_code for one in met.deployments()] == list(met.client.outcome.failures)
    assert {"said fail: -4 the MD5 is another"} == {one.cause for one in met.deployments()}
    sent = len(met.notices())
    met.line.kill()
    met.run(for_s=86_400)
    assert sent == len(met.notices())
    assert "-4" in met.why()


@pytest.mark.parametrize(
    ("status", "code", "why"), [("404 Not Found", "-2", "(404)"), ("403 Forbidden", "-3", "(403)")]
)
@pytest.mark.parametrize("backoff_s", [0, 60])
@pytest.mark.parametrize("min_offer_interval_s", [0, 30])
def test_the_first_of_two_failures_is_the_reason_and_the_second_costs_no_attempt(
    status, code, why, backoff_s, min_offer_interval_s
):
    retries, pacing = Retries(max_attempts=3, backoff_s=backoff_s), Pacing(min_offer_interval_s=min_offer_interval_s)
    met = Meeting(rules={"retries": retries, "pacing": pacing})
    met.server.head = MISSING.replace("404 Not Found", status)
    met.release()
    met.run(for_s=1)
    met.rollout()
    met.run(for_s=86_400)
    assert ["FAILED"] * 3 == met.states()
    assert [code] * 3 == [one.result_code for one in met.deployments()]
    assert why in met.deployments()[0].cause
    assert [code, "-5"] * 3 == list(met.client.outcome.failures)


def test_another_attempt_succeeds_once_the_server_has_the_file():
    met = updating()
    met.server.head = MISSING
    met.run(for_s=30)
    met.server.head = ""
    met.run(for_s=300)
    assert ["FAILED", "CONFIRMED"] == met.states()


# --- what cannot be told ---------------------------------------------------------------------------------------------


def an_update(**changes):
    plain = {
        "id": "0123456789ab", "release": "p/1", "component": "firmware", "version": "1", "attempt": 1,
        "state": State.QUEUED, "cause": "", "size_bytes": 10_000, "sha256": Sha256(b"s" * 32), "md5": "0" * 32,
        "file_name": "", "metadata": {}, "url": "http://h/f", "offers": 1, "created_wall": 0.0, "changed_wall": 0.0,
        "last_block_wall": None, "high_water_bytes": 0,
    }  # fmt: skip
    return Update(**(plain | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"url": ""}, "neither files.url nor offers.public_url is set"),
        ({"size_bytes": 0}, "crashes the device or hangs it"),
        ({"size_bytes": 1 << 32}, "crashes the device or hangs it"),
        ({"url": 'http://h/"'}, "undoes no escapes"),
        ({"url": "http://h/a b"}, "undoes no escapes"),
        ({"url": "http://h/\\"}, "undoes no escapes"),
        ({"url": "http://" + "h" * 64 + "/f"}, "the host of its URL has 64 characters"),
        ({"url": "http://h/" + "p" * 866}, "1 more than the device can ask for"),
        ({"component": "voice"}, "not among dialects.tencent.resources"),
    ],
)
def test_what_would_crash_or_hang_a_device_is_no_notice(changes, why):
    assert why in TencentDialect({}).hindrance(an_update(**changes))


@pytest.mark.parametrize("url", ["http://h/f", "http://h/" + "p" * 865, "https://h:8443/f?a=b&c=é"])
def test_what_it_can_be_told(url):
    assert "" == TencentDialect({"resources": ["voice"]}).hindrance(an_update(url=url))
    assert "" == TencentDialect({"resources": ["voice"]}).hindrance(an_update(url=url, component="voice"))


def test_the_longest_url_is_as_long_as_the_client_can_ask_for():
    met = Meeting(image=b"x" * 10_000, rules={"public_url": "http://h/" + "p" * 801 + "{sha256}"})
    met.release()
    met.run(for_s=1)
    met.rollout()
    met.run()
    assert ["CONFIRMED"] == met.states()
    assert b"Range" in met.server.requests[0]


def test_without_a_url_why_says_so():
    met = Meeting(rules={"public_url": ""})
    met.release()
    met.run(for_s=1)
    met.rollout()
    assert "neither files.url nor offers.public_url is set" in met.why()


# --- canceling -------------------------------------------------------------------------------------------------------


def test_what_has_not_begun_is_canceled_at_once():
    met = Meeting()
    met.release()
    met.run(for_s=1)
    met.loses = lambda message: b"update_firmware" in message.payload
    rollout = met.rollout()
    met.do("rollout.cancel", rollout=rollout)
    assert ["CANCELED"] == met.states()


def test_what_has_begun_is_canceled_when_its_download_fails():
    met = updating(image=BIG)
    met.run(until=lambda: "18" in met.line.words())
    met.do("rollout.cancel", rollout=met.deployments()[0].rollout)
    assert ["CANCELING"] == met.states()
    met.server.stalls_at = 0
    met.run(for_s=5)
    assert ["CANCELED"] == met.states()


def test_what_says_nothing_more_is_canceled_after_a_while():
    met = updating(image=BIG)
    met.run(until=lambda: "18" in met.line.words())
    met.do("rollout.cancel", rollout=met.deployments()[0].rollout)
    met.cut()
    met.run(for_s=100)
    assert ["CANCELING"] == met.states()
    met.run(for_s=60)
    assert ["CANCELED"] == met.states()


def test_what_is_done_already_is_too_late_to_cancel():
    met = updating(image=BIG)
    met.run(until=lambda: "84" in met.line.words())
    met.do("rollout.cancel", rollout=met.deployments()[0].rollout)
    met.run(until=lambda: "done" in met.line.words())
    assert ["INSTALLING"] == met.states()
    assert ["CONFIRMED"] == met.run().states()


# --- gateways --------------------------------------------------------------------------------------------------------

CHILDREN = ("child=p1/a", "child=p1/b")


def gateway(**changes):
    met = Meeting("gateway", *CHILDREN, **changes)
    met.release(product="p1")
    met.run(for_s=5)
    return met


def test_the_devices_behind_a_gateway_are_updated_and_their_claims_are_believed():
    met = gateway()
    met.rollout(product="p1")
    met.run()
    assert (["CONFIRMED"], ["CONFIRMED"]) == (met.states("p1", "a"), met.states("p1", "b"))
    assert "the device says that it is done" in met.deployments("p1", "a")[0].cause
    assert NEW == met.client.outcome.version


def test_what_it_asks_for_its_devices_is_answered_with_result_0():
    met = gateway()
    [first, *_] = [message for _, message in met.said_to if message.topic.startswith("$gateway")]
    assert f"$gateway/operation/result/{PRODUCT}/{NAME}" == first.topic
    assert {
        "type": "online",
        "payload": {"devices": [{"product_id": "p1", "device_name": "a", "result": 0}]},
    } == json.loads(first.payload)


@pytest.mark.parametrize("operation", ["online", "offline", "bind", "unbind"])
def test_every_operation_on_a_device_is_answered(operation):
    met = gateway()
    device = {"product_id": "p1", "device_name": "a", "signature": "x", "random": 7}
    text = json.dumps({"type": operation, "payload": {"devices": [device]}})
    [(topic, payload)] = list(met.answer(f"$gateway/operation/{PRODUCT}/{NAME}", text))
    assert f"$gateway/operation/result/{PRODUCT}/{NAME}" == topic
    assert (operation, 0) == (json.loads(payload)["type"], json.loads(payload)["payload"]["devices"][0]["result"])


def test_a_gateway_is_told_who_is_online_behind_it():
    met = gateway()
    offline = {"type": "offline", "payload": {"devices": [{"product_id": "p1", "device_name": "a"}]}}
    list(met.answer(f"$gateway/operation/{PRODUCT}/{NAME}", json.dumps(offline)))
    [(_, payload)] = list(met.answer(f"$gateway/operation/{PRODUCT}/{NAME}", '{"type":"describe_sub_devices"}'))
    assert ["b"] == [one["device_name"] for one in json.loads(payload)["payload"]["devices"]]


def test_a_device_that_never_reports_again_is_told_of_the_next_attempt():
    met = gateway()
    met.server.head = MISSING
    met.rollout(product="p1")
    met.run(until=lambda: len(met.client.outcome.failures) == 4)
    met.server.head = ""
    met.run(for_s=600)
    assert (["FAILED", "CONFIRMED"], ["FAILED", "CONFIRMED"]) == (met.states("p1", "a"), met.states("p1", "b"))
    assert ["-2"] * 2 == [met.deployments("p1", name)[0].result_code for name in "ab"]


def test_its_attempts_are_counted_all_the_same():
    met = gateway()
    met.server.head = MISSING
    met.rollout(product="p1")
    met.run(for_s=86_400)
    assert ["FAILED"] * 3 == met.states("p1", "a")
    assert ["-2"] * 3 == [one.result_code for one in met.deployments("p1", "a")]


def test_a_claim_that_the_next_report_gives_the_lie_is_believed_once_more_and_then_not():
    met = Meeting("gateway", "stock", "child=p1/a")
    met.release(product="p1")
    met.run(for_s=5)
    met.rollout(product="p1")
    for _ in range(3):
        met.run(for_s=200)
        met.line.kill()
    met.run(for_s=200)
    assert ["CONFIRMED", "CONFIRMED", "ROLLED_BACK"] == met.states("p1", "a")[:3]
    for _ in range(8):
        met.line.kill()
        met.run(for_s=600)
    assert ["CONFIRMED"] * 2 + ["ROLLED_BACK"] * 2 == met.states("p1", "a")
    assert 4 == met.client.outcome.installs


def test_a_gateway_whose_link_breaks_starts_again_and_all_of_it_is_updated():
    met = gateway(image=BIG)
    met.rollout(product="p1")
    met.run(until=lambda: "34" in met.line.words())
    met.cut()
    met.is_up = True
    met.run(for_s=200)
    assert (["CONFIRMED"], ["CONFIRMED"]) == (met.states("p1", "a"), met.states("p1", "b"))


def test_where_gateways_are_not_set_up_nothing_is_subscribed_for_them():
    assert [] == list(TencentDialect({"gateways": False}).subscriptions())
    assert ["$gateway/operation/+/+"] == [one.topic_filter for one in TencentDialect({}).subscriptions()]


# --- resources -------------------------------------------------------------------------------------------------------


def test_an_explorer_gets_its_resources_beside_its_firmware():
    met = Meeting("explorer", "resources", options={"resources": ["voice"]})
    met.run(for_s=2)
    met.release("7", component="voice")
    met.rollout("7")
    met.run()
    assert {"voice": ("7", "FILE")} == met.client.resources.held
    assert ["CONFIRMED"] == met.states()
    met.release()
    met.run(for_s=60)
    met.rollout()
    met.run()
    assert ["CONFIRMED", "CONFIRMED"] == met.states()
    assert NEW == met.client.outcome.version
    assert {"voice": ("7", "FILE")} == met.client.resources.held


def test_a_resource_with_a_wrong_md5_fails_with_its_code():
    met = Meeting("explorer", "resources", options={"resources": ["voice"]})
    met.run(for_s=2)
    met.release("7", component="voice", md5="0" * 32)
    met.rollout("7")
    met.run(for_s=86_400)
    assert ["FAILED"] * 3 == met.states()
    assert ["-4"] * 3 == [one.result_code for one in met.deployments()]


# --- what comes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hub_update", "resume", "gateway"])
def test_every_recorded_message_of_a_device_is_understood(name):
    met = Meeting()
    for step in vector(name)["steps"]:
        if step["event"] == "up":
            said = met.switch.decode(MqttMessage(topic=step["topic"], payload=step["text"].encode(), qos=step["qos"]))
            assert isinstance(said, Said), said
            assert step["topic"].endswith(f"/{said.device}")
            assert json.loads(step["text"]) == said.body


@pytest.mark.parametrize("topic", ["$gateway/operation/p", "$gateway/operation/p/d/x", "$gateway/operation/p/d e"])
def test_a_topic_that_names_no_device_is_malformed(topic):
    with pytest.raises(Malformed):
        TencentDialect({}).read(MqttMessage(topic=topic, payload=b"{}"))


def test_a_payload_that_is_none_is_rejected_by_name():
    found = TencentDialect({}).read(MqttMessage(topic="$gateway/operation/p/d", payload=b"[]"))
    assert isinstance(found, Rejected)
    assert DeviceId("p", "d") == found.device


def test_what_is_of_another_service_is_none_of_its_business():
    message = MqttMessage(topic="$thing/up/service/p/d", payload=b'{"method":"request_url","request_id":"1"}')
    assert TencentDialect({}).read(message) is None


def test_progress_of_what_is_not_open_moves_nothing():
    met = updating().run()
    for state in ("downloading", "burning", "done", "fail"):
        body = {"type": "report_progress", "report": {"progress": {"state": state}, "version": OLD}}
        list(met.answer(f"$ota/report/{PRODUCT}/{NAME}", json.dumps(body)))
    assert ["CONFIRMED"] == met.states()
    assert [] == met.core.events("dialect_failed")


@pytest.mark.parametrize("state", ["burning", "done", "fail"])
def test_progress_of_another_version_than_the_open_one_moves_nothing(state):
    met = updating(image=BIG)
    met.run(until=lambda: "18" in met.line.words())
    body = {"type": "report_progress", "report": {"progress": {"state": state}, "version": OLD}}
    list(met.answer(f"$ota/report/{PRODUCT}/{NAME}", json.dumps(body)))
    assert ["DOWNLOADING"] == met.states()
    assert ["CONFIRMED"] == met.run().states()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"resources": ["Voice"]}, "cannot name a component"),
        ({"resources": [7]}, "cannot name a component"),
        ({"resources": "voice"}, "list is expected"),
        ({"gateways": 1}, "bool is expected"),
        ({"nothing": 1}, "is not a setting"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(options, why):
    with pytest.raises(ConfigError, match=why):
        TencentDialect(options)
