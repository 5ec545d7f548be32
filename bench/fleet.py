"""Devices that checked in once, written into a database by the store itself."""

import random
import time
from pathlib import Path

from load import HW

from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import Encoding, InstalledPart
from ota_bridge.core.values import DeviceId
from ota_bridge.store.outcome import Committed
from ota_bridge.store.sqlite import SqliteStore


def name_of(number: int) -> str:
    return f"d{number:06d}"


def populate(database: Path, product: str, count: int) -> None:
    """Devices that checked in once, written by the store itself."""
    wall = time.time()

    def put(unit, numbers) -> None:
        for number in numbers:
            unit.devices.put(
                Device(
                    id=DeviceId(product, name_of(number)), state=DeviceState.ACTIVE, created_wall=wall, hw=HW,
                    dialect="native", encoding=Encoding.MSGPACK, proto=1, boot=1, nonce=random.randbytes(16),
                    max_packet=20_000, max_block=16_384, max_window=16, last_report_wall=wall,
                    parts={"firmware": InstalledPart(version="1.0.0", seq=0)},
                )
            )  # fmt: skip

    outcomes = []
    store = SqliteStore.open(database, deliver=lambda told: told())
    for first in range(0, count, 1000):
        numbers = range(first, min(first + 1000, count))
        store.submit(lambda unit, numbers=numbers: put(unit, numbers), outcomes.append)
    store.close()
    if not all(isinstance(outcome, Committed) for outcome in outcomes):
        raise RuntimeError(f"the fleet could not be written: {outcomes[0]}")
