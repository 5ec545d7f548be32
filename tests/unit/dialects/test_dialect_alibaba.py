"""What messages of Alibaba's devices mean, and when a task goes out."""

import json
from random import Random

import pytest
from vendor_world import VendorWorld

from ota_bridge.core.errors import ConfigError, Malformed
from ota_bridge.core.messages import BlockActivity, Rejected
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.alibaba import (
    BEGUN_MAX,
    BUSY_S,
    DEFER_S,
    DEFERRED_MAX,
    RESEND_S,
    UNHEARD_MAX,
    AlibabaDialect,
)
from ota_bridge.wire import MqttMessage

DEVICE = DeviceId("prod", "dn")
IMAGE = Random(2).randbytes(10_000)
INFORM, PROGRESS = "/ota/device/inform/prod/dn", "/ota/device/progress/prod/dn"
GET, UPGRADE = "/sys/prod/dn/thing/ota/firmware/get", "/ota/device/upgrade/prod/dn"


class Scene(VendorWorld):
    """One device that says what a test says."""

    def __init__(self, options=None, **rules):
        super().__init__(AlibabaDialect(options or {}), **rules)

    def informs(self, version="1.0.0", module=""):
        params = {"version": version} | ({"module": module} if module else {})
        return self.says(INFORM, json.dumps({"id": 1, "params": params}).encode())

    def steps(self, step, **more):
        return self.says(PROGRESS, json.dumps({"id": 2, "params": {"step": step, "desc": ""} | more}).encode())

    def gets(self, **params):
        [reply] = self.says(GET, json.dumps({"id": "9", "params": params}).encode())
        return reply.topic, json.loads(reply.payload)

    def asks(self, high_water=4096):
        [one] = [one for one in self.deployments(DEVICE) if one.is_open]
        activity = BlockActivity(
            device=DEVICE, deployment=one.id, wall=self.world.wall, bytes_sent=1, blocks_sent=1, requests=1,
            high_water_bytes=high_water,
        )  # fmt: skip
        self._say(self.world.receive(activity))

    def tasks(self, seconds=0.0):
        """The versions that it was told of in this time."""
        before = len(self.told)
        self.passes(seconds)
        return [json.loads(one.payload)["data"].get("version") for one in self.told[before:] if one.topic == UPGRADE]


@pytest.fixture
def offered():
    scene = Scene()
    scene.informs()
    scene.rollout("2.0.0", IMAGE)
    return scene


# --- what is heard ---


def test_an_inform_enrols_and_tells_the_version():
    scene = Scene()
    assert [] == scene.informs("1.2.3")
    record = scene.world.read(lambda unit: unit.devices.get(DEVICE))
    assert ("alibaba", "1.2.3") == (record.dialect, record.parts["firmware"].version)


def test_modules_are_components_and_what_the_others_run_stands():
    scene = Scene({"modules": {"MCU": "mcu"}})
    scene.informs("1.0.0")
    scene.informs("5", module="MCU")
    scene.informs("7", module="radio")
    scene.informs("1.0.1", module="default")
    record = scene.world.read(lambda unit: unit.devices.get(DEVICE))
    assert {"firmware": "1.0.1", "mcu": "5", "radio": "7"} == {
        name: part.version for name, part in record.parts.items()
    }


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (INFORM, b""), (INFORM, b"{}"), (INFORM, b'{"params":{}}'), (INFORM, b'{"params":{"version":1}}'),
        (INFORM, b'{"params":{"version":"a b"}}'), (INFORM, b'{"params":{"version":"1","module":"No Such"}}'),
        (INFORM, b'{"params":{"version":"1","module":7}}'), (PROGRESS, b'{"params":{}}'),
        (PROGRESS, b'{"params":{"step":"101"}}'), (PROGRESS, b'{"params":{"step":"-5"}}'),
        (PROGRESS, b'{"params":{"step":"x"}}'), (PROGRESS, b'{"params":{"step":"1","desc":[]}}'),
        (GET, b'{"id":[]}'), (GET, b'{"id":1,"params":7}'),
    ],
)  # fmt: skip
def test_a_bad_payload_is_rejected_by_name(topic, payload):
    found = AlibabaDialect({}).read(MqttMessage(topic=topic, payload=payload))
    assert isinstance(found, Rejected)
    assert DEVICE == found.device


