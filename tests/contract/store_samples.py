"""Records for the store's tests: one plain example of each, and hypothesis strategies for any."""

import queue
from dataclasses import replace

from hypothesis import strategies as st

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.chain import Entry, Head
from ota_bridge.core.deployment import Deployment, State, Transition
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.fleet import Assignment, Device, DeviceState, Silence
from ota_bridge.core.manifest import Dependency, ManifestFacts, PayloadType
from ota_bridge.core.messages import Encoding, InstalledPart, ReportKey
from ota_bridge.core.people import Role, Token, TokenId, User
from ota_bridge.core.ports import StoredReport
from ota_bridge.core.rollout.approvals import Approval
from ota_bridge.core.rollout.model import Rollout, RolloutState, Standing, Target
from ota_bridge.core.rollout.plan import Plan, Stage
from ota_bridge.core.values import (
    DeploymentId,
    DeviceId,
    Limits,
    RolloutId,
    Sha256,
    Share,
    StandingLimits,
    release_id,
)
from ota_bridge.store.outcome import Committed, Failed

PATIENCE_S = 20.0
U64_MAX = 2**64 - 1


def url_of(backend, directory):
    """The URL of a new store of this backend; one line for each backend."""
    return {"memory": "memory:", "sqlite": f"sqlite://{directory}/bridge.db"}[backend]


def commit(store, work):
    """What `work` returned, once it is committed; raises what it failed with."""
    outcomes = queue.SimpleQueue()
    store.submit(work, outcomes.put)
    match outcomes.get(timeout=PATIENCE_S):
        case Committed(value):
            return value
        case Failed(error):
            raise error


def device(name="dev1", product="prod", **changes):
    return Device(id=DeviceId(product, name), state=DeviceState.ACTIVE, created_wall=1.0, **changes)


def facts(**changes):
    plain = {
        "seq": 1,
        "vendor": bytes(16),
        "classes": (bytes(16),),
        "version": "1.1.0",
        "component": "firmware",
        "payload_type": PayloadType.RAW,
        "size_bytes": 1000,
        "sha256": Sha256(bytes(32)),
        "chunk_bytes": 4096,
        "merkle_root": Sha256(bytes(32)),
        "digest": Sha256(bytes(32)),
    }
    return ManifestFacts(**(plain | changes))


def release(version="1.1.0", product="prod", **changes):
    part = ReleasePart(component="firmware", envelope=b"envelope", manifest=facts(), md5="0" * 32)
    plain = Release(
        id=release_id(product, version),
        product=product,
        version=version,
        hardware=("r1",),
        parts={"firmware": part},
        state=ReleaseState.ACTIVE,
        created_wall=1.0,
        created_by="ann",
    )
    return replace(plain, **changes)


def rollout(name="r-000001", **changes):
    plain = Rollout(
        id=RolloutId(name),
        release=release_id("prod", "1.1.0"),
        product="prod",
        target=Target(),
        state=RolloutState.RUNNING,
        created_wall=1.0,
        created_by="ann",
        changed_wall=1.0,
        changed_by="ann",
    )
    return replace(plain, **changes)


def deployment(name="000000000001", **changes):
    plain = Deployment(
        id=DeploymentId(name),
        device=DeviceId("prod", "dev1"),
        component="firmware",
        release=release_id("prod", "1.1.0"),
        rollout=RolloutId("r-000001"),
        attempt=1,
        state=State.QUEUED,
        cause="the rollout began",
        created_wall=1.0,
        changed_wall=1.0,
        size_bytes=1000,
        old_version="1.0.0",
    )
    return replace(plain, **changes)


def transition(name="000000000001", **changes):
    plain = Transition(
        deployment=DeploymentId(name), wall=1.0, event="offer", before=State.QUEUED, after=State.OFFERED, cause="x"
    )
    return replace(plain, **changes)


def report(name="dev1", boot=1, seq=1, **changes):
    plain = StoredReport(
        device=DeviceId("prod", name),
        key=ReportKey(boot=boot, seq=seq, content=b"\x01" * 8),
        kind="report_version",
        wall=1.0,
        body={"type": "report_version", "boot": boot},
    )
    return replace(plain, **changes)


