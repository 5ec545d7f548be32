"""What one run of the simulator was asked for, checked where it is built: a bad value says which and why."""

import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from device_sim.chip import SECTOR_BYTES
from device_sim.errors import OptionError
from device_sim.model import DEFAULT_SLOT_BYTES, DEFAULT_STALE_AFTER_S, Fault, Level
from device_sim.wire import Encoding

MAX_DEVICES: Final = 10_000
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
HW: Final = re.compile(r"[A-Za-z0-9._+:-]{1,32}")
VERSION: Final = re.compile(r"[A-Za-z0-9._+~:-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """Where the broker is and as whom to log in."""

    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `mqtt[s]://[user[:password]@]host[:port]`."""
        shown = repr(url.rpartition("@")[2][:80])  # without user and password
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise OptionError(f"the broker URL {shown} cannot be used: its host or its port is none") from None
        if port == 0:
            raise OptionError(f"the broker URL {shown} cannot be used: ports are 1 to 65535")
        if parts.scheme not in PORTS or not parts.hostname or not parts.hostname.isprintable():
            raise OptionError(f"the broker URL {shown} is not mqtt://host[:port] or mqtts://host[:port]")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise OptionError(f"the broker URL {shown} ends in something that is not a port")
        return cls(
            host=parts.hostname,
            port=port or PORTS[parts.scheme],
            tls=parts.scheme == "mqtts",
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """One run. `state` None keeps the flash files in a directory that goes away with the run."""

    broker: BrokerUrl
    trust: Path
    count: int = 1
    product: str = "demo"
    hw: str = "r1"
    name_prefix: str = "dev-"
    version: str = "1.0.0"
    until: str = ""
    root: str = "$ota"
    block_bytes: int = 1024
    window: int = 4
    max_packet: int = 20_000
    loss: float = 0.0
    dup: float = 0.0
    seed: int = 1
    pace_bps: int = 0
    telemetry_hz: float = 1.0
    telemetry_topic: str = "telemetry/{product}/{device}"
    command_topic: str = "command/{product}/{device}"
    response_topic: str = "response/{product}/{device}"
    awake_s: float = 0.0
    asleep_s: float = 0.0
    state: Path | None = None
    encoding: Encoding = "msgpack"
    level: Level = "L1"
    fault: str = "none"
    fault_count: int | None = None
    watchdog_s: float = 120.0
    check_in_every_s: float = 30.0
    stale_after_s: float = DEFAULT_STALE_AFTER_S
    slot_bytes: int = DEFAULT_SLOT_BYTES
    timeout_s: float = 600.0
    connect_timeout_s: float = 30.0
    stay: bool = False
    username_from_id: bool = False
    password: str | None = None
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None

    def __post_init__(self) -> None:
        self._names()
        _within("--count", self.count, 1, MAX_DEVICES)
        _within("--block", self.block_bytes, 1, 1 << 20)
        _within("--window", self.window, 1, 256)
        _within("--loss", self.loss, 0.0, 0.9)
        _within("--dup", self.dup, 0.0, 1.0)
        _within("--pace", self.pace_bps, 0, 1 << 40)
        _within("--max-packet", self.max_packet, 256, 1 << 28)
        _within("--telemetry-hz", self.telemetry_hz, 0.0, 100.0)
        _within("--timeout-s", self.timeout_s, 0.1, 1e9)
        _within("--connect-timeout-s", self.connect_timeout_s, 0.1, 1e9)
        _within("--watchdog-s", self.watchdog_s, 0.1, 1e9)
        _within("--check-in-every-s", self.check_in_every_s, 0.1, 1e9)
        _within("--stale-after-s", self.stale_after_s, 0.1, 1e9)
        _within("--fault-count", self.fault_count or 0, 0, MAX_DEVICES)
        _within("--slot-kib", self.slot_bytes // 1024, 64, 1 << 20)
        if self.slot_bytes % (16 * SECTOR_BYTES):
            raise OptionError("--slot-kib must be a multiple of 64")
        if (self.certfile is None) != (self.keyfile is None):
            raise OptionError("--certfile and --keyfile go together")
        if not self.broker.tls and (self.cafile or self.certfile):
            raise OptionError("--cafile and --certfile need a broker URL that begins with mqtts://")
        Fault.parse(self.fault)

    def _names(self) -> None:
        for option, pattern, value in (
            ("--product", NAME, self.product),
            ("--name-prefix", NAME, self.device_name(self.count)),
            ("--hw", HW, self.hw),
            ("--version", VERSION, self.version),
            ("--until", VERSION, self.until or "-"),
        ):
            if not pattern.fullmatch(value):
                raise OptionError(f"{option}: {value[:80]!r} does not match {pattern.pattern}")
        if not self.root or set(self.root) & set("+#\0") or self.root.endswith("/"):
            raise OptionError(f"--root: {self.root!r} is no topic to put others under")

    def device_name(self, index: int) -> str:
        """The name of the device of this number, from 1."""
        return f"{self.name_prefix}{index:04d}"

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS settings, made once for all devices."""
        if not self.broker.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cafile)
            if self.certfile is not None:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            raise OptionError(f"the TLS files cannot be used: {error}") from None
        return context


def parse_sleep_pattern(text: str) -> tuple[float, float]:
    """`AWAKE_S/ASLEEP_S`, or the empty text for always awake."""
    if not text:
        return 0.0, 0.0
    awake, slash, asleep = text.partition("/")
    try:
        pattern = float(awake), float(asleep)
    except ValueError:
        pattern = -1.0, -1.0
    if not slash or not all(0 < seconds < 1e6 for seconds in pattern):  # noqa: PLR2004  about eleven days
        raise OptionError(f"--sleep-pattern: {text[:40]!r} is not seconds awake / seconds asleep, such as 10/50")
    return pattern


def _within(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise OptionError(f"{option}: {value} is not from {low} to {high}")
