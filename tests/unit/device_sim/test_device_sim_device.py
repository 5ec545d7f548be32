"""The device against a bridge of the test's own: the happy paths, lossy lines, restarts, the wire rules."""

from random import Random

import pytest
from device_sim_bridge import SLOT_BYTES, Author, Lab, payload_for, sha

from device_sim.download import list_bytes
from device_sim.errors import FlashPowerCut
from device_sim.manifest import read_manifest
from device_sim.model import DeviceConfig, Fault, Phase, Result

IMAGE = Random(7).randbytes(100_001)


@pytest.fixture
def lab(tmp_path):
    made = []

    def make(image=IMAGE, **options):
        changes = {
            name: options.pop(name)
            for name in list(options)
            if name in DeviceConfig.__dataclass_fields__ and name != "encoding"
        }
        config = DeviceConfig(
            **{"product": "p", "device": "d1", "hw": "r1", "slot_bytes": SLOT_BYTES, **changes},
            encoding=options.get("encoding", "msgpack"),
        )
        made.append(Lab(tmp_path / "flash", image, config=config, **options))
        return made[-1]

    yield make
    for lab in made:
        lab.kill()


def assert_confirmed(lab):
    seen = lab.device.snapshot()
    assert Result.CONFIRMED is seen.result
    assert sha(lab.image) == lab.slot_digest() == lab.storage.settings.digest
    assert {"firmware": lab.payload[2]} == lab.storage.settings.seqs


@pytest.mark.parametrize("window", [1, 4, 16])
@pytest.mark.parametrize("block", [64, 1000, 4096, 16384])
def test_every_block_size_and_window_delivers_the_same_bytes(lab, block, window):
    bench = lab(block_bytes=block, window=window)
    bench.run_settled()
    assert_confirmed(bench)
    assert len(IMAGE) + 32 * 25 == bench.payload_bytes


@pytest.mark.parametrize("chunk_log2", [8, 11, 12, 13, 16])
@pytest.mark.parametrize("block", [100, 5000])
def test_every_chunk_size_meets_every_block_size(lab, chunk_log2, block):
    bench = lab(block_bytes=block, payload=payload_for(IMAGE, chunk_log2=chunk_log2))
    bench.run_settled()
    assert_confirmed(bench)


@pytest.mark.parametrize("size", [1, 255, 4095, 4096, 4097, SLOT_BYTES])
def test_images_of_odd_sizes_up_to_the_slot_fit(lab, size):
    bench = lab(image=Random(size).randbytes(size))
    bench.run_settled()
    assert_confirmed(bench)


def test_a_periodic_check_in_on_its_way_does_not_unsettle_a_device(lab):
    bench = lab()
    bench.run_settled()
    before = len(bench.check_ins())
    bench.run(lambda: len(bench.check_ins()) > before, limit_s=10_000)
    assert bench.device.snapshot().settled


def test_l0_asks_for_no_chunk_list(lab):
    bench = lab(level="L0")
    bench.run_settled()
    assert_confirmed(bench)
    assert len(IMAGE) == bench.payload_bytes


def test_json_devices_speak_json_with_base64(lab):
    bench = lab(encoding="json", online_key=Author(2))
    bench.run_settled()
    assert_confirmed(bench)
    assert all(isinstance(report["nonce"], str) for report in bench.check_ins())


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_short_offer_is_fetched_by_digest(lab, encoding):
    bench = lab(encoding=encoding, online_key=Author(2), short_form=True, block_bytes=64)
    bench.run_settled()
    assert_confirmed(bench)


def test_the_first_check_in_says_what_the_contract_names(lab):
    bench = lab(offering=False)
    bench.run(lambda: bench.reports)
    report = bench.reports[0]
    nonce = report.pop("nonce")
    assert 16 == len(nonce)
    assert {
        "type": "report_version",
        "report": {"version": "1.0.0"},
        "proto": 1,
        "hw": "r1",
        "boot": 1,
        "seq": 1,
        "max_packet": 20_000,
        "max_block": 1024,
        "max_window": 4,
        "next_s": 30,
        "parts": {"firmware": ["1.0.0", 0, b"", 0]},
        "have": [],
        "keys": 1,
    } == report


def test_the_trial_is_confirmed_only_after_its_acknowledgement(lab):
    bench = lab()
    seen = []
    bench.on_report = lambda report: seen.append(
        (report["boot"], report["parts"]["firmware"], dict(bench.storage.settings.seqs))
        if report["type"] == "report_version"
        else report["report"]["progress"]["state"]
    )
    bench.run_settled()
    digest = sha(IMAGE)[:8]
    assert [
        "downloaded",
        "burning",
        (2, ["1.1.0", 2, digest, 1], {}),
        (2, ["1.1.0", 2, digest, 0], {"firmware": 2}),
    ] == [entry for entry in seen if entry != "downloading"]


