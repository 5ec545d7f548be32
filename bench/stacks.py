"""The processes under test: a mosquitto of their own, and beside it the bridge or a naive server."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from load import HW, PRODUCT

CONF = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 200
max_queued_messages 20000
max_packet_size 32768
persistence false
"""
READY_S = 20.0
IMAGE_BYTES = 8 << 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process, from the scheduler's own account in nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@contextlib.contextmanager
def process(command: list[str], log: Path, **options) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as out:
        found = subprocess.Popen(command, stdout=out, stderr=out, **options)
    try:
        yield found
    finally:
        found.terminate()
        try:
            found.wait(5)
        except subprocess.TimeoutExpired:
            found.kill()
            found.wait()


@contextlib.contextmanager
def mosquitto(directory: Path) -> Iterator[tuple[int, int]]:
    """(port, pid) of a running mosquitto."""
    port = free_port()
    conf = directory / "mosquitto.conf"
    conf.write_text(CONF.replace("{port}", str(port)) + ("user root\n" if os.geteuid() == 0 else ""))
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    with process(["mosquitto", "-c", str(conf)], directory / "mosquitto.log", env={**os.environ, "PATH": path}) as one:
        until(lambda: listens(port), "mosquitto listens")
        yield port, one.pid


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(reached, what: str) -> None:
    deadline = time.monotonic() + READY_S
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {READY_S:.0f} s: {what}")
        time.sleep(0.02)


def image(directory: Path) -> Path:
    path = directory / "image.bin"
    if not path.exists():
        path.write_bytes(random.Random(1).randbytes(IMAGE_BYTES))
    return path


@contextlib.contextmanager
def naive(stack: str, directory: Path, port: int) -> Iterator[int]:
    log = directory / f"{stack}.log"
    log.write_bytes(b"")
    command = [sys.executable, str(Path(__file__).with_name("naive.py")), stack, str(port), str(image(directory))]
    with process(command, log) as one:
        until(lambda: b"ready" in log.read_bytes(), f"{stack} has subscribed")
        yield one.pid


@contextlib.contextmanager
def bridge(directory: Path, port: int) -> Iterator[int]:
    """The daemon with one release rolled out to everybody, set up with its own commands."""
    command = [sys.executable, "-m", "ota_bridge"]
    log = directory / "bridge.log"
    log.write_bytes(b"")
    if not (directory / "ota-trust.json").exists():
        run([*command, "keys", "new", "--vendor", "example.com"], directory)
    settings = {"broker.url": f"mqtt://127.0.0.1:{port}", "data_dir": directory / f"data-{port}", "enrol.burst": 20_000}
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with process([*command, *flags, "serve"], log, cwd=directory) as one:
        until(lambda: b"connected to" in log.read_bytes() and b"is up" in log.read_bytes(), "both links are up")
        add = ["release", "add", str(image(directory)), "--product", PRODUCT, "--version", "2.0.0", "--hw", HW]
        run([*command, *flags, *add], directory)
        run([*command, *flags, "rollout", "start", f"{PRODUCT}/2.0.0", "--to", "all"], directory)
        yield one.pid


def run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
