"""One measurement: the load in a process of its own, and what the servers' CPU did meanwhile."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from load import check_in
from rows import Row
from stacks import HERE, Running, compiled, cpu_s, image

DEVICES, SECONDS, WARM_UP_S = 200, 4.0, 1.0
BLOCKS_EACH = 15
"""So many blocks of each device are measured at least where a rate is given."""


class WrongBlock(Exception):
    """The load generator ended with an error: what was delivered is not what was asked for."""


class NothingArrived(WrongBlock):
    """No block came while it was measured."""


def generator(directory: Path, stack: str) -> list[str]:
    """The command of the load: C where there is a compiler. BENCH_GENERATOR=python takes the other."""
    if stack == "nginx":
        return [sys.executable, str(HERE / "http_load.py")]
    program = None if os.environ.get("BENCH_GENERATOR") == "python" else compiled(directory, "load")
    return [str(program)] if program else [sys.executable, str(HERE / "load.py")]


class Load:
    """A load that runs. Wait for `ready`, `begin` and `end` in turn; `result` is there afterwards."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def wait_for(self, *words: str) -> None:
        for word in words:
            if self._process.stdout.readline().strip() != word:
                self._fail()

    def result(self) -> dict:
        line = self._process.stdout.readline()
        if self._process.wait() or not line:
            self._fail()
        return json.loads(line)

    def _fail(self) -> None:
        self._process.wait()
        raise WrongBlock(self._process.stderr.read().strip())


def digest(path: Path) -> str:
    """The first 8 bytes of the file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextlib.contextmanager
def load(directory: Path, serving: Running, *, path: Path | None = None, **options) -> Iterator[Load]:
    """The load beside a stack, on the usual image or that at `path`; options are those of load.c."""
    path = path or image(directory)
    options = {"port": serving.port, "image": path, **options}
    if serving.broker:
        options["artifact"] = digest(path)
        if serving.stack == "bridge":
            options["check_in"] = directory / "check-in.msgpack"
            options["check_in"].write_bytes(check_in())
    command = generator(directory, serving.stack) + [f"{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Load(process)
    finally:
        process.kill()
        process.communicate()


def lasting(row: Row, devices: int, seconds: float) -> dict[str, float]:
    """How long to warm up and to measure a row, as options of `measure`.

    Where requests come slowly a second has few blocks, and the begin of 200 downloads, a commit for each, would be most
    of what they cost: the warm-up is past it.
    """
    once_s = devices / row.rate_per_s if row.rate_per_s else 0.0
    return {"warmup": WARM_UP_S + 2 * once_s, "seconds": max(seconds, BLOCKS_EACH * once_s)}


def measure(directory: Path, serving: Running, row: Row, **options) -> dict:
    """One run of one row: CPU µs per block of server and broker, and what the devices saw."""
    shape = {"block": row.block_bytes}
    if serving.broker:
        shape |= {"count": row.count, "rate": row.rate_per_s}
    pids = [serving.server_pid, *([serving.broker.pid] if serving.broker else [])]
    with load(directory, serving, **shape, **options) as running:
        running.wait_for("ready", "begin")
        before = [cpu_s(pid) for pid in pids]
        running.wait_for("end")
        spent_s = [cpu_s(pid) - earlier for pid, earlier in zip(pids, before, strict=True)]
        found = running.result()
    if not found["blocks"]:
        raise NothingArrived(f"no block arrived: {found}")
    found["server_us"] = spent_s[0] / found["blocks"] * 1e6
    if serving.broker:
        found["mosquitto_us"] = spent_s[1] / found["blocks"] * 1e6
        found["ratio"] = spent_s[0] / spent_s[1]
    found["blocks_per_s"] = found["blocks"] / found["seconds"]
    return found
