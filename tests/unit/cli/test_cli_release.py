"""`release …`: signing here, publishing there, and what is refused."""

import base64

import pytest

from ota_bridge.security import manifest

SIGN = ("--product", "demo", "--version", "1.1.0", "--hw", "r1")


def test_sign_works_without_a_daemon_and_hashes_the_file_itself(operator, image):
    operator("keys", "new")
    ran = operator("release", "sign", image, *SIGN, "--seq", "7", "--json")
    assert ran.code == 0
    facts = manifest.read((operator.directory / "fw.bin.manifest").read_bytes())
    assert (facts.version, facts.seq, facts.size_bytes) == ("1.1.0", 7, 20_000)
    assert ran.json["sha256"] == facts.sha256.hex()


def test_sign_overwrites_no_manifest(operator, image):
    operator("keys", "new")
    operator("release", "sign", image, *SIGN, "--seq", "7")
    ran = operator("release", "sign", image, *SIGN, "--seq", "8")
    assert ran.code == 1
    assert "exists already" in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("gone.bin", *SIGN, "--seq", "1"), "image gone.bin does not exist"),
        ((".", *SIGN, "--seq", "1"), "image . cannot be read"),
        (("empty.bin", *SIGN, "--seq", "1"), "is empty"),
        (("fw.bin", "--product", "a/b", "--version", "1", "--hw", "r1", "--seq", "1"), "product 'a/b' is not valid"),
        (("fw.bin", "--product", "p", "--version", "1 0", "--hw", "r1", "--seq", "1"), "version '1 0' is not valid"),
        (("fw.bin", "--product", "p", "--version", "1", "--hw", "r/1", "--seq", "1"), "hardware id 'r/1' is not valid"),
        (("fw.bin", *SIGN, "--seq", "4294967296"), "seq must be 0..4294967295"),
        (("fw.bin", *SIGN, "--seq", "1", "--chunk", "1000"), "a power of two"),
        (("fw.bin", *SIGN, "--seq", "1", "--component", "No Good"), "component 'No Good' is not valid"),
        (("fw.bin", *SIGN, "--seq", "1", "--key", "gone.pem"), "key file gone.pem does not exist"),
        (("fw.bin", *SIGN, "--seq", "1", "--key", "fw.bin"), "key file fw.bin"),
        (("fw.bin", *SIGN, "--seq", "1", "--vendor", "NO!"), "is not a domain name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_signed_is_said_in_one_sentence(operator, image, words, sentence):
    operator("keys", "new")
    (operator.directory / "empty.bin").touch()
    ran = operator("release", "sign", *words)
    assert ran.code == 1
    assert sentence in ran.err
    assert list(operator.directory.glob("*.manifest")) == []


def test_add_signs_publishes_and_shows(operator, daemon, publish):
    ran = publish("1.1.0")
    assert "release demo/1.1.0: firmware, 19.5 KiB, seq 1" in ran.out
    listed = operator("release", "list", "--json").json["releases"]
    assert [(release["id"], release["state"], release["hardware"]) for release in listed] == [
        ("demo/1.1.0", "active", ["r1"])
    ]
    shown = operator("release", "show", "demo/1.1.0", "--json").json
    assert shown == listed[0]
    assert operator("release", "show", "1.1.0", "--json").json == shown
    assert "demo/1.1.0" in operator("release", "list").out
    assert shown["parts"]["firmware"]["sha256"] in operator("release", "show", "1.1.0").out


def test_the_next_release_gets_the_next_seq(operator, publish):
    publish("1.1.0")
    publish("1.2.0")
    publish("2.0.0", "--seq", "10")
    publish("2.1.0")
    releases = operator("release", "list", "--json").json["releases"]
    assert [release["parts"]["firmware"]["seq"] for release in releases] == [1, 2, 10, 11]


def test_a_manifest_signed_elsewhere_is_published_without_a_key_here(operator, daemon, image):
    operator("release", "sign", image, *SIGN, "--seq", "3")
    (operator.directory / "ota-author.pem").unlink()
    ran = operator("release", "add", image, *SIGN, "--manifest", "fw.bin.manifest", "--json")
    assert (ran.code, ran.json["parts"]["firmware"]["seq"]) == (0, 3)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--manifest", "gone"), "manifest gone does not exist"),
        (("--manifest", "fw.bin"), "cannot be read: it is larger"),
        (("--manifest", "junk"), "REFUSED_SIG"),
        (("--manifest", "fw.bin.manifest", "--key", "ota-author.pem"), "exclude each other"),
        (("--manifest", "fw.bin.manifest", "--component", "mcu2"), "is for firmware 1.1.0, not mcu2 1.1.0"),
        (("--seq", "0"), "seq"),
        (("--key", "gone.pem"), "key file gone.pem does not exist"),
    ],
)
def test_what_cannot_be_published_is_said_in_one_sentence(operator, daemon, image, more, sentence):
    operator("release", "sign", image, *SIGN, "--seq", "3")
    (operator.directory / "junk").write_bytes(b"junk")
    ran = operator("release", "add", image, *SIGN, *more)
    assert ran.code in (1, 2)
    assert sentence in ran.err
    assert operator("release", "list", "--json").json == {"releases": []}


def test_an_image_that_is_not_the_signed_one_is_refused_before_it_is_sent(operator, daemon, image):
    operator("release", "sign", image, *SIGN, "--seq", "3")
    image.write_bytes(image.read_bytes()[:-1] + b"!")
    ran = operator("release", "add", image, *SIGN, "--manifest", "fw.bin.manifest")
    assert ran.code == 1
    assert "is not the one that the manifest was made for" in ran.err


