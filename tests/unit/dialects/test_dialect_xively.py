"""Xively devices over whole lives: the simulated client, which crashes where the real one would, against the bridge."""

import cbor2
import pytest
from core_world import image_of
from xively_world import Scene, heard

from ota_bridge.core.conversation import Occasion, Standing, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import ConfigError, Malformed
from ota_bridge.core.messages import Rejected, ReportState, Said
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, Sha256
from ota_bridge.dialects.xively import QUIET_S, URL_QUIET_S, XivelyDialect
from ota_bridge.dialects.xively_session import Session
from ota_bridge.dialects.xively_wire import FileInfo, FileStatus
from ota_bridge.wire import MqttMessage

FACTORY = ("INFO", "firmware.bin=1.0.0")
FIRMWARE_LIST = ("LIST", "firmware.bin=2.0")
VARIANTS = [(), ("lib-a",), ("esp32",), ("cc3220",), ("factory",), ("ext",)]


def started(*variants, files=(), **more):
    """A device that is connected, and a rollout that has just begun."""
    scene = Scene(*variants, files=files, **more).connects()
    scene.release(files=[file.replace(".", "-") for file in files])
    return scene.rollout()


def losing(kind, *, times=1, after=0, name=None):
    """Loses the message of a kind that comes after so many."""
    seen = []

    def loses(words):
        if words[0] != kind or (name and words[1] != name):
            return False
        seen.append(words)
        return after < len(seen) <= after + times

    return loses


# --- as it should go ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variants", VARIANTS)
def test_every_client_is_updated_and_confirmed_by_what_it_tells_after_its_restart(variants):
    scene = started(*variants).passes(20)
    assert {"firmware": ["CONFIRMED"]} == scene.states
    outcome = scene.client.outcome
    assert ("2.0", 1, ()) == (outcome.version, outcome.installs, outcome.failures)


def test_the_first_thing_on_the_wire_is_the_list_and_the_last_the_revision_after_the_restart():
    scene = started().passes(5)
    assert [FACTORY, FIRMWARE_LIST, ("GET", "firmware.bin", 0), ("CHUNK", "firmware.bin", 0)] == scene.said[:4]
    assert [("STATUS", "firmware.bin", 3, 0), ("STATUS", "firmware.bin", 4, 0), ("INFO", "firmware.bin=2.0")] == (
        scene.said[-3:]
    )
    assert 1 == len(scene.lists())


def test_all_that_is_open_goes_into_one_list_with_the_firmware_last():
    scene = Scene(files=["zz", "file.cfg"])
    scene.client._names.reverse()
    scene.connects()
    assert ("INFO", "firmware.bin=1.0.0") == scene.said[0][:2]
    scene.release(files=["file-cfg", "zz"])
    scene.rollout().passes(5)
    assert [("LIST", "zz=2.0", "file.cfg=2.0", "firmware.bin=2.0")] == scene.lists()
    assert {"firmware": ["CONFIRMED"], "zz": ["CONFIRMED"], "file-cfg": ["CONFIRMED"]} == scene.states


def test_a_file_that_is_up_to_date_is_not_listed():
    scene = Scene(files=["config"])
    scene.client.files.set_revision("config", "2.0")
    scene.connects()
    scene.release(files=["config"])
    scene.rollout().passes(5)
    assert [FIRMWARE_LIST] == scene.lists()


def test_a_device_that_has_it_all_is_told_nothing():
    scene = started().passes(5)
    said = len(scene.said)
    scene.connects().passes(4000)
    assert [("INFO", "firmware.bin=2.0")] == scene.said[said:]


def test_a_component_that_the_device_has_no_file_for_is_left_out():
    scene = Scene().connects()
    scene.release(files=["config"])
    scene.rollout().passes(5)
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_a_revision_that_no_release_can_have_counts_as_none():
    scene = Scene("factory").connects()
    record = scene.world.read(lambda unit: unit.devices.get(scene.id))
    assert "unknown" == record.parts["firmware"].version
    scene.release("2.0")
    scene.rollout().passes(5)
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_a_device_that_was_offline_gets_its_list_when_it_comes():
    scene = Scene().connects()
    scene.leaves()
    scene.release()
    scene.rollout().passes(4 * 3600)
    assert [] == scene.lists()
    scene.connects().passes(5)
    assert [FIRMWARE_LIST] == scene.lists()
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_a_device_that_does_not_restart_by_itself_is_confirmed_by_its_next_connection():
    scene = started("posix").passes(1200)
    assert {"firmware": ["INSTALLING"]} == scene.states
    scene.connects()
    assert {"firmware": ["CONFIRMED"]} == scene.states


