"""The one table of what a plan file may say: its words, the fields of the plan that they stand for, and their forms.

From it the reader, the JSON Schema and the reference in docs/rollouts.md are made. What a row does not describe itself,
the docstring of its field does. Rules between fields are the records' own; the schema knows those that `rules` names.
"""

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import pairwise
from typing import Any, Final

from ota_bridge.core.rollout import plan
from ota_bridge.core.rollout.plan import (
    APPROVALS_MAX,
    ATTEMPTS_MAX,
    FACTOR_MAX,
    FAILURES,
    NAME_MAX,
    RATE_MAX_PER_MIN,
    STAGES_MAX,
    WINDOW_LENGTH_S,
    Action,
    FailureGate,
    Pace,
    Plan,
    Stage,
    SuccessGate,
    Timeouts,
    Tries,
    Window,
)
from ota_bridge.plan_file.values import AllOr, Choice, Duration, Form, Instant, Number, Several, Share, Text, Truth

COUNT_MAX: Final = 10**9
DEVICES_MAX: Final = 9_000
WINDOWS_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One word of a file; `stands_for` is what it stands for in the record, the same word where it is left out."""

    key: str
    form: "Form | Table | Tables"
    stands_for: str = ""
    about: str = ""
    required: bool = False

    @property
    def name(self) -> str:
        """The field of the record."""
        return self.stands_for or self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of a file, and the record that it becomes."""

    title: str
    record: type[Any]
    rows: tuple[Row, ...]
    rules: Mapping[str, Any] = field(default_factory=dict)
    """What JSON Schema can say of rules between fields."""
    target: tuple[str, ...] = ()
    """The keys that are not the record's."""

    def row(self, key: str) -> Row | None:
        """The row of a word."""
        return next((row for row in self.rows if row.key == key), None)

    def described(self, row: Row) -> str:
        """What the word means."""
        return row.about or docs(self.record.__name__)[row.name]

    def default(self, row: Row) -> Any:
        """What counts where the word is absent; MISSING where it must be there."""
        if row.key in self.target:
            return MISSING
        found = next(one for one in fields(self.record) if one.name == row.name)
        return found.default_factory() if callable(found.default_factory) else found.default


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """A list of tables of one kind."""

    of: Table
    most: int


