"""`demo`: the whole thing on this machine, with no other broker and no root: a daemon, simulated devices, one update.

Everything lives in one directory that is wiped at the start, and ends with this command. The simulator is another
program; it is only spoken to through its command line.
"""

import base64
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO, Annotated, Any, Final, NoReturn

import typer

from ota_bridge.cli.demo_view import DemoView, print_report
from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound, OperatorError
from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.signing import sign_file
from ota_bridge.security.trust import Trust
from ota_bridge.settings import ENV_PREFIX
from ota_bridge.web.local_client import DaemonNotRunning, LocalClient

PRODUCT: Final = "demo"
HW: Final = "r1"
OLD_VERSION: Final = "1.0.0"
NEW_VERSION: Final = "1.1.0"
IMAGE_BYTES: Final = 512 * 1024

_MARKER: Final = ".ota-bridge-demo"
_START_S: Final = 15.0
_END_S: Final = 5.0
_POLL_S: Final = 0.05
_LOG_LINES: Final = 20
_WHY_MAX: Final = 10
_LINES_WAITING_MAX: Final = 10_000
_SLOT_STEP_KIB: Final = 64
_SLOT_MIN_KIB: Final = 1024
_SLOWEST_BYTES_PER_S: Final = 500_000
"""Of the embedded broker on a small machine; sets how long the demo may take."""

_SHOWN_S: Final = 6
_PACE_MIN_BYTES_PER_S: Final = 16 * 1024
"""Each device is held to a pace at which its download can be watched."""


