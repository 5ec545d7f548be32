"""The file of a backup: what goes in comes out, and whatever is altered, cut or foreign is refused by name."""

import io
import json
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota_bridge.core.errors import InvalidInput, NewerSchema, OtaBridgeError, StoreDamaged
from ota_bridge.store import archive

DATA = b"database" * 300
LEAF = "chunks/ab/ab" + "0" * 62


def ignored(_count):
    pass


def write(path, *, members=None, **index):
    with path.open("wb") as file:
        writer = archive.ArchiveWriter(file, 1000)
        for name, data in ({archive.DATABASE_MEMBER: DATA, LEAF: b"leaf"} if members is None else members).items():
            assert writer.add(name, io.BytesIO(data), len(data), ignored)
        return writer.finish(**{"as_of_s": 900, "schema": 1, "missing": (), **index})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "backup.tar"


def read(path, directory=None):
    return archive.read(path, ignored, lambda name: directory and directory / name.replace("/", "-"))


def test_what_was_written_comes_back_byte_for_byte_with_its_index(path, tmp_path):
    index = write(path, missing=("demo/1.1.0 firmware",))
    assert index == read(path, tmp_path)
    assert (1000, 900, 1, ("demo/1.1.0 firmware",)) == (index.taken_s, index.as_of_s, index.schema, index.missing)
    assert DATA == (tmp_path / archive.DATABASE_MEMBER).read_bytes()
    assert b"leaf" == (tmp_path / LEAF.replace("/", "-")).read_bytes()


def test_tar_can_list_and_unpack_it(path, tmp_path):
    write(path)
    with tarfile.open(path, "r:") as tar:
        assert [archive.DATABASE_MEMBER, LEAF, archive.INDEX_MEMBER] == tar.getnames()
        assert DATA == tar.extractfile(archive.DATABASE_MEMBER).read()


@pytest.mark.parametrize(
    ("source", "expected"),
    [(io.BytesIO(b"shor"), None), (io.BytesIO(b"altered"), "0" * 64), (io.BytesIO(b""), None)],
)
def test_a_member_that_is_not_what_it_should_be_leaves_no_trace(path, source, expected):
    with path.open("wb") as file:
        writer = archive.ArchiveWriter(file, 0)
        assert writer.add(archive.DATABASE_MEMBER, io.BytesIO(DATA), len(DATA), ignored)
        assert not writer.add(LEAF, source, 7, ignored, expected)
        index = writer.finish(as_of_s=None, schema=1, missing=("x",))
    assert index == read(path)
    assert [archive.DATABASE_MEMBER] == list(index.members)


def test_a_sector_that_cannot_be_read_is_a_member_that_is_not_there(path):
    class Bad(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with path.open("wb") as file:
        assert not archive.ArchiveWriter(file, 0).add(LEAF, Bad(), 7, ignored)


def test_a_file_cut_anywhere_is_refused(path):
    write(path)
    whole = path.read_bytes()
    needed = len(whole.rstrip(b"\0"))
    for size in [*range(0, needed, 97), needed - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises((StoreDamaged, InvalidInput)):
            read(path)


WHOLE = None


def whole_archive(tmp_path_factory):
    global WHOLE
    if WHOLE is None:
        path = tmp_path_factory.mktemp("archive") / "a.tar"
        write(path)
        WHOLE = path.read_bytes()
    return WHOLE


@settings(deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(1, 255))
def test_an_altered_byte_is_refused_or_meant_nothing(tmp_path_factory, position, value):
    whole = whole_archive(tmp_path_factory)
    position %= len(whole)
    path = tmp_path_factory.getbasetemp() / "altered.tar"
    path.write_bytes(whole[:position] + bytes([whole[position] ^ value]) + whole[position + 1 :])
    directory = tmp_path_factory.mktemp("out")
    try:
        index = read(path, directory)
    except OtaBridgeError as error:
        assert str(path) in str(error)
    else:
        assert DATA == (directory / archive.DATABASE_MEMBER).read_bytes()
        assert {archive.DATABASE_MEMBER, LEAF} == set(index.members)


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_at_all_are_refused_in_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(data)
    with pytest.raises(OtaBridgeError, match="any.tar"):
        read(path)


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b"\xff", b"[" * 5000, b'{"format": 1, "members": {"x": [1, "y"]}}']
)
def test_an_index_that_is_none_is_damage(path, index):
    write(path, members={})
    with path.open("wb") as file:
        file.write(archive._head(archive.INDEX_MEMBER, len(index), 0) + index + bytes(-len(index) % 512))
    with pytest.raises(StoreDamaged, match="index cannot be read"):
        read(path)


def test_an_index_that_lists_something_else_is_damage(path):
    write(path)
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"chunks/ab', b'"blobs/ab '))
    with pytest.raises(StoreDamaged, match="does not fit"):
        read(path)


def test_a_later_format_asks_for_a_later_program(path):
    index = json.dumps({"format": 2}).encode()
    path.write_bytes(archive._head(archive.INDEX_MEMBER, len(index), 0) + index + bytes(-len(index) % 512))
    with pytest.raises(NewerSchema, match="format 2, this program knows 1: upgrade"):
        read(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "blobs/ab/ab", "blobs/ab/../x", LEAF])
def test_nothing_but_its_own_names_is_ever_written(path, tmp_path, name):
    with path.open("wb") as file:
        for one in (archive.DATABASE_MEMBER, LEAF, name):
            file.write(archive._head(one, 1, 0) + b"x" + bytes(511))
    with pytest.raises(StoreDamaged, match="which no backup does, or holds it twice"):
        read(path, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_not_read(path, kind):
    info = tarfile.TarInfo(archive.DATABASE_MEMBER)
    info.type, info.linkname = kind, "/etc/passwd"
    path.write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(InvalidInput, match="not a backup of the bridge"):
        read(path)


def test_a_member_is_written_once_and_only_for_its_owner(path, tmp_path):
    write(path)
    read(path, tmp_path)
    assert 0o600 == (tmp_path / archive.DATABASE_MEMBER).stat().st_mode & 0o777
    with pytest.raises(FileExistsError):
        read(path, tmp_path)


def test_a_source_that_grows_while_it_is_copied_is_copied_to_its_size(path, tmp_path):
    grown = tmp_path / "grown"
    grown.write_bytes(b"x" * 100)
    with path.open("wb") as file, grown.open("rb") as source:
        writer = archive.ArchiveWriter(file, 0)
        size = os.fstat(source.fileno()).st_size
        grown.write_bytes(b"x" * 100 + b"more")
        assert writer.add(archive.DATABASE_MEMBER, source, size, ignored)
        writer.finish(as_of_s=None, schema=1, missing=())
    assert 100 == read(path).members[archive.DATABASE_MEMBER].size_bytes