def test_downloading_is_told_at_most_once_per_ten_percent(lab):
    bench = lab(pace_bps=5000)
    bench.run_settled()
    percents = [
        int(r["report"]["progress"]["percent"])
        for r in bench.reports
        if r["type"] == "report_progress" and "percent" in r["report"]["progress"]
    ]
    assert percents == sorted(set(percents))
    assert all(percent % 10 == 0 for percent in percents)


def test_the_pace_is_kept(lab):
    bench = lab(pace_bps=20_000)
    bench.run_settled()
    assert 100_001 / 20_000 * 0.95 <= bench.now <= 100_001 / 20_000 * 1.2


@pytest.mark.parametrize("block", [1000, 4096])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_lossy_line_costs_at_most_twelve_percent(lab, seed, block):
    image = Random(3).randbytes(SLOT_BYTES)
    bench = lab(image=image, seed=seed, loss=0.05, dup=0.01, block_bytes=block, window=4)
    bench.run_settled()
    assert_confirmed(bench)
    assert bench.payload_bytes / len(image) <= 1.12
    assert bench.device.stats.retries > 0


def test_blocks_out_of_order_and_doubled_do_no_harm(lab):
    bench = lab(window=16)
    rng = Random(5)
    push = bench._push

    def shuffled(kind, payload, after_s):
        for _ in range(1 + (kind == "block" and rng.random() < 0.2)):
            push(kind, payload, after_s + (rng.random() * 0.1 if kind == "block" else 0.0))

    bench._push = shuffled
    bench.run_settled()
    assert_confirmed(bench)
    assert len(IMAGE) + 32 * 25 == bench.payload_bytes


def test_a_slow_answer_is_not_asked_for_twice_once_it_is_known(lab):
    bench = lab(delay_s=1.2)
    bench.run_settled()
    assert 0 == bench.device.stats.retries


def test_only_what_is_missing_is_asked_for_again(lab):
    bench = lab(window=8)
    lost = []

    def lose(block):
        if len(lost) < 2 and block[1] in {1024 * 9, 1024 * 11} and block[1] not in lost:
            lost.append(block[1])
            return [b"x" * 8, 0, b""]
        return block

    bench.mangle = lose
    bench.run_settled()
    assert [(1024 * 9, 1024, 2, b"\x05")] == [request[1:] for request in bench.requests if len(request) == 5]
    assert len(IMAGE) + 32 * 25 + 2 * 1024 == bench.payload_bytes


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_costs_at_most_a_chunk_and_a_window(lab, seed):
    image = Random(9).randbytes(200_000)
    bench = lab(image=image, window=4, block_bytes=1000)
    rng, kills = Random(seed), 5
    for _ in range(kills):
        blocks = bench.device.stats.blocks + rng.randrange(1, 35)
        bench.run(lambda blocks=blocks: bench.device.stats.blocks >= blocks)
        bench.kill()
        bench.power_on()
    bench.run_settled()
    assert_confirmed(bench)
    again = bench.payload_bytes - len(image) - list_bytes(read_manifest(bench.trust, bench.envelope))
    assert 0 <= again <= kills * (4096 + 4 * 1000)


def test_a_restarted_device_goes_on_after_its_check_in_without_an_offer(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().position > 40_000)
    bench.offering = False
    bench.kill()
    bench.power_on()
    bench.run_settled()
    assert_confirmed(bench)
    assert [sha(IMAGE)[:8], 36_864] < bench.check_ins()[1]["have"][0]


def test_a_power_cut_at_every_flash_operation_leaves_a_device_that_checks_in(tmp_path):
    image = Random(1).randbytes(9000)
    dry = Lab(tmp_path / "dry", image)
    dry.run_settled()
    operations = dry.flash.ops
    dry.kill()
    assert operations > 15
    for operation in range(1, operations + 1):
        bench = Lab(tmp_path / f"cut{operation}", image)
        bench.flash.cut_power_at(operation - bench.flash.ops)
        if operation <= bench.flash.ops:  # during the very first boot, tried below
            bench.kill()
            continue
        with pytest.raises(FlashPowerCut):
            bench.run_settled()
        bench.kill()
        before = len(bench.check_ins())
        bench.power_on()
        bench.run(lambda bench=bench: bench.device.snapshot().result is Result.CONFIRMED)
        assert len(bench.check_ins()) > before
        assert sha(image) == bench.slot_digest()
        bench.kill()


