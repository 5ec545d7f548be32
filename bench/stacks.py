"""The processes under test: a mosquitto, and beside it the bridge, a naive server or the floor; or nginx."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from certificates import issue
from load import HW, PRODUCT

HERE = Path(__file__).parent
CONF = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 200
max_queued_messages 20000
max_packet_size 32768
persistence false
sys_interval 1
"""
TLS_CONF = """
listener {port} 127.0.0.1
cafile {directory}/ca.crt
certfile {directory}/server.crt
keyfile {directory}/server.key
tls_version tlsv1.2
"""
NGINX_CONF = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/nginx-body;
    proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/nginx-fastcgi;
    uwsgi_temp_path {directory}/nginx-uwsgi;
    scgi_temp_path {directory}/nginx-scgi;
    server {{ listen 127.0.0.1:{port}; root {directory}; }}
}}
"""
READY_S = 30.0
IMAGE_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Broker:
    """A running mosquitto. `tls_port` is 0 unless it was asked for."""

    port: int
    pid: int
    tls_port: int = 0


@dataclass(frozen=True, kw_only=True)
class Running:
    """One stack that serves: where devices connect, and whose CPU counts. nginx has no broker."""

    stack: str
    port: int
    server_pid: int
    broker: Broker | None


def tool(name: str) -> str | None:
    """Where a program is, the directories that only root has on PATH included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def missing(stack: str) -> str | None:
    """Why a stack cannot run on this machine; None if it can."""
    if stack == "nginx" and tool("nginx") is None:
        return "nginx is not installed"
    if stack == "floor" and compiler() is None:
        return "there is no C compiler"
    return None


def compiler() -> str | None:
    return tool("cc") or tool("gcc") or tool("clang")


def compiled(directory: Path, name: str) -> Path | None:
    """The program of `name`.c, compiled once for each directory; None without a compiler."""
    program, found = directory / name, compiler()
    if found is None:
        return None
    if not program.exists():
        run([found, "-O2", "-o", str(program), str(HERE / f"{name}.c")], directory)
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its living children, all threads, from the scheduler's own account in ns."""
    total = 0
    for one in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def waited_s(pid: int) -> float:
    """Seconds for which the first thread of a process could have run and had no CPU."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def children(pid: int) -> list[int]:
    """The processes that this one started and that live, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *children(int(child))]
    return found


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
def mosquitto(directory: Path, *, tls: bool = False) -> Iterator[Broker]:
    """A mosquitto of its own, and with `tls` a second listener with a throw-away certificate."""
    port, tls_port = free_port(), free_port() if tls else 0
    text = CONF.format(port=port)
    if tls:
        issue(directory)
        text += TLS_CONF.format(port=tls_port, directory=directory)
    conf = directory / f"mosquitto-{port}.conf"
    conf.write_text(text + ("user root\n" if os.geteuid() == 0 else ""))
    log = directory / "mosquitto.log"
    with process([tool("mosquitto") or "mosquitto", "-c", str(conf)], log) as one:
        until(lambda: listens(port) and (not tls or listens(tls_port)), "mosquitto listens", log)
        yield Broker(port=port, pid=one.pid, tls_port=tls_port)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(reached, what: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {READY_S:.0f} s: {what}; {log.name} ends with:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def image(directory: Path) -> Path:
    path = directory / "image.bin"
    if not path.exists():
        path.write_bytes(random.Random(1).randbytes(IMAGE_BYTES))
    return path


@contextlib.contextmanager
def running(stack: str, directory: Path, *, tls: bool = False) -> Iterator[Running]:
    """One stack, ready to serve."""
    if stack == "nginx":
        with nginx(directory) as (port, pid):
            yield Running(stack=stack, port=port, server_pid=pid, broker=None)
        return
    serving = bridge if stack == "bridge" else naive
    with mosquitto(directory, tls=tls) as broker, serving(stack, directory, broker) as pid:
        yield Running(stack=stack, port=broker.port, server_pid=pid, broker=broker)


@contextlib.contextmanager
def nginx(directory: Path) -> Iterator[tuple[int, int]]:
    port = free_port()
    conf, log = directory / "nginx.conf", directory / "nginx.log"
    user = "user root;" if os.geteuid() == 0 else ""
    conf.write_text(user + NGINX_CONF.format(port=port, directory=directory))
    image(directory)
    command = [tool("nginx") or "nginx", "-p", str(directory), "-c", str(conf), "-e", str(log)]
    with process(command, log) as one:
        until(lambda: listens(port), "nginx listens", log)
        yield port, one.pid


@contextlib.contextmanager
def naive(stack: str, directory: Path, broker: Broker) -> Iterator[int]:
    log = directory / f"{stack}.log"
    log.write_bytes(b"")
    if stack == "floor":
        command = [str(compiled(directory, "floor"))]
    else:
        command = [sys.executable, str(HERE / "naive.py"), stack]
    with process([*command, str(broker.port), str(image(directory))], log) as one:
        until(lambda: b"ready" in log.read_bytes(), f"{stack} has subscribed", log)
        yield one.pid


class Bridge:
    """The daemon on a directory, driven by its own commands: default settings, but a whole fleet may enrol at once."""

    def __init__(self, directory: Path, broker: Broker) -> None:
        self.directory, self.command = directory, [sys.executable, "-m", "ota_bridge"]
        self.database = directory / f"data-{broker.port}" / "ota-bridge.sqlite"
        settings = {"data_dir": self.database.parent, "enrol.burst": 20_000}
        if broker.tls_port:
            settings |= {"broker.url": f"mqtts://127.0.0.1:{broker.tls_port}", "broker.ca": directory / "ca.crt"}
        else:
            settings |= {"broker.url": f"mqtt://127.0.0.1:{broker.port}"}
        self.flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    def __call__(self, *words: str) -> None:
        run([*self.command, *self.flags, *words], self.directory)

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """The daemon's process id, once both of its links are up."""
        log = self.directory / "bridge.log"
        log.write_bytes(b"")
        with process([*self.command, *self.flags, "serve"], log, cwd=self.directory) as one:
            until(lambda: b"connected to" in log.read_bytes() and b"is up" in log.read_bytes(), "both links", log)
            yield one.pid


@contextlib.contextmanager
def bridge(_stack: str, directory: Path, broker: Broker) -> Iterator[int]:
    """The daemon with one release rolled out to everybody."""
    one = Bridge(directory, broker)
    if not (directory / "ota-trust.json").exists():
        one("keys", "new", "--vendor", "example.com")
    with one.serving() as pid:
        one("release", "add", str(image(directory)), "--product", PRODUCT, "--version", "2.0.0", "--hw", HW)
        one("rollout", "start", f"{PRODUCT}/2.0.0", "--to", "all")
        yield pid


def run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
