"""Random devices, operators, clocks and duplicates against the core; what must always hold is checked after each step."""

from collections import Counter

import pytest
from core_world import FACTORY, World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ota_bridge.core.delivery import is_served
from ota_bridge.core.deployment import TERMINAL, TRANSITIONS
from ota_bridge.core.errors import BlockRefusal, OperatorError
from ota_bridge.core.fleet import DeviceState
from ota_bridge.core.messages import BlockTrouble, GrantState, Offer, Rejected, ReportAck, ReportState
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.rules import Rules

DEVICES = ["d1", "d2", "d3"]
COMPONENTS = ["firmware", "config"]
VERSIONS = ["1.1.0", "1.2.0", "1.3.0"]
STONES = {"1.2.0": ("1.1.0", "1.0.0"), "1.3.0": (">=1.1",)}
"""The last does not install on the factory's."""
NAMED = st.sampled_from(DEVICES)


class CoreMachine(RuleBasedStateMachine):
    """Each rule is something that a device, an operator or time can do at any moment."""

    def __init__(self):
        super().__init__()
        self.world = World(enrol_burst=1000)
        self.ended = {}
        self.offer_walls = {}
        self.uplinks = []
        self.clock_was_set = False

    @initialize()
    def releases(self):
        for seq, version in enumerate(VERSIONS, start=2):
            for component in COMPONENTS:
                bounds = STONES.get(version, ())
                self.world.release(version, seq=seq, component=component, installs_from=bounds)
        self.devices = {name: self.world.device(name, check_in=False) for name in DEVICES}
        self.devices["d1"].max_packet = 256
        for device in self.devices.values():
            device.runs(FACTORY, seq=1, component="config")

    # --- devices -------------------------------------------------------------------------------------------------

    def said(self, device, outputs):
        self.uplinks.append((device, device.last))
        acked = [(ack.device, ack.boot, seq) for ack in outputs if isinstance(ack, ReportAck) for seq in ack.seqs]
        for name, boot, seq in acked:
            assert self.world.read(lambda unit, n=name, b=boot, s=seq: unit.reports.seen(n, b, s)) is not None

    @rule(name=NAMED, new_boot=st.booleans())
    def checks_in(self, name, new_boot):
        device = self.devices[name]
        self.said(device, device.restarts() if new_boot else device.check_in())

    @rule(
        name=NAMED,
        component=st.sampled_from(COMPONENTS),
        version=st.sampled_from([FACTORY, *VERSIONS]),
        trial=st.booleans(),
    )
    def comes_back_with(self, name, component, version, trial):
        device = self.devices[name]
        seq = {FACTORY: 1, **{known: number for number, known in enumerate(VERSIONS, start=2)}}[version]
        device.runs(version, seq=seq, trial=trial, component=component)
        self.said(device, device.restarts())

    @rule(name=NAMED)
    def takes_what_it_was_offered(self, name):
        device = self.devices[name]
        for deployment in self.open_of(device):
            device.runs(deployment.release.partition("/")[2], seq=1, trial=True, component=deployment.component)
        self.said(device, device.restarts())

    @rule(
        name=NAMED,
        state=st.sampled_from([s.value for s in ReportState]),
        pick=st.integers(0, 30),
        code=st.sampled_from(["0", "-1", "REFUSED_SIG", "REFUSED_STALE"]),
        retry_after_s=st.none() | st.integers(0, 1000),
    )
    def says(self, name, state, pick, code, retry_after_s):
        device = self.devices[name]
        everything = self.world.read(
            lambda unit: [d for other in DEVICES for d in unit.deployments.recent_of(self.devices[other].id)]
        )
        mine = self.open_of(device) or everything
        pool = mine if pick < 25 else everything
        named = pool[pick % len(pool)] if pool else "unknown-one"
        component = named.component if pool else "firmware"
        self.said(
            device,
            device.says(state, named, component=component, result_code=code, retry_after_s=retry_after_s),
        )

    @precondition(lambda self: self.uplinks)
    @rule(pick=st.integers(0, 1000))
    def a_duplicate_comes(self, pick):
        device, uplink = self.uplinks[-1 - pick % min(len(self.uplinks), 12)]
        if uplink.key is None:
            return
        known = self.world.read(lambda unit: unit.reports.seen(device.id, uplink.key.boot, uplink.key.seq))
        before = self.open_of(device)
        self.world.receive(uplink)
        if known == uplink.key.content:
            assert before == self.open_of(device)

    @rule(name=NAMED, pick=st.integers(0, 5), late_s=st.sampled_from([0.0, 0.0, 2.0]))
    def blocks_were_served(self, name, pick, late_s):
        device = self.devices[name]
        served = [
            one
            for one in self.world.read(lambda unit: unit.deployments.recent_of(device.id))
            if one.has_begun or is_served(one)
        ]
        if served:
            device.asks(deployment=served[pick % len(served)].id, wall=self.world.wall - late_s)

    @rule(name=NAMED, what=st.sampled_from([1, 4, 5]))
    def trouble(self, name, what):
        device = self.devices[name]
        self.world.receive(BlockTrouble(device=device.id, wall=self.world.wall, refusal=BlockRefusal(what), count=2))
        self.world.receive(Rejected(device=device.id, reason="nonsense"))

    @rule(name=NAMED, hw=st.sampled_from(["r1", "r1", "r9"]))
    def another_board(self, name, hw):
        self.devices[name].hw = hw

    @rule(name=NAMED)
    def the_counter_starts_again(self, name):
        self.devices[name].boot, self.devices[name].seq = 1, 0

    # --- operators -----------------------------------------------------------------------------------------------

    def operate(self, name, **args):
        try:
            self.world.do(name, **args)
        except OperatorError:
            pass

    @rule(version=st.sampled_from(VERSIONS), percent=st.sampled_from([None, 0, 40, 100]))
    def starts(self, version, percent):
        self.operate("rollout.start", release=version, percent=percent)

    @rule(version=st.sampled_from(VERSIONS), name=NAMED)
    def starts_for_one(self, version, name):
        self.operate("rollout.start", release=version, devices=[name])

    @rule(what=st.sampled_from(["pause", "resume", "resume", "cancel", "percent"]), pick=st.integers(0, 20))
    def moves_a_rollout(self, what, pick):
        rollouts = self.world.read(lambda unit: unit.rollouts.all())
        if rollouts:
            extra = {"percent": 100} if what == "percent" else {}
            self.operate(f"rollout.{what}", rollout=rollouts[-1 - pick % len(rollouts)].id, **extra)

    @rule(version=st.sampled_from(VERSIONS), luck=st.integers(0, 5))
    def withdraws(self, version, luck):
        if luck == 0:
            self.operate("release.withdraw", release=version)

    @rule(name=NAMED, hw=st.sampled_from(["r1", "r9"]))
    def accepts_a_board(self, name, hw):
        self.operate("device.replace", device=name, hw=hw)

    @rule(name=NAMED, luck=st.integers(0, 8), heir=NAMED)
    def retires_or_replaces(self, name, luck, heir):
        if luck == 0:
            self.operate("device.retire", device=name)
        elif luck == 1:
            self.operate("device.replace", device=name, successor=heir)

    # --- time ----------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 5, 29, 30, 31, 60, 61, 300, 3600, 90_000, 700_000]))
    def time_passes(self, seconds):
        self.world.passes(seconds)

    @rule(by_s=st.sampled_from([86_400.0, -86_400.0]))
    def the_clock_is_set(self, by_s):
        self.world.wall += by_s
        self.clock_was_set = True
        self.world.commit(lambda unit: self.world.bridge.clock_stepped(unit, by_s) or [])

    # --- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def all_that_must_hold(self):
        if hasattr(self, "devices"):
            self.a_component_of_a_device_has_one_open_deployment_at_most()
            self.terminal_is_terminal_and_history_follows_the_table()
            self.counts_equal_a_recount()
            self.offers_quote_the_last_check_in()
            self.grants_are_exactly_those_of_the_served_open_deployments()
            self.nothing_overdue_waits_for_ever()
            self.why_always_has_an_answer()

    def open_of(self, device):
        return list(self.world.read(lambda unit: unit.deployments.open_of(device.id)))

    def a_component_of_a_device_has_one_open_deployment_at_most(self):
        for device in self.devices.values():
            most = Counter(one.component for one in self.open_of(device))
            assert max(most.values(), default=0) <= 1, most

    def terminal_is_terminal_and_history_follows_the_table(self):
        for one in self.all():
            if one.id in self.ended:
                assert self.ended[one.id] is one.state
            elif one.state in TERMINAL:
                self.ended[one.id] = one.state
                steps = self.world.read(lambda unit, name=one.id: unit.deployments.history(name))
                if not self.clock_was_set:  # history is told in the order of the wall clock
                    assert one.state is steps[-1].after
                for step in steps:
                    assert step.before is None or step.after is TRANSITIONS[step.before][step.event]

    def counts_equal_a_recount(self):
        for rollout in self.world.read(lambda unit: unit.rollouts.all()):
            latest = {}
            for one in self.all():
                if one.rollout == rollout.id:
                    key = (one.device, one.component)
                    latest[key] = max(latest.get(key, one), one, key=lambda found: found.attempt)
            expected = Counter(one.state for one in latest.values())
            assert dict(expected) == dict(self.world.read(lambda unit, name=rollout.id: unit.deployments.counts(name)))

    def offers_quote_the_last_check_in(self):
        for offer in self.world.sent(Offer, self.world.last):
            record = self.world.read(lambda unit, name=offer.device: unit.devices.get(name))
            assert DeviceState.ACTIVE is record.state
            assert (record.boot, record.nonce) == (offer.boot, offer.nonce)
            assert record.hw_reported is None
        self.world.last = []

    def grants_are_exactly_those_of_the_served_open_deployments(self):
        for device in self.devices.values():
            held = self.world.granted(device.id)
            expected = {}
            for one in self.open_of(device):
                release = self.world.read(lambda unit, name=one.release: unit.releases.get(name))
                rollout = self.world.read(lambda unit, name=one.rollout: unit.rollouts.get(name))
                if is_served(one):
                    paused = rollout.state is RolloutState.PAUSED
                    expected[one.id] = GrantState.PAUSED if paused else GrantState.OPEN
                elif release.state == "withdrawn" and one.state == "CANCELING":
                    expected[one.id] = GrantState.WITHDRAWN
            assert expected == held

    def nothing_overdue_waits_for_ever(self):
        """Every open deployment has a time at which it is looked at, or waits for a check-in or an operator."""
        for one in self.all():
            if one.is_open and one.due_wall is None:
                rollout = self.world.read(lambda unit, name=one.rollout: unit.rollouts.get(name))
                assert rollout.state is RolloutState.PAUSED or one.state in {"QUEUED", "DEFERRED"}

    def why_always_has_an_answer(self):
        for name in self.devices:
            try:
                code, sentence = self.devices[name].why()
            except OperatorError:
                continue  # it has not been seen yet
            assert code
            assert sentence.startswith(f"prod/{name}: ")

    def all(self):
        return self.world.read(
            lambda unit: [
                one for name in DEVICES for one in unit.deployments.recent_of(self.world_id(name), limit=1000)
            ]
        )

    def world_id(self, name):
        return self.devices[name].id


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_offers_of_a_component_are_thirty_seconds_apart_whatever_is_said():
    """The spacing over a long random life; the machine above checks what each offer says."""
    import random

    world, rng = World(), random.Random(7)
    device = world.device()
    world.release()
    world.rollout()
    walls = []
    for _ in range(600):
        choice = rng.random()
        if choice < 0.4:
            device.restarts() if rng.random() < 0.5 else device.check_in()
        elif choice < 0.5 and world.read(lambda unit: unit.deployments.open_of(device.id)):
            device.says(rng.choice(["defer", "downloading", "downloaded"]), retry_after_s=rng.randrange(100))
        elif choice < 0.6 and world.read(lambda unit: unit.deployments.open_of(device.id)):
            device.asks()
        walls += [world.wall] * len(world.sent(Offer, world.last))
        world.last = []
        for _ in range(rng.randrange(20)):
            due = world.passes(1)
            walls += [world.wall] * len(world.sent(Offer, due))
            world.last = []
    assert len(walls) > 20
    assert [] == [(a, b) for a, b in zip(walls, walls[1:], strict=False) if b - a < 30]


@pytest.mark.parametrize("name", ["enrol_per_s", "block_max"])
def test_the_rules_have_the_limits_of_the_protocol(name):
    assert {"enrol_per_s": 100, "block_max": 16_384}[name] == getattr(Rules(), name)
