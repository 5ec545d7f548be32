"""Whole lives of ThingsBoard devices, in the simulator's own clients, and each thing that one of them dies of."""

import hashlib
import json
from pathlib import Path

import pytest
from core_world import image_of
from thingsboard_world import IMAGE, Life

from device_sim.clients.model import Publish, Subscribe, Unsubscribe
from ota_bridge.core.errors import ConfigError
from ota_bridge.core.values import Limits
from ota_bridge.dialects.thingsboard import PUSHES_MAX, QUIET_S, ROUNDS_MAX, STARTS_MAX, Talk, ThingsBoard

VECTORS = Path(__file__).parents[2] / "vectors" / "thingsboard"
SHA256 = hashlib.sha256(IMAGE).hexdigest()
FIRMWARE = {
    "fw_title": "prod",
    "fw_version": "2.0",
    "fw_size": len(IMAGE),
    "fw_checksum": SHA256,
    "fw_checksum_algorithm": "SHA256",
}
LIMITS = {
    "maxPayloadSize": 65536,
    "maxInflightMessages": 100,
    "rateLimits": {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""},
}


def at_work(*variants, lines=None, **more):
    """A device that has just come, and an update that waits for it."""
    life = Life(variants=variants, **more)
    life.boot().passes(1)
    life.offers()
    for name, fault in (lines or {}).items():
        setattr(life.line, name, fault)
    if "cpp" in variants and "push" not in variants:
        life.disconnect().boot()  # it asks when it starts, and then no more
    return life


def told(life):
    return [json.loads(payload) for payload in life.heard("v1/devices/me/attributes")]


def loses(*tails, times=1):
    """A line on which these topics are lost, each so many times."""
    left = dict.fromkeys(tails, times)

    def fault(topic, payload):
        if left.get(topic, 0) > 0:
            left[topic] -= 1
            return []
        return [payload]

    return fault


def says(life, tail, payload):
    """Something that the simulator's client does not say."""
    life._act([Publish(topic=f"tb/d1/{tail}", payload=payload, qos=1)])


def spoils(topic, payload):
    """A line that changes the last byte of each chunk."""
    return [payload[:-1] + bytes([payload[-1] ^ 1])] if "/fw/response/" in topic and payload else [payload]


# --- the captures ---


class Recorder:
    """A device that only listens."""

    def __init__(self):
        self.heard = []

    def received(self, message, now_s):
        self.heard.append((message.topic.removeprefix("tb/d1/"), message.payload))
        return []

    def next_deadline(self):
        return None


@pytest.mark.parametrize("name", ["python", "cpp"])
def test_what_the_real_client_said_is_answered_as_it_was_then(name):
    vector = json.loads((VECTORS / f"{name}.json").read_text())
    image = image_of("2.0", size=vector["image_bytes"])
    life = Life(options={"product": "prod", "titles": {"prod": "demo"}})
    life.offers(image=image)
    life.client = Recorder()
    for step in vector["steps"]:
        if step["from"] == "device":
            acts = {"subscribe": as_subscribed, "unsubscribe": as_unsubscribed, "publish": as_published}
            life._act([made(step) for key, made in acts.items() if key in step])
        life.passes(0.01)
    said = [step["publish"] for step in vector["steps"] if step["from"] == "device" and "publish" in step]
    answers = [step for step in vector["steps"] if step["from"] == "server" and step["publish"] not in said]
    heard = [one for one in life.client.heard if one[0] not in said]
    assert [meaning(*answer(step, image)) for step in answers] == [meaning(*one) for one in heard]


def as_subscribed(step):
    wider = step["subscribe"].replace("v2/fw/response/+", "v2/fw/response/+/chunk/+")
    return Subscribe(topic_filter=f"tb/d1/{wider}", qos=step["qos"])


def as_unsubscribed(step):
    return Unsubscribe(topic_filter=f"tb/d1/{step['unsubscribe']}")


def as_published(step):
    return Publish(topic=f"tb/d1/{step['publish']}", payload=step["text"].encode(), qos=step["qos"])


def answer(step, image):
    if "offset" in step:
        return step["publish"], image[step["offset"] : step["offset"] + step["length"]]
    text = step["text"].replace("{sha256}", hashlib.sha256(image).hexdigest())
    return step["publish"], text.replace("{sha512}", hashlib.sha256(image).hexdigest()).replace(
        "SHA512", "SHA256"
    ).encode()


