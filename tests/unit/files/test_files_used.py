"""Links that may be used once, and what is left of them after a kill."""

import os
import stat

import pytest

from ota_bridge.core.errors import ConfigError
from ota_bridge.core.values import DeploymentId
from ota_bridge.files.links import Link
from ota_bridge.files.used import GRACE_S, UsedLinks

WALL = 1_800_000_000.0


def link(number=1, until_s=int(WALL) + 3600):
    mark = number.to_bytes(8, "big")
    return Link(deployment=DeploymentId("0123456789ab"), image=b"i" * 8, until_s=until_s, mark=mark)


def test_a_used_link_has_its_grace_and_is_over_then(tmp_path):
    used = UsedLinks(tmp_path / "used", WALL)
    assert not used.is_over(link(), WALL)
    used.note(link(), WALL)
    assert [False, True] == [used.is_over(link(), WALL + GRACE_S + after_s) for after_s in (0, 1)]
    assert not used.is_over(link(2), WALL + 3600)


def test_what_was_used_first_counts(tmp_path):
    used = UsedLinks(tmp_path / "used", WALL)
    used.note(link(), WALL)
    used.note(link(), WALL + 50)
    assert used.is_over(link(), WALL + GRACE_S + 1)
    assert 16 == (tmp_path / "used").stat().st_size


def test_a_process_that_is_started_again_knows_them_until_they_would_have_ended(tmp_path):
    path = tmp_path / "used"
    used = UsedLinks(path, WALL)
    used.note(link(1, int(WALL) + 100), WALL)
    used.note(link(2), WALL)
    again = UsedLinks(path, WALL + 50)
    assert [True, True] == [again.is_over(link(number), WALL + GRACE_S + 1) for number in (1, 2)]
    later = UsedLinks(path, WALL + 101)
    assert [False, True] == [later.is_over(link(number), WALL + 101) for number in (1, 2)]
    assert (16, 0o600) == (path.stat().st_size, stat.S_IMODE(path.stat().st_mode))


def test_a_record_that_was_cut_short_costs_no_other(tmp_path):
    path = tmp_path / "used"
    UsedLinks(path, WALL).note(link(1), WALL)
    with path.open("ab") as file:
        file.write(b"torn")
    again = UsedLinks(path, WALL)
    again.note(link(2), WALL)
    last = UsedLinks(path, WALL)
    assert [True, True] == [last.is_over(link(number), WALL + GRACE_S + 1) for number in (1, 2)]


def test_where_the_disk_is_full_nothing_of_a_record_stays(tmp_path, monkeypatch):
    path = tmp_path / "used"
    used = UsedLinks(path, WALL)
    used.note(link(1), WALL)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(OSError, match="no space left"):
        used.note(link(2), WALL)
    assert 16 == path.stat().st_size
    assert used.is_over(link(2), WALL + GRACE_S + 1)


def test_a_place_where_nothing_can_be_kept_is_said(tmp_path):
    with pytest.raises(ConfigError, match="what links were used cannot be kept in"):
        UsedLinks(tmp_path / "gone" / "used", WALL)
