"""Lets operators in who may, and has the audit log say what was refused: a work of its own, for theirs is undone.

It is written before the refusal is told; where it cannot be, the refusal stands. Of one user at most one a second is
written on average, twenty at once: what was too much is counted, and told with the next.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from ota_bridge.core.errors import Forbidden, KeysetRefused, ManifestRefused, OperatorError, OtaBridgeError, StoreError
from ota_bridge.core.fleet import ReportLimit
from ota_bridge.core.operations import Failure, admit, record_failure
from ota_bridge.core.people import Caller
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.values import Now
from ota_bridge.store.outcome import Failed, Outcome, Store

PER_S: Final = 1.0
BURST: Final = 20

_log = logging.getLogger(__name__)


class Door:
    """One for a store."""

    def __init__(self, store: Store, now: Callable[[], Now]) -> None:
        self._store = store
        self._now = now
        self._limit = ReportLimit(per_s=PER_S, burst=BURST)
        self._unrecorded: dict[str, int] = {}

    async def admit(self, caller: Caller, name: str) -> None:
        """Raises Forbidden unless `caller` may do what is called `name`, NotFound where nothing is."""
        await asyncio.to_thread(self._store.read, lambda unit: admit(unit, name, caller, self._now()))

    @asynccontextmanager
    async def recording(
        self, caller: Caller, name: str, args: Mapping[str, Any], *, writes: bool
    ) -> AsyncIterator[None]:
        """Records what is refused inside; of what only reads, that it is forbidden."""
        try:
            yield
        except (OperatorError, ManifestRefused, KeysetRefused) as error:
            if writes or isinstance(error, Forbidden):
                await self._failed(caller, name, args, error)
            raise

    async def _failed(self, caller: Caller, name: str, args: Mapping[str, Any], error: OtaBridgeError) -> None:
        if not self._limit.allow(caller.user, self._now().mono):
            self._unrecorded[caller.user] = self._unrecorded.get(caller.user, 0) + 1
            return
        failure = Failure(
            code=error.code if isinstance(error, OperatorError) else "refused",
            sentence=str(error),
            unrecorded=self._unrecorded.pop(caller.user, 0),
        )

        def work(unit: UnitOfWork) -> None:
            record_failure(unit, name, args, failure, caller=caller, now=self._now())

        written: asyncio.Future[Outcome[None]] = asyncio.get_running_loop().create_future()

        def on_done(outcome: Outcome[None]) -> None:
            if not written.done():
                written.set_result(outcome)

        try:
            self._store.submit(work, on_done)
        except StoreError as why:
            on_done(Failed(why))
        outcome = await written
        if isinstance(outcome, Failed):
            _log.warning("a refusal could not be recorded in the audit log: %s", outcome.error)
