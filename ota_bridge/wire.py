"""Plain data that crosses the MQTT edge: a message, a subscription, the address of a broker.

Nothing here knows what a payload means; `dialect.py` does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ota_bridge.core.errors import ConfigError

_SHOWN: Final = 80
_HIDDEN_USER: Final = re.compile(r"^([A-Za-z0-9+.-]*://)?.*@", re.DOTALL)
"""User and password of a URL, also of one that is not quite one: errors never quote them."""
_PLAIN_URL: Final = re.compile(r"[A-Za-z0-9._~:/\[\]%-]+")
BASE_URL_MAX: Final = 150
"""With the path and the code of a link it has at most 200 characters: devices keep URLs in small buffers."""


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


def matches(topic_filter: str, topic: str) -> bool:
    """True if a topic filter takes in a topic (MQTT 3.1.1 §4.7); a wildcard first takes no topic that begins with $."""
    return matches_levels(topic_filter.split("/"), topic.split("/"))


def matches_levels(wanted: Sequence[str], levels: Sequence[str]) -> bool:
    """The same where both were split at their slashes."""
    if levels[0][:1] == "$" and wanted[0] in {"+", "#"}:
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in {"+", levels[index]}:
            return False
    return len(levels) == len(wanted)


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
    shown = repr(_HIDDEN_USER.sub(r"\1***@", url)[:_SHOWN])
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its sentence may quote the password
        raise ConfigError(f"broker URL {shown}: host or port cannot be used; the port is 1..65535") from None
    if parts.scheme not in {"mqtt", "mqtts"}:
        raise ConfigError(f"broker URL {shown}: the scheme must be mqtt:// or mqtts://")
    if not parts.hostname or not parts.hostname.isprintable():
        raise ConfigError(f"broker URL {shown}: no host")
    if port == 0:
        raise ConfigError(f"broker URL {shown}: the port is 1..65535")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"broker URL {shown}: nothing may follow the port")
    secure = parts.scheme == "mqtts"
    return BrokerAddress(
        host=parts.hostname,
        port=port or (8883 if secure else 1883),
        tls=(tls or TlsFiles()) if secure else None,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


def check_base_url(url: str) -> None:
    """Raise ConfigError unless `url` is one that the path of a link can follow: `http(s)://host[:port][/path]`."""
    shown = repr(url[:_SHOWN])
    if len(url) > BASE_URL_MAX or not _PLAIN_URL.fullmatch(url):
        raise ConfigError(f"URL {shown}: at most {BASE_URL_MAX} letters, digits and -._~:/[]%")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(f"URL {shown}: host or port cannot be used; the port is 1..65535") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ConfigError(f"URL {shown}: write http:// or https://, a host, and a port where there is one")
