"""Requests that wait for the disk, and those behind them: each device is answered in the order in which it asked.

What waits is bounded, for each device and in all; what is over the bound is told "busy" by whoever asks. `Turns` are
requests that wait for the fleet-wide caps, of devices that would not ask again.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from ota_bridge.core.blocks import Client, Cold
from ota_bridge.core.values import DeviceId
from ota_bridge.mqtt.blocks import Pieces

WAITING_MAX: Final = 4_096
WAITING_PER_DEVICE_MAX: Final = 16
TRIES_MAX: Final = 3
TURNS_MAX: Final = 100_000


@dataclass(slots=True)
class Waiting:
    """A request that waits for the disk, or behind one that does."""

    topic: bytes
    payload: bytes
    tries: int = 0
    until_mono: float | None = None
    """Until when it may wait for its turn, where it does."""


Read = Callable[[Cold, Callable[[], None]], None]
"""Runs `Cold.artifact.fetch` in a thread and then the callback on the loop."""


def read_now(cold: Cold, done: Callable[[], None]) -> None:
    """Reads on the spot."""
    cold.artifact.fetch(cold.offset, cold.length)
    done()


class RequestLines:
    """One line for each device that waits.

    `answer(client, asked, now, out)` appends blocks or a refusal, or returns what has to be read first; `known(asked)`
    finds the client of a request anew; `send` takes what is answered later.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Client, Waiting, float, Pieces], Cold | None],
        known: Callable[[Waiting], Client | None],
        read: Read,
        mono: Callable[[], float],
        send: Callable[[Pieces], bool],
    ) -> None:
        self._answer = answer
        self._known = known
        self._read = read
        self._mono = mono
        self._send = send
        self._waiting_in_all = 0
        self._lines: dict[Client, deque[Waiting]] = {}

    def wait(self, client: Client, asked: Waiting, cold: Cold | None = None) -> bool:
        """Let a request wait: the first until `cold` was read, any other behind those before it. False: no room."""
        line = self._lines.setdefault(client, deque())
        if len(line) >= WAITING_PER_DEVICE_MAX or self._waiting_in_all >= WAITING_MAX:
            if not line:
                del self._lines[client]
            return False
        self._waiting_in_all += 1
        line.append(asked)
        client.is_waiting = True
        if cold is not None:
            self._read(cold, partial(self._on_read, client))
        return True

    def _on_read(self, client: Client) -> None:
        """Answer the line up to the next request that has to wait for the disk."""
        line, late, now = self._lines[client], Pieces(), self._mono()
        known = self._known(line[0]) if client.is_gone else client
        cold: Cold | None = None
        while line and cold is None:
            asked = line[0]
            asked.tries += 1
            if known is not None:
                cold = self._answer(known, asked, now, late)
            if cold is None:
                line.popleft()
                self._waiting_in_all -= 1
        if late:
            self._send(late)
        if cold is not None:
            self._read(cold, partial(self._on_read, client))
            return
        del self._lines[client]
        client.is_waiting = False


class Turns:
    """The last request of each device that has to wait for its turn, by the time at which it may ask again."""

    def __init__(self) -> None:
        self._kept: dict[bytes, Waiting] = {}
        """By topic; a device has one at most."""
        self._topics: dict[DeviceId, bytes] = {}
        self._due: list[tuple[float, int, Waiting]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, device: DeviceId, asked: Waiting, *, due_mono: float) -> bool:
        """Keep it until then, instead of what its device asked before; False: there is no room."""
        self.drop_of(device)
        if len(self._kept) >= TURNS_MAX:
            return False
        self._kept[asked.topic] = asked
        self._topics[device] = asked.topic
        self._number += 1
        heapq.heappush(self._due, (due_mono, self._number, asked))
        return True

    def drop(self, topic: bytes) -> None:
        """Its device has said something else on it since."""
        self._kept.pop(topic, None)

    def drop_of(self, device: DeviceId) -> None:
        """The device has asked for something else since."""
        topic = self._topics.pop(device, None)
        if topic is not None:
            self._kept.pop(topic, None)

    def due(self, now: float) -> list[Waiting]:
        """Those whose time has come; they are kept no longer."""
        found: list[Waiting] = []
        while self._due and self._due[0][0] <= now:
            _, _, asked = heapq.heappop(self._due)
            if self._kept.get(asked.topic) is asked:
                del self._kept[asked.topic]
                found.append(asked)
        return found
