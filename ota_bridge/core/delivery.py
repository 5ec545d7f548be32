"""Delivery: when a deployment has to be looked at again.

When an offer is due, when a download has stalled, when a state has lasted too long. Pure; what is served is `blocks`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ota_bridge.core.deployment import FETCHING, Deployment, State


class Due(StrEnum):
    """What a deployment needs when its time has come."""

    OFFER = "offer"
    STALL = "stall"
    TIME_OUT = "time_out"


_PAST_S: Final = 0.001
"""So that a look at that time is past it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How long things may take, in seconds."""

    resend_after_s: float = 60
    min_offer_interval_s: float = 30
    crossing_s: float = 3
    stall_after_s: float = 60
    offered_s: float = 604_800
    downloading_s: float = 86_400
    installing_s: float = 3_600
    trial_s: float = 3_600
    canceling_s: float = 86_400
    silent_after_s: float = 259_200
    sleepers_wait: bool = False
    """True: a notice that no block was asked for after it waits for its device without end."""

    def earliest_offer_wall(self, last_offer_wall: float | None, wall: float) -> float:
        """When this device may get the next notice: never more often than `min_offer_interval_s` (boot loops)."""
        if last_offer_wall is None or last_offer_wall > wall:
            return wall
        return max(wall, last_offer_wall + self.min_offer_interval_s)

    def check_in_ends_wall(self, next_check_in_wall: float | None, wall: float) -> float | None:
        """Until when a notice by the clock leaves the way to a check-in that is just coming; None: it need not wait.

        A check-in brings another nonce: a notice that crosses it is stale, and the next could follow only much later.
        """
        if next_check_in_wall is None or abs(next_check_in_wall - wall) > self.crossing_s:
            return None
        return next_check_in_wall + self.crossing_s + _PAST_S

    def next_due(self, deployment: Deployment) -> tuple[float, Due] | None:
        """When this open deployment needs something next, and what; None: nothing but a message moves it.

        The caller leaves paused rollouts out.
        """
        since = deployment.changed_wall
        if deployment.retry_wall is not None and is_served(deployment):
            return (deployment.retry_wall, Due.OFFER)
        match deployment.state:
            case State.QUEUED:
                return (since, Due.OFFER)
            case State.OFFERED:
                waits = self.sleepers_wait and not deployment.has_begun
                over = None if waits else (since + self.offered_s, Due.TIME_OUT)
                if deployment.resent or deployment.offered_wall is None:
                    return over
                return _first((deployment.offered_wall + self.resend_after_s, Due.OFFER), over)
            case State.DEFERRED:
                return (since + self.resend_after_s, Due.OFFER)
            case State.DOWNLOADING:
                last = max(since, deployment.last_block_wall or since)
                offered = deployment.offered_wall
                ends = (last + self.downloading_s, Due.TIME_OUT)
                if offered is not None and offered >= last and not deployment.resent:
                    # The device came back and asked for nothing.
                    return _first((offered + self.resend_after_s, Due.OFFER), ends)
                return ends if deployment.stalled else _first((last + self.stall_after_s, Due.STALL), ends)
            case State.DOWNLOADED:
                return (since + self.downloading_s, Due.TIME_OUT)
            case State.INSTALLING:
                return (since + self.installing_s, Due.TIME_OUT)
            case State.TRIAL:
                return (since + self.trial_s, Due.TIME_OUT)
            case State.CANCELING:
                return (since + self.canceling_s, Due.TIME_OUT)
            case _:
                return None


def _first(one: tuple[float, Due], other: tuple[float, Due] | None) -> tuple[float, Due]:
    """What comes first; a time-out that is shorter than the way to it comes before that."""
    return one if other is None or one[0] <= other[0] else other


def is_served(deployment: Deployment) -> bool:
    """True while blocks of this deployment may be asked for."""
    return deployment.state in FETCHING
