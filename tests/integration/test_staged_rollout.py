"""A rollout in stages by a plan file, between real programs: gates, a failing canary, a daemon that is killed in between."""

import asyncio

from harness import Fleet, site, until

PLAN = """
release = "demo/2.0"
to = "all"

[[stage]]
name = "canary"
devices = 2
success = { share = 1.0 }
failure = { count = 1, then = "pause" }

[[stage]]
name = "half"
percent = 50

[[stage]]
name = "rest"
"""


async def test_stages_open_one_after_the_other_and_a_killed_daemon_goes_on_where_it_was(tmp_path):
    with site(tmp_path, **{"offers.min_interval_s": 1}) as here:
        async with Fleet(here.fleet(count=8, stay=True, pace_bps=40_000)), asyncio.timeout(90):
            await until(lambda: len(here.call("device.list")) == 8)
            here.release(here.image(40_000), version="2.0", seq=2)
            plan = tmp_path / "plan.toml"
            plan.write_text(PLAN)
            checked = here.run("rollout", "check", plan)
            assert 0 == checked.returncode, checked.stderr
            started = here.run("rollout", "start", "--plan", plan, "--json")
            assert 0 == started.returncode, started.stderr
            rollout = here.call("rollout.list")[0]["id"]

            def stages():
                return [one["state"] for one in here.call("rollout.status", rollout=rollout)["stages"]]

            assert "gate_not_met" == here.call("why", device=rollout)["code"]
            assert 2 == here.call("rollout.status", rollout=rollout)["total"]
            waiting = [one["id"] for one in here.call("device.list") if not one["assigned"]]
            assert 6 == len(waiting)
            assert "waits_for_stage" == here.call("why", device=waiting[0])["code"]
            await until(lambda: stages()[1] == "open", within_s=40)
            here.kill()
            here.start()
            await until(lambda: stages() == ["done"] * 3, within_s=60)
        found = here.call("rollout.status", rollout=rollout)
        assert (8, 8, [2, 2, 4]) == (found["total"], found["confirmed"], [one["confirmed"] for one in found["stages"]])
        assert "complete" == here.call("why", device=rollout)["code"]
        log = [entry["action"] for entry in here.call("audit.list")]
        assert 3 == log.count("gate.met")


async def test_a_canary_that_fails_holds_everybody_else_back(tmp_path):
    with site(tmp_path, **{"offers.min_interval_s": 1, "retries.max_attempts": 1}) as here:
        options = here.fleet(count=6, stay=True, pace_bps=40_000, fault="never_confirm")
        async with Fleet(options), asyncio.timeout(60):
            await until(lambda: len(here.call("device.list")) == 6)
            here.release(here.image(40_000), version="2.0", seq=2)
            plan = tmp_path / "plan.toml"
            plan.write_text(PLAN)
            here.run("rollout", "start", "--plan", plan)
            rollout = here.call("rollout.list")[0]["id"]
            await until(lambda: here.call("why", device=rollout)["code"] == "paused", within_s=40)
            found = here.call("why", device=rollout)
            assert "failed, 1 are too many" in found["sentence"]
            assert 2 == found["facts"]["total"]
