"""Lets out what committed units of work produced: in order, and never for long at a time.

One commit can release the outputs of hundreds of works. The event loop also carries the block plane, so it works for
at most `SLICE_S` here and then takes its other turns first; what is left waits in one queue, in order.

What changes the block plane's table overtakes everything else: it is committed, and a notice must never come before it.
So what one commit changed goes out together, of each device the last, and costs the way to another process once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from ota_bridge.core.messages import GrantsChanged, Output
from ota_bridge.core.values import DeviceId
from ota_bridge.mqtt.control import AckToken
from ota_bridge.wire import MqttMessage

SLICE_S: Final = 0.001
TABLE_MAX: Final = 32
"""How many devices' grants go out at once: applied here, they take less than a slice."""

_log = logging.getLogger(__name__)


def call_soon(run: Callable[[], None]) -> object:
    """Let the loop run it after its other turns."""
    return asyncio.get_running_loop().call_soon(run)


def nothing() -> None:
    """For an end that nobody waits for."""


class Publisher(Protocol):
    """What takes messages to the broker, and says that one from there is done with: the control link."""

    @property
    def queued(self) -> int: ...
    def publish(self, message: MqttMessage) -> bool: ...
    def ack(self, token: AckToken) -> None: ...


class Outlet:
    """A queue of outputs and of what is to be done once they are out. Used on the loop's thread."""

    def __init__(
        self,
        let_out: Callable[[Output], None],
        *,
        table: Callable[[Sequence[GrantsChanged]], None],
        mono: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._let_out = let_out
        self._table = table
        self._changes: dict[DeviceId, GrantsChanged] = {}
        self._mono = mono
        self._soon = soon
        self._queue: deque[Output | Callable[[], None]] = deque()
        self._is_scheduled = False

    def put(self, outputs: Iterable[Output], then: Callable[[], None]) -> None:
        """Let out `outputs`, then call `then`, after everything that was put before."""
        for one in outputs:
            if isinstance(one, GrantsChanged):
                self._changes[one.device] = one
            else:
                self._queue.append(one)
        self._queue.append(then)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._soon(self._run)

    def _run(self) -> None:
        end = self._mono() + SLICE_S
        queue = self._queue
        while self._changes:
            self._change_table()
            if self._mono() >= end:
                self._soon(self._run)
                return
        while queue:
            one = queue.popleft()
            try:
                if callable(one):
                    one()
                else:
                    self._let_out(one)
            except Exception:  # noqa: BLE001 - one faulty output must not keep the others waiting
                _log.exception("a committed output could not be let out")
            if queue and self._mono() >= end:
                self._soon(self._run)
                return
        self._is_scheduled = False

    def _change_table(self) -> None:
        names = [name for name, _ in zip(self._changes, range(TABLE_MAX), strict=False)]
        changes = [self._changes.pop(name) for name in names]
        if not self._is_applied(changes) and len(changes) > 1:
            for change in changes:
                self._is_applied([change])

    def _is_applied(self, changes: Sequence[GrantsChanged]) -> bool:
        try:
            self._table(changes)
        except Exception:  # noqa: BLE001 - one faulty change must not keep the others waiting
            _log.exception("the grants of %s could not be let out", ", ".join(str(one.device) for one in changes[:3]))
            return False
        return True
