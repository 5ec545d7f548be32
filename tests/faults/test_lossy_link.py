"""Blocks and requests get lost and doubled at the devices' edge; the update arrives, and not much is sent twice."""

import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from harness import Fleet, site

DEVICES = 10
IMAGE_BYTES = 256 * 1024


@pytest.mark.mosquitto
@pytest.mark.parametrize("seed", [1, 7, 2026])
async def test_five_percent_loss_costs_at_most_twelve_percent_more_payload(tmp_path, mosquitto: Mosquitto, seed):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url) as here:
        here.call("rollout.start", release=here.release(here.image(IMAGE_BYTES)))
        async with Fleet(here.fleet(count=DEVICES, loss=0.05, dup=0.01, seed=seed, timeout_s=90)) as fleet:
            report = await fleet.report()
        assert ["confirmed"] * DEVICES == [device.result for device in report.devices]
        served = here.call("bridge.status")["served"]["bytes"]
        assert served <= 1.12 * IMAGE_BYTES * DEVICES, f"ratio {served / IMAGE_BYTES / DEVICES:.4f}, seed {seed}"
