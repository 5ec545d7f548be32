"""Hostile inputs for every decoder, by a seed: 100,000 each, and fewer for what builds a whole world for each of them.

OTA_SEED begins at another seed; `python -m tests.fuzz` runs more of them, `make fuzz` is steered by coverage.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Event
from tests.faults import hostile_input
from tests.faults.families import Broken
from tests.faults.hostile_input import INPUTS
from tests.fuzz import driver, targets, world_targets
from tests.fuzz.corpus import FOUND
from tests.fuzz.mutate import CBOR, JSON, MSGPACK, Mutator
from tests.fuzz.target import CORPUS, Target, framed, unframed
from tests.fuzz.targets import TARGETS

SEED = int(os.environ.get("OTA_SEED", "1"))
PARTS = 10
SEEDS = range(SEED * PARTS, SEED * PARTS + PARTS)
CORPUS_MAX_BYTES = 300_000
COSTLY = ("manifest", "ticket", "config_words", "config_file", "report")
"""Begun first, so that no processor waits at the end."""


@pytest.fixture(scope="module")
def fuzz_runs(request):
    """The runs of the targets that are asked for, in several processes, each in parts."""
    items = [item for item in request.session.items if "fuzz_runs" in getattr(item, "fixturenames", ())]
    chosen = {item.callspec.params["name"] for item in items}
    ordered = sorted(chosen, key=lambda name: COSTLY.index(name) if name in COSTLY else len(COSTLY))
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield {name: [pool.submit(targets.run, name, seed, INPUTS) for seed in SEEDS] for name in ordered}


@pytest.mark.parametrize("name", TARGETS)
def test_only_what_a_decoder_promises_leaves_it_and_what_it_takes_means_one_thing(fuzz_runs, name):
    tallies = [part.result(timeout=300) for part in fuzz_runs[name]]
    for seed, tally in zip(SEEDS, tallies, strict=True):
        print(f"{name} seed {seed} {tally}")
    assert [TARGETS[name].share(INPUTS)] * PARTS == [tally.inputs for tally in tallies]


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_takes_much_memory_and_none_keeps_it(target):
    driver.measure(TARGETS[target], SEED, 150 if TARGETS[target].one_in < 100 else 20)


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from([name for name, target in TARGETS.items() if target.one_in < 50]), data=st.binary(max_size=80)
)
def test_any_few_bytes_are_taken_or_refused(name, data):
    driver.check(TARGETS[name], data, "hypothesis")


def test_a_run_of_the_family_is_one_target_and_a_finding_breaks_its_rule(monkeypatch):
    def finds(target, seed, count):
        raise driver.Finding(f"{target.name} {seed} {count}")

    seen = {hostile_input.run(seed) for seed in (len(TARGETS) * 5 + at for at in (22, 24))}
    monkeypatch.setattr(driver, "run", finds)
    with pytest.raises(Broken, match=r"I10 is broken: json 3 10000"):
        hostile_input.run(3 * len(TARGETS))
    assert {list(TARGETS)[at] for at in (22, 24)} == seen
    assert PARTS * len(TARGETS) == hostile_input.INPUT.test


# --- the corpus ----------------------------------------------------------------------------------------------


def test_every_target_has_a_corpus_and_it_stays_small():
    assert sorted(TARGETS) == sorted(path.name for path in CORPUS.iterdir())
    assert all(target.seeds for target in TARGETS.values())
    assert CORPUS_MAX_BYTES >= sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())


def test_a_file_of_the_corpus_is_named_by_what_it_holds():
    for path in CORPUS.rglob("*"):
        assert path.is_dir() or path.name.removeprefix(FOUND) == driver.name_of(path.read_bytes()), path


def test_the_corpus_of_the_core_leads_into_every_state(monkeypatch):
    reached = set()
    receive = world_targets.World.receive

    def told(world, uplink):
        outputs = receive(world, uplink)
        reached.update(one.data["after"] for one in outputs if isinstance(one, Event) and one.kind == "state")
        return outputs

    monkeypatch.setattr(world_targets.World, "receive", told)
    for row in TARGETS["core"].seeds:
        world_targets.core(row)
    expected = {"DOWNLOADING", "DOWNLOADED", "INSTALLING", "TRIAL", "CONFIRMED", "ROLLED_BACK", "FAILED", "REJECTED"}
    assert expected <= reached


def test_the_corpus_of_the_device_leads_to_a_confirmed_update():
    for row in TARGETS["sim_device"].seeds:
        if b"update_firmware" in row and len(row) > 10_000:
            assert "1.1.0" == world_targets.played(row).version


# --- the driver ----------------------------------------------------------------------------------------------


def planted(read, **options):
    return Target(name="planted", about="", read=read, refusals=(Malformed,), max_bytes=100, **options)


def of_the_first_byte(raising):
    def read(data):
        if data[:1] == b"\x07":
            raise raising

    return read


def grows(data):
    bytearray(10_000_000)


def keeps(data, kept=[]):  # noqa: B006 - that is the fault
    kept.append(bytearray(1_000))


def lasts(data):
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (of_the_first_byte(KeyError("x")), "KeyError: 'x'"),
        (of_the_first_byte(AssertionError("not the same")), "AssertionError: not the same"),
        (of_the_first_byte(RecursionError()), "RecursionError"),
        (of_the_first_byte(Malformed("")), "a refusal that cannot be shown: ''"),
        (of_the_first_byte(Malformed("a\x1b[2J")), "a refusal that cannot be shown: 'a\\x1b[2J'"),
        (of_the_first_byte(Malformed("a" * 2_000)), "a refusal that cannot be shown"),
        (lasts, "ms for 9 bytes, 10 are allowed"),
    ],
)
def test_a_broken_promise_is_found_kept_and_can_be_seen_again(tmp_path, monkeypatch, read, said):
    monkeypatch.setattr(driver, "FINDINGS", tmp_path)
    monkeypatch.setattr(Target, "seeds", [b"\x06rest of it"[:9]])
    with pytest.raises(driver.Finding) as caught:
        driver.run(planted(read), 1, 20_000)
    (kept,) = tmp_path.iterdir()
    assert said in str(caught.value)
    assert f"again: python -m tests.fuzz replay planted {kept}" in str(caught.value)
    with pytest.raises(driver.Finding):
        driver.run(planted(read), 1, 20_000)
    assert [kept] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("read", "said"), [(grows, "bytes of memory for"), (keeps, "bytes of memory are left")])
def test_memory_that_grows_is_found(tmp_path, monkeypatch, read, said):
    monkeypatch.setattr(driver, "FINDINGS", tmp_path)
    with pytest.raises(driver.Finding, match=said):
        driver.measure(planted(read), 1, 100)


def test_the_same_seed_gives_the_same_inputs_and_another_gives_others():
    report = TARGETS["report"]
    rows = [list(driver.inputs(report, seed, 12_000)) for seed in (1, 1, 2)]
    assert rows[0] == rows[1]
    assert len(set(rows[0]) & set(rows[2])) < 3_000
    assert len(set(rows[0])) > 9_000
    assert max(map(len, rows[0])) <= report.max_bytes


@pytest.mark.parametrize(("form", "name"), [(JSON, "trust"), (MSGPACK, "request"), (CBOR, "manifest")])
def test_trees_are_changed_where_the_form_is_known(form, name):
    target = TARGETS[name]
    mutator = Mutator(target.seeds, (), seed=1, max_bytes=target.max_bytes, forms=(form,))
    readable = sum(form.tree(mutator.next()) is not None for _ in range(2_000))
    assert readable > 200


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8))
def test_a_row_of_messages_is_read_as_it_was_written(messages):
    assert messages == list(unframed(framed(messages)))
