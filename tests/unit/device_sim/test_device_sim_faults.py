"""What goes wrong on purpose: each ends as native-protocol.md §4 says."""

from random import Random

import msgpack
import pytest
from device_sim_bridge import Lab, payload_for, sha
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_sim import bootloader
from device_sim.errors import OptionError
from device_sim.model import Fault, Phase, Result
from device_sim.settings import Trial

IMAGE = Random(8).randbytes(20_000)


@pytest.fixture
def lab(tmp_path):
    made = []

    def make(fault="none", **options):
        made.append(Lab(tmp_path / f"flash{len(made)}", IMAGE, fault=Fault.parse(fault), **options))
        return made[-1]

    yield make
    for lab in made:
        lab.kill()


def story(lab):
    """What the bridge was told, without the noise."""
    lines = []
    for report in lab.reports:
        if report["type"] == "report_version":
            version, _, _, trial = report["parts"]["firmware"]
            line = f"{report['boot']} {version}{' trial' if trial else ''}"
        else:
            line = report["report"]["progress"]["state"]
        if line != "downloading" and line not in lines[-1:]:
            lines.append(line)
    return lines


def test_a_trial_that_never_confirms_is_ended_by_the_watchdog(lab):
    bench = lab("never_confirm")
    bench.run(lambda: bench.reboots == 1)
    bench.offering = False
    bench.run_settled()
    assert ["1 1.0.0", "downloaded", "burning", "2 1.1.0 trial", "3 1.0.0", "rolled_back"] == story(bench)
    assert (Result.ROLLED_BACK, Trial.NONE, {}) == (
        bench.device.snapshot().result,
        bench.storage.settings.trial,
        bench.storage.settings.seqs,
    )


def test_a_reboot_in_trial_rolls_back(lab):
    bench = lab("reboot_in=TRIAL")
    bench.run(lambda: "rolled_back" in bench.states())
    assert ["2 1.1.0 trial", "3 1.0.0", "rolled_back"] == story(bench)[3:6]
    bench.run(lambda: bench.device.snapshot().result is Result.CONFIRMED)


def test_a_reboot_while_installing_comes_back_old(lab):
    bench = lab("reboot_in=INSTALLING")
    bench.run(lambda: "rolled_back" in bench.states())
    assert ["1 1.0.0", "downloaded", "burning", "2 1.0.0", "rolled_back"] == story(bench)[:5]


def test_a_reboot_after_the_download_costs_nothing_twice(lab):
    bench = lab("reboot_in=DOWNLOADED")
    bench.run_settled()
    assert ["1 1.0.0", "downloaded", "2 1.0.0", "downloaded", "burning", "3 1.1.0 trial", "3 1.1.0"] == story(bench)
    assert len(IMAGE) + 5 * 32 == bench.payload_bytes


def test_a_factory_reset_after_the_confirm_is_updated_again(lab):
    bench = lab("factory_reset")
    bench.run_settled()
    told = story(bench)
    assert "3 1.0.0" == told[5]
    assert "4 1.1.0" == told[-1]
    assert sha(IMAGE) == bench.slot_digest()


@pytest.mark.parametrize("state", ["downloading", "on_command"])
def test_a_cancel_before_the_go_is_final(lab, state):
    bench = lab(apply="on_command")
    bench.run(
        lambda: bench.device.snapshot().phase is (Phase.DOWNLOADED if state == "on_command" else Phase.DOWNLOADING)
    )
    bench.offering = False
    bench.send({"type": "cancel_update", "id": bench.deployment})
    bench.run_settled()
    assert ("canceled", Result.CANCELED) == (bench.states()[-1], bench.device.snapshot().result)
    assert bench.storage.settings.download is None


def test_a_cancel_that_overtakes_the_go_wins(lab):
    bench = lab(verdict=None)
    bench.run(lambda: "burning" in bench.states())
    burning = bench.reports[-1]
    bench.offering = False
    bench.send({"type": "cancel_update", "id": bench.deployment})
    bench.send({"type": "report_ack", "boot": 1, "seqs": [burning["seq"]], "go": [bench.deployment]}, after_s=0.1)
    bench.run(lambda: not bench.queue and bench.device.snapshot().settled)
    assert ("canceled", 0, Trial.NONE) == (bench.states()[-1], bench.reboots, bench.storage.settings.trial)


def test_nothing_is_handed_to_the_bootloader_before_the_go(lab):
    bench = lab(verdict=None)
    bench.run(lambda: "burning" in bench.states())
    assert (Trial.NONE, "") == (bench.storage.settings.trial, bench.storage.settings.trial_id)
    bench.kill()
    bench.power_on()
    assert ("1.0.0", False) == (bench.device.version, bench.device.boot_log[-1].trial)


@pytest.mark.parametrize("boots", [2, 3])
def test_a_cancel_after_the_go_is_too_late(lab, boots):
    bench = lab()
    bench.run(lambda: bench.reboots == 1 if boots == 2 else bench.device.snapshot().settled)
    bench.send({"type": "cancel_update", "id": bench.deployment})
    bench.run(lambda: "too_late" in bench.states())
    bench.run_settled()
    assert Result.CONFIRMED is bench.device.snapshot().result


