"""Records behave as frozen dataclasses do; with some fields changed one is what `dataclasses.replace` makes of it."""

import dataclasses
import pickle
import pprint

import pytest
from contract.store_samples import deployment, device

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.records import record, replace
from ota_bridge.core.values import Limits, Now


@pytest.mark.parametrize(
    ("one", "changes"),
    [
        (deployment(), {"state": State.FAILED, "due_wall": 5.0}),
        (deployment(), {}),
        (device(), {"label": "pump", "parts": {}}),
    ],
)
def test_it_is_what_the_library_makes(one, changes):
    changed = replace(one, **changes)
    assert dataclasses.replace(one, **changes) == changed
    assert type(one) is type(changed)
    assert changed is not one


def test_the_record_itself_does_not_change():
    one = deployment()
    replace(one, state=State.FAILED)
    assert deployment() == one


def test_a_field_that_there_is_not_is_refused():
    with pytest.raises(TypeError, match="no field 'colour'"):
        replace(device(), colour="red")


def test_a_record_that_checks_itself_still_does():
    assert Limits(downloads=3) == replace(Limits(), downloads=3)
    with pytest.raises(InvalidInput, match="downloads"):
        replace(Limits(), downloads=-1)


@record
class Pair:
    """Two."""

    left: int
    right: dict[str, int] = dataclasses.field(default_factory=dict)
    label: str = "none"

    def __post_init__(self) -> None:
        if self.left < 0:
            raise ValueError("below 0")

    @property
    def sum(self) -> int:
        return self.left + sum(self.right.values())

    @classmethod
    def of(cls, left: int) -> "Pair":
        return cls(left=left)


@record(frozen=False)
class Count:
    """How many."""

    number: int = 0


def test_a_record_is_made_by_the_names_of_its_fields_and_stays():
    made = Pair.of(1)
    assert (1, {}, "none", 1) == (made.left, made.right, made.label, made.sum)
    assert made.right is not Pair.of(1).right
    assert (Pair(left=1), Pair(left=2)) == (made, replace(made, left=2))
    assert ("Two.", "Pair", __name__) == (Pair.__doc__, Pair.__qualname__, Pair.__module__)
    with pytest.raises(TypeError):
        Pair(1)
    with pytest.raises(AttributeError, match="immutable"):
        made.left = 2


def test_what_takes_dataclasses_takes_records():
    made = Pair(left=1, right={"a": 2})
    assert ["left", "right", "label"] == [one.name for one in dataclasses.fields(Pair)]
    assert {"left": 1, "right": {"a": 2}, "label": "none"} == dataclasses.asdict(made)
    assert Pair(left=5, right={"a": 2}) == dataclasses.replace(made, left=5)
    assert made == pickle.loads(pickle.dumps(made))


@pytest.mark.parametrize("makes", [lambda: Pair(left=-1), lambda: replace(Pair(left=1), left=-1)])
def test_a_record_checks_itself_however_it_is_made(makes):
    with pytest.raises(ValueError, match="below 0"):
        makes()


def test_a_record_with_what_cannot_be_hashed_cannot_be_either():
    assert 1 == len({Now(wall=1.0, mono=2.0), Now(wall=1.0, mono=2.0)})
    with pytest.raises(TypeError):
        hash(Pair(left=1))


def test_one_that_is_not_frozen_changes():
    count = Count()
    count.number += 1
    assert Count(number=1) == count


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    left: int


@dataclasses.dataclass(frozen=True, slots=True)
class Derived(Base):
    right: int


def test_a_dataclass_with_a_base_is_one_still():
    assert Derived(left=3, right=2) == replace(Derived(left=1, right=2), left=3)


def bad(**body):
    return type("Bad", (), body | {"__annotations__": dict.fromkeys(("left",), int), "__module__": __name__})


@pytest.mark.parametrize(
    "kind",
    [
        type("Bad", (Base,), {"__annotations__": {"right": int}}),
        bad(__repr__=lambda self: "hidden"),
        bad(left=dataclasses.field(default=1, repr=False)),
        bad(left=dataclasses.field(default=1, compare=False)),
    ],
    ids=["base", "own repr", "hidden field", "field that is not compared"],
)
def test_what_a_record_cannot_keep_is_refused(kind):
    with pytest.raises(TypeError, match="Bad: "):
        record(kind)


def test_a_record_has_no_dictionary_and_can_be_looked_at():
    assert not hasattr(Count(), "__dict__")
    assert 0 < len(dir(Count()))
    assert pprint.pformat([Count()] * 30)
