"""The devices of a soak, in a process of their own: `soak_fleet.py`, told what to do on its standard input.

The first line is a `Fleets` as JSON. Then `calm` ends what the lines do, and `stop` (or the end of the input) ends the devices:
what they are then is the last line of the output, `FleetReport.as_json()` of all together.

Three groups of one product, and strangers of another that no rollout is for:

    line    behind the proxy, each with faults of its own, one in each round
    lossy   loses and doubles blocks and requests
    power   its power goes away, at flash operations that the seed decides
"""

import asyncio
import json
import logging
import random
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import uvloop

from device_sim.fleet import run_fleet
from device_sim.options import BrokerUrl, FleetOptions
from device_sim.report import FleetReport
from tests.faults.proxy import DUPLEX, Fault, Kind, Proxy

PRODUCT, STRANGERS = "demo", "spare"
SHARES = {"line": 0.5, "lossy": 0.3, "power": 0.2}
LOSS, DUP = 0.05, 0.02
CUTS_PER_ROUND = 2
PACKETS_PER_ROUND = 40
KINDS = (*Kind,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleets:
    """What the devices of a soak are."""

    broker_port: int
    trust: str
    devices: int
    strangers: int
    seed: int
    rounds: int
    pace_bps: int
    check_in_every_s: float
    slot_bytes: int

    def counts(self) -> dict[str, int]:
        """How many devices each group has, one at least."""
        counts = {name: max(1, round(share * self.devices)) for name, share in SHARES.items()}
        counts["line"] = max(1, self.devices - counts["lossy"] - counts["power"])
        return counts

    def options(self, group: str, port: int) -> FleetOptions:
        """The devices of one group."""
        faults = {
            "lossy": {"loss": LOSS, "dup": DUP},
            "power": {"fault": f"power_cuts={CUTS_PER_ROUND * self.rounds}"},
        }
        return FleetOptions(
            broker=BrokerUrl.parse(f"mqtt://127.0.0.1:{port}"),
            trust=Path(self.trust),
            count=self.strangers if group == STRANGERS else self.counts()[group],
            product=STRANGERS if group == STRANGERS else PRODUCT,
            name_prefix=f"{group}-",
            seed=self.seed,
            pace_bps=self.pace_bps,
            telemetry_hz=0.0,
            check_in_every_s=self.check_in_every_s,
            slot_bytes=self.slot_bytes,
            timeout_s=1e8,
            stay=True,
            **faults.get(group, {}),
        )


def plan(seed: int, client_id: str, rounds: int) -> list[Fault]:
    """What happens to one line: about one fault in each round, at packets of either direction."""
    rng = random.Random(f"soak/{seed}/{client_id}")
    return [
        Fault(
            kind=rng.choice(KINDS), direction=rng.choice(DUPLEX),
            at=rng.randrange(number * PACKETS_PER_ROUND, (number + 1) * PACKETS_PER_ROUND), seconds=rng.choice([0.05, 0.5, 3.0]),
        )
        for number in range(rounds)
    ]  # fmt: skip


async def run(fleets: Fleets, words: asyncio.StreamReader) -> dict:
    """All groups until `stop`; what they are then, and how many faults struck their lines."""
    calm, stop = asyncio.Event(), asyncio.Event()

    def planned(client_id: str) -> Sequence[Fault]:
        return [] if calm.is_set() else plan(fleets.seed, client_id, fleets.rounds)

    async with Proxy(fleets.broker_port, planned) as proxy:
        groups = [*SHARES, STRANGERS]
        ports = {"line": proxy.port}
        running = [
            asyncio.create_task(run_fleet(fleets.options(group, ports.get(group, fleets.broker_port)), stop=stop))
            for group in groups
        ]
        while (word := (await words.readline()).decode().strip()) == "calm":
            calm.set()
            for client in proxy.clients.values():
                client.left.clear()
        assert word in {"stop", ""}, word
        stop.set()
        reports = await asyncio.gather(*running)
        struck = [str(fault.kind) for fault in proxy.struck()]
    whole = FleetReport(
        devices=tuple(one for report in reports for one in report.devices), ok=all(one.ok for one in reports)
    )
    return {**whole.as_json(), "struck": {str(kind): struck.count(str(kind)) for kind in KINDS}}


async def main() -> None:
    """Read what is wanted, do it, print what came of it."""
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    report = await run(Fleets(**json.loads(await words.readline())), words)
    sys.stdout.write(json.dumps(report) + "\n")


def first_line(fleets: Fleets) -> str:
    """What such a process is told first."""
    return json.dumps(asdict(fleets)) + "\n"


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(main())
