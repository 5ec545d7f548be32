"""Layouts, and what a download leaves in flash: marks, units that a restart may have torn, the active slot."""

import dataclasses
from itertools import pairwise
from random import Random

import pytest
from device_sim_bridge import Lab, payload_for, sha

from device_sim import bootloader
from device_sim.chip import SECTOR_BYTES, Chip
from device_sim.errors import FlashMisuse, FlashPowerCut, ManifestRefused, Refusal
from device_sim.flash import Cut, Flash
from device_sim.layout import Layout
from device_sim.model import Result
from device_sim.settings import Trial
from device_sim.storage import Storage

IMAGE = Random(9).randbytes(40_000)
UNEVEN = Chip(runs=((18, 2048), (2, 8192), (5, 16384)), page_bytes=256)


LAYOUTS = [
    Layout.plain(1 << 20),
    Layout.place(Chip.even(80 * SECTOR_BYTES), (128 * 1024, 64 * 1024)),
    Layout.place(UNEVEN, (48 * 1024, 48 * 1024), slots_last=True),
    Layout.place(Chip(runs=((24, 8192),), word_bytes=32, page_bytes=32), (24 * 1024, 24 * 1024)),
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_parts_of_the_flash_share_no_sector(layout):
    spans = [(layout.settings, 2 * layout.chip.sector_at(layout.settings)[1]), *((at, 528) for at in layout.headers)]
    for area in (*layout.slots, layout.chunk_list):
        spans += [(area.offset, area.size_bytes), (area.marks, area.marks_bytes)]
        assert area.size_bytes // area.sector_bytes * layout.chip.word_bytes <= area.marks_bytes
    sectors = sorted((at, at + layout.chip.whole_sectors(at, size)) for at, size in spans)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(sectors))
    assert sectors[-1][1] <= layout.chip.size_bytes


def test_a_plain_layout_fills_its_chip_and_holds_what_it_always_did():
    layout = Layout.plain(1 << 20)
    assert (0, (8192, 1_064_960)) == (layout.settings, layout.headers)
    assert [12_288, 1_069_056] == [slot.offset for slot in layout.slots]
    assert layout.chunk_list.marks + layout.chunk_list.marks_bytes == layout.chip.size_bytes


def test_a_slot_over_unequal_sectors_is_filled_in_units_of_the_largest():
    first, second = Layout.place(UNEVEN, (48 * 1024, 48 * 1024), slots_last=True).slots
    assert (16384, 16384) == (first.sector_bytes, second.sector_bytes)
    assert (16384, 65536) == (first.unit_bytes(4096), first.unit_bytes(65536))


@pytest.mark.parametrize(
    ("chip", "slots"),
    [
        (Chip.even(20 * SECTOR_BYTES), (64 * 1024, 64 * 1024)),
        (Chip(runs=((1, 1024), (60, 4096)), page_bytes=256), (16 * 1024, 16 * 1024)),
        (Chip(runs=((14, 2048), (20, 16384)), page_bytes=256), (30 * 1024, 30 * 1024)),
    ],
    ids=["too small", "settings of two sizes", "units off the grid"],
)
def test_a_chip_that_cannot_be_divided_so_is_refused(chip, slots):
    with pytest.raises(FlashMisuse):
        Layout.place(chip, slots)


@pytest.fixture(params=[0xFF, 0x00], ids=["ff", "00"])
def storage(request):
    layout = Layout.place(Chip.even(80 * SECTOR_BYTES, erased_value=request.param), (64 * 1024, 64 * 1024))
    flash = Flash(None, layout.chip)
    yield Storage(flash, layout, version="1.0.0")
    flash.close()


def test_units_are_found_again_by_their_marks_whatever_the_erased_value(storage):
    area = storage.layout.slots[1]
    storage.prepare(1, envelope=b"signed", image_bytes=40_000, list_bytes=0)
    for unit in range(3):
        storage.program_unit(area, unit, unit * SECTOR_BYTES, bytes(SECTOR_BYTES))
    again = Storage(storage.flash, storage.layout, version="1.0.0")
    assert (3, b"signed") == (again.units_done(area, 10), again.envelope(1))


