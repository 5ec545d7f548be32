"""Devices that cannot take a release at once: over a stone to it, between real programs."""

import asyncio

from harness import Fleet, site, until


async def test_a_device_comes_over_the_stone_to_the_release_and_why_tells_the_path(tmp_path):
    with site(tmp_path, **{"offers.min_interval_s": 1}) as here:
        async with Fleet(here.fleet(count=2, stay=True, pace_bps=60_000)) as fleet, asyncio.timeout(60):
            await until(lambda: len(here.call("device.list")) == 2)
            for version, seq, bound in (("2.0", 2, ">=1,<2"), ("3.0", 3, ">=2,<3")):
                image = here.image(60_000, seed=seq, name=f"fw-{version}.bin")
                here.release(image, version=version, seq=seq, installs_from=[bound])
            said = here.run("release", "path", "3.0", "dev-0001").stdout
            assert "firmware: 1.0.0 -> 2.0 -> 3.0: 2 steps, 117.2 KiB\n" == said
            rollout = here.call("rollout.start", release="3.0")["id"]
            for step in (1, 2):
                told = f"(1.0.0 -> 2.0 -> 3.0: step {step} of 2)"
                await until(lambda told=told: told in here.call("why", device="dev-0001")["sentence"])
            await until(lambda: here.call("why", device="dev-0001")["code"] == "confirmed")
            await until(lambda: here.call("why", device="dev-0002")["code"] == "confirmed")
            assert fleet.lines
        assert "it runs the assigned firmware demo/3.0" in here.call("why", device="dev-0001")["sentence"]
        shown = here.call("device.show", device="dev-0001")
        assert "3.0" == shown["parts"]["firmware"]["version"]
        found = [(one["release"], one["rollout"], one["state"], one["attempt"]) for one in shown["deployments"]]
        assert [("demo/3.0", rollout, "CONFIRMED", 1), ("demo/2.0", rollout, "CONFIRMED", 1)] == found


async def test_a_dead_end_is_refused_while_devices_report_what_they_run(tmp_path):
    with site(tmp_path) as here:
        image = here.image(20_000)
        async with Fleet(here.fleet(count=1, stay=True)):
            await until(lambda: here.call("device.list") or None)
            words = ("--product", "demo", "--version", "3.0", "--hw", "r1", "--from", ">=2,<3", "--key", "author.pem")
            refused = here.run("--set", f"security.trust={here.trust}", "release", "add", image, *words)
        assert 1 == refused.returncode
        assert "3.0 is a dead end: it installs from >=2,<3, devices run 1.0.0" in refused.stderr
