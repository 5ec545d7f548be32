"""The power of one simulated device: it goes away a number of times, at flash operations that a seed decides."""

from random import Random
from typing import Final

from device_sim.flash import Cut, Flash

_LONGEST: Final = 9.0  # the next cut is 1 to 2**9 operations away, sooner rather than later


class Supply:
    """Takes the power of a chip away, and gives it back."""

    def __init__(self, flash: Flash, *, cuts: int, rng: Random) -> None:
        self._flash = flash
        self._rng = rng
        self.left = cuts
        self._arm()

    def come_back(self) -> None:
        """The power is there again; the device has to boot."""
        self.left -= 1
        self._flash.power_on()
        self._arm()

    def _arm(self) -> None:
        if self.left > 0:
            operations = int(2 ** self._rng.uniform(0.0, _LONGEST))
            self._flash.cut_power_at(operations, self._rng.choice(list(Cut)), self._rng)
