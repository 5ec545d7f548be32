"""From a complete image in the inactive slot to the trial boot: release, time window, `burning`, verdict.

1. It burns when the offer says `now` or the operator released it, inside the window if there is one.
2. `burning` is repeated until the bridge says `go` or `stop`; without an answer for `VERDICT_TIMEOUT_S` the
   device goes back to waiting and checks in. After `stop` it waits for another offer or release.
3. After `go` one write hands the slot to the bootloader, then the device reboots.
"""

from typing import Final

from device_sim.bootloader import manifest_version
from device_sim.model import FaultKind, Phase
from device_sim.offers import Offer
from device_sim.outbox import Kind
from device_sim.session import Session
from device_sim.settings import Trial

VERDICT_TIMEOUT_S: Final = 60.0
OPEN_WINDOW_S: Final = 86_400.0


class Installer:
    """The last steps before the reboot."""

    def __init__(self, session: Session) -> None:
        self._s = session
        self._released = False
        self._held_back = False
        self._window_s: tuple[float, float] | None = None
        self._verdict_until_s: float | None = None

    def reset(self, *, released: bool = False) -> None:
        """Begin with another download."""
        self._released, self._held_back = released, False
        self._window_s = self._verdict_until_s = None

    def offered(self, offer: Offer, now_s: float) -> None:
        """Take over what an offer says about when to burn."""
        self._released = offer.apply_now or (self._released and self._s.phase is Phase.INSTALLING)
        self._held_back = False
        self._window_s = None
        if offer.start_in_s is not None:
            start_s = now_s + offer.start_in_s
            self._window_s = (start_s, start_s + (offer.length_s or OPEN_WINDOW_S))
        self.burn_if_due(now_s)

    def release(self, now_s: float) -> None:
        """The operator says that it may burn at once."""
        self._released, self._held_back, self._window_s = True, False, None
        self.burn_if_due(now_s)

    def burn_if_due(self, now_s: float) -> None:
        """Ask the bridge for the go, when everything else says yes."""
        s, record = self._s, self._s.storage.settings.download
        if s.phase is not Phase.DOWNLOADED or record is None or not self._may_burn():
            return
        if self._window_s is not None:
            start_s, end_s = self._window_s
            if now_s >= end_s:
                self._window_s, self._released = None, False
                s.check_in_within(now_s, 0.0, 5.0)
            if not start_s <= now_s < end_s:
                return
        s.phase = Phase.INSTALLING
        self._verdict_until_s = now_s + VERDICT_TIMEOUT_S
        version = manifest_version(s.storage, s.trust)
        s.progress(Kind.BURNING, "burning", now_s, deployment=record.id, version=version)

    def waits_for(self, deployment: str) -> bool:
        """Whether a verdict on this deployment is awaited."""
        record = self._s.storage.settings.download
        return self._s.phase is Phase.INSTALLING and record is not None and record.id == deployment

    def verdict(self, *, go: bool) -> None:
        """The bridge's answer to `burning`."""
        s, record = self._s, self._s.storage.settings.download
        if s.phase is not Phase.INSTALLING or record is None:
            return
        s.outbox.drop(Kind.BURNING)
        self._verdict_until_s = None
        if not go:
            s.phase = Phase.DOWNLOADED
            self._held_back, self._released = True, False
            return
        if s.fault.fires(FaultKind.REBOOT_IN, Phase.INSTALLING):
            s.storage.save(installing=True, trial_id=record.id)
        else:
            s.storage.save(trial=Trial.PENDING, trial_id=record.id)
        s.reboot()

    def deadline_s(self) -> float | None:
        """When `poll` has something to do."""
        if self._s.phase is Phase.INSTALLING:
            return self._verdict_until_s
        return self._window_s[0] if self._window_s is not None and self._may_burn() else None

    def poll(self, now_s: float) -> None:
        """Burn when the window opens, give up when no verdict comes."""
        if self._s.phase is Phase.DOWNLOADED:
            self.burn_if_due(now_s)
        elif self._verdict_until_s is not None and now_s >= self._verdict_until_s:
            self.verdict(go=False)
            self._s.check_in_within(now_s, 0.5, 3.0)

    def _may_burn(self) -> bool:
        waits = self._s.fault.kind is FaultKind.REBOOT_IN and self._s.fault.phase is Phase.DOWNLOADED
        return self._released and not (self._held_back or self._s.will_reboot or (waits and self._s.fault.armed))
