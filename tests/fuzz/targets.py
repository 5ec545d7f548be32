"""Every fuzz target, by name. To add one, write it into one of the modules and run `make fuzz-corpus`."""

from tests.fuzz import (
    alibaba_targets,
    aws_targets,
    bridge_targets,
    driver,
    files_targets,
    query_targets,
    sim_targets,
    tencent_targets,
    thingsboard_targets,
    world_targets,
    xively_targets,
)
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (
        bridge_targets,
        files_targets,
        sim_targets,
        world_targets,
        query_targets,
        aws_targets,
        alibaba_targets,
        tencent_targets,
        thingsboard_targets,
        xively_targets,
    )
    for target in module.TARGETS
}


def run(name: str, seed: int, count: int) -> driver.Tally:
    """`driver.run` by the target's name; so many inputs, or fewer where a target builds a whole world for each."""
    return driver.run(TARGETS[name], seed, TARGETS[name].share(count))