def test_an_author_whom_the_daemon_does_not_trust_is_refused_by_name(operator, daemon, image):
    operator("keys", "new", "--out", "stranger.pem", "--trust", "other.json", "--online", "other.pem")
    ran = operator("release", "add", image, *SIGN, "--key", "stranger.pem", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "refused")
    assert "REFUSED_SIG" in ran.err


def test_the_same_release_twice_is_a_conflict(operator, publish, image):
    publish("1.1.0")
    ran = operator("release", "add", image, *SIGN, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "conflict")


def test_another_component_is_added_to_the_release(operator, publish):
    publish("1.1.0")
    publish("1.1.0", "--component", "mcu2")
    assert set(operator("release", "show", "1.1.0", "--json").json["parts"]) == {"firmware", "mcu2"}


def test_a_second_author_signs_the_same_manifest(operator, image):
    operator("keys", "new")
    operator("keys", "new", "--out", "second.pem")
    operator("release", "sign", image, *SIGN, "--seq", "3")
    ran = operator("release", "cosign", image, "fw.bin.manifest", "--key", "second.pem", "--out", "both", "--json")
    assert (ran.code, len(ran.json["signers"])) == (0, 2)
    image.write_bytes(b"another")
    ran = operator("release", "cosign", image, "fw.bin.manifest", "--key", "second.pem", "--out", "third")
    assert ran.code == 1
    assert not (operator.directory / "third").exists()


def test_withdraw(operator, publish):
    publish("1.1.0")
    assert operator("release", "withdraw", "1.1.0", "--reason", "bad").code == 0
    assert operator("release", "show", "1.1.0", "--json").json["state"] == "withdrawn"
    again = operator("release", "withdraw", "1.1.0")
    assert (again.code, "already withdrawn" in again.err) == (1, True)


def test_a_release_that_is_not_there(operator, daemon):
    ran = operator("release", "show", "9.9.9", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "not_found")


def test_the_envelope_travels_as_base64(operator, daemon, publish, monkeypatch):
    sent = []
    from ota_bridge.cli.session import Session

    original = Session.call
    monkeypatch.setattr(
        Session, "call", lambda self, op, args, **more: sent.append((op, args)) or original(self, op, args, **more)
    )
    publish("1.1.0")
    [args] = [args for op, args in sent if op == "release.add"]
    assert manifest.read(base64.b64decode(args["envelope"])).version == args["version"] == "1.1.0"


def test_a_release_that_devices_are_past_is_a_warning(operator, daemon, publish):
    daemon.report("demo/d1", "3.0.0", manifest_seq=7)
    ran = publish("1.1.0")
    assert "warning: 1 devices report a seq of up to 7 and will not take it" in ran.err
    assert "warning" not in publish("1.2.0", "--seq", "8").err


def test_bounds_own_versions_and_needs_are_shown(operator, daemon, publish):
    assert publish("7.1", "--component", "radio", "--version", "2.0", "--part-version", "7.1").code == 0
    ran = publish("2.0", "--from", "1.0", "--from", ">=1.2,<2", "--needs", "radio=1", "--seq", "5", "--min-seq", "3")
    assert (0, "") == (ran.code, ran.err.partition("bring it")[0])
    shown = operator("release", "show", "2.0").lines()
    assert ["firmware", "2.0", "1.0 or >=1.2,<2, seq 3 on", "radio seq 1"] == shown[-2][:4]
    assert ["radio", "7.1", "any version", "-"] == shown[-1][:4]
    assert "firmware: 1.0 or >=1.2,<2" in operator("release", "list").out
    assert "radio 7.1 19.5 KiB" in operator("release", "list").out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--from", "1.x"), "bound '1.x' is no version; write a range, such as >=1,<2"),
        (("--from", ">=2,<1"), "holds for no version at all"),
        (("--from", "1.1.0"), "a cycle: 1.1.0 -> 1.1.0"),
        (("--seq", "3", "--min-seq", "3"), "was signed for what has seq 3 at least, and has 3 itself"),
        (("--needs", "radio"), "write COMPONENT=SEQ, such as radio=3"),
        (("--needs", "radio=3"), "needs radio with seq 3 at least, which no device reports"),
    ],
)
def test_what_can_never_be_installed_is_refused_when_it_is_added(operator, daemon, publish, image, words, sentence):
    publish("0.9")
    ran = operator("release", "add", image, *SIGN, *words)
    assert 1 == ran.code
    assert sentence in ran.err


def test_a_path_is_shown_step_by_step(operator, daemon, publish, image):
    publish("2.0", "--from", "1.0")
    (operator.directory / image).write_bytes(b"another image")
    publish("3.0", "--from", ">=2,<3", "--in-advance")
    assert "firmware: 1.0 -> 2.0 -> 3.0: 2 steps, 19.5 KiB\n" == operator("release", "path", "3.0", "--from", "1.0").out
    assert "no path from 0.9 to 3.0" in operator("release", "path", "3.0", "--from", "0.9").out
    steps = operator("release", "path", "3.0", "--from", "1.0", "--json").json["parts"]["firmware"]["steps"]
    assert ["demo/2.0", "demo/3.0"] == [step["release"] for step in steps]
    assert 1 == operator("release", "path", "3.0").code
