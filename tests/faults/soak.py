"""A soak: a fleet is updated again and again for an hour while lines, power, broker and daemon fail, and memory is watched.

    python -m tests.faults soak --minutes 60 --devices 1000 --seed N

A real mosquitto, the daemon as it comes (its block plane in a process of its own), the devices of `soak_fleet` in another.
In each round a new release is rolled out, some to a half first; it is paused and resumed, and one in four is withdrawn halfway.
Meanwhile the broker is killed, and broker, daemon and block process are stopped for a while. The daemon itself is not
killed here: what a process lost by that nobody could tell from what it gave back (`process` kills it). In the end the faults stop,
one more release goes to everybody, and the rules are looked at (`soak_checks`); memory and descriptors by `soak_judge`.

Below `AT_EASE_S` for a round the daemon's patience is cut with it, or nothing would come to an end.

    .faults/COMMIT/soak.SEED.jsonl          a line for each second
    .faults/COMMIT/soak.SEED.summary.json   what came of it
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiomqtt
import msgpack

from tests.brokers import Mosquitto, mosquitto_on
from tests.faults import soak_checks
from tests.faults.families import INVARIANTS
from tests.faults.runs import RESULTS, commit
from tests.faults.soak_fleet import PRODUCT, STRANGERS, Fleets, first_line
from tests.faults.soak_judge import DAEMON, Goal, Sample, verdict
from tests.faults.soak_look import busy_s, look
from tests.harness import Site, Tap, site, tap, until, worker_of

IMAGE_BYTES: Final = 32_000
SLOT_BYTES: Final = 1 << 16
STRANGER_COUNT: Final = 5
LONGEST_ROUND_S: Final = 240.0
ROUNDS_AT_LEAST: Final = 3
AT_EASE_S: Final = 60.0
DOWNLOAD_SHARE: Final = 0.45
"""Of a round: how long a device fetches."""
WITHDRAWN_EVERY: Final = 4
SAMPLE_S: Final = 1.0
TOLD_S: Final = 60.0
STOPPED_MAX_S: Final = 4.0
"""Below `block_process.SETTLE_S`, or a block process that was only stopped is ended, and its memory begins anew."""
STRIKES = ("broker killed", "broker stopped", "daemon stopped", "block process stopped")
BOUND_ROUNDS: Final = 2
RULES: Final = ("I1", "I2", "I3", "I4", "I5", "I6")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, how many, and what follows from that."""

    minutes: float
    devices: int
    seed: int

    @property
    def length_s(self) -> float:
        return 60 * self.minutes

    @property
    def round_s(self) -> float:
        return min(LONGEST_ROUND_S, self.length_s / ROUNDS_AT_LEAST)

    @property
    def is_short(self) -> bool:
        return self.round_s < AT_EASE_S

    @property
    def check_in_every_s(self) -> float:
        return 2.0 if self.is_short else 60.0

    @property
    def bound_s(self) -> float:
        """How soon after the faults all is quiet: two rounds, and what a device that was tried in vain waits for."""
        return BOUND_ROUNDS * self.round_s + (60.0 if self.is_short else 600.0)

    @property
    def settings(self) -> dict[str, Any]:
        quick = {
            "offers.min_interval_s": 0,
            "offers.resend_after_s": 2,
            "retries.backoff_s": 1,
            "timeouts.stall_after_s": 5,
        }
        return {"log.level": "info", **(quick if self.is_short else {})}

    def fleets(self, here: Site, broker: Mosquitto) -> Fleets:
        return Fleets(
            broker_port=broker.port,
            trust=str(here.trust),
            devices=self.devices,
            strangers=STRANGER_COUNT,
            seed=self.seed,
            rounds=round(self.length_s / self.round_s),
            pace_bps=round(IMAGE_BYTES / self.round_s / DOWNLOAD_SHARE),
            check_in_every_s=self.check_in_every_s,
            slot_bytes=SLOT_BYTES,
        )


