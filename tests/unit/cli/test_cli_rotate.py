"""`keys rotate`: proposed, signed by each holder, combined and published; what does not follow says who is missing."""

import json
import re
import shlex
import shutil
from pathlib import Path

import docs_samples
import pytest

from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.trust import Trust


@pytest.fixture
def holders(operator):
    """Keyset 1: alice and bob, of whom one must sign. Returns key ids by name; carol and a new online key wait."""
    assert operator("keys", "new", "--vendor", "acme.example", "--out", "alice.pem").code == 0
    assert operator("keys", "new", "--out", "bob.pem").code == 0
    for name in ("carol", "online-2", "stranger"):
        assert operator("keys", "new", "--pair", "--out", f"{name}.pem").code == 0
    names = ("alice", "bob", "carol", "online-2", "stranger")
    return {name: load_key(operator.directory / f"{name}.pem").key.kid.hex() for name in names}


def rotate(operator, *words):
    return operator("keys", "rotate", *words)


@pytest.fixture
def proposed(operator, holders):
    """carol for alice, and both must sign from now on."""
    ran = rotate(operator, "propose", "--add", "carol.pub", "--remove", holders["alice"], "--threshold", "2", "--json")
    assert ran.code == 0, ran.err
    return ran.json


def signed(operator, *names):
    for name in names:
        assert rotate(operator, "sign", "keyset-2.proposal", "--key", f"{name}.pem", "--out", f"2.{name}").code == 0
    return [f"2.{name}" for name in names]


@pytest.fixture
def complete(operator, proposed):
    files = signed(operator, "alice", "bob", "carol")
    assert rotate(operator, "combine", *files).code == 0
    return operator.directory / "keyset-2.keyset"


def test_a_proposal_says_what_changes(proposed, holders):
    assert {
        "file": "keyset-2.proposal",
        "version": 2,
        "epoch": 1,
        "threshold": 2,
        "authors_added": [holders["carol"]],
        "authors_removed": [holders["alice"]],
        "online_added": [],
        "online_removed": [],
        "signed_old": [],
        "signed_new": [],
        "complete": False,
    } == proposed


def test_each_signature_is_counted_on_both_sides(operator, proposed, holders):
    for name, old, new in (("alice", 1, 0), ("bob", 1, 1), ("carol", 0, 1)):
        ran = rotate(operator, "sign", "keyset-2.proposal", "--key", f"{name}.pem", "--json")
        assert (old, new) == (len(ran.json["signed_old"]), len(ran.json["signed_new"]))
        assert ran.json["file"] == f"keyset-2.{holders[name]}"


def test_signers_are_shown_what_they_sign(operator, proposed, holders):
    ran = rotate(operator, "sign", "keyset-2.proposal", "--key", "bob.pem")
    assert ran.out.splitlines()[1:] == [
        f"  authors added: {holders['carol']}",
        f"  authors removed: {holders['alice']}",
        "  authors that must sign: 2 of 2",
        "  signed by 1 of 1 needed of keyset 1, by 1 of 2 needed of keyset 2",
    ]
    assert f"keyset 2 needs 1 more of {holders['carol']}" in ran.err


def test_one_can_sign_after_the_other_instead(operator, proposed):
    assert rotate(operator, "sign", "keyset-2.proposal", "--key", "bob.pem", "--out", "one").code == 0
    ran = rotate(operator, "sign", "one", "--key", "carol.pem", "--out", "both", "--json")
    assert ran.json["complete"]
    assert rotate(operator, "combine", "both").code == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["alice"], "keyset 2 needs 2 more of {bob}, {carol}"),
        (["carol"], "keyset 1 needs 1 more of {alice}, {bob} and keyset 2 needs 1 more of {bob}"),
        (["bob"], "keyset 2 needs 1 more of {carol}"),
    ],
)
def test_combine_names_who_has_not_signed(operator, proposed, holders, names, expected):
    ran = rotate(operator, "combine", *signed(operator, *names))
    assert (ran.code, (operator.directory / "keyset-2.keyset").exists()) == (1, False)
    for part in expected.format(**holders).split(" and "):
        said, _, listed = part.partition(" more of ")
        assert said in ran.err
        assert all(kid in ran.err for kid in listed.split(", "))


