"""A listener for people: subscribes to topic filters and yields what comes, as any other client would.

It is not part of the bridge: no session is kept, QoS 0, and it may miss messages while it reconnects.
"""

import logging
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Final

import aiomqtt

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt.tls import tls_context
from ota_bridge.wire import BrokerAddress, MqttMessage

_QUEUED_MAX: Final = 10_000
"""Messages that wait to be printed; the newest are dropped beyond."""
_CONNECT_S: Final = 10.0

_client_log = logging.getLogger(f"{__name__}.client")
_client_log.addHandler(logging.NullHandler())
_client_log.propagate = False  # what the library has to say is said again by the error that it raises


def open_client(address: BrokerAddress, *, role: str, timeout_s: float = _CONNECT_S) -> aiomqtt.Client:
    """An MQTT 3.1.1 client with a random id and a clean session; raises ConfigError for TLS files it cannot use."""
    return aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password,
        identifier=f"ota-{role}-{secrets.token_hex(4)}",
        protocol=aiomqtt.ProtocolVersion.V311,
        clean_session=True,
        timeout=timeout_s,
        keepalive=30,
        max_queued_incoming_messages=_QUEUED_MAX,
        tls_context=None if address.tls is None else tls_context(address.tls),
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        logger=_client_log,
    )


async def listen(address: BrokerAddress, topic_filters: Sequence[str]) -> AsyncIterator[MqttMessage]:
    """Messages until the connection ends; raises BrokerError when it cannot be made or breaks."""
    try:
        async with open_client(address, role="tail") as client:
            for topic_filter in topic_filters:
                await client.subscribe(topic_filter, qos=0)
            async for message in client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                yield MqttMessage(
                    topic=str(message.topic), payload=payload, qos=message.qos, retain=bool(message.retain)
                )
    except aiomqtt.MqttError as error:
        raise BrokerError(f"{address}: {error}") from error