# --- files that are no firmware --------------------------------------------------------------------------------------


def only_config():
    scene = Scene(files=["config"]).connects()
    scene.world.release("2.0", component="config", image=image_of("2.0", "config", 2500))
    return scene.rollout()


def test_a_file_that_the_device_says_is_finished_is_confirmed_by_its_next_connection():
    scene = only_config()
    assert [("STATUS", "config", 3, 0), ("STATUS", "config", 5, 0)] == scene.said[-2:]
    assert {"config": ["INSTALLING"]} == scene.states
    scene.connects()
    assert {"config": ["CONFIRMED"]} == scene.states
    assert "checked in with config 2.0" == scene.deployments[0].cause


def test_a_claim_counts_where_no_connection_follows_for_long():
    scene = only_config().passes(899)
    assert {"config": ["INSTALLING"]} == scene.states
    scene.passes(2)
    assert {"config": ["CONFIRMED"]} == scene.states
    assert "the device says that the file is finished; xively has no more proof" == scene.deployments[0].cause


def test_what_is_offered_while_a_package_is_under_way_waits_for_its_end():
    scene = Scene(files=["config"], loses=losing("GET", after=1)).connects()
    scene.world.release("2.0", component="config", image=image_of("2.0", "config", 2500))
    scene.rollout()
    scene.release("2.1")
    scene.rollout("2.1")
    assert [("LIST", "config=2.0")] == scene.lists()
    scene.passes(QUIET_S + 2)
    assert [("LIST", "config=2.0"), ("LIST", "config=2.0", "firmware.bin=2.1")] == scene.lists()
    scene.passes(5)
    assert {"firmware": ["CONFIRMED"], "config": ["CONFIRMED"]} == scene.states


# --- what is lost ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "lost", "lists"),
    [
        ("LIST", {}, 1),
        ("GET", {}, 2),
        ("GET", {"after": 4}, 2),
        ("CHUNK", {}, 2),
        ("CHUNK", {"after": 4}, 2),
        ("CHUNK", {"after": 9}, 2),
        ("STATUS", {}, 1),
        ("STATUS", {"times": 2}, 1),
    ],
    ids=["list", "first request", "request", "first chunk", "chunk", "last chunk", "status", "both statuses"],
)
@pytest.mark.parametrize("variant", ["lib-a", "lib-b"])
def test_whatever_is_lost_the_list_goes_out_again_after_a_silence(kind, lost, lists, variant):
    scene = started(variant, loses=losing(kind, **lost)).passes(QUIET_S + 15)
    assert {"firmware": ["CONFIRMED"]} == scene.states
    assert [FIRMWARE_LIST] * lists == scene.lists()
    assert 1 == scene.client.outcome.installs


def test_no_list_goes_out_before_the_silence_is_long_enough():
    scene = started(loses=losing("CHUNK", after=4)).passes(QUIET_S - 1)
    assert [FIRMWARE_LIST] == scene.lists()
    scene.passes(3)
    assert [FIRMWARE_LIST] * 2 == scene.lists()


def test_a_file_that_was_finished_is_left_out_of_the_list_that_goes_out_again():
    scene = started(files=["config"], loses=losing("CHUNK", name="firmware.bin", after=2)).passes(QUIET_S + 5)
    assert [("LIST", "config=2.0", "firmware.bin=2.0"), FIRMWARE_LIST] == scene.lists()
    assert {"firmware": ["CONFIRMED"], "config": ["CONFIRMED"]} == scene.states


