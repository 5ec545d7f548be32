"""The embedded broker: amqtt inside the daemon, for demos and small sites, with `$ota/...` carried unchanged.

There is no authentication: whoever reaches the port may publish anything, so it listens on loopback unless told
otherwise. MQTT 3.1.1 only, nothing is kept over a restart. `embedded_amqtt.py` holds what is changed in amqtt.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt.embedded_amqtt import EmbeddedCounters, RootBroker

_logger = logging.getLogger("ota_bridge.mqtt.embedded")


class EmbeddedBroker:
    """`await start()`, then clients connect to `port`; `await stop()` within a second."""

    def __init__(
        self, *, root: str = "$ota", roots: Sequence[str] = (), max_connections: int = 2_000,
        max_buffered_bytes: int = 8 << 20,
    ) -> None:  # fmt: skip
        """`root` and `roots`: first levels of topics that begin with `$` and are carried all the same."""
        self.counters = EmbeddedCounters()
        self._prefixes = tuple(f"{one}/" for one in (root, *roots))
        self._max_connections = max_connections
        self._max_buffered_bytes = max_buffered_bytes
        self._broker: RootBroker | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before `start`."""
        return self._port

    async def start(self, host: str = "127.0.0.1", port: int = 1883) -> None:
        """Listen; port 0 takes a free one. Raises BrokerError."""
        for name in ("amqtt", "transitions"):
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger("amqtt.broker").addFilter(_is_news)
        listener = await _listen(host, port)
        self._port = listener.getsockname()[1]
        self._broker = RootBroker(
            self.counters, listener, self._prefixes, self._max_connections, self._max_buffered_bytes
        )
        await self._broker.start()
        _logger.warning("embedded broker on %s port %d: for demos and small sites", host, self._port)
        if not _is_loopback(host):
            _logger.warning("embedded broker on %s: anybody who reaches it may publish and subscribe", host)

    async def stop(self) -> None:
        """Let buffers drain for a moment, then cut every connection."""
        broker, self._broker = self._broker, None
        self._port = 0
        if broker is not None:
            await broker.stop()


async def _listen(host: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise BrokerError(f"the embedded broker cannot listen on {host} port {port}: {reason}") from error


def _is_news(record: logging.LogRecord) -> bool:
    """Not what amqtt calls an error: a connection that ends before CONNECT, as each probe of the port does."""
    return "No data" not in record.getMessage()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
