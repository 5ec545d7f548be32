"""`doctor`: is everything as the bridge needs it? One line for each check, with the remedy where it is not."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from ota_bridge.cli.checks_files import file_findings
from ota_bridge.cli.checks_local import Finding, Level, failure, local_findings, ok, warning
from ota_bridge.cli.output import STYLES, cell, plain
from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.cli.tail import broker_of
from ota_bridge.core.errors import BrokerError
from ota_bridge.core.values import DeviceId
from ota_bridge.mqtt.probe import Identity, connected, forges, leaks, round_trips, travels
from ota_bridge.wire import BrokerAddress, TlsFiles, parse_broker_url

BLOCK_HEAD_BYTES: Final = 24
"""What stands before the data in a block's payload, at most."""
NAGLE_MS: Final = 20.0
"""A delayed acknowledgement costs 40 ms; half of it is no network any more."""


def doctor(
    context: typer.Context,
    device: Annotated[
        str | None, typer.Option(metavar="PRODUCT/NAME", help="Try its topics, as the identity given below.")
    ] = None,
    device_username: Annotated[str | None, typer.Option(metavar="NAME", help="User name of that device.")] = None,
    device_password: Annotated[
        str | None, typer.Option(metavar="TEXT", envvar="DEVICE_PASSWORD", help="Its password.")
    ] = None,
    device_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Its client certificate (PEM).")] = None,
    device_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that certificate.")] = None,
    device_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA of the broker.", show_default="broker.ca")
    ] = None,
    device_broker: Annotated[
        str | None, typer.Option(metavar="URL", help="Where devices connect, if not where the bridge does.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the broker, the clock, the disk, SQLite, the keys and files.url; exit code 1 if a check fails.

    Without --device-username or --device-cert the second identity is an anonymous client.
    """
    session = Session.of(context, as_json=as_json)
    if device_cert is not None and device is None and device_username is None:
        raise typer.BadParameter("--device-cert needs --device: whose certificate is it?")
    identity = device or device_username
    subject = DeviceId.parse(identity) if identity else None
    address = broker_of(session)
    files = TlsFiles(ca=device_ca or session.config.broker.ca, certificate=device_cert, key=device_key)
    second = _second(address, device_broker, files, device_username, device_password)
    findings = _told(session, [*local_findings(session), *file_findings(session.config.files)])
    findings += asyncio.run(_broker_findings(session, address, second, subject))
    failed = [finding.check for finding in findings if finding.level is Level.FAILURE]
    if as_json:
        session.output.json(
            {
                "ok": not failed,
                "checks": [
                    {"check": one.check, "level": one.level, "text": one.text, "remedy": one.remedy} for one in findings
                ],
            }
        )
    raise typer.Exit(1 if failed else 0)


def _second(
    address: BrokerAddress, url: str | None, files: TlsFiles, username: str | None, password: str | None
) -> BrokerAddress:
    """Whom the second identity connects to, and as whom; nothing of the bridge's own identity is in it."""
    if (files.certificate is None) != (files.key is None):
        raise typer.BadParameter("--device-cert and --device-key go together")
    own = parse_broker_url(url, tls=files) if url else replace(address, username=None, password=None)
    if files.certificate is not None and own.tls is None:
        raise typer.BadParameter("--device-cert needs TLS: --device-broker mqtts://...")
    return replace(
        own,
        username=username or own.username,
        password=password or own.password,
        tls=None if own.tls is None else files,
    )


def _told(session: Session, findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        if not session.as_json:
            line = cell(finding.level.value.ljust(8))
            line.stylize(STYLES[finding.level])
            line.append(plain(f"{finding.check}: {finding.text}" + (f". {_remedy(finding)}" if finding.remedy else "")))
            session.output.console.print(line)
    return findings


def _remedy(finding: Finding) -> str:
    return f"Remedy: {finding.remedy}"


async def _broker_findings(
    session: Session, address: BrokerAddress, second: BrokerAddress, subject: DeviceId | None
) -> list[Finding]:
    findings: list[Finding] = []
    async for finding in broker_findings(
        address,
        second,
        root=session.config.topics.root,
        block_bytes=session.config.blocks.block_max,
        subject=subject,
    ):
        findings += _told(session, [finding])
    return findings


async def broker_findings(
    address: BrokerAddress, second: BrokerAddress, *, root: str, block_bytes: int, subject: DeviceId | None
) -> AsyncIterator[Finding]:
    """All checks of the broker; `subject` is the device that the second identity is, None for an anonymous one."""
    async with AsyncExitStack() as stack:
        try:
            bridge = await stack.enter_async_context(connected(address, "doctor"))
        except BrokerError as error:
            yield failure(
                "broker", str(error), "is it running there, and are broker.url, user, password and TLS right?"
            )
            return
        yield ok("broker", f"{address} takes us as the bridge")
        yield await _nagle(bridge, root)
        try:
            device = await stack.enter_async_context(connected(second, "doctor-device"))
        except BrokerError as error:
            async for finding in _without_second(bridge, root, block_bytes, subject, error):
                yield finding
            return
        if subject is None:
            async for finding in _anonymous(bridge, device, root, block_bytes):
                yield finding
        else:
            async for finding in _as_device(bridge, device, root, block_bytes, subject):
                yield finding


async def _without_second(
    bridge: Identity, root: str, block_bytes: int, subject: DeviceId | None, error: BrokerError
) -> AsyncIterator[Finding]:
    if subject is not None:
        yield failure("second identity", str(error), "are the device's user name, password or certificate right?")
    else:
        yield ok("second identity", "a client without credentials is refused, as it should be")
        yield _not_checked("access rules")
    async for finding in _carried(bridge, bridge, f"{root}/doctor/{secrets.token_hex(4)}", block_bytes):
        yield finding


def _not_checked(check: str) -> Finding:
    return warning(
        check,
        "not checked: that needs a device's identity",
        "run again with --device-username PRODUCT/NAME --device-password, or --device PRODUCT/NAME --device-cert",
    )


async def _anonymous(bridge: Identity, device: Identity, root: str, block_bytes: int) -> AsyncIterator[Finding]:
    yield ok("second identity", "a client without credentials is taken")
    topic = f"{root}/doctor/{secrets.token_hex(4)}"
    writes = await travels(device, bridge, f"{topic}/up", qos=1) is not None
    reads = await travels(bridge, device, f"{topic}/down", qos=1) is not None
    async for finding in _carried(bridge, device if reads else bridge, topic, block_bytes):
        yield finding
    if reads or writes:
        can = " and ".join(word for word, it_can in (("publish", writes), ("read", reads)) if it_can)
        yield warning(
            "access rules",
            f"anybody may {can} everything: no device is who it says",
            "for production give every device an identity and rules; mosquitto.conf shows how",
        )
    else:
        yield ok("access rules", f"a client without credentials can neither read nor publish below {root}")
        yield _not_checked("device rules")


async def _as_device(
    bridge: Identity, device: Identity, root: str, block_bytes: int, subject: DeviceId
) -> AsyncIterator[Finding]:
    yield ok("second identity", f"{subject} is taken")
    up = await travels(device, bridge, f"{root}/report/{subject}", qos=1)
    if up is None:
        rule = f"pattern write {root}/report/%u"
        yield failure("own topics", f"{subject} cannot publish its reports", f"allow it, in mosquitto: {rule}")
    else:
        yield ok("own topics", f"reports of {subject} arrive")
    async for finding in _carried(bridge, device, f"{root}/update/{subject}", block_bytes, f"{root}/block/{subject}"):
        yield finding
    other = f"{subject.product}/doctor-{secrets.token_hex(4)}"
    reads = await leaks(bridge, device, f"{root}/update/{other}", f"{root}/update/{subject}")
    writes = await forges(device, bridge, f"{root}/report/{other}")
    if reads or writes:
        can = " and ".join(word for word, it_can in (("read", reads), ("write", writes)) if it_can)
        yield failure(
            "access rules",
            f"{subject} can {can} the topics of other devices",
            "allow only its own, in mosquitto: pattern write/read lines with %u (see mosquitto.conf)",
        )
    else:
        yield ok("access rules", f"{subject} can neither read nor write the topics of other devices")


async def _carried(
    source: Identity, target: Identity, topic: str, block_bytes: int, block_topic: str | None = None
) -> AsyncIterator[Finding]:
    """Topics, QoS 1 and the largest block, from the bridge to a device."""
    root = topic.partition("/")[0]
    arrived = await travels(source, target, topic, qos=1)
    if arrived is None and (source.is_cut or target.is_cut):
        yield failure(
            "topics",
            "the broker ended our connection while we tried: it takes the client id from the user name or the "
            "certificate, and the daemon has the same one",
            "stop the daemon for as long as doctor runs, or give doctor an identity of its own with --set "
            "broker.username or broker.certificate and broker.key",
        )
        return
    if arrived is None:
        yield failure(
            "topics",
            f"what is published to {topic} does not arrive",
            f"allow it in the broker's rules; if the broker refuses names that begin with {root[:1]}, set "
            "topics.root to another name such as ota, for the bridge and for the devices",
        )
        return
    yield ok("topics", f"{root}/… travels")
    if arrived.qos == 1:
        yield ok("qos", "QoS 1 is carried")
    else:
        yield failure("qos", "QoS 1 arrives as QoS 0: reports may get lost", "allow QoS 1 in the broker (max_qos)")
    size_bytes = block_bytes + BLOCK_HEAD_BYTES
    if await travels(source, target, block_topic or topic, qos=0, size_bytes=size_bytes) is not None:
        yield ok("blocks", f"a block of {block_bytes} bytes is carried")
    else:
        yield failure(
            "blocks",
            f"a block of {block_bytes} bytes does not arrive",
            "raise the broker's packet limit (mosquitto: max_packet_size 32768), or lower blocks.block_max",
        )


async def _nagle(bridge: Identity, root: str) -> Finding:
    try:
        taken = await round_trips(bridge, f"{root}/doctor/{secrets.token_hex(4)}")
    except BrokerError as error:
        return failure("latency", str(error), f"allow the bridge to publish below {root}")
    text = f"a QoS 1 publish takes {taken.plain_ms:.1f} ms, {taken.with_delivery_ms:.1f} ms with a delivery"
    if taken.with_delivery_ms - taken.plain_ms > NAGLE_MS:
        return warning(
            "latency",
            f"{text}: the broker holds small packets back (Nagle)",
            "set_tcp_nodelay true in mosquitto.conf",
        )
    return ok("latency", text)