def test_a_file_whose_end_was_not_heard_is_listed_again():
    scene = started(files=["config"], loses=losing("STATUS", times=2)).passes(5)
    assert {"firmware": ["CONFIRMED"], "config": ["CONFIRMED"]} == scene.states


def test_first_words_that_are_lost_are_made_up_for_by_the_clock():
    scene = started(loses=losing("GET", after=4))
    scene.connects(info_is_lost=True).passes(QUIET_S + 5)
    assert [FIRMWARE_LIST] * 2 == scene.lists()
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_the_silence_becomes_longer_where_nothing_is_heard():
    scene = Scene(loses=losing("LIST", times=1000)).connects()
    scene.release()
    sent = []

    def count(words):
        if words[0] == "LIST":
            sent.append(scene.world.wall)
        return words[0] == "LIST"

    scene.loses = count
    scene.rollout().passes(4000)
    gaps = [round(after - before) for before, after in zip(sent, sent[1:], strict=False)]
    assert [30, 60, 120, 240, 480, 960, 1920] == gaps


def test_a_connection_that_breaks_in_the_middle_starts_the_file_again():
    scene = started(files=["config"], loses=losing("CHUNK", name="firmware.bin", after=5))
    scene.connects().passes(5)
    assert [("LIST", "config=2.0", "firmware.bin=2.0"), FIRMWARE_LIST] == scene.lists()
    assert {"firmware": ["CONFIRMED"], "config": ["CONFIRMED"]} == scene.states


def test_a_device_that_restarts_again_and_again_is_not_driven_on():
    scene = started(loses=losing("CHUNK", after=4, times=1000))
    for _ in range(8):
        scene.connects().passes(2)
    assert 4 == len(scene.lists())
    scene.loses = lambda words: False
    scene.passes(60)
    assert {"firmware": ["CONFIRMED"]} == scene.states


# --- what fails ------------------------------------------------------------------------------------------------------


def test_a_checksum_that_is_wrong_every_time_ends_after_the_attempts_and_leaves_the_device_in_peace():
    scene = started("bad-flash").passes(24 * 3600)
    assert {"firmware": ["FAILED"] * 3} == scene.states
    last = scene.deployments[0]
    assert "-5" == last.result_code
    assert "said fail: -5 firmware.bin: the SHA-256 of what was downloaded is another" == last.cause
    assert [FIRMWARE_LIST] * 3 == scene.lists()
    assert ("firmware.bin P3 S-5",) * 3 == scene.client.outcome.failures
    scene.connects().passes(24 * 3600)
    assert 3 == len(scene.lists())


def test_a_file_that_fails_does_not_hold_up_the_others():
    scene = Scene(files=["config"]).connects()
    scene.release(files=["config"])
    scene.client._take = broken(scene.client, "config")
    scene.rollout().passes(5)
    assert [("LIST", "config=2.0", "firmware.bin=2.0"), FIRMWARE_LIST] == scene.lists()
    assert "CONFIRMED" == scene.states["firmware"][0]
    assert "FAILED" in scene.states["config"]


def broken(client, name):
    """Its first chunk of this file is garbled, once."""
    take, left = client._take, [1]

    def taken(chunk):
        if chunk.name == name and left:
            left.clear()
            object.__setattr__(chunk, "data", b"?" + chunk.data[1:])
        return take(chunk)

    return taken


@pytest.mark.parametrize(("phase", "code"), [(4, -2), (4, -3), (4, -4), (3, -8), (3, -99)])
def test_every_error_that_stops_the_device_fails_the_attempt_with_its_code(phase, code):
    scene = started(loses=losing("CHUNK", after=2))
    heard(scene, FileStatus(name="firmware.bin", revision="2.0", phase=phase, code=code))
    assert [State.FAILED] == [one.state for one in scene.deployments if not one.is_open]
    assert [str(code)] == [one.result_code for one in scene.deployments if not one.is_open]


@pytest.mark.parametrize("code", [-1, -6, -7])
def test_an_error_after_which_the_device_goes_on_fails_nothing(code):
    scene = started(loses=losing("CHUNK", after=2))
    heard(scene, FileStatus(name="firmware.bin", revision="2.0", phase=3, code=code))
    assert "FAILED" not in scene.states["firmware"]


