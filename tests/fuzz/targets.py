"""Every fuzz target, by name. To add one, write it into one of the three modules and run `make fuzz-corpus`."""

from tests.fuzz import bridge_targets, driver, sim_targets, world_targets
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*bridge_targets.TARGETS, *sim_targets.TARGETS, *world_targets.TARGETS)
}


def run(name: str, seed: int, count: int) -> driver.Tally:
    """`driver.run` by the target's name; so many inputs, or fewer where a target builds a whole world for each."""
    return driver.run(TARGETS[name], seed, TARGETS[name].share(count))
