"""The curve keeps all that was served, whatever the width of its buckets."""

import pytest

from ota_bridge.rehearsal import curve
from ota_bridge.rehearsal.curve import Curve, drawn, sparkline


def test_what_is_served_stands_where_it_was_served():
    found = Curve()
    found.served(0.5, 2.5, 10.0)
    assert {0: 5.0, 1: 10.0, 2: 5.0} == found.bytes
    assert [5.0, 10.0, 5.0, 0.0] == found.bytes_per_s(10)
    assert (20.0, 4.0) == (found.whole_bytes, found.busy_s)


def test_what_is_open_stays_open_until_it_changes():
    found = Curve()
    found.served(0.0, 3.5, 1.0)
    for at_s, by in ((0.2, 1), (0.4, 1), (0.6, -1), (3.1, -1)):
        found.moved(at_s, by)
    assert [2, 1, 1, 1, 0] == found.open_at_most(9)


def test_too_many_buckets_become_wider_ones_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(curve, "BUCKETS_MAX", 10)
    found = Curve()
    for second in range(100):
        found.served(second, second + 1, 3.0)
        found.moved(second + 0.5, 1)
    assert 16.0 == found.width_s
    assert 300.0 == pytest.approx(found.whole_bytes)
    assert 100 == max(found.open_at_most(100))


def test_a_line_of_bars_shows_peaks_and_all_that_is_not_nothing():
    assert [3, 5, 9] == drawn([1, 3, 2, 5, 4, 9], 3)
    assert [1, 2] == drawn([1, 2], 3)
    assert " ▁█▄" == sparkline([0, 0.01, 10, 5], 60)
    assert "   " == sparkline([0, 0, 0], 60)