def test_a_result_of_another_revision_moves_nothing():
    scene = started(loses=losing("CHUNK", after=2))
    for said in (("firmware.bin", "1.9"), ("other.bin", "2.0")):
        heard(scene, FileStatus(name=said[0], revision=said[1], phase=3, code=-5))
    assert "FAILED" not in scene.states["firmware"]


def test_firmware_that_does_not_come_up_is_tried_again_once_and_then_no_more():
    scene = started("rolls-back").passes(24 * 3600)
    assert {"firmware": ["ROLLED_BACK"] * 2} == scene.states
    assert 2 == len(scene.lists())


# --- when to be silent -----------------------------------------------------------------------------------------------


def test_nothing_is_said_to_a_device_that_applies_a_package_until_it_has_connected_again():
    scene = Scene("posix", files=["config"]).connects()
    scene.release()
    scene.rollout()
    scene.world.release("2.1", component="config", image=image_of("2.1", "config", 2500))
    scene.rollout("2.1").passes(7 * 24 * 3600)
    assert [FIRMWARE_LIST] == scene.lists()
    scene.connects()
    assert [FIRMWARE_LIST, ("LIST", "config=2.1")] == scene.lists()


def test_no_list_goes_out_without_the_firmware_once_that_was_begun():
    scene = started("lib-a", files=["config"], loses=losing("CHUNK", name="firmware.bin", after=3, times=10**6))
    scene.does("rollout.cancel", rollout=scene.deployments[0].rollout)
    scene.passes(60)
    scene.world.release("2.1", component="config", seq=3, image=image_of("2.1", "config", 2500))
    scene.rollout("2.1").passes(7200)
    assert [("LIST", "config=2.0", "firmware.bin=2.0")] == scene.lists()
    scene.connects().passes(5)
    assert ("LIST", "config=2.1") == scene.lists()[-1]


def test_what_is_canceled_in_the_middle_gets_no_more_and_ends_after_the_silence():
    scene = started(loses=losing("CHUNK", after=3))
    scene.does("rollout.cancel", rollout=scene.deployments[0].rollout)
    assert {"firmware": ["CANCELING"]} == scene.states
    scene.passes(QUIET_S + 2)
    assert {"firmware": ["CANCELED"]} == scene.states
    assert 1 == len(scene.lists())


def test_a_cancel_that_comes_too_late_waits_for_the_device():
    scene = Scene("posix", loses=losing("STATUS", times=2)).connects()
    scene.release()
    scene.rollout()
    scene.does("rollout.cancel", rollout=scene.deployments[0].rollout)
    heard(scene, FileStatus(name="firmware.bin", revision="2.0", phase=4, code=0))
    assert {"firmware": ["INSTALLING"]} == scene.states
    scene.connects()
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_a_paused_rollout_says_nothing_and_goes_on_when_it_is_resumed():
    scene = started(loses=losing("CHUNK", after=3))
    rollout = scene.deployments[0].rollout
    scene.does("rollout.pause", rollout=rollout)
    scene.connects().passes(7200)
    assert [FIRMWARE_LIST] == scene.lists()
    scene.does("rollout.resume", rollout=rollout)
    scene.passes(5)
    assert [FIRMWARE_LIST] * 2 == scene.lists()
    assert {"firmware": ["CONFIRMED"]} == scene.states


@pytest.mark.parametrize("variant", ["lib-a", "ext"])
def test_a_device_that_the_caps_hold_up_gets_each_chunk_in_its_turn_and_no_second_list(variant):
    scene = Scene(variant)
    scene.world.server.set_limits(Limits(blocks_per_s=1), scene.world.mono)
    scene.connects()
    scene.release()
    scene.rollout().passes(4)
    assert {"firmware": ["DOWNLOADING"]} == scene.states
    scene.passes(100)
    assert {"firmware": ["CONFIRMED"]} == scene.states
    assert 1 == len(scene.lists())


# --- the client of the CC3200 examples --------------------------------------------------------------------------------


