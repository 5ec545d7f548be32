"""Keys: files that are private and never overwritten, clear errors, deterministic signatures."""

import errno
import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ota_bridge.core.errors import Conflict, InvalidInput, Malformed, NotFound
from ota_bridge.security.keys import Algorithm, PublicKey, SigningKey, load_key, load_public

X25519_CUT_SHORT = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VvBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""
"""OpenSSL fails on it without a word of its own."""

BOTH = pytest.mark.parametrize("algorithm", list(Algorithm))


def pem(private, encryption=None):
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption or serialization.NoEncryption()
    )


@BOTH
def test_a_signature_is_64_bytes_deterministic_and_verifies(algorithm):
    key = SigningKey.generate(algorithm)
    signature = key.sign(b"message")
    assert (64, signature) == (len(signature), key.sign(b"message"))
    assert key.public.verify(b"message", signature)
    assert not key.public.verify(b"messagE", signature)
    assert not SigningKey.generate(algorithm).public.verify(b"message", signature)


@BOTH
@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_a_signature_that_is_none_does_not_verify(algorithm, signature):
    assert not SigningKey.generate(algorithm).public.verify(b"message", signature)


def test_p256_is_rfc_6979():
    # RFC 6979 A.2.5, SHA-256, message "sample"
    secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    key = SigningKey(ec.derive_private_key(secret, ec.SECP256R1()))
    expected = (
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
        "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
    )
    assert expected == key.sign(b"sample").hex()


def test_ed25519_is_rfc_8032():
    # RFC 8032 7.1, test 2
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(secret))
    expected = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert expected == key.sign(b"\x72").hex()


@BOTH
def test_the_key_id_is_the_head_of_the_digest_of_the_public_key(algorithm):
    public = SigningKey.generate(algorithm).public
    assert {Algorithm.ED25519: 32, Algorithm.P256: 65}[algorithm] == len(public.raw)
    assert hashlib.sha256(public.raw).digest()[:8] == public.kid


@BOTH
@pytest.mark.parametrize("password", [None, b"secret"])
def test_a_saved_key_is_private_and_loads_again(tmp_path, algorithm, password):
    key = SigningKey.generate(algorithm)
    path = tmp_path / "key.pem"
    key.save(path, password=password)
    loaded = load_key(path, password=password)
    assert (stat.S_IMODE(path.stat().st_mode), loaded.warning) == (0o600, None)
    assert key.public == loaded.key.public
    assert key.sign(b"m") == loaded.key.sign(b"m")
    assert [path] == list(tmp_path.iterdir())


def test_a_key_file_is_never_overwritten(tmp_path):
    path = tmp_path / "key.pem"
    SigningKey.generate().save(path)
    before = path.read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        SigningKey.generate().save(path)
    assert before == path.read_bytes()
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Conflict, match="exists already"):
        SigningKey.generate().save(link)


def test_a_directory_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be written: No such file or directory"):
        SigningKey.generate().save(tmp_path / "none" / "key.pem")


def test_a_key_that_others_can_read_loads_with_a_warning(tmp_path):
    path = tmp_path / "key.pem"
    SigningKey.generate().save(path)
    path.chmod(0o640)
    assert f"key file {path} can be read by others (mode 0640): chmod 600 {path}" == load_key(path).warning


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="does not exist; `ota-bridge keys new` makes one"):
        load_key(tmp_path / "key.pem")


def test_a_password_is_asked_for_and_checked(tmp_path):
    path = tmp_path / "key.pem"
    SigningKey.generate().save(path, password=b"secret")
    with pytest.raises(InvalidInput, match="is encrypted: it needs its password"):
        load_key(path)
    with pytest.raises(InvalidInput, match="wrong password, or damaged"):
        load_key(path, password=b"other")


def test_a_password_that_is_not_needed_is_no_error(tmp_path):
    path = tmp_path / "key.pem"
    key = SigningKey.generate()
    key.save(path)
    assert key.kid == load_key(path, password=b"secret").key.kid


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds no PEM private key"),
        (b"\xff" * 100, "holds no PEM private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "holds no PEM private key"),
        (X25519_CUT_SHORT, "holds no PEM private key"),
        (b"x" * 20_000, "cannot be read: it is larger than 16384 bytes"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "a key of type secp384r1; Ed25519 or P-256 is needed"),
        (pem(rsa.generate_private_key(65537, 2048)), "a key of type RSAPrivateKey; Ed25519 or P-256 is needed"),
    ],
)
def test_another_file_is_refused_with_a_sentence(tmp_path, content, expected):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=expected):
        load_key(path)


def test_a_directory_is_no_key(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        load_key(tmp_path)


def test_a_file_that_may_not_be_read_is_said_so(tmp_path, monkeypatch):
    def denied(*_args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # root reads every file
    with pytest.raises(InvalidInput, match=r"key\.pem cannot be read: Permission denied"):
        load_key(tmp_path / "key.pem")


@pytest.mark.parametrize(
    ("algorithm", "raw"),
    [
        (Algorithm.ED25519, bytes(31)),
        (Algorithm.ED25519, bytes(65)),
        (Algorithm.P256, bytes(32)),
        (Algorithm.P256, b"\x04" + bytes(64)),  # not on the curve
        (Algorithm.P256, b"\x04" + b"\xff" * 64),
        (Algorithm.P256, b"\x02" + bytes(64)),
    ],
)
def test_bytes_that_are_no_public_key_are_malformed(algorithm, raw):
    with pytest.raises(Malformed):
        PublicKey(algorithm=algorithm, raw=raw)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_public_half_is_read_from_its_own_file_and_from_the_private_one(tmp_path, algorithm):
    key = SigningKey.generate(algorithm)
    key.save(tmp_path / "key.pem")
    key.save_public(tmp_path / "key.pub")
    assert key.public == load_public(tmp_path / "key.pub") == load_public(tmp_path / "key.pem")
    assert key.public == PublicKey.of(key.public.raw)
    assert b"PRIVATE" not in (tmp_path / "key.pub").read_bytes()
    with pytest.raises(Conflict, match="exists already"):
        key.save_public(tmp_path / "key.pub")


def test_another_public_file_is_refused_with_a_sentence(tmp_path):
    path = tmp_path / "key.pub"
    with pytest.raises(NotFound, match="does not exist"):
        load_public(path)
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    path.write_bytes(other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InvalidInput, match="a key of type secp384r1; Ed25519 or P-256 is needed"):
        load_public(path)
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(InvalidInput, match="holds no PEM public key"):
        load_public(path)


def test_the_number_of_bytes_names_the_algorithm():
    for size in (0, 31, 33, 64, 66):
        with pytest.raises(Malformed, match=f"32 or 65 bytes, not {size}"):
            PublicKey.of(bytes(size))


def test_a_signing_key_does_not_show_itself():
    key = SigningKey.generate()
    assert f"SigningKey(ed25519, kid={key.kid.hex()})" == repr(key)
