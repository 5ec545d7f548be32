"""Yesterday's database under a fleet that went on: nobody is taken back, nobody is stuck, and all can be updated again."""

import asyncio
import json

import msgpack
import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from harness import Fleet, Site, Tap, site, tap, until

pytestmark = pytest.mark.mosquitto
DEVICES = 10
OFTEN = {"offers.min_interval_s": 1, "offers.resend_after_s": 5}


def told(seen: Tap) -> list[dict]:
    """What the bridge said to devices."""
    return [msgpack.unpackb(payload) if payload[:1] != b"{" else json.loads(payload) for _, _, payload in seen.seen]


def offers(seen: Tap) -> list[dict]:
    return [message for message in told(seen) if message["type"] == "update_firmware"]


def running(here: Site) -> list[str]:
    """The version that each device last reported, as the bridge has it."""
    return sorted(device["parts"]["firmware"]["version"] for device in here.call("device.list"))


def whys(here: Site) -> set[str]:
    return {here.call("why", device=device["id"])["code"] for device in here.call("device.list")}


async def bring(here: Site, version: str, *, seq: int) -> str:
    """Everybody gets this release."""
    release = here.release(here.image(60_000, seed=seq, name=f"{version}.bin"), version=version, seq=seq)
    rollout = str(here.call("rollout.start", release=release)["id"])
    await until(lambda: here.call("rollout.status", rollout=rollout)["confirmed"] == DEVICES, within_s=60)
    return rollout


async def test_a_fleet_that_went_on_after_the_backup_stays_where_it_is(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **OFTEN) as here:
        async with Fleet(here.fleet(count=DEVICES, stay=True, check_in_every_s=2, timeout_s=300)) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            await bring(here, "2.0.0", seq=1)
            made = await asyncio.to_thread(here.run, "backup", "yesterday.tar", "--json")
            assert (0, DEVICES) == (made.returncode, json.loads(made.stdout)["devices"]), made.stderr
            await bring(here, "3.0.0", seq=2)
            refused = await asyncio.to_thread(here.run, "restore", "yesterday.tar")
            assert (1, True) == (refused.returncode, "a restore needs it stopped" in refused.stderr)
            here.stop()
            restored = await asyncio.to_thread(here.run, "restore", "yesterday.tar", "--json")
            assert 0 == restored.returncode, restored.stderr
            async with tap(mosquitto.url, "$ota/update/#") as seen:
                await asyncio.to_thread(here.start)
                assert ["demo/2.0.0"] == [release["id"] for release in here.call("release.list")]
                await until(lambda: running(here) == ["3.0.0"] * DEVICES, within_s=60)
                # Three check-ins of each device later:
                acks = len([message for message in told(seen) if message["type"] == "report_ack"])
                await until(
                    lambda: len([m for m in told(seen) if m["type"] == "report_ack"]) >= acks + 3 * DEVICES, within_s=60
                )
                assert [] == offers(seen)
                assert {"anti_rollback"} == whys(here)
                why = here.call("why", device="dev-0001")["sentence"]
                assert "the device runs 3.0.0 (seq 2), which is not in the catalog" in why
                assert {"CONFIRMED": DEVICES} == here.call("rollout.list")[0]["counts"]

                release = here.release(tmp_path / "3.0.0.bin", version="3.0.0", seq=2)
                here.call("rollout.start", release=release)
                assert {"confirmed"} == whys(here)
                assert [] == offers(seen)
            assert {"3.0.0"} == {line["version"] for line in fleet.lines[-DEVICES:]}
            await bring(here, "4.0.0", seq=3)
            assert ["4.0.0"] * DEVICES == running(here)


async def test_devices_in_the_middle_of_a_forgotten_update_end_it_and_can_have_it_again(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **OFTEN) as here:
        options = here.fleet(count=DEVICES, stay=True, check_in_every_s=2, timeout_s=300, pace_bps=15_000)
        async with Fleet(options) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            await bring(here, "2.0.0", seq=1)
            assert 0 == (await asyncio.to_thread(here.run, "backup", "yesterday.tar")).returncode
            image = here.image(250_000, seed=9, name="3.0.0.bin")
            here.call("rollout.start", release=here.release(image, version="3.0.0", seq=2))
            half = {"position": 60_000}
            await fleet.until(
                lambda lines: (
                    len({one["device"] for one in lines[-4 * DEVICES :] if one["position"] > half["position"]})
                    == DEVICES
                ),
                within_s=60,
            )
            here.stop()
            assert 0 == (await asyncio.to_thread(here.run, "restore", "yesterday.tar")).returncode
            async with tap(mosquitto.url, "$ota/update/#", "$ota/event/#") as seen:
                await asyncio.to_thread(here.start)
                await until(
                    lambda: here.call("bridge.status")["served"]["refused"].get("not_open", 0) >= DEVICES, within_s=60
                )
                await until(lambda: running(here) == ["2.0.0"] * DEVICES, within_s=60)
                assert [] == [one for one in told(seen) if one.get("type") == "update_firmware"]
                assert {"confirmed"} == whys(here)
                assert "told to stop" in here.call("why", device="dev-0001")["sentence"]
            again = here.release(image, version="3.0.0", seq=2)
            rollout = str(here.call("rollout.start", release=again)["id"])
            await until(lambda: here.call("rollout.status", rollout=rollout)["confirmed"] == DEVICES, within_s=90)
            status = here.call("rollout.status", rollout=rollout)
            assert status["bytes_sent"] < DEVICES * 250_000, "what was in flash was fetched again"
