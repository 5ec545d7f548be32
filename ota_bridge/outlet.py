"""Lets out what committed units of work produced: in order, and never for long at a time.

One commit can release the outputs of hundreds of works. The event loop also carries the block plane, so it works for
at most `SLICE_S` here and then takes its other turns first; what is left waits in one queue, in order.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from ota_bridge.core.messages import Output

SLICE_S: Final = 0.001

_log = logging.getLogger(__name__)


class Outlet:
    """A queue of outputs and of what is to be done once they are out. Used on the loop's thread."""

    def __init__(
        self,
        let_out: Callable[[Output], None],
        *,
        mono: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._let_out = let_out
        self._mono = mono
        self._soon = soon
        self._queue: deque[Output | Callable[[], None]] = deque()
        self._is_scheduled = False

    def put(self, outputs: Iterable[Output], then: Callable[[], None]) -> None:
        """Let out `outputs`, then call `then`, after everything that was put before."""
        self._queue.extend(outputs)
        self._queue.append(then)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._soon(self._run)

    def _run(self) -> None:
        end = self._mono() + SLICE_S
        queue = self._queue
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
