"""Runs a family in several processes, writes each run down, and goes on where an interrupted one stopped.

    .faults/COMMIT/FAMILY.FIRST-SEED.jsonl     a line for each run: {"seed", "word" or "broken", "seconds"}

A seed that stands there and held is not run again. Where something is not committed, nothing is taken over.
"""

import gc
import json
import multiprocessing
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from tests.faults.families import Broken, Family
from tests.faults.registry import FAMILIES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".faults"
TOLD_EVERY_S = 5.0
SEEDS_AT_ONCE = 8

Line = dict


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of the runs of a family."""

    runs: int = 0
    seconds: float = 0.0  # of all processes together
    words: Counter = field(default_factory=Counter)
    broken: dict[int, str] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Count one more run."""
        self.runs += 1
        self.seconds += line["seconds"]
        if "broken" in line:
            self.broken[line["seed"]] = line["broken"]
        else:
            self.words[line["word"]] += 1


def commit() -> str:
    """The commit of the working tree, with `-dirty` behind it where something is not committed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def replay(family: str, seed: int) -> str:
    """The command that does one run again."""
    return f".venv/bin/python -m tests.faults run {family} --runs 1 --seed {seed}"


def results_of(family: Family, first_seed: int, tree: str) -> Path:
    """Where the runs of a family are written down."""
    return RESULTS / tree / f"{family.name}.{first_seed}.jsonl"


def read_lines(file: Path) -> Iterator[Line]:
    """The runs in a file; what an interruption left of the last line does not count."""
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(text)
        except ValueError:
            continue


def run_family(
    family: Family,
    seeds: range,
    *,
    jobs: int = 1,
    keep_going: bool = False,
    results: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Tally:
    """Run all seeds, or until one breaks a rule."""
    tally, held = Tally(), {}
    if results is not None and not results.parent.name.endswith("-dirty"):
        held = {line["seed"]: line for line in read_lines(results) if "word" in line and line["seed"] in seeds}
    for line in held.values():
        tally.add(line)
    tell(f"{family.name}: {len(seeds)} runs, seeds {seeds.start} to {seeds.stop - 1}, {len(held)} done before")
    left = [seed for seed in seeds if seed not in held]
    told = time.monotonic()
    with _Book(results, held.values()) as book:
        for line in _lines(family, left, 1 if family.alone else min(jobs, len(left))):
            book.write(line)
            tally.add(line)
            if "broken" in line:
                tell(
                    f"{family.name}: seed {line['seed']}: {line['broken']}\n  again: {replay(family.name, line['seed'])}"
                )
                if not keep_going:
                    break
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                tell(f"{family.name}: {tally.runs} of {len(seeds)}, {len(tally.broken)} broken")
    return tally


def one_run(name: str, seed: int) -> Line:
    """One run, as a line."""
    began, family = time.monotonic(), FAMILIES[name]
    try:
        with _limit(family.limit_s):
            found = {"word": family.run(seed)}
    except Broken as broken:
        found = {"broken": str(broken)}
    except Exception:
        found = {"broken": f"no rule, but the run itself ended by an error:\n{traceback.format_exc()}"}
    return {"seed": seed, **found, "seconds": round(time.monotonic() - began, 4)}


@contextmanager
def _limit(limit_s: float) -> Iterator[None]:
    def end(*_: object) -> None:
        raise Broken("I3", f"the run did not end in {limit_s:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _lines(family: Family, seeds: list[int], jobs: int) -> Iterator[Line]:
    if not seeds:
        return
    try:
        with _limit(10 * family.limit_s):
            family.prepare()
    except Broken as broken:
        yield {"seed": seeds[0], "broken": f"even before the first run: {broken}", "seconds": 0.0}
        return
    work = partial(one_run, family.name)
    if jobs == 1:
        yield from map(work, seeds)
        return
    gc.freeze()  # what was prepared is shared by all processes, and stays shared
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(work, seeds, chunksize=SEEDS_AT_ONCE)


class _Book:
    """The file of a family's runs, or none."""

    def __init__(self, file: Path | None, before: Iterable[Line]) -> None:
        self._file = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("w", encoding="utf-8")
            for line in before:
                self.write(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, line: Line) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
