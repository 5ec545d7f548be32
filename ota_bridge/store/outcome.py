"""What every store of this package can do, and how it tells the outcome of a unit of work.

1. `submit` queues a unit of work; works run one after the other in that order, each all or nothing: one that raises
   leaves no trace and does not disturb its neighbours.
2. The outcome is told only after the commit, in the order of submission, inside calls that go through `deliver`
   (a daemon passes `loop.call_soon_threadsafe`, tests `lambda run: run()`).
3. `Failed` means that nothing of this work was committed. Its error is what the work raised, or StoreError.
4. `read` runs at once on the calling thread and sees one committed state from its first question on; writing in it
   raises StoreError.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ota_bridge.core.ports import UnitOfWork

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Deliver = Callable[[Callable[[], None]], None]
"""Runs a callback where outcomes belong, now or soon; must keep the order of its calls."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed(Generic[T_co]):
    """The work is durable; `value` is what it returned."""

    value: T_co


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing of the work was committed."""

    error: Exception


Outcome = Committed[T] | Failed
Release = tuple[Callable[[Any], None], "Outcome[Any]"]


class Store(Protocol):
    """A place that keeps all aggregates; safe to use from any thread."""

    def submit(self, work: Callable[[UnitOfWork], T], on_done: Callable[[Outcome[T]], None]) -> None:
        """Queue `work`; raises StoreError when the queue is full or the store is closed."""
        ...

    def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run `work` over the last committed state and return what it returns."""
        ...

    def last_commit_wall(self) -> float | None:
        """When something was last committed, by the wall clock of then; None if nothing ever was."""
        ...

    def close(self) -> None:
        """Finish what is queued, tell its outcomes, close. May be called twice."""
        ...


def release(outcomes: Sequence[Release]) -> None:
    """Tell the outcomes in order; a receiver that raises does not keep the others from theirs."""
    for on_done, outcome in outcomes:
        try:
            on_done(outcome)
        except Exception:  # noqa: BLE001 - one faulty receiver must not keep the others waiting
            _log.exception("the receiver of a store outcome failed")
