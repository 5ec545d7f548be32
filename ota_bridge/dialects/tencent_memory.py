"""What is kept of one of Tencent's devices between its messages: a small JSON object in the device's transaction."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Self

from ota_bridge.core.values import DeviceId

LATER_MAX_S: Final = 3600.0
"""The longest wait between two notices that nothing followed."""
LIFE_STEPS: Final = 3
"""So many signs of life are written, at most, in the time after which another notice would be due."""
BELIEVED_MAX: Final = 2
"""How many claims of one version are believed of a device that never says later what it runs."""
REPEAT_S: Final = 3.0
"""The same failure again within this time is the same message again."""
CHILDREN_MAX: Final = 64
_DOUBLINGS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The last notice of a deployment, or the last sign that the device is busy with it, whichever came later."""

    wall: float
    in_vain: int = 0
    """Notices since anything followed."""
    has_begun: bool = False
    """The device has said that it downloads."""
    percent: int = -1
    """The highest that it told."""

    def since_wall(self, now_wall: float) -> float:
        """Since when nothing followed; no later than now, for the clock may have been set back."""
        return min(self.wall, now_wall)

    def again_wall(self, resend_s: float, now_wall: float) -> float:
        """When the next notice is due if nothing follows: twice as long each time."""
        doublings = min(max(self.in_vain - 1, 0), _DOUBLINGS_MAX)
        return self.since_wall(now_wall) + min(resend_s * 2.0**doublings, max(LATER_MAX_S, resend_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """All of it."""

    gateway: str = ""
    """`product/name` of the gateway that it came online behind; empty: it has a connection of its own."""
    children: tuple[str, ...] = ()
    """Of a gateway: who is online behind it."""
    notices: Mapping[str, Notice] = field(default_factory=dict)
    """By deployment."""
    done: str = ""
    """The deployment of which it said `done`: no more notices of it."""
    failed: tuple[str, str, float] | None = None
    """Version, code and time of its last message, where that was a failure."""
    claims: tuple[str, int] = ("", 0)
    """A version that it said to be done with, and how often, without ever reporting it."""

    @classmethod
    def read(cls, data: bytes) -> Self:
        """What `write` made; anything else is as good as nothing."""
        try:
            found: Any = json.loads(data) if data else {}
            return cls(
                gateway=str(found.get("gateway", "")),
                children=tuple(str(one) for one in found.get("children", ())),
                notices={str(name): Notice(**one) for name, one in found.get("notices", {}).items()},
                done=str(found.get("done", "")),
                failed=_failure(found.get("failed")),
                claims=(str(found.get("claims", ["", 0])[0]), int(found.get("claims", ["", 0])[1])),
            )
        except (ValueError, TypeError, AttributeError, LookupError):
            return cls()

    def write(self) -> bytes:
        """Only what is not as at first."""
        first = type(self)()
        names = [one.name for one in fields(self) if getattr(self, one.name) != getattr(first, one.name)]
        whole = asdict(self)
        kept = {name: whole[name] for name in names}
        return json.dumps(kept, separators=(",", ":")).encode() if kept else b""

    # --- notices ---

    def noticed(self, deployment: str, wall: float) -> Self:
        """A notice of it goes out."""
        before = self.notices.get(deployment, Notice(wall=wall))
        return self._with(deployment, replace(before, wall=wall, in_vain=before.in_vain + 1))

    def alive(self, deployment: str, wall: float, percent: int | None, resend_s: float) -> Self:
        """The device is busy with it."""
        before = self.notices.get(deployment)
        age_s = 0.0 if before is None else wall - before.wall
        moved = before is None or not before.has_begun or not 0 <= age_s < resend_s / LIFE_STEPS
        highest = max(-1 if before is None else before.percent, -1 if percent is None else percent)
        if before is not None and not moved and highest == before.percent:
            return self
        begun = wall if before is None or moved else before.wall
        return self._with(deployment, Notice(wall=begun, has_begun=True, percent=highest))

    def _with(self, deployment: str, notice: Notice) -> Self:
        return replace(self, notices={**self.notices, deployment: notice})

    def only(self, deployments: frozenset[str]) -> Self:
        """Without what has ended."""
        if self.done in deployments | {""} and deployments.issuperset(self.notices):
            return self
        kept = {name: notice for name, notice in self.notices.items() if name in deployments}
        return replace(self, notices=kept, done=self.done if self.done in deployments else "")

    # --- failures and claims ---

    def is_repeat(self, version: str, code: str, wall: float, *, echo: str, echoed: frozenset[str]) -> bool:
        """Whether this failure was told already: it is the same again, or `echo` right after one of `echoed`."""
        if self.failed is None or self.failed[0] != version:
            return False
        if code == echo and self.failed[1] in echoed:
            return True
        return code == self.failed[1] and 0 <= wall - self.failed[2] < REPEAT_S

    def claimed(self, version: str) -> tuple[Self, bool]:
        """It says that it is done; and whether that is to be believed of one that never says what it runs."""
        count = self.claims[1] + 1 if self.claims[0] == version else 1
        return replace(self, claims=(version, count)), count <= BELIEVED_MAX

    def runs(self, version: str) -> Self:
        """It has reported what it runs."""
        claims = ("", 0) if self.claims[0] == version else self.claims
        return replace(self, failed=None, claims=claims)

    # --- gateways ---

    def moved(self, devices: tuple[DeviceId, ...], *, are_online: bool) -> Self:
        """Of a gateway: these came or went."""
        names = [str(one) for one in devices]
        others = [name for name in self.children if name not in names]
        return replace(self, children=tuple([*others, *(names if are_online else ())][-CHILDREN_MAX:]))


def _failure(found: Any) -> tuple[str, str, float] | None:
    return None if found is None else (str(found[0]), str(found[1]), float(found[2]))