def test_the_other_client_gets_the_fingerprint_as_text_and_is_known_by_its_first_words():
    scene = started("ext", loses=losing("GET", times=10**6))
    assert [("INFO", "firmware=-1"), ("LIST", "firmware=2.0")] == scene.said
    assert 64 == len(scene.client._fingerprint)


def test_a_product_can_be_set_to_be_of_the_other_client():
    scene = Scene(options={"ext": ["prod*"]}).connects()
    assert Session.read(scene.world.read(lambda unit: unit.memories.get(scene.id)).data).is_ext
    assert not Session.read(Scene().connects().world.read(lambda unit: unit.memories.get(scene.id)).data).is_ext


def test_the_other_client_is_confirmed_when_it_speaks_again_after_all_was_fetched():
    scene = started("ext").passes(10)
    assert {"firmware": ["CONFIRMED"]} == scene.states
    assert "the device has started again after it had fetched all of it; xively has no more proof" == (
        scene.deployments[0].cause
    )
    scene.connects().passes(7200)
    assert 1 == len(scene.lists())
    scene.release("3.0", seq=3)
    scene.rollout("3.0").passes(10)
    assert ["CONFIRMED", "CONFIRMED"] == scene.states["firmware"]


def test_the_other_client_is_confirmed_after_long_if_nobody_presses_its_button():
    scene = started("ext", loses=losing("INFO", after=1, times=10**6)).passes(60)
    assert {"firmware": ["INSTALLING"]} == scene.states
    scene.passes(1000)
    assert {"firmware": ["CONFIRMED"]} == scene.states
    scene.release("3.0", seq=3)
    scene.rollout("3.0").passes(10)
    assert ("LIST", "firmware=3.0") == scene.lists()[-1]


@pytest.mark.parametrize("kind", ["CHUNK", "GET"])
def test_a_download_of_the_other_client_that_stands_still_is_ended_before_the_list_goes_out_again(kind):
    scene = started("ext", loses=losing(kind, after=4)).passes(QUIET_S + 10)
    assert ("CHUNK", "firmware", 0) == scene.said[scene.said.index(("LIST", "firmware=2.0"), 3) - 1]
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_the_other_client_that_starts_again_in_the_middle_gets_its_list():
    scene = started("ext", loses=losing("CHUNK", after=4))
    scene.client.started(0.0)
    scene.connects().passes(30)
    assert {"firmware": ["CONFIRMED"]} == scene.states


# --- URLs ------------------------------------------------------------------------------------------------------------


def by_url(fetched, *, options=None, link="http://h/f/x"):
    asked = []

    def fetch(url, name):
        asked.append((url, name))
        return fetched

    scene = Scene("esp32", fetch_url=fetch, options=options)
    scene.world.links = lambda deployment, manifest, wall: link
    scene.connects()
    scene.release()
    return scene, asked


IMAGE = image_of("2.0")


def test_a_url_is_offered_to_a_device_that_takes_them():
    scene, asked = by_url(IMAGE)
    scene.rollout().passes(5)
    assert [("http://h/f/x", "firmware.bin")] == asked
    assert [] == [one for one in scene.said if one[0] == "GET"]
    assert {"firmware": ["CONFIRMED"]} == scene.states


@pytest.mark.parametrize(
    ("options", "link"), [({"urls": False}, "http://h/f/x"), ({}, ""), ({}, "http://h/" + "x" * 400)]
)
def test_no_url_is_offered_where_there_is_none_or_it_is_not_wanted_or_too_long(options, link):
    scene, asked = by_url(IMAGE, options=options, link=link)
    scene.rollout().passes(5)
    assert [] == asked
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_a_device_that_takes_no_urls_gets_none():
    scene = Scene()
    scene.world.links = lambda deployment, manifest, wall: "http://h/f/x"
    scene.connects()
    scene.release()
    scene.rollout().passes(5)
    assert {"firmware": ["CONFIRMED"]} == scene.states


@pytest.mark.parametrize("fetched", [None, b"wrong"])
def test_a_download_by_url_that_fails_goes_on_over_mqtt_in_the_same_attempt(fetched):
    scene, asked = by_url(fetched)
    scene.rollout().passes(5)
    assert 1 == len(asked)
    assert {"firmware": ["CONFIRMED"]} == scene.states


