"""How long a device has had no sign that its bridge lives and offers what is new: the alarm of a freeze.

A ticket that holds is proof, for the online key signed the device's latest nonce. An acknowledged check-in is only a
sign: nobody signs it. It counts unless an offer came since the one before whose ticket did not hold. Time goes on over
a restart, as that of a clock with a battery does.
"""


class Freshness:
    """One device's; STALE once there was no sign for longer than `after_s`."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since_s: float | None = None
        self._doubted = False
        self.stale = False

    def began(self, now_s: float) -> None:
        """The device was switched on, for the first time or again."""
        if self._since_s is None:
            self._since_s = now_s

    def held(self, now_s: float) -> None:
        """A ticket held."""
        self._since_s, self._doubted, self.stale = now_s, False, False

    def failed(self) -> None:
        """The ticket of an offer did not hold."""
        self._doubted = True

    def acknowledged(self, now_s: float) -> None:
        """A check-in was acknowledged."""
        if not self._doubted:
            self.held(now_s)
        self._doubted = False

    def look(self, now_s: float) -> bool:
        """True once, when it becomes STALE."""
        due_s = self.deadline_s()
        if due_s is None or now_s < due_s:
            return False
        self.stale = True
        return True

    def deadline_s(self) -> float | None:
        """When it becomes STALE if there is no sign before; None when it is."""
        return None if self.stale or self._since_s is None else self._since_s + self._after_s

    def without_s(self, now_s: float) -> float:
        """For how long there has been no sign."""
        return 0.0 if self._since_s is None else now_s - self._since_s
