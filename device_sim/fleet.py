"""Many devices in one process and one event loop: start, watch, read back, report.

`run_fleet` ends when every device has settled (confirmed another version and told the bridge, or failed), at
the time-out, or when `stop` is set; with `stay` only by `stop` or the time-out.
"""

import asyncio
import logging
import resource
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from device_sim.device import Device
from device_sim.errors import BrokerUnreachable, OptionError
from device_sim.flash import Flash
from device_sim.layout import Layout
from device_sim.link import Link
from device_sim.model import DeviceConfig, Fault, Phase, Result
from device_sim.options import FleetOptions
from device_sim.report import FleetReport, device_report, is_ok
from device_sim.shell import Runner, end_tasks
from device_sim.storage import Storage
from device_sim.supply import Supply
from device_sim.trust import Trust, load_trust

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]

STARTS_PER_S: Final = 500
CONNECTING_AT_ONCE: Final = 24
PROGRESS_EVERY_S: Final = 0.25
SPARE_FILES: Final = 128


@dataclass(slots=True, kw_only=True)
class _Member:
    runner: Runner
    storage: Storage
    fault: Fault
    started_as: str
    told: tuple[Phase, Result, bool] | None = None
    told_at_s: float = 0.0
    settled: bool = False


@dataclass(slots=True, kw_only=True)
class _Watch:
    """Who has settled, and whom to tell."""

    on_progress: Progress | None
    members: dict[str, _Member] = field(default_factory=dict)
    waiting: int = 0
    all_settled: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self, runner: Runner) -> None:
        """Something happened to a device; cheap, because it comes with each block."""
        member = self.members[runner.id]
        now_s, mark = asyncio.get_running_loop().time(), runner.device.mark
        fresh = mark == member.told and now_s - member.told_at_s < PROGRESS_EVERY_S
        if fresh and not runner.failure and (mark[1] is Result.NONE or member.settled):
            return
        settled = bool(runner.failure) or runner.device.snapshot().settled
        if settled != member.settled:
            member.settled = settled
            self.waiting += -1 if settled else 1
        elif fresh:
            return
        member.told, member.told_at_s = mark, now_s
        self._tell(runner, now_s)
        if self.waiting == 0:
            self.all_settled.set()
        else:
            self.all_settled.clear()

    def _tell(self, runner: Runner, now_s: float) -> None:
        if self.on_progress is None:
            return
        seen = runner.device.snapshot()
        self.on_progress(
            {
                "type": "device",
                "device": seen.device,
                "phase": str(seen.phase),
                "result": str(seen.result),
                "reason": runner.failure or seen.reason,
                "version": seen.version,
                "offered_version": seen.offered_version,
                "position": seen.position,
                "size_bytes": seen.size_bytes,
                "bytes_payload": seen.stats.bytes_payload,
                "blocks": seen.stats.blocks,
                "retries": seen.stats.retries,
                "seconds": round(now_s - (now_s if seen.stats.started_s is None else seen.stats.started_s), 3),
                "settled": seen.settled,
                "stale": seen.stale,
            }
        )


async def run_fleet(
    options: FleetOptions, on_progress: Progress | None = None, stop: asyncio.Event | None = None
) -> FleetReport:
    """Run the devices to their end and report; see the module for what the end is."""
    trust = load_trust(options.trust)
    asyncio.get_running_loop().set_exception_handler(_late_writer)
    _allow_files(2 * options.count + SPARE_FILES)
    directory = options.state or Path(tempfile.mkdtemp(prefix="device-sim-"))
    watch = _Watch(on_progress=on_progress)
    try:
        _make_members(options, trust, directory, watch)
        await _run_members(options, watch, stop or asyncio.Event())
        return _report(watch)
    finally:
        for member in watch.members.values():
            member.storage.flash.close()
        if options.state is None:
            shutil.rmtree(directory, ignore_errors=True)