def test_a_topic_of_nobody_is_malformed_and_a_block_request_is_the_block_planes():
    dialect = AlibabaDialect({})
    with pytest.raises(Malformed):
        dialect.read(MqttMessage(topic="/ota/device/inform/prod", payload=b"{}"))
    assert dialect.read(MqttMessage(topic="/sys/prod/dn/thing/file/download", payload=b"{}")) is None


@pytest.mark.parametrize("step", ["6", 6])
def test_a_percent_may_be_text_or_number(offered, step):
    offered.steps(step)
    [one] = offered.deployments(DEVICE)
    assert ("DOWNLOADING", 6) == (one.state.value, one.percent)


def test_a_percent_of_a_large_image_is_not_believed():
    scene = Scene()
    scene.informs()
    scene.rollout("2.0.0", bytes(42_949_673))
    scene.steps("6")
    assert scene.deployments(DEVICE)[0].percent is None


def test_a_hundred_is_a_claim_and_the_next_version_decides(offered):
    offered.steps("100")
    assert ["INSTALLING"] == offered.states(DEVICE)
    offered.informs("2.0.0")
    assert ["CONFIRMED"] == offered.states(DEVICE)


def test_the_old_version_after_a_hundred_is_a_roll_back(offered):
    offered.steps("100")
    offered.informs("1.0.0")
    assert ["ROLLED_BACK", "QUEUED"] == offered.states(DEVICE)


@pytest.mark.parametrize(
    ("step", "words"),
    [("-1", "upgrade failed"), ("-2", "download failed"), ("-3", "checksum"), ("-4", "no good blocks")],
)
def test_a_step_below_zero_ends_the_attempt_with_its_code(offered, step, words):
    offered.asks()
    offered.steps(step)
    first = offered.deployments(DEVICE)[-1]
    assert ("FAILED", step) == (first.state.value, first.result_code)
    assert words in first.cause


def test_what_the_device_says_of_it_goes_before(offered):
    offered.asks()
    offered.steps("-1", desc="flash is worn")
    assert "flash is worn" in offered.deployments(DEVICE)[-1].cause


def test_a_device_that_gave_up_before_it_was_served_is_offered_it_later_and_not_for_ever(offered):
    for _ in range(DEFERRED_MAX):
        offered.asks(high_water=0)
        offered.steps("-4")
        assert ["DEFERRED"] == offered.states(DEVICE)
        assert ["2.0.0"] == offered.tasks(DEFER_S + 1)
    offered.asks(high_water=0)
    offered.steps("-4")
    assert "FAILED" == offered.states(DEVICE)[0]


def test_progress_of_what_is_not_open_moves_nothing():
    scene = Scene()
    scene.informs()
    assert [] == scene.steps("50")
    assert [] == scene.states(DEVICE)


def test_a_device_that_took_all_and_informs_of_the_old_version_has_failed(offered):
    offered.asks(high_water=len(IMAGE))
    offered.informs()
    first = offered.deployments(DEVICE)[-1]
    assert ("FAILED", "old_version") == (first.state.value, first.result_code)


# --- when a task goes out ---


def test_a_task_goes_out_when_it_is_due_and_at_qos_0(offered):
    [push] = offered.told
    assert (UPGRADE, 0, False) == (push.topic, push.qos, push.retain)
    assert {"2.0.0", "Md5", 1} <= set(json.loads(push.payload)["data"].values())


def test_a_device_that_comes_back_and_had_begun_nothing_is_told_once_more(offered):
    offered.passes(BUSY_S)
    offered.informs()
    assert 2 == len(offered.told)


