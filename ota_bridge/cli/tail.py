"""`tail`: what travels, decoded, one line per message; `events`: what the daemon tells operators."""

import asyncio
import json
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.config import Config
from ota_bridge.core.errors import BrokerError, Malformed, NotFound, OperatorError
from ota_bridge.core.values import DeviceId
from ota_bridge.decode import MapKeys, read_json, read_msgpack
from ota_bridge.mqtt.listen import listen
from ota_bridge.web.local_client import DaemonNotRunning
from ota_bridge.wire import BrokerAddress, MqttMessage, parse_broker_url

SHOWN_BYTES: Final = 8
"""How much of a binary value is shown."""

_DECODED_MAX_BYTES: Final = 1 << 20
_DEVICE_TOPICS: Final = ("report", "update", "get", "block", "event")
_RETRY_S: Final = 1.0

_Device = Annotated[
    str | None, typer.Argument(metavar="[DEVICE]", help="PRODUCT/NAME or NAME; all where none is named.")
]


def tail(
    context: typer.Context,
    device: _Device = None,
    blocks: Annotated[bool, typer.Option(help="Show block requests and blocks.")] = True,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many messages.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the traffic of one device or of all, msgpack as text, binary values in short hex, until Ctrl-C."""
    session = Session.of(context, as_json=as_json)
    address = broker_of(session)
    filters = topic_filters(session.config.topics.root, wanted(session, device), blocks=blocks)
    try:
        asyncio.run(_follow(session, address, filters, count))
    except KeyboardInterrupt:
        return


def events(
    context: typer.Context,
    device: _Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="What it prints is JSON in any case.")] = False,
) -> None:
    """Show reports and state changes as JSON lines, as the daemon tells them, until Ctrl-C."""
    del as_json
    session = Session.of(context, as_json=True)
    named = wanted(session, device)
    try:
        for event in session.stream("events", {"device": named}):
            line = event.get("line")
            typer.echo(escaped(line)) if isinstance(line, str) else session.output.json(event)
    except KeyboardInterrupt:
        return


async def _follow(session: Session, address: BrokerAddress, filters: list[str], count: int | None) -> None:
    left = count
    while True:
        try:
            async for message in listen(address, filters):
                _show(session, message)
                left = None if left is None else left - 1
                if left == 0:
                    return
        except BrokerError as error:
            session.output.note(f"{error}; trying again")
        await asyncio.sleep(_RETRY_S)


def _show(session: Session, message: MqttMessage) -> None:
    now = datetime.now().astimezone()
    if session.as_json:
        document = {"time": now.isoformat(timespec="milliseconds"), "topic": message.topic, "qos": message.qos}
        session.output.json({**document, "retain": message.retain, "payload": readable(message.payload)})
    else:
        kept = " (retained)" if message.retain else ""
        session.output.say(f"{now:%H:%M:%S.%f}"[:12] + f"  {message.topic}{kept}  {as_text(message.payload)}")


def wanted(session: Session, device: str | None) -> str | None:
    """The whole name of the device that is meant; one that has not appeared yet may be waited for under it."""
    if device is None:
        return None
    try:
        return str(session.read("device.show", {"device": device}).result["id"])
    except DaemonNotRunning:
        return device
    except NotFound:
        if "/" not in device:
            raise
        session.output.note(f"{DeviceId.parse(device)} is not known yet; what comes is shown")
        return device


def topic_filters(root: str, device: str | None, *, blocks: bool = True) -> list[str]:
    """What to subscribe to."""
    planes = [name for name in _DEVICE_TOPICS if blocks or name not in {"get", "block"}]
    if device is None:
        return [f"{root}/#"] if blocks else [*(f"{root}/{name}/#" for name in planes), f"{root}/state/#"]
    product, _, name = device.rpartition("/")
    DeviceId(product or name, name)  # only for its checks: no wildcard gets into a filter
    return [f"{root}/{plane}/{product or '+'}/{name}" for plane in planes]


def broker_of(session: Session) -> BrokerAddress:
    """The broker of the running daemon where there is one (the embedded one's port is only known there)."""
    config = session.config
    configured = config.broker_address()
    if configured is not None:
        return configured
    try:
        url = session.client().call("bridge.status", {}).get("broker")
    except (DaemonNotRunning, OperatorError):
        url = None
    return parse_broker_url(url) if isinstance(url, str) else embedded_address(config)


def embedded_address(config: Config) -> BrokerAddress:
    """Where the embedded broker is by its settings."""
    wildcard = config.embedded.host in {"0.0.0.0", "::", ""}  # noqa: S104 - compared, not bound
    return BrokerAddress(host="127.0.0.1" if wildcard else config.embedded.host, port=config.embedded.port or 1883)


def as_text(payload: bytes) -> str:
    """A payload in one line."""
    value = readable(payload)
    if isinstance(value, str) and not payload.lstrip().startswith(b'"'):
        return value  # no JSON, and so in our own words
    return escaped(json.dumps(value, ensure_ascii=False))


def escaped(line: str) -> str:
    """JSON of the same meaning without a character that a terminal would obey."""
    return "".join(char if char.isprintable() else _escape(char) for char in line)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if char <= "\uffff" else json.dumps(char)[1:-1]


def readable(payload: bytes) -> Any:
    """A payload as JSON values: JSON as it is, msgpack with binary in short hex, anything else as short hex."""
    if not payload:
        return "(empty)"
    try:
        return read_json(payload, max_bytes=_DECODED_MAX_BYTES, floats=True)
    except Malformed:
        pass
    try:
        value = read_msgpack(payload, max_bytes=_DECODED_MAX_BYTES, keys=MapKeys.TEXT_OR_INT, floats=True)
    except Malformed:
        return short_hex(payload)
    return _without_binary(value) if isinstance(value, dict | list) else short_hex(payload)


def short_hex(data: bytes) -> str:
    """The first bytes and the length."""
    if len(data) <= 2 * SHOWN_BYTES:
        return f"h'{data.hex()}'"
    return f"h'{data[:SHOWN_BYTES].hex()}…' ({len(data)} bytes)"


def _without_binary(value: Any) -> Any:
    if isinstance(value, bytes):
        return short_hex(value)
    if isinstance(value, dict):
        return {str(key): _without_binary(item) for key, item in value.items()}
    return [_without_binary(item) for item in value] if isinstance(value, list) else value