@dataclass(slots=True)
class Soak:
    """One soak while it runs."""

    plan: Plan
    here: Site
    broker: Mosquitto
    seen: Tap
    tell: Callable[[str], None]
    write: Callable[[Sample], None]
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    strikes: Counter[str] = field(default_factory=Counter)
    broken: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in RULES})
    rollouts: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    target: str = ""
    quiet_after_s: float = 0.0

    @property
    def second(self) -> float:
        return time.monotonic() - self.began

    async def call(self, op: str, **args: Any) -> Any:
        self.operations[op] += 1
        return await asyncio.to_thread(self.here.call, op, **args)

    def found(self, wrong: Iterable[soak_checks.Wrong]) -> None:
        for name, what in wrong:
            self.broken[name].append(what)
            if len(self.broken[name]) == 1:
                self.tell(f"{name} is broken: {what} (rule: {INVARIANTS[name]})")

    # --- work ---

    async def roll_out(self, *, percent: int = 100) -> tuple[str, str]:
        """One more release on its way; its rollout and its name."""
        self.rollouts += 1
        number = self.rollouts
        image = self.here.image(IMAGE_BYTES, seed=1000 * self.plan.seed + number)
        self.target = f"1.{number}.0"
        release = await asyncio.to_thread(self.here.release, image, version=self.target, seq=number)
        rollout = (await self.call("rollout.start", release=release, percent=percent))["id"]
        await self.steal(image)
        return rollout, release

    async def steal(self, image: Path) -> None:
        """A stranger asks for the image, which is not for it."""
        digest = (await self.call("release.list", product=PRODUCT))[-1]["parts"]["firmware"]["sha256"]
        request = msgpack.packb([bytes.fromhex(digest)[:8], 0, 1024, 4])
        with contextlib.suppress(aiomqtt.MqttError):  # the broker is away
            async with aiomqtt.Client("127.0.0.1", self.broker.port, identifier="soak-thief") as client:
                await client.publish(f"$ota/get/{STRANGERS}/{STRANGERS}-0001", request)
                self.strikes["image asked for by a stranger"] += 1

    async def work(self, rng: random.Random) -> None:
        """Round after round, until cancelled."""
        round_s, began = self.plan.round_s, self.second
        while True:
            number = self.rollouts + 1
            rollout, release = await self.roll_out(percent=50 if number % 3 == 2 else 100)
            await self._at(began + rng.uniform(0.15, 0.25) * round_s)
            await self.call("rollout.pause", rollout=rollout)
            await self._at(self.second + rng.uniform(0.05, 0.1) * round_s)
            await self.call("rollout.resume", rollout=rollout)
            if number % 3 == 2:
                await self.call("rollout.percent", rollout=rollout, percent=100)
            await self._at(began + rng.uniform(0.45, 0.6) * round_s)
            if number % WITHDRAWN_EVERY == 0:
                await self.call("release.withdraw", release=release)
            began += round_s
            await self._at(began)

    async def _at(self, second: float) -> None:
        await asyncio.sleep(max(0.0, second - self.second))

    # --- faults ---

    async def strike_again_and_again(self, rng: random.Random) -> None:
        """One fault of a process after the other, until cancelled; each is over before the next."""
        while True:
            for kind in rng.sample(STRIKES, len(STRIKES)):
                await asyncio.sleep(rng.uniform(0.1, 0.4) * self.plan.round_s)
                await self.strike(kind, rng.uniform(0.2, min(STOPPED_MAX_S, self.plan.round_s / 8)))
                self.strikes[kind] += 1

    async def strike(self, kind: str, seconds: float) -> None:
        """One fault, over when this returns, whatever ends it."""
        if kind == "broker killed":
            self.broker.kill()
            try:
                await asyncio.sleep(seconds)
            finally:
                self.broker.start()
            return
        daemon = self.here.process
        assert daemon is not None
        if kind == "block process stopped":
            with contextlib.suppress(ProcessLookupError, ValueError):
                await _stopped(worker_of(self.here), seconds)
            return
        await _stopped(self.broker.pid if kind == "broker stopped" else daemon.pid, seconds)

    # --- looking ---

    async def watch(self) -> None:
        """A sample each second, a line each minute, and what was heard looked at; until cancelled."""
        told = 0.0
        while True:
            sample = await asyncio.to_thread(look, self.here, self.second)
            self.samples.append(sample)
            self.write(sample)
            if self.second - told >= TOLD_S:
                told = self.second
                await self.hear()
                self.tell(self.line(sample))
            await asyncio.sleep(SAMPLE_S - self.second % SAMPLE_S)

    async def hear(self) -> None:
        """Look at what went to devices since the last time."""
        heard, self.seen.seen[:] = list(self.seen.seen), []
        self.found(await asyncio.to_thread(lambda: list(soak_checks.check_heard(self.here, heard))))

    def line(self, sample: Sample) -> str:
        """Progress, for people."""
        looks = ", ".join(
            f"{name} {one.anon_kib / 1024:.1f} MiB {one.fds} fds {one.threads} threads"
            for name, one in sample.processes.items()
        )
        done = dict(self.here.rows("SELECT state, count(*) FROM deployments GROUP BY state"))
        return (
            f"{self.second / 60:5.1f} min: {looks}; database {sample.database_bytes >> 20} MiB, WAL {sample.wal_bytes >> 20} MiB; "
            f"{self.rollouts} rollouts, {done.pop('CONFIRMED', 0)} confirmed, {dict(sorted(done.items()))}, {self.strikes.total()} strikes"
        )

    async def settle(self, calmed: float) -> None:
        """Everybody takes one more release; I3 and I4 when it is quiet, or when it should be."""
        rollout, _ = await self.roll_out()

        def is_quiet() -> bool:
            if self.here.rows("SELECT 1 FROM deployments WHERE is_open = 1 LIMIT 1"):
                return False
            return self.here.rows("SELECT min(last_report_wall) FROM devices")[0][0] > calmed

        await until(lambda: self.here.call("rollout.status", rollout=rollout)["total"] > 0, within_s=60)
        with contextlib.suppress(TimeoutError):
            await until(is_quiet, within_s=self.plan.bound_s, every_s=1)
        self.quiet_after_s = round(time.time() - calmed, 1)
        self.tell(f"{self.second / 60:5.1f} min: looking at the rules, {self.quiet_after_s} s after the faults")
        await self.hear()
        self.found(await asyncio.to_thread(lambda: list(soak_checks.check_quiet(self.here, self.target))))


