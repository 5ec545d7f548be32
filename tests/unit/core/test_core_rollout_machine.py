"""Random devices, faults and operators against planner and policies; what must always hold is looked at after each step."""

from collections import Counter

from core_world import FACTORY, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ota_bridge.core.bridge import Bridge
from ota_bridge.core.deployment import OPEN, TERMINAL, State
from ota_bridge.core.errors import OperatorError
from ota_bridge.core.operations import perform
from ota_bridge.core.rollout.gates import failure_sentence, tally, wanted
from ota_bridge.core.rollout.model import RolloutState

NAMES = [f"d{number:02d}" for number in range(9)]
VERSIONS = ["1.1.0", "1.2.0", "1.3.0"]
NAMED = st.sampled_from(NAMES)

SUCCESS = st.fixed_dictionaries(
    {}, optional={"share": st.sampled_from([0.0, 0.5, 1.0]), "soak_s": st.sampled_from([0.0, 30.0]),
                  "action": st.sampled_from(["go_on", "wait"])},
)  # fmt: skip
FAILURE = st.fixed_dictionaries(
    {"count": st.integers(1, 3)}, optional={"action": st.sampled_from(["pause", "cancel"]), "share": st.just(0.5)}
)
SIZED = st.builds(
    lambda devices, success, failure: {"devices": devices, "success": success, **failure},
    st.integers(1, 4), SUCCESS, st.just({}) | FAILURE.map(lambda gate: {"failure": gate}),
)  # fmt: skip
PLANS = st.builds(
    lambda stages, last, more: {"stages": [*stages, {"success": last}], **more},
    st.lists(SIZED, max_size=3),
    SUCCESS,
    st.fixed_dictionaries(
        {},
        optional={
            "pace": st.just({"per_min": 6.0}),
            "deadline_s": st.sampled_from([600.0, 86_400.0]),
            "is_urgent": st.booleans(),
            "takes_late": st.booleans(),
            "start_wall": st.just(1_000_100.0),
            "tries": st.fixed_dictionaries({"max_attempts": st.integers(1, 3)}, optional={"quarantine_after": st.integers(1, 3)}),
            "timeouts": st.fixed_dictionaries({}, optional={"offered_s": st.just(300.0), "sleepers_wait": st.booleans()}),
        },
    ),
)  # fmt: skip


def snapshot(world):
    """What the planner decides, without the random names."""

    def read(unit):
        rollouts = [(one.release, one.state, one.standing.ends, one.standing.is_through, one.sweep) for one in unit.rollouts.all()]  # fmt: skip
        order = {one.id: number for number, one in enumerate(unit.rollouts.all())}
        deployments = sorted(
            (
                str(one.device),
                order[one.rollout],
                one.attempt,
                one.state,
                one.stage,
                str(one.earlier_end),
                one.slot_rank,
            )
            for device in unit.devices.page()
            for one in unit.deployments.recent_of(device.id, limit=500)
        )
        lines = [unit.members.page(one.id, end=2**62, limit=99) for one in unit.rollouts.all()]
        return rollouts, deployments, lines

    return world.read(read)