def user(name="ann", **changes):
    plain = {"name": name, "roles": frozenset({Role.OPERATOR}), "created_wall": 1.0, "created_by": "root"}
    return User(**(plain | changes))


def token(name="00000001", **changes):
    plain = Token(
        id=TokenId(name),
        name="ci",
        user="ann",
        digest=b"\x01" * 32,
        created_wall=1.0,
        created_by="root",
        expires_wall=100.0,
    )
    return replace(plain, **changes)


def approval(rollout="r-000001", **changes):
    plain = Approval(rollout=RolloutId(rollout), user="cho", digest=b"\x01" * 32, wall=1.0)
    return replace(plain, **changes)


def entry(last, **changes):
    """What follows the entry `last`, or begins the chain."""
    head = Head.of(last)
    plain = {
        "n": head.n + 1,
        "wall_ms": 1000,
        "actor": "ann",
        "how": "peer",
        "action": "device.add",
        "subject": "device prod/d1",
        "result": "ok",
        "detail": "{}",
    }
    return Entry(**(plain | changes)).after(head.digest)


def chain(*facts):
    """Entries one after the other."""
    made = []
    for changes in facts:
        made.append(entry(made[-1] if made else None, **changes))
    return made


def fill(unit, *, devices=("dev1", "dev2"), rollouts=("r-000001", "r-000002")):
    """What deployments refer to."""
    unit.releases.put(release())
    for name in rollouts:
        unit.rollouts.put(rollout(name))
    for name in devices:
        unit.devices.put(device(name))


# --- any record ----------------------------------------------------------------------------------------------


def maybe(strategy):
    return st.none() | strategy


WALLS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=40)
U32S = st.integers(0, 2**32 - 1)
U64S = st.integers(0, U64_MAX) | st.sampled_from([2**63 - 1, 2**63, U64_MAX])
SIZES = st.integers(1, 2**40)
DIGESTS = st.binary(min_size=32, max_size=32).map(Sha256)
UUIDS = st.binary(min_size=16, max_size=16)
NAMES = st.text("abyzAZ019._:-", min_size=1, max_size=12)
COMPONENTS = st.text("abz09_-", min_size=1, max_size=16)
VERSIONS = st.text("ab09._+~:-", min_size=1, max_size=32)
DEVICE_IDS = st.builds(DeviceId, st.sampled_from(["prod", "other"]), NAMES)

