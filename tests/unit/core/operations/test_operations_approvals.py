"""Approvals: by others, each once, of what the rollout does now; and the moment in which the last one comes in."""

from dataclasses import replace

import pytest
from core_world import World

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.messages import Offer
from ota_bridge.core.people import Caller
from ota_bridge.core.rollout.approvals import Approval, digest_of, standing

BEFORE = {"rollout": "r-000001", "wall": 1.0}


@pytest.fixture
def world():
    """A rollout by ann that needs two approvals."""
    made = World()
    made.device("d1")
    made.release()
    made.id = made.rollout(plan={"approvals": 2})
    return made


def approve(world, user, **more):
    world.caller = Caller(user=user)
    return world.do("rollout.approve", rollout=world.id, **more)


def shown(view):
    return view["missing"], [(one["user"], one["void"]) for one in view["approvals"]]


def state(world):
    return world.do("rollout.status", rollout=world.id)["state"]


def test_others_approve_and_with_the_last_one_that_was_missing_it_starts(world):
    assert (1, [("bob", False)]) == shown(approve(world, "bob", note="looked at the canary"))
    assert ("waiting", []) == (state(world), world.sent(Offer))
    assert (0, [("bob", False), ("cho", False)]) == shown(approve(world, "cho"))
    world.plan()
    assert ("running", 1) == (state(world), len(world.sent(Offer)))
    approve(world, "dan")
    assert "looked at the canary" == world.do("rollout.approvals", rollout=world.id)["approvals"][0]["note"]


def test_the_last_approval_starts_nothing_that_is_held_or_canceled(world):
    approve(world, "bob")
    approve(world, "cho")
    world.do("rollout.pause", rollout=world.id)
    world.do("rollout.disapprove", rollout=world.id)
    approve(world, "cho")
    assert "paused" == state(world)


def test_nobody_gets_around_the_approvals(world):
    for name, args in (("resume", {}), ("pause", {}), ("next", {}), ("percent", {"percent": 100})):
        with pytest.raises(Conflict):
            world.do(f"rollout.{name}", rollout=world.id, **args)
    assert ("waiting", []) == (state(world), world.sent(Offer))


def test_what_was_approved_for_some_is_not_widened_to_more(world):
    world.id = world.rollout(percent=0, plan={"approvals": 1})
    approve(world, "bob")
    with pytest.raises(Conflict, match="was approved as it is; start another to reach more"):
        world.do("rollout.percent", rollout=world.id, percent=100)


def test_its_creator_cannot_approve_it(world):
    with pytest.raises(Conflict, match="was created by ann: somebody else has to approve it"):
        approve(world, "ann")


def test_nobody_approves_twice(world):
    approve(world, "bob")
    with pytest.raises(Conflict, match="bob has approved rollout .* already; somebody else has to, too"):
        approve(world, "bob")


def test_who_changes_it_makes_every_approval_void_and_may_ask_again(world):
    world.id = world.rollout(percent=10)
    approve(world, "bob")
    world.do("rollout.percent", rollout=world.id, percent=20)
    assert (0, [("bob", True)]) == shown(world.do("rollout.approvals", rollout=world.id))
    assert (0, [("bob", False)]) == shown(approve(world, "bob"))


def test_what_does_not_change_what_it_does_voids_nothing(world):
    world.id = world.rollout()
    approve(world, "bob")
    world.do("rollout.pause", rollout=world.id)
    world.do("rollout.resume", rollout=world.id)
    assert (0, [("bob", False)]) == shown(world.do("rollout.approvals", rollout=world.id))


def test_an_approval_is_taken_back_by_who_gave_it(world):
    approve(world, "bob")
    world.caller = Caller(user="cho")
    with pytest.raises(NotFound, match="cho has not approved"):
        world.do("rollout.disapprove", rollout=world.id)
    world.caller = Caller(user="bob")
    assert (2, []) == shown(world.do("rollout.disapprove", rollout=world.id))
    approve(world, "cho")
    assert "waiting" == state(world)


def test_a_canceled_or_unknown_rollout_or_a_long_note_is_refused(world):
    with pytest.raises(InvalidInput, match="at most 200 printable"):
        approve(world, "bob", note="x" * 201)
    world.do("rollout.cancel", rollout=world.id)
    for operation in ("approve", "disapprove"):
        with pytest.raises(Conflict, match="is canceled"):
            world.do(f"rollout.{operation}", rollout=world.id)
        with pytest.raises(NotFound, match="no rollout"):
            world.do(f"rollout.{operation}", rollout="r-none")


def test_the_person_behind_a_token_is_who_approves(world):
    world.caller = Caller(user="root", is_owner=True)
    world.do("user.add", user="ann", roles=["approver"])
    text = world.do("token.new", user="ann", name="t")["token"]
    world.caller = Caller(user="bob", token=text)
    with pytest.raises(Conflict, match="was created by ann"):
        world.do("rollout.approve", rollout=world.id)


def test_what_counts_is_of_this_digest_by_others_and_each_person_once():
    one = lambda user, digest=b"d": Approval(user=user, digest=digest, **BEFORE)  # noqa: E731
    given = [one("bob"), one("ann"), one("cho", b"other"), one("bob")]
    assert ((one("bob"),), 1) == standing(given, "ann", b"d", 2)
    assert ((one("bob"),), 0) == standing(given, "ann", b"d", 1)
    assert ((), 0) == standing([], "ann", b"d", 0)


def test_the_digest_names_release_target_and_plan(world):
    world.release("1.2.0", seq=3)
    rollouts = [
        *(world.rollout("1.2.0", percent=10), world.rollout("1.1.0", percent=11)),
        *(world.rollout("1.1.0", devices=["d1"]), world.rollout("1.1.0")),
        *(world.rollout("1.1.0", where='hw == "r1"'), world.rollout("1.1.0", plan={"pace": {"per_min": 5}})),
    ]
    made = world.read(lambda unit: [unit.rollouts.get(name) for name in (world.id, *rollouts)])
    found = [digest_of(replace(rollout, id=world.id)) for rollout in made]  # by their ids they differ anyway
    assert 7 == len(set(found))
    assert {32} == {len(digest) for digest in found}
