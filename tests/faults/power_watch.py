"""What looks at the chip of a device while it is updated, and names the rule that it breaks.

It reads the flash by itself: what the device believes of its memory is not asked. The settings are the exception:
they are parsed with the device's own `Journal` and `Settings`, because their form is the device's business.
"""

from device_sim.bootloader import Boot
from device_sim.flash import Flash
from device_sim.journal import Journal
from device_sim.settings import Settings, Trial
from tests.faults.families import Broken
from tests.faults.power_worlds import Release, World

COMPONENT = "firmware"


class Watch:
    """Hears of each whole flash operation, each power-on, each boot and what the bridge has said."""

    def __init__(self, flash: Flash, world: World, old: Release | None, new: Release) -> None:
        self.flash, self.layout, self.old, self.new = flash, world.layout, old, new
        self._slots = [(slot.offset, slot.offset + slot.size_bytes) for slot in self.layout.slots]
        self._settings_end = self.layout.settings + 2 * flash.chip.sector_at(self.layout.settings)[1]
        self._blank = bytes([flash.chip.erased_value])
        self.may_fetch = [new.image]
        self.checks_chunks = world.make.level == "L1"
        self.factory_settled = old is None  # a device from the factory may run what its ROM holds
        self.settings = self._read() or Settings(version="1.0.0")
        self.boots: list[Boot] = []
        self.trials = 0
        self.confirms = 0
        self.allowed: set[str] = set()  # deployments that got their `go`
        self.trial_heard = False  # in this boot: the bridge has the check-in of the trial

    def operated(self, offset: int, size: int) -> None:
        """A whole operation was done."""
        for number, (begin, end) in enumerate(self._slots):
            if begin <= offset < end:
                self._slot_changed(number, offset - begin, size)
                return
        if offset < self._settings_end:
            self.settings_changed()

    def part_at(self, offset: int) -> str:
        """What lies at a place of the flash."""
        for name, area in zip(("slot", "slot", "list"), (*self.layout.slots, self.layout.chunk_list), strict=True):
            if area.offset <= offset < area.offset + area.size_bytes:
                return name
            if area.marks <= offset < area.marks + area.marks_bytes:
                return f"{name} marks"
        return "settings" if offset < self._settings_end else "manifest"

    def settings_changed(self) -> None:
        """Something was written to the settings, or the power came back."""
        was, now = self.settings, self._read()
        if now is None:
            if was.boot:
                raise Broken("I3", "no valid record is left in the settings")
            return
        self.settings = now
        self._check_counter(was, now)
        if now.trial is Trial.PENDING and was.trial is not Trial.PENDING:
            self._check_whole(1 - now.active, "the boot flag was set")
            if now.trial_id not in self.allowed:
                raise Broken("I8", f"the boot flag was set without the bridge's go for {now.trial_id!r}")
        if now.download is not None and now.download.image_verified and now.download != was.download:
            self._check_whole(now.download.slot, "the image was noted as verified")
        if now.trial is Trial.BOOTED and (was.trial, was.boot) != (now.trial, now.boot):
            self.trials += 1

    def booted(self, boot: Boot) -> None:
        """The ROM has jumped into an image, and logged it."""
        self.boots.append(boot)
        self.trial_heard = False
        if boot.manifest is None:
            if not self.factory_settled:
                raise Broken("I1", "the firmware of the factory was booted, an image was installed and is whole")
            return
        known = {release.digest: release for release in (self.old, self.new) if release is not None}
        found = known.get(boot.digest)
        if found is None:
            raise Broken("I1", f"an image that is not for this device was booted: {boot.digest.hex()}")
        if not self._holds(boot.slot, found):
            raise Broken("I1", f"slot {boot.slot} does not hold the image that the ROM logged")
        if found.seq < self.settings.seqs.get(COMPONENT, 0):
            raise Broken("I1", f"seq {found.seq} was booted, the counter is {self.settings.seqs[COMPONENT]}")
        if not boot.trial and boot.slot != self.settings.active:
            raise Broken("I1", f"slot {boot.slot} was booted for good, {self.settings.active} is the active one")

    def _slot_changed(self, number: int, offset: int, size: int) -> None:
        if number == self.settings.active and not self.settings.factory:
            raise Broken("I1", f"the installed image was changed at {offset}")
        if not self.checks_chunks:
            return
        data = self.flash.read(self._slots[number][0] + offset, size)
        if data == self.new.image[offset : offset + size]:
            return
        pieces = (image[offset : offset + size] for image in (*self.may_fetch, b""))
        if not any(data == piece + self._blank * (size - len(piece)) for piece in pieces):
            raise Broken("I8", f"bytes that are not the image's were programmed at {offset} of slot {number}")

    def _check_counter(self, was: Settings, now: Settings) -> None:
        before, after = was.seqs.get(COMPONENT, 0), now.seqs.get(COMPONENT, 0)
        if after < before:
            raise Broken("I7", f"the counter fell from {before} to {after}")
        if after > before:
            if now.trial is not Trial.NONE or now.digest != self.new.digest or not self.trial_heard:
                raise Broken("I7", f"the counter rose from {before} to {after} and nothing was confirmed")
            self._check_whole(now.active, "a confirm was written")
            self.confirms += 1
        elif now.active != was.active:
            raise Broken("I7", f"slot {now.active} became the active one without a confirm")

    def _check_whole(self, slot: int, when: str) -> None:
        if not self._holds(slot, self.new):
            raise Broken("I8", f"{when}, and slot {slot} does not hold the whole image")

    def _holds(self, slot: int, release: Release) -> bool:
        return self.flash.read(self.layout.slots[slot].offset, len(release.image)) == release.image

    def _read(self) -> Settings | None:
        body = Journal(self.flash, self.layout.settings).body
        return None if body is None else Settings.unpack(body)
