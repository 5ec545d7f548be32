"""Keys that sign and verify: Ed25519 and P-256, in PEM files.

A key id (kid) is the first 8 bytes of the SHA-256 of the public key: of Ed25519 the raw 32 bytes, of P-256
the uncompressed point of 65. Signatures are 64 bytes: Ed25519, or r ‖ s of deterministic ECDSA (RFC 6979)
with SHA-256. Private keys are PEM (PKCS 8), of mode 0600, and never written over another file; public ones are
PEM (SubjectPublicKeyInfo), as openssl writes them.
"""

import hashlib
import os
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ota_bridge.core.errors import Conflict, InvalidInput, Malformed, NotFound
from ota_bridge.security.files import read_bounded, write_new

KID_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64
_HALF: Final = SIGNATURE_BYTES // 2
_PEM_BYTES_MAX: Final = 16384

_Private: TypeAlias = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
_Public: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class Algorithm(StrEnum):
    """How a key signs, by its name in the trust document."""

    ED25519 = "ed25519"
    P256 = "p256"


_PUBLIC_BYTES: Final = {Algorithm.ED25519: 32, Algorithm.P256: 65}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key; raises Malformed when the bytes are none. `test` marks one of a simulator or a test."""

    algorithm: Algorithm
    raw: bytes
    test: bool = False
    kid: bytes = field(init=False)

    def __post_init__(self) -> None:
        if len(self.raw) != _PUBLIC_BYTES[self.algorithm]:
            wanted = _PUBLIC_BYTES[self.algorithm]
            raise Malformed(f"a public key of {self.algorithm} has {wanted} bytes, not {len(self.raw)}")
        try:
            _loaded(self.algorithm, self.raw)
        except ValueError:
            raise Malformed(f"these {len(self.raw)} bytes are not a public key of {self.algorithm}") from None
        object.__setattr__(self, "kid", hashlib.sha256(self.raw).digest()[:KID_BYTES])

    @classmethod
    def of(cls, raw: bytes) -> "PublicKey":
        """The key of these bytes, whose number names the algorithm; raises Malformed."""
        for algorithm, size in _PUBLIC_BYTES.items():
            if len(raw) == size:
                return cls(algorithm=algorithm, raw=raw)
        raise Malformed(f"a public key has {' or '.join(map(str, _PUBLIC_BYTES.values()))} bytes, not {len(raw)}")

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether this key made `signature` over `message`."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        key = _loaded(self.algorithm, self.raw)
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, message)
            else:
                r, s = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
                key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=64)
def _loaded(algorithm: Algorithm, raw: bytes) -> _Public:
    if algorithm is Algorithm.ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(raw)
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)


class SigningKey:
    """A private key: an author's, or the bridge's online key for tickets. It never shows itself."""

    __slots__ = ("_private", "public")

    def __init__(self, private: _Private) -> None:
        self._private = private
        self.public = _public_half(private)

    def __repr__(self) -> str:
        """Name the key by its public half."""
        return f"SigningKey({self.algorithm}, kid={self.kid.hex()})"

    @classmethod
    def generate(cls, algorithm: Algorithm = Algorithm.ED25519) -> "SigningKey":
        """A new key from the system's random source."""
        if algorithm is Algorithm.ED25519:
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @property
    def algorithm(self) -> Algorithm:
        """How it signs."""
        return self.public.algorithm

    @property
    def kid(self) -> bytes:
        """The id of its public half."""
        return self.public.kid

    def sign(self, message: bytes) -> bytes:
        """64 bytes, the same for the same message."""
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            return self._private.sign(message)
        der = self._private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")

    def save(self, path: Path, *, password: bytes | None = None) -> None:
        """Write it as PEM with mode 0600; raises Conflict when `path` exists, InvalidInput when it cannot."""
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        _write_pem(path, pem, mode=0o600)

    def save_public(self, path: Path) -> None:
        """Write the public half for others; raises as `save` does."""
        public = self._private.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        _write_pem(path, pem, mode=0o644)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedKey:
    """A key from a file, and what is worth saying about the file (None when all is well)."""

    key: SigningKey
    warning: str | None


def load_key(path: Path, *, password: bytes | None = None) -> LoadedKey:
    """Read a PEM private key; raises NotFound or InvalidInput in a sentence that says what to do."""
    pem, status = _read_pem(path)
    warning = None
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        warning = f"key file {path} can be read by others (mode {mode:04o}): chmod 600 {path}"
    return LoadedKey(key=SigningKey(_parse_pem(pem, path, password)), warning=warning)


def load_public(path: Path) -> PublicKey:
    """Read a PEM public key, or the public half of a private one; raises as `load_key` does."""
    pem, _ = _read_pem(path)
    if b"PRIVATE" in pem:
        return load_key(path).key.public
    try:
        public = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidInput(f"key file {path} holds no PEM public key") from None
    found = _public_key(public)
    if found is None:
        raise InvalidInput(f"key file {path} holds a key of type {_kind(public)}; Ed25519 or P-256 is needed")
    return found


def _read_pem(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        return read_bounded(path, _PEM_BYTES_MAX)
    except FileNotFoundError:
        raise NotFound(f"key file {path} does not exist; `ota-bridge keys new` makes one") from None
    except OSError as error:
        raise InvalidInput(f"key file {path} cannot be read: {error.strerror}") from None


def _write_pem(path: Path, pem: bytes, *, mode: int) -> None:
    try:
        write_new(path, pem, mode=mode)
    except FileExistsError:
        raise Conflict(f"key file {path} exists already; move it away first, it is not overwritten") from None
    except OSError as error:
        raise InvalidInput(f"key file {path} cannot be written: {error.strerror}") from None


def _parse_pem(pem: bytes, path: Path, password: bytes | None) -> _Private:
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not password:
        raise InvalidInput(f"key file {path} is encrypted: it needs its password")
    try:
        private = serialization.load_pem_private_key(pem, password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):  # the last: what OpenSSL has no word for
        if encrypted:
            raise InvalidInput(f"key file {path} does not open: wrong password, or damaged") from None
        raise InvalidInput(f"key file {path} holds no PEM private key") from None
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return private
    raise InvalidInput(f"key file {path} holds a key of type {_kind(private)}; Ed25519 or P-256 is needed")


def _kind(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return key.curve.name
    return type(key).__name__.lstrip("_")


def _public_half(private: _Private) -> PublicKey:
    found = _public_key(private.public_key())
    assert found is not None
    return found


def _public_key(public: object) -> PublicKey | None:
    if isinstance(public, ed25519.Ed25519PublicKey):
        return PublicKey(algorithm=Algorithm.ED25519, raw=public.public_bytes_raw())
    if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
        point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        return PublicKey(algorithm=Algorithm.P256, raw=point)
    return None
