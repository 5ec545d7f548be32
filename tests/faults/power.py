"""Power cuts: at each flash operation and each event of an update, and five in one update.

Even seeds go through all cuts by a stride, so that any stretch of them is spread over all worlds, and twice as many
seeds as there are cuts touch each of them. Odd seeds go through the kinds of cuts, so that those of which there are
few come as often as the others. What the seed decides beside is where an operation is torn, which bits are left, and
the jitter of the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from random import Random

from device_sim.flash import Cut
from tests.faults.families import Broken, Family
from tests.faults.power_bench import Bench, PowerCut, no_cut
from tests.faults.power_worlds import TURNS, WORLDS, World, before

STRIDE = 1_000_003  # a prime, larger than there are cuts
DOWNLOAD, RECORDS, SWITCH = "download", "records", "switch"
FIVE_CUTS = 5

Plan = Callable[[Bench], PowerCut | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How an update without a cut goes: what each flash operation belongs to and hits, and the events beside blocks."""

    operations: tuple[tuple[str, str], ...]
    events: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCut:
    """A cut of a world; of one `kind` are those that should end alike."""

    world: World
    cut: PowerCut
    moment: str
    kind: tuple[object, ...]


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
    operations: list[tuple[str, str]] = []

    def record(bench: Bench) -> None:
        def operated(offset: int, size: int) -> None:
            moment, part = bench.moment(), bench.watch.part_at(offset)  # by what the settings said before it
            bench.watch.operated(offset, size)
            is_record = moment == DOWNLOAD and part in {"settings", "manifest"}
            operations.append((RECORDS if is_record else moment, part))

        bench.flash.probe = operated

    bench = bench_of(world, turn_of(world), plan=record)
    bench.go_on(bench.is_over, "the update without a cut")
    bench.flash.close()
    return Course(operations=tuple(operations), events=tuple(bench.other_events))


@cache
def every_cut(part: str) -> tuple[OneCut, ...]:
    """Each cut of one part of the updates of all worlds."""
    found = []
    for world in WORLDS:
        operations = course(world).operations
        for number, (moment, place) in enumerate(operations, 1):
            last = operations[number : number + 1] != ((moment, place),)  # of several in a row
            for how in Cut:
                cut = PowerCut(operation=number, how=how)
                kind = (world.story, moment, place, last, how)
                found.append(OneCut(world=world, cut=cut, moment=moment, kind=kind))
        for number, event in enumerate(course(world).events):
            kind = (world.story, "between", number)
            found.append(OneCut(world=world, cut=PowerCut(event=event), moment="between", kind=kind))
    return tuple(cut for cut in found if part == (cut.moment if cut.moment in {DOWNLOAD, RECORDS} else SWITCH))


@cache
def every_kind(part: str) -> tuple[tuple[OneCut, ...], ...]:
    """The same by their kind."""
    kinds: dict[tuple[object, ...], list[OneCut]] = {}
    for cut in every_cut(part):
        kinds.setdefault(cut.kind, []).append(cut)
    return tuple(map(tuple, kinds.values()))


def cut_of(part: str, seed: int) -> OneCut:
    """The cut that a seed stands for."""
    if seed % 2 == 0:
        cuts = every_cut(part)
        return cuts[seed // 2 * STRIDE % len(cuts)]
    kinds = every_kind(part)
    turn, kind = divmod(seed // 2, len(kinds))
    return kinds[kind][turn * STRIDE % len(kinds[kind])]


def run_one(part: str, seed: int) -> str:
    """One cut of a part."""
    one = cut_of(part, seed)
    bench = _run_cut(one.world, seed, one.cut)
    if not bench.cuts and one.cut.event is not None:
        # With the jitter of this seed the update has fewer events than the course: before its own last one.
        bench = _run_cut(one.world, seed, PowerCut(event=bench.other_events[-1]))
    assert bench.cuts, f"{one.world.name}: the cut never came: {one.cut}"
    return one.moment


def _run_cut(world: World, seed: int, cut: PowerCut) -> Bench:
    return run_cuts(world, turn_of(world), seed, lambda bench: None if bench.cuts else cut)


def run_five(seed: int) -> str:
    """Five cuts in one update, each chosen when the power comes back from the one before."""
    rng = Random(seed)
    world = rng.choice(WORLDS)

    def plan(bench: Bench) -> PowerCut | None:
        kind, how = rng.random(), rng.choice(list(Cut))
        if len(bench.cuts) == FIVE_CUTS:
            return None
        if kind < 0.4:
            left = max(6, len(course(world).operations) - bench.flash.ops)
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
    for part in (DOWNLOAD, RECORDS, SWITCH):
        every_kind(part)


FAMILIES = (
    Family(
        name="power-download",
        about="one power cut while an image is fetched, at a sector erased or a page programmed",
        run=partial(run_one, DOWNLOAD),
        test=30,
        faults=1_000,
        full=96_000,  # all
        limit_s=60.0,
        prepare=prepare,
    ),
    Family(
        name="power-records",
        about="one power cut while the state of a download or its manifest is written",
        run=partial(run_one, RECORDS),
        test=30,
        faults=1_000,
        full=6_400,  # all
        limit_s=60.0,
        prepare=prepare,
    ),
    Family(
        name="power-switch",
        about="one power cut at any other operation (boot, switch, trial, confirm, revert), or between two events",
        run=partial(run_one, SWITCH),
        test=216,
        faults=5_700,  # all
        full=5_700,
        limit_s=60.0,
        prepare=prepare,
    ),
    Family(
        name="power-five",
        about="five power cuts in one update",
        run=run_five,
        test=24,
        faults=1_000,
        full=20_000,
        limit_s=60.0,
        prepare=prepare,
    ),
)