def test_a_reset_connection_changes_nothing_but_a_check_in(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().position > 40_000)
    bench.queue.clear()
    bench.device.disconnected()
    bench.now += 20
    assert [] == bench.device.tick(bench.now)
    bench._do(bench.device.connected(bench.now))
    bench.run_settled()
    assert_confirmed(bench)
    assert bench.payload_bytes <= len(IMAGE) + 32 * 25 + 4096


def test_reports_are_repeated_until_acknowledged(lab):
    bench = lab(acking=False)
    bench.run(lambda: len(bench.reports) == 4)
    assert [bench.reports[0]] * 4 == bench.reports
    bench.acking = True
    bench.run_settled()
    assert_confirmed(bench)


@pytest.mark.parametrize("boot", [0, 2, True, None])
def test_an_acknowledgement_that_is_not_of_this_boot_is_none(lab, boot):
    bench = lab(acking=False, offering=False)
    bench.run(lambda: len(bench.check_ins()) == 1)
    bench.send({"type": "report_ack", "boot": boot, "seqs": [1]})
    bench.run(lambda: len(bench.check_ins()) == 2)
    assert [1, 1] == [report["seq"] for report in bench.check_ins()]
    assert bench.now < 5


def test_a_dead_bridge_is_asked_ever_more_rarely(lab):
    bench = lab(offering=True)
    bench.run(lambda: bench.device.snapshot().position > 20_000)
    bench._get = lambda payload: bench.requests.append(payload)
    before, start = len(bench.requests), bench.now
    bench.run(lambda: bench.now > start + 120)
    assert 8 <= len(bench.requests) - before <= 30


@pytest.mark.parametrize("changes", [{"boot": 9}, {"nonce": b"x" * 16}])
def test_an_offer_that_answers_another_check_in_is_dropped(lab, changes):
    bench = lab(offering=False)
    bench.run(lambda: bench.reports)
    bench.offer(bench.reports[0], **changes)
    bench.run(lambda: bench.device.stats.dropped)
    assert (0, []) == (bench.storage.image_erases, bench.requests)


def test_the_same_offer_again_restarts_nothing(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().position > 40_000)
    erases = bench.storage.image_erases
    bench.offer(bench.check_ins()[0], nonce=b"another check-in")
    bench.run_settled()
    assert_confirmed(bench)
    assert (erases, len(IMAGE) + 800) == (bench.storage.image_erases, bench.payload_bytes)


def test_another_deployment_of_the_same_manifest_goes_on(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().position > 40_000)
    bench.deployment = "second"
    bench.offer(bench.check_ins()[-1])
    bench.run_settled()
    assert_confirmed(bench)
    assert "second" == bench.reports[-3]["id"] == bench.storage.settings.installed_id
    assert bench.payload_bytes <= len(IMAGE) + 32 * 25 + 2 * 4096


def test_that_it_was_canceled_is_told_also_after_a_power_cut(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().position > 40_000)
    bench.offering = bench.acking = False
    bench.send({"type": "cancel_update", "id": bench.deployment})
    bench.run(lambda: bench.states()[-1] == "canceled")
    bench.kill()
    bench.power_on()
    bench.reports.clear()
    bench.acking = True
    bench.run(lambda: bench.states())
    assert ["canceled"] == bench.states()


def test_an_offer_that_crossed_the_end_of_its_deployment_begins_nothing(lab):
    bench = lab()
    bench.run(lambda: bench.device.snapshot().position > 40_000)
    bench.offering = False
    bench.send({"type": "cancel_update", "id": bench.deployment})
    bench.run(lambda: bench.states()[-1] == "canceled")
    requests = len(bench.requests)
    bench.offer(bench.check_ins()[-1])
    bench.run(lambda: bench.states()[-2:] == ["canceled", "canceled"])
    assert requests == len(bench.requests)
    bench.deployment = "another"
    bench.offer(bench.check_ins()[-1])
    bench.run(lambda: bench.device.snapshot().result is Result.CONFIRMED)
    assert_confirmed(bench)


def test_the_installed_image_is_claimed_and_not_fetched_again(lab):
    bench = lab()
    bench.run_settled()
    requests = len(bench.requests)
    bench.offer(bench.check_ins()[-1])
    bench.run(lambda: "done" in bench.states())
    assert requests == len(bench.requests)


