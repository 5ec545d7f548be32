"""Rehearsals for tests: a fleet that is made up, one plan, and a world that has run."""

from dataclasses import replace

from ota_bridge.calendars import CronCalendar
from ota_bridge.core.rules import Rules
from ota_bridge.core.values import Limits
from ota_bridge.queries import CelQueries
from ota_bridge.rehearsal.cohort import Cohort
from ota_bridge.rehearsal.site import Site, made_up_fleet, made_up_release
from ota_bridge.rehearsal.world import Script, World

START_WALL = 1_760_000_000.0
RELEASE = "demo/2.0.0"
STAGES = {"stages": [{"name": "canary", "devices": 5}, {"name": "half", "percent": 50.0}, {"name": "rest"}]}
QUERIES, CALENDAR = CelQueries(), CronCalendar()


def site_of(devices=40, *, size_bytes=200_000, limits=None, rules=None, releases=()):
    release = made_up_release(RELEASE, size_bytes=size_bytes, hw=["r1"])
    return Site(
        devices=made_up_fleet(devices, product="demo", start_wall=START_WALL),
        releases=[release, *releases],
        start_wall=START_WALL,
        limits=limits or Limits(),
        rules=rules or Rules(),
    )


def script_of(devices=40, plan=STAGES, *, cohorts=None, site=None, target=None, **more):
    habits = {name: more.pop(name) for name in list(more) if name in Cohort.__dataclass_fields__}
    return Script(
        site=site or site_of(devices),
        arguments={"release": RELEASE, "plan": plan, **(target or {})},
        cohorts=cohorts or [Cohort(**habits)],
        **more,
    )


def world_of(script):
    return World(script, queries=QUERIES, calendar=CALENDAR)


def rehearsed(devices=40, plan=STAGES, **more):
    """A world that has run to its end."""
    world = world_of(script_of(devices, plan, **more))
    world.run()
    return world


def again(world, **changes):
    """The same rehearsal once more, with other seed or the like."""
    other = world_of(replace(world.script, **changes))
    other.run()
    return other


def moments(world, what=None):
    return [(round(one.at_s, 6), one.what, one.sentence) for one in world.timeline.moments if what in (None, one.what)]


def whole_counts(world):
    """How many devices ended how, of the first rollout."""
    found = {}
    for (_, state), number in world.counts(next(iter(world.timeline.stages))).items():
        found[state] = found.get(state, 0) + number
    return found
