"""AWS IoT Jobs with MQTT file streams: the devices that speak it, chosen by the variants.

| variant | what it is |
|---|---|
| `jobs-json` (without any), `jobs-cbor` | Jobs and streams libraries as in the ESP32 reference |
| `lab` | with either: the simple Lab demo, which hears nothing that it has not subscribed |
| `no-restart`, `version-2` | with either: reports SUCCEEDED straight after the download; with expectedVersion "2" |
| `older-agent` | the OTA agent of releases up to 2022 |
| `wildcard`, `quick` | with it: the wildcards of the STM32U5 reference; asks again after half a second instead of ten |
| `sdk` | a device on one of the SDKs: it subscribes every answer and uses all that there is |
| `several` | with the others: four blocks per request |
| `auto-subscribe` | with any of them: something in between adds the subscriptions that the cloud does without |

Topics have no product; the thing's name is the client id. A file `signer.pem` in the state directory is the key that
images have to be signed with.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from device_sim.clients.aws_agent import AgentDevice
from device_sim.clients.aws_device import AwsDevice
from device_sim.clients.aws_flash import Flash
from device_sim.clients.aws_jobs import JobsDevice
from device_sim.clients.aws_sdk import SdkDevice
from device_sim.clients.model import (
    Action,
    ClientOptions,
    Incoming,
    Outcome,
    Publish,
    Restart,
    Session,
    Subscribe,
    Unsubscribe,
)
from device_sim.errors import OptionError

VARIANTS: Final = frozenset(
    {
        "jobs-json",
        "jobs-cbor",
        "older-agent",
        "sdk",
        "lab",
        "no-restart",
        "version-2",
        "wildcard",
        "quick",
        "several",
        "auto-subscribe",
    }
)
_NAME_MAX: Final = 128
_ANSWERS: Final = (
    "start-next/accepted",
    "start-next/rejected",
    "$next/get/accepted",
    "$next/get/rejected",
    "+/update/accepted",
    "+/update/rejected",
)


class AwsClient:
    """A `VendorClient`: the prefix, restarts and the timer, around the device that the variants choose."""

    def __init__(self, options: ClientOptions) -> None:
        unknown = options.variants - VARIANTS
        if unknown:
            raise OptionError(
                f"aws has no variant {', '.join(sorted(unknown))}; there are {', '.join(sorted(VARIANTS))}"
            )
        if not 1 <= len(options.name) <= _NAME_MAX:
            raise OptionError(f"a thing's name has up to {_NAME_MAX} characters, this one {len(options.name)}")
        self._options = options
        self._flash = Flash(options.version, options.state)
        kind: Callable[[ClientOptions, Flash], AwsDevice] = JobsDevice
        if "older-agent" in options.variants:
            kind = AgentDevice
        elif "sdk" in options.variants:
            kind = SdkDevice
        self.device = kind(options, self._flash)

    @property
    def outcome(self) -> Outcome:
        """How it stands."""
        return Outcome(
            version=self._flash.version,
            sha256=self._flash.sha256,
            installs=self._flash.installs,
            restarts=self._flash.restarts,
            failures=tuple(self.device.failures),
            is_busy=self.device.is_busy or self._flash.is_pending,
        )

    def session(self) -> Session:
        """Certificates say who it is, so it has no password of its own."""
        return Session(client_id=self._options.name, password=self._options.secret or None)

    def started(self, now_s: float) -> Sequence[Action]:
        """Power-on."""
        self.device.is_connected = False
        return self._out(self._at(now_s).boot())

    def connected(self, now_s: float) -> Sequence[Action]:
        """CONNACK; what is in between subscribes before the device does."""
        added: list[Action] = []
        if "auto-subscribe" in self._options.variants:
            added = [Subscribe(topic_filter=self.device.jobs + name) for name in _ANSWERS]
        return self._out([*added, *self._at(now_s).connected()])

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        """SUBACK."""
        topic_filter = topic_filter.removeprefix(self._options.prefix)
        return self._out(self._at(now_s).subscribed(topic_filter, granted=granted))

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        """A message."""
        topic = message.topic.removeprefix(self._options.prefix)
        return self._out(self._at(now_s).received(replace(message, topic=topic)))

    def disconnected(self, now_s: float) -> Sequence[Action]:
        """The link broke."""
        return self._out(self._at(now_s).disconnected())

    def tick(self, now_s: float) -> Sequence[Action]:
        """Its timer, if that has run out."""
        if self.device.deadline is None or now_s < self.device.deadline:
            return ()
        self.device.deadline = None
        return self._out(self._at(now_s).expired())

    def next_deadline(self) -> float | None:
        """When its timer runs out."""
        return self.device.deadline

    def _at(self, now_s: float) -> AwsDevice:
        self.device.now_s = now_s
        return self.device

    def _out(self, actions: Sequence[Action]) -> Sequence[Action]:
        self._flash.restarts += sum(isinstance(action, Restart) for action in actions)
        return [self._prefixed(action) for action in actions]

    def _prefixed(self, action: Action) -> Action:
        prefix = self._options.prefix
        match action:
            case Publish():
                return replace(action, topic=prefix + action.topic)
            case Subscribe() | Unsubscribe():
                return replace(action, topic_filter=prefix + action.topic_filter)
            case _:
                return action