class RolloutMachine(RuleBasedStateMachine):
    """Each rule is something that a device, an operator or time can do at any moment."""

    def __init__(self):
        super().__init__()
        self.world = World(enrol_burst=1000)
        self.ended = {}
        self.stages = {}

    @initialize()
    def begin(self):
        for seq, version in enumerate(VERSIONS, start=2):
            self.world.release(version, seq=seq)
        self.devices = {name: self.world.device(name, check_in=name < "d07") for name in NAMES}

    # --- operators ---

    @rule(version=st.sampled_from(VERSIONS), plan=PLANS)
    def starts(self, version, plan):
        self.world.do("rollout.start", release=version, plan=plan)

    @rule(
        what=st.sampled_from(["pause", "resume", "cancel", "next"]), number=st.integers(0, 3), let_finish=st.booleans()
    )
    def steers(self, what, number, let_finish):
        rollouts = self.rollouts()
        if not rollouts:
            return
        rollout = rollouts[number % len(rollouts)]
        args = {"let_finish": let_finish} if what == "cancel" else {}
        try:
            self.world.do(f"rollout.{what}", rollout=rollout.id, **args)
        except OperatorError:
            return
        if what == "next":
            self.stages[rollout.id] = self.rollout(rollout.id).standing.stage

    @rule(downloads=st.sampled_from([0, 1, 3]))
    def limits(self, downloads):
        self.world.do("limits.set", downloads=downloads)

    # --- devices ---

    @rule(name=NAMED, new_boot=st.booleans())
    def checks_in(self, name, new_boot):
        device = self.devices[name]
        device.restarts() if new_boot else device.check_in()

    @rule(name=NAMED, good=st.booleans())
    def updates(self, name, good):
        device = self.devices[name]
        found = self.world.read(lambda unit: unit.deployments.open_of(device.id))
        if not found or found[0].state not in {State.OFFERED, State.DOWNLOADING, State.DEFERRED}:
            return
        device.asks(deployment=found[0].id)
        if not good:
            device.says("fail", found[0].id, result_code="-2")
            return
        device.says("downloaded", found[0].id)
        device.says("burning", found[0].id)
        version = found[0].release.partition("/")[2]
        device.runs(version, seq=2 + VERSIONS.index(version))
        device.restarts()

    @rule(name=NAMED)
    def falls_back(self, name):
        device = self.devices[name]
        device.runs(FACTORY, seq=1)
        device.restarts()

    # --- time and restarts ---

    @rule(seconds=st.sampled_from([1, 10, 60, 400, 4000]))
    def time_passes(self, seconds):
        self.world.passes(seconds)

    @rule(devices=st.integers(1, 5))
    def a_slice(self, devices):
        left = [devices]

        def go_on():
            left[0] -= 1
            return left[0] > 0

        before = {one.id: one for one in self.rollouts()}
        self.world.commit(lambda unit: self.world.bridge.plan(unit, self.world.now, go_on).outputs)
        self.look_at_openings(before)

    @rule()
    def plans(self):
        more = True
        while more:
            before = {one.id: one for one in self.rollouts()}
            done = []

            def work(unit, done=done):
                done.append(self.world.bridge.plan(unit, self.world.now))
                return done[0].outputs

            self.world.commit(work)
            more = done[0].more
            self.look_at_openings(before)
        seen = snapshot(self.world)
        self.world.commit(lambda unit: self.world.bridge.plan(unit, self.world.now).outputs)
        assert seen == snapshot(self.world), "a step on the same records did something else"

    @rule()
    def the_daemon_restarts(self):
        old = self.world.bridge
        self.world.bridge = Bridge(
            old.rules, verify=old._verify, ticket=old._ticket, keysets=old._keysets, queries=old.queries, calendar=old.calendar
        )  # fmt: skip

    # --- what holds ---

    def rollouts(self):
        return self.world.read(lambda unit: list(unit.rollouts.all()))

    def rollout(self, name):
        return self.world.read(lambda unit: unit.rollouts.get(name))

    def all_deployments(self):
        return [one for device in self.devices.values() for one in device.all]

    def look_at_openings(self, before):
        """A stage that the planner opened had a gate that was met, by counts that are made here anew."""
        for rollout in self.rollouts():
            was = before[rollout.id].standing
            if rollout.standing.stage <= max(was.stage, 0):
                continue
            counts = Counter(
                (one.stage, one.state, one.earlier_end)
                for one in self.all_deployments()
                if one.rollout == rollout.id and one.latest
            )
            stage = rollout.plan.stages[was.stage]
            found = tally(counts, was.stage, was.sizes[-1])
            assert found.confirmed >= wanted(stage, found), (stage, found)
            if stage.failure is not None:
                assert not failure_sentence(stage.failure, found, was.forgiven)
            assert was.opened_wall + stage.success.soak_s <= self.world.wall + 1e-6

    @invariant()
    def no_component_has_two_open_deployments(self):
        open_ = Counter((one.device, one.component) for one in self.all_deployments() if one.is_open)
        assert not open_ or 1 == max(open_.values())

    @invariant()
    def terminal_is_terminal(self):
        for one in self.all_deployments():
            if one.id in self.ended:
                assert self.ended[one.id] is one.state
            elif one.state in TERMINAL:
                self.ended[one.id] = one.state

    @invariant()
    def counters_are_the_recount(self):
        for rollout in self.rollouts():
            again = Counter(
                (one.stage, one.state, one.earlier_end)
                for one in self.all_deployments()
                if one.rollout == rollout.id and one.latest
            )
            assert again == dict(self.world.read(lambda unit, r=rollout: unit.deployments.tallies(r.id)))

    @invariant()
    def nobody_is_let_in_before_its_stage(self):
        rollouts = {one.id: one for one in self.rollouts()}
        for one in self.all_deployments():
            assert one.stage <= max(rollouts[one.rollout].standing.stage, 0)

    @invariant()
    def everything_can_be_explained(self):
        for device in self.devices.values():
            if device.all or self.world.read(lambda unit, d=device: unit.devices.get(d.id)):
                code, sentence = device.why()
                assert code
                assert str(device.id) in sentence
        for rollout in self.rollouts():
            assert self.world.do("why", device=rollout.id)["code"]

    def teardown(self):
        """Every deployment ends in a named state, whatever happened before."""
        if not hasattr(self, "devices"):
            return
        self.world.do("limits.set", downloads=0)
        for rollout in self.rollouts():
            if rollout.state is RolloutState.PAUSED:
                self.world.do("rollout.resume", rollout=rollout.id)
        for _ in range(12):
            self.plans()
            for rollout in self.rollouts():
                if rollout.state is RolloutState.PAUSED:
                    self.world.do("rollout.resume", rollout=rollout.id)
            self.world.passes(90_000)
        for rollout in self.rollouts():
            if rollout.plan.timeouts.sleepers_wait and rollout.state is not RolloutState.CANCELED:
                self.world.do("rollout.cancel", rollout=rollout.id, let_finish=True)
        self.world.passes(9 * 86_400)
        assert [] == [one for one in self.all_deployments() if one.state in OPEN]


