"""`python -m tests.fuzz`: hostile inputs for every decoder.

    list                                    the targets
    run [TARGET ...] [--seed N] [--count N] mutated inputs; fewer for targets that build a whole world each time
    measure [TARGET ...]                    the same, with memory counted
    replay TARGET FILE                      one input
    guided [TARGET ...] [--seconds N]       coverage-guided, with atheris; `make fuzz` calls it
    corpus                                  write the committed corpus anew

Exit codes: 0 nothing was found, 1 something was, 2 atheris is missing.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import corpus, driver, guided
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Do what the command line says."""
    options = _parser().parse_args()
    match options.command:
        case "list":
            for target in TARGETS.values():
                print(f"{target.name:16} {len(target.seeds):4} in the corpus, 1 in {target.one_in:<4} {target.about}")
        case "corpus":
            print(f"{corpus.write():,} bytes in {corpus.CORPUS}")
        case "replay":
            return _each([TARGETS[options.target]], lambda target: _replay(target, options.file))
        case "guided":
            return guided.run(_chosen(options.targets), seconds=options.seconds, jobs=options.jobs)
        case "run":
            return _each(
                _chosen(options.targets),
                lambda target: str(driver.run(target, options.seed, target.share(options.count))),
            )
        case "measure":
            return _each(
                _chosen(options.targets),
                lambda target: (
                    f"{driver.measure(target, options.seed, target.share(options.count)).peak_bytes:>12,} bytes at the peak"
                ),
            )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Hostile inputs for every decoder.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the targets")
    commands.add_parser("corpus", help="write the committed corpus anew")
    replay = commands.add_parser("replay", help="one input")
    replay.add_argument("target", choices=TARGETS)
    replay.add_argument("file", type=Path)
    for name, count in (("run", 100_000), ("measure", 2_000)):
        run = commands.add_parser(name, help="mutated inputs")
        run.add_argument("targets", nargs="*", metavar="TARGET")
        run.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
        run.add_argument("--count", type=int, default=count)
    steered = commands.add_parser("guided", help="coverage-guided, with atheris")
    steered.add_argument("targets", nargs="*", metavar="TARGET")
    steered.add_argument("--seconds", type=int, default=30, help="for each target")
    steered.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser


def _chosen(names: list[str]) -> list[Target]:
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        sys.exit(f"there is no target {unknown[0]}: {', '.join(TARGETS)}")
    return [TARGETS[name] for name in names] or list(TARGETS.values())


def _each(targets: list[Target], work: Callable[[Target], str]) -> int:
    found = 0
    for target in targets:
        try:
            print(f"{target.name:16} {work(target)}", flush=True)
        except driver.Finding as finding:
            found += 1
            print(finding, flush=True)
    return int(found > 0)


def _replay(target: Target, file: Path) -> str:
    data = file.read_bytes()
    taken = driver.check(target, data, f"python -m tests.fuzz replay {target.name} {file}")
    return f"{len(data)} bytes {'taken' if taken else 'refused'}"


if __name__ == "__main__":
    sys.exit(main())