def test_a_device_in_a_boot_loop_is_not_told_each_time(offered):
    for _ in range(10):
        offered.passes(1)
        offered.informs()
    assert 1 == len(offered.told)


def test_a_device_that_hears_nothing_is_told_a_few_times_and_then_left_in_peace_until_it_speaks(offered):
    assert UNHEARD_MAX - 1 == len(offered.tasks(20 * RESEND_S))
    assert [] == offered.tasks(100 * RESEND_S)
    offered.informs()
    assert UNHEARD_MAX + 1 == len(offered.told)


def test_no_second_task_goes_out_while_a_download_runs(offered):
    for at in range(50):
        offered.asks(high_water=100 * (at + 1))
        assert [] == offered.tasks(RESEND_S / 2)
    assert 1 == len(offered.told)


def test_an_inform_in_the_middle_of_a_download_brings_a_task_only_when_nothing_more_is_asked_for(offered):
    offered.asks()
    offered.passes(1)
    offered.informs()
    assert [] == offered.tasks(BUSY_S - 2)
    offered.asks(high_water=5000)
    assert [] == offered.tasks(RESEND_S - 2)
    assert ["2.0.0"] == offered.tasks(4)


def test_a_device_that_starts_again_in_the_middle_of_a_download_need_not_wait_long(offered):
    offered.asks()
    offered.passes(1)
    offered.informs()
    assert ["2.0.0"] == offered.tasks(BUSY_S + 1)


def test_a_download_that_stands_still_is_begun_again_and_not_for_ever(offered):
    for _ in range(BEGUN_MAX - 1):
        offered.asks(high_water=300)
        assert ["2.0.0"] == offered.tasks(RESEND_S + 2)
    offered.asks(high_water=300)
    assert [] == offered.tasks(RESEND_S + 2)
    first = offered.deployments(DEVICE)[-1]
    assert ("FAILED", "no_end") == (first.state.value, first.result_code)
    assert f"it began {BEGUN_MAX} times" in first.cause


def test_after_a_hundred_no_task_goes_out(offered):
    offered.asks(high_water=len(IMAGE))
    offered.steps("100")
    assert [] == offered.tasks(10 * RESEND_S)


def test_what_it_runs_it_is_never_told_of():
    scene = Scene()
    scene.informs("2.0.0")
    scene.rollout("2.0.0", IMAGE)
    assert [] == scene.tasks(10 * RESEND_S)


def test_a_paused_rollout_tells_nothing_and_a_resumed_one_does(offered):
    [one] = offered.deployments(DEVICE)
    offered.do("rollout.pause", rollout=one.rollout)
    offered.passes(BUSY_S)
    assert [] == offered.informs()
    assert [] == offered.tasks(3 * RESEND_S)
    offered.do("rollout.resume", rollout=one.rollout)
    offered.passes(BUSY_S)
    assert 2 <= len(offered.told)


def test_two_components_are_told_one_after_the_other():
    scene = Scene({"modules": {"MCU": "mcu"}})
    scene.informs()
    scene.informs("1", module="MCU")
    scene.world.release("9", component="mcu", release="2.0.0", image=IMAGE[:5000])
    scene.rollout("2.0.0", IMAGE)
    scene.passes(2)
    versions = [json.loads(one.payload)["data"]["version"] for one in scene.told]
    assert 1 == len(versions)
    other = ({"9", "2.0.0"} - set(versions)).pop()
    scene.steps("100", **({"module": "MCU"} if versions == ["9"] else {}))
    scene.passes(BUSY_S + 2)
    assert other == json.loads(scene.told[-1].payload)["data"]["version"]


def test_a_task_for_a_module_names_it_as_the_device_does():
    scene = Scene({"modules": {"MCU": "mcu"}})
    scene.informs("1", module="MCU")
    scene.rollout("9", IMAGE, component="mcu")
    assert "MCU" == json.loads(scene.told[0].payload)["data"]["module"]