TestRollouts = RolloutMachine.TestCase
TestRollouts.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(max_examples=25, deadline=None)
@given(
    plan=PLANS,
    slots=st.sampled_from([0, 2]),
    fails=st.sets(st.sampled_from(NAMES), max_size=4),
    pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
def test_a_planner_that_is_killed_between_any_two_commits_does_the_same(plan, slots, fails, pieces):
    """One world plans in whole steps; in the other each slice is the first of another process."""
    whole, cut = (story(plan, slots, fails, sizes) for sizes in ([], pieces))
    assert whole == cut


def story(plan, slots, fails, pieces):
    world = World(enrol_burst=1000)
    world.release("1.1.0")
    devices = [world.device(name) for name in NAMES]
    world.do("limits.set", downloads=slots)
    world.commit(lambda unit: started(world, unit, plan))
    seen = []
    for round_ in range(8):
        step(world, pieces, round_)
        for device in devices:
            found = world.read(lambda unit, d=device: unit.deployments.open_of(d.id))
            if found and found[0].state is State.OFFERED:
                device.asks(deployment=found[0].id)
                if device.id.name in fails:
                    device.says("fail", found[0].id, result_code="REFUSED_SIG")
                else:
                    device.runs("1.1.0")
                    device.restarts()
        world.jump(40)
        world.tick()
        seen.append(snapshot(world))
    return seen


def started(world, unit, plan):
    args = {"release": "1.1.0", "plan": plan}
    return perform(unit, world.bridge, "rollout.start", args, caller=world.caller, now=world.now)


def step(world, pieces, round_):
    more = True
    while more:
        left = [pieces[round_ % len(pieces)] if pieces else 10**9]

        def go_on(left=left):
            left[0] -= 1
            return left[0] > 0

        done = []

        def work(unit, go_on=go_on, done=done):
            done.append(world.bridge.plan(unit, world.now, go_on))
            return done[0].outputs

        world.commit(work)
        more = done[0].more
        if pieces:
            old = world.bridge
            world.bridge = Bridge(
                old.rules, verify=old._verify, ticket=old._ticket, keysets=old._keysets, queries=old.queries, calendar=old.calendar
            )  # fmt: skip
