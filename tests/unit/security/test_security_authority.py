"""Whom the daemon trusts follows the files as they change; rotations are kept and handed on one by one."""

from dataclasses import replace

import pytest

from ota_bridge.core.errors import ConfigError, InvalidInput, KeysetRefused, ManifestRefused
from ota_bridge.core.keysets import KeysetStanding
from ota_bridge.core.values import DeviceId, Sha256
from ota_bridge.security import envelope, keyset, manifest, tokens
from ota_bridge.security.authority import Authority
from ota_bridge.security.keys import SigningKey
from ota_bridge.security.signing import sign_file
from ota_bridge.security.trust import Trust

OLD, NEW, NEWEST, ONLINE = (SigningKey.generate() for _ in range(4))
FACTORY = Trust(vendor="example.com", authors=(OLD.public,), online=(ONLINE.public,))


def step(before, author, *signers, **changes):
    after = replace(before, version=before.version + 1, authors=(author.public,), **changes)
    return envelope.seal(keyset.encode(after), signers, kind=keyset.KIND)


TO_SECOND = step(FACTORY.keyset, NEW, OLD, NEW)
SECOND = FACTORY.with_rotation(TO_SECOND)
TO_THIRD = step(SECOND.keyset, NEWEST, NEW, NEWEST)


@pytest.fixture
def place(tmp_path):
    FACTORY.save(tmp_path / "ota-trust.json")
    ONLINE.save(tmp_path / "online.pem")
    (tmp_path / "fw.bin").write_bytes(bytes(5000))
    return tmp_path


def authority(place, **options):
    options = {"own_path": place / "trust.json", **options}
    return Authority(place / "ota-trust.json", place / "online.pem", ticket_valid_s=600, **options)


def signed(place, *keys, epoch=1):
    return sign_file(
        place / "fw.bin", keys=keys, vendor_domain="example.com", product="lamp", hw=["r1"], version="1.1.0", seq=1,
        epoch=epoch,
    ).envelope  # fmt: skip


def refused(one, envelope_):
    with pytest.raises(ManifestRefused) as caught:
        one.verify(envelope_)
    return str(caught.value)


def test_a_published_rotation_counts_at_once_and_after_a_restart(place):
    one = authority(place)
    by_old, by_new = signed(place, OLD), signed(place, NEW)
    assert one.verify(by_old).seq == 1
    assert "0 of the 1 required" in refused(one, by_new)
    told = one.publish(TO_SECOND)
    assert (2, 1, [NEW.kid.hex()], False, True) == (
        told["version"],
        told["threshold"],
        told["authors"],
        told["already"],
        told["has_online_key"],
    )
    for daemon in (one, authority(place)):
        assert daemon.verify(by_new).seq == 1
        assert "0 of the 1 required" in refused(daemon, by_old)
    assert Trust.load(place / "ota-trust.json") == FACTORY
    assert Trust.load(place / "trust.json") == SECOND


def test_a_rotation_published_twice_is_there_already(place):
    one = authority(place)
    one.publish(TO_SECOND)
    before = (place / "trust.json").stat()
    assert one.publish(keyset.sign(TO_SECOND, NEWEST))["already"]
    assert before == (place / "trust.json").stat()


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (TO_THIRD, "REFUSED_KEYS_OLD"),
        (step(FACTORY.keyset, NEW, NEW), "REFUSED_KEYS_OLD"),
        (step(FACTORY.keyset, NEW, OLD), "REFUSED_KEYS_NEW"),
        (step(replace(FACTORY.keyset, version=2), NEW, OLD, NEW), "REFUSED_KEYS_STEP"),
        (b"", "REFUSED_KEYS_FORM"),
        (bytes(2000), "REFUSED_KEYS_SIZE"),
    ],
)
def test_a_rotation_that_does_not_follow_is_not_kept(place, bad, expected):
    one = authority(place)
    with pytest.raises(KeysetRefused, match=expected):
        one.publish(bad)
    assert not (place / "trust.json").exists()
    assert KeysetStanding(newest=1) == one.standing(1)


def test_each_device_is_shown_the_step_after_its_own_keyset(place):
    one = authority(place)
    one.publish(TO_SECOND)
    one.publish(TO_THIRD)
    assert [
        KeysetStanding(newest=3, following=TO_SECOND),
        KeysetStanding(newest=3, following=TO_THIRD),
        KeysetStanding(newest=3),
        KeysetStanding(newest=3),
    ] == [one.standing(version) for version in (1, 2, 3, 4)]


