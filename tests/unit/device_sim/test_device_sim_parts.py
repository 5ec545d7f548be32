"""The small parts: options, link, outbox, puller, wire."""

from itertools import pairwise
from pathlib import Path
from random import Random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.errors import Malformed, OptionError
from device_sim.link import Link
from device_sim.model import Fault
from device_sim.options import BrokerUrl, FleetOptions, parse_sleep_pattern
from device_sim.outbox import Kind, Outbox
from device_sim.puller import MIN_RTO_S, Limits, Puller, RoundTrip
from device_sim.wire import BlockData, BlockRefusal, decode_block, decode_update, encode, text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://h", ("h", 1883, False, None, None)),
        ("mqtts://h", ("h", 8883, True, None, None)),
        ("mqtt://u:p%40@h:1", ("h", 1, False, "u", "p@")),
        ("mqtt://[::1]:5", ("::1", 5, False, None, None)),
    ],
)
def test_broker_urls_are_read(url, expected):
    found = BrokerUrl.parse(url)
    assert expected == (found.host, found.port, found.tls, found.username, found.password)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:1883",
        "http://h",
        "mqtt://",
        "mqtt://h:x",
        "mqtt://h:99999",
        "mqtt://h:0",
        "mqtt://\x80",
        "mqtt://h/x",
        "mqtt://[h",
    ],
)
def test_bad_broker_urls_are_one_sentence(url):
    with pytest.raises(OptionError, match="broker URL"):
        BrokerUrl.parse(url)


@pytest.mark.parametrize(
    "url", ["mqtt://u:hunter2@h:x", "http://u:hunter2@h", "mqtt://u:hunter2℀@h", "mqtt://u:hunter2@h/x"]
)
def test_a_broker_url_is_refused_without_its_password(url):
    with pytest.raises(OptionError) as caught:
        BrokerUrl.parse(url)
    assert "hunter2" not in str(caught.value)


def options(**changes):
    return FleetOptions(**{"broker": BrokerUrl.parse("mqtt://h"), "trust": Path("t"), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 0},
        {"count": 10_001},
        {"block_bytes": 0},
        {"window": 0},
        {"loss": 1.0},
        {"loss": float("nan")},
        {"dup": -0.1},
        {"pace_bps": -1},
        {"product": "a/b"},
        {"product": ""},
        {"name_prefix": "ä"},
        {"name_prefix": "x" * 61},
        {"hw": "r 1"},
        {"version": "1/0"},
        {"root": ""},
        {"root": "a/#"},
        {"root": "a/"},
        {"fault": "nonsense"},
        {"slot_bytes": 65_536 + 1024},
        {"certfile": Path("x")},
        {"cafile": Path("x")},
        {"timeout_s": 0},
        {"connect_timeout_s": 0},
        {"watchdog_s": -1},
        {"check_in_every_s": 0},
        {"check_in_every_s": float("nan")},
        {"fault_count": -1},
    ],
)
def test_values_that_cannot_be_used_are_refused_where_options_are_built(changes):
    options()
    with pytest.raises(OptionError):
        options(**changes)


def test_names_have_four_digits():
    assert ["dev-0001", "dev-0042"] == [options(count=42).device_name(index) for index in (1, 42)]


@pytest.mark.parametrize("text", ["x", "1", "1/", "/1", "0/1", "1/0", "1/nan", "-1/5"])
def test_sleep_patterns_are_two_times(text):
    assert (1.5, 2.0) == parse_sleep_pattern("1.5/2")
    assert (0.0, 0.0) == parse_sleep_pattern("")
    with pytest.raises(OptionError, match="sleep-pattern"):
        parse_sleep_pattern(text)


def test_what_is_wrong_is_quoted_in_part():
    for parse in (parse_sleep_pattern, Fault.parse, BrokerUrl.parse):
        with pytest.raises(OptionError) as caught:
            parse("x" * 100_000)
        assert len(str(caught.value)) < 300


def test_the_link_loses_and_doubles_by_its_seed():
    runs = [
        [(link.request_copies(), link.block_arrives()) for _ in range(20_000)]
        for link in (Link(loss=0.05, dup=0.01, rng=Random(seed)) for seed in (1, 1))
    ]
    assert runs[0] == runs[1]
    copies = [copies for copies, _ in runs[0]]
    assert 0.04 < copies.count(0) / 20_000 < 0.06
    assert 0.005 < copies.count(2) / 20_000 < 0.015
    assert 0.04 < [arrives for _, arrives in runs[0]].count(False) / 20_000 < 0.06
    clean = Link(loss=0.0, dup=0.0, rng=Random(1))
    assert {(1, True)} == {(clean.request_copies(), clean.block_arrives()) for _ in range(100)}


def test_of_each_kind_only_the_newest_report_waits():
    outbox = Outbox(boot=3, encoding="msgpack", rng=Random(1))
    assert [1, 2, 3] == [
        outbox.add(kind, {"n": n}, 0.0) for n, kind in enumerate((Kind.CHECK_IN, Kind.FINAL, Kind.CHECK_IN))
    ]
    assert [{"n": 1, "boot": 3, "seq": 2}, {"n": 2, "boot": 3, "seq": 3}] == [
        msgpack.unpackb(body) for body in outbox.due(0.0)
    ]
    assert [] == outbox.due(1.0)
    assert {Kind.FINAL} == outbox.acknowledge([1, 2, 9])
    assert outbox.waits(Kind.CHECK_IN)
    assert {Kind.CHECK_IN} == outbox.acknowledge([3])
    assert outbox.deadline_s() is None


