"""The rules of `families.INVARIANTS` as a soak looks at them from outside: the wire, the database, the devices at the end.

Each check returns what is wrong, as (rule, sentence); nothing is raised, because a soak goes on.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack

from tests.faults.soak_fleet import PRODUCT, STRANGERS
from tests.harness import Site

Wrong = tuple[str, str]
Heard = tuple[float, str, bytes]
HARMLESS = {"report_ack", "check_in"}
REFUSAL_MAX_BYTES = 64
TERMINAL = {"CONFIRMED", "ROLLED_BACK", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED"}


def check_heard(here: Site, heard: Iterable[Heard]) -> Iterator[Wrong]:
    """I2 and I5, in what was heard on the way to devices: each acknowledgement is stored, each offer is the device's own."""
    acks, offers = set[tuple[str, str, int, int]](), set[tuple[str, str, str]]()
    for _, topic, payload in heard:
        kind, product, name = topic.split("/")[1:]
        if kind == "block":
            if product == STRANGERS and len(payload) > REFUSAL_MAX_BYTES:
                yield "I5", f"{len(payload)} bytes of a block went to {product}/{name}, whom no rollout is for"
            continue
        message = msgpack.unpackb(payload)
        if product == STRANGERS and message["type"] not in HARMLESS:
            yield "I5", f"{message['type']} went to {product}/{name}, whom no rollout is for"
        elif message["type"] == "report_ack":
            acks |= {(product, name, message["boot"], seq) for seq in message["seqs"]}
        elif message["type"] == "update_firmware":
            offers.add((product, name, message["id"]))
    yield from _not_stored(here, acks)
    for product, name, deployment in sorted(offers):
        if here.rows("SELECT product, name FROM deployments WHERE id = ?", deployment) != [(product, name)]:
            yield "I5", f"{product}/{name} was offered {deployment}, which is not a deployment of it"


def _not_stored(here: Site, acks: set[tuple[str, str, int, int]]) -> Iterator[Wrong]:
    query = (
        "WITH told AS (SELECT value ->> 0 AS product, value ->> 1 AS name, value ->> 2 AS boot, value ->> 3 AS seq FROM json_each(?)) "
        "SELECT * FROM told WHERE NOT EXISTS (SELECT 1 FROM reports r WHERE r.product = told.product AND r.name = told.name "
        "AND r.boot = told.boot AND r.seq = told.seq)"
    )
    for product, name, boot, seq in here.rows(query, json.dumps(sorted(acks))):
        yield "I2", f"report {seq} of boot {boot} of {product}/{name} was acknowledged and is not in the database"


def check_devices(here: Site, report: dict[str, Any]) -> Iterator[Wrong]:
    """I1: what each device runs is whole, is the release's image, and is not older than what it ever confirmed."""
    releases = {one["version"]: one["parts"]["firmware"] for one in here.call("release.list")}
    confirmed = confirmed_seqs(here)
    for one in report["devices"]:
        version, name = one["new_version"], one["device"]
        if not one["slot_ok"]:
            yield "I1", f"{name}: the image in its slot is not the one that it installed"
        elif version in releases and one["sha256"] != releases[version]["sha256"]:
            yield "I1", f"{name}: what runs as {version} is not the release's image"
        elif version not in releases and one["sha256"]:
            yield "I1", f"{name}: {version} was never released"
        if (releases[version]["seq"] if version in releases else 0) < max(confirmed.get(name, [0])):
            yield "I1", f"{name}: runs {version}, and confirmed seq {max(confirmed[name])} before"
    for name, seqs in confirmed.items():
        if seqs != sorted(seqs):
            yield "I1", f"{name}: told these seqs, one after the other, without a trial: {seqs}"


def confirmed_seqs(here: Site) -> dict[str, list[int]]:
    """The seq of each check-in that was no trial's, in the order in which the device said them."""
    rows = here.rows(
        "SELECT name, body -> '$.parts.firmware' FROM reports WHERE product = ? AND kind = 'report_version' ORDER BY name, boot, seq",
        PRODUCT,
    )
    found: dict[str, list[int]] = {}
    for name, text in rows:
        _, seq, _, trial = json.loads(text)
        if not trial:
            found.setdefault(name, []).append(seq)
    return found


def check_quiet(here: Site, target: str) -> Iterator[Wrong]:
    """I3 and I4, when the faults are over and all is to be quiet: nothing is open, and the counts are the recount."""
    still = here.rows("SELECT product || '/' || name, state FROM deployments WHERE is_open = 1")
    if still:
        yield "I3", f"{len(still)} deployments are still open: {still[:5]}"
    for device in here.call("device.list", product=PRODUCT):
        version = device["parts"]["firmware"]["version"]
        state = here.rows(
            "SELECT state FROM deployments WHERE product = ? AND name = ? ORDER BY created_wall DESC, id DESC LIMIT 1",
            PRODUCT,
            device["name"],
        )
        if version != target and (not state or state[0][0] not in TERMINAL - {"CONFIRMED"}):
            yield "I3", f"{device['id']} runs {version} instead of {target}, and its last deployment is {state}"
    recount: dict[str, Counter[str]] = {}
    for rollout, state, number in here.rows(
        "SELECT rollout, state, count(*) FROM deployments WHERE latest = 1 GROUP BY rollout, state"
    ):
        recount.setdefault(rollout, Counter())[state] = number
    for view in here.call("rollout.list"):
        if view["counts"] != dict(recount.get(view["id"], {})):
            yield "I4", f"{view['id']} counts {view['counts']}, the recount is {dict(recount.get(view['id'], {}))}"


def check_beliefs(here: Site, report: dict[str, Any]) -> Iterator[Wrong]:
    """I6: what the bridge believes of each device is what it runs."""
    runs = {one["device"]: one["new_version"] for one in report["devices"]}
    believed = {one["name"]: one["parts"]["firmware"]["version"] for one in here.call("device.list")}
    for name in sorted(runs.keys() | believed.keys()):
        if runs.get(name) != believed.get(name):
            yield "I6", f"{name}: the bridge believes {believed.get(name)}, it runs {runs.get(name)}"
