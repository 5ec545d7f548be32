"""A twin that stands for many devices: whatever is counted or shared among devices is divided by how many that are.

Shares and times stay. Counts are rounded up, so that a stage of 5 devices has one twin, which stands for `weight`:
the smaller a count is beside the weight, the coarser the rehearsal.
"""

from dataclasses import replace
from math import ceil
from typing import Final

from ota_bridge.core.rollout.plan import Pace, Plan, Stage
from ota_bridge.core.values import MIN_BYTES_PER_S, Limits

TWINS_MAX: Final = 200_000
"""A larger fleet is rehearsed with weights, unless somebody says otherwise."""
TWINS_WEIGHTED: Final = 100_000
"""So many twins it has then."""
_SLOWEST_PER_MIN: Final = 0.01


def weight_for(devices: int) -> int:
    """How many devices one twin stands for where nobody says."""
    return 1 if devices <= TWINS_MAX else ceil(devices / TWINS_WEIGHTED)


def lighter_plan(plan: Plan, weight: int) -> Plan:
    """The plan for twins of this weight."""
    if weight == 1:
        return plan
    pace = None if plan.pace is None else _lighter_pace(plan.pace, weight)
    return replace(plan, stages=tuple(_lighter_stage(stage, weight) for stage in plan.stages), pace=pace)


def _lighter_stage(stage: Stage, weight: int) -> Stage:
    success = replace(stage.success, min_count=ceil(stage.success.min_count / weight))
    failure = stage.failure
    if failure is not None:
        count = None if failure.count is None else max(1, ceil(failure.count / weight))
        failure = replace(failure, count=count, min_executed=max(1, ceil(failure.min_executed / weight)))
    devices = None if stage.devices is None else max(1, ceil(stage.devices / weight))
    return replace(stage, devices=devices, success=success, failure=failure)


def _lighter_pace(pace: Pace, weight: int) -> Pace:
    return replace(
        pace,
        per_min=None if pace.per_min is None else max(_SLOWEST_PER_MIN, pace.per_min / weight),
        max_per_min=max(_SLOWEST_PER_MIN, pace.max_per_min / weight),
        per_success=max(1, ceil(pace.per_success / weight)),
    )


def lighter_limits(limits: Limits, weight: int) -> Limits:
    """The fleet-wide caps for twins of this weight."""
    return Limits(
        blocks_per_s=limits.blocks_per_s and max(1, limits.blocks_per_s // weight),
        bytes_per_s=limits.bytes_per_s and max(MIN_BYTES_PER_S, limits.bytes_per_s // weight),
        downloads=limits.downloads and max(1, round(limits.downloads / weight)),
    )
