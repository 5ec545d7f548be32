"""What operators write as conditions and times: queries, the tree of a compiled one, windows and zones."""

from ota_bridge.calendars import CronCalendar
from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.rollout.facts import NEVER_S, VARIABLES, facts_of, missing_keys, unknown_keys
from ota_bridge.core.rollout.plan import Window
from ota_bridge.core.values import DeviceId
from ota_bridge.core.versions import compare
from ota_bridge.queries import CelQueries
from ota_bridge.query_tree import asked_keys, check_cost, read_tree
from tests.fuzz.target import Target, text_of

QUERIES = CelQueries()
DEVICE = Device(
    id=DeviceId("prod", "d1"),
    state=DeviceState.ACTIVE,
    created_wall=0.0,
    hw="r1",
    tags=("eu-1", "lab"),
    attrs={"batch": "A7", "year": 2026, **{f"k{number}": "x" * 64 for number in range(30)}},
    parts={"firmware": InstalledPart(version="1.9.0", seq=2**64 - 1)},
)
FACTS = facts_of(DEVICE, 1e9)
WALLS = (0.0, 1_774_746_000.0, 1_792_890_000.5, 4_102_444_800.0)


def query(data: bytes) -> None:
    """Any text is a query or refused with a sentence; a query is true or false of a device, and soon."""
    try:
        compiled = QUERIES._compiled(text_of(data))
    except InvalidInput as error:
        raise InvalidInput(" ".join(str(error).split("\n"))) from error
    assert compiled(FACTS) in (True, False)
    assert compiled({**FACTS, "attrs": {}, "versions": {}, "seqs": {}, "last_seen_s": NEVER_S}) in (True, False)
    unknown, _ = unknown_keys(compiled.asked, [FACTS])
    assert unknown == missing_keys(compiled.asked, FACTS)


def tree(data: bytes) -> None:
    """Any bytes are a tree or malformed; its cost can be told."""
    node = read_tree(data)
    asked_keys(node)
    check_cost(node)


def window(data: bytes) -> None:
    """Any text is a window or refused with a sentence; a window is open until it closes, and shut until it opens."""
    cron, _, rest = text_of(data).partition("\n")
    tz, _, length = rest.partition("\n")
    length_s = int(length) if length.isascii() and length.isdigit() and len(length) < 9 else 3600
    asked, calendar = Window(cron=cron, length_s=length_s, tz=tz), CronCalendar()
    calendar.check(asked)
    for wall in WALLS:
        opens, closes = calendar.opens_wall(asked, "", wall), calendar.closes_wall(asked, "", wall)
        assert calendar.is_open(asked, "", wall) is (opens == wall)
        assert opens is None or (opens >= wall and (closes is None or closes > opens))
        if opens is not None:
            assert CronCalendar().is_open(asked, "", opens)
        if closes is not None:
            assert not CronCalendar().is_open(asked, "", closes)


def versions(data: bytes) -> None:
    """Of any two texts none, the one or the other is older, whichever is named first."""
    one, _, other = text_of(data).partition("\n")
    order = compare(one, other)
    assert (order is None) == (None in (compare(one, one), compare(other, other)))
    assert compare(other, one) == (None if order is None else -order)


TARGETS = (
    Target(
        name="query", about="queries over devices", read=query, refusals=(InvalidInput,), one_in=40, max_bytes=4_200,
        slow_s=0.1, peak_bytes=1 << 20, bytes_per_byte=2_000,
        words=(
            *(name.encode() for name in VARIABLES), b"attrs.batch", b'attrs["year"]', b"versions.firmware", b"older(", b"number(",
            b".matches(", b".exists(x, ", b".map(x, x + x)", b"has(", b" in ", b"&&", b"||", b"==", b"!", b"(", b")", b"[", b"]", b'"', b"'", b"? :",
            b"{1,900}", b"(a+)+", b"9223372036854775807", b"duration(", b"timestamp(", b"1u", b"1.5", b"b'\\xff'", b"r'", b"null", b"//", b"\n",
        ),
    ),
    Target(
        name="query_tree", about="compiled queries, as the library writes them", read=tree, refusals=(Malformed, InvalidInput), one_in=4,
        max_bytes=3_000, bytes_per_byte=400, words=(b"attrs", b"_[_]", b"@in", b"matches", b"\x4a", b"\x32", b"\x22", b"\x12"),
    ),
    Target(
        name="window", about="windows: cron, zone, length", read=window, refusals=(InvalidInput,), one_in=100, max_bytes=200,
        slow_s=0.3, peak_bytes=1 << 20,
        words=(b"*", b"*/", b"-", b",", b"L", b"LW", b"#", b"MON", b"JAN", b"0 2 * * *", b"UTC", b"Europe/Berlin", b"Australia/Lord_Howe", b"60", b"604800", b"\n"),
    ),
    Target(
        name="versions", about="which of two versions is older", read=versions, refusals=(), one_in=4, max_bytes=80,
        words=(b"1", b"9", b"10", b".", b"-", b"~", b"+", b"rc", b"v", b"-1-gabcd", b"\n", b"0"),
    ),
)  # fmt: skip