def _make_members(options: FleetOptions, trust: Trust, directory: Path, watch: _Watch) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--state: {directory} cannot be used: {error.strerror}") from None
    tls, gate = options.tls_context(), asyncio.Semaphore(CONNECTING_AT_ONCE)
    layout = Layout.plain(options.slot_bytes)
    for index in range(1, options.count + 1):
        config = _config(options, index)
        rng = Random(f"{options.seed}/{index}")
        flash = Flash(path := directory / f"{config.device}.flash", layout.chip)
        if not flash.own():
            flash.close()
            raise OptionError(f"--state: {path} is in use by another run")
        storage = Storage(flash, layout, version=config.version)
        faulty = options.fault_count is None or index <= options.fault_count
        fault = Fault.parse(options.fault if faulty else "none")
        device = Device(config=config, storage=storage, trust=trust, rng=rng, fault=fault)
        link = Link(loss=options.loss, dup=options.dup, rng=Random(f"{options.seed}/{index}/link"))
        supply = Supply(flash, cuts=fault.cuts, rng=Random(f"{options.seed}/{index}/power"))
        runner = Runner(
            device=device, supply=supply, options=options, link=link, rng=rng, gate=gate, tls=tls, changed=watch.changed
        )
        watch.members[runner.id] = _Member(
            runner=runner, storage=storage, fault=fault, started_as=storage.settings.version
        )
    watch.waiting = len(watch.members)


def _config(options: FleetOptions, index: int) -> DeviceConfig:
    return DeviceConfig(
        product=options.product,
        device=options.device_name(index),
        hw=options.hw,
        version=options.version,
        until=options.until,
        block_bytes=options.block_bytes,
        window=options.window,
        max_packet=options.max_packet,
        pace_bps=options.pace_bps,
        encoding=options.encoding,
        level=options.level,
        slot_bytes=options.slot_bytes,
        check_in_every_s=options.check_in_every_s,
        sleeps_s=options.asleep_s,
        watchdog_s=options.watchdog_s,
        stale_after_s=options.stale_after_s,
    )


async def _run_members(options: FleetOptions, watch: _Watch, stop: asyncio.Event) -> None:
    tasks = [
        asyncio.create_task(member.runner.run(index / STARTS_PER_S), name=f"device {member.runner.id}")
        for index, member in enumerate(watch.members.values())
    ]
    connecting = asyncio.create_task(_first_connection(options, watch), name="first connection")
    stopping = asyncio.create_task(_wait(stop), name="stop")
    settling = asyncio.create_task(_wait(watch.all_settled), name="all settled")
    ends = {connecting, stopping} if options.stay else {connecting, stopping, settling}
    try:
        async with asyncio.timeout(options.timeout_s):
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
    except TimeoutError:
        log.warning("time-out after %s s", options.timeout_s)
    finally:
        await end_tasks([*tasks, connecting, stopping, settling])
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a device ended by an error that is a bug", exc_info=error)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _first_connection(options: FleetOptions, watch: _Watch) -> None:
    """Raise when nobody gets through in the time given; otherwise never end."""
    runners = [member.runner for member in watch.members.values()]
    await asyncio.sleep(min(options.connect_timeout_s, options.timeout_s * 0.9))
    if not any(runner.ever_connected for runner in runners):
        error = next((runner.last_error for runner in runners if runner.last_error), "no answer")
        broker = f"{options.broker.host}:{options.broker.port}"
        raise BrokerUnreachable(f"cannot connect to the broker {broker}: {error}")
    await asyncio.Event().wait()


def _report(watch: _Watch) -> FleetReport:
    now_s = asyncio.get_running_loop().time()
    found = [
        (
            device_report(
                member.runner.device,
                member.storage,
                started_as=member.started_as,
                failure=member.runner.failure,
                now_s=now_s,
            ),
            member.fault,
        )
        for member in watch.members.values()
    ]
    return FleetReport(
        devices=tuple(report for report, _ in found), ok=all(is_ok(report, fault) for report, fault in found)
    )


def _late_writer(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # aiomqtt asks for a writer on its socket through call_soon; a reboot may have closed the socket by then.
    if isinstance(context.get("exception"), OSError | ValueError) and "add_writer" in str(context.get("message")):
        log.debug("a socket was closed before its last write: %s", context["exception"])
        return
    loop.default_exception_handler(context)


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OptionError(f"so many devices need {wanted} open files, the system allows {hard}: see `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