def test_on_command_waits_for_the_command(lab):
    bench = lab(apply="on_command")
    bench.run(lambda: bench.now > 100)
    assert Phase.DOWNLOADED is bench.device.snapshot().phase
    bench.send({"type": "apply_update", "id": "another"})
    bench.send({"type": "apply_update", "id": bench.deployment})
    bench.run_settled()
    assert_confirmed(bench)


def test_a_window_is_waited_for(lab):
    bench = lab(offer_extra={"start_in_s": 25, "length_s": 10})
    bench.run(lambda: "burning" in bench.states())
    assert 25 <= bench.now <= 36


def test_a_window_that_was_missed_is_over_and_the_next_offer_decides(lab):
    bench = lab(offer_extra={"start_in_s": 0, "length_s": 5})
    bench.refuse = lambda request: [4, 3, 16384, 16] if bench.now < 10 else None
    bench.run(lambda: bench.requests)
    bench.offering = False
    bench.run(lambda: bench.now > 100)
    assert (Phase.DOWNLOADED, 0) == (bench.device.snapshot().phase, bench.states().count("burning"))
    bench.offering, bench.offer_extra = True, {}
    bench.run_settled()
    assert_confirmed(bench)


def test_a_stop_keeps_the_image_until_the_next_offer(lab):
    bench = lab(verdict="stop")
    bench.run(lambda: "burning" in bench.states())
    bench.offering = False
    bench.run(lambda: bench.now > 100)
    assert (Phase.DOWNLOADED, 1) == (bench.device.snapshot().phase, bench.states().count("burning"))
    bench.verdict, bench.offering = "go", True
    bench.run_settled()
    assert_confirmed(bench)


def test_burning_is_repeated_until_there_is_a_verdict(lab):
    bench = lab(verdict=None)
    bench.run(lambda: bench.states().count("burning") == 3)
    bench.verdict = "go"
    bench.run_settled()
    assert_confirmed(bench)


def test_without_a_verdict_nothing_is_installed_and_the_device_checks_in_instead(lab):
    bench = lab(verdict=None)
    bench.run(lambda: "burning" in bench.states())
    bench.offering, before = False, len(bench.check_ins())
    bench.run(lambda: bench.now > 200)
    assert (0, Phase.DOWNLOADED) == (bench.reboots, bench.device.snapshot().phase)
    assert len(bench.check_ins()) > before


@pytest.mark.parametrize("verdict", ["go", "stop"])
def test_a_verdict_on_another_deployment_is_none_on_this(lab, verdict):
    bench = lab(verdict=None)
    bench.on_report = lambda report: (
        bench.send({"type": "report_ack", "boot": report["boot"], "seqs": [report["seq"]], verdict: ["another"]})
        if report["report"].get("progress", {}).get("state") == "burning"
        else None
    )
    bench.run(lambda: bench.states().count("burning") == 3)
    assert (0, Phase.INSTALLING) == (bench.reboots, bench.device.snapshot().phase)


@pytest.mark.parametrize(("code", "low_s", "high_s"), [(4, 3, 6), (5, 3, 6)])
def test_busy_and_paused_wait_as_long_as_they_say(lab, code, low_s, high_s):
    bench = lab()
    bench.refuse = lambda request: [code, 3, 16384, 16] if bench.now < 2 else None
    bench.run_settled()
    assert_confirmed(bench)
    assert low_s <= bench.now <= high_s


@pytest.mark.parametrize(("code", "low_s", "high_s"), [(5, 1, 10), (4, 40, 65)])
def test_a_check_in_ends_the_wait_for_a_pause_and_never_that_for_a_share(lab, code, low_s, high_s):
    bench = lab(check_in_every_s=1)
    bench.refuse = lambda request: [code, 40, 16384, 16] if bench.now < 1 else None
    bench.run_settled()
    assert_confirmed(bench)
    assert low_s <= bench.now <= high_s


@pytest.mark.parametrize("code", [1, 2, 6])
def test_nothing_open_stops_the_asking_until_a_check_in(lab, code):
    bench = lab()
    bench.refuse = lambda request: [code, 0, 16384, 16] if bench.now < 2 else None
    bench.run_settled()
    assert_confirmed(bench)
    assert len(bench.check_ins()) > 3
    assert "fail" not in bench.states()


def test_limits_that_are_told_are_kept(lab):
    bench = lab(block_bytes=4096, window=8)
    bench.refuse = lambda request: None if request[2] <= 512 and request[3] <= 2 else [3, 0, 512, 2]
    bench.run_settled()
    assert_confirmed(bench)
    assert 1 == bench.device.stats.block_refusals


