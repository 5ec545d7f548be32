"""`python bench rollout`: what the rollout engine costs, and what holds while it works.

Each row says what its goal is and whether it was met. `--quick` runs every row for a moment and judges only what must
hold on any machine: nothing acknowledged is lost, everyone arrives, no slot is exceeded or leaked, bytes.
"""

import sys
import tempfile
import time
from pathlib import Path

import checking_in
import dying
import planner
import rehearsing

FLEET, RATE, SECONDS = 100_000, 2_000.0, 300.0
MEMORY_GOAL_BYTES = 400_000_000
QUICK = {"fleet": 400, "rate": 100.0, "seconds": 6.0, "burst": 200, "dying": (60, 5), "rehearsed": 300}


def measure(directory: Path, progress, *, fleet: int = FLEET, rate: float = RATE, seconds: float = SECONDS) -> dict:
    """All rows."""
    progress("one rollout in five stages, then its history compacted")
    found = planner.measure(_fresh(directory, "planner"), fleet)
    progress("the same fleet rehearsed, and ten times as many")
    found["rehearsing"] = rehearsing.measure(_fresh(directory, "rehearsing"), fleet)
    progress("slots while devices die")
    found["dying"] = dying.measure(_fresh(directory, "dying"))
    progress("a site comes back")
    found["burst"] = checking_in.burst(_fresh(directory, "burst"))
    progress("reports, and a kill")
    found["steady"] = checking_in.steady(_fresh(directory, "steady"), fleet=fleet, rate=rate, seconds=seconds)
    return found