async def _stopped(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


async def _soak(
    plan: Plan, here: Site, broker: Mosquitto, devices: "subprocess.Popen[str]", soak: Soak
) -> dict[str, Any]:
    assert devices.stdin is not None
    assert here.process is not None
    devices.stdin.write(first_line(plan.fleets(here, broker)))
    devices.stdin.flush()
    everybody = plan.devices + STRANGER_COUNT
    await until(lambda: here.rows("SELECT count(*) FROM devices")[0][0] >= everybody, within_s=120)
    soak.began = time.monotonic()
    pids = {DAEMON: here.process.pid, "devices": devices.pid, "this": None}
    before = {name: busy_s(pid) for name, pid in pids.items()}
    rng = random.Random(f"soak/{plan.seed}")
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(soak.watch(), name="watch")
        tasks = [
            group.create_task(soak.work(random.Random(rng.random())), name="work"),
            group.create_task(soak.strike_again_and_again(random.Random(rng.random())), name="strikes"),
        ]
        await asyncio.sleep(plan.length_s)
        busy = {name: round(busy_s(pid) - before[name], 1) for name, pid in pids.items()}
        for task in (*tasks, watch):
            task.cancel()
    soak.tell(f"{soak.second / 60:5.1f} min: the faults are over")
    devices.stdin.write("calm\n")
    devices.stdin.flush()
    await soak.settle(time.time())
    out, _ = await asyncio.to_thread(devices.communicate, "stop\n", timeout=120)
    report = json.loads(out)
    soak.found(soak_checks.check_devices(here, report))
    soak.found(soak_checks.check_beliefs(here, report))
    return {"report": report, "busy_s": busy}


async def _whole(
    plan: Plan, here: Site, broker: Mosquitto, tell: Callable[[str], None], write: Callable[[Sample], None]
) -> dict[str, Any]:
    async with tap(broker.url, "$ota/update/#", f"$ota/block/{STRANGERS}/#") as seen:
        soak = Soak(plan, here, broker, seen, tell, write)
        command = [sys.executable, str(Path(__file__).with_name("soak_fleet.py"))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as devices:
            try:
                ended = await _soak(plan, here, broker, devices, soak)
            finally:
                if devices.poll() is None:
                    devices.kill()
    return summary(soak, ended, here.call("bridge.status")["counters"]["gateway"])


def summary(soak: Soak, ended: dict[str, Any], counters: dict[str, int]) -> dict[str, Any]:
    """What came of it, for the file and for the table."""
    plan, report = soak.plan, ended["report"]
    goals = verdict(soak.samples, plan.length_s) + [
        Goal(name=f"{name}, {INVARIANTS[name]}", held=not wrong, found=wrong[0] if wrong else "not broken")
        for name, wrong in soak.broken.items()
    ]
    failures = counters["core_failures"] + counters["store_failures"]
    goals.append(Goal(name="failures inside the daemon", held=not failures, found=f"{failures}"))
    states = dict(soak.here.rows("SELECT state, count(*) FROM deployments GROUP BY state ORDER BY state"))
    confirmed = states.get("CONFIRMED", 0)
    enough = plan.devices * (soak.rollouts // 3)
    goals.append(Goal(name="work", held=confirmed >= enough, found=f"{confirmed} updates confirmed (wanted: {enough})"))
    return {
        "minutes": plan.minutes, "devices": plan.devices, "seed": plan.seed, "commit": commit(), "ended_s": round(time.time()),
        "held": all(goal.held is not False for goal in goals),
        "goals": [asdict(goal) for goal in goals],
        "rollouts": soak.rollouts, "deployments": states, "strikes": dict(soak.strikes), "lines_struck": report["struck"],
        "operations": dict(soak.operations), "reports": counters["reports"], "boots": sum(one["boots"] for one in report["devices"]),
        "quiet_after_s": soak.quiet_after_s, "busy_s": ended["busy_s"], "wrong": {name: wrong[:20] for name, wrong in soak.broken.items() if wrong},
    }  # fmt: skip


def run(plan: Plan, *, results: Path | None = None, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """The whole soak; its summary, which is written down too."""
    results = results or RESULTS / commit()
    results.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="ota-soak-", ignore_cleanup_errors=True) as directory,
        (results / f"soak.{plan.seed}.jsonl").open("w", encoding="utf-8", buffering=1) as lines,
        mosquitto_on(Path(directory), logs_all=False) as broker,
        site(Path(directory), broker_url=broker.url, **plan.settings) as here,
    ):
        found = asyncio.run(_whole(plan, here, broker, tell, lambda sample: _write(lines, sample)))
    (results / f"soak.{plan.seed}.summary.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for goal in found["goals"]:
        tell(str(Goal(**goal)))
    return found


def _write(lines: Any, sample: Sample) -> None:
    lines.write(json.dumps(asdict(sample)) + "\n")