def meaning(topic, payload):
    return topic, payload if "/chunk/" in topic else json.loads(payload)


# --- what goes right ---


@pytest.mark.parametrize("variants", [(), ("untitled",), ("asks-again",), ("cpp",), ("cpp", "push")])
def test_both_clients_are_updated_and_confirmed_by_what_they_run(variants):
    life = at_work(*variants).passes(30)
    assert [("CONFIRMED", 1)] == life.states
    assert (1, SHA256, ()) == (
        life.client.outcome.installs,
        life.client.outcome.sha256,
        (life.world.events("rejected") and 1) or (),
    )
    assert "checked in with firmware 2.0" == life.deployments[0].cause


def test_a_device_is_told_the_five_keys_in_one_message_and_nothing_else_ever():
    life = at_work().passes(30)
    assert [{}, FIRMWARE] == told(life)


def test_who_asks_is_answered_with_the_same_keys_below_shared_and_not_told_as_well():
    life = at_work("cpp").passes(30)
    assert [{}, {"shared": FIRMWARE}, {}] == told(life)


def test_a_device_that_has_just_come_is_left_to_ask_by_itself():
    life = Life()
    life.boot().passes(1)
    life.disconnect().offers()
    life.passes(40)
    life = Life(variants=("asks-again",))
    life.boot().passes(1)
    life.disconnect()
    life.offers().passes(40)
    life.connect().passes(20)
    assert ["v2/fw/request/1/chunk/0"] == [topic for topic in life.asked() if topic.endswith("chunk/0")]
    assert [("CONFIRMED", 1)] == life.states


def test_a_session_is_given_limits_even_before_anything_else_is_known_of_the_device():
    life = Life()
    life.boot()
    assert [LIMITS] == [json.loads(one) for one in life.heard("v1/devices/me/rpc/response/1")]


@pytest.mark.parametrize("size", [4096, 8192, 12_288])
def test_the_cpp_client_gets_one_empty_answer_past_the_end_of_an_exact_multiple(size):
    life = Life(variants=("cpp",))
    life.boot().passes(1)
    life.offers(image=IMAGE[:size]).disconnect().boot().passes(1)
    assert [b""] == [payload for payload in life.heard("v2/fw/response/") if not payload]
    assert size // 4096 + 1 == len(life.asked())
    assert [("CONFIRMED", 1)] == life.passes(5).states


def test_a_device_that_names_no_chunk_size_gets_the_whole_image_in_one_message():
    life = at_work(client_options={"block_bytes": 0}).passes(30)
    assert [IMAGE] == life.heard("v2/fw/response/1/chunk/0")
    assert [("CONFIRMED", 1)] == life.states


def test_every_request_is_answered_once():
    life = at_work().passes(30)
    asked = [topic.replace("request", "response") for topic in life.asked()]
    assert asked == [topic for topic, _ in life.to_device if topic.startswith("v2/fw/response/")]


@pytest.mark.parametrize(
    ("options", "metadata", "title"),
    [
        ({}, {}, "demo"),  # as the device calls its own
        ({"titles": {"prod": "set"}}, {}, "set"),
        ({"titles": {"prod": "set"}}, {"thingsboard.title": "of the author"}, "of the author"),
    ],
)
def test_the_title_is_the_authors_or_that_of_the_settings_or_the_devices_own(options, metadata, title):
    life = Life(options={"product": "prod", **options}, client_options={"product": "demo"})
    life.boot().passes(1)
    if metadata:
        release = life.world.release("2.0", image=IMAGE)
        life.world.do("release.describe", release=release, metadata=metadata)
    life.world.rollout("2.0") if metadata else life.offers()
    life.world.plan()
    life.passes(10)
    assert title == told(life)[-1].get("fw_title")


def test_the_product_is_the_title_where_nobody_knows_another():
    life = at_work("untitled").passes(10)
    assert "prod" == told(life)[-1]["fw_title"]


def test_the_same_number_of_another_firmware_is_not_the_release():
    life = Life(
        options={"product": "prod", "titles": {"prod": "ours"}}, client_options={"product": "theirs", "version": "2.0"}
    )
    life.boot().passes(1)
    life.offers().passes(1)
    assert "theirs:2.0" == life.world.read(lambda unit: unit.devices.get(life.id)).parts["firmware"].version
    assert "OFFERED" == life.states[0][0]