def test_a_device_that_downloads_by_url_is_left_alone_for_longer():
    scene, _ = by_url(IMAGE)
    scene.loses = lambda words: words[0] == "LIST"
    scene.rollout()
    heard(scene, FileStatus(name="firmware.bin", revision="2.0", phase=2, code=0))
    lists = []
    scene.loses = lambda words: words[0] == "LIST" and (lists.append(scene.world.wall) or True)
    begun = scene.world.wall
    scene.passes(URL_QUIET_S + 5)
    assert [URL_QUIET_S] == [round(wall - begun) for wall in lists]


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_s", [-100_000.0, 100_000.0])
def test_a_clock_that_is_set_neither_drives_a_device_on_nor_lets_it_wait(by_s):
    scene = started(loses=losing("CHUNK", after=4)).passes(10)
    scene.world.wall += by_s
    scene.world.commit(lambda unit: scene.world.bridge.clock_stepped(unit, by_s) or [])
    scene.passes(QUIET_S - 12)
    assert 1 == len(scene.lists())
    scene.passes(20)
    assert {"firmware": ["CONFIRMED"]} == scene.states


# --- by its records --------------------------------------------------------------------------------------------------


def update(**changes):
    plain = {
        "id": DeploymentId("0123456789ab"), "release": "prod/2.0", "component": "firmware", "version": "2.0",
        "attempt": 1, "state": State.OFFERED, "cause": "", "size_bytes": 100, "sha256": Sha256(bytes(32)), "md5": "",
        "file_name": "", "metadata": {}, "url": "", "offers": 1, "created_wall": 0.0, "changed_wall": 0.0,
        "last_block_wall": None, "high_water_bytes": 0,
    }  # fmt: skip
    return Update(**(plain | changes))


def told(*updates, **session):
    files = (("config", "config"), ("firmware", "firmware.bin"))
    kept = Session(**({"files": files} | session)).kept()
    standing = Standing(
        device=DeviceId("prod", "d1"), wall=1000.0, is_known=True, parts={"firmware": "1.0"}, updates=updates,
        memory=kept,
    )  # fmt: skip
    return XivelyDialect({"product": "prod"}).tell(Occasion(offered=frozenset(one.id for one in updates)), standing)


@pytest.mark.parametrize("size", [0, 1 << 32])
def test_a_file_of_a_size_that_cannot_be_carried_is_rejected(size):
    telling = told(update(size_bytes=size))
    assert [ReportState.REJECT] == [report.state for report in telling.uplinks]
    assert [] == list(telling.messages)


def test_a_device_whose_first_words_were_never_heard_is_told_nothing():
    assert [] == list(told(update(), files=()).messages)
    assert 1 == len(told(update()).messages)


@pytest.mark.parametrize("state", [State.INSTALLING, State.TRIAL, State.CANCELING])
def test_only_what_may_be_fetched_is_listed(state):
    assert [] == list(told(update(state=state)).messages)


@pytest.mark.parametrize(("session", "lists"), [({"is_sealed": True}, 0), ({"is_sealed": False}, 1)])
def test_nothing_is_listed_while_a_package_is_applied(session, lists):
    assert lists == len(told(update(), **session).messages)


def test_the_list_goes_to_the_devices_own_topic_at_qos_0_and_not_retained():
    (message,) = told(update()).messages
    assert ("xi/ctrl/v1/d1/cln", 0, False) == (message.topic, message.qos, message.retain)
    assert {"N": "firmware.bin", "R": "2.0", "O": 0, "S": 100, "F": bytes(32)} == cbor2.loads(message.payload)["list"][
        0
    ]


# --- what comes in ---------------------------------------------------------------------------------------------------


def read(body, topic="xi/ctrl/v1/d1/svc", **options):
    payload = body if isinstance(body, bytes) else cbor2.dumps(body)
    return XivelyDialect({"product": "prod"} | options).read(MqttMessage(topic=topic, payload=payload))