def demo(
    context: typer.Context,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Any file.", show_default="512 KiB made up")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=500, help="How many devices.")] = 20,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where it happens; wiped at the start.")
    ] = Path(".demo"),
    as_json: JsonOption = False,
) -> None:
    """Update simulated devices with a signed image, here and now. Exit code 0 only if every device confirmed."""
    session = Session.of(context, as_json=as_json)
    signal.signal(signal.SIGTERM, _end)
    place = Place.made(directory, image)
    report: dict[str, Any] | None = None
    with _daemon(place) as client:
        try:
            broker = _wait_ready(client, place)
            session.output.say(f"bridge with embedded broker at {broker}, data in {place.directory}")
            release = _publish(client, place)
            session.output.say(f"release {release['id']} published: {_part(release)}")
            rollout = client.call("rollout.start", {"release": release["id"]})
            session.output.say(f"rollout {rollout['id']} to all; starting {count} devices")
            report = _simulate(session, place, broker, count)
            status = client.call("rollout.status", {"rollout": rollout["id"]})
        except OperatorError:
            _explain(session, client, place, [])
            raise
        failed = [row["device"] for row in report["devices"] if row["result"] != "confirmed"]
        is_good = not failed and status["confirmed"] == count == len(report["devices"])
        if as_json:
            session.output.json({"ok": is_good, "rollout": status, "devices": report["devices"]})
        else:
            print_report(session.output, report["devices"])
            session.output.say(f"{status['confirmed']} of {count} devices run {release['id']}")
        if not is_good:
            _explain(session, client, place, failed)
    raise typer.Exit(0 if is_good else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The directory of one demo. The socket is elsewhere: its path must be short."""

    directory: Path
    image: Path
    socket: Path

    @classmethod
    def made(cls, directory: Path, image: Path | None) -> "Place":
        """Wipe and fill the directory; refuses one that is not a demo's."""
        if image is not None:
            _check_image(image)
        directory = directory.resolve()
        if directory.exists() and not (directory / _MARKER).exists() and any(directory.iterdir()):
            raise Conflict(f"{directory} is not empty and no demo made it; name another with --dir")
        shutil.rmtree(directory, ignore_errors=True)
        try:
            directory.mkdir(parents=True)
            (directory / _MARKER).touch()
            if image is None:
                image = directory / "image.bin"
                image.write_bytes(made_up_image(IMAGE_BYTES))
        except OSError as error:
            raise InvalidInput(f"{directory} cannot be used: {error.strerror}") from error
        socket = Path(tempfile.mkdtemp(prefix="ota-demo-")) / "socket"
        return cls(directory=directory, image=image.resolve(), socket=socket)

    @property
    def trust(self) -> Path:
        """The trust document, for the daemon and the devices."""
        return self.directory / "ota-trust.json"

    @property
    def online(self) -> Path:
        """The daemon's key for tickets."""
        return self.directory / "ota-online.pem"

    @property
    def log(self) -> Path:
        """What the daemon wrote."""
        return self.directory / "daemon.log"


def _check_image(path: Path) -> None:
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file with an image")
    if path.stat().st_size == 0:
        raise InvalidInput(f"{path} is empty")


def made_up_image(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes that look like firmware to a compressor: the same ones each time, with repetitions."""
    source = random.Random(seed)  # noqa: S311 - not a secret
    words = [source.randbytes(source.choice((2, 4, 8, 16))) for _ in range(2000)]
    image = bytearray()
    while len(image) < size_bytes:
        image += source.choice(words) if source.random() < 0.9 else source.randbytes(8)  # noqa: PLR2004
    return bytes(image[:size_bytes])


@contextmanager
def _daemon(place: Place) -> Iterator[LocalClient]:
    settings = {
        "data_dir": place.directory / "data",
        "local.socket": place.socket,
        "embedded.port": 0,
        "security.trust": place.trust,
        "security.online_key": place.online,
    }
    config = place.directory / "ota-bridge.toml"
    config.write_text("".join(f"{name} = {json.dumps(_plain(value))}\n" for name, value in settings.items()))
    _make_keys(place)
    with place.log.open("wb") as log:
        command = [sys.executable, "-m", "ota_bridge", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=_clean_environment())  # noqa: S603
    try:
        yield LocalClient(place.socket)
    finally:
        _ended(process)
        shutil.rmtree(place.socket.parent, ignore_errors=True)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _make_keys(place: Place) -> None:
    author, online = SigningKey.generate(), SigningKey.generate()
    author.save(place.directory / "ota-author.pem")
    online.save(place.online)
    Trust(vendor="example.com", authors=(author.public,), online=(online.public,)).save(place.trust)


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def _wait_ready(client: LocalClient, place: Place) -> str:
    """The broker's URL, once both links are up."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        with suppress(DaemonNotRunning):
            status = client.call("bridge.status", {})
            if status["control"] == status["blocks"] == "up":
                return str(status["broker"])
        time.sleep(_POLL_S)
    raise OperatorError(f"the daemon did not start within {_START_S:.0f} s; its log is {place.log}")


def _publish(client: LocalClient, place: Place) -> dict[str, Any]:
    signed = sign_file(
        place.image,
        keys=[load_key(place.directory / "ota-author.pem").key],
        vendor_domain="example.com",
        product=PRODUCT,
        hw=[HW],
        version=NEW_VERSION,
        seq=1,
    )
    args = {
        "envelope": base64.b64encode(signed.envelope).decode("ascii"),
        "product": PRODUCT,
        "version": NEW_VERSION,
        "hw": [HW],
        "file_name": place.image.name,
    }
    with place.image.open("rb") as source:
        result: dict[str, Any] = client.call("release.add", args, upload=(source, signed.facts.size_bytes))
    return result


def _part(release: Mapping[str, Any]) -> str:
    part = release["parts"]["firmware"]
    return f"{part['file_name']}, {part['size_bytes']:,} bytes, signed, sha256 {part['sha256'][:16]}"


def _simulate(session: Session, place: Place, broker: str, count: int) -> dict[str, Any]:
    size_bytes = place.image.stat().st_size
    slot_kib = max(_SLOT_MIN_KIB, -(-size_bytes // (_SLOT_STEP_KIB * 1024)) * _SLOT_STEP_KIB)
    timeout_s = 45 + size_bytes * count // _SLOWEST_BYTES_PER_S
    options = {
        "--broker": broker,
        "--count": count,
        "--product": PRODUCT,
        "--hw": HW,
        "--version": OLD_VERSION,
        "--until": NEW_VERSION,
        "--trust": place.trust,
        "--slot-kib": slot_kib,
        "--timeout-s": timeout_s,
        "--pace": max(_PACE_MIN_BYTES_PER_S, size_bytes // _SHOWN_S),
    }
    command = [sys.executable, "-m", "device_sim", "run", "--json"]
    command += [str(word) for pair in options.items() for word in pair]
    with (place.directory / "device-sim.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=log, env=_clean_environment(), text=True
        )
    try:
        assert process.stdout is not None
        with DemoView(session.output, count) as view:
            report = _followed(process.stdout, view)
    finally:
        _ended(process)
    if report is None:
        raise OperatorError(f"the simulator ended without a report; see {place.directory / 'device-sim.log'}")
    return report


def _followed(lines: IO[str], view: DemoView) -> dict[str, Any] | None:
    """The report at the end. Reading does not wait for drawing: a full pipe would hold up the simulator."""
    waiting: Queue[str] = Queue(_LINES_WAITING_MAX)

    def read() -> None:
        with suppress(ValueError):  # closed under us at the end
            for text in lines:
                waiting.put(text)
        waiting.put("")

    Thread(target=read, name="simulator-lines", daemon=True).start()
    while text := waiting.get():
        line = json.loads(text)
        if line.get("type") == "report":
            return dict(line)
        if "device" in line:
            view.update(line)
    return None


def _ended(process: subprocess.Popen[Any]) -> None:
    """Ask it to end, and see that it does."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _explain(session: Session, client: LocalClient, place: Place, failed: Sequence[str]) -> None:
    """What is known about a failure: a sentence per device, and the end of the log."""
    for name in failed[:_WHY_MAX]:
        with suppress(OperatorError):
            session.output.note(client.call("why", {"device": f"{PRODUCT}/{name}"})["sentence"])
    tail = place.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    session.output.note("\n".join([f"the end of {place.log}:", *tail]))


def _end(*_: object) -> NoReturn:
    raise SystemExit(1)
