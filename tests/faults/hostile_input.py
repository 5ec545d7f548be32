"""Damaged inputs for every decoder, by seeds: one run is 10,000 of them for one target of `tests/fuzz`."""

from tests.faults.families import Broken, Family
from tests.fuzz import driver
from tests.fuzz.targets import TARGETS

INPUTS = 10_000
NAMES = tuple(TARGETS)


def run(seed: int) -> str:
    """The targets take turns; the word is the target's name."""
    number, at = divmod(seed, len(NAMES))
    target = TARGETS[NAMES[at]]
    try:
        driver.run(target, number, target.share(INPUTS))
    except driver.Finding as finding:
        raise Broken("I10", str(finding)) from finding
    return target.name


INPUT = Family(
    name="input",
    about="10,000 damaged inputs for one decoder; fewer where each needs a world of its own",
    run=run,
    test=10 * len(NAMES),
    faults=100 * len(NAMES),
    full=1_000 * len(NAMES),
)
