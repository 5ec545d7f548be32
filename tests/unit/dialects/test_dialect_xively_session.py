"""What is remembered of a Xively device."""

import pytest

from ota_bridge.core.conversation import MEMORY_MAX_BYTES
from ota_bridge.dialects.xively_session import Session

FULL = Session(
    files=(("config", "file.cfg"), ("firmware", "firmware.bin")),
    takes_urls=True,
    is_ext=True,
    has_begun=True,
    is_sealed=True,
    is_busy=True,
    listed=("0123456789ab", "ba9876543210"),
    sent_wall=1.5,
    heard_wall=2.5,
    by_url=True,
    no_urls=True,
    answers=2,
    unheard=3,
)


def test_what_was_kept_is_read_again():
    assert FULL == Session.read(FULL.kept())
    assert Session() == Session.read(Session().kept()) == Session.read(b"")


@pytest.mark.parametrize("memory", [b"\xff", b"{", b"[]", b"1", b'{"files": 3}', b'{"files": [[1]]}', b'{"listed": 1}'])
def test_what_is_not_ours_is_as_good_as_nothing(memory):
    assert Session() == Session.read(memory)


def test_fields_of_another_version_are_passed_over():
    assert Session(is_busy=True) == Session.read(b'{"is_busy": true, "is_new": 7}')


def test_the_most_that_a_device_can_tell_can_be_kept():
    files = tuple((f"{number:0>16}", f"{number:0>64}") for number in range(32))
    listed = tuple("0123456789ab" for _ in range(32))
    assert MEMORY_MAX_BYTES > len(Session(files=files, listed=listed).kept())


def test_another_connection_forgets_the_package_but_not_how_often_it_was_begun():
    found = FULL.connected((("a", "a"),), takes_urls=False, is_ext=False)
    expected = Session(files=(("a", "a"),), listed=FULL.listed, sent_wall=1.5, heard_wall=2.5, answers=2)
    assert expected == found


def test_a_list_is_counted_as_an_answer_until_it_holds_something_else():
    session = Session()
    for expected in (1, 2, 3):
        session = session.sent(("a", "b"), 1.0, with_firmware=False, is_answer=True)
        assert (expected, expected, True) == (session.answers, session.unheard, session.is_busy)
    assert 3 == session.sent(("b",), 1.0, with_firmware=False, is_answer=False).answers
    assert 1 == session.sent(("b", "c"), 1.0, with_firmware=False, is_answer=True).answers


def test_the_firmware_stays_begun_until_the_next_connection():
    session = Session().sent(("a",), 1.0, with_firmware=True, is_answer=False)
    session = session.sent(("b",), 2.0, with_firmware=False, is_answer=False)
    assert session.has_begun
    assert not session.connected((), takes_urls=False, is_ext=False).has_begun


@pytest.mark.parametrize(
    ("unheard", "expected"), [(0, 30), (1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (100, 3600)]
)
def test_the_silence_doubles_up_to_an_hour(unheard, expected):
    assert expected == Session(unheard=unheard).again_after_s(30.0)
    assert 7200.0 == Session(unheard=unheard).again_after_s(7200.0)


def test_a_result_ends_the_count_of_what_was_not_heard():
    assert (9.0, 0, False) == (
        (session := FULL.heard(9.0, is_busy=False)).heard_wall, session.unheard, session.is_busy,
    )  # fmt: skip


def test_the_file_of_a_component():
    assert ("file.cfg", None) == (FULL.name("config"), FULL.name("mcu"))