def test_a_complete_keyset_is_applied_to_the_trust_document(operator, complete, holders):
    assert rotate(operator, "apply", complete).code == 0
    trust = Trust.load(operator.directory / "ota-trust.json")
    assert (2, 2, {holders["bob"], holders["carol"]}) == (
        trust.keyset.version,
        trust.keyset.threshold,
        {key.kid.hex() for key in trust.keyset.authors},
    )
    shown = operator("keys", "show", "--json").json
    assert (2, 1, 2, "acme.example") == (shown["version"], shown["epoch"], shown["threshold"], shown["vendor"])
    assert {holders["bob"], holders["carol"]} == {key["kid"] for key in shown["keys"] if key["role"] == "author"}
    assert "keyset 2, 2 of 2 authors must sign" in operator("keys", "show").out
    assert rotate(operator, "apply", complete).code == 0
    assert trust == Trust.load(operator.directory / "ota-trust.json")


def test_the_online_key_and_the_epoch_are_changed_the_same_way(operator, holders):
    ran = rotate(operator, "propose", "--online", "online-2.pub", "--new-epoch", "--json")
    old = load_key(operator.directory / "ota-online.pem").key.kid.hex()
    assert ([holders["online-2"]], [old], 2) == (
        ran.json["online_added"],
        ran.json["online_removed"],
        ran.json["epoch"],
    )
    assert rotate(operator, "sign", "keyset-2.proposal", "--key", "alice.pem", "--out", "a").code == 0
    ran = rotate(operator, "combine", "a")
    assert "a new epoch" in ran.out
    assert rotate(operator, "apply", "keyset-2.keyset").code == 0
    assert "which keyset 2 does not name" in operator("keys", "show").err


