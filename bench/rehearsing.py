"""Rehearsals by themselves: what a fleet costs twin by twin, and how far weighted twins are from that.

`ota-bridge rollout rehearse` as a user runs it, in an empty directory, with its time as CPU (its start with it) and by
the clock. The plan has five stages; one device in twenty is away, and one update in fifty fails.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PLAN = """
release = "demo/2.0.0"
to = "all"
"""
STAGE = """
[[stage]]
name = "{name}"
{size}
success = {{ share = "{share} %" }}
"""
STAGES = {
    "canary": ("percent = 0.1", 60),
    "first": ("percent = 1", 80),
    "second": ("percent = 10", 80),
    "third": ("percent = 50", 80),
    "rest": ("", 80),
}
"""Their sizes and gates, these below what is to be expected: a gate that some seeds just miss compares nothing."""
GOAL_EXACT_S, GOAL_LARGE_S, GOAL_OFF = 60.0, 180.0, 0.05
LARGE = 10
"""So many times the fleet is the large one."""


def measure(directory: Path, fleet: int) -> dict:
    """A fleet twin by twin, ten times as many by weights, and the first by the weight of those."""
    stages = [STAGE.format(name=name, size=size, share=share) for name, (size, share) in STAGES.items()]
    (directory / "plan.toml").write_text(PLAN + "".join(stages))
    exact, spent = _rehearsed(directory, fleet, 1)
    large, spent_large = _rehearsed(directory, fleet * LARGE, 0)
    weighted, _ = _rehearsed(directory, fleet, LARGE)
    off = _differences(exact, weighted)
    return {
        "exact": {"devices": fleet, "ended": exact["ended_by"], **spent},
        "large": {"devices": fleet * LARGE, "weight": large["weight"], "ended": large["ended_by"], **spent_large},
        "weighted": {"devices": fleet, "weight": LARGE, "off": off, "most_off": max(off.values())},
    }


def _rehearsed(directory: Path, devices: int, weight: int) -> tuple[dict, dict[str, float]]:
    command = [
        sys.executable, "-m", "ota_bridge", "rollout", "rehearse", "plan.toml", "--devices", str(devices), "--weight",
        str(weight), "--seed", "1", "--offline", "5%", "--fail", "2%", "--link", "20kB/s", "--json",
    ]  # fmt: skip
    began, before = time.monotonic(), os.times()
    done = subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True)
    wall_s, after = time.monotonic() - began, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout), {"cpu_s": cpu_s, "wall_s": wall_s}


def _differences(exact: dict, other: dict) -> dict[str, float]:
    """How far each time and count of another rehearsal is off, as a share of the exact one's."""
    (one,), (two,) = exact["rollouts"], other["rollouts"]
    pairs = {"through": (one["through_s"], two["through_s"]), "end": (exact["last_end_s"], other["last_end_s"])}
    opened = {stage["name"]: stage["opened_s"] for stage in two["stages"]}
    for stage in one["stages"]:
        pairs[f"{stage['name']} opens"] = stage["opened_s"], opened.get(stage["name"])
    for state, number in one["counts"].items():
        pairs[state] = number, two["counts"].get(state, 0)
    pairs["bytes"] = exact["bytes"], other["bytes"]
    return {name: _off(true, told) for name, (true, told) in pairs.items()}


def _off(true: float | None, told: float | None) -> float:
    """1 where one of the two has none."""
    if true is None or told is None:
        return float(true is not told)
    return abs(told - true) / true if true else float(told > 0)
