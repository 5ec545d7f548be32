"""Counts are divided by what a twin stands for; shares and times are not."""

from ota_bridge.core.rollout.plan_json import plan_from
from ota_bridge.core.values import Limits
from ota_bridge.rehearsal.weights import lighter_limits, lighter_plan, weight_for

PLAN = plan_from(
    {
        "stages": [
            {"devices": 5, "success": {"min_count": 3, "soak_s": 60.0}, "failure": {"count": 25, "min_executed": 3}},
            {"percent": 10.0, "success": {"share": 0.9}},
            {},
        ],
        "pace": {"per_min": 100.0, "factor": 2.0, "per_success": 50},
    }
)


def test_counts_are_rounded_up_and_shares_stay():
    plan = lighter_plan(PLAN, 10)
    canary, tenth, rest = plan.stages
    counts = (canary.devices, canary.success.min_count, canary.failure.count, canary.failure.min_executed)
    assert ((1, 1, 3, 1), 60.0) == (counts, canary.success.soak_s)
    assert PLAN.stages[1:] == (tenth, rest)
    assert (10.0, 2.0, 5) == (plan.pace.per_min, plan.pace.factor, plan.pace.per_success)
    assert PLAN is lighter_plan(PLAN, 1)


def test_what_is_shared_is_divided_and_no_cap_becomes_none():
    caps = Limits(blocks_per_s=5, bytes_per_s=1_000_000, downloads=50)
    assert Limits(blocks_per_s=1, bytes_per_s=100_000, downloads=5) == lighter_limits(caps, 10)
    assert Limits() == lighter_limits(Limits(), 10)


def test_fleets_up_to_two_hundred_thousand_are_rehearsed_one_by_one():
    assert (1, 1, 3, 10) == tuple(weight_for(count) for count in (1, 200_000, 200_001, 1_000_000))
