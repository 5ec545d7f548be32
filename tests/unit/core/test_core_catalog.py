"""Releases: components, withdrawal, and for which hardware the author signed."""

from dataclasses import replace

import pytest
from core_world import facts_of

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState, artifact_digests, is_compatible
from ota_bridge.core.errors import Conflict
from ota_bridge.core.values import release_id

PART = ReleasePart(component="firmware", envelope=b"e", manifest=facts_of(hardware=("r1", "r2")), md5="0" * 32)
RELEASE = Release(
    id=release_id("prod", "1.1.0"),
    product="prod",
    version="1.1.0",
    hardware=("r1",),
    parts={},
    state=ReleaseState.ACTIVE,
    created_wall=1.0,
    created_by="ann",
)


def test_a_release_takes_each_component_once():
    one = RELEASE.with_part(PART)
    two = one.with_part(replace(PART, component="config"))
    assert ["firmware", "config"] == list(two.parts)
    with pytest.raises(Conflict, match="already has a 'config'"):
        two.with_part(replace(PART, component="config"))


def test_a_release_is_withdrawn_once():
    gone = RELEASE.withdrawn()
    assert ReleaseState.WITHDRAWN is gone.state
    with pytest.raises(Conflict):
        gone.withdrawn()


@pytest.mark.parametrize(
    ("product", "hw", "expected"),
    [("prod", "r1", True), ("prod", "r2", True), ("prod", "r3", False), ("x", "r1", False)],
)
def test_compatible_is_what_the_signed_classes_say(product, hw, expected):
    assert expected is is_compatible(PART, product, hw)


def test_a_part_is_asked_for_by_its_image_and_its_tree():
    assert (PART.manifest.sha256, PART.manifest.merkle_root) == artifact_digests(PART)