def test_a_process_that_starts_anew_and_says_nothing_of_itself_is_not_updated_again():
    life = at_work("untitled").passes(30)
    life.disconnect().boot().passes(30)
    assert [("CONFIRMED", 1)] == life.states
    assert 1 == life.client.outcome.installs


def test_one_that_starts_anew_in_the_middle_downloads_again():
    life = at_work("untitled", lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(10)
    life.line.to_device = lambda topic, payload: [payload]
    life.disconnect().boot().passes(30)
    assert [("CONFIRMED", 1)] == life.states


def test_a_version_that_the_bridge_cannot_hold_is_kept_as_well_as_it_can_be():
    life = Life(client_options={"version": "1.0 beta (übersetzt) of a very long line of versions"})
    life.boot()
    assert (
        "1.0-beta---bersetzt--of-a-very-l"
        == life.world.read(lambda unit: unit.devices.get(life.id)).parts["firmware"].version
    )


# --- what they survive ---


def test_the_python_client_that_lost_a_chunk_is_told_anew_once_it_is_silent_and_begins_again():
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(QUIET_S - 1)
    assert 1 == len(told(life)[1:])
    life.passes(20)
    assert [FIRMWARE, FIRMWARE] == told(life)[1:]
    assert [("CONFIRMED", 1)] == life.states


def test_so_is_one_whose_request_was_lost():
    life = at_work(lines={"to_bridge": loses("v2/fw/request/1/chunk/0", "v2/fw/request/2/chunk/5")}).passes(120)
    assert [("CONFIRMED", 1)] == life.states


def test_one_that_hears_nothing_at_all_is_told_ever_more_rarely_and_then_no_more():
    life = at_work(lines={"to_device": lambda topic, payload: []}).passes(3600 * 12)
    assert [] == told(life)[1:]
    life.line.to_device = lambda topic, payload: [payload] if "/attributes" in topic else []
    life.client._patience_s = 1e9
    life.connect().passes(3600 * 12)
    times = len(told(life)) - 1
    assert times in range(PUSHES_MAX - 1, PUSHES_MAX + 2)


def test_the_cpp_client_that_lost_a_chunk_asks_again_and_is_answered_again():
    life = at_work("cpp", lines={"to_device": loses("v2/fw/response/1/chunk/3", times=3)}).passes(30)
    assert [("CONFIRMED", 1)] == life.states
    assert 4 == life.asked().count("v2/fw/request/1/chunk/3")


def test_a_python_client_that_reconnects_in_the_middle_is_told_anew():
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(3)
    life.disconnect().passes(1)
    life.connect().passes(15)
    assert [("CONFIRMED", 1)] == life.states
    assert 1 == life.client.outcome.installs


def test_a_cpp_client_that_reconnects_in_the_middle_goes_on():
    life = at_work("cpp", lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(1)
    life.disconnect().passes(1)
    life.connect().passes(15)
    assert [("CONFIRMED", 1)] == life.states
    assert 1 == life.asked().count("v2/fw/request/1/chunk/0")


@pytest.mark.parametrize("variants", [(), ("cpp",)])
def test_a_bridge_that_was_away_brings_the_update_to_its_end(variants):
    life = at_work(*variants, lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(2)
    life.is_serving = False
    life.passes(15)
    life.is_serving = True
    life.passes(60)
    assert [("CONFIRMED", 1)] == life.states


def test_a_paused_rollout_stops_chunks_and_goes_on_when_it_is_resumed():
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(2)
    [rollout] = {one.rollout for one in life.deployments}
    life.world.do("rollout.pause", rollout=rollout)
    before = len(told(life))
    life.passes(100)
    assert before == len(told(life))
    life.world.do("rollout.resume", rollout=rollout)
    life._release(life.world.last)
    life.passes(60)
    assert [("CONFIRMED", 1)] == life.states


def test_what_the_cpp_client_says_of_a_pause_is_no_failure():
    life = at_work("cpp", lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(1)
    [rollout] = {one.rollout for one in life.deployments}
    life.world.do("rollout.pause", rollout=rollout)
    life.passes(100)
    assert 1 == sum(error.startswith("Failed to receive") for error in life.client.outcome.failures)
    assert [("DOWNLOADING", 1)] == life.states


@pytest.mark.parametrize("variants", [(), ("cpp",)])
def test_a_device_that_the_caps_hold_up_gets_each_chunk_in_its_turn(variants):
    life = Life(variants=variants)
    life.boot().passes(1)
    life.world.server.set_limits(Limits(blocks_per_s=1), life.world.mono)
    life.offers()
    if variants:
        life.disconnect().boot()
    life.passes(100)
    assert [("CONFIRMED", 1)] == life.states
    assert 1 == len([topic for topic in life.asked() if topic.endswith("/chunk/0")])


def test_what_waited_for_its_turn_is_not_sent_to_a_process_that_has_begun_anew():
    life = at_work(client_options={"block_bytes": 16_384}).passes(3)
    life.world.server.set_limits(Limits(downloads=0, blocks_per_s=1), life.world.mono)
    life.passes(2)
    waiting = life.asked()[-1]
    life.disconnect().boot()
    life.passes(60)
    assert [("CONFIRMED", 1)] == life.states, waiting


# --- a wrong checksum ---


def test_a_wrong_checksum_ends_each_attempt_of_the_python_client_and_leaves_it_in_peace_in_between():
    life = at_work(lines={"to_device": spoils}).passes(3000)
    assert [("FAILED", 3), ("FAILED", 2), ("FAILED", 1)] == life.states
    assert {"said fail: Checksum verification failed!"} == {one.cause for one in life.deployments}
    assert 3 == len(life.client.outcome.failures)
    assert [{}, FIRMWARE, {}, FIRMWARE, {}, FIRMWARE, {}] == told(life)
    assert not life.client.outcome.is_busy


def test_the_cpp_client_says_nothing_of_it_and_is_found_out_by_beginning_anew():
    life = at_work("cpp", lines={"to_device": spoils}).passes(100)
    assert ("FAILED", 1) == life.states[-1]
    assert f"downloaded {ROUNDS_MAX} times and never taken" in life.deployments[-1].cause
    answered = [topic for topic, _ in life.to_device if topic == "v2/fw/response/1/chunk/0"]
    assert len(answered) <= 2 * (ROUNDS_MAX + 1)  # it asks for a minute, and so into the second attempt


def test_each_of_its_attempts_is_bounded_and_after_the_last_it_gets_nothing():
    life = at_work("cpp", lines={"to_device": spoils})
    for _ in range(8):
        life.passes(1200)
        life.disconnect().boot()
    life.passes(100)
    assert [("FAILED", 3), ("FAILED", 2), ("FAILED", 1)] == life.states
    assert {} == told(life)[-1]
    before = len(life.heard("v2/fw/response/"))
    says(life, "v2/fw/request/1/chunk/0", b"4096")
    assert before == len(life.passes(10).heard("v2/fw/response/"))


def test_downloads_that_never_come_to_their_end_are_bounded_too():
    life = at_work("cpp", lines={"to_device": loses("v2/fw/response/1/chunk/1", times=1000)})
    for _ in range(STARTS_MAX + 2):
        life.passes(1)
        life.disconnect().boot()
    assert f"begun {STARTS_MAX + 1} times and never finished" in next(
        one.cause for one in life.deployments if one.attempt == 1
    )


def test_a_failure_that_comes_late_is_not_that_of_the_next_attempt():
    life = at_work("cpp", lines={"to_device": spoils}, rules={}).passes(59)
    assert ("FAILED", 1) == life.states[-1]
    life.line.to_device = lambda topic, payload: [payload]
    life.passes(40)
    assert ("FAILED", 2) not in life.states


# --- what they refuse ---


def test_a_foreign_title_is_refused_once_and_for_all():
    life = at_work("cpp", options={"product": "prod", "titles": {"prod": "other"}}).passes(5)
    assert [("REJECTED", 1)] == life.states
    assert (
        "said reject: Received firmware title (other) is different and not meant for this device (prod)"
        == life.deployments[0].cause
    )
    assert [] == life.asked()


def test_a_version_that_begins_like_its_own_is_taken_for_it_by_the_cpp_client_and_that_is_told():
    life = Life(variants=("cpp",), client_options={"version": "2.0"})
    life.boot().passes(1)
    life.offers(version="2.0.1").disconnect().boot().passes(5)
    assert [("REJECTED", 1)] == life.states
    assert "takes 2.0.1 for what it runs" in life.deployments[0].cause


def test_failed_at_a_boot_without_an_update_means_nothing():
    life = Life(variants=("cpp",))
    life.boot().passes(10)
    assert ["Missing shared attribute firmware keys. Ensure you assigned an OTA update with binary"] == list(
        life.client.outcome.failures
    )
    assert [] == life.states


def test_no_answer_at_all_is_no_failure_of_the_update():
    life = at_work("cpp", lines={"to_device": loses("v1/devices/me/attributes/response/2")}).passes(30)
    assert "OFFERED" == life.states[0][0]


# --- other requests ---


def test_other_attributes_are_not_answered_while_a_download_may_be_under_way():
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(6)
    before = told(life)
    says(life, "v1/devices/me/attributes/request/9", b'{"sharedKeys":"mood"}')
    says(life, "v1/devices/me/attributes/request/9", b'{"clientKeys":"fw_state"}')
    assert before == told(life)


def test_other_attributes_are_answered_with_nothing_where_there_is_no_update():
    life = Life().boot()
    says(life, "v1/devices/me/attributes/request/9", b'{"sharedKeys":"mood"}')
    assert b"{}" == life.heard("v1/devices/me/attributes/response/9")[0]


def test_ordinary_telemetry_is_passed_over():
    life = Life().boot()
    before = len(life.world.outputs)
    says(life, "v1/devices/me/telemetry", b'{"temperature":21.5}')
    assert before == len(life.world.outputs)


def test_another_release_in_the_middle_is_begun_from_its_first_chunk():
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(3)
    other = bytes(reversed(IMAGE))
    life.offers("3.0", image=other, seq=3)
    life.passes(60)
    assert [("CONFIRMED", 1), ("CANCELED", 1)] == life.states
    assert hashlib.sha256(other).hexdigest() == life.client.outcome.sha256
    assert () == life.client.outcome.failures


def test_the_cpp_client_gets_no_chunk_of_another_image_in_the_middle_of_a_download():
    life = at_work("cpp", lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(1)
    before = len(life.heard("v2/fw/response/"))
    life.offers("3.0", image=bytes(reversed(IMAGE)), seq=3)
    life.passes(80)
    assert before == len(life.heard("v2/fw/response/"))
    assert ["OFFERED", "CANCELED"] == [state for state, _ in life.states]
    life.disconnect().boot().passes(10)
    assert [("CONFIRMED", 1), ("CANCELED", 1)] == life.states


@pytest.mark.parametrize("after_s", [1, 5])
def test_a_clock_that_is_set_back_does_not_keep_a_device_waiting(after_s):
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(after_s)
    life.world.wall -= 86_400
    life.world.commit(lambda unit: life.world.bridge.clock_stepped(unit, -86_400.0) or [])
    life.passes(60)
    assert [("CONFIRMED", 1)] == life.states


def test_a_cancel_is_over_at_once_unless_the_device_has_all_of_it():
    life = at_work(lines={"to_device": loses("v2/fw/response/1/chunk/3")}).passes(3)
    life.world.do("rollout.cancel", rollout=life.deployments[0].rollout)
    assert [("CANCELED", 1)] == life.states
    assert "its chunks are no longer served" in life.deployments[0].cause


# --- settings and memory ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prefix": ""}, "dialects.thingsboard.prefix"),
        ({"prefix": "tb/"}, "dialects.thingsboard.prefix"),
        ({"prefix": "tb/+"}, "dialects.thingsboard.prefix"),
        ({"prefix": "$share"}, "dialects.thingsboard.prefix"),
        ({"titles": {"a": 1}}, "dialects.thingsboard.titles.a"),
        ({"products": {"a*": 1}}, r"dialects.thingsboard.products.a\*"),
        ({"whole_max_bytes": 1}, "dialects.thingsboard.whole_max_bytes"),
        ({"token": "x"}, "dialects.thingsboard.token is not a setting"),
    ],
)
def test_settings_that_cannot_be_say_why(options, says):
    with pytest.raises(ConfigError, match=says):
        ThingsBoard({"product": "demo", **options})


@pytest.mark.parametrize("memory", [b"", b"{", b"[]", b"7", b'{"odd":1}', b'{"title":1}', b"\xff"])
def test_what_was_kept_by_another_version_is_forgotten_and_breaks_nothing(memory):
    standing = type("Standing", (), {"memory": memory})()
    assert isinstance(Talk.of(standing), Talk)
