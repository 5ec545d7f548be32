"""Taking a release in: the manifest first, then the artifact, then the release; what is refused leaves nothing."""

import base64
from types import SimpleNamespace

import pytest
from core_world import World, facts_of, image_of

from ota_bridge.core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    KeysetReason,
    KeysetRefused,
    Malformed,
    ManifestRefused,
    RefusedReason,
)
from ota_bridge.core.people import Caller
from ota_bridge.door import Door
from ota_bridge.intake import Intake
from ota_bridge.store.blobs import BlobStore

IMAGE = image_of("1.1.0")
FACTS = facts_of()
ENVELOPE = b"a signed envelope"
STEP = b"a signed step"
ANN = Caller(user="ann")
ARGS = {
    "envelope": base64.b64encode(ENVELOPE).decode(),
    "product": "prod",
    "version": "1.1.0",
    "hw": ["r1"],
    "file_name": "fw.bin",
}


class Uploads:
    """Pieces of a file, counted as they are taken."""

    def __init__(self, *pieces):
        self.pieces, self.taken = pieces, 0

    async def __aiter__(self):
        for piece in self.pieces:
            self.taken += 1
            yield piece


@pytest.fixture
def world():
    return World()


@pytest.fixture
def blobs(tmp_path):
    store = BlobStore(tmp_path)
    yield store
    store.close()


def verify(envelope):
    if envelope != ENVELOPE:
        raise ManifestRefused(RefusedReason.SIG, "nobody trusted signed it")
    return FACTS


def publish(step):
    if step != STEP:
        raise KeysetRefused(KeysetReason.OLD, "nobody trusted signed it")
    return {"version": 2, "authors": ["ab"]}


@pytest.fixture
def intake(world, blobs):
    async def commit(work):
        return world.commit(work)[0]

    door = Door(world.store, lambda: world.now)
    gateway = SimpleNamespace(bridge=world.bridge, now=lambda: world.now, commit=commit, door=door)
    return Intake(gateway, blobs, verify, publish)


def files(blobs):
    """Every file under the store's directory."""
    return {path for path in blobs._root.rglob("*") if path.is_file()}


def kept(blobs):
    return {blobs.blob_path(FACTS.sha256), blobs.chunk_list_path(FACTS.merkle_root)}


@pytest.mark.parametrize("cut", [1, 4096, 10_000])
async def test_a_release_is_there_with_its_artifact_however_it_was_cut(world, blobs, intake, cut):
    pieces = [IMAGE[at : at + cut] for at in range(0, len(IMAGE), cut)] if cut > 1 else [IMAGE[:1], IMAGE[1:]]
    view = await intake.add(ANN, ARGS, Uploads(*pieces))
    assert ("prod/1.1.0", "ann", "fw.bin") == (view["id"], view["created_by"], view["parts"]["firmware"]["file_name"])
    artifact = blobs.open(FACTS)
    artifact.fetch(0, len(IMAGE))
    assert IMAGE == bytes(artifact.view(0, len(IMAGE)))
    artifact.close()
    assert kept(blobs) == files(blobs)
    assert ["prod/1.1.0"] == [row["id"] for row in world.do("release.list")]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"envelope": base64.b64encode(b"forged").decode()}, ManifestRefused, "REFUSED_SIG"),
        ({"envelope": "%%%"}, InvalidInput, "not base64"),
        ({"envelope": None}, Malformed, "envelope is missing"),
        ({"envelope": "A" * 1025}, Malformed, "bytes of text"),
        ({"product": "pr od"}, InvalidInput, "product"),
        ({"product": "other"}, InvalidInput, "not signed for exactly other/r1"),
        ({"version": "1.2.0"}, InvalidInput, "signed for version 1.1.0, not 1.2.0"),
        ({"version": "3", "part_version": "1.2"}, InvalidInput, "signed for version 1.1.0, not 1.2; where a component"),
        ({"version": "3 0", "part_version": "1.1.0"}, InvalidInput, "version"),
        ({"installs_from": ["1.x"]}, InvalidInput, "write a range"),
        ({"installs_from": "1.0"}, Malformed, "installs_from"),
        ({"hw": []}, Malformed, "hw"),
        ({"hw": ["r1", "r2"]}, InvalidInput, "not signed for exactly prod/r1, prod/r2"),
        ({"hw": "r1"}, Malformed, "hw"),
        ({"hw": ["r 1"]}, InvalidInput, "hardware id"),
        ({"surprise": 1}, Malformed, "'surprise' is not known"),
    ],
)
async def test_what_does_not_hold_is_refused_before_the_first_byte_is_taken(world, blobs, intake, changes, error, says):
    upload = Uploads(IMAGE)
    with pytest.raises(error, match=says):
        await intake.add(ANN, ARGS | changes, upload)
    assert 0 == upload.taken
    assert not blobs.has(FACTS)
    assert [] == world.do("release.list")


