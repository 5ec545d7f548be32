from random import Random

import pytest

from device_sim.chip import SECTOR_BYTES, Chip
from device_sim.errors import FlashError, FlashMisuse, FlashPowerCut
from device_sim.flash import Cut, Flash
from device_sim.journal import Journal
from device_sim.settings import Download, Final, Settings, Trial


@pytest.fixture
def flash(tmp_path):
    chip = Flash(tmp_path / "chip", Chip.even(8 * SECTOR_BYTES))
    yield chip
    chip.close()


def test_a_new_chip_is_erased(flash):
    assert b"\xff" * 10 == flash.read(4090, 10)
    assert flash.is_erased(0, 8 * SECTOR_BYTES)


def test_a_file_has_one_owner(tmp_path):
    chip = Chip.even(2 * SECTOR_BYTES)
    one, other = Flash(tmp_path / "chip", chip), Flash(tmp_path / "chip", chip)
    assert (one.own(), other.own()) == (True, False)
    one.close()
    assert other.own()
    other.close()


@pytest.mark.parametrize("erased", [0xFF, 0x00, 0xA5])
def test_what_is_programmed_is_read_back_whatever_the_erased_value(tmp_path, erased):
    chip = Flash(tmp_path / "chip", Chip.even(2 * SECTOR_BYTES, erased_value=erased))
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


@pytest.mark.parametrize(
    ("cut", "left"), [(Cut.BEFORE, b"\xff" * 8), (Cut.TORN, b"abcd\xff\xff\xff\xff"), (Cut.AFTER, b"abcdefgh")]
)
def test_the_power_goes_away_before_in_the_middle_of_or_after_an_operation(flash, cut, left):
    flash.cut_power_at(1, cut)
    with pytest.raises(FlashPowerCut):
        flash.program(0, b"abcdefgh")
    with pytest.raises(FlashPowerCut):
        flash.erase(0, SECTOR_BYTES)
    flash.power_on()
    assert left == flash.read(0, 8)


@pytest.mark.parametrize("erased", [0xFF, 0x00])
def test_random_bits_stay_inside_the_operation_and_come_back_by_their_seed(erased):
    def torn(seed):
        chip = Flash(None, Chip(runs=((2, 1024),), page_bytes=64, erased_value=erased))
        chip.program(128, b"before")
        chip.cut_power_at(2, Cut.RANDOM, Random(seed))
        with pytest.raises(FlashPowerCut):
            chip.program(256, bytes(range(1, 193)))
        chip.power_on()
        left = chip.read(0, 2048)
        chip.close()
        assert bytes(range(1, 65)) == left[256:320]
        assert b"before" == left[128:134]
        assert bytes([erased]) * (2048 - 384) == left[384:]
        return left[320:384]

    runs = [torn(seed) for seed in range(30)]
    assert runs == [torn(seed) for seed in range(30)]
    assert len(set(runs)) > 20
    assert bytes(range(65, 129)) not in runs


def test_an_operation_programs_one_page_at_most():
    chip = Flash(None, Chip(runs=((2, 1024),), page_bytes=64))
    heard = []
    chip.probe = lambda offset, size: heard.append((offset, size))
    chip.program(32, bytes(100))
    chip.erase(0, 2048)
    assert [(32, 32), (64, 64), (128, 4), (0, 1024), (1024, 1024)] == heard
    assert (5, 2) == (chip.ops, chip.erases)
    chip.close()


@pytest.mark.parametrize("erased", [0xFF, 0x00])
def test_a_word_programmed_with_the_erased_value_is_not_erased(erased):
    chip = Flash(None, Chip.even(2 * SECTOR_BYTES, erased_value=erased))
    chip.program(8, bytes([erased]) * 4)
    assert chip.is_erased(0, SECTOR_BYTES)
    chip.program(0, b"12345678")
    with pytest.raises(FlashMisuse):
        chip.program(8, b"x")
    chip.erase(0, SECTOR_BYTES)
    chip.program(8, b"x")
    chip.close()


def test_a_sector_whose_erase_was_torn_cannot_be_programmed_even_where_it_reads_as_erased(flash):
    flash.program(0, b"1")
    flash.cut_power_at(1)
    with pytest.raises(FlashPowerCut):
        flash.erase(0, SECTOR_BYTES)
    flash.power_on()
    assert flash.is_erased(0, SECTOR_BYTES)
    with pytest.raises(FlashMisuse):
        flash.program(0, b"1")