def test_images_signed_after_a_new_epoch_carry_it(operator, holders, image):
    words = ("release", "sign", image, "--product", "demo", "--version", "1.0.1", "--hw", "r1", "--seq", "1")
    assert operator(*words, "--key", "alice.pem", "--out", "before").code == 0
    rotate(operator, "propose", "--new-epoch")
    rotate(operator, "sign", "keyset-2.proposal", "--key", "alice.pem", "--out", "a")
    assert rotate(operator, "combine", "a").code == rotate(operator, "apply", "keyset-2.keyset").code == 0
    assert operator(*words, "--key", "alice.pem", "--out", "after").code == 0
    from ota_bridge.security import manifest

    epochs = [manifest.read((operator.directory / name).read_bytes()).epoch for name in ("before", "after")]
    assert [1, 2] == epochs


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["propose"], "nothing changes: name --add"),
        (["propose", "--threshold", "3"], "threshold 3 with 2 author keys"),
        (["propose", "--add", "alice.pem"], "stands in it twice"),
        (["propose", "--add", "ota-online.pem"], "stands in it twice"),
        (["propose", "--add", "none.pub"], "none.pub does not exist"),
        (["propose", "--remove", "abc"], "no one author of keyset 1 is 'abc'; its authors are"),
        (["propose", "--remove", "0000000000000000"], "no one author of keyset 1"),
        (["sign", "keyset-2.proposal", "--key", "stranger.pem"], "is an author neither of keyset 1 nor of 2"),
        (["sign", "keyset-2.proposal", "--key", "ota-online.pem"], "is an author neither"),
        (["sign", "none", "--key", "bob.pem"], "`ota-bridge keys rotate propose` makes one"),
        (["sign", "bob.pem", "--key", "bob.pem"], "not a keyset"),
        (["sign", "keyset-2.proposal", "--key", "bob.pem", "--out", "bob.pem"], "exists already"),
        (["combine", "keyset-2.proposal"], "not enough have signed"),
        (["combine", "none"], "does not exist"),
        (["apply", "keyset-2.proposal"], "REFUSED_KEYS_FORM"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(operator, proposed, words, expected):
    before = {path.name: path.read_bytes() for path in operator.directory.iterdir()}
    ran = rotate(operator, *words)
    assert (ran.code, before) == (1, {path.name: path.read_bytes() for path in operator.directory.iterdir()})
    assert expected in ran.err


def test_a_copy_with_a_broken_signature_is_named(operator, proposed):
    first, second = signed(operator, "bob", "carol")
    data = (operator.directory / second).read_bytes()
    (operator.directory / second).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ran = rotate(operator, "combine", first, second)
    assert (ran.code, f"{second}: not a keyset: the signature by" in ran.err) == (1, True)


def test_copies_of_different_proposals_are_not_combined(operator, proposed):
    rotate(operator, "propose", "--add", "carol.pub", "--out", "other")
    rotate(operator, "sign", "other", "--key", "alice.pem", "--out", "other.alice")
    ran = rotate(operator, "combine", *signed(operator, "bob"), "other.alice")
    assert (ran.code, "not copies of one proposal" in ran.err) == (1, True)


def test_a_keyset_that_skips_one_is_neither_signed_nor_applied(operator, complete, tmp_path):
    shutil.copy(operator.directory / "ota-trust.json", operator.directory / "first.json")
    rotate(operator, "apply", complete)
    rotate(operator, "propose", "--threshold", "1")
    for words in (["sign", "keyset-3.proposal", "--key", "bob.pem"], ["apply", "keyset-3.proposal"]):
        ran = rotate(operator, *words, "--trust", "first.json")
        assert (ran.code, "REFUSED_KEYS_" in ran.err) == (1, True)
    ran = rotate(operator, "sign", "keyset-2.proposal", "--key", "bob.pem", "--out", "late")
    assert "REFUSED_KEYS_ROLLBACK: it is keyset 2, keyset 2 is there" in ran.err


def test_after_a_rotation_keys_new_adds_no_author(operator, complete):
    rotate(operator, "apply", complete)
    ran = operator("keys", "new", "--out", "dave.pem")
    assert (ran.code, (operator.directory / "dave.pem").exists()) == (1, False)
    assert "needs `ota-bridge keys rotate`" in ran.err


def test_a_pair_touches_no_trust_document_and_overwrites_nothing(operator):
    ran = operator("keys", "new", "--pair", "--out", "x.pem", "--json")
    assert sorted(path.name for path in operator.directory.iterdir()) == ["x.pem", "x.pub"]
    assert ran.json["kid"] == load_key(operator.directory / "x.pem").key.kid.hex()
    (operator.directory / "x.pem").rename(operator.directory / "y.pem")
    ran = operator("keys", "new", "--pair", "--out", "x.pem")
    assert (ran.code, (operator.directory / "x.pem").exists()) == (1, False)
    assert "x.pub exists already" in ran.err


# --- with a daemon ----------------------------------------------------------------------------------------------------


def test_without_a_daemon_nothing_is_published(operator, complete):
    ran = rotate(operator, "publish", complete)
    assert (ran.code, "no daemon is running" in ran.err) == (3, True)


@pytest.fixture
def published(operator, daemon):
    """The fixture `daemon` made ota-author.pem and keyset 1; successor.pem takes its place in keyset 2."""
    kid = load_key(operator.directory / "ota-author.pem").key.kid.hex()
    operator("keys", "new", "--pair", "--out", "successor.pem")
    rotate(operator, "propose", "--add", "successor.pub", "--remove", kid)
    for name in ("ota-author", "successor"):
        rotate(operator, "sign", "keyset-2.proposal", "--key", f"{name}.pem", "--out", f"2.{name}")
    assert rotate(operator, "combine", "2.ota-author", "2.successor").code == 0
    return rotate(operator, "publish", "keyset-2.keyset")


def test_a_published_keyset_counts_for_the_daemon_and_for_commands_beside_it(operator, published, image):
    assert published.code == 0
    assert published.out == "keyset 2 is published: 1 of 1 authors must sign\n"
    assert Trust.load(operator.directory / "ota-trust.json").keyset.version == 1
    assert operator("keys", "show", "--json").json["version"] == 2
    assert operator("keys", "show", "--trust", "ota-trust.json", "--json").json["version"] == 1
    words = ("release", "add", image, "--product", "demo", "--version", "1.1.0", "--hw", "r1")
    old = operator(*words, "--json")
    assert (old.code, old.json["error"]["code"]) == (1, "refused")
    assert "REFUSED_SIG: 0 of the 1 required author signatures are there" in old.json["error"]["message"]
    assert operator(*words, "--key", "successor.pem").code == 0


def test_after_a_new_epoch_the_next_seq_begins_at_1(operator, daemon, publish):
    publish("1.0.1", "--seq", "4294967295")
    rotate(operator, "propose", "--new-epoch")
    rotate(operator, "sign", "keyset-2.proposal", "--key", "ota-author.pem", "--out", "a")
    rotate(operator, "combine", "a")
    assert rotate(operator, "publish", "keyset-2.keyset").code == 0
    publish("1.0.2")
    parts = operator("release", "show", "1.0.2", "--json").json["parts"]["firmware"]
    assert (2, 1) == (parts["epoch"], parts["seq"])


def test_publishing_twice_says_so_and_what_does_not_follow_is_refused_by_name(operator, published):
    again = rotate(operator, "publish", "keyset-2.keyset")
    assert (again.code, "was there already" in again.out) == (0, True)
    (operator.directory / "bad").write_bytes(b"\x80")
    for file, expected in (("bad", "REFUSED_KEYS_FORM"), ("keyset-2.proposal", "was there already")):
        ran = rotate(operator, "publish", file, "--json")
        assert expected in ran.out or ran.json.get("already")


def test_an_online_key_that_the_daemon_does_not_hold_is_pointed_out(operator, daemon):
    operator("keys", "new", "--pair", "--out", "next.pem")
    rotate(operator, "propose", "--online", "next.pub")
    rotate(operator, "sign", "keyset-2.proposal", "--key", "ota-author.pem", "--out", "a")
    rotate(operator, "combine", "a")
    ran = rotate(operator, "publish", "keyset-2.keyset")
    assert "the daemon's online key is not in this keyset" in ran.err
    assert load_key(operator.directory / "next.pem").key.kid.hex() in ran.err
    (operator.directory / "next.pem").replace(operator.directory / "ota-online.pem")
    assert rotate(operator, "publish", "keyset-2.keyset").err == ""


def test_a_restore_of_a_backup_from_before_keeps_the_keysets(operator, daemon):
    assert operator("backup", "before.tar").code == 0
    rotate(operator, "propose", "--new-epoch")
    rotate(operator, "sign", "keyset-2.proposal", "--key", "ota-author.pem", "--out", "a")
    rotate(operator, "combine", "a")
    assert rotate(operator, "publish", "keyset-2.keyset").code == 0
    daemon.stop()
    assert operator("restore", "before.tar").code == 0
    assert operator("keys", "show", "--json").json["version"] == 2


def test_device_views_name_the_keyset(operator, published, daemon):
    daemon.report("demo/d1", keys=1)
    assert operator("device", "show", "demo/d1", "--json").json["keyset"] == 1
    assert {"type": "update_keys", "version": 2} == {
        key: value
        for message in daemon.link.published
        if b"update_keys" in message.payload
        for key, value in json.loads(message.payload).items()
        if key != "keyset"
    }


SECURITY_PAGE = Path(__file__).parents[3] / "docs" / "security.md"


def walk_through():
    """(command, lines that it prints) of each command between the marks of the page."""
    text = SECURITY_PAGE.read_text(encoding="utf-8")
    part = text.partition("<!-- walk-through")[2].partition("<!-- /walk-through -->")[0]
    found = []
    for line in "\n".join(re.findall(r"^```console\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)).splitlines():
        if line.startswith("$ "):
            found.append((shlex.split(line[2:]), []))
        elif line:
            found[-1][1].append(line)
    return found


def with_any_keys(lines):
    """Key ids differ from run to run, and with them the order of a table."""
    return sorted(re.sub(r"[0-9a-f]{16}", "KID", line) for line in lines)


def test_the_walk_through_of_the_security_page_runs_as_it_is_written(operator, daemon):
    """With the keys of docs/protocol.md as those of keyset 1, and a daemon beside."""
    for name in ("ota-author.pem", "ota-online.pem"):
        (operator.directory / name).unlink()
    docs_samples.AUTHOR.save(operator.directory / "ota-author.pem")
    docs_samples.ONLINE.save(operator.directory / "ota-online.pem")
    docs_samples.TRUST.save(operator.directory / "ota-trust.json")
    commands = walk_through()
    assert len(commands) >= 16
    for words, printed in commands:
        if words[0] == "mv":
            shutil.move(operator.directory / words[1], operator.directory / words[2])
            continue
        ran = operator(*words[1:])
        assert 0 == ran.code, f"{words}: {ran.err}"
        if printed:
            assert with_any_keys(printed) == with_any_keys((ran.out + ran.err).splitlines()), words
    shown = operator("keys", "show", "--json").json
    own = {load_key(operator.directory / f"{name}.pem").key.kid.hex() for name in ("bob", "carol", "dave")}
    assert (3, 2, own) == (
        shown["version"],
        shown["threshold"],
        {key["kid"] for key in shown["keys"] if key["role"] == "author"},
    )
    assert ["ota-online.pem"] == [key["private"] for key in shown["keys"] if key["role"] == "online"]
    daemon.report("demo/d1", keys=1)
    [notice] = [message for message in daemon.link.published if b"update_keys" in message.payload]
    assert 2 == json.loads(notice.payload)["version"]


def test_a_signing_key_is_never_shown(operator, holders):
    assert "PRIVATE" not in (operator.directory / "carol.pub").read_text()
    assert isinstance(load_key(operator.directory / "carol.pem").key, SigningKey)
