"""Plain data that crosses the MQTT edge: a message, a subscription, the address of a broker.

Nothing here knows what a payload means; `dialect.py` does.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ota_bridge.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttMessage:
    """One PUBLISH: topic, payload, quality of service 0..1, retain flag (MQTT 3.1.1 §3.3)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A topic filter and the quality of service asked for it (MQTT 3.1.1 §3.8)."""

    topic_filter: str
    qos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files for `mqtts://`: `ca` None means the system's trust store; certificate and key go together."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker listens and who we are to it."""

    host: str
    port: int
    tls: TlsFiles | None = None
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """The URL without the password."""
        scheme = "mqtts" if self.tls else "mqtt"
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.username}@" if self.username else ""
        return f"{scheme}://{user}{host}:{self.port}"


def parse_broker_url(url: str, *, tls: TlsFiles | None = None) -> BrokerAddress:
    """Read `mqtt://[user[:password]@]host[:port]` or `mqtts://…`; raises ConfigError that names the fault.

    `tls` holds the files for `mqtts://` and is ignored for `mqtt://`. User and password may be %-escaped.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"broker URL {url!r}: {error}") from error
    if parts.scheme not in {"mqtt", "mqtts"}:
        raise ConfigError(f"broker URL {url!r}: the scheme must be mqtt:// or mqtts://")
    if not parts.hostname:
        raise ConfigError(f"broker URL {url!r}: no host")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"broker URL {url!r}: nothing may follow the port")
    secure = parts.scheme == "mqtts"
    return BrokerAddress(
        host=parts.hostname,
        port=port or (8883 if secure else 1883),
        tls=(tls or TlsFiles()) if secure else None,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