def test_a_cancel_that_comes_in_the_trial_is_too_late_and_the_trial_goes_on(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().phase is Phase.TRIAL)
    assert Trial.BOOTED is bench.storage.settings.trial
    bench._do(bench.device.update(msgpack.packb({"type": "cancel_update", "id": bench.deployment}), bench.now))
    bench.run(lambda: {"canceled", "too_late"} & set(bench.states()))
    assert "too_late" == bench.states()[-1]
    bench.run_settled()
    assert Result.CONFIRMED is bench.device.snapshot().result


def test_a_cancel_of_what_is_not_here_is_answered(lab):
    bench = lab(offering=False)
    bench.send({"type": "cancel_update", "id": "unknown"})
    bench.run(lambda: bench.states() == ["canceled"])


def test_a_bridge_can_ask_for_a_check_in(lab):
    bench = lab(offering=False)
    bench.send({"type": "check_in"}, after_s=5)
    bench.run(lambda: len(bench.check_ins()) == 2)
    assert bench.now < 6
    assert bench.reports[0]["nonce"] != bench.reports[1]["nonce"]


def test_an_older_manifest_replayed_after_a_confirm_is_a_rollback(lab):
    bench = lab()
    bench.run_settled()
    old = bench.author.envelope(payload_for(IMAGE[:5000], seq=1, version="1.0.5"))
    bench.offer(bench.check_ins()[-1], manifests=[old], id="replayed")
    bench.run(lambda: "fail" in bench.states())
    assert "REFUSED_ROLLBACK" == bench.reports[-1]["report"]["progress"]["result_code"]


def test_the_bootloader_refuses_a_slot_that_changed_after_the_check(lab):
    bench = lab()
    verify = bench.device._updater.installer.verdict

    def tampered(*, go):
        area = bench.storage.layout.slots[1]
        bench.flash.erase(area.offset, 4096)
        verify(go=go)

    bench.device._updater.installer.verdict = tampered
    bench.run(lambda: "rolled_back" in bench.states())
    assert "2 1.0.0" == story(bench)[3]


def test_an_installed_image_that_rots_falls_back_to_the_factorys(lab):
    bench = lab()
    bench.run_settled()
    area = bench.storage.layout.slots[bench.storage.settings.active]
    bench.flash.erase(area.offset, 4096)
    booted = bootloader.boot(bench.storage, bench.trust, bench.device._identity, factory_version="1.0.0")
    assert (None, "1.0.0", b"") == (booted.manifest, booted.version, bench.storage.settings.digest)


@pytest.mark.parametrize(
    "text", ["", "x", "reboot_in=IDLE", "reboot_in", "corrupt_chunk=x", "never_confirm=1", "power_cuts"]
)
def test_an_unknown_fault_is_refused_with_the_known_ones(text):
    with pytest.raises(OptionError, match="never_confirm"):
        Fault.parse(text)


wild = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("id", "component", "manifests", "ticket", "boot", "nonce", "apply", "seqs", "go", "stop", "start_in_s", "length_s",
          "block_max", "window_max", "version", "keyset")  # fmt: skip
updates = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(["update_firmware", "report_ack", "cancel_update", "apply_update", "check_in", "update_keys", "?"]),
    st.dictionaries(st.sampled_from(FIELDS), wild, max_size=4),
)
blocks = st.lists(wild, max_size=7)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.just("update"), st.binary(max_size=80) | updates.map(msgpack.packb))
        | st.tuples(st.just("block"), st.binary(max_size=80) | blocks.map(msgpack.packb)),
        min_size=1,
        max_size=5,
    )
)
def test_no_bytes_from_the_bridge_raise_or_stop_a_device(tmp_path, messages):
    path = tmp_path / "fuzz"
    path.unlink(missing_ok=True)
    bench = Lab(path, IMAGE)
    bench.run(lambda: bench.device.snapshot().position > 4000)
    for kind, payload in messages:
        event = bench.device.update if kind == "update" else bench.device.block
        bench._do(event(payload, bench.now))
    bench.run(lambda: bench.device.snapshot().result is Result.CONFIRMED)
    bench.kill()


@given(st.integers(0, 11), wild)
@example(2, [b""])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_good_offer_with_one_strange_field_raises_nothing(tmp_path, index, strange):
    path = tmp_path / "fuzz"
    path.unlink(missing_ok=True)
    bench = Lab(path, IMAGE, offering=False)
    bench.run(lambda: bench.reports)
    names = ["id", "component", "manifests", "ticket", "boot", "nonce", "apply", "start_in_s", "length_s",
             "block_max", "window_max", "type"]  # fmt: skip
    bench.offer(bench.reports[0], **{names[index]: strange})
    bench.run(lambda: not bench.queue)
    bench.deployment, bench.offering = "another", True  # what was refused stays refused
    bench.send({"type": "check_in"}, after_s=1.5)
    bench.run(lambda: bench.device.snapshot().result is Result.CONFIRMED, limit_s=90_000)
    bench.kill()
