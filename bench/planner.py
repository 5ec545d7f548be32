"""The planner and the store by themselves, in this process: a whole fleet through one rollout in five stages.

The real `Bridge` over a real file of the real store, with the real signatures; devices confirm by check-ins that are
handed in as the dialect would. Time is measured inside the unit of work, as CPU of its thread and by the clock: the
commit is the store's, and whoever else wants the processor is not the planner's fault.
"""

import contextlib
import queue
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from fleet import name_of, populate
from load import HW, PRODUCT
from stacks import Bridge as Site
from stacks import image, mosquitto

from ota_bridge.calendars import CronCalendar
from ota_bridge.config import Config
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.history import compact, devices_after
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Offer, ReportKey
from ota_bridge.core.operations import perform
from ota_bridge.core.people import Caller
from ota_bridge.core.values import DeviceId, Now
from ota_bridge.daemon import rules_of
from ota_bridge.gateway import WORK_S
from ota_bridge.queries import CelQueries
from ota_bridge.security.authority import Authority
from ota_bridge.store.outcome import Committed
from ota_bridge.store.sqlite import SqliteStore

GOAL_MS = 50.0
GOAL_BYTES = 200
STAGES = [
    {"name": "canary", "devices": 5},
    {"name": "first", "percent": 1.0},
    {"name": "second", "percent": 10.0},
    {"name": "third", "percent": 50.0},
    {"name": "rest"},
]
PLAN = {"stages": [{**stage, "success": {"share": 0.9}} for stage in STAGES]}
ROOT = Caller(user="root", is_owner=True)
HISTORY_TABLES = ("finished", "finished_kinds", "finished_ends")


