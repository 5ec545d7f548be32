"""A local reader of events that may be slow: it lags behind by so many, then it misses the oldest."""

import asyncio
from collections import deque
from typing import Final

from ota_bridge.core.messages import Event
from ota_bridge.core.values import DeviceId

EVENTS_MAX: Final = 1000
"""Events that wait for one reader."""


class Subscriber:
    """Reads the events of one device, or of all. Used on the loop's thread."""

    def __init__(self, device: DeviceId | None) -> None:
        self._device = device
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._arrived = asyncio.Event()

    def offer(self, event: Event) -> None:
        """An event happened."""
        if self._device is None or event.device == self._device:
            self._events.append(event)
            self._arrived.set()

    async def next(self) -> Event:
        """The oldest that was not read yet."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()
