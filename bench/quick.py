"""`make bench-quick`: every row, some points of airtime and the flood, for a moment each. It judges correctness only.

A server is started once and serves all its rows. Every block must be right, none lost, no request refused; beside the
flood it is enough that no block is wrong, since a busy machine may well lose some then. Time is never judged.
"""

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from airtime import airtime
from flood import beside
from measure import NothingArrived, WrongBlock, measure
from rows import ROWS, STACKS, Row
from stacks import Running, cpu_s, missing, running

DEVICES, SECONDS, WARM_UP_S, IDLE_S = 100, 0.4, 0.2, 5.0
PATIENT_SECONDS = 5.0
ONE_DEVICE_SECONDS = 1.0
BUSY = "4"
AIRTIME_POINTS = ((64, 16), (16_384, 1))


class Numbers:
    """Each load gets devices that no load had before: a bridge knows the others."""

    def __init__(self) -> None:
        self._next = 0

    def take(self, count: int) -> int:
        first, self._next = self._next, self._next + count
        return first


def demand(what: str, found: dict) -> str:
    """One line about a run that was right; raises WrongBlock if it was not."""
    if not found["blocks"] or found["lost"] or found["refusals"]:
        raise WrongBlock(f"{what}: {found['blocks']} blocks, {found['lost']} lost, refusals {found['refusals']}")
    return f"{what}: {found['blocks']} blocks, all right"


def until_idle(serving: Running) -> None:
    """Wait for a server that still works on what devices asked for that are gone."""
    busy, deadline = True, time.monotonic() + IDLE_S
    while busy and time.monotonic() < deadline:
        before = cpu_s(serving.server_pid)
        time.sleep(0.05)
        busy = cpu_s(serving.server_pid) - before > 0.01


def patient(directory: Path, serving: Running, row: Row, numbers: Numbers) -> dict:
    """One row; on a machine that is busy with other things once more, for longer."""
    options = {"devices": DEVICES, "warmup": WARM_UP_S}
    for seconds in (SECONDS, PATIENT_SECONDS):
        if serving.broker:
            options["first"] = numbers.take(DEVICES)
        with suppress(NothingArrived):
            return measure(directory, serving, row, seconds=seconds, **options)
    raise NothingArrived(f"{row.name} {serving.stack}: no block arrived in {PATIENT_SECONDS:g} s")


def check(directory: Path, serving: Running, *, tls: bool) -> None:
    """All rows of one stack, and what only a bridge is asked."""
    numbers = Numbers()
    for row in ROWS.values():
        until_idle(serving)
        if serving.stack in row.stacks and row.tls is tls:
            print(demand(f"{row.name} {serving.stack}", patient(directory, serving, row, numbers)), flush=True)
    if serving.stack != "bridge" or tls:
        return
    for block, window in AIRTIME_POINTS:
        # Without warming up: a device that is faster than its rate has a thousand blocks at once, then it is told busy.
        one = {"seconds": ONE_DEVICE_SECONDS, "first": numbers.take(1), "warmup": 0}
        found = airtime(directory, serving, block, window, **one)
        found["refusals"].pop(BUSY, None)
        print(demand(f"airtime of {block} bytes, window {window}", found), flush=True)
    found = beside(directory, serving, seconds=SECONDS, warmup=WARM_UP_S, first=numbers.take(1000))
    print(
        f"flood: {found['flood_sent_per_s']:.0f} requests/s beside {found['flooded_blocks_per_s']:.0f} honest blocks/s"
    )


def quick() -> int:
    """Run it; 1 if anything was wrong."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ota-bench-") as name:
        for stack in STACKS:
            why = missing(stack)
            if why:
                print(f"{stack}: left out, {why}")
                continue
            try:
                for tls in {row.tls for row in ROWS.values() if stack in row.stacks}:
                    with running(stack, Path(name), tls=tls) as serving:
                        check(Path(name), serving, tls=tls)
            except (OSError, RuntimeError, TimeoutError, WrongBlock) as error:
                print(f"bench-quick: {stack}: {error}", file=sys.stderr)
                return 1
    print(f"bench-quick: every block was right, in {time.monotonic() - began:.0f} s")
    return 0