def test_rotations_of_both_documents_are_joined_and_checked_anew(place):
    one = authority(place)
    one.publish(TO_SECOND)
    SECOND.with_rotation(TO_THIRD).save(place / "ota-trust.json")
    assert 3 == one.trust().keyset.version
    one.publish(TO_THIRD)
    FACTORY.save(place / "ota-trust.json")
    assert 2 == one.trust().keyset.version


def test_what_was_kept_is_not_believed_once_it_contradicts_the_operators_document(place):
    one = authority(place)
    one.publish(TO_SECOND)
    Trust(vendor="example.com", authors=(NEWEST.public,)).save(place / "ota-trust.json")
    assert "contradict each other" in refused(one, signed(place, NEW))
    assert KeysetStanding(newest=1) == one.standing(1)
    with pytest.raises(InvalidInput, match="contradict each other"):
        one.publish(TO_THIRD)


def test_a_rotation_that_was_tampered_with_on_disk_is_not_handed_on(place):
    one = authority(place)
    one.publish(TO_SECOND)
    text = (place / "trust.json").read_text()
    last = text.rindex('"\n  ]')
    (place / "trust.json").write_text(text[: last - 8] + "AAAAAAA=" + text[last:])
    assert KeysetStanding(newest=1) == one.standing(1)
    assert "does not follow: REFUSED_KEYS_" in refused(one, signed(place, NEW))


def test_without_a_place_of_its_own_nothing_is_published(place):
    with pytest.raises(ConfigError):
        authority(place, own_path=None).publish(TO_SECOND)


def test_a_new_epoch_ends_what_was_signed_before_it(place):
    one = authority(place)
    before = signed(place, OLD)
    one.publish(step(FACTORY.keyset, OLD, OLD, epoch=2))
    assert refused(one, before).startswith("REFUSED_ROLLBACK: since keyset 2 seqs count anew")
    assert refused(one, signed(place, OLD, epoch=3)).startswith("REFUSED_DEP")
    assert (2, 1) == one.verify(signed(place, OLD, epoch=2)).counter


def test_the_online_key_is_read_again_when_its_file_changes(place):
    one = authority(place)
    other = SigningKey.generate()
    told = one.publish(step(FACTORY.keyset, OLD, OLD, online=(other.public,)))
    assert not told["has_online_key"]
    device, nonce, digest = DeviceId("lamp", "d1"), bytes(16), Sha256(bytes(32))

    def by(key):
        ticket = one.ticket(device, nonce, digest, 1.0)
        return tokens.verify(ticket, online=[key.public], device=str(device), nonce=nonce, manifest_digest=digest)

    assert by(ONLINE)
    (place / "online.pem").rename(place / "old.pem")
    assert by(ONLINE)
    (place / "online.pem").write_text("no key")
    assert by(ONLINE)
    (place / "online.pem").unlink()
    other.save(place / "online.pem")
    assert by(other)


def test_without_an_online_key_there_is_no_ticket(place):
    (place / "online.pem").unlink()
    one = authority(place)
    assert one.ticket(DeviceId("lamp", "d1"), bytes(16), Sha256(bytes(32)), 1.0) is None
    assert not one.publish(TO_SECOND)["has_online_key"]


def test_a_missing_document_refuses_everything_and_says_so(place):
    one = authority(place)
    envelope_ = signed(place, OLD)
    assert one.verify(envelope_)
    (place / "ota-trust.json").unlink()
    assert "no trust document" in refused(one, envelope_)
    with pytest.raises(ConfigError, match="no trust document"):
        one.publish(TO_SECOND)


def test_a_test_key_is_refused_unless_it_is_allowed_even_after_a_rotation(place):
    marked = Trust(
        vendor="example.com",
        authors=(replace(OLD.public, test=True),),
        rotations=(step(Trust(vendor="example.com", authors=(OLD.public,)).keyset, NEW, OLD, NEW),),
    )
    marked.save(place / "ota-trust.json")
    assert "holds a test key" in refused(authority(place), signed(place, NEW))
    assert authority(place, allow_test_keys=True).verify(signed(place, NEW)).seq == 1


def test_manifests_of_a_lower_threshold_end_with_the_rotation_that_raises_it(place):
    one = authority(place)
    raised = replace(FACTORY.keyset, version=2, authors=(OLD.public, NEW.public), threshold=2)
    one.publish(envelope.seal(keyset.encode(raised), [OLD, NEW], kind=keyset.KIND))
    assert "1 of the 2 required" in refused(one, signed(place, OLD))
    assert one.verify(manifest.add_signature(signed(place, OLD), NEW)).seq == 1
