"""What the store in memory keeps beside its records is what a look at all of them would find."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from contract.store_samples import deployment

from ota_bridge.core.deployment import State
from ota_bridge.store.memory_index import DeploymentIndex, Line

STATES = (State.QUEUED, State.OFFERED, State.DOWNLOADING, State.INSTALLING, State.CONFIRMED, State.FAILED)


@pytest.mark.parametrize("seed", range(20))
def test_a_line_is_a_sorted_set(seed):
    chance, line, expected = random.Random(seed), Line(), set()
    for _ in range(400):
        item = chance.randrange(60)
        if chance.random() < 0.6:
            line.add(item)
            expected.add(item)
        else:
            line.remove(item)
            expected.discard(item)
        if chance.random() < 0.3:
            after = chance.randrange(60)
            inside = sorted(expected)
            assert inside == list(line.after(None))
            assert [one for one in inside if one > after][:3] == line.first(3, after)
        if chance.random() < 0.3:
            inside = sorted(expected)
            place = chance.randrange(60)
            assert sum(one < place for one in inside) == line.place(place)
            assert (inside[place] if place < len(inside) else None) == line.at(place)
        assert (item in expected, len(expected)) == (item in line, len(line))


def random_change(chance, records):
    """Another state of a random deployment, new or not."""
    name = f"{chance.randrange(40):012x}"
    state = chance.choice(STATES)
    return replace(
        records.get(name) or deployment(name),
        state=state,
        stage=chance.randrange(3),
        latest=chance.random() < 0.8,
        earlier_end=chance.choice((None, State.FAILED)),
        due_wall=chance.choice((None, float(chance.randrange(50)))),
        offered_wall=chance.choice((None, float(chance.randrange(50)))),
        slot_rank=chance.choice((0, 0, 1, 2)) if state is State.QUEUED else 0,
    )


def found(index, records):
    return {
        "open": index.open.first(99),
        "latest": {name: line.first(99) for name, line in index.latest.items() if len(line)},
        "tallies": {name: dict(counts) for name, counts in index.tallies.items() if counts},
        "due": [one.id for one in index.due(records, 30.0, 99)],
        "some": [one.id for one in index.due(records, 30.0, 3)],
        "next": index.next_due_wall(records),
        "slots": index.for_slots(99),
        "busy": index.busy(20.0),
        "offered": index.offered_wall_after(20.0),
    }


def looked_up(records, born):
    every = list(records.values())
    latest = [one for one in every if one.latest]
    due = sorted((one.due_wall, one.id) for one in every if one.is_open and one.due_wall is not None)
    now = [name for wall, name in due if wall <= 30.0]
    waiting = sorted((-one.slot_rank, born[one.id], one.id) for one in every if one.slot_rank)
    offered = [one.offered_wall for one in every if one.state is State.OFFERED and (one.offered_wall or 0.0) > 20.0]
    return {
        "open": sorted(one.id for one in every if one.is_open),
        "latest": {"r-000001": sorted(one.id for one in latest)} if latest else {},
        "tallies": {"r-000001": dict(Counter((one.stage, one.state, one.earlier_end) for one in latest))}
        if latest
        else {},
        "due": now,
        "some": now[:3],
        "next": due[0][0] if due else None,
        "slots": [name for _, _, name in waiting],
        "offered": min(offered, default=None),
        "busy": len(offered) + sum(one.state is State.DOWNLOADING for one in every),
    }


@pytest.mark.parametrize("seed", range(20))
def test_the_index_is_what_a_recount_finds_also_after_changes_were_taken_back(seed):
    chance, index, records, born = random.Random(seed), DeploymentIndex(), {}, {}
    for _ in range(150):
        undo = []
        for _ in range(chance.randrange(1, 6)):
            after = random_change(chance, records)
            before = records.get(after.id)
            records[after.id] = after
            index.change(before, after)
            undo.append((after, before))
        if chance.random() < 0.5:
            for after, before in reversed(undo):
                index.change(after, before)
                if before is None:
                    del records[after.id]
                else:
                    records[after.id] = before
        for name in records:
            born.setdefault(name, len(born))
        born = {name: number for name, number in born.items() if name in records}
        born = {name: number for number, name in enumerate(sorted(born, key=born.__getitem__))}
        if chance.random() < 0.5:
            assert looked_up(records, born) == found(index, records)
