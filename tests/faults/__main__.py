"""`python -m tests.faults`: run families of faults, and show what came of it. `make faults` calls it.

    list                                       the families
    run [FAMILY ...] [--size S | --runs N]     all families, or these; --runs 1 --seed N is a replay
    soak [--minutes M --devices N]             a fleet is updated for an hour while all kinds of things fail, and memory is watched
    table                                      the last results, for docs/reliability.md

Exit codes: 0 nothing broke, 1 something did, 130 interrupted (`run` goes on from there).
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it: the tests' own modules import each other by name

from tests.faults import soak
from tests.faults.families import SIZES
from tests.faults.registry import FAMILIES
from tests.faults.runs import commit, results_of, run_family
from tests.faults.table import table


def main() -> int:
    """Do what the command line says."""
    for name in ("asyncio", "mqtt", "device_sim"):  # lost connections and doubled packets are the plan here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Faults by their seeds.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the families")
    commands.add_parser("table", help="the last results")
    run = commands.add_parser("run", help="run families")
    run.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)}; all by default")
    run.add_argument("--size", choices=SIZES, default="test")
    run.add_argument("--runs", type=int, help="so many runs instead of a size")
    run.add_argument("--seed", type=int, default=1, help="the first seed")
    run.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    run.add_argument("--keep-going", action="store_true", help="do not end at the first that breaks a rule")
    soaked = commands.add_parser("soak", help="a long run in which memory and descriptors are watched")
    soaked.add_argument("--minutes", type=float, default=60.0)
    soaked.add_argument("--devices", type=int, default=1000)
    soaked.add_argument("--seed", type=int, default=1)
    soaked.add_argument("--json", action="store_true", help="the summary as JSON at the end, and nothing else")
    options = parser.parse_args()
    if options.command == "list":
        for family in FAMILIES.values():
            sizes = " / ".join(f"{getattr(family, size):,}" for size in SIZES)
            print(f"{family.name:12} {sizes:26} {family.about}")
    elif options.command == "table":
        print(table())
    elif options.command == "soak":
        return _soak(options)
    elif unknown := [name for name in options.families if name not in FAMILIES]:
        parser.error(f"there is no family {unknown[0]}: {', '.join(FAMILIES)}")
    else:
        return _run(options)
    return 0


def _soak(options: argparse.Namespace) -> int:
    plan = soak.Plan(minutes=options.minutes, devices=options.devices, seed=options.seed)
    out = sys.stderr if options.json else sys.stdout
    try:
        found = soak.run(plan, tell=lambda text: print(text, flush=True, file=out))
    except KeyboardInterrupt:
        print("interrupted; the samples until now are kept, there is no verdict", file=out)
        return 130
    if options.json:
        print(json.dumps(found))
    return int(not found["held"])


def _run(options: argparse.Namespace) -> int:
    broken, tree = 0, commit()
    for name in options.families or FAMILIES:
        family = FAMILIES[name]
        runs = options.runs or getattr(family, options.size)
        try:
            tally = run_family(
                family,
                range(options.seed, options.seed + runs),
                jobs=options.jobs,
                keep_going=options.keep_going,
                results=results_of(family, options.seed, tree) if runs > 1 else None,
                tell=lambda text: print(text, flush=True),
            )
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here")
            return 130
        words = ", ".join(f"{word} {count:,}" for word, count in tally.words.most_common())
        print(f"{name}: {tally.runs:,} runs, {len(tally.broken)} broken, {tally.seconds:.0f} s of run time ({words})")
        broken += len(tally.broken)
        if broken and not options.keep_going:
            break
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