def test_a_unit_has_its_mark_only_once_all_of_it_is_programmed(storage):
    area, unit = storage.layout.slots[1], bytes(SECTOR_BYTES)
    storage.prepare(1, envelope=b"signed", image_bytes=40_000, list_bytes=0)
    storage.flash.cut_power_at(1, Cut.AFTER)
    with pytest.raises(FlashPowerCut):
        storage.program_unit(area, 0, 0, unit)
    storage.flash.power_on()
    storage.mount("1.0.0")
    assert 0 == storage.units_done(area, 10)


def test_the_first_unit_without_a_mark_is_erased_after_a_restart_even_where_it_reads_as_erased(storage):
    area, blank = storage.layout.slots[1], bytes([storage.flash.chip.erased_value]) * SECTOR_BYTES
    storage.prepare(1, envelope=b"signed", image_bytes=40_000, list_bytes=0)
    storage.flash.cut_power_at(2, Cut.BEFORE)  # the mark
    with pytest.raises(FlashPowerCut):
        storage.program_unit(area, 0, 0, blank)
    storage.flash.power_on()
    storage.mount("1.0.0")
    storage.clean_unit(area, 0, SECTOR_BYTES)
    storage.program_unit(area, 0, 0, bytes(SECTOR_BYTES))
    assert 1 == storage.units_done(area, 10)


def test_a_prepared_area_costs_no_second_erase(storage):
    storage.prepare(1, envelope=b"signed", image_bytes=40_000, list_bytes=320)
    erases = storage.flash.erases
    storage.clean_unit(storage.layout.slots[1], 0, SECTOR_BYTES)
    storage.clean_unit(storage.layout.chunk_list, 0, 320)
    assert erases == storage.flash.erases


@pytest.mark.parametrize("how", Cut)
@pytest.mark.parametrize("operation", [1, 2, 3, 4])
def test_a_cut_while_a_spoiled_chunk_list_is_erased_costs_only_the_list(tmp_path, monkeypatch, operation, how):
    bench = Lab(tmp_path / "flash", IMAGE, payload=payload_for(IMAGE, chunk_log2=8))
    good, wipe = bench.blobs[bench.payload[11]], Storage.prepare_list
    bench.serve(bench.payload[11], bytes(len(good)))
    bench.run(lambda: bench.device.stats.blocks == 1)

    def cut(storage, size):
        monkeypatch.undo()
        bench.serve(bench.payload[11], good)
        bench.flash.cut_power_at(operation, how, Random(1))
        wipe(storage, size)

    monkeypatch.setattr(Storage, "prepare_list", cut)
    with pytest.raises(FlashPowerCut):
        bench.run_settled()
    bench.flash.power_on()
    monkeypatch.setattr("device_sim_bridge.Flash", lambda path, chip: bench.flash)
    bench.power_on()
    bench.run_settled()
    assert (Result.CONFIRMED, sha(IMAGE)) == (bench.device.snapshot().result, bench.slot_digest())
    bench.kill()


@pytest.fixture
def lab(tmp_path):
    bench = Lab(tmp_path / "flash", IMAGE, payload=payload_for(IMAGE, seq=5))
    yield bench
    bench.kill()


