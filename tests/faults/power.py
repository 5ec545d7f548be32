"""Power cuts: at each flash operation and each event of an update, and five in one update.

The cuts of all worlds stand in one order, and a seed picks one by a stride: any stretch of seeds touches every world,
and as many seeds as there are cuts touch each cut once. What the seed decides beside is where an operation is torn,
which bits are left, and the jitter of the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from device_sim.flash import Cut
from tests.faults.families import Broken, Family
from tests.faults.power_bench import Bench, PowerCut, no_cut
from tests.faults.power_worlds import TURNS, WORLDS, World, before

STRIDE = 1_000_003  # a prime, larger than there are cuts
FETCHING = "download"
FIVE_CUTS = 5

Plan = Callable[[Bench], PowerCut | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How an update without a cut goes: what each flash operation belongs to, and the events that are not blocks."""

    moments: tuple[str, ...]
    events: tuple[int, ...]


def bench_of(world: World, turn: int, *, seed: int = 0, plan: Plan = no_cut) -> Bench:
    """A device of this world before its update."""
    contents, installed = before(world, turn), world.release(2)
    return Bench.on(world, contents, offered=world.release(3), installed=installed, seed=seed, plan=plan)


def turn_of(world: World) -> int:
    """The boots before an update whose every operation is cut: another number for each world."""
    return WORLDS.index(world) * 5 % TURNS


@cache
def course(world: World) -> Course:
    """The course of a world's update."""
    moments: list[str] = []

    def record(bench: Bench) -> None:
        def operated(offset: int, size: int) -> None:
            bench.watch.operated(offset, size)
            moment = bench.moment()
            is_record = moment == FETCHING and not bench.watch.is_fetched(offset)
            moments.append("records" if is_record else moment)

        bench.flash.probe = operated

    bench = bench_of(world, turn_of(world), plan=record)
    bench.go_on(bench.is_over, "the update without a cut")
    bench.flash.close()
    return Course(moments=tuple(moments), events=tuple(bench.other_events))


@cache
def every_cut(*, fetching: bool) -> tuple[tuple[World, PowerCut, str], ...]:
    """Each cut of each world and what it hits: an image that is fetched, or anything else."""
    return tuple(
        (world, cut, moment)
        for world in WORLDS
        for cut, moment in (
            *(
                (PowerCut(operation=number, how=how), moment)
                for number, moment in enumerate(course(world).moments, 1)
                for how in Cut
            ),
            *((PowerCut(event=number), "between") for number in course(world).events),
        )
        if (moment == FETCHING) is fetching
    )


def run_download(seed: int) -> str:
    """One cut while an image is fetched."""
    return _one_of(every_cut(fetching=True), seed)


def run_switch(seed: int) -> str:
    """One cut somewhere else."""
    return _one_of(every_cut(fetching=False), seed)


def _one_of(cuts: tuple[tuple[World, PowerCut, str], ...], seed: int) -> str:
    world, cut, moment = cuts[seed * STRIDE % len(cuts)]
    bench = run_cuts(world, turn_of(world), seed, lambda bench: None if bench.cuts else cut)
    assert bench.cuts, f"{world.name}: the cut never came: {cut}"
    return moment


def run_five(seed: int) -> str:
    """Five cuts in one update, each chosen when the power comes back from the one before."""
    rng = Random(seed)
    world = rng.choice(WORLDS)

    def plan(bench: Bench) -> PowerCut | None:
        kind, how = rng.random(), rng.choice(list(Cut))
        if len(bench.cuts) == FIVE_CUTS:
            return None
        if kind < 0.4:
            left = max(6, len(course(world).moments) - bench.flash.ops)
            return PowerCut(operation=rng.randint(1, left), how=how)
        if kind < 0.6:
            return PowerCut(operation=rng.randint(1, 6), how=how)
        if kind < 0.8:
            return PowerCut(event=rng.randint(1, 9))
        return PowerCut(operation=1, how=how, moment=rng.choice(("switch", "trial", "confirm")))

    return f"{len(run_cuts(world, rng.randrange(TURNS), seed, plan).cuts)} cuts"


def run_cuts(world: World, turn: int, seed: int, plan: Plan) -> Bench:
    """Update a device that loses its power like this, and look at what becomes of it."""
    bench = None
    try:
        bench = bench_of(world, turn, seed=seed, plan=plan)
        bench.to_the_end()
    except Broken as broken:
        came = "" if bench is None else "; ".join(bench.cuts)
        broken.args = (f"{broken}\n  {world.name}, {turn} boots before; cuts: {came}",)
        raise
    finally:
        if bench is not None:
            bench.flash.close()
    return bench


def prepare() -> None:
    """Find every cut once for all processes."""
    every_cut(fetching=True)
    every_cut(fetching=False)


DOWNLOAD = Family(
    name="power-download",
    about="one power cut while an image is fetched, at a sector erased or a page programmed: before, torn, random bits, after",
    run=run_download,
    test=100,
    faults=1_600,
    full=48_000,  # all
    prepare=prepare,
)
SWITCH = Family(
    name="power-switch",
    about="one power cut at any other operation (records, boot, switch, trial, confirm, revert) or between two events",
    run=run_switch,
    test=170,
    faults=1_700,
    full=5_300,  # all
    prepare=prepare,
)
FIVE = Family(
    name="power-five",
    about="five power cuts in one update",
    run=run_five,
    test=30,
    faults=1_000,
    full=20_000,
    prepare=prepare,
)