def test_repeats_spread_and_slow_down():
    outbox = Outbox(boot=1, encoding="json", rng=Random(1))
    outbox.add(Kind.FINAL, {}, 0.0)
    times = [0.0]
    for _ in range(8):
        assert 1 == len(outbox.due(times[-1]))
        times.append(outbox.deadline_s())
    gaps = [after - before for before, after in pairwise(times)]
    assert 1.5 <= gaps[0] <= 2.5
    assert all(gap <= 15 * 1.25 for gap in gaps)
    assert gaps[5] > 10


def puller(size=10_000, block=1000, window=4):
    return Puller(
        digest=b"d" * 32,
        size_bytes=size,
        position=0,
        limits=Limits(block_bytes=block, window=window),
        pace_bps=0,
        trip=RoundTrip(),
        rng=Random(1),
    )


def test_a_window_is_asked_once_and_the_next_when_it_is_whole():
    pull = puller()
    assert [b"d" * 8, 0, 1000, 4] == msgpack.unpackb(pull.poll(0.0))
    assert pull.poll(0.1) is None
    for index in (1, 3, 2):
        assert [] == pull.take(BlockData(b"d" * 8, index * 1000, bytes([index]) * 1000), 0.1)
    assert 4 == len(pull.take(BlockData(b"d" * 8, 0, b"\x00" * 1000), 0.1))
    assert [b"d" * 8, 4000, 1000, 4] == msgpack.unpackb(pull.poll(0.1))


@pytest.mark.parametrize(
    ("offset", "size"), [(500, 1000), (4000, 1000), (1 << 63, 1000), (-1000, 1000), (0, 999), (0, 1001), (0, 0)]
)
def test_what_was_not_asked_for_is_dropped(offset, size):
    pull = puller()
    assert [] == pull.take(BlockData(b"d" * 8, offset, b"x" * size), 0.0)
    pull.poll(0.0)
    assert [] == pull.take(BlockData(b"d" * 8, offset, b"x" * size), 0.1)
    assert 0 == pull.position


def test_only_missing_blocks_are_asked_again_and_never_before_the_least_time():
    pull = puller()
    pull.poll(0.0)
    for index in (0, 2):
        pull.take(BlockData(b"d" * 8, index * 1000, b"x" * 1000), 0.001)
    assert pull.deadline_s() >= MIN_RTO_S
    assert pull.poll(0.2) is None
    assert [b"d" * 8, 1000, 1000, 2, b"\x05"] == msgpack.unpackb(pull.poll(pull.deadline_s()))


def test_a_time_to_come_back_outlasts_a_new_connection_and_what_the_bridge_says():
    pull = puller()
    pull.pause(0.0, 100.0, firm=True)
    pull.resume(1.0)
    pull.wake(2.0)
    assert 100.0 == pull.deadline_s()
    pull.pause(100.0, 50.0)
    pull.wake(101.0)
    assert 101.0 == pull.deadline_s()


def test_the_timer_backs_off_and_comes_back():
    trip, rng = RoundTrip(), Random(1)
    trip.sample(0.01)
    assert MIN_RTO_S <= trip.timeout_s(rng) <= MIN_RTO_S * 1.25
    waits = []
    for _ in range(6):
        trip.timed_out()
        waits.append(trip.timeout_s(rng))
    assert waits[-1] >= 8.0
    trip.sample(0.01)
    assert trip.timeout_s(rng) <= MIN_RTO_S * 1.25


@pytest.mark.parametrize(
    "payload", [b"", b"\x01", b"[]", b"{", b"{}", b'{"type":1}', b"\x80", b"\x81\xa4type\x01", b"[" * 5000, b"\xff" * 9, b"{" * 70_000]
)  # fmt: skip
def test_update_messages_that_are_none_are_malformed(payload):
    with pytest.raises(Malformed):
        decode_update(payload)


@pytest.mark.parametrize(
    "message",
    [[], [b"a"], [b"a", 0], ["a", 0, b""], [b"a", "0", b""], [b"a", True, b""], [b"a", 0, 1], [b"a", 0, 1, -1, 1, 1],
     [b"a", 0, 1, float("nan"), 1, 1], [b"a", 0, 1, 0, "x", 1], {}],
)  # fmt: skip
def test_blocks_that_are_none_are_malformed(message):
    with pytest.raises(Malformed):
        decode_block(msgpack.packb(message))


def test_blocks_and_refusals_are_told_apart():
    assert BlockData(b"a", 5, b"x") == decode_block(msgpack.packb([b"a", 5, b"x"]))
    assert BlockRefusal(b"a", 5, 3, 1.5, 100, 2) == decode_block(msgpack.packb([b"a", 5, 3, 1.5, 100, 2]))


@pytest.mark.parametrize("id_", ["\\ud800", "a\\udc00", "\\u001b[2J", "\\n"])
def test_a_deployment_whose_id_cannot_be_said_back_is_malformed(id_):
    message = decode_update(b'{"type":"cancel_update","id":"%s"}' % id_.encode())
    with pytest.raises(Malformed, match="id is not a text"):
        text(message, "id", 32)


def test_json_is_utf_8():
    with pytest.raises(Malformed):
        decode_update('{"type":"check_in"}'.encode("utf-16-le"))


@given(st.binary(max_size=100))
def test_only_malformed_leaves_the_wire_readers(payload):
    for decode in (decode_update, decode_block):
        try:
            decode(payload)
        except Malformed:
            continue


def test_json_carries_binary_as_base64():
    assert b'{"nonce":"AAE=","have":[["/w==",1]]}' == encode({"nonce": b"\x00\x01", "have": [[b"\xff", 1]]}, "json")
