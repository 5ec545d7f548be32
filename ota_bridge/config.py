"""Configuration: what can be set, where values come from, and what is wrong with one that cannot be used.

1. One table. A setting is a field of a record below: its type, default, bounds and one line of documentation.
   The reader, the environment names, the flags, `config show` and the table in the docs are derived from it.
2. Precedence, highest first: flag, environment, TOML file, default. `Config.provenance` says which one won.
3. The file is `--config`, else $OTA_BRIDGE_CONFIG, else ./ota-bridge.toml, else
   /etc/ota-bridge/ota-bridge.toml; only the last two may be missing.
4. A relative path in the file is relative to the file, one in a flag or the environment to the working
   directory.
5. Unknown names and wrong values are ConfigError, with their origin and what is allowed. Nothing is guessed.
"""

import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ota_bridge.core.errors import ConfigError
from ota_bridge.core.fleet import Enrol
from ota_bridge.settings import ENV_PREFIX, Setting, nearest, option, quoted, settings_of
from ota_bridge.wire import BrokerAddress, TlsFiles, check_base_url, parse_broker_url

# ruff: noqa: RUF009 - option() is dataclasses.field()

FILE_NAME: Final = "ota-bridge.toml"
SYSTEM_FILE: Final = Path("/etc/ota-bridge") / FILE_NAME
FILE_ENV: Final = "OTA_BRIDGE_CONFIG"
TOKEN_ENV: Final = "OTA_BRIDGE_TOKEN"  # noqa: S105 - the name of a variable
"""No setting, so that neither a file nor `config show` ever holds it."""

_FOREIGN_ENV: Final = ("OTA_BRIDGE_SERVICE_", "OTA_BRIDGE_PORT")
"""Kubernetes sets these in every container beside a service called ota-bridge."""
_SOCKET_PATH_MAX_BYTES: Final = 107
_DAY_S: Final = 86_400
_DIALECTS: Final = "dialects"


class TopicIdentity(StrEnum):
    """What the broker's access rules prove of a device's topic."""

    PRODUCT_DEVICE = "product_device"
    DEVICE = "device"


class PlaneProcess(StrEnum):
    """Where the block plane runs."""

    AUTO = "auto"
    OWN = "own"
    SHARED = "shared"


