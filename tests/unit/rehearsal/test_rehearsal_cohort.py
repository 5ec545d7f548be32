"""Cohorts check themselves, and whole numbers are dealt by shares."""

import pytest

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput
from ota_bridge.rehearsal.cohort import Cohort, checked_cohorts, dealt


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"share": 1.5}, "share"),
        ({"offline": -0.1}, "offline"),
        ({"fail": {State.CONFIRMED: 0.1}}, "CONFIRMED is not one of ROLLED_BACK"),
        ({"fail": {State.FAILED: 0.6, State.TIMED_OUT: 0.6}}, "1 together"),
        ({"link_bytes_per_s": 0.0}, "link"),
        ({"reboot_s": (2.0, 1.0)}, "shorter one first"),
        ({"check_in_every_s": 0.0}, "check-in"),
        ({"awake_s": 5.0}, "both the time awake"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(wrong, word):
    with pytest.raises(InvalidInput, match=word):
        Cohort(**wrong)


def test_cohorts_are_the_whole_fleet():
    both = [Cohort(share=0.25), Cohort(share=0.75)]
    assert tuple(both) == checked_cohorts(both)
    for wrong in ([], [Cohort(share=0.5)], [Cohort(), Cohort(share=0.1)]):
        with pytest.raises(InvalidInput, match="must be 100 %"):
            checked_cohorts(wrong)


def test_dealt_numbers_are_the_nearest_to_their_shares_and_never_more_than_there_are():
    assert [33, 34, 33] == dealt(100, [1 / 3, 1 / 3, 1 / 3])
    assert [5] == dealt(100, [0.05])
    assert 2 == sum(dealt(2, [0.26, 0.24, 0.25, 0.25]))
