"""Coverage-guided fuzzing of the same targets with atheris (libFuzzer), one process for each.

`.fuzz/guided/TARGET` keeps the inputs that reached something new, beside the committed corpus; what breaks a rule is
kept as `.fuzz/TARGET-…`, with the line that shows it again. Run in the child: `python -m tests.fuzz.guided TARGET …`.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.target import CORPUS, Target

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".fuzz"
UNIT_S = 5  # libFuzzer's own limit for one input; the targets have stricter ones
MEMORY_MIB = 2_048
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(r"cov: (\d+) ft: (\d+)")
MISSING = """make: atheris is missing: there may be no wheel of it for this Python or machine.
  It is in requirements-fuzz.txt; Linux and macOS on x86-64 and ARM, CPython 3.11 to 3.13 have one.
  `python -m tests.fuzz run --count 10000000` mutates without it."""


def run(targets: Sequence[Target], *, seconds: int, jobs: int) -> int:
    """Fuzz each for so long; the exit code: 0 nothing was found, 1 something was, 2 there is no atheris."""
    if importlib.util.find_spec("atheris") is None:
        print(MISSING, file=sys.stderr)
        return 2
    with ThreadPoolExecutor(jobs) as pool:
        found = 0
        for target, ended in zip(targets, pool.map(lambda target: _child(target, seconds), targets), strict=True):
            said = ended.stdout + ended.stderr
            executed, covered = _DONE.search(said), _COVERED.findall(said)
            reached = f"{int(covered[-1][0]):,} edges" if covered else "?"
            print(f"{target.name:16} {int(executed[1]) if executed else 0:>10,} inputs, {reached}", flush=True)
            if ended.returncode:
                found += 1
                print(f"{said[-4_000:]}\n{target.name}: see above; kept: {_kept(target)}", flush=True)
    return int(found > 0)


def _child(target: Target, seconds: int) -> "subprocess.CompletedProcess[str]":
    kept = KEPT / "guided" / target.name
    kept.mkdir(parents=True, exist_ok=True)
    words = KEPT / "guided" / f"{target.name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words if word))
    options = {
        "max_total_time": seconds,
        "max_len": target.max_bytes,
        "timeout": UNIT_S,
        "rss_limit_mb": MEMORY_MIB,
        "dict": words,
        "artifact_prefix": f"{KEPT}/{target.name}-",
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.fuzz.guided", target.name, *flags, str(kept), str(CORPUS / target.name)]
    return subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, errors="replace", env={**os.environ}
    )


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _kept(target: Target) -> str:
    names = sorted(path.name for path in KEPT.glob(f"{target.name}-*"))
    return ", ".join(f"python -m tests.fuzz replay {target.name} .fuzz/{name}" for name in names) or "nothing"


def main() -> None:
    """The child: hand the rest of the command line to libFuzzer, and every input to the target."""
    import atheris

    with atheris.instrument_imports(include=["ota_bridge", "device_sim"]):
        from tests.fuzz import driver
        from tests.fuzz.targets import TARGETS
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        driver.check(target, data, "make fuzz")

    atheris.Setup([sys.argv[0], *sys.argv[1:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
