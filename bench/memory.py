"""`python bench memory`: anonymous memory of the daemon, all its processes together.

1. What 10,000 devices with an open deployment cost: the same daemon on the same database before and after the rollout,
   each time started anew.
2. 500 devices fetch from distant places of an image of 1 GiB that is not in the page cache: the memory while they do,
   and how long a request waits.
"""

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fleet import populate
from load import HW, PRODUCT
from measure import load
from stacks import Bridge, Running, children, image, mosquitto

FLEET, LARGE_BYTES, LARGE_DEVICES = 10_000, 1 << 30, 500
SETTLE_S, SAMPLE_S = 2.0, 0.05


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process and its children."""
    total = 0
    for one in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
    return total


class Peak:
    """The largest anonymous memory of a process while it is watched."""

    def __init__(self, pid: int) -> None:
        self.bytes = self.samples = 0
        self._pid, self._end = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_S):
            self.bytes = max(self.bytes, anonymous_bytes(self._pid))
            self.samples += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def table_memory(directory: Path) -> dict:
    """What a device with an open deployment costs."""
    with mosquitto(directory) as broker:
        bridge = Bridge(directory, broker)
        bridge("keys", "new", "--vendor", "example.com")
        bridge.database.parent.mkdir(mode=0o700)
        populate(bridge.database, PRODUCT, FLEET)
        with bridge.serving() as pid:
            bridge("release", "add", str(image(directory)), "--product", PRODUCT, "--version", "2.0.0", "--hw", HW)
        with bridge.serving() as pid:
            time.sleep(SETTLE_S)
            without = anonymous_bytes(pid)
            bridge("rollout", "start", f"{PRODUCT}/2.0.0", "--to", "all")
            while opened(bridge.database) < FLEET:
                time.sleep(0.2)
        with bridge.serving() as pid:
            time.sleep(SETTLE_S)
            found = anonymous_bytes(pid)
    return {"devices": FLEET, "without_bytes": without, "with_bytes": found, "bytes_each": (found - without) / FLEET}


def opened(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(*) FROM deployments WHERE is_open = 1").fetchone()[0]


@contextlib.contextmanager
def large_file(directory: Path) -> Iterator[Path]:
    path, source = directory / "large.bin", random.Random(2)
    with path.open("wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(source.randbytes(1 << 20))
    try:
        yield path
    finally:
        path.unlink()


def forget_pages(directory: Path) -> None:
    """Take what the bridge stored out of the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def large_memory(directory: Path, *, rate: float, seconds: float = 10.0) -> dict:
    """A large image at many places at once, from a cold cache; `rate` 0 is saturation."""
    with mosquitto(directory) as broker, large_file(directory) as path:
        bridge = Bridge(directory, broker)
        bridge("keys", "new", "--vendor", "example.com")
        with bridge.serving() as pid:
            bridge("release", "add", str(path), "--product", PRODUCT, "--version", "3.0.0", "--hw", HW)
            bridge("rollout", "start", f"{PRODUCT}/3.0.0", "--to", "all")
        forget_pages(bridge.database.parent / "blobs")
        with bridge.serving() as pid, Peak(pid) as peak:
            serving = Running(stack="bridge", port=broker.port, server_pid=pid, broker=broker)
            options = {"devices": LARGE_DEVICES, "block": 4096, "stride": LARGE_BYTES // 4096 // LARGE_DEVICES}
            with load(directory, serving, path=path, rate=rate, seconds=seconds, **options) as one:
                one.wait_for("ready", "begin", "end")
                found = one.result()
    return found | {"peak_bytes": peak.bytes, "blocks_per_s": found["blocks"] / found["seconds"], "rate": rate}


def lines(table: dict, large: list[dict]) -> str:
    """Both as a table."""
    rows = [
        ("daemon with 10,000 devices, none open", f"{table['without_bytes'] / 1e6:.1f} MB"),
        ("the same with 10,000 open deployments", f"{table['with_bytes'] / 1e6:.1f} MB"),
        ("each open deployment", f"{table['bytes_each']:,.0f} bytes"),
    ]
    for one in large:
        load_ = f"{one['rate']:,.0f} requests/s" if one["rate"] else "saturated"
        rows += [
            (f"500 devices in 1 GiB, {load_}: peak", f"{one['peak_bytes'] / 1e6:.1f} MB"),
            (f"500 devices in 1 GiB, {load_}: blocks", f"{one['blocks_per_s']:,.0f} a second, {one['lost']} lost"),
            (f"500 devices in 1 GiB, {load_}: p50, p99", f"{one['p50_ms']:.1f} ms, {one['p99_ms']:.1f} ms"),
        ]
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {what} | {found} |" for what, found in rows)])
