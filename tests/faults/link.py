"""Link faults as experiments: a fleet behind the proxy in which each device meets a fault of its own.

The devices run at the same time, so a sweep over every packet of an update takes as long as one update. Each must end
confirmed with the right image (I1, I3); what it fetched twice is at most one chunk for each cut (I9), and a window for
each request that it asked again, for want of an answer in time: where the machine was slow, the answer comes twice.
"""

import asyncio
import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.brokers import mosquitto_on
from tests.faults.families import Broken, Family
from tests.faults.proxy import DUPLEX, Fault, Kind, Proxy
from tests.harness import Fleet, Site, site

CHUNK_BYTES = 4096
IMAGE_BYTES = 3 * CHUNK_BYTES - 100
BLOCK_BYTES, WINDOW = 1024, 4
TIMEOUT_S = 120.0
LIST_BYTES = 3 * 32
SETTINGS = {"offers.min_interval_s": 0, "offers.resend_after_s": 2}
THIRD = 20
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
    """One device for each plan takes the update; raises Broken."""
    async with Proxy(broker_port, lambda client_id: device_of(plans, client_id)) as proxy:
        options = here.fleet(
            broker=type(here.fleet().broker).parse(proxy.url), count=len(plans), name_prefix=prefix,
            block_bytes=BLOCK_BYTES, window=WINDOW, timeout_s=TIMEOUT_S, slot_bytes=1 << 16, check_in_every_s=5.0,
        )  # fmt: skip
        async with Fleet(options) as fleet:
            report = await fleet.report()
    for device, plan in zip(report.devices, plans, strict=True):
        what = f"{device.device} with {', '.join(map(str, plan)) or 'no fault'}"
        if not device.slot_ok:
            raise Broken("I1", f"{what}: wrong image in the slot")
        if device.result != "confirmed":
            raise Broken("I3", f"{what}: {device.result} ({device.reason})")
        cuts = sum(fault.kind not in {Kind.DOUBLE, Kind.SWAP, Kind.DELAY} for fault in plan)
        allowed = IMAGE_BYTES + LIST_BYTES + cuts * CHUNK_BYTES + doubled(plan)
        allowed += device.retries * WINDOW * BLOCK_BYTES
        if device.bytes_payload > allowed:
            raise Broken("I9", f"{what}: {device.bytes_payload} bytes for {allowed}, {device.retries} asked again")
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


def run(seed: int) -> str:
    """One run: a third of the devices is cut at a packet, a third at a byte, a third meets five faults of any kind."""
    rng = random.Random(f"link/{seed}")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ota-faults-")))
        broker = stack.enter_context(mosquitto_on(directory))
        here = stack.enter_context(site(directory, broker_url=broker.url, **SETTINGS))
        here.call("rollout.start", release=here.release(here.image(IMAGE_BYTES)))

        async def all_of_it() -> int:
            length = await measured(here, broker.port, "m-")
            plans = rng.sample(cut_sweep(length), THIRD) + rng.sample(byte_sweep(length), THIRD)
            plans += [random_plan(rng, length) for _ in range(THIRD)]
            return len((await updates(here, broker.port, plans, "f-")).struck())

        asyncio.run(all_of_it())
    return f"{3 * THIRD} devices"


LINK = Family(
    name="link",
    about="sixty devices, each with a line of its own: cut at a packet, cut at a byte, or struck five times by cuts, losses, "
    "doubles, swaps, delays and stalls",
    run=run,
    test=1,
    faults=12,
    full=300,
    alone=True,
)
