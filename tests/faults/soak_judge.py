"""What a soak has to hold, from the samples it took: plain functions over numbers, no clock, no process.

1. The first quarter is left out: caches fill, the allocator finds its size. What is judged is the rest, in an hour minutes 15 to 60.
2. Memory is the anonymous memory of each process (`RssAnon`); its slope is the least squares line's. A process that was started
   anew in between begins a life of its own: each life has its own level, and all share one slope.
3. A window under `SHORTEST_S` is too short for a slope per hour; memory is then shown and not judged.
4. Descriptors are flat when neither their line nor the median of the last fifth rose by more than `SPARE_FDS`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

WARM_UP = 0.25
SHORTEST_S = 1200.0
LIMIT_MIB_PER_H = 1.0
SPARE_FDS = 5
DAEMON, BLOCKS = "daemon", "block process"
KIB_PER_MIB, S_PER_H = 1024, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process at one moment."""

    pid: int
    anon_kib: int
    fds: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the daemon and its block process; `second` counts from the beginning."""

    second: float
    processes: dict[str, Process]
    database_bytes: int
    wal_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One line of the verdict. `held` None: not judged."""

    name: str
    held: bool | None
    found: str

    def __str__(self) -> str:
        word = {True: "held", False: "MISSED", None: "not judged"}[self.held]
        return f"{word:10} {self.name}: {self.found}"


def window(samples: Sequence[Sample], length_s: float) -> list[Sample]:
    """The part that is judged."""
    return [one for one in samples if WARM_UP * length_s <= one.second <= length_s]


def slope(points: Iterable[tuple[object, float, float]]) -> float:
    """The least squares slope of (life, x, y), every life with a level of its own; 0 where nothing spans any x."""
    above = below = 0.0
    for _, group in groupby(points, key=lambda point: point[0]):
        xs, ys = zip(*((x, y) for _, x, y in group), strict=True)
        x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
        above += sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
        below += sum((x - x_mean) ** 2 for x in xs)
    return above / below if below else 0.0


def memory_slope(samples: Sequence[Sample], names: Sequence[str]) -> float:
    """MiB per hour of these processes together."""
    return slope(
        (
            tuple(one.processes[name].pid for name in names),
            one.second / S_PER_H,
            sum(one.processes[name].anon_kib for name in names) / KIB_PER_MIB,
        )
        for one in samples
        if all(name in one.processes for name in names)
    )


def memory_goal(samples: Sequence[Sample], names: Sequence[str]) -> Goal:
    """Anonymous memory does not rise by a mebibyte in an hour."""
    seen = [
        sum(one.processes[name].anon_kib for name in names)
        for one in samples
        if all(name in one.processes for name in names)
    ]
    name = f"anonymous memory of {' and '.join(names)}"
    if not seen:
        return Goal(name=name, held=False, found="there was nothing to look at")
    span_s, lives = samples[-1].second - samples[0].second, len({_pids(one, names) for one in samples} - {()})
    rise = memory_slope(samples, names)
    found = f"{rise:+.2f} MiB/h, {min(seen) / KIB_PER_MIB:.1f} to {max(seen) / KIB_PER_MIB:.1f} MiB"
    found += f", in {lives} lives" if lives > 1 else ""
    if span_s < SHORTEST_S:
        return Goal(name=name, held=None, found=f"{found}, in a window of {span_s:.0f} s (wanted: {SHORTEST_S:.0f} s)")
    return Goal(name=name, held=rise < LIMIT_MIB_PER_H, found=f"{found} (wanted: under {LIMIT_MIB_PER_H:+.2f} MiB/h)")


def _pids(sample: Sample, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(sample.processes[name].pid for name in names if name in sample.processes)


def descriptor_goal(samples: Sequence[Sample], name: str) -> Goal:
    """As many open files at the end as at the beginning."""
    seen = [(one.second, one.processes[name].fds) for one in samples if name in one.processes]
    goal = f"file descriptors of the {name}"
    if not seen:
        return Goal(name=goal, held=False, found="there was nothing to look at")
    fifth = max(1, len(seen) // 5)
    first, last = (median(fds for _, fds in part) for part in (seen[:fifth], seen[-fifth:]))
    rise = slope(("", second, float(fds)) for second, fds in seen) * (seen[-1][0] - seen[0][0])
    found = f"{first:.0f} at first, {last:.0f} at last, {max(fds for _, fds in seen)} at most, line {rise:+.1f}"
    return Goal(name=goal, held=max(last - first, rise) <= SPARE_FDS, found=found)


def verdict(samples: Sequence[Sample], length_s: float) -> list[Goal]:
    """What memory and descriptors did."""
    judged = window(samples, length_s)
    return [
        *(memory_goal(judged, names) for names in ((DAEMON,), (BLOCKS,), (DAEMON, BLOCKS))),
        *(descriptor_goal(judged, name) for name in (DAEMON, BLOCKS)),
    ]
