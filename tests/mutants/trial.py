"""Tries mutants: a copy of the tree, the patch, the tests that must fail.

The copy holds what git knows or would add, as it stands. The package is installed in the environment as editable, so
the tests run with the copy first on the path, and the process makes sure that it took the copy's code.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.mutants.patches import Mutant

ROOT = Path(__file__).parents[2]
LIMIT_S = 300.0
_INSIDE = """
import sys, pytest, ota_bridge, device_sim
for package in (ota_bridge, device_sim):
    assert package.__file__.startswith(sys.argv[1] + "/"), f"not the copy: {package.__file__}"
sys.exit(pytest.main(sys.argv[2:]))
"""
_FAILED = re.compile(r"^FAILED (\S+?::\S+)", re.MULTILINE)


class Verdict(StrEnum):
    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"
    """It does not apply, or its tests do not run: nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of one mutant; `about` says by which tests, or what went wrong."""

    name: str
    rule: str
    verdict: Verdict
    about: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.name} ({self.rule}) {self.about}"


def try_all(mutants: Sequence[Mutant], *, jobs: int, tell: Callable[[str], None]) -> list[Trial]:
    """Try them all, some at a time. None is tried where a test fails without any: that one would catch everything."""
    if fault := _fault_without(mutants):
        return [Trial(name="none", rule="the code as it is", verdict=Verdict.BROKEN, about=fault)]
    with ThreadPoolExecutor(jobs) as pool:
        trials = []
        for trial in pool.map(try_one, mutants):
            trials.append(trial)
            tell(str(trial))
    return trials


def try_one(mutant: Mutant) -> Trial:
    """Every test that the patch names must fail on it."""

    def verdict(verdict: Verdict, about: str) -> Trial:
        return Trial(name=mutant.name, rule=mutant.breaks, verdict=verdict, about=about)

    with copied() as tree:
        applied = _run(["git", "apply", str(mutant.path)], tree)
        if applied.returncode:
            return verdict(Verdict.BROKEN, f"does not apply: {applied.stderr.strip()}")
        code, output = pytest_in(tree, mutant.caught_by)
    failed = {name.partition("[")[0] for name in _FAILED.findall(output)}
    passed = [test for test in mutant.caught_by if test.partition("[")[0] not in failed]
    if code not in {0, 1} or (code == 1 and not failed):
        return verdict(Verdict.BROKEN, f"its tests did not run (exit code {code})\n{output[-2000:]}")
    if passed:
        return verdict(Verdict.SURVIVED, f"not noticed by {' '.join(passed)}")
    return verdict(Verdict.CAUGHT, f"by {' '.join(mutant.caught_by)}")


def _fault_without(mutants: Sequence[Mutant]) -> str:
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.caught_by))
    with copied() as tree:
        code, output = pytest_in(tree, tests)
    return "" if code == 0 else f"its tests do not pass (exit code {code})\n{output[-4000:]}"


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tree, for as long as it is used."""
    listed = _run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory).resolve()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():  # and not removed meanwhile
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, tree / name)
        yield tree


def pytest_in(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of these tests on the code in `tree`; -1 where they do not end."""
    options = ["-q", "-rf", "--tb=no", "-p", "no:cacheprovider", f"--rootdir={tree}"]
    try:
        ended = _run([sys.executable, "-c", _INSIDE, str(tree), *options, *tests], tree)
    except subprocess.TimeoutExpired:
        return -1, f"no end after {LIMIT_S:.0f} s"
    return ended.returncode, ended.stdout + ended.stderr


def _run(command: list[str], directory: Path, *, check: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(directory),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CEILING_DIRECTORIES": str(directory.parent),  # a patch is meant for this directory, in a repository or not
    }
    return subprocess.run(
        command, cwd=directory, env=environment, check=check, capture_output=True, text=True, timeout=LIMIT_S
    )
