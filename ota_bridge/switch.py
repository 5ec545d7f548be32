"""Which dialect a message of the control link is for: the native one by its topic root, a vendor's by its filters."""

from collections.abc import Sequence

from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Uplink
from ota_bridge.core.values import DeviceId
from ota_bridge.dialect import VendorDialect
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.wire import MqttMessage, Subscription, matches


class Switch:
    """Every dialect that is set up, on the control plane."""

    def __init__(self, native: NativeDialect, vendors: Sequence[VendorDialect] = ()) -> None:
        self.native = native
        self.vendors = vendors
        self._filters = [(one.topic_filter, vendor) for vendor in vendors for one in vendor.subscriptions()]

    def subscriptions(self) -> Sequence[Subscription]:
        """What the control link subscribes; each filter once."""
        wanted = [*self.native.subscriptions(), *(one for vendor in self.vendors for one in vendor.subscriptions())]
        qos: dict[str, int] = {}
        for one in wanted:
            qos[one.topic_filter] = max(one.qos, qos.get(one.topic_filter, 0))
        return [Subscription(topic_filter=name, qos=number) for name, number in qos.items()]

    def is_for_blocks(self, message: MqttMessage) -> bool:
        """True for what the block plane answers."""
        vendor = self._vendor(message.topic)
        return vendor is not None and vendor.is_for_blocks(message)

    def decode(self, message: MqttMessage) -> Uplink | None:
        """The meaning of a message; None: nothing. Raises Malformed where the topic names no device."""
        vendor = self._vendor(message.topic)
        return self.native.decode(message) if vendor is None else vendor.read(message)

    def device_of(self, topic: str) -> DeviceId | None:
        """Whose topic it is, as far as that can be told."""
        try:
            uplink = self.decode(MqttMessage(topic=topic, payload=b""))
        except Malformed:
            return None
        return None if uplink is None else uplink.device

    def _vendor(self, topic: str) -> VendorDialect | None:
        if not self._filters:
            return None
        return next((vendor for topic_filter, vendor in self._filters if matches(topic_filter, topic)), None)