# --- a device that asks ---


def test_who_asks_and_has_no_task_is_told_so():
    scene = Scene()
    scene.informs()
    expected = {"code": 200, "data": {}, "id": "9", "message": "success"}
    assert ("/sys/prod/dn/thing/ota/firmware/get_reply", expected) == scene.gets()


def test_who_asks_gets_the_task_in_the_answer_and_no_second_one(offered):
    offered.passes(1)
    before = len(offered.told)
    _, reply = offered.gets()
    assert "2.0.0" == reply["data"]["version"]
    assert before + 1 == len(offered.told)


def test_who_asks_while_its_download_runs_is_told_nothing_that_would_begin_it_anew(offered):
    offered.asks()
    assert {} == offered.gets()[1]["data"]
    offered.passes(BUSY_S + 1)
    assert "2.0.0" == offered.gets()[1]["data"]["version"]


def test_a_device_that_is_known_to_ask_is_given_the_time_to_ask_first():
    scene = Scene()
    scene.informs()
    scene.gets()
    scene.passes(60)
    scene.rollout("2.0.0", IMAGE)
    first = len(scene.told)
    scene.passes(BUSY_S)
    assert [] == scene.informs()
    assert "2.0.0" == scene.gets()[1]["data"]["version"]
    assert first + 1 == len(scene.told)


def test_who_asks_for_another_module_gets_nothing(offered):
    assert {} == offered.gets(module="radio")[1]["data"]


# --- cancel ---


def test_a_canceled_download_ends_at_once_because_its_blocks_are_refused(offered):
    offered.asks()
    offered.do("rollout.cancel", rollout=offered.deployments(DEVICE)[0].rollout)
    assert ["CANCELED"] == offered.states(DEVICE)
    offered.steps("-4")
    assert ["CANCELED"] == offered.states(DEVICE)


def test_an_image_that_is_all_there_may_be_installed_in_spite_of_a_cancel(offered):
    offered.asks(high_water=len(IMAGE))
    offered.do("rollout.cancel", rollout=offered.deployments(DEVICE)[0].rollout)
    assert ["CANCELING"] == offered.states(DEVICE)
    offered.informs("2.0.0")
    assert ["CONFIRMED"] == offered.states(DEVICE)


# --- settings and memory ---


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"no": 1}, "dialects.alibaba.no"),
        ({"prefix": "/a"}, "prefix"),
        ({"prefix": "a/"}, "prefix"),
        ({"prefix": "a/+"}, "prefix"),
        ({"product": "a b"}, "product"),
        ({"products": {"pk": "a b"}}, "products.pk"),
        ({"products": {"pk": 1}}, "products.pk"),
        ({"modules": {"M": "Not"}}, "modules.M"),
        ({"resend_s": 5}, "resend_s"),
        ({"resend_s": float("nan")}, "resend_s"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error_by_name(options, why):
    with pytest.raises(ConfigError, match=why):
        AlibabaDialect(options)


def test_answers_go_where_the_device_spoke_last():
    scene = Scene({"prefix": "ali", "product": "prod"})
    scene.says("ali/dev1/ota/device/inform/pk/dn", b'{"params":{"version":"1.0.0"}}')
    scene.says("ali/dev1//ota/device/inform/pk/dn", b'{"params":{"version":"1.0.0"}}')
    scene.rollout("2.0.0", IMAGE)
    assert ["ali/dev1//ota/device/upgrade/pk/dn"] == [one.topic for one in scene.told]


def test_a_clock_that_was_set_back_keeps_no_task_back(offered):
    offered.passes(5)
    offered.world.wall -= 1_000_000
    offered.informs()
    assert ["2.0.0"] == offered.tasks(RESEND_S + 2)


def test_what_is_kept_of_a_device_is_small(offered):
    offered.asks()
    offered.steps("6")
    assert 400 > len(offered.world.read(lambda unit: unit.memories.get(DEVICE)).data)