def quick() -> int:
    """Every row for a moment; 1 if anything was wrong."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ota-bench-") as name:
            directory, fleet = Path(name), QUICK["fleet"]
            found = planner.measure(_fresh(directory, "planner"), fleet)
            _demand(found["history"])
            print(
                f"planner: {fleet} devices through five stages, {found['history']['deployments']} compacted", flush=True
            )
            one = rehearsing.measure(_fresh(directory, "rehearsing"), QUICK["rehearsed"])
            _demand_rehearsed(one)
            print(f"rehearsing: {QUICK['rehearsed']:,} devices, and {rehearsing.LARGE} times as many", flush=True)
            devices, slots = QUICK["dying"]
            one = dying.measure(_fresh(directory, "dying"), devices, slots)
            print(f"slots: {one['dead']} of {devices} died, never more than {one['leases']} of {slots}", flush=True)
            one = checking_in.burst(_fresh(directory, "burst"), devices=QUICK["burst"], slots=20)
            if not 0 < one["offered_at_once"] <= one["slots"]:
                raise RuntimeError(  # noqa: TRY301 - told as every other
                    f"{one['offered_at_once']} devices were offered it at once: {one['slots']} slots"
                )
            print("burst: everyone was acknowledged, and offered no more than there are slots", flush=True)
            options = {name: QUICK[name] for name in ("fleet", "rate", "seconds")}
            one = checking_in.steady(_fresh(directory, "steady"), **options)
            print(f"steady: {one['acknowledged']} reports acknowledged around a kill, none lost", flush=True)
    except (OSError, RuntimeError, TimeoutError) as error:
        print(f"bench-rollout: {error}", file=sys.stderr)
        return 1
    print(f"bench-rollout: everything held, in {time.monotonic() - began:.0f} s")
    return 0


def _demand(history: dict) -> None:
    if history["bytes_each"] > 2 * planner.GOAL_BYTES:  # in a small file a few pages are half empty
        raise RuntimeError(f"a finished deployment takes {history['bytes_each']:.0f} bytes")


def _demand_rehearsed(found: dict) -> None:
    for name in ("exact", "large"):
        if found[name]["ended"] not in {"complete", "stuck"}:
            raise RuntimeError(f"a rehearsal of {found[name]['devices']} devices ended as {found[name]['ended']}")


def table(found: dict) -> str:
    """What was measured, and beside it the goals."""
    lines = ["| what | measured | goal | met |", "|---|---|---|---|"]
    lines += [f"| {what} | {told} | {goal} | {_met(met)} |" for what, told, goal, met in _rows(found)]
    return "\n".join(lines)


def _rows(found: dict):
    step, check_in, history = found["planner"]["step"], found["planner"]["check_in"], found["history"]
    devices = f"{found['planner']['devices']:,} devices, five stages"
    p99 = f"{step['cpu_p99_ms']:.1f} ms CPU, {step['wall_p99_ms']:.1f} ms by the clock, of {step['n']:,}"
    yield f"{devices}: planner step, p99", p99, f"< {planner.GOAL_MS:.0f} ms", step["cpu_p99_ms"] < planner.GOAL_MS
    yield f"{devices}: a check-in that confirms", f"{check_in['cpu_mean_us']:.0f} µs CPU", "", None
    each = history["bytes_each"]
    yield (
        "a finished deployment, compacted",
        f"{each:.0f} bytes",
        f"< {planner.GOAL_BYTES} bytes",
        each < planner.GOAL_BYTES,
    )
    one = found["rehearsing"]
    exact, large, weighted = one["exact"], one["large"], one["weighted"]
    told, met = f"{exact['cpu_s']:.0f} s CPU", exact["cpu_s"] < rehearsing.GOAL_EXACT_S
    yield f"{exact['devices']:,} devices rehearsed, a twin each", told, f"< {rehearsing.GOAL_EXACT_S:.0f} s", met
    told, met = f"{large['wall_s']:.0f} s by the clock", large["wall_s"] < rehearsing.GOAL_LARGE_S
    name = f"{large['devices']:,} rehearsed, a twin for {large['weight']}"
    yield name, told, f"< {rehearsing.GOAL_LARGE_S:.0f} s", met
    told, met = f"{weighted['most_off']:.1%}", weighted["most_off"] <= rehearsing.GOAL_OFF
    name = f"{weighted['devices']:,} rehearsed, a twin for {weighted['weight']} beside a twin each: most off"
    yield name, told, f"≤ {rehearsing.GOAL_OFF:.0%}", met
    one = found["dying"]
    told = f"{one['dead']:,} died; at most {one['leases']} downloads, {one['left']} slots held in the end"
    yield f"{one['devices']:,} devices, {one['slots']} slots", told, "never more, none leaked", True
    one = found["burst"]
    told = f"all acknowledged after {one['all_within_s']:.1f} s"
    yield f"{one['devices']:,} check in within 5 s", told, "within 60 s", one["all_within_s"] < 60
    told = f"{one['status_p99_ms']:.0f} ms"
    yield "meanwhile: an answer of the daemon's loop, p99", told, "< 100 ms", one["status_p99_ms"] < 100
    told = f"{one['offered_at_once']} devices at a time, {one['offered']} in all"
    yield (
        f"meanwhile: offers, {one['slots']} slots",
        told,
        "as slots are free",
        0 < one["offered_at_once"] <= one["slots"],
    )
    one = found["steady"]
    told = f"{one['acknowledged']:,} of {one['sent']:,} acknowledged, the last {one['late_s']:.0f} s after the end"
    goal = "all, as they come"
    all_came = one["acknowledged"] == one["sent"] and one["late_s"] < 5
    yield f"{one['rate']:,.0f} reports/s for {one['seconds']:.0f} s", told, goal, all_came
    told = f"{one['acknowledged_and_lost']}, killed at {one['killed_at_s']:.0f} s"
    yield "meanwhile: acknowledged and lost", told, "0", not one["acknowledged_and_lost"]
    peak = one["peak_bytes"]
    yield "meanwhile: memory of the daemon", f"{peak / 1e6:.0f} MB", "< 400 MB", peak < MEMORY_GOAL_BYTES
    yield "meanwhile: a report", f"{one['daemon_us_each']:.0f} µs CPU, planner and blocks with it", "", None


def _met(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "no"


def _fresh(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path
