"""The records of a manifest refuse at construction what could not be signed or read."""

import uuid
from dataclasses import replace

import pytest

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.manifest import (
    Dependency,
    ManifestContent,
    ManifestFacts,
    PayloadType,
    checked_domain,
    class_id,
    vendor_id,
)

CONTENT = ManifestContent(
    seq=4,
    vendor=bytes(16),
    classes=(b"a" * 16, b"b" * 16),
    version="1.1.0",
    component="firmware",
    payload_type=PayloadType.RAW,
    size_bytes=10_000,
    sha256=bytes(32),
    chunk_bytes=4096,
    merkle_root=bytes(32),
)


def test_vendor_and_class_are_uuid5():
    vendor = uuid.uuid5(uuid.NAMESPACE_DNS, "example.com")
    assert vendor.bytes == vendor_id("example.com")
    assert uuid.uuid5(vendor, "lamp/r1").bytes == class_id(vendor.bytes, "lamp", "r1")


@pytest.mark.parametrize("domain", ["", "Example.com", "example.com.", ".com", "a b", "-a.com", "a-.com", "a" * 254])
def test_a_vendor_is_a_domain_in_lower_case(domain):
    with pytest.raises(InvalidInput, match="is not a domain name in lower case"):
        checked_domain(domain)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seq", -1, "manifest: seq must be 0..4294967295, not -1"),
        ("seq", 2**32, "manifest: seq must be 0..4294967295, not 4294967296"),
        ("size_bytes", 0, "manifest: size must be 1..18446744073709551615, not 0"),
        ("size_bytes", 2**64, "manifest: size must be 1..18446744073709551615, not 18446744073709551616"),
        ("vendor", b"", "manifest: vendor must be 16 bytes, not 0"),
        ("classes", (), "0 hardware classes, 1..8 are allowed"),
        ("classes", (b"a",), "manifest: class must be 16 bytes, not 1"),
        ("classes", (b"b" * 16, b"a" * 16), "the hardware classes must be ascending, each once"),
        ("classes", (b"a" * 16, b"a" * 16), "the hardware classes must be ascending, each once"),
        ("classes", tuple(bytes([i]) * 16 for i in range(9)), "9 hardware classes, 1..8 are allowed"),
        ("chunk_bytes", 128, "manifest: chunk size must be 256..65536, not 128"),
        ("chunk_bytes", 131072, "manifest: chunk size must be 256..65536, not 131072"),
        ("chunk_bytes", 5000, "chunk size 5000 is not a power of two"),
        ("sha256", b"", "manifest: sha256 must be 32 bytes, not 0"),
        ("merkle_root", bytes(33), "manifest: Merkle root must be 32 bytes, not 33"),
        ("expires_s", -1, "manifest: expires must be 0..18446744073709551615, not -1"),
        ("device", bytes(15), "manifest: device must be 16 bytes, not 15"),
        ("precursor_sha256", b"x", "manifest: precursor sha256 must be 32 bytes, not 1"),
        ("dependencies", (Dependency(component="a", min_seq=1),) * 9, "9 dependencies, at most 8 are allowed"),
    ],
)
def test_a_field_out_of_range_is_named(field, value, expected):
    with pytest.raises(InvalidInput) as caught:
        replace(CONTENT, **{field: value})
    assert expected == str(caught.value)


@pytest.mark.parametrize("size", [1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**64 - 1])
def test_sizes_are_64_bit(size):
    assert size == replace(CONTENT, size_bytes=size).size_bytes


@pytest.mark.parametrize(("component", "seq"), [("Radio", 1), ("", 1), ("radio", 2**32)])
def test_a_dependency_names_a_component_and_a_seq(component, seq):
    with pytest.raises(InvalidInput):
        Dependency(component=component, min_seq=seq)


def test_facts_are_checked_like_content():
    values = {name: getattr(CONTENT, name) for name in ManifestContent.__dataclass_fields__}
    assert ManifestFacts(**values, digest=bytes(32)).seq == 4
    with pytest.raises(InvalidInput):
        ManifestFacts(**{**values, "seq": -1}, digest=bytes(32))
