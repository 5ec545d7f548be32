"""The power goes away in the middle of updates: nobody is bricked, no wrong image boots, nothing begins anew."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("part", [power.DOWNLOAD, power.RECORDS, power.SWITCH])
def test_the_full_size_cuts_at_each_operation_of_each_world(part):
    seeds = range(7, 7 + FAMILIES[f"power-{part}"].full)
    assert len(power.every_cut(part)) == len({id(power.cut_of(part, seed)) for seed in seeds})


def test_the_size_for_every_day_touches_each_kind_of_cut_outside_of_downloads():
    kinds = {power.cut_of(power.SWITCH, seed).kind for seed in range(1, 1 + FAMILIES["power-switch"].test)}
    assert len(power.every_kind(power.SWITCH)) * 0.7 < len(kinds)


def test_a_cut_before_an_event_that_the_jitter_of_the_seed_took_away_comes_before_the_last_one():
    seed = 303_556
    assert power.cut_of(power.SWITCH, seed).cut.event > 0
    assert "between" == power.run_one(power.SWITCH, seed)
