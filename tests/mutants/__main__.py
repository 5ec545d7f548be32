"""`python -m tests.mutants [NAME ...]`: is each mutant caught by the tests that it names? `make mutants` calls it.

Exit codes: 0 all were caught, 1 one survived, does not apply, or could not be tried.
"""

import argparse
import sys

from tests.mutants.patches import all_mutants
from tests.mutants.trial import Verdict, try_all


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Is each mutant caught?")
    parser.add_argument("names", nargs="*", metavar="NAME", help="or the beginning of one, such as 07; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    mutants = all_mutants()
    for name in options.names:
        if not any(mutant.name.startswith(name) for mutant in mutants):
            parser.error(f"no mutant begins with {name!r}; they are the patches in tests/mutants/")
    chosen = [m for m in mutants if not options.names or m.name.startswith(tuple(options.names))]
    trials = try_all(chosen, jobs=options.jobs, tell=lambda text: print(text, flush=True))
    bad = [trial for trial in trials if trial.verdict is not Verdict.CAUGHT]
    if len(trials) < len(chosen):
        print(*trials, sep="\n")
    print(f"{len(trials) - len(bad)} of {len(chosen)} mutants were caught")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
