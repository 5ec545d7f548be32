"""Kills of whole processes, by seeds: the daemon at a commit, at a publish or at any time; the broker; both stopped.

A run is one small fleet that takes an update on a real mosquitto while processes die. Afterwards every report that was
acknowledged is in the database (I2), every device has confirmed (I3), the rollout's counts are the recount of its devices (I4),
and what the bridge believes of each device is what it runs (I6).
"""

import asyncio
import json
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgpack

from tests.brokers import Mosquitto, mosquitto_on
from tests.faults.families import Broken, Family
from tests.harness import Fleet, Site, Tap, site, tap, until

DEVICES, IMAGE_BYTES, PACE_BPS = 12, 24_000, 12_000
KILLS = 4
BOUND_S = 60.0
POINTS = ("commit", "publish", "time", "broker", "stop")
KILLED_DAEMON = [sys.executable, str(Path(__file__).with_name("killed_daemon.py"))]


def acknowledged(seen: Tap) -> set[tuple[str, int, int]]:
    """Every (device, boot, seq) that a report_ack named."""
    found = set()
    for _, topic, payload in seen.seen:
        message = msgpack.unpackb(payload) if payload[:1] != b"{" else json.loads(payload)
        if message.get("type") == "report_ack":
            found |= {(topic.rpartition("/")[2], message["boot"], seq) for seq in message["seqs"]}
    return found


def stored(here: Site) -> set[tuple[str, int, int]]:
    """Every report in the database, read from outside."""
    return {(name, boot, seq) for name, boot, seq in here.rows("SELECT name, boot, seq FROM reports")}


async def strike(rng: random.Random, point: str, here: Site, broker: Mosquitto) -> None:
    """One fault of a process, over when this returns, and the daemon running again."""
    match point:
        case "commit" | "publish":
            number = rng.randrange(1, 40 if point == "commit" else 120)
            await asyncio.to_thread(here.stop)
            here.command = [*KILLED_DAEMON, f"{point}:{rng.choice(['before', 'after'])}:{number}"]
            await asyncio.to_thread(here.start, wait=False)
            process = here.process
            assert process is not None
            try:
                await until(lambda: process.poll() is not None, within_s=5)
            except TimeoutError:  # the fleet had ended, or said less than that
                here.kill()
            here.process, here.command = None, None
            await asyncio.to_thread(here.start)
        case "time":
            await asyncio.sleep(rng.uniform(0, 1))
            here.kill()
            await asyncio.to_thread(here.start)
        case "broker":
            await asyncio.sleep(rng.uniform(0, 1))
            broker.kill()
            await asyncio.to_thread(broker.start)
        case _:
            victim = rng.choice([here.process, broker])
            assert victim is not None
            await asyncio.sleep(rng.uniform(0, 1))
            victim.send_signal(signal.SIGSTOP)
            await asyncio.sleep(rng.uniform(0.1, 2))
            victim.send_signal(signal.SIGCONT)


async def update(rng: random.Random, points: list[str], here: Site, broker: Mosquitto) -> None:
    """A fleet is updated while these faults strike; raises Broken."""
    release = here.release(here.image(IMAGE_BYTES))
    options = here.fleet(
        count=DEVICES, pace_bps=PACE_BPS, timeout_s=2 * BOUND_S, check_in_every_s=5, slot_bytes=1 << 16
    )
    async with tap(broker.url, "$ota/update/#") as seen, Fleet(options) as fleet:
        await until(lambda: len(here.call("device.list")) == DEVICES)
        here.call("rollout.start", release=release)
        for point in points:
            await strike(rng, point, here, broker)
        try:
            async with asyncio.timeout(BOUND_S):
                report = await fleet.report()
        except TimeoutError:
            raise Broken("I3", f"devices are not done {BOUND_S:.0f} s after the last fault") from None
    unconfirmed = here.unconfirmed(report)
    if unconfirmed:
        raise Broken("I3", f"{unconfirmed}")
    if not report.ok:
        raise Broken("I1", f"{[one for one in report.devices if not one.slot_ok]}")
    lost = acknowledged(seen) - stored(here)
    if lost:
        raise Broken("I2", f"acknowledged and not stored: {sorted(lost)}")
    await recount(here, {one.device: one.new_version for one in report.devices})


async def recount(here: Site, runs: dict[str, str]) -> None:
    """I4 and I6, once the last reports are in."""
    try:
        await until(lambda: here.call("rollout.list")[0]["confirmed"] == DEVICES)
    except TimeoutError:
        raise Broken("I6", f"all devices have confirmed, the bridge says {here.call('rollout.list')[0]}") from None
    view = here.call("rollout.list")[0]
    states = [state for (state,) in here.rows("SELECT state FROM deployments WHERE latest = 1")]
    if view["counts"] != {state: states.count(state) for state in set(states)}:
        raise Broken("I4", f"{view['states']} is not the recount {states}")
    believed = {one["name"]: one["parts"]["firmware"]["version"] for one in here.call("device.list")}
    if believed != runs:
        raise Broken("I6", f"the bridge believes {believed}, the devices run {runs}")


def run(seed: int) -> str:
    """One run; its word says what struck."""
    rng = random.Random(f"process/{seed}")
    points = [POINTS[seed % len(POINTS)], *rng.choices(POINTS, k=KILLS - 1)]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ota-faults-")))
        broker = stack.enter_context(mosquitto_on(directory))
        here = stack.enter_context(site(directory, broker_url=broker.url, **{"offers.resend_after_s": 5}))
        asyncio.run(update(rng, points, here, broker))
    return points[0]


PROCESS = Family(
    name="process",
    about="four faults of processes in one rollout: the daemon killed at a commit, at a publish, at any time; "
    "the broker killed; either stopped for a while",
    run=run,
    test=1,
    faults=25,
    full=300,
    alone=True,
)
