"""What survives a restart of such a device: the image it runs, whether that is on trial, and what it goes back to."""

import base64
import binascii
import hashlib
import json
import re
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

SIGNATURE_MAX: Final = 384
_VERSION: Final = re.compile(rb"version=([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,5})")
_HEAD_BYTES: Final = 256
_PARTS: Final = 3


def version_of(image: bytes, running: str) -> str:
    """The version that is compiled into an image: `version=1.2.3` near its start, or else one step above `running`."""
    found = _VERSION.search(image[:_HEAD_BYTES])
    if found:
        return found[1].decode()
    major, minor, build = parts(running)
    return f"{major}.{minor + 1}.{build}"


def parts(version: str) -> tuple[int, int, int]:
    """Major, minor and build; what is not a number counts as 0."""
    numbers = [int(part) if part.isdecimal() else 0 for part in version.split(".")] + [0] * _PARTS
    return numbers[0], numbers[1], numbers[2]


def word(version: str) -> int:
    """The version in 32 bits, as the agent compares and reports it."""
    major, minor, build = parts(version)
    return (major & 0xFF) << 24 | (minor & 0xFF) << 16 | build & 0xFFFF


class Flash:
    """Two images and which of them runs. With a directory it is kept in `aws-flash.json`.

    A file `signer.pem` in the directory is the public key that images have to be signed with (P-256); without it any
    signature is good.
    """

    def __init__(self, version: str, directory: Path | None) -> None:
        self.version = version
        self.previous = version
        self.is_pending = False
        self.sha256 = ""
        self.installs = 0
        self.restarts = 0
        self._file = directory / "aws-flash.json" if directory else None
        self._key: EllipticCurvePublicKey | None = None
        if directory and (directory / "signer.pem").is_file():
            key = load_pem_public_key((directory / "signer.pem").read_bytes())
            self._key = key if isinstance(key, EllipticCurvePublicKey) else None
        if self._file and self._file.is_file():
            for name, value in json.loads(self._file.read_text()).items():
                setattr(self, name, value)

    def is_signed(self, image: bytes, signature: str) -> bool:
        """Whether the signature of a job document holds for an image."""
        if self._key is None:
            return True
        try:
            self._key.verify(base64.b64decode(signature, validate=True), image, ECDSA(SHA256()))
        except (InvalidSignature, binascii.Error):
            return False
        return True

    def install(self, image: bytes) -> None:
        """The next restart runs this image, on trial."""
        self.previous, self.version = self.version, version_of(image, self.version)
        self.sha256 = hashlib.sha256(image).hexdigest()
        self.is_pending = True
        self.installs += 1
        self.save()

    def commit(self) -> None:
        """The image on trial stays."""
        self.is_pending = False
        self.save()

    def roll_back(self) -> None:
        """An image on trial is given up; the one before runs again."""
        if self.is_pending:
            self.version, self.is_pending, self.sha256 = self.previous, False, ""
            self.save()

    def save(self) -> None:
        """Write it to the directory, where there is one."""
        if self._file is None:
            return
        names = ("version", "previous", "is_pending", "sha256", "installs", "restarts")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps({name: getattr(self, name) for name in names}))


def is_base64_signature(text: str) -> bool:
    """Whether the agent can store a signature: base64 of at most 384 bytes."""
    try:
        return len(base64.b64decode(text, validate=True)) <= SIGNATURE_MAX
    except binascii.Error:
        return False