FACTS = st.builds(
    ManifestFacts,
    seq=U32S,
    vendor=UUIDS,
    classes=st.sets(UUIDS, min_size=1, max_size=8).map(sorted).map(tuple),
    version=VERSIONS,
    component=COMPONENTS,
    payload_type=st.sampled_from(PayloadType),
    size_bytes=st.integers(1, U64_MAX),
    sha256=DIGESTS,
    chunk_bytes=st.sampled_from([256, 4096, 65536]),
    merkle_root=DIGESTS,
    epoch=st.integers(1, 2**32 - 1),
    min_present_seq=maybe(U32S),
    expires_s=maybe(U64S),
    security_counter=maybe(U32S),
    installed_size_bytes=maybe(SIZES),
    installed_sha256=maybe(DIGESTS),
    precursor_sha256=maybe(DIGESTS),
    device=maybe(UUIDS),
    dependencies=st.lists(st.builds(Dependency, component=COMPONENTS, min_seq=U32S), max_size=3).map(tuple),
    metadata_sha256=maybe(DIGESTS),
    digest=DIGESTS,
)
PARTS = st.lists(
    st.builds(
        ReleasePart,
        component=COMPONENTS,
        envelope=st.binary(max_size=40),
        manifest=FACTS,
        md5=st.text("0123456789abcdef", min_size=32, max_size=32),
        file_name=TEXTS,
        installs_from=st.lists(VERSIONS, max_size=3).map(tuple),
        metadata=st.dictionaries(st.sampled_from(["aws.signature", "toy.x"]), st.text(max_size=20)),
    ),
    max_size=3,
).map(lambda parts: {part.component: part for part in parts})
RELEASES = st.builds(
    lambda product, version, **rest: Release(id=release_id(product, version), product=product, version=version, **rest),
    product=st.sampled_from(["prod", "other"]),
    version=VERSIONS,
    hardware=st.lists(VERSIONS, max_size=3).map(tuple),
    parts=PARTS,
    state=st.sampled_from(ReleaseState),
    created_wall=WALLS,
    created_by=TEXTS,
)
DEVICES = st.builds(
    Device,
    id=DEVICE_IDS,
    state=st.sampled_from(DeviceState),
    created_wall=WALLS,
    hw=maybe(TEXTS),
    hw_reported=maybe(TEXTS),
    label=st.just("") | NAMES | TEXTS,
    tags=st.lists(st.sampled_from(["a", "b"]) | TEXTS, max_size=3).map(tuple),
    attrs=st.dictionaries(NAMES, TEXTS | st.integers(-(2**63), 2**63 - 1), max_size=3),
    dialect=TEXTS,
    encoding=st.sampled_from(Encoding),
    proto=st.integers(0, 255),
    boot=maybe(U64S),
    nonce=maybe(st.binary(max_size=16)),
    max_packet=maybe(U32S),
    max_block=maybe(U32S),
    max_window=maybe(U32S),
    parts=st.dictionaries(
        COMPONENTS,
        st.builds(InstalledPart, version=TEXTS, seq=maybe(U64S), digest8=st.binary(max_size=8), trial=st.booleans()),
        max_size=3,
    ),
    have=st.lists(st.tuples(st.binary(min_size=8, max_size=32), U64S), max_size=3).map(tuple),
    assigned=st.dictionaries(
        COMPONENTS,
        st.builds(
            Assignment,
            release=st.just(release_id("prod", "1.1.0")),
            rollout=st.sampled_from([None, RolloutId("r-000001")]),
        ),
        max_size=2,
    ),
    last_report_wall=maybe(WALLS),
    next_check_in_wall=maybe(WALLS),
    last_offer_wall=maybe(WALLS),
    last_block_wall=maybe(WALLS),
    trouble=st.builds(
        Silence,
        refusal=maybe(st.sampled_from(BlockRefusal)),
        refusal_wall=maybe(WALLS),
        refusals=U32S,
        waits_for=maybe(st.sampled_from(Share)),
        retry_after_s=U32S,
        rejected=U32S,
        rejected_reason=TEXTS,
        rejected_wall=maybe(WALLS),
        clashes=U32S,
        keyset_refused=TEXTS,
        told_silent_wall=maybe(WALLS),
    ),
    keyset=maybe(U32S),
)
ROLLOUTS = st.builds(
    Rollout,
    id=st.text("0123456789abcdef", min_size=6, max_size=6).map(lambda text: RolloutId("r-" + text)),
    release=st.just(release_id("prod", "1.1.0")),
    product=st.sampled_from(["prod", "other"]),
    target=st.builds(Target, percent=st.integers(0, 100), devices=st.lists(DEVICE_IDS, max_size=3).map(tuple)),
    state=st.sampled_from(RolloutState),
    created_wall=WALLS,
    created_by=TEXTS,
    changed_wall=WALLS,
    changed_by=TEXTS,
    sweep=st.none() | st.text("0123456789abcdef", max_size=4),
    plan=st.builds(
        Plan,
        stages=st.lists(st.builds(Stage, devices=st.integers(1, 9)), max_size=3).map(lambda found: (*found, Stage())),
        deadline_s=st.none() | st.floats(1, 9),
        is_urgent=st.booleans(),
    ),
    standing=st.builds(
        Standing,
        started_wall=maybe(WALLS),
        ends=st.lists(st.integers(0, 2**62), max_size=3).map(tuple),
        sizes=st.lists(st.integers(0, 10**6), max_size=3).map(tuple),
        met_wall=maybe(WALLS),
        forgiven=st.integers(0, 99),
        waits_for_person=st.booleans(),
    ),
    cause=TEXTS,
)
COUNTS = st.integers(0, 2**60)
DEPLOYMENTS = st.builds(
    Deployment,
    id=st.integers(0, 30).map(lambda number: DeploymentId(f"{number:012x}")),
    device=st.just(DeviceId("prod", "dev1")),
    component=COMPONENTS,
    release=st.just(release_id("prod", "1.1.0")),
    rollout=st.sampled_from([None, RolloutId("r-000001"), RolloutId("r-000002")]),
    attempt=st.integers(1, 99),
    state=st.sampled_from(State),
    cause=TEXTS,
    created_wall=st.integers(0, 5).map(float),
    changed_wall=WALLS,
    size_bytes=SIZES,
    old_version=TEXTS,
    latest=st.booleans(),
    due_wall=maybe(st.integers(0, 5).map(float)),
    offered_wall=maybe(WALLS),
    offers=COUNTS,
    resent=st.booleans(),
    retry_wall=maybe(st.integers(0, 5).map(float)),
    boot=maybe(U64S),
    claimed_wall=maybe(WALLS),
    stalled=st.booleans(),
    last_block_wall=maybe(WALLS),
    high_water_bytes=COUNTS,
    bytes_sent=COUNTS,
    blocks_sent=COUNTS,
    requests=COUNTS,
    percent=maybe(st.integers(0, 100)),
    result_code=TEXTS,
    stage=st.integers(0, 2),
    earlier_end=maybe(st.sampled_from(State)),
    slot_rank=st.integers(0, 2),
)
TRANSITIONS = st.builds(
    Transition,
    deployment=st.integers(0, 30).map(lambda number: DeploymentId(f"{number:012x}")),
    wall=st.integers(0, 5).map(float),
    event=TEXTS,
    before=maybe(st.sampled_from(State)),
    after=st.sampled_from(State),
    cause=TEXTS,
)
LIMITS = st.builds(
    StandingLimits,
    limits=st.builds(
        Limits,
        blocks_per_s=st.integers(0, 10**12),
        bytes_per_s=st.just(0) | st.integers(4_096, 10**12),
        downloads=st.integers(0, 10**12),
    ),
    set_wall=maybe(WALLS),
    set_by=TEXTS,
)
PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, U64_MAX) | TEXTS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
REPORTS = st.builds(
    StoredReport,
    device=st.builds(DeviceId, st.just("prod"), st.sampled_from(["dev1", "dev2"])),
    key=maybe(
        st.builds(
            ReportKey,
            boot=st.sampled_from([0, 1, 2**63, U64_MAX]),
            seq=U64S | st.integers(0, 3),
            content=st.binary(min_size=8, max_size=8),
        )
    ),
    kind=TEXTS,
    wall=st.integers(0, 5).map(float),
    body=st.dictionaries(TEXTS, PLAIN_JSON, max_size=3),
)
USER_NAMES = st.sampled_from(["ann", "cho", "dev.ops@site", "x" * 64])
USERS = st.builds(
    User,
    name=USER_NAMES,
    roles=st.sets(st.sampled_from(Role), min_size=1).map(frozenset),
    created_wall=WALLS,
    created_by=TEXTS,
)
TOKENS = st.builds(
    Token,
    id=st.sampled_from(["00000001", "00000002", "abcdef01"]).map(TokenId),
    name=st.sampled_from(["ci", "a.b-c_d"]),
    user=USER_NAMES,
    digest=st.binary(min_size=32, max_size=32),
    created_wall=WALLS,
    created_by=TEXTS,
    expires_wall=WALLS,
    revoked_wall=maybe(WALLS),
)
APPROVALS = st.builds(
    Approval,
    rollout=st.sampled_from([RolloutId("r-000001"), RolloutId("r-000002")]),
    user=TEXTS,
    digest=st.binary(min_size=32, max_size=32),
    wall=WALLS,
    note=st.text(st.characters(categories=["L", "N", "P"]), max_size=200),
)
ENTRIES = st.fixed_dictionaries(
    {
        "wall_ms": st.integers(-(2**63), 2**63 - 1),
        "actor": TEXTS,
        "how": TEXTS,
        "action": TEXTS,
        "subject": TEXTS,
        "result": TEXTS,
        "detail": TEXTS,
    }
)