def test_messages_are_read_with_their_words_for_people():
    said = read({"msgtype": 0, "msgver": 1, "list": [{"N": "a", "R": "1"}], "L": True})
    assert FileInfo(files=(("a", "1"),), takes_urls=True) == said.said
    assert {"type": "FILE_INFO", "files": {"a": "1"}, "urls": True} == said.body
    said = read({"msgtype": 4, "msgver": 1, "N": "a", "R": "1", "P": 3, "S": -5})
    assert {"type": "FILE_STATUS", "file": "a", "revision": "1", "phase": 3, "code": -5} == said.body


def test_requests_for_chunks_are_the_block_planes():
    request = {"msgtype": 2, "msgver": 1, "N": "a", "R": "1", "O": 0, "L": 1024}
    dialect = XivelyDialect({"product": "prod"})
    assert dialect.is_for_blocks(MqttMessage(topic="xi/ctrl/v1/d1/svc", payload=cbor2.dumps(request)))
    assert not dialect.is_for_blocks(MqttMessage(topic="xi/ctrl/v1/d1/svc", payload=cbor2.dumps({"msgtype": 0})))
    assert read(dict(reversed(request.items()))) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xa0",
        {"msgtype": 0, "msgver": 1, "list": [{"N": "../x", "R": "1"}]},
        {"msgtype": 1, "msgver": 1, "list": []},
        {"msgtype": 4, "msgver": 1, "N": "a/b", "R": "1", "P": 3, "S": 0},
    ],
)
def test_what_is_no_message_is_rejected_in_the_devices_name(body):
    found = read(body)
    assert isinstance(found, Rejected)
    assert DeviceId("prod", "d1") == found.device


@pytest.mark.parametrize(
    "topic",
    ["xi/ctrl/v1//svc", "xi/ctrl/v1/svc", "xi/ctrl/v1/a b/svc", "xi/ctrl/v1/a/b/svc", "xi/ctrl/v1/d1/cln", "x", ""],
)
def test_a_topic_that_names_no_device_is_malformed(topic):
    with pytest.raises(Malformed):
        read(b"\xa0", topic=topic)


def test_the_product_is_what_is_set_for_the_devices_name():
    body = {"msgtype": 4, "msgver": 1, "N": "a", "R": "1", "P": 3, "S": 0}
    assert "meters" == read(body, topic="xi/ctrl/v1/m-1/svc", products={"m-*": "meters"}).device.product
    assert "prod" == read(body, products={"m-*": "meters"}).device.product
    with pytest.raises(Malformed):
        XivelyDialect({"products": {"m-*": "meters"}}).read(MqttMessage(topic="xi/ctrl/v1/d1/svc", payload=b""))


def test_a_file_can_be_set_to_be_a_component():
    scene = Scene(files=["boot.img"], options={"files": {"boot.img": "bootloader"}}).connects()
    assert {"firmware", "bootloader"} == set(scene.world.read(lambda unit: unit.devices.get(scene.id)).parts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nope": 1}, "dialects.xively.nope"),
        ({"quiet_s": 10}, "quiet_s"),
        ({"quiet_s": "30"}, "quiet_s"),
        ({"claim_after_s": -1}, "claim_after_s"),
        ({"files": {"a": "NO"}}, "dialects.xively.files.a"),
        ({"products": {"a": 1}}, "dialects.xively.products.a"),
    ],
)
def test_settings_that_cannot_be_used_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        XivelyDialect({"product": "demo", **options})


def test_nothing_raises_whatever_the_dialect_is_handed():
    dialect, standing = (
        XivelyDialect({"product": "prod"}),
        Standing(device=DeviceId("prod", "d1"), wall=0.0, is_known=False, parts={}, memory=b"\xff{"),
    )
    assert [] == list(dialect.hear("nonsense", standing).uplinks)
    assert [] == list(dialect.tell(Occasion(is_woken=True), standing).messages)


def test_a_record_of_the_dialect_from_a_device_that_nobody_knows_is_kept_by_nobody():
    scene = Scene()
    assert [] == [one for one in heard(scene, FileStatus(name="a", revision="1", phase=5, code=0))]  # noqa: C416
    assert scene.world.read(lambda unit: unit.memories.get(scene.id)) is None
    assert Said is not None
