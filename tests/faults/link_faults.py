"""Link faults as experiments: a fleet behind the proxy in which each device meets a fault of its own.

The devices run at the same time, so a sweep over every packet of an update takes as long as one update. Each must end
confirmed with the right image; what it fetched twice is at most one chunk for each cut (I3 and the bound of the issue's
class: a cut costs a chunk, not the download).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from faults.proxy import DUPLEX, Fault, Kind, Proxy
from harness import Fleet, Site

CHUNK_BYTES = 4096
IMAGE_BYTES = 3 * CHUNK_BYTES - 100
BLOCK_BYTES, WINDOW = 1024, 4
TIMEOUT_S = 120.0
LIST_BYTES = 3 * 32
RANDOM_KINDS = (Kind.DROP, Kind.DOUBLE, Kind.SWAP, Kind.DELAY, Kind.STALL, Kind.HALF_OPEN, Kind.CUT_AFTER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How many packets and bytes an undisturbed update has in each direction."""

    packets: dict[str, int]
    bytes: dict[str, int]
    first_exchange_bytes: dict[str, int]


def device_of(plans: Sequence[Sequence[Fault]], client_id: str) -> Sequence[Fault]:
    """The plan of `demo/PREFIX0001` is the first, and so on."""
    number = int(client_id[-4:])
    return plans[number - 1]


async def updates(here: Site, broker_port: int, plans: Sequence[Sequence[Fault]], prefix: str) -> Proxy:
    """One device for each plan takes the update; raises AssertionError that names the invariant."""
    async with Proxy(broker_port, lambda client_id: device_of(plans, client_id)) as proxy:
        options = here.fleet(
            broker=type(here.fleet().broker).parse(proxy.url), count=len(plans), name_prefix=prefix,
            block_bytes=BLOCK_BYTES, window=WINDOW, timeout_s=TIMEOUT_S, slot_bytes=1 << 16, check_in_every_s=5.0,
        )  # fmt: skip
        async with Fleet(options) as fleet:
            report = await fleet.report()
    for device, plan in zip(report.devices, plans, strict=True):
        what = f"{device.device} with {', '.join(map(str, plan)) or 'no fault'}"
        assert device.slot_ok, f"I1: {what}: wrong image in the slot"
        assert device.result == "confirmed", f"I3: {what}: {device.result} ({device.reason})"
        cuts = sum(fault.kind not in {Kind.DOUBLE, Kind.SWAP, Kind.DELAY} for fault in plan)
        allowed = IMAGE_BYTES + LIST_BYTES + cuts * CHUNK_BYTES + doubled(plan)
        assert device.bytes_payload <= allowed, f"bound: {what}: {device.bytes_payload} bytes for {allowed}"
    return proxy


def doubled(plan: Sequence[Fault]) -> int:
    """A packet that the line delivers twice was not asked for twice; one that is late may be."""
    return sum(fault.kind in {Kind.DOUBLE, Kind.SWAP, Kind.DELAY, Kind.STALL} for fault in plan) * CHUNK_BYTES


async def measured(here: Site, broker_port: int, prefix: str) -> Length:
    """An update without faults, counted."""
    proxy = await updates(here, broker_port, [[]], prefix)
    (client,) = proxy.clients.values()
    return Length(
        packets={way: client.way(way).packets for way in DUPLEX},
        bytes={way: client.way(way).sent_bytes for way in DUPLEX},
        first_exchange_bytes={"up": 700, "down": 1500},
    )


def cut_sweep(length: Length) -> list[list[Fault]]:
    """Before and after every packet of an update, in both directions."""
    return [
        [Fault(kind=kind, direction=way, at=number)]
        for way in DUPLEX
        for number in range(length.packets[way])
        for kind in (Kind.CUT_BEFORE, Kind.CUT_AFTER)
    ]


def byte_sweep(length: Length) -> list[list[Fault]]:
    """At every byte of the first exchange: connect, subscribe, check in, offer, the first block."""
    return [
        [Fault(kind=Kind.CUT_AT_BYTE, direction=way, at=number)]
        for way in DUPLEX
        for number in range(min(length.bytes[way], length.first_exchange_bytes[way]))
    ]


def random_plan(rng: random.Random, length: Length) -> list[Fault]:
    """Five faults of any kind at any packet."""
    return [
        Fault(
            kind=rng.choice(RANDOM_KINDS), direction=(way := rng.choice(DUPLEX)),
            at=rng.randrange(length.packets[way]), seconds=rng.choice([0.05, 0.5, 3.0]),
        )
        for _ in range(5)
    ]  # fmt: skip
