"""No file can be opened any more: links that stand go on, what is new waits, and all goes on by itself afterwards."""

import contextlib
import os
import resource
from pathlib import Path

import pytest
from brokers import Mosquitto, client, mosquitto  # noqa: F401 - a fixture
from harness import Fleet, Site, site, until

from ota_bridge.core.errors import OperatorError
from ota_bridge.web.local_client import LocalClient

pytestmark = pytest.mark.mosquitto
DEVICES = 5
NONE_MORE = 3
"""A limit below what is open: whatever is open stays, and nothing can be opened."""


def processes(here: Site) -> list[int]:
    """The daemon and the process of its block plane."""
    assert here.process is not None
    parent = f"PPid:\t{here.process.pid}\n"
    children = []
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if parent in path.read_text():
                children.append(int(path.parent.name))
    return [here.process.pid, *children]


def allow(here: Site, files: int) -> None:
    for pid in processes(here):
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))


def open_files(here: Site) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(here))  # noqa: PTH208


def processor_s(here: Site) -> float:
    """What the daemon has used of a processor."""
    assert here.process is not None
    fields = Path(f"/proc/{here.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answers(here: Site) -> bool:
    """Does the daemon take a command now?"""
    with contextlib.suppress(OperatorError):
        return bool(LocalClient(here.directory / "s", answer_s=2).call("bridge.status", {}))
    return False


@pytest.mark.parametrize("process", ["own", "shared"])
async def test_an_update_goes_through_on_the_links_that_stand(tmp_path, mosquitto: Mosquitto, process):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **{"log.level": "info", "blocks.process": process}) as here:
        release = here.release(here.image(200_000))
        options = here.fleet(count=DEVICES, pace_bps=30_000, check_in_every_s=2, timeout_s=100)
        async with Fleet(options) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            here.call("rollout.start", release=release)
            await fleet.until(lambda lines: len({one["device"] for one in lines if one["position"]}) == DEVICES)
            before = open_files(here)
            allow(here, NONE_MORE)
            report = await fleet.report()
            assert ["confirmed"] * DEVICES == [device.result for device in report.devices]
            assert [(DEVICES,)] == here.rows("SELECT count(*) FROM deployments WHERE state = 'CONFIRMED'")
            before_s = processor_s(here)
            assert not answers(here)  # for two seconds somebody wants to connect
            assert processor_s(here) - before_s < 1.0
        assert 1 == here.log.count("no connection can be accepted"), here.log
        allow(here, 1024)
        await until(lambda: answers(here))
        assert None is here.process.poll()
        assert here.call("rollout.list")[0]["confirmed"] == DEVICES
        assert "this should not happen" not in here.log
        await until(lambda: open_files(here) <= before + 8)


async def test_links_that_break_meanwhile_come_back_when_files_can_be_opened(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **{"log.level": "info"}) as here:
        release = here.release(here.image(200_000))
        options = here.fleet(count=DEVICES, pace_bps=30_000, check_in_every_s=2, timeout_s=100)
        async with Fleet(options) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            here.call("rollout.start", release=release)
            await fleet.until(lambda lines: any(one["position"] for one in lines))
            allow(here, NONE_MORE)
            mosquitto.kill()
            mosquitto.start()
            await until(lambda: here.log.count("Too many open files") >= 4)
            allow(here, 1024)
            report = await fleet.report()
            assert {} == here.unconfirmed(report)
        status = here.call("bridge.status")
        assert ("up", "up") == (status["control"], status["blocks"])
        assert "Traceback" not in here.log


@pytest.mark.parametrize("process", ["own", "shared"])
async def test_a_backup_and_a_release_are_refused_in_a_sentence_and_made_later(tmp_path, mosquitto: Mosquitto, process):  # noqa: F811
    """One connection of an operator stands already; what it asks for needs files that cannot be opened."""
    with site(tmp_path, broker_url=mosquitto.url, **{"blocks.process": process}) as here:
        here.release(here.image(50_000))
        with LocalClient(here.directory / "s", answer_s=10)._connected() as standing:
            standing.sendall(b'{"op": "bridge.status"}\n')
            assert standing.recv(1 << 16)
            allow(here, NONE_MORE)
            target = tmp_path / "b.tar"
            standing.sendall(b'{"op": "backup", "args": {"file": "%s"}, "stream": true}\n' % str(target).encode())
            answer = standing.recv(1 << 16)
            assert b'"ok":false' in answer, answer
            assert b"internal" not in answer, answer
        allow(here, 1024)
        await until(lambda: answers(here))
        assert not target.exists()
        assert [] == [one.name for one in tmp_path.iterdir() if one.name.startswith(".ota-bridge-backup")]
        assert 0 == here.run("backup", target).returncode
