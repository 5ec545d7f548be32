"""The power goes away in the middle of updates: nobody is bricked, no wrong image boots, nothing begins anew."""

import os
import subprocess
import sys
from pathlib import Path

from tests.faults import power
from tests.faults.registry import FAMILIES

ROOT = Path(__file__).parents[2]
POWER = [name for name in FAMILIES if name.startswith("power-")]


def test_three_hundred_power_cuts_break_no_rule():
    seed = os.environ.get("OTA_SEED", "1")
    command = [sys.executable, "-m", "tests.faults", "run", *POWER, "--size", "test", "--seed", seed]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    print(ended.stdout)
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    assert 300 == sum(FAMILIES[name].test for name in POWER)


def test_the_full_size_cuts_at_each_operation_of_each_world():
    for family, fetching in ((power.DOWNLOAD, True), (power.SWITCH, False)):
        cuts = len(power.every_cut(fetching=fetching))
        assert cuts <= family.full
        assert cuts == len({seed * power.STRIDE % cuts for seed in range(7, 7 + cuts)})
