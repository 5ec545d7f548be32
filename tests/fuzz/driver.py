"""Runs targets over mutated inputs: by a seed, in bounded time and memory, and says how to see a finding again.

run(target, seed, count)    `count` inputs; raises Finding at the first that breaks a rule
measure(target, seed, count)  the same few inputs under the memory's eyes
"""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.corpus import FOUND, name_of
from tests.fuzz.mutate import Mutator, bombs
from tests.fuzz.target import Target

ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / ".fuzz"
BATCH = 5_000  # inputs of one seed of the generator: a part of a run can be repeated by itself
TIME_TRIES = 50
"""Of an input that took long, each from one frame deeper: where a loop calls across the end of a piece of the
interpreter's stack, Python 3.11 maps and unmaps another piece at each call, which makes an input eight times slower."""
TRIES = 5  # of an input that took much memory: what was collected or imported meanwhile is not its own
MESSAGE_MAX = 1_000
LEFT_MAX_BYTES = 64 * 1024


class Finding(Exception):
    """An input that breaks a rule, where it was put and how to see it again."""


def finding(target: Target, data: bytes, what: str, where: str) -> Finding:
    """Keep the input; what to raise."""
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{target.name}-{name_of(data)}"
    path.write_bytes(data)
    return Finding(
        f"{target.name}: {what}\n  found by {where}\n  again: python -m tests.fuzz replay {target.name} {path}\n"
        f"  once it is mended: mv {path} tests/fuzz/corpus/{target.name}/{FOUND}{name_of(data)}"
    )


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of a run."""

    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0  # of the processor
    slowest_s: float = 0.0
    peak_bytes: int = 0

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.inputs:>9,} inputs {self.taken:>9,} taken {self.seconds:6.1f} s"
            f" {self.inputs / max(self.seconds, 1e-9):>9,.0f}/s slowest {self.slowest_s * 1e3:5.2f} ms"
        )


def inputs(target: Target, seed: int, count: int) -> Iterator[bytes]:
    """The corpus itself and what is the same for all, then mutations; the same for the same seed."""
    seeds = target.seeds
    fixed = [*seeds, *bombs(target.max_bytes)][:count]
    yield from fixed
    left = count - len(fixed)
    for batch in range(-(-left // BATCH)):
        mutator = Mutator(seeds, target.words, seed=seed << 32 | batch, max_bytes=target.max_bytes, forms=target.forms)
        for _ in range(min(BATCH, left - batch * BATCH)):
            yield mutator.next()


def run(target: Target, seed: int, count: int) -> Tally:
    """Give it so many inputs; raises Finding."""
    where = f"python -m tests.fuzz run {target.name} --seed {seed} --count {count}"
    tally, clock, began = Tally(), time.thread_time, time.thread_time()
    for data in inputs(target, seed, count):
        start = clock()
        taken = check(target, data, where)
        took = clock() - start
        if took > tally.slowest_s:
            if took > target.slow_s:
                took = _at_best(target, data, took, where)
            tally.slowest_s = max(took, tally.slowest_s)
        tally.inputs += 1
        tally.taken += taken
    tally.seconds = clock() - began
    return tally


def check(target: Target, data: bytes, where: str) -> bool:
    """Whether it was taken; raises Finding where a rule is broken."""
    try:
        target.read(data)
    except target.refusals as error:
        sentence = str(error)
        if not 0 < len(sentence) <= MESSAGE_MAX or not sentence.isprintable():
            raise finding(target, data, f"a refusal that cannot be shown: {sentence[:200]!r}", where) from error
        return False
    except Exception as error:  # that is what is looked for
        raise finding(target, data, f"{type(error).__name__}: {error}", where) from error
    return True


def _at_best(target: Target, data: bytes, took: float, where: str) -> float:
    for levels in range(TIME_TRIES):
        start = time.thread_time()
        _deeper(levels, lambda: check(target, data, where))
        took = min(took, time.thread_time() - start)
        if took <= target.slow_s:
            return took
    raise finding(
        target, data, f"{took * 1e3:.1f} ms for {len(data)} bytes, {target.slow_s * 1e3:.0f} are allowed", where
    )


def _deeper(levels: int, run: Callable[[], object]) -> None:
    if levels:
        _deeper(levels - 1, run)
    else:
        run()


def measure(target: Target, seed: int, count: int) -> Tally:
    """Run the same inputs twice and count the second time: the peak of each, and what is left of all.

    The first time fills caches, and tables of the interpreter that never shrink.
    """
    where = f"python -m tests.fuzz measure {target.name} --seed {seed} --count {count}"
    rows = list(inputs(target, seed, count))
    tally = Tally(inputs=len(rows))
    tracemalloc.start()
    try:
        for data in rows:
            check(target, data, where)
        for _ in range(TRIES):  # what another thread keeps is not its own
            left = _left(target, rows, where, tally)
            if left <= LEFT_MAX_BYTES:
                return tally
    finally:
        tracemalloc.stop()
    raise finding(target, rows[-1], f"{left:,} bytes of memory are left after {len(rows)} inputs", where)


def _left(target: Target, rows: list[bytes], where: str, tally: Tally) -> int:
    gc.collect()
    first = tracemalloc.get_traced_memory()[0]
    for data in rows:
        tally.peak_bytes = max(tally.peak_bytes, _peak(target, data, where))
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - first


def _peak(target: Target, data: bytes, where: str) -> int:
    """How much memory it takes at once; what grew beside it once is not its own, so it may try again."""
    allowed = target.peak_bytes + target.bytes_per_byte * len(data)
    for _ in range(TRIES):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        check(target, data, where)
        peak = tracemalloc.get_traced_memory()[1] - before
        if peak <= allowed:
            return peak
    raise finding(target, data, f"{peak:,} bytes of memory for {len(data)}, {allowed:,} are allowed", where)
