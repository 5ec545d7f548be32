from itertools import pairwise

import pytest

from device_sim.errors import FlashError, FlashMisuse, FlashPowerCut
from device_sim.flash import SECTOR_BYTES, Flash
from device_sim.journal import AREA_BYTES, Journal
from device_sim.settings import Download, Final, Settings, Trial
from device_sim.storage import Storage


@pytest.fixture
def flash(tmp_path):
    chip = Flash(tmp_path / "chip", 8 * SECTOR_BYTES)
    yield chip
    chip.close()


def test_a_new_chip_is_erased(flash):
    assert b"\xff" * 10 == flash.read(4090, 10)
    assert flash.is_erased(0, 8 * SECTOR_BYTES)


@pytest.mark.parametrize("erased", [0xFF, 0x00, 0xA5])
def test_what_is_programmed_is_read_back_whatever_the_erased_value(tmp_path, erased):
    chip = Flash(tmp_path / "chip", 2 * SECTOR_BYTES, erased_value=erased)
    chip.program(8, b"hello")
    assert bytes([erased]) * 8 + b"hello" + bytes([erased]) * 3 == chip.read(0, 16)
    chip.erase(0, SECTOR_BYTES)
    assert chip.is_erased(0, SECTOR_BYTES)
    chip.close()


def test_programming_a_word_twice_is_an_error_and_changes_nothing(flash):
    flash.program(0, b"12345")
    with pytest.raises(FlashMisuse):
        flash.program(4, b"x")
    assert b"12345" == flash.read(0, 5)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_programs_start_on_the_word_grid(flash, offset):
    with pytest.raises(FlashMisuse):
        flash.program(offset, b"x")


@pytest.mark.parametrize(("offset", "size"), [(1, SECTOR_BYTES), (0, 100), (7 * SECTOR_BYTES, 2 * SECTOR_BYTES)])
def test_erases_lie_on_the_sector_grid_and_inside(flash, offset, size):
    with pytest.raises(FlashMisuse):
        flash.erase(offset, size)


@pytest.mark.parametrize(("offset", "size"), [(-1, 4), (8 * SECTOR_BYTES - 1, 2)])
def test_nothing_outside_the_chip_is_read(flash, offset, size):
    with pytest.raises(FlashMisuse):
        flash.read(offset, size)


def test_a_torn_program_leaves_half_and_a_dead_chip(flash):
    flash.cut_power_at(2)
    flash.program(0, b"whole...")
    with pytest.raises(FlashPowerCut):
        flash.program(8, b"12345678")
    with pytest.raises(FlashPowerCut):
        flash.read(0, 1)
    flash.power_on()
    assert b"whole...1234\xff\xff\xff\xff" == flash.read(0, 16)


def test_a_torn_erase_leaves_half_of_the_sector(flash):
    flash.program(0, b"\x00" * SECTOR_BYTES)
    flash.cut_power_at(1)
    with pytest.raises(FlashPowerCut):
        flash.erase(0, SECTOR_BYTES)
    flash.power_on()
    assert flash.is_erased(0, SECTOR_BYTES // 2)
    assert b"\x00" * (SECTOR_BYTES // 2) == flash.read(SECTOR_BYTES // 2, SECTOR_BYTES // 2)


def test_the_file_is_sparse_and_survives(tmp_path):
    path = tmp_path / "chip"
    chip = Flash(path, 1 << 26)
    chip.erase(0, 64 * SECTOR_BYTES)
    chip.program(1 << 25, b"data")
    chip.close()
    assert path.stat().st_blocks * 512 <= 2 * SECTOR_BYTES
    again = Flash(path, 1 << 26)
    assert b"data" == again.read(1 << 25, 4)
    again.close()


def test_a_file_of_another_size_is_refused_by_name(tmp_path):
    Flash(tmp_path / "chip", SECTOR_BYTES).close()
    with pytest.raises(FlashError, match="use another --state"):
        Flash(tmp_path / "chip", 2 * SECTOR_BYTES)


def test_a_journal_keeps_the_last_record_over_many_turns(tmp_path):
    chip = Flash(tmp_path / "chip", AREA_BYTES)
    journal = Journal(chip, 0)
    assert journal.body is None
    for turn in range(100):
        journal.write(b"%d" % turn * 40)
        assert b"%d" % turn * 40 == Journal(chip, 0).body
    chip.close()


def test_a_power_cut_at_any_operation_leaves_the_old_or_the_new_record(tmp_path):
    chip = Flash(tmp_path / "chip", AREA_BYTES)
    journal = Journal(chip, 0)
    journal.write(b"first" * 100)
    for turn in range(200):
        before = Journal(chip, 0).body
        record = b"%d" % turn * (1 + turn * 37 % 300)
        chip.cut_power_at(1 + turn % 2)
        try:
            Journal(chip, 0).write(record)
            chip.cut_power_at(None)
        except FlashPowerCut:
            chip.power_on()
        assert Journal(chip, 0).body in {before, record}
    chip.close()


def test_settings_survive_packing():
    settings = Settings(
        version="1.0.0",
        seqs={"firmware": 3},
        trial=Trial.BOOTED,
        download=Download(id="a", slot=1, envelope_digest=b"x" * 32, apply_now=True),
        final=Final(id="b", state="fail", code="REFUSED_SIG", reason="no", version="2"),
    )
    assert settings == Settings.unpack(settings.pack())


def test_the_parts_of_the_flash_do_not_overlap(tmp_path):
    slot = 1 << 20
    chip = Flash(tmp_path / "chip", Storage.flash_bytes(slot))
    storage = Storage(chip, slot_bytes=slot, version="1.0.0")
    spans = sorted(
        (start, start + size)
        for area in (*storage.slots, storage.list_area)
        for start, size in ((area.offset, area.size_bytes), (area.marks, area.end - area.marks))
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] == chip.size_bytes
    chip.close()
