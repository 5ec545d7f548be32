"""What a family of faults is, and the rules that no fault may break.

A family runs one fault, or a handful, by a seed: `run(seed)` returns a word about what it hit, to be counted, or
raises `Broken` with the name of the rule. The same seed does the same thing. To add one, write a `Family` and put
it into `tests/faults/registry.py`; sizes, processes, results and replay are there already (`tests/faults/runs.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

SIZES = ("test", "faults", "full")  # `make test`, `make faults`, `make faults-full`

INVARIANTS = {
    "I1": "the device only ever boots an image that an author signed for its class, with a seq not below its counter",
    "I2": "every report that the bridge acknowledged is in its database",
    "I3": "when the faults are over, every device reaches its target or a named final state in bounded time",
    "I4": "the counters of a rollout are the recount of its devices",
    "I5": "no byte of an image and no notice reaches a device outside the rollout",
    "I6": "when all is quiet, what the bridge believes is what the device runs",
    "I7": "the anti-rollback counter rises with the confirm and never before",
    "I8": "nothing is programmed before its chunk was checked, or made bootable before the whole was read back",
    "I9": "a cut costs at most one unit and one window fetched again",
    "I10": "whatever bytes arrive, a decoder takes or refuses them, in bounded time and memory",
}


class Broken(Exception):
    """An invariant does not hold; `name` is its key."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} is broken: {what} (rule: {INVARIANTS[name]})")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of fault and its three sizes. `prepare` makes what all runs share, once, before the processes part."""

    name: str
    about: str
    run: Callable[[int], str]
    test: int
    faults: int
    full: int
    limit_s: float = 600.0  # of one run
    alone: bool = False  # whether two runs at a time would disturb each other
    prepare: Callable[[], object] = bool

    def __post_init__(self) -> None:
        assert 0 < self.test <= self.faults <= self.full, self.name