def put(bench, image, **changes):
    """A signed image in the free slot, with the boot flag set."""
    slot = 1 - bench.storage.settings.active
    envelope = bench.author.envelope(payload_for(image, **changes))
    bench.storage.prepare(slot, envelope=envelope, image_bytes=len(image), list_bytes=0)
    bench.flash.program(bench.storage.layout.slots[slot].offset, image)
    bench.storage.save(trial=Trial.PENDING, trial_id="put")
    return bootloader.boot(bench.storage, bench.trust, bench.device._identity, factory_version="1.0.0")


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"seq": 6}, True),
        ({"seq": 5}, False),
        ({"seq": 4}, False),
        ({"seq": 6, "hw": "r2"}, False),
        ({"seq": 6, "product": "q"}, False),
        ({"seq": 6, "k6": "radio"}, False),
        ({"seq": 6, "k9": bytes(32)}, False),
    ],
)
def test_the_bootloader_itself_refuses_what_is_not_for_this_device_or_below_its_counter(lab, changes, runs):
    lab.run_settled()
    other = IMAGE[:9000]
    booted = put(lab, other, **changes)
    assert (runs, sha(other if runs else IMAGE)) == (booted.trial, booted.digest)
    assert (Trial.BOOTED if runs else Trial.NONE) is lab.storage.settings.trial


def booted_again(bench):
    return bootloader.boot(bench.storage, bench.trust, bench.device._identity, factory_version="1.0.0")


@pytest.mark.parametrize("at", [0, len(IMAGE) // 2, len(IMAGE) - 1])
def test_a_confirmed_image_is_judged_at_every_boot_and_what_rotted_does_not_run(lab, at):
    lab.run_settled()
    assert sha(IMAGE) == booted_again(lab).digest
    slot = lab.storage.layout.slots[lab.storage.settings.active]
    sector = at // SECTOR_BYTES * SECTOR_BYTES
    data = bytearray(lab.flash.read(slot.offset + sector, SECTOR_BYTES))
    data[at - sector] ^= 1
    lab.flash.erase(slot.offset + sector, SECTOR_BYTES)
    lab.flash.program(slot.offset + sector, bytes(data))
    booted = booted_again(lab)
    assert (b"", "1.0.0", True) == (booted.digest, booted.version, lab.storage.settings.factory)
    assert b"" == booted_again(lab).digest


def test_what_was_confirmed_needs_no_signature_again_and_nothing_else_goes_without(lab, monkeypatch):
    lab.run_settled()

    def revoked(*_: object):
        raise ManifestRefused(Refusal.SIG, "its key was revoked")

    monkeypatch.setattr(bootloader, "read_manifest", revoked)
    assert sha(IMAGE) == booted_again(lab).digest
    lab.storage.save(envelope_digest=bytes(32))
    assert b"" == booted_again(lab).digest


@pytest.mark.parametrize("other", [{"device_class": bytes(16)}, {"vendor": bytes(16)}, {"component": "radio"}])
def test_a_confirmed_image_of_another_class_does_not_run(lab, other):
    lab.run_settled()
    lab.device._identity = dataclasses.replace(lab.device._identity, **other)
    assert b"" == booted_again(lab).digest


def test_every_boot_is_logged_with_the_digest_of_what_is_in_its_slot(lab):
    lab.run_settled()
    assert [(1, b"", False), (2, sha(IMAGE), True)] == [
        (boot.number, boot.digest, boot.trial) for boot in lab.device.boot_log
    ]


def test_a_device_that_comes_back_to_another_manifest_than_it_was_fetching_begins_anew(lab):
    lab.run(lambda: lab.device.snapshot().position > 8000)
    other = lab.author.envelope(payload_for(IMAGE[:9000], seq=4))
    slot = lab.storage.settings.download.slot
    lab.storage.prepare(slot, envelope=other, image_bytes=9000, list_bytes=0)
    lab.kill()
    lab.power_on()
    lab.run_settled()
    assert sha(IMAGE) == lab.slot_digest()


def test_an_image_has_to_fit_the_slot_that_it_goes_into():
    layout = Layout.place(Chip.even(80 * SECTOR_BYTES), (128 * 1024, 64 * 1024))
    flash = Flash(None, layout.chip)
    storage = Storage(flash, layout, version="1.0.0")
    assert 64 * 1024 == storage.free_slot.size_bytes
    storage.save(active=1)
    assert 128 * 1024 == storage.free_slot.size_bytes
    flash.close()
