"""One signed update from the operator's command to the confirmed trial boot, on real brokers."""

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from brokers import SHIPPED_CONF, mosquitto_binary, mosquitto_on
from harness import Fleet, Site, site, tap, until

SIZES = (64, 1000, 4096, 16_384)
WINDOWS = (1, 4, 16)


def real_image(where: Site) -> Path:
    """A real binary of at least 200 KB that every machine with these tests has: the broker itself."""
    content = Path(mosquitto_binary()).read_bytes()
    assert len(content) >= 200_000
    path = where.directory / "real.bin"
    path.write_bytes(content)
    return path


@pytest.mark.mosquitto
async def test_a_real_image_arrives_byte_identical_with_every_block_size_and_window(tmp_path):
    shipped = SHIPPED_CONF.read_text().replace("listener 1883 ", "listener {port} ")
    with mosquitto_on(tmp_path, shipped) as broker, site(tmp_path, broker_url=broker.url) as here:
        image = real_image(here)
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        here.call("rollout.start", release=here.release(image))
        runs = [
            Fleet(here.fleet(name_prefix=f"b{size}-w{window}-", block_bytes=size, window=window))
            for size in SIZES
            for window in WINDOWS
        ]
        async with asyncio.timeout(120):
            for run in runs:
                await run.__aenter__()
            reports = [await run.report() for run in runs]
        found = {device.device: (device.result, device.sha256) for report in reports for device in report.devices}
        assert dict.fromkeys(found, ("confirmed", digest)) == found
        assert len(SIZES) * len(WINDOWS) == len(found)
        await until(lambda: here.call("rollout.list")[0]["confirmed"] == len(found))


async def test_the_embedded_broker_delivers_an_update(tmp_path):
    with site(tmp_path) as here:
        image = here.image(100_000)
        async with tap(here.url, "$ota/event/#") as seen, Fleet(here.fleet(count=3)) as fleet:
            await until(lambda: here.call("device.list") or None)
            here.call("rollout.start", release=here.release(image))
            report = await fleet.report()
            assert ["confirmed"] * 3 == [device.result for device in report.devices]
            await until(lambda: here.call("rollout.list")[0]["confirmed"] == 3)
        assert "it runs the assigned firmware demo/1.1.0" in here.call("why", device="dev-0001")["sentence"]
        states = [line["after"] for line in seen.events("state") if line["device"] == "dev-0001"]
        assert ["QUEUED", "OFFERED", "DOWNLOADING", "DOWNLOADED", "INSTALLING", "TRIAL", "CONFIRMED"] == states


async def test_event_lines_are_plain_complete_json(tmp_path):
    with site(tmp_path) as here:
        here.call("rollout.start", release=here.release(here.image(20_000)))
        async with tap(here.url, "$ota/event/#") as seen, Fleet(here.fleet(count=1)) as fleet:
            await fleet.report()
        for _, topic, payload in seen.seen:
            assert b"\n" not in payload
            line = json.loads(payload)
            assert topic == f"$ota/event/{line['product']}/{line['device']}"
            assert line["at"].endswith("Z")
        check_in = seen.events("report")[0]
        assert "1.0.0" == check_in["report"]["report"]["version"]
        assert {"firmware"} == set(check_in["report"]["parts"])


async def test_json_devices_are_answered_in_json(tmp_path):
    with site(tmp_path) as here:
        here.call("rollout.start", release=here.release(here.image(20_000)))
        async with tap(here.url, "$ota/update/#") as seen, Fleet(here.fleet(count=1, encoding="json")) as fleet:
            report = await fleet.report()
        assert ["confirmed"] == [device.result for device in report.devices]
        kinds = [json.loads(payload)["type"] for _, _, payload in seen.seen]
        assert "update_firmware" in kinds
        assert "report_ack" in kinds


async def test_a_device_with_small_packets_gets_the_short_form(tmp_path):
    with site(tmp_path) as here:
        here.call("rollout.start", release=here.release(here.image(20_000)))
        async with Fleet(here.fleet(count=1, max_packet=400, block_bytes=128)) as fleet:
            report = await fleet.report()
        assert ["confirmed"] == [device.result for device in report.devices]


async def test_sigterm_ends_the_daemon_in_under_two_seconds_even_while_devices_download(tmp_path):
    with site(tmp_path) as here:
        here.call("rollout.start", release=here.release(here.image(400_000)))
        async with Fleet(here.fleet(count=5, pace_bps=50_000)) as fleet:
            await fleet.until(lambda lines: any(line.get("bytes_payload", 0) > 0 for line in lines))
            assert here.stop() < 2.0
        assert "stopped" in here.log


def test_a_second_daemon_on_the_same_data_is_refused(tmp_path):
    with site(tmp_path) as here:
        first = here.process
        here.start(wait=False)
        second, here.process = here.process, first
        assert second is not None
        assert 0 != second.wait(15)
        assert str(first.pid) in here.log.rpartition("serves")[2]


async def test_a_rollout_reaches_only_its_share_and_can_be_widened(tmp_path):
    with site(tmp_path) as here:
        release = here.release(here.image(20_000))
        async with Fleet(here.fleet(count=20, stay=True)) as fleet:
            await until(lambda: len(here.call("device.list")) == 20)
            rollout = here.call("rollout.start", release=release, percent=30)["id"]
            first = await until(lambda: (view := here.call("rollout.status", rollout=rollout))["complete"] and view)
            assert 0 < first["total"] < 20
            here.call("rollout.percent", rollout=rollout, percent=100)
            await until(lambda: here.call("rollout.status", rollout=rollout)["confirmed"] == 20)
            assert fleet.lines


async def test_pause_holds_every_device_and_resume_lets_them_finish(tmp_path):
    with site(tmp_path) as here:
        release = here.release(here.image(300_000))
        async with Fleet(here.fleet(count=3, pace_bps=100_000)) as fleet:
            await until(lambda: len(here.call("device.list")) == 3)
            rollout = here.call("rollout.start", release=release)["id"]
            await until(lambda: here.call("rollout.status", rollout=rollout)["counts"].get("DOWNLOADING") == 3)
            here.call("rollout.pause", rollout=rollout)
            async with tap(here.url, "$ota/block/#") as seen:
                await asyncio.sleep(1.5)  # an absence can only be waited for
            data = [payload for _, _, payload in seen.seen if len(payload) > 64]
            assert [] == data
            assert "paused" in here.call("why", device="dev-0001")["sentence"]
            here.call("rollout.resume", rollout=rollout)
            report = await fleet.report()
            assert ["confirmed"] * 3 == [device.result for device in report.devices]


async def test_cancel_stops_a_download_and_the_device_says_so(tmp_path):
    with site(tmp_path) as here:
        release = here.release(here.image(300_000))
        async with Fleet(here.fleet(count=1, pace_bps=50_000, stay=True)) as fleet:
            await until(lambda: here.call("device.list") or None)
            rollout = here.call("rollout.start", release=release)["id"]
            await until(lambda: here.call("rollout.status", rollout=rollout)["counts"].get("DOWNLOADING"))
            here.call("rollout.cancel", rollout=rollout)
            view = await until(lambda: (v := here.call("rollout.status", rollout=rollout))["complete"] and v)
            assert {"CANCELED": 1} == view["counts"]
            assert fleet.lines
