"""The harness of the power cuts can fail: firmware that is wrong in one place breaks the rule that it should."""

from dataclasses import replace

import pytest

from device_sim import bootloader
from device_sim.bootloader import _back
from device_sim.device import Device
from device_sim.download import ImageDownload, Outcome
from device_sim.install import Installer
from device_sim.journal import Journal, frame, framed_bytes
from device_sim.settings import Trial
from device_sim.storage import Storage
from device_sim.updater import Updater
from tests.faults import power
from tests.faults.families import Broken

SEEDS = 216  # a wrong firmware is to be found by the runs of every day
NEAR = {"rolled_back_is_forgotten_before_it_is_acknowledged": 130}  # the seed to begin at, where many hold


@pytest.fixture(scope="module", autouse=True)
def courses():
    power.prepare()  # by firmware that is right


def first_broken(part, first):
    for seed in range(first, SEEDS):
        try:
            power.run_one(part, seed)
        except Broken as broken:
            return broken
    return None


def saves(change):
    """A `Storage.save` that writes something else."""
    save = Storage.save

    def changed(self, **changes):
        save(self, **change(self, changes))

    return Storage, "save", changed


def counter_raised_at_the_switch(storage, changes):
    return {**changes, "seqs": {"firmware": 3}} if changes.get("trial") is Trial.PENDING else changes


def no_trial(storage, changes):
    if changes.get("trial") is not Trial.PENDING:
        return changes
    return {"active": 1 - storage.settings.active, "download": None}


def confirm_in_two_writes():
    confirm = Device._confirm

    def changed(self, now_s):
        self._storage.save(seqs={"firmware": 3})
        confirm(self, now_s)

    return Device, "_confirm", changed


def confirm_before_the_acknowledgement():
    check_in = Device._check_in

    def changed(self, now_s):
        if self._session.boot.trial:
            self._session.boot = replace(self._session.boot, trial=False)
            self._confirm(now_s)
        else:
            check_in(self, now_s)

    return Device, "_check_in", changed


def no_read_back():
    finished = ImageDownload._finished

    def changed(self):
        if self._in_list:
            finished(self)
            return
        self.outcome = Outcome.COMPLETE
        self._storage.save(download=replace(self._storage.settings.download, image_verified=True))

    return ImageDownload, "_finished", changed


def boot_flag_before_the_download():
    begin = Updater._begin

    def changed(self, manifest, **others):
        self._s.storage.save(trial=Trial.PENDING, trial_id=self._s.storage.settings.download.id)
        begin(self, manifest, **others)

    return Updater, "_begin", changed


def programmed_before_it_is_checked():
    hold = ImageDownload._chunks_hold

    def changed(self, start, unit):
        self._storage.flash.program(self._slot.offset + start, unit)
        if hold(self, start, unit):
            self._storage._erase(self._slot.offset + start, len(unit))
            return True
        return False

    return ImageDownload, "_chunks_hold", changed


def mark_before_its_unit():
    def changed(self, area, unit, offset, data):
        chip = self.flash.chip
        self.flash.program(area.marks + unit * chip.word_bytes, bytes([chip.erased_value ^ 0xFF]) * chip.word_bytes)
        self.flash.program(area.offset + offset, data)

    return Storage, "program_unit", changed


def mark_of_zeros_whatever_erased_flash_is():
    def changed(self, area, unit, offset, data):
        self.flash.program(area.offset + offset, data)
        self.flash.program(area.marks + unit * self.flash.chip.word_bytes, bytes(self.flash.chip.word_bytes))

    return Storage, "program_unit", changed


def torn_unit_is_not_erased():
    return Storage, "clean_unit", lambda self, area, offset, size_bytes: None


def torn_unit_is_not_erased_where_it_reads_so():
    clean = Storage.clean_unit

    def changed(self, area, offset, size_bytes):
        if not self.flash.is_erased(area.offset + offset, size_bytes):
            clean(self, area, offset, size_bytes)

    return Storage, "clean_unit", changed


def download_begins_anew_after_a_restart():
    checked_in = Updater.checked_in

    def changed(self, now_s):
        if self._download is None and self._s.storage.settings.download is not None:
            self._s.storage.save(download=None)
        checked_in(self, now_s)

    return Updater, "checked_in", changed


def journal_of_one_sector():
    def changed(self, body):
        size = framed_bytes(len(body), self._flash.chip.word_bytes)
        if self._at is None or self._at + size > self._sector_bytes:
            self._sector = max(self._sector, 0) if self.body else 0
            self._flash.erase(self._base(), self._sector_bytes)
            self._at = 0
        self._flash.program(self._base() + self._at, frame(self._counter + 1, body))
        self._at, self._counter, self.body = self._at + size, self._counter + 1, body

    return Journal, "write", changed


def trial_boot_is_not_recorded(storage, changes):
    return {**changes, "trial": Trial.PENDING} if changes.get("trial") is Trial.BOOTED else changes


def rolled_back_is_not_kept():
    return bootloader, "_back", lambda *args: {**_back(*args), "final": None}


def rolled_back_is_forgotten_before_it_is_acknowledged():
    check_in = Device._check_in

    def changed(self, now_s):
        check_in(self, now_s)
        if (final := self._storage.settings.final) is not None:
            self._session.send_final(final, now_s)
            self._storage.save(final=None)

    return Device, "_check_in", changed


def into_the_active_slot():
    prepare = Storage.prepare

    def changed(self, slot, **others):
        prepare(self, self.settings.active, **others)

    return Storage, "prepare", changed


def go_is_not_waited_for():
    burn = Installer.burn_if_due

    def changed(self, now_s):
        burn(self, now_s)
        self.verdict(go=True)

    return Installer, "burn_if_due", changed


MUTANTS = [
    (saves(counter_raised_at_the_switch), power.SWITCH, "I7"),
    (saves(no_trial), power.SWITCH, "I7"),
    (confirm_in_two_writes(), power.SWITCH, "I7"),
    (confirm_before_the_acknowledgement(), power.SWITCH, "I7"),
    (no_read_back(), power.SWITCH, "I8"),
    (boot_flag_before_the_download(), power.SWITCH, "I8"),
    (programmed_before_it_is_checked(), power.SWITCH, "I8"),
    (go_is_not_waited_for(), power.SWITCH, "I8"),
    (mark_before_its_unit(), power.DOWNLOAD, "I3"),
    (mark_of_zeros_whatever_erased_flash_is(), power.DOWNLOAD, "I3"),
    (torn_unit_is_not_erased(), power.DOWNLOAD, "I3"),
    (torn_unit_is_not_erased_where_it_reads_so(), power.DOWNLOAD, "I3"),
    (download_begins_anew_after_a_restart(), power.DOWNLOAD, "I9"),
    (journal_of_one_sector(), power.RECORDS, "I7"),
    (saves(trial_boot_is_not_recorded), power.SWITCH, "I3"),
    (rolled_back_is_not_kept(), power.SWITCH, "I3"),
    (rolled_back_is_forgotten_before_it_is_acknowledged(), power.SWITCH, "I3"),
    (into_the_active_slot(), power.SWITCH, "I1"),
]


@pytest.mark.parametrize(
    ("mutant", "part", "name"), MUTANTS, ids=lambda value: value[2].__qualname__ if isinstance(value, tuple) else value
)
def test_a_wrong_firmware_breaks_its_rule(monkeypatch, mutant, part, name):
    monkeypatch.setattr(*mutant)
    broken = first_broken(part, NEAR.get(mutant[2].__qualname__.partition(".")[0], 1))
    assert broken is not None
    assert name == broken.name, str(broken)
