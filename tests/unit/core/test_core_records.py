"""A record with some fields changed is what `dataclasses.replace` makes of it."""

import dataclasses

import pytest
from contract.store_samples import deployment, device

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.records import replace
from ota_bridge.core.values import Limits


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (deployment(), {"state": State.FAILED, "due_wall": 5.0}),
        (deployment(), {}),
        (device(), {"label": "pump", "parts": {}}),
    ],
)
def test_it_is_what_the_library_makes(record, changes):
    changed = replace(record, **changes)
    assert dataclasses.replace(record, **changes) == changed
    assert type(record) is type(changed)
    assert changed is not record


def test_the_record_itself_does_not_change():
    record = deployment()
    replace(record, state=State.FAILED)
    assert deployment() == record


def test_a_field_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match="no field 'colour'"):
        replace(device(), colour="red")


def test_a_record_that_checks_itself_still_does():
    assert Limits(downloads=3) == replace(Limits(), downloads=3)
    with pytest.raises(InvalidInput, match="downloads"):
        replace(Limits(), downloads=-1)


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    left: int


@dataclasses.dataclass(frozen=True, slots=True)
class Derived(Base):
    right: int


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    left: int


@pytest.mark.parametrize("record", [Derived(left=1, right=2), Plain(left=1)], ids=["derived", "plain"])
def test_records_stay_frozen_whatever_they_derive_from(record):
    changed = replace(record, left=3)
    assert dataclasses.replace(record, left=3) == changed
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.left = 4
