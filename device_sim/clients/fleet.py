"""`device-sim run --dialect NAME`: which options count, the clients that they make, and the lines that are printed."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from device_sim.clients.model import ClientOptions, VendorClient
from device_sim.clients.registry import factory
from device_sim.clients.runner import ClientFleet, ClientReport, RunOptions, RunReport
from device_sim.errors import OptionError
from device_sim.options import FleetOptions

NATIVE_ONLY: Final = frozenset(
    {
        "hw", "root", "trust", "window", "max_packet", "loss", "dup", "pace", "telemetry_hz", "sleep_pattern",
        "encoding", "level", "fault", "fault_count", "watchdog_s", "check_in_every_s", "stale_after_s", "slot_kib",
        "username_from_id", "password",
    }
)  # fmt: skip
"""Parameters of the command that mean something to native devices alone."""
DIALECT_ONLY: Final = frozenset({"variant", "prefix", "secret"})
BLOCK_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectOptions:
    """What is said beside the options that all devices share. In `prefix` and `secret`, {device} is the name."""

    dialect: str
    variants: frozenset[str] = frozenset()
    prefix: str = ""
    secret: str = ""


def refuse_options(given: Collection[str], *, dialect: str) -> None:
    """`OptionError` for options (names of parameters) that mean nothing to these devices."""
    wrong = sorted(set(given) & (NATIVE_ONLY if dialect else DIALECT_ONLY))
    if wrong:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise OptionError(f"{names}: not with --dialect" if dialect else f"{names}: only with --dialect")


def make_clients(shared: FleetOptions, own: DialectOptions, *, block_bytes: int) -> Mapping[str, VendorClient]:
    """One client for each device, by its name."""
    make = factory(own.dialect)
    return {
        name: make(
            ClientOptions(
                product=shared.product,
                name=name,
                version=shared.version,
                block_bytes=block_bytes,
                prefix=_prefix(own.prefix, name),
                secret=own.secret.replace("{device}", name),
                state=_state_of(shared, name),
                seed=shared.seed + index,
                variants=own.variants,
            )
        )
        for index, name in ((index, shared.device_name(index + 1)) for index in range(shared.count))
    }


def _prefix(template: str, name: str) -> str:
    prefix = template.replace("{device}", name)
    if set(prefix) & set("+#\0"):
        raise OptionError(f"--prefix: {template!r} is no topic to put others under")
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _state_of(shared: FleetOptions, name: str) -> Path | None:
    if shared.state is None:
        return None
    directory = shared.state / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--state: {directory} cannot be used: {error.strerror}") from None
    return directory


async def run_dialect(
    shared: FleetOptions, own: DialectOptions, *, block_bytes: int, stop: asyncio.Event | None = None
) -> RunReport:
    """Run the clients to their end."""
    clients = make_clients(shared, own, block_bytes=block_bytes)
    options = RunOptions(
        broker=shared.broker,
        tls=shared.tls_context(),
        until=shared.until,
        timeout_s=shared.timeout_s,
        connect_timeout_s=shared.connect_timeout_s,
        stay=shared.stay,
    )
    return await ClientFleet(clients, options).run(stop)


def as_line(client: ClientReport) -> dict[str, Any]:
    """The line of one client for programs."""
    return {
        "type": "outcome",
        "device": client.device,
        **asdict(client.outcome),
        "connections": client.connections,
        "went_wrong": client.went_wrong,
        "ok": client.is_ok,
    }


def as_text(client: ClientReport) -> str:
    """The line of one client for people."""
    seen = client.outcome
    words = [
        f"{client.device}  {'ok' if client.is_ok else 'NOT THERE'}  runs {seen.version}",
        f"{seen.installs} installed",
    ]
    words += [f"failed: {', '.join(seen.failures)}"] if seen.failures else []
    words += [f"went wrong: {client.went_wrong}"] if client.went_wrong else []
    return ", ".join(words)
