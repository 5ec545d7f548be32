"""The daemon's wall clock is set by an hour and by ten years in the middle of a rollout: nothing ends, all arrive.

The daemon and its block plane run with a clock of their own: `libfaketime` where it is installed (Debian: faketime), and
always a module that Python loads at its start and that moves `time.time`.
"""

import contextlib
import time
from pathlib import Path

import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from harness import Fleet, Site, site, until

pytestmark = pytest.mark.mosquitto
DEVICES = 20
YEAR_S = 365 * 86_400
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

MOVES_TIME = """
import os, time
real, place = time.time, os.environ["OTA_TEST_CLOCK"]
def moved():
    with open(place) as file:
        return real() + float(file.read())
time.time = moved
"""


class Clock:
    """The wall clock of every process that is started from now on."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.offset_s = 0

    def set(self, offset_s: float) -> None:
        """So much ahead of the real one, or behind."""
        self.offset_s = offset_s
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+.0f}\n")
        new.replace(self._file)

    @property
    def now(self) -> float:
        return time.time() + self.offset_s


@pytest.fixture(params=["time.time", "libfaketime"])
def clock(request, tmp_path, monkeypatch):
    made = Clock(tmp_path)
    made.set(0)
    if request.param == "time.time":
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(MOVES_TIME)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        monkeypatch.setenv("OTA_TEST_CLOCK", str(tmp_path / "clock"))
    else:
        if not LIBRARIES:
            pytest.skip("libfaketime is not installed (Debian: faketime)")
        monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[0]))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(tmp_path / "clock"))
        monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    return made


def steps(here: Site) -> int:
    return int(here.call("bridge.status")["counters"]["gateway"]["clock_steps"])


def bridge_time(here: Site) -> float:
    """What the daemon believes that it is."""
    return float(here.rows("SELECT last_commit_wall FROM store_facts")[0][0])


def complaints(here: Site) -> list[str]:
    return [line for line in here.log.splitlines() if " ERROR " in line or "Traceback" in line]


async def test_a_rollout_goes_through_while_the_clock_is_set_back_and_forth(
    tmp_path,
    mosquitto: Mosquitto,  # noqa: F811
    clock: Clock,
):
    with site(tmp_path, broker_url=mosquitto.url) as here:
        release = here.release(here.image(200_000))
        options = here.fleet(count=DEVICES, pace_bps=12_000, check_in_every_s=3, timeout_s=120)
        async with Fleet(options) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            here.call("rollout.start", release=release)
            await fleet.until(lambda lines: any(line["position"] > 0 for line in lines))
            for number, offset_s in enumerate([3600, 0, -3600, 0, 10 * YEAR_S, 0, -10 * YEAR_S, 0], start=1):
                clock.set(offset_s)
                await until(lambda n=number: steps(here) == n)
                await until(lambda: abs(bridge_time(here) - clock.now) < 20, within_s=30)
            report = await fleet.report()
        assert {} == here.unconfirmed(report)
        await until(lambda: here.call("rollout.list")[0]["confirmed"] == DEVICES)
        assert [("CONFIRMED", 1, DEVICES)] == here.rows(
            "SELECT state, attempt, count(*) FROM deployments GROUP BY 1, 2"
        )
        assert [] == complaints(here)


async def test_deadlines_outlive_a_start_in_the_past(tmp_path, mosquitto: Mosquitto, clock: Clock):  # noqa: F811
    """A small computer without a battery comes up ten years back, and the network sets it right a while later."""

    def left() -> float:
        """Until the offer times out, by the clock of the daemon."""
        found = here.rows("SELECT due_wall FROM deployments WHERE state = 'OFFERED'")
        return float(found[0][0]) - clock.now if found else 0.0

    with site(tmp_path, broker_url=mosquitto.url, **{"offers.resend_after_s": 86_400}) as here:
        release = here.release(here.image(20_000))
        async with Fleet(here.fleet(count=1, check_in_every_s=1000)):
            await until(lambda: len(here.call("device.list")) == 1)
        here.call("rollout.start", release=release)
        await until(lambda: left() > 86_000)
        here.stop()
        clock.set(-10 * YEAR_S)
        here.start()
        await until(lambda: steps(here) == 1)
        await until(lambda: 86_000 < left() < 86_500)
        clock.set(0)
        await until(lambda: steps(here) == 2)
        await until(lambda: 86_000 < left() < 86_500)
        with contextlib.suppress(IndexError):
            assert ["OFFERED"] == [row[0] for row in here.rows("SELECT state FROM deployments")]
        assert [] == complaints(here)