@cache
def docs(record: str) -> Mapping[str, str]:
    """The docstrings of a record's fields, each as one line."""
    tree = ast.parse(inspect.getsource(plan))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == record)
    found: dict[str, str] = {}
    for one, after in pairwise(body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(after, ast.Expr):
            found[one.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return found


def _words(*actions: Action) -> Choice:
    return Choice(words={action.value: action for action in actions})


def _any_of(*keys: str) -> dict[str, Any]:
    return {"anyOf": [{"required": [key]} for key in keys]}


def _never_both(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"allOf": [{"not": {"required": list(pair)}} for pair in pairs]}


QUERY: Final = Text(of="a query in CEL, as text")
RELEASE: Final = Text(of="a release, as PRODUCT/VERSION", pattern=r"^[^\s/]+/[^\s/]+$", longest=200)
_COUNT: Final = Number(low=1, high=COUNT_MAX, whole=True)
_RATE: Final = Number(low=0.01, high=RATE_MAX_PER_MIN)
_PERCENT: Final = Number(low=0, high=100, above=True)
_TRIES: Final = Number(low=1, high=ATTEMPTS_MAX, whole=True)
_TIME: Final = Duration(low=1)

SUCCESS: Final = Table(
    title="success",
    record=SuccessGate,
    rows=(
        Row(
            key="share",
            form=Share(),
            about="Of the stage's devices, as 0.8 or 80 %. Those that still sleep count as not confirmed.",
        ),
        Row(
            key="min",
            stands_for="min_count",
            form=Number(low=0, high=COUNT_MAX, whole=True),
            about="At least so many devices confirmed, or all of a smaller stage. Canceled ones do not lower it.",
        ),
        Row(key="soak", stands_for="soak_s", form=Duration(low=0)),
        Row(
            key="then",
            stands_for="action",
            form=_words(Action.GO_ON, Action.WAIT),
            about="The next stage opens, or waits for a person (`rollout next`).",
        ),
    ),
)

FAILURE: Final = Table(
    title="failure",
    record=FailureGate,
    rows=(
        Row(
            key="share",
            form=Share(above=True),
            about="Of the devices whose attempt has ended; where it is absent, shares are not looked at.",
        ),
        Row(key="count", form=_COUNT, about="So many failed attempts."),
        Row(
            key="kinds",
            form=Several(
                of=Choice(words={state.value.lower(): state for state in FAILURES}),
                named="failed, rejected, rolled_back, timed_out",
                most=len(FAILURES),
            ),
            about="The ends of an attempt that count.",
        ),
        Row(key="min", stands_for="min_executed", form=_COUNT),
        Row(
            key="then",
            stands_for="action",
            form=_words(Action.PAUSE, Action.CANCEL, Action.ROLL_BACK),
            about="What happens to the rollout; `roll_back` needs `roll_back_to`.",
        ),
    ),
    rules=_any_of("share", "count"),
)

STAGE: Final = Table(
    title="stage",
    record=Stage,
    rows=(
        Row(
            key="name",
            form=Text(of=f"up to {NAME_MAX} printable characters", longest=NAME_MAX),
            about="For people; no two stages have the same.",
        ),
        Row(key="devices", form=_COUNT),
        Row(key="percent", form=_PERCENT),
        Row(key="where", form=QUERY),
        Row(
            key="success",
            form=SUCCESS,
            about="When the stage has succeeded: enough of its devices confirmed, for long enough.",
        ),
        Row(key="failure", form=FAILURE, about="When the stage has failed; where it is absent, failures stop nothing."),
    ),
    rules=_never_both(("devices", "percent"), ("devices", "where"), ("percent", "where")),
)

PACE: Final = Table(
    title="pace",
    record=Pace,
    rows=(
        Row(key="per_min", form=_RATE, about="So many devices are let in each minute."),
        Row(key="factor", form=Number(low=1, high=FACTOR_MAX)),
        Row(key="per_success", form=_COUNT, about="After so many confirmed devices the rate grows."),
        Row(key="max_per_min", form=_RATE, about="It grows no further."),
        Row(
            key="over",
            stands_for="over_s",
            form=_TIME,
            about="Spread the devices of each stage evenly over this time, instead of a rate.",
        ),
    ),
    rules={**_any_of("per_min", "over"), **_never_both(("per_min", "over"))},
)

WINDOW: Final = Table(
    title="window",
    record=Window,
    rows=(
        Row(
            key="cron",
            form=Text(of="five fields, such as `0 2 * * *`", pattern=r"^\s*\S+(\s+\S+){4}\s*$", longest=200),
            required=True,
        ),
        Row(
            key="length",
            stands_for="length_s",
            form=Duration(low=WINDOW_LENGTH_S[0], high=WINDOW_LENGTH_S[1], whole=True),
            about="How long it stays open.",
            required=True,
        ),
        Row(
            key="tz",
            form=Text(of="an IANA zone, such as `Europe/Berlin`", longest=100),
            about="The zone of devices without an attribute `tz`; absent: UTC.",
        ),
        Row(
            key="where",
            form=QUERY,
            about="Devices that it is for, by a query; absent: all. The first window that fits a device is its window.",
        ),
    ),
)

TIMEOUTS: Final = Table(
    title="timeouts",
    record=Timeouts,
    rows=(
        Row(key="offered", stands_for="offered_s", form=_TIME, about="From the offer to the first block."),
        Row(key="downloading", stands_for="downloading_s", form=_TIME),
        Row(
            key="installing",
            stands_for="installing_s",
            form=_TIME,
            about="From the word to install to the next check-in.",
        ),
        Row(key="trial", stands_for="trial_s", form=_TIME, about="On trial, until it is confirmed."),
        Row(key="sleepers_wait", form=Truth()),
    ),
)

RETRIES: Final = Table(
    title="retries",
    record=Tries,
    rows=(
        Row(key="max_attempts", form=_TRIES, about="Attempts for one device, however they end."),
        Row(
            key="backoff",
            stands_for="backoff_s",
            form=Duration(low=0),
            about="The wait before the second attempt; it grows with each.",
        ),
        Row(key="timed_out", form=_TRIES, about="Attempts that may end so, within max_attempts."),
        Row(key="failed", form=_TRIES, about="Attempts that may end so, within max_attempts."),
        Row(key="rolled_back", form=_TRIES, about="Attempts that may end so, within max_attempts."),
        Row(key="quarantine_after", form=Number(low=0, high=ATTEMPTS_MAX, whole=True)),
    ),
)

PLAN: Final = Table(
    title="",
    record=Plan,
    rows=(
        Row(
            key="release",
            form=Text(
                of="a release, as PRODUCT/VERSION (or VERSION, where one product has it)",
                pattern=r"^[^\s/]+(/[^\s/]+)?$",
                longest=200,
            ),
            about="What is brought to the devices.",
            required=True,
        ),
        Row(
            key="to",
            form=AllOr(several=Several(of=Text(of="a device's name", longest=200), named="devices", most=DEVICES_MAX)),
            about="Everyone, or the devices of a list.",
        ),
        Row(
            key="percent",
            form=Number(low=0, high=100, whole=True),
            about="A share of the product's devices; a stable hash decides which, so 10 % are among the 50 %.",
        ),
        Row(key="where", form=QUERY, about="The devices that match a query; with percent, a share of them."),
        Row(key="start", stands_for="start_wall", form=Instant()),
        Row(key="deadline", stands_for="deadline_s", form=_TIME),
        Row(
            key="stage",
            stands_for="stages",
            form=Tables(of=STAGE, most=STAGES_MAX),
            about="The steps, in their order; where there are none, everyone at once.",
        ),
        Row(key="pace", form=PACE, about="How fast devices are let in; absent: all of a stage at once."),
        Row(
            key="window",
            stands_for="windows",
            form=Tables(of=WINDOW, most=WINDOWS_MAX),
            about="When devices may be offered the release; where there are none, at any time.",
        ),
        Row(
            key="timeouts",
            form=TIMEOUTS,
            about="How long a deployment may stay in a state; what is absent is as the daemon is configured.",
        ),
        Row(
            key="retries",
            stands_for="tries",
            form=RETRIES,
            about="How often one device is tried; what is absent is as the daemon is configured.",
        ),
        Row(key="late", stands_for="takes_late", form=Truth()),
        Row(key="urgent", stands_for="is_urgent", form=Truth()),
        Row(key="approvals", form=Number(low=0, high=APPROVALS_MAX, whole=True)),
        Row(key="roll_back_to", form=RELEASE),
    ),
    rules={**_any_of("to", "percent", "where"), **_never_both(("to", "percent"), ("to", "where"))},
    target=("release", "to", "percent", "where"),
)


def tables() -> Iterator[Table]:
    """Every table, the whole first."""
    waiting = [PLAN]
    while waiting:
        table = waiting.pop(0)
        yield table
        forms = [row.form for row in table.rows]
        waiting += [form.of if isinstance(form, Tables) else form for form in forms if isinstance(form, Table | Tables)]