class LogLevel(StrEnum):
    """How much the daemon says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """The broker that the bridge is a client of."""

    url: str = option("", "mqtt:// or mqtts:// URL of the broker; empty starts the embedded one")
    ca: Path | None = option(None, "PEM file of the CA for mqtts://; empty means the system's trust store")
    certificate: Path | None = option(None, "PEM file of the bridge's client certificate")
    key: Path | None = option(None, "PEM file of the key of that certificate")
    username: str = option("", "user name; one in the URL is used where this is empty")
    password: str = option("", "password of that user", secret=True)
    password_file: Path | None = option(None, "file whose first line is the password")
    blocks_username: str = option("", "user name of the block link; empty means the same as the other link")
    blocks_password: str = option("", "password of blocks_username", secret=True)
    blocks_certificate: Path | None = option(
        None, "PEM file of the block link's own client certificate; empty means the same as the other link"
    )
    blocks_key: Path | None = option(None, "PEM file of the key of blocks_certificate")
    client_id_prefix: str = option("bridge", "client ids are this and -control, -blocks")
    keepalive_s: int = option(30, "MQTT keep-alive of both links, in seconds", low=5, high=600)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """The broker inside the daemon, for trials and small sites."""

    host: str = option("127.0.0.1", "address that the embedded broker listens on")
    port: int = option(1883, "TCP port of the embedded broker; 0 takes a free one", low=0, high=65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSettings:
    """Where messages travel."""

    root: str = option("$ota", "first level or levels of every topic")
    identity: TopicIdentity = option(
        TopicIdentity.PRODUCT_DEVICE, "what the broker proves: product and device, or device"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolSettings:
    """Who may appear."""

    policy: Enrol = option(Enrol.OPEN, "unknown devices: open takes them, listed refuses them, approve asks")
    per_s: float = option(100.0, "unknown devices created per second, on average", low=0.001, high=1e6)
    burst: int = option(1000, "unknown devices created at once", low=1, high=10**7)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """Limits of the control plane."""

    device_per_s: float = option(10.0, "reports taken from one device, per second", low=0.1, high=1e6)
    device_burst: int = option(100, "reports that one device may be ahead of its rate", low=10, high=10**6)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSettings:
    """Limits of the block plane."""

    block_max: int = option(16384, "largest block, in bytes", low=16, high=65536)
    window_max: int = option(16, "most blocks per request", low=1, high=256)
    refusals_per_s: float = option(2.0, "refusals sent to one device, per second", low=0.001, high=1000)
    device_blocks_per_s: float = option(1000.0, "blocks served to one device, per second", low=0.1, high=1e6)
    device_burst_blocks: int = option(1000, "blocks that one device may be ahead of its rate", low=16, high=10**6)
    slot_lease_s: float = option(
        60.0, "seconds after its last request that a device keeps its download slot", low=5, high=3600
    )
    cache_bytes: int = option(3 << 24, "memory for checked pieces of artifacts, in bytes", low=1 << 20, high=1 << 36)
    process: PlaneProcess = option(
        PlaneProcess.AUTO,
        "serve blocks in a process of their own, or shared with the rest; auto: shared beside the embedded broker",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferSettings:
    """When a device is told that an update waits."""

    resend_after_s: int = option(
        60, "seconds without a block request before an offer is sent once more", low=1, high=_DAY_S
    )
    min_interval_s: float = option(30.0, "fewest seconds between two offers to one device", low=0, high=_DAY_S)
    ticket_valid_s: int = option(_DAY_S, "seconds that a freshness ticket is valid", low=60, high=366 * _DAY_S)
    public_url: str = option(
        "", "image URL for devices that download by URL, where files.host is empty; holds {sha256}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """Images over HTTP, for devices that download by URL."""

    host: str = option("", "address on which images are served over HTTP; empty: they are not")
    port: int = option(8080, "TCP port for that; 0 takes a free one", low=0, high=65535)
    url: str = option("", "how devices reach it: http:// or https:// URL, to which links append /f/ and 46 characters")
    certificate: Path | None = option(None, "PEM file of a certificate chain: HTTPS is served instead of HTTP")
    key: Path | None = option(None, "PEM file of the key of that certificate")
    valid_s: int = option(7 * _DAY_S, "seconds for which a link holds", low=60, high=3660 * _DAY_S)
    once: bool = option(False, "a link ends a minute after its image was fetched to the end")
    connections_max: int = option(1000, "most connections at a time", low=1, high=100_000)
    wait_s: float = option(
        20.0, "seconds that a request waits for a download slot or its share, before it is closed", low=0, high=600
    )
    head_s: float = option(10.0, "seconds within which a request has to be complete", low=0.1, high=600)
    idle_s: float = option(30.0, "seconds that a connection stays open between two requests", low=0.1, high=3600)
    stall_s: float = option(60.0, "seconds in which a device takes nothing, before it is hung up on", low=1, high=3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    """How long a deployment may stay where it is."""

    stall_after_s: float = option(60.0, "seconds without a block request before a download counts as stalled", low=1)
    offered_s: float = option(7.0 * _DAY_S, "seconds in OFFERED or DEFERRED", low=0.01)
    downloading_s: float = option(float(_DAY_S), "seconds in DOWNLOADING since the last byte", low=0.01)
    installing_s: float = option(3600.0, "seconds in INSTALLING", low=0.01)
    trial_s: float = option(3600.0, "seconds in TRIAL", low=0.01)
    canceling_s: float = option(float(_DAY_S), "seconds in CANCELING", low=0.01)
    silent_after_s: float = option(
        3.0 * _DAY_S,
        "seconds without a report or a block request, past the time it announced, that make a device silent",
        low=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySettings:
    """What is kept of what is over."""

    keep_days: int = option(
        30, "days for which transitions and reports are kept; then they are compacted; 0: for ever", low=0, high=36_500
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """What follows a failed attempt."""

    max_attempts: int = option(3, "attempts per device, component and rollout", low=1, high=1000)
    backoff_s: float = option(
        60.0, "seconds before the second attempt; four times as many before each further one", low=0, high=_DAY_S
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """Keys that the daemon uses. It never holds an author's key."""

    trust: Path = option(Path("ota-trust.json"), "trust document: the public keys of authors and of the ticket key")
    online_key: Path = option(Path("ota-online.pem"), "private key that signs freshness tickets")
    allow_test_keys: bool = option(False, "accept manifests signed with the project's published test keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What the daemon writes on stderr."""

    level: LogLevel = option(LogLevel.INFO, "least severe level that is written")
    json: bool = option(False, "one JSON object per line instead of text")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """The operators' local socket."""

    socket: Path | None = option(None, "path of the socket; empty means ota-bridge.sock in data_dir")
    group: str = option("", "group whose members may open the socket; empty means the daemon's own user alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, checked. `provenance` maps `section.key` to where its value came from."""

    data_dir: Path = option(Path("ota-data"), "directory of the database, the artifacts and the lock")
    broker: BrokerSettings = BrokerSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    topics: TopicSettings = TopicSettings()
    enrol: EnrolSettings = EnrolSettings()
    reports: ReportSettings = ReportSettings()
    blocks: BlockSettings = BlockSettings()
    offers: OfferSettings = OfferSettings()
    files: FileSettings = FileSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    retries: RetrySettings = RetrySettings()
    history: HistorySettings = HistorySettings()
    security: SecuritySettings = SecuritySettings()
    log: LogSettings = LogSettings()
    local: LocalSettings = LocalSettings()
    dialects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tables `[dialects.NAME]` of the file: each sets a vendor's protocol up, and checks what stands in it."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None

    @classmethod
    def load(cls, flags: Mapping[str, str], env: Mapping[str, str], cwd: Path, *, file: Path | None = None) -> "Config":
        """Read everything; `flags` maps `section.key` to text, `file` is what `--config` named."""
        path = _find_file(file, env, cwd)
        found: dict[str, tuple[Any, str]] = {s.name: (s.default, "default") for s in SETTINGS}
        if path is not None:
            found |= _from_file(path)
        found |= _from_env(env, cwd)
        found |= {
            name: (_setting(name, f"flag {quoted(name)}").parse(text, f"flag {name}", cwd), "flag")
            for name, text in flags.items()
        }
        config = _build({name: value for name, (value, _) in found.items()}, found, path)
        config = replace(config, dialects=_dialects(path))
        _check_together(config)
        return config

    @property
    def own_trust_path(self) -> Path:
        """Where the daemon keeps the trust document with the rotations that were published to it."""
        return self.data_dir / "trust.json"

    @property
    def link_secret_path(self) -> Path:
        """Where the secret is that links are proven by."""
        return self.data_dir / "link-secret"

    @property
    def socket_path(self) -> Path:
        """Where the operators' local socket is."""
        return self.local.socket or self.data_dir / "ota-bridge.sock"

    def value(self, name: str) -> Any:
        """The value of `section.key`."""
        section, dot, key = name.rpartition(".")
        return getattr(getattr(self, section) if dot else self, key)

    def shown(self, name: str) -> str:
        """The value of `section.key` as text, with secrets hidden."""
        return _setting(name, "configuration").shown(self.value(name))

    def broker_address(self) -> BrokerAddress | None:
        """Who the control link is to which broker; None for the embedded one. Reads `password_file`."""
        if not self.broker.url:
            return None
        broker = self.broker
        tls = TlsFiles(ca=broker.ca, certificate=broker.certificate, key=broker.key)
        address = parse_broker_url(broker.url, tls=tls)
        password = broker.password or _first_line(broker.password_file) or address.password
        return BrokerAddress(
            host=address.host,
            port=address.port,
            tls=address.tls,
            username=broker.username or address.username,
            password=password,
        )

    def blocks_address(self) -> BrokerAddress | None:
        """The same for the block link, which may have a user and a certificate of its own."""
        address, broker = self.broker_address(), self.broker
        if address is None:
            return None
        if broker.blocks_username:
            address = replace(address, username=broker.blocks_username, password=broker.blocks_password or None)
        if address.tls is not None and broker.blocks_certificate is not None:
            own = replace(address.tls, certificate=broker.blocks_certificate, key=broker.blocks_key)
            address = replace(address, tls=own)
        return address


def _all_records() -> Iterator[tuple[str, type[Any]]]:
    yield "", Config
    for name, hint in typing.get_type_hints(Config).items():
        if isinstance(hint, type) and hint.__name__.endswith("Settings"):
            yield f"{name}.", hint


_RECORDS: Final = tuple(_all_records())

SETTINGS: Final[Sequence[Setting]] = tuple(
    setting for prefix, record in _RECORDS for setting in settings_of(record, prefix)
)
"""The table of rule 1, in the order in which it is shown."""

_BY_NAME: Final[Mapping[str, Setting]] = {setting.name: setting for setting in SETTINGS}
_BY_ENV: Final[Mapping[str, Setting]] = {setting.env_name: setting for setting in SETTINGS}
_SECTIONS: Final = tuple(prefix.rstrip(".") for prefix, _ in _RECORDS if prefix)


def _setting(name: str, origin: str) -> Setting:
    if name in _BY_NAME:
        return _BY_NAME[name]
    raise ConfigError(f"{origin}: {name[:60]!r} is not a setting{nearest(name, list(_BY_NAME))}")


def _find_file(file: Path | None, env: Mapping[str, str], cwd: Path) -> Path | None:
    for named, origin in ((file, "--config"), (env.get(FILE_ENV) or None, FILE_ENV)):
        if named is not None:
            path = cwd / named
            if not path.is_file():
                raise ConfigError(f"{origin}: there is no file {path}")
            return path
    return next((path for path in (cwd / FILE_NAME, SYSTEM_FILE) if path.is_file()), None)


def _from_file(path: Path) -> dict[str, tuple[Any, str]]:
    origin = f"file {path}"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # what is not TOML or not UTF-8, and numbers of thousands of digits
        raise ConfigError(f"{origin}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{origin}: not valid TOML: nested too deep") from None
    except OSError as error:
        raise ConfigError(f"{origin}: {error.strerror}") from error
    found: dict[str, tuple[Any, str]] = {}
    for name, raw in _flat(document, origin):
        setting = _setting(name, origin)
        found[name] = (setting.parse(raw, origin, path.parent, typed=True), origin)
    return found


def _dialects(path: Path | None) -> Mapping[str, Mapping[str, Any]]:
    """The tables of the file that only their dialects can check."""
    if path is None:
        return {}
    tables = tomllib.loads(path.read_text(encoding="utf-8")).get(_DIALECTS, {})
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"file {path}: dialects.{name[:40]}: write [dialects.{name[:40]}] and its keys below")
    return tables  # type: ignore[no-any-return]  # TOML gives no types


def _flat(document: Mapping[str, Any], origin: str) -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        if key == _DIALECTS and isinstance(value, dict):
            continue
        if key in _SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{origin}: {key} is a section; write [{key}] and its keys below")
            yield from ((f"{key}.{inner}", raw) for inner, raw in value.items())
        elif isinstance(value, dict) and key not in _BY_NAME:
            raise ConfigError(f"{origin}: [{quoted(key)}] is not a section{nearest(key, _SECTIONS)}")
        else:
            yield key, value


def _from_env(env: Mapping[str, str], cwd: Path) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for name, text in env.items():
        if not name.startswith(ENV_PREFIX) or name in {FILE_ENV, TOKEN_ENV}:
            continue
        if name not in _BY_ENV:
            if name.startswith(_FOREIGN_ENV):
                continue
            near = nearest(name, [*_BY_ENV, FILE_ENV])
            raise ConfigError(f"environment: {quoted(name)} is not a setting{near}")
        setting = _BY_ENV[name]
        found[setting.name] = (setting.parse(text, f"environment {name}", cwd), f"environment {name}")
    return found


def _build(values: Mapping[str, Any], found: Mapping[str, tuple[Any, str]], file: Path | None) -> Config:
    sections = {
        prefix[:-1]: record(**{item.name: values[prefix + item.name] for item in fields(record)})
        for prefix, record in _RECORDS
        if prefix
    }
    provenance = {name: origin for name, (_, origin) in found.items()}
    return Config(data_dir=values["data_dir"], provenance=provenance, file=file, **sections)


def _first_line(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r") or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"broker.password_file {path} cannot be read: {reason}") from error


def _check_together(config: Config) -> None:
    """What one setting alone cannot know; each sentence starts with where the value came from."""

    def refuse(name: str, sentence: str) -> None:
        raise ConfigError(f"{config.provenance[name]}: {name} {sentence}")

    root = config.topics.root
    if not root or root.startswith("/") or root.endswith("/") or "//" in root or not root.isprintable():
        refuse("topics.root", f"{root[:60]!r}: one or more topic levels, no slash at either end")
    if set(root) & set("+#"):
        refuse("topics.root", f"{root[:60]!r}: no wildcards (+ and #) in a topic root")
    if config.broker.url:
        try:
            parse_broker_url(config.broker.url)
        except ConfigError as error:
            refuse("broker.url", f"cannot be used: {error}")
    for own in ("", "blocks_"):
        pair = {name: getattr(config.broker, name) for name in (f"{own}certificate", f"{own}key")}
        given = [name for name, path in pair.items() if path is not None]
        if len(given) == 1:
            refuse(
                f"broker.{given[0]}", f"is given alone: {' and '.join(f'broker.{name}' for name in pair)} go together"
            )
    if not config.broker.url.startswith("mqtts:"):
        for name in ("ca", "certificate", "blocks_certificate"):
            if getattr(config.broker, name) is not None:
                refuse(f"broker.{name}", "needs a broker.url that begins with mqtts://")
    if config.broker.password and config.broker.password_file is not None:
        refuse("broker.password", "and broker.password_file are both given; keep one")
    if config.broker.blocks_password and not config.broker.blocks_username:
        refuse("broker.blocks_password", "needs broker.blocks_username")
    if config.offers.public_url and "{sha256}" not in config.offers.public_url:
        refuse("offers.public_url", f"{config.offers.public_url[:60]!r}: must hold {{sha256}}")
    files = config.files
    if bool(files.host) != bool(files.url):
        name, other = ("host", "url") if files.host else ("url", "host")
        refuse(f"files.{name}", f"needs files.{other}, too: one is where images are served, one how devices get there")
    if files.url:
        try:
            check_base_url(files.url)
        except ConfigError as error:
            refuse("files.url", f"cannot be used: {error}")
    if (files.certificate is None) != (files.key is None):
        refuse(f"files.{'key' if files.certificate is None else 'certificate'}", "needs the other of the two, too")
    if len(bytes(config.socket_path)) > _SOCKET_PATH_MAX_BYTES:
        name = "local.socket" if config.local.socket else "data_dir"
        refuse(
            name,
            f"makes the socket path {quoted(str(config.socket_path), _SOCKET_PATH_MAX_BYTES)} too long: "
            f"at most {_SOCKET_PATH_MAX_BYTES} bytes",
        )