def test_limits_of_the_offer_are_kept(lab):
    bench = lab(block_bytes=4096, window=8, offer_extra={"block_max": 700, "window_max": 3})
    bench.run_settled()
    assert_confirmed(bench)
    assert (700, 3) == (max(r[2] for r in bench.requests), max(r[3] for r in bench.requests))


def test_a_bad_chunk_is_fetched_again_and_only_that(lab):
    bench = lab(fault=Fault.parse("corrupt_chunk_once=5"), window=1, block_bytes=1024)
    bench.run_settled()
    assert_confirmed(bench)
    assert len(IMAGE) + 800 + 4096 == bench.payload_bytes


@pytest.mark.parametrize("level", ["L0", "L1"])
def test_an_image_that_is_not_the_signed_one_never_gets_a_boot_flag(lab, level):
    bench = lab(level=level, fault=Fault.parse("corrupt_chunk=5"), window=1, block_bytes=4096)
    bench.run_settled()
    seen = bench.device.snapshot()
    assert (Result.FAILED, "none", True) == (
        seen.result,
        bench.storage.settings.trial,
        bench.storage.settings.factory,
    )
    assert "REFUSED_DIGEST" == bench.reports[-1]["report"]["progress"]["result_code"]
    asked = [r for r in bench.requests if r[1] == 5 * 4096]
    assert (4 if level == "L1" else 1) == len(asked)
    if level == "L1":
        area = bench.storage.layout.slots[1]
        assert bench.flash.is_erased(area.offset + 5 * 4096, 4096)


def test_a_chunk_list_that_is_not_the_signed_one_fails_after_four_fetches(lab):
    bench = lab()
    bench.serve(bench.payload[11], b"\x00" * 800)
    bench.run_settled()
    assert "REFUSED_DIGEST" == bench.reports[-1]["report"]["progress"]["result_code"]
    assert 4 * 800 == bench.payload_bytes


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"seq": 0}, "REFUSED_ROLLBACK"),
        ({"hw": "r9"}, "REFUSED_CLASS"),
        ({"k24": 1}, "REFUSED_TYPE"),
        ({"k8": SLOT_BYTES + 1}, "REFUSED_SIZE"),
        ({"k20": [["radio", 1]]}, "REFUSED_DEP"),
        ({"k17": b"x" * 32}, "REFUSED_PRECURSOR"),
    ],
)
@pytest.mark.parametrize("short_form", [False, True])
def test_a_refused_manifest_costs_no_erase_and_no_image_block(lab, changes, code, short_form):
    bench = lab(payload=payload_for(IMAGE, **changes), short_form=short_form)
    bench.run_settled()
    assert (Result.FAILED, code) == (
        bench.device.snapshot().result,
        bench.reports[-1]["report"]["progress"]["result_code"],
    )
    fetched = {sha(bench.envelope)[:8]} if short_form else set()
    assert (0, fetched) == (bench.storage.image_erases, {request[0] for request in bench.requests})


def test_every_flipped_bit_of_a_manifest_costs_no_erase_and_no_request(lab):
    bench = lab(offering=False)
    bench.run(lambda: bench.reports)
    for bit in range(0, len(bench.envelope) * 8, 3):
        flipped = bytearray(bench.envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        bench.offer(bench.check_ins()[-1], manifests=[bytes(flipped)])
        bench.run(lambda: bench.device.snapshot().settled)
        assert bench.device.snapshot().reason.startswith("REFUSED_SIG")
    assert (0, []) == (bench.storage.image_erases, bench.requests)


def test_a_stale_ticket_is_deferred_and_checked_in_anew(lab):
    bench = lab(online_key=Author(2), offer_extra={"ticket": b"stale"})
    bench.run(lambda: bench.states().count("defer") == 2)
    assert (0, []) == (bench.storage.image_erases, bench.requests)
    assert {"REFUSED_STALE"} == {
        r["report"]["progress"]["result_code"] for r in bench.reports if r["type"] == "report_progress"
    }
    bench.offer_extra = {}
    bench.run_settled()
    assert_confirmed(bench)


def test_a_final_report_waits_in_flash_over_a_restart(lab):
    bench = lab(payload=payload_for(IMAGE, hw="r9"))
    bench.run(lambda: bench.check_ins())
    bench.acking = False
    bench.run(lambda: "fail" in bench.states())
    bench.offering = False
    bench.kill()
    bench.acking = True
    bench.power_on()
    assert Result.FAILED is bench.device.snapshot().result
    bench.run(lambda: bench.states().count("fail") == 2 and bench.storage.settings.final is None)
    assert 2 == bench.reports[-1]["boot"]