@dataclass
class Spent:
    """What something took, each time: CPU of its thread and by the clock, in seconds."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def counted(self):
        cpu, wall = time.thread_time(), time.perf_counter()
        yield
        self.cpu.append(time.thread_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def summary(self) -> dict[str, float]:
        """How often, milliseconds of most and of all, the mean in microseconds."""
        found = {"n": len(self.cpu), "cpu_mean_us": 1e6 * sum(self.cpu) / max(1, len(self.cpu))}
        for name, values in (("cpu", sorted(self.cpu)), ("wall", sorted(self.wall))):
            for share, quantile in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
                at = min(len(values) - 1, int(len(values) * quantile))
                found[f"{name}_{share}_ms"] = 1e3 * values[at] if values else 0.0
        return found


class World:
    """The core over a file, with a release in its catalog and a fleet that has checked in."""

    def __init__(self, directory: Path, fleet: int) -> None:
        with mosquitto(directory) as broker:
            site = Site(directory, broker)
            site("keys", "new", "--vendor", "example.com")
            site.database.parent.mkdir(mode=0o700)
            populate(site.database, PRODUCT, fleet)
            with site.serving():
                release = ("release", "add", str(image(directory)), "--product", PRODUCT, "--hw", HW)
                site(*release, "--version", "2.0.0")
        config = Config.load({"data_dir": str(site.database.parent)}, {}, directory)
        trust, online = config.security.trust, config.security.online_key
        authority = Authority(directory / trust, directory / online, ticket_valid_s=600)
        self.database, self.fleet = site.database, fleet
        self.bridge = Bridge(
            rules_of(config), verify=authority.verify, ticket=authority.ticket, keysets=authority.standing,
            queries=CelQueries(), calendar=CronCalendar(),
        )  # fmt: skip
        self.store = SqliteStore.open(site.database, deliver=lambda told: told())
        self.step, self.check_in = Spent(), Spent()
        self.offered: list[DeviceId] = []
        self.seqs = 0

    def now(self) -> Now:
        return Now(wall=time.time(), mono=time.monotonic())

    def commit(self, *works):
        """What the works returned, committed together."""
        outcomes = queue.SimpleQueue()
        for work in works:
            self.store.submit(work, outcomes.put)
        found = [outcomes.get() for _ in works]
        for one in found:
            if not isinstance(one, Committed):
                raise one.error
        return [one.value for one in found]

    def operate(self, name: str, **args):
        return self.commit(lambda unit: perform(unit, self.bridge, name, args, caller=ROOT, now=self.now())[0])[0]

    def plan(self) -> bool:
        """One slice, as the gateway does it; True if there is more to do at once."""

        def work(unit):
            with self.step.counted():
                now = self.now()
                return self.bridge.plan(unit, now, lambda: time.monotonic() - now.mono < WORK_S)

        done = self.commit(work)[0]
        self.offered += [one.device for one in done.outputs if isinstance(one, Offer)]
        return done.more

    def confirm(self, limit: int = 200) -> None:
        """Devices that were offered it come back with it."""
        now, self.offered = self.offered[:limit], self.offered[limit:]
        self.commit(*[lambda unit, device=device: self._receive(unit, device) for device in now])

    def _receive(self, unit, device: DeviceId) -> None:
        self.seqs += 1
        report = CheckIn(
            device=device, dialect="native", encoding=Encoding.MSGPACK, proto=1, hw=HW, nonce=bytes(16),
            key=ReportKey(boot=2, seq=self.seqs, content=self.seqs.to_bytes(8, "big")), max_packet=20_000,
            max_block=16_384, max_window=16, parts={"firmware": InstalledPart(version="2.0.0", seq=None)},
            body={"type": "report_version", "report": {"version": "2.0.0"}, "boot": 2, "seq": self.seqs},
        )  # fmt: skip
        with self.check_in.counted():
            outputs = self.bridge.receive(unit, report, self.now())
        self.offered += [one.device for one in outputs if isinstance(one, Offer)]

    def close(self) -> None:
        self.store.close()


def roll_out(world: World) -> dict:
    """The whole fleet through five stages; what each step and each check-in took."""
    rollout = world.operate("rollout.start", release=f"{PRODUCT}/2.0.0", plan=PLAN)["id"]
    more = True
    while more or world.offered:
        more = world.plan()
        world.confirm()
    counts, members, recount = world.store.read(
        lambda unit: (
            dict(unit.deployments.counts(rollout)),
            unit.members.count(rollout),
            len(unit.deployments.of_rollout(rollout, limit=10**9)),
        )
    )
    if counts != {"CONFIRMED": world.fleet} or members or recount != world.fleet:
        raise RuntimeError(f"of {world.fleet} devices, {counts} and {members} wait; {recount} deployments")
    return {"devices": world.fleet, "step": world.step.summary(), "check_in": world.check_in.summary()}


def used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def history_bytes(database: Path, copy: Path) -> int:
    """What the pages of compacted deployments take, indexes and all: what dropping their tables frees."""
    with contextlib.closing(sqlite3.connect(database)) as db, contextlib.closing(sqlite3.connect(copy)) as other:
        db.backup(other)
        other.execute("PRAGMA foreign_keys = OFF")
        before = used_bytes(other)
        for table in HISTORY_TABLES:
            other.execute(f"DROP TABLE {table}")
        other.commit()
        return before - used_bytes(other)


def compacted(world: World, directory: Path) -> dict:
    """Everything that is finished made small: bytes for each, and what it took."""
    spent, moved, after = Spent(), 0, None
    with contextlib.closing(sqlite3.connect(world.database)) as db:
        before = used_bytes(db)
    while True:

        def work(unit):
            done, last = 0, None
            with spent.counted():
                for number, device in enumerate(devices_after(unit, after)):  # noqa: B023 - it runs at once
                    if number == 16:
                        break
                    done, last = done + compact(unit, device, time.time() + 1).deployments, device.id
            return done, last

        done, after = world.commit(work)[0]
        moved += done
        if after is None:
            break
    world.close()
    if moved != world.fleet:
        raise RuntimeError(f"{moved} of {world.fleet} deployments were compacted")
    with contextlib.closing(sqlite3.connect(world.database)) as db:
        after_all = used_bytes(db)
    return {
        "deployments": moved, "bytes_each": history_bytes(world.database, directory / "copy.sqlite") / moved,
        "database_before": before, "database_after": after_all, "slice": spent.summary(),
    }  # fmt: skip


def measure(directory: Path, fleet: int) -> dict:
    """Both, on one database."""
    world = World(directory, fleet)
    try:
        found = {"planner": roll_out(world)}
        return found | {"history": compacted(world, directory)}
    finally:
        world.close()


__all__ = ["GOAL_BYTES", "GOAL_MS", "World", "measure", "name_of"]
