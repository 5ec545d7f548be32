"""`backup` and `restore`: beside a daemon and without one, and what they print."""

import os
import stat

import pytest
from contract.backup_samples import names_in

from ota_bridge.daemon import DATABASE


@pytest.fixture
def filled(operator, daemon, publish):
    daemon.report("demo/d1", "1.0.0")
    publish("1.1.0")
    return daemon


def test_a_running_daemon_writes_it_and_says_what_is_in_it(operator, filled):
    ran = operator("backup", "b.tar")
    file = operator.directory / "b.tar"
    assert 0 == ran.code, ran.err
    assert ran.out.startswith(f"{file}: ")
    assert "1 devices, 1 releases, 2 artifacts, as of 20" in ran.out
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_without_a_name_it_is_called_by_the_time_and_a_directory_may_be_named(operator, filled):
    (operator.directory / "backups").mkdir()
    made = operator("backup", "backups", "--json").json
    assert str(operator.directory / "backups" / "ota-bridge-20") == made["file"][: -len("260728T101530Z.tar")]
    assert made["file"].endswith("Z.tar")
    assert operator("backup").code == 0
    assert 1 == len(list(operator.directory.glob("ota-bridge-2*.tar")))


def test_as_json_it_is_one_document(operator, filled):
    ran = operator("backup", "b.tar", "--json")
    facts = {name: ran.json[name] for name in ("devices", "releases", "artifacts", "missing")}
    assert {"devices": 1, "releases": 1, "artifacts": 2, "missing": []} == facts
    assert ran.json["size_bytes"] == (operator.directory / "b.tar").stat().st_size
    assert "" == ran.err


@pytest.mark.parametrize("running", [True, False])
def test_what_is_there_is_not_replaced(operator, filled, running):
    (operator.directory / "b.tar").write_text("precious")
    if not running:
        filled.stop()
    ran = operator("backup", "b.tar", "--json")
    assert (1, "conflict") == (ran.code, ran.json["error"]["code"])
    assert "exists already: name another file" in ran.err


@pytest.mark.parametrize("running", [True, False])
def test_a_missing_artifact_is_a_warning_and_exit_code_1(operator, filled, running):
    next((operator.directory / "ota-data" / "blobs").glob("*/*")).unlink()
    if not running:
        filled.stop()
    ran = operator("backup", "b.tar", "--json")
    assert (1, ["demo/1.1.0 firmware"]) == (ran.code, ran.json["missing"])
    assert "warning: the backup lacks demo/1.1.0 firmware; add the files again" in ran.err
    assert (operator.directory / "b.tar").is_file()


def test_there_and_back(operator, filled):
    operator("backup", "b.tar")
    filled.report("demo/d2")
    filled.stop()
    ran = operator("restore", "b.tar")
    assert 0 == ran.code, ran.err
    assert "1 devices, 1 releases" in ran.out
    assert "what was there before is in " in ran.out
    assert "ota-data/before-restore-" in ran.out
    assert "what devices report from then on counts" in ran.err
    assert ["d1"] == names_in(operator.directory / "ota-data" / DATABASE)
    assert ["demo/d1"] == [one["id"] for one in operator("device", "list", "--json").json["devices"]]


def test_a_stopped_daemons_data_is_backed_up_too(operator, filled):
    filled.stop()
    made = operator("backup", "b.tar", "--json")
    assert (0, 1) == (made.code, made.json["devices"])


def test_restore_takes_a_data_directory_of_its_own(operator, filled):
    operator("backup", "b.tar")
    ran = operator("restore", "b.tar", "--data-dir", "elsewhere", "--json")
    expected = (0, str(operator.directory / "elsewhere"), None)
    assert expected == (ran.code, ran.json["data_dir"], ran.json["aside"])
    assert ["d1"] == names_in(operator.directory / "elsewhere" / DATABASE)


def test_a_daemon_holds_its_directory_against_a_restore(operator, filled):
    from ota_bridge.store.lock import DataDirectoryLock

    operator("backup", "b.tar")
    with DataDirectoryLock(operator.directory / "ota-data"):
        ran = operator("restore", "b.tar", "--json")
    assert (1, "failed") == (ran.code, ran.json["error"]["code"])
    assert f"in use by another daemon (process {os.getpid()}); a restore needs it stopped" in ran.err


@pytest.mark.parametrize(
    ("name", "content", "code", "sentence"),
    [
        ("none.tar", None, "not_found", "there is no backup none.tar"),
        ("text", b"hello", "invalid", "text is not a backup of the bridge"),
    ],
)
def test_what_is_no_backup_is_refused_in_one_sentence(operator, name, content, code, sentence):
    if content is not None:
        (operator.directory / name).write_bytes(content)
    ran = operator("restore", name, "--json")
    assert (1, code) == (ran.code, ran.json["error"]["code"])
    assert f"error: {sentence}\n" == ran.err
    assert not (operator.directory / "ota-data").exists()


def test_nothing_to_back_up_is_said_so(operator):
    ran = operator("backup")
    assert 1 == ran.code
    assert "there is no database" in ran.err


def test_until_an_interrupted_restore_is_repeated_nothing_reads_the_half(operator, filled):
    operator("backup", "b.tar")
    filled.stop()
    (operator.directory / "ota-data" / f"{DATABASE}.restoring").touch()
    ran = operator("device", "list")
    assert (1, True) == (ran.code, "run `ota-bridge restore` once more" in ran.err)
    assert 0 == operator("restore", "b.tar").code
    assert 0 == operator("device", "list").code