@pytest.mark.parametrize(
    "pieces", [(IMAGE[:-1],), (IMAGE, b"x"), (b"y" + IMAGE[1:],), (), (IMAGE[:5000], IMAGE[:5000])]
)
async def test_an_artifact_that_is_not_the_signed_one_is_refused_and_leaves_nothing(world, blobs, intake, pieces):
    with pytest.raises((InvalidInput, ManifestRefused)):
        await intake.add(ANN, ARGS, Uploads(*pieces))
    assert not blobs.has(FACTS)
    assert set() == files(blobs)
    assert [] == world.do("release.list")


async def test_no_more_is_taken_than_was_signed(intake):
    upload = Uploads(*[bytes(10_000)] * 100)
    with pytest.raises(InvalidInput, match="larger than the 10000 bytes that were signed"):
        await intake.add(ANN, ARGS, upload)
    assert 2 == upload.taken


async def test_a_component_may_have_a_version_of_its_own_and_bounds_on_what_it_installs_from(world, intake):
    view = await intake.add(
        ANN,
        ARGS | {"version": "2026.1", "part_version": "1.1.0", "installs_from": ["1.0", ">=1.0.5"]},
        Uploads(IMAGE),
    )
    part = view["parts"]["firmware"]
    assert ("prod/2026.1", "2026.1", "1.1.0") == (view["id"], view["version"], part["version"])
    assert ["1.0", ">=1.0.5"] == part["installs_from"]


async def test_a_file_is_needed(intake):
    with pytest.raises(InvalidInput, match="bytes are missing"):
        await intake.add(ANN, ARGS, None)


async def test_an_upload_that_breaks_off_leaves_nothing(blobs, intake):
    async def broken():
        yield IMAGE[:100]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await intake.add(ANN, ARGS, broken())
    assert set() == files(blobs)


async def test_the_same_upload_again_puts_a_damaged_file_back_even_after_a_rollout(world, blobs, intake):
    first = await intake.add(ANN, ARGS, Uploads(IMAGE))
    world.rollout()
    blobs.blob_path(FACTS.sha256).unlink()
    assert first == await intake.add(Caller(user="bob"), ARGS, Uploads(IMAGE))
    assert blobs.has(FACTS)


async def test_another_manifest_for_the_same_release_is_a_conflict(world, intake):
    world.release("1.1.0", seq=7)
    with pytest.raises(Conflict, match="holds this image, signed with seq 7"):
        await intake.add(ANN, ARGS, Uploads(IMAGE))


# --- rotations ---------------------------------------------------------------------------------------------------------


async def test_a_rotation_is_checked_and_kept_and_told(intake, caplog):
    step = base64.b64encode(STEP).decode()
    assert {"version": 2, "authors": ["ab"]} == await intake.publish_keyset(ANN, {"keyset": step})
    assert "ann published keyset 2: authors ['ab']" in caplog.text


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"keyset": base64.b64encode(b"another").decode()}, KeysetRefused),
        ({"keyset": "not base64!"}, InvalidInput),
        ({"keyset": "A" * 2049}, Malformed),
        ({"keyset": 7}, Malformed),
        ({}, Malformed),
        ({"keyset": "", "more": 1}, Malformed),
    ],
)
async def test_what_is_no_rotation_is_refused(intake, args, error):
    with pytest.raises(error):
        await intake.publish_keyset(ANN, args)


async def test_what_is_taken_in_is_recorded_and_what_is_refused_too(world, intake):
    await intake.add(ANN, ARGS, Uploads(IMAGE))
    with pytest.raises(ManifestRefused):
        await intake.add(ANN, ARGS | {"envelope": base64.b64encode(b"other").decode()}, Uploads(IMAGE))
    await intake.publish_keyset(ANN, {"keyset": base64.b64encode(STEP).decode()})
    found = [(one.actor, one.action, one.subject, one.result) for one in world.read(lambda unit: unit.audit.page())]
    assert [
        ("ann", "release.add", "release prod/1.1.0", "ok"),
        ("ann", "release.add", "release", "refused"),
        ("ann", "keys.publish", "keys", "ok"),
    ] == found


async def test_who_is_no_author_is_refused_before_a_byte_is_taken(world, intake, blobs):
    world.caller = Caller(user="root", is_owner=True)
    world.do("user.add", user="ann", roles=["operator", "approver", "admin"])
    uploads, before = Uploads(IMAGE), files(blobs)
    with pytest.raises(Forbidden, match=r"release.add needs the role author, and ann has admin, approver, operator"):
        await intake.add(ANN, ARGS, uploads)
    with pytest.raises(Forbidden, match=r"keys.publish needs the role author"):
        await intake.publish_keyset(ANN, {"keyset": base64.b64encode(STEP).decode()})
    assert (0, before) == (uploads.taken, files(blobs))
