"""What the two links to the broker have in common: how a connection is opened, and how it is seen to be alive."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt.tls import tls_context
from ota_bridge.wire import BrokerAddress

CONNECT_TIMEOUT_S: Final = 10.0


async def open_connection(protocol: Callable[[], asyncio.Protocol], address: BrokerAddress) -> None:
    """TCP, and TLS where the address says so. Raises BrokerError, and ConfigError for TLS files at fault."""
    # Made anew each time, so that a renewed certificate is used without a restart.
    context = await asyncio.to_thread(tls_context, address.tls) if address.tls else None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().create_connection(protocol, address.host, address.port, ssl=context)
    except TimeoutError:
        raise BrokerError(f"no connection to {address} within {CONNECT_TIMEOUT_S:.0f} s") from None
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
        raise BrokerError(f"cannot connect to {address}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the system says, without the call that asyncio names."""
    return os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else str(error)


class KeepAlive:
    """When to ping, and when to give a connection up: sans I/O, all times in monotonic seconds.

    Set `heard_s` when something comes (and `pinged_s` to None), `sent_s` when something is sent, and `look` a few times
    per keep-alive.
    """

    __slots__ = ("_progress_s", "_unsent_bytes", "heard_s", "keepalive_s", "pinged_s", "sent_s")

    def __init__(self, keepalive_s: float, now_s: float) -> None:
        self.keepalive_s = keepalive_s
        self.heard_s = self.sent_s = self._progress_s = now_s
        self.pinged_s: float | None = None
        self._unsent_bytes = 0

    def progressed(self, now_s: float) -> None:
        """The broker took something, or there was nothing to take."""
        self._progress_s = now_s

    def look(self, now_s: float, unsent_bytes: int, *, may_ping: bool) -> bool:
        """Whether to send a ping now; raises BrokerError where the broker is silent or takes nothing."""
        if not unsent_bytes or unsent_bytes != self._unsent_bytes:
            self._progress_s, self._unsent_bytes = now_s, unsent_bytes
        if now_s - self._progress_s >= 1.5 * self.keepalive_s:
            raise BrokerError(f"the broker has taken nothing for {now_s - self._progress_s:.0f} s")
        if not may_ping:
            return False
        if self.pinged_s is None:
            if now_s - min(self.heard_s, self.sent_s) < self.keepalive_s / 2:
                return False
            self.pinged_s = now_s
            return True
        # A ping must have had its time: after a stall of this process the silence is ours.
        if now_s - self.heard_s >= 1.5 * self.keepalive_s and now_s - self.pinged_s >= self.keepalive_s / 2:
            raise BrokerError(f"the broker has been silent for {now_s - self.heard_s:.0f} s")
        return False
