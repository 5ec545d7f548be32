"""The wall clock against the monotonic one: notices that it was set, and takes the deadlines in the database along.

1. Deadlines are wall time. Until they were moved, by a commit, nothing may end by them: `was_set` says so at any
   moment.
2. A move that was not committed (a full disk) is tried again with the next `follow`.
3. A clock that was set back while nothing ran shows by the last commit, which then lies ahead. One that was set
   forward looks like time that went by.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ota_bridge.core.errors import StoreError
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.values import Now
from ota_bridge.store.outcome import Failed, Outcome, Store

STEP_S: Final = 30.0
"""A wall clock that moved this much against the monotonic one was set; less is time that is kept badly."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ClockWatch:
    """See the module."""

    store: Store
    move: Callable[[UnitOfWork, float], None]
    """Moves the deadlines by so many seconds."""
    followed: Callable[[], None]
    """Told after each step that was followed."""
    _offset_s: float | None = field(default=None, init=False)
    """Wall minus monotonic, of the clock that deadlines are told by."""
    _is_following: bool = field(default=False, init=False)

    async def begin(self, now: Now) -> None:
        """Before anything else (rule 3)."""
        last = await asyncio.to_thread(self.store.last_commit_wall)
        began_wall = last if last is not None and last - now.wall >= STEP_S else now.wall
        self._offset_s = began_wall - now.mono

    def was_set(self, now: Now) -> bool:
        """True while deadlines are those of another clock."""
        return self._offset_s is not None and abs(now.wall - now.mono - self._offset_s) >= STEP_S

    def follow(self, now: Now) -> bool:
        """Every second: True where deadlines fit the clock; else they are about to. May raise StoreError."""
        offset_s = now.wall - now.mono
        if self._offset_s is None or not self.was_set(now):
            self._offset_s = offset_s
            return True
        if not self._is_following:
            self._follow(offset_s, offset_s - self._offset_s)
        return not self.was_set(now)

    def _follow(self, offset_s: float, step_s: float) -> None:
        def on_done(outcome: Outcome[None]) -> None:
            self._is_following = False
            if isinstance(outcome, Failed):
                _log.error("deadlines could not follow the clock, trying again: %s", outcome.error)
                return
            self._offset_s = offset_s
            _log.warning("the wall clock was set by %+.0f s; deadlines follow it", step_s)
            self.followed()

        self._is_following = True
        try:
            self.store.submit(lambda unit: self.move(unit, step_s), on_done)
        except StoreError:
            self._is_following = False
            raise
