"""The stream `backup`: told how far, one at a time, and ended by who hangs up."""

import asyncio
import contextlib
import threading

import pytest
from contract.backup_samples import Data, names_in, put_back

from ota_bridge import backup as under_test
from ota_bridge.backup import Backups
from ota_bridge.core.errors import Conflict, InvalidInput, Malformed, StoreError
from ota_bridge.store.backup import Backup


@pytest.fixture
def data(tmp_path):
    made = Data(tmp_path / "data")
    made.add_devices("a")
    yield made
    made.stop()


async def told(backups, **args):
    async with contextlib.aclosing(backups.make(args)) as stream:
        return [item async for item in stream]


async def test_the_last_word_is_what_was_made(data, tmp_path):
    target = tmp_path / "out.tar"
    last = (await told(Backups(data.database), file=str(target)))[-1]["made"]
    assert (str(target), target.stat().st_size, 1, []) == (
        last["file"], last["size_bytes"], last["devices"], last["missing"],
    )  # fmt: skip
    assert last["taken"].endswith("Z")
    put_back(target, tmp_path / "new")
    assert ["a"] == names_in(tmp_path / "new" / data.database.name)


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ({}, Malformed, "file is missing"),
        ({"file": 5}, Malformed, "file must be text"),
        ({"file": "x" * 5000}, Malformed, "file must be"),
        ({"file": "relative.tar"}, InvalidInput, "must be an absolute path"),
        ({"file": "/nowhere/at/all.tar"}, InvalidInput, "is not a directory"),
        ({"file": "/tmp/x", "mode": 1}, Malformed, "key 'mode' is not known"),
    ],
)
async def test_what_cannot_be_is_refused_and_the_next_is_made(data, tmp_path, args, error, match):
    backups = Backups(data.database)
    with pytest.raises(error, match=match):
        await told(backups, **args)
    assert "made" in (await told(backups, file=str(tmp_path / "out.tar")))[-1]


class Slow:
    """A backup that is made when the test lets it, or given up."""

    def __init__(self, monkeypatch):
        self.began, self.go, self.given_up = threading.Event(), threading.Event(), threading.Event()
        monkeypatch.setattr(under_test, "make_backup", self._make)
        monkeypatch.setattr(under_test, "_TELL_S", 0.001)

    def _make(self, _database, _root, target, *, taken_s, progress):
        progress.total = 100
        self.began.set()
        while not self.go.wait(0.001):
            progress.done = min(progress.done + 10, 90)
            if not progress.go_on():
                self.given_up.set()
                raise StoreError("it was given up")
        return Backup(
            file=target, size_bytes=1, taken_s=taken_s, as_of_s=None, schema=1, devices=0, releases=0, artifacts=0,
            missing=("demo/1.1.0 firmware",),
        )  # fmt: skip


async def test_how_far_it_is_is_told_meanwhile(data, monkeypatch, caplog):
    slow = Slow(monkeypatch)
    seen = []
    async with contextlib.aclosing(Backups(data.database).make({"file": "/x"})) as stream:
        async for item in stream:
            seen.append(item)
            if item.get("done") == 90:
                slow.go.set()
    assert {"done", "total"} == set(seen[0])
    assert [item["done"] for item in seen[:-1]] == sorted(item["done"] for item in seen[:-1])
    assert ["demo/1.1.0 firmware"] == seen[-1]["made"]["missing"]
    assert "lacks demo/1.1.0 firmware" in caplog.text


async def test_a_second_one_meanwhile_is_refused(data, monkeypatch):
    slow, backups = Slow(monkeypatch), Backups(data.database)
    async with contextlib.aclosing(backups.make({"file": "/x"})) as stream:
        await anext(stream)
        with pytest.raises(Conflict, match="another backup is being made"):
            await told(backups, file="/y")
        slow.go.set()
        async for _ in stream:
            pass
    assert "made" in (await told(backups, file="/y"))[-1]


async def test_who_hangs_up_ends_it_before_anything_else_goes_on(data, monkeypatch):
    slow, backups = Slow(monkeypatch), Backups(data.database)
    async with contextlib.aclosing(backups.make({"file": "/x"})) as stream:
        await anext(stream)
    assert slow.given_up.is_set()
    slow.go.set()
    assert "made" in (await told(backups, file="/y"))[-1]


async def test_a_daemon_that_stops_waits_for_it_to_end(data, monkeypatch):
    slow, backups = Slow(monkeypatch), Backups(data.database)
    task = asyncio.create_task(told(backups, file="/x"))
    await asyncio.to_thread(slow.began.wait)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert slow.given_up.is_set()


async def test_hanging_up_on_a_real_one_leaves_no_file(data, tmp_path, monkeypatch):
    monkeypatch.setattr(under_test, "_TELL_S", 0.0)
    data.add_devices(*(str(number) for number in range(3000)))
    (tmp_path / "out").mkdir()
    async with contextlib.aclosing(Backups(data.database).make({"file": str(tmp_path / "out" / "b.tar")})) as stream:
        await anext(stream)
    assert [] == list((tmp_path / "out").iterdir())
