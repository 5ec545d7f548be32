"""What a rehearsal has found out, as plain JSON values and as text: what happens when, the load, how many end how."""

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Final

from ota_bridge.core.deployment import TERMINAL, State
from ota_bridge.core.explain_rollout import stage_name
from ota_bridge.core.values import RolloutId
from ota_bridge.rehearsal.curve import sparkline
from ota_bridge.rehearsal.world import World

COLUMNS: Final = 60
POINTS: Final = 240
"""How many points the JSON form of the curve has at most."""
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


def rehearsal_view(world: World) -> dict[str, Any]:
    """Plain JSON values. Times are seconds from the start."""
    script, curve = world.script, world.curve
    rollouts = [_rollout_view(world, rollout) for rollout in world.timeline.stages]
    block_bytes = max(cohort.block_bytes for cohort in script.cohorts)
    per_s = [rate * script.weight for rate in curve.bytes_per_s(POINTS)]
    return {
        "devices": len(world.twins) * script.weight,
        "seed": script.seed,
        "weight": script.weight,
        "ended_by": world.ended_by,
        "ended": world.ended_sentence,
        "at_s": round(world.now_s, 3),
        "last_end_s": round(world.last_end_s, 3),
        "bytes": round(curve.whole_bytes * script.weight),
        "moments": [
            {"at_s": round(one.at_s, 3), "rollout": one.rollout, "what": one.what, "sentence": one.sentence}
            for one in world.timeline.moments
        ],
        "rollouts": rollouts,
        "curve": {
            "seconds": round(curve.busy_s, 3),
            "bytes_per_s": [round(rate) for rate in per_s],
            "blocks_per_s": [round(rate / block_bytes, 1) for rate in per_s],
            "open": [round(number) * script.weight for number in curve.open_at_most(POINTS)],
        },
    }


def _rollout_view(world: World, rollout: RolloutId) -> dict[str, Any]:
    record, counts = world.timeline.states()[rollout], world.counts(rollout)
    through = next((m.at_s for m in world.timeline.moments if (m.rollout, m.what) == (rollout, "through")), None)
    stages = [
        {
            "name": stage.name,
            "devices": max(stage.size, sum(many for (place, _), many in counts.items() if place == number)),
            "opened_s": round(stage.opened_s, 3),
            "met_s": None if stage.met_s is None else round(stage.met_s, 3),
            "over_s": None if stage.over_s is None else round(stage.over_s, 3),
            "verdict": stage.verdict,
            "counts": {state.value: many for (place, state), many in counts.items() if place == number},
        }
        for number, stage in enumerate(world.timeline.stages[rollout])
    ]
    whole: dict[str, int] = {}
    for (_, state), many in counts.items():
        whole[state.value] = whole.get(state.value, 0) + many
    return {
        "id": rollout,
        "release": record.release,
        "state": record.state.value,
        "through_s": None if through is None else round(through, 3),
        "open": sum(many for (_, state), many in counts.items() if state not in TERMINAL),
        "stages": stages,
        "not_opened": [stage_name(record, number) for number in range(len(stages), len(record.plan.stages))],
        "counts": whole,
    }


# --- text ----------------------------------------------------------------------------------------------------


def rehearsal_text(view: Mapping[str, Any]) -> Iterator[str]:
    """The same for people, line by line."""
    several = len(view["rollouts"]) > 1
    for moment in view["moments"]:
        name = f"{moment['rollout']}  " if several else ""
        yield f"{clock(moment['at_s']):>12}  {name}{moment['sentence']}"
    still_open = sum(rollout["open"] for rollout in view["rollouts"])
    last = f"{still_open:,} updates have not ended" if still_open else "the last update ends"
    yield f"{clock(view['at_s'] if still_open else view['last_end_s']):>12}  {last}"
    yield ""
    for rollout in view["rollouts"]:
        yield from _rollout_text(rollout)
    yield from curve_text(view["curve"])
    yield f"{amount(view['bytes'])} are served in all."
    if view["ended_by"] != "complete":
        yield f"It does not come to an end by itself: {view['ended']}"


def _rollout_text(rollout: Mapping[str, Any]) -> Iterator[str]:
    yield f"{rollout['release']} ({rollout['id']}), {rollout['state']}: {counted(rollout['counts'])}"
    for stage in rollout["stages"]:
        until = "" if stage["over_s"] is None else f" to {clock(stage['over_s'])}"
        yield f"  {stage['name']}: from {clock(stage['opened_s'])}{until}; {counted(stage['counts'])}"
    for name in rollout["not_opened"]:
        yield f"  {name}: does not open"
    yield ""


def counted(counts: Mapping[str, int]) -> str:
    """`5 CONFIRMED, 1 FAILED`, the good first."""
    order = {state.value: place for place, state in enumerate((State.CONFIRMED, *State))}
    return ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts, key=order.__getitem__)) or "no device"


def curve_text(curve: Mapping[str, Any]) -> Iterator[str]:
    """The load as lines of bars."""
    if not any(curve["bytes_per_s"]):
        return
    rows = [
        ("bytes/s", curve["bytes_per_s"], f"{amount(max(curve['bytes_per_s']))}/s"),
        ("blocks/s", curve["blocks_per_s"], f"{max(curve['blocks_per_s']):,.0f}/s"),
        ("open", curve["open"], f"{max(curve['open']):,}"),
    ]
    for name, values, most in rows:
        yield f"{name:>8} |{sparkline(values, COLUMNS)}| at most {most}"
    columns = min(COLUMNS, len(curve["bytes_per_s"]))
    yield f"{'':>8} 0 {clock(curve['seconds']):>{columns}}"
    yield ""


def clock(seconds: float) -> str:
    """A time since the start: `3.2 s`, `2 min 05 s`, `3 h 20 min`, `7 d 00 h`."""
    if not isfinite(seconds):
        return "never"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{int(seconds) // _MINUTE_S} min {int(seconds) % _MINUTE_S:02d} s"
    if seconds < _DAY_S:
        return f"{int(seconds) // _HOUR_S} h {int(seconds) % _HOUR_S // _MINUTE_S:02d} min"
    return f"{int(seconds) // _DAY_S} d {int(seconds) % _DAY_S // _HOUR_S:02d} h"


def amount(size_bytes: float) -> str:
    """Bytes in powers of 1000, as links are sold."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - the step from unit to unit
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 1000 else f"{value:,.0f} TB"  # noqa: PLR2004
