"""Keeps the block plane's table as the database has it: each change once committed, and the whole where it is new.

While the whole is read, changes go on: what was said meanwhile is newer than what was read, and stays.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence

from ota_bridge.block_plane import BlockPlane
from ota_bridge.core.messages import GrantsChanged, GrantState
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.steering import holds
from ota_bridge.core.values import DeploymentId, Limits, RolloutId
from ota_bridge.store.outcome import Store

Page = tuple[list[GrantsChanged], DeploymentId | None]


class BlockTable:
    """One for a block plane, used on the event loop. `page(unit, after)` reads some of the grants, see `Bridge`."""

    def __init__(
        self, blocks: BlockPlane, store: Store, page: Callable[[UnitOfWork, DeploymentId | None], Page]
    ) -> None:
        self._blocks = blocks
        self._store = store
        self._page = page
        self._newer: set[Hashable] | None = None

    def grant(self, changes: Sequence[GrantsChanged]) -> None:
        """What these devices may fetch from now on."""
        self._is_news(*(change.device for change in changes))
        self._blocks.apply(*changes)

    def hold(self, rollout: RolloutId, state: GrantState | None) -> None:
        """What a whole rollout is answered with from now on; None: what each grant says."""
        self._is_news(rollout)
        self._blocks.hold(rollout, state)

    def set_limits(self, limits: Limits) -> None:
        """The fleet-wide caps from now on."""
        self._is_news(Limits)
        self._blocks.set_limits(limits)

    async def load(self) -> None:
        """Fill it from the database; block requests are answered "busy" until then."""
        self._newer = newer = set[Hashable]()
        try:
            limits = await asyncio.to_thread(self._store.read, lambda unit: unit.limits.get().limits)
            if Limits not in newer:
                self._blocks.set_limits(limits)
            for rollout, state in await asyncio.to_thread(self._store.read, holds):
                if rollout.id not in newer:
                    self._blocks.hold(rollout.id, state)
            after: DeploymentId | None = None
            while True:
                changes, after = await asyncio.to_thread(self._read_page, after)
                self._blocks.apply(*(change for change in changes if change.device not in newer))
                if after is None:
                    break
        finally:
            self._newer = None
        self._blocks.open()

    def _read_page(self, after: DeploymentId | None) -> Page:
        return self._store.read(lambda unit: self._page(unit, after))

    def _is_news(self, *of: Hashable) -> None:
        if self._newer is not None:
            self._newer.update(of)
