"""How the devices of a rehearsal behave: one cohort for those that are alike.

The defaults are those of `device-sim`: what a rehearsal says of it can be tried. Real devices are slower; say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput

LINK_BYTES_PER_S: Final = 20_000.0
FOR_GOOD_S: Final = float("inf")
FAILURES: Final = (State.ROLLED_BACK, State.FAILED, State.TIMED_OUT)
"""How an update can end on a device that is said to fail: the new image is not confirmed, what came is refused, or the
device falls silent in the middle."""
_SHARES_END: Final = 1.0 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Devices that behave alike. Times are seconds."""

    name: str = "all"
    share: float = 1.0
    """Of the fleet."""
    offline: float = 0.0
    """The share of these that is away when the rollout starts."""
    offline_for_s: float = FOR_GOOD_S
    fail: Mapping[State, float] = field(default_factory=dict)
    """The share of these on which every attempt ends so; see FAILURES."""
    link_bytes_per_s: float = LINK_BYTES_PER_S
    block_bytes: int = 1024
    window: int = 4
    reboot_s: tuple[float, float] = (0.2, 0.8)
    """From the word to install until the new image checks in: the least and the most."""
    watchdog_s: float = 5.0
    """How long an image that never confirms is given."""
    check_in_every_s: float = 30.0
    awake_s: float = 0.0
    """A device that sleeps is awake for so long, then asleep for `asleep_s`, and so on; 0: it never sleeps."""
    asleep_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("share", "offline"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInput(f"{name}: {getattr(self, name):g} is not within 0..1")
        if unknown := set(self.fail) - set(FAILURES):
            raise InvalidInput(f"fail: {min(unknown)} is not one of {', '.join(FAILURES)}")
        if any(part < 0.0 for part in self.fail.values()) or sum(self.fail.values()) > _SHARES_END:
            raise InvalidInput("fail: shares are 0 or more, and 1 together at most")
        if self.link_bytes_per_s < 1.0:
            raise InvalidInput("link: at least one byte per second")
        if not 0.0 <= self.reboot_s[0] <= self.reboot_s[1]:
            raise InvalidInput("reboot: two times, the shorter one first")
        if self.check_in_every_s <= 0.0:
            raise InvalidInput("check-in: a time above 0")
        if (self.awake_s > 0.0) != (self.asleep_s > 0.0) or min(self.awake_s, self.asleep_s) < 0.0:
            raise InvalidInput("sleep: both the time awake and the time asleep, each above 0")

    @property
    def period_s(self) -> float:
        """Of its sleep; 0: it never sleeps."""
        return self.awake_s + self.asleep_s if self.awake_s else 0.0


def checked_cohorts(cohorts: Sequence[Cohort]) -> tuple[Cohort, ...]:
    """These, if they are the whole fleet together; raises InvalidInput."""
    whole = sum(cohort.share for cohort in cohorts)
    if not cohorts or abs(whole - 1.0) > 1e-6:  # noqa: PLR2004 - as exact as percentages are written
        raise InvalidInput(f"the cohorts' shares are {whole:.2%} of the fleet together; they must be 100 %")
    return tuple(cohorts)


def dealt(total: int, shares: Sequence[float]) -> list[int]:
    """So many of `total` for each share, as close as whole numbers can be; what is left over goes to nobody."""
    ends, found, before = 0.0, list[int](), 0
    for share in shares:
        ends += share
        reached = round(total * ends)
        found.append(reached - before)
        before = reached
    return found