def test_contents_go_from_one_chip_into_another(flash):
    flash.program(0, b"\xff\xff\xff\xffdata")
    other = Flash(None, flash.chip)
    other.restore(flash.contents())
    assert b"data" == other.read(4, 4)
    with pytest.raises(FlashMisuse):
        other.program(0, b"x")
    other.close()


def test_sectors_may_differ_in_size():
    chip = Chip(runs=((2, 1024), (1, 4096), (2, 2048)), page_bytes=256)
    assert 2 * 1024 + 4096 + 2 * 2048 == chip.size_bytes
    assert [(0, 1024), (1024, 1024), (2048, 4096), (6144, 2048), (8192, 2048)] == list(
        chip.sectors_of(0, chip.size_bytes)
    )
    assert (2048, 4096) == chip.sector_at(6143)
    assert [0, 1024, 2048, 2048 + 4096] == [chip.whole_sectors(0, size) for size in (0, 1, 1025, 2049)]
    assert 4096 == chip.largest_sector(1024, 1024 + 4096)
    for offset, size in ((0, 2048 + 1024), (512, 1024), (chip.size_bytes, 1024)):
        with pytest.raises(FlashMisuse):
            list(chip.sectors_of(offset, size))


@pytest.mark.parametrize(
    "changes",
    [{"runs": ((2, 1000),)}, {"word_bytes": 3}, {"page_bytes": 2}, {"page_bytes": 2048}, {"erased_value": 256}],
)
def test_a_chip_that_cannot_be_made_is_refused(changes):
    Chip(runs=((2, 1024),), page_bytes=256)
    with pytest.raises(FlashMisuse):
        Chip(**{"runs": ((2, 1024),), "page_bytes": 256, **changes})


def test_the_file_is_sparse_and_survives(tmp_path):
    path = tmp_path / "chip"
    chip = Flash(path, Chip.even(1 << 26))
    chip.erase(0, 64 * SECTOR_BYTES)
    chip.program(1 << 25, b"data")
    chip.close()
    assert path.stat().st_blocks * 512 <= 2 * SECTOR_BYTES
    again = Flash(path, Chip.even(1 << 26))
    assert b"data" == again.read(1 << 25, 4)
    again.close()


def test_a_file_of_another_size_is_refused_by_name(tmp_path):
    Flash(tmp_path / "chip", Chip.even(SECTOR_BYTES)).close()
    with pytest.raises(FlashError, match="use another --state"):
        Flash(tmp_path / "chip", Chip.even(2 * SECTOR_BYTES))


def test_a_journal_keeps_the_last_record_over_many_turns(tmp_path):
    chip = Flash(tmp_path / "chip", Chip.even(2 * SECTOR_BYTES))
    journal = Journal(chip, 0)
    assert journal.body is None
    for turn in range(100):
        journal.write(b"%d" % turn * 40)
        assert b"%d" % turn * 40 == Journal(chip, 0).body
    chip.close()


@pytest.mark.parametrize("how", Cut)
@pytest.mark.parametrize("erased", [0xFF, 0x00])
def test_a_power_cut_at_any_operation_leaves_the_old_or_the_new_record(erased, how):
    chip = Flash(None, Chip(runs=((2, 4096),), page_bytes=256, erased_value=erased))
    journal = Journal(chip, 0)
    journal.write(b"first" * 100)
    for turn in range(200):
        before = Journal(chip, 0).body
        record = b"%d" % turn * (1 + turn * 37 % 300)
        chip.cut_power_at(1 + turn % 5, how, Random(turn))
        try:
            Journal(chip, 0).write(record)
            chip.cut_power_at(None)
        except FlashPowerCut:
            chip.power_on()
        assert Journal(chip, 0).body in {before, record}
    chip.close()


@pytest.mark.parametrize("how", Cut)
def test_a_cut_at_the_erase_for_another_turn_leaves_the_record_before_it(how):
    chip = Flash(None, Chip(runs=((2, 4096),), page_bytes=256))
    journal = Journal(chip, 0)
    for turn in range(12):
        record = b"%02d" % turn * 500
        if turn and turn % 4 == 0:  # four of them fill a sector
            chip.cut_power_at(1, how, Random(turn))
            with pytest.raises(FlashPowerCut):
                journal.write(record)
            chip.power_on()
            journal = Journal(chip, 0)
            assert b"%02d" % (turn - 1) * 500 == journal.body
        journal.write(record)
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
