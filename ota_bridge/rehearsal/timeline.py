"""What happens to the rollouts of a rehearsal, and when: told from what their records say before and after."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ota_bridge.core.explain_rollout import stage_name
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rollout.gates import stage_verdict, tally
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.values import RolloutId


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened."""

    at_s: float
    rollout: RolloutId
    what: str
    sentence: str


@dataclass(slots=True, kw_only=True)
class StageSeen:
    """One stage of a rollout, as it went."""

    name: str
    size: int
    opened_s: float
    met_s: float | None = None
    """Since when its gate has had its counts, where it soaks; else when it succeeded."""
    over_s: float | None = None
    """When it succeeded, or failed."""
    verdict: str = ""


@dataclass(slots=True)
class Timeline:
    """See the module."""

    weight: int = 1
    moments: list[Moment] = field(default_factory=list)
    stages: dict[RolloutId, list[StageSeen]] = field(default_factory=dict)
    _seen: dict[RolloutId, Rollout] = field(default_factory=dict)

    def looks_at(self, unit: UnitOfWork, at_s: float, wall: float) -> None:
        """Note what has changed since it last looked."""
        for rollout in unit.rollouts.all():
            before = self._seen.get(rollout.id)
            if before is not rollout:
                self._seen[rollout.id] = rollout
                self._tell(unit, before, rollout, at_s, wall)

    def _tell(self, unit: UnitOfWork, before: Rollout | None, rollout: Rollout, at_s: float, wall: float) -> None:
        old, new = None if before is None else before.standing, rollout.standing
        if before is None:
            self._note(at_s, rollout, "created", f"rollout of {rollout.release} to {rollout.target}")
            if rollout.cause:
                self._note(at_s, rollout, "because", rollout.cause)
        if new.started_wall is not None and (old is None or old.started_wall is None):
            self._note(at_s, rollout, "started", "it starts: its devices are being found")
        stages = self.stages.setdefault(rollout.id, [])
        for number in range(0 if old is None else len(old.ends), len(new.ends)):
            if number:
                self._succeeded(unit, rollout, number - 1, at_s, wall)
            size = new.sizes[number] * self.weight
            stages.append(StageSeen(name=stage_name(rollout, number), size=size, opened_s=at_s))
            devices = "1 device" if size == 1 else f"{size:,} devices"
            # How many of the rest there are, only letting them in says.
            many = f" with {devices}" if size or not rollout.plan.stages[number].is_rest else ""
            self._note(at_s, rollout, "stage_opened", f"{stages[-1].name} opens{many}")
        if old is not None and len(old.ends) == len(new.ends) and new.ends:
            self._gate(unit, rollout, old.met_wall, at_s, wall)
        if new.waits_for_person and not (old is not None and old.waits_for_person):
            self._note(at_s, rollout, "waits_for_person", f"{stages[-1].name} has succeeded, and a person is asked")
        if new.is_through and not (old is not None and old.is_through):
            self._succeeded(unit, rollout, new.stage, at_s, wall)
            self._note(at_s, rollout, "through", "all its stages have succeeded")
        if before is not None and before.state is not rollout.state:
            self._state(rollout, stages, at_s)

    def _gate(self, unit: UnitOfWork, rollout: Rollout, met_wall: float | None, at_s: float, wall: float) -> None:
        stage, standing = self.stages[rollout.id][-1], rollout.standing
        if met_wall is None and standing.met_wall is not None:
            stage.met_s = at_s
            verdict = self._verdict(unit, rollout, standing.stage, wall, standing.met_wall)
            self._note(at_s, rollout, "soaking", f"{stage.name}: {verdict}")
        elif met_wall is not None and standing.met_wall is None and not standing.waits_for_person:
            stage.met_s = None
            verdict = self._verdict(unit, rollout, standing.stage, wall, None)
            self._note(at_s, rollout, "met_no_more", f"{stage.name}: {verdict}; soaking is over")

    def _succeeded(self, unit: UnitOfWork, rollout: Rollout, number: int, at_s: float, wall: float) -> None:
        stage = self.stages[rollout.id][number]
        stage.over_s = at_s
        stage.met_s = at_s if stage.met_s is None else stage.met_s
        stage.verdict = self._verdict(unit, rollout, number, wall, 0.0)
        self._note(at_s, rollout, "gate_met", f"{stage.name} succeeds: {stage.verdict}")

    def _state(self, rollout: Rollout, stages: list[StageSeen], at_s: float) -> None:
        what = {RolloutState.PAUSED: "paused", RolloutState.CANCELED: "canceled"}.get(rollout.state)
        if what is None:
            return
        if stages and stages[-1].over_s is None:
            stages[-1].over_s, stages[-1].verdict = at_s, rollout.cause
        self._note(at_s, rollout, what, f"it is {what}: {rollout.cause}")

    def _verdict(self, unit: UnitOfWork, rollout: Rollout, number: int, wall: float, met_wall: float | None) -> str:
        sizes = rollout.standing.sizes
        found = tally(unit.deployments.tallies(rollout.id), number, sizes[number])
        sentence = stage_verdict(rollout.plan.stages[number], found, met_wall, wall).sentence
        return sentence if self.weight == 1 else f"{sentence} (each for {self.weight} devices)"

    def _note(self, at_s: float, rollout: Rollout, what: str, sentence: str) -> None:
        self.moments.append(Moment(at_s=at_s, rollout=rollout.id, what=what, sentence=sentence))

    def states(self) -> Mapping[RolloutId, Rollout]:
        """The rollouts as they were seen last."""
        return self._seen
