"""What one twin says and does, with nothing but the test around it."""

import random
from dataclasses import dataclass, field

import pytest
from rehearsals import START_WALL, site_of

from ota_bridge.core.deployment import State
from ota_bridge.core.messages import BlockActivity, CheckIn, Encoding, Offer, Progress, ReportAck
from ota_bridge.rehearsal.cohort import Cohort
from ota_bridge.rehearsal.twin import Phase, Twin, Wake

SITE = site_of(1)
PART = SITE.releases[0].parts["firmware"]


@dataclass
class Surroundings:
    """Remembers what the twin wants, and lets the time pass when the test says so."""

    now_s: float = 0.0
    tell_every_s: float = 30.0
    wait_s: int = 0
    said: list = field(default_factory=list)
    wanted: list = field(default_factory=list)
    fetching: float = 0.0

    @property
    def wall(self):
        return START_WALL + self.now_s

    def say(self, uplink):
        self.said.append(uplink)

    def later(self, _twin, after_s, what):
        self.wanted.append((self.now_s + after_s, what))

    def slot(self, _twin):
        return self.wait_s

    def fetch(self, _twin, size_bytes):
        self.fetching = size_bytes

    def halt(self, _twin):
        left, self.fetching = self.fetching / 2, 0.0
        return left

    def image(self, _offer):
        return PART.manifest

    def words(self):
        """What was said since the last time: `check-in VERSION`, or the state of a progress report."""
        said, self.said = self.said, []
        return [
            f"check-in {one.parts['firmware'].version}{' on trial' * one.parts['firmware'].trial} boot {one.key.boot}"
            if isinstance(one, CheckIn)
            else str(one.state)
            if isinstance(one, Progress)
            else "blocks"
            for one in said
        ]

    def next(self, twin, what):
        """Let it be then, and wake the twin."""
        at_s = min(at_s for at_s, wanted in self.wanted if wanted is what)
        self.wanted.remove((at_s, what))
        self.now_s = at_s
        twin.wakes(what, self)


@pytest.fixture
def here():
    return Surroundings()


def twin_of(ends=State.CONFIRMED, **habits):
    device = SITE.devices[0]
    return Twin(
        id=device.id, cohort=Cohort(**habits), chance=random.Random(1), parts=dict(device.parts), ends=ends, boot=7
    )


def offer(name="d1"):
    return Offer(
        device=SITE.devices[0].id, encoding=Encoding.MSGPACK, deployment=name, release="demo/2.0.0",
        component="firmware", manifest=PART.envelope, manifest_digest=PART.manifest.digest, ticket=None,
        ticket_digest=None, boot=7, nonce=bytes(16), block_max=1024, window_max=4, resend_after_s=60, max_packet=None,
    )  # fmt: skip


def ack(*, go=(), stop=()):
    return ReportAck(device=SITE.devices[0].id, encoding=Encoding.MSGPACK, boot=7, seqs=(1,), go=go, stop=stop)


def installing(twin, here):
    twin.hears_offer(offer(), here)
    twin.has_fetched(here)
    twin.hears_acknowledgement(ack(go=("d1",)), here)
    here.said.clear()


def test_it_fetches_says_so_installs_on_the_word_and_confirms(here):
    twin = twin_of()
    twin.hears_offer(offer(), here)
    assert (Phase.FETCHING, 200_000 + 49 * 32 - 4096) == (twin.phase, here.fetching)
    here.next(twin, Wake.TELL)
    assert isinstance(here.said[0], BlockActivity)
    assert ["blocks"] == here.words()
    twin.has_fetched(here)
    assert ["downloaded", "burning"] == here.words()
    twin.hears_acknowledgement(ack(go=("d1",)), here)
    here.next(twin, Wake.BOOT)
    assert ["check-in 2.0.0 on trial boot 8", "check-in 2.0.0 boot 8"] == here.words()
    assert Phase.IDLE is twin.phase


def test_told_to_stop_it_waits_for_another_notice(here):
    twin = twin_of()
    twin.hears_offer(offer(), here)
    twin.has_fetched(here)
    twin.hears_acknowledgement(ack(stop=("d1",)), here)
    assert Phase.DOWNLOADED is twin.phase
    here.said.clear()
    twin.hears_offer(offer(), here)
    assert ["burning"] == here.words()


def test_an_image_that_does_not_confirm_is_given_up_for_the_old_one(here):
    twin = twin_of(State.ROLLED_BACK)
    installing(twin, here)
    here.next(twin, Wake.BOOT)
    here.next(twin, Wake.GIVE_UP)
    assert ["check-in 2.0.0 on trial boot 8", "check-in 1.0.0 boot 9"] == here.words()


def test_a_device_that_fails_refuses_what_came_in_part(here):
    twin = twin_of(State.FAILED)
    twin.hears_offer(offer(), here)
    assert 0 < here.fetching < 197_000
    twin.has_fetched(here)
    assert (["fail"], Phase.IDLE) == (here.words(), twin.phase)


def test_a_device_that_dies_says_nothing_any_more(here):
    twin = twin_of(State.TIMED_OUT)
    twin.hears_offer(offer(), here)
    twin.has_fetched(here)
    twin.hears_offer(offer("d2"), here)
    twin.is_owed(here)
    assert ([], float("inf")) == (here.words(), twin.back_after_s(1e9))


def test_without_a_slot_it_comes_back_when_it_was_told(here):
    twin, here.wait_s = twin_of(), 10
    twin.hears_offer(offer(), here)
    assert (Phase.ASKING, 0.0) == (twin.phase, here.fetching)
    here.wait_s = 0
    here.next(twin, Wake.ASK)
    assert 10.0 <= here.now_s <= 15.0
    assert Phase.FETCHING is twin.phase


def test_a_notice_that_it_missed_is_asked_for_when_it_is_back(here):
    twin = twin_of()
    twin.away_until_s = 500.0
    for _ in range(2):
        twin.hears_offer(offer(), here)
    assert [(500.0, Wake.COME_BACK)] == here.wanted
    here.next(twin, Wake.COME_BACK)
    assert ["check-in 1.0.0 boot 7"] == here.words()


def test_asleep_it_keeps_what_it_has_and_goes_on_from_there(here):
    twin = twin_of(awake_s=5.0, asleep_s=45.0)
    twin.hears_offer(offer(), here)
    whole = here.fetching
    here.next(twin, Wake.FALL_ASLEEP)
    assert (5.0, Phase.ASLEEP, 0.0) == (here.now_s, twin.phase, here.fetching)
    here.next(twin, Wake.COME_BACK)
    assert (50.0, Phase.FETCHING, whole / 2) == (here.now_s, twin.phase, here.fetching)


@pytest.mark.parametrize(("begun", "word"), [(False, "canceled"), (True, "too_late")])
def test_a_cancel_is_heeded_until_it_installs(here, begun, word):
    twin = twin_of()
    if begun:
        installing(twin, here)
    else:
        twin.hears_offer(offer(), here)
    twin.hears_cancel("d1", here)
    assert [word] == here.words()


def test_asked_to_it_checks_in(here):
    twin = twin_of()
    twin.hears_request(here)
    here.next(twin, Wake.POLL)
    assert ["check-in 1.0.0 boot 7"] == here.words()
