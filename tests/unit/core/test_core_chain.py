"""The chain of the audit log: whatever is done to it in the middle is found, and what cannot be found is known."""

import hashlib
from dataclasses import fields, replace

import pytest
from contract.store_samples import ENTRIES, chain
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.chain import GENESIS, Head, Verdict, verify
from ota_bridge.core.errors import InvalidInput

CHAINS = st.lists(ENTRIES, min_size=3, max_size=8).map(lambda facts: chain(*facts))
NAMES = ["n", "wall_ms", "actor", "how", "action", "subject", "result", "detail", "digest"]


def test_the_digest_covers_the_one_before_and_each_field_in_its_order():
    first, second = chain({}, {"actor": "ché", "detail": '{"a":1}'})
    text = '[2,1000,"ch\\u00e9","peer","device.add","device prod/d1","ok","{\\"a\\":1}"]'
    assert hashlib.sha256(first.digest + text.encode()).digest() == second.digest
    assert GENESIS == bytes(32)
    assert NAMES == [field.name for field in fields(first)]


@given(entries=CHAINS)
def test_what_was_written_holds_and_its_head_is_the_last(entries):
    assert Verdict(head=Head.of(entries[-1])) == verify(entries, Head.of(entries[1]))
    assert Verdict(head=Head()) == verify([])


@given(entries=CHAINS, name=st.sampled_from(NAMES), data=st.data())
def test_any_altered_entry_is_found_where_it_is(entries, name, data):
    at = data.draw(st.integers(0, len(entries) - 1))
    old = getattr(entries[at], name)
    new = old + 1 if isinstance(old, int) else old + (b"x" if isinstance(old, bytes) else "x")
    changed = [*entries[:at], replace(entries[at], **{name: new}), *entries[at + 1 :]]
    assert at + 1 == verify(changed).wrong


@given(entries=CHAINS, data=st.data())
def test_an_altered_entry_with_a_digest_made_anew_is_found_at_the_next(entries, data):
    at = data.draw(st.integers(0, len(entries) - 2))
    before = Head.of(entries[at - 1] if at else None)
    forged = replace(entries[at], actor=entries[at].actor + "x").after(before.digest)
    assert at + 2 == verify([*entries[:at], forged, *entries[at + 1 :]]).wrong


@given(entries=CHAINS, data=st.data())
def test_an_entry_taken_out_or_put_in_or_moved_is_found(entries, data):
    at = data.draw(st.integers(0, len(entries) - 2))
    to = data.draw(st.integers(at + 1, len(entries) - 1))
    assert at + 1 == verify([*entries[:at], *entries[at + 1 :]]).wrong
    assert at + 2 == verify([*entries[: at + 1], entries[at], *entries[at + 1 :]]).wrong
    swapped = list(entries)
    swapped[at], swapped[to] = swapped[to], swapped[at]
    assert at + 1 == verify(swapped).wrong
    renumbered = [replace(one, n=number) for number, one in enumerate(swapped, start=1)]
    assert at + 1 == verify(renumbered).wrong


@given(entries=CHAINS, data=st.data())
def test_an_end_cut_off_shows_beside_a_head_that_was_kept_and_only_there(entries, data):
    left = data.draw(st.integers(0, len(entries) - 1))
    assert verify(entries[:left]).wrong is None
    assert left + 1 == verify(entries[:left], Head.of(entries[-1])).wrong


@given(entries=CHAINS, data=st.data())
def test_a_chain_written_anew_shows_beside_a_head_that_was_kept_and_only_there(entries, data):
    at = data.draw(st.integers(0, len(entries) - 1))
    plain = [
        {name: getattr(one, name) for name in NAMES if name not in {"n", "digest"}}
        | ({"actor": one.actor + "x"} if number == at else {})
        for number, one in enumerate(entries)
    ]
    forged = chain(*plain)
    assert verify(forged).wrong is None
    assert len(entries) == verify(forged, Head.of(entries[-1])).wrong


def test_a_head_is_written_and_read_as_number_and_hex():
    head = Head.of(chain({}, {})[-1])
    assert head == Head.parse(str(head))
    assert f"0:{'00' * 32}" == str(Head())


@pytest.mark.parametrize(
    "text", ["", "1", ":", "1:", "1:ab", "x:" + "00" * 32, "-1:" + "00" * 32, "1:" + "0g" * 32, "1:" + "00" * 33]
)
def test_what_is_no_head_is_refused(text):
    with pytest.raises(InvalidInput, match="write it as N:HEX"):
        Head.parse(text)
