"""Which file of a Xively device is which component, and back.

A device knows files, a release knows components. The firmware's file has one of three names, by the port; any other
file is the component of its own name, in the letters that a component may have (`file.cfg`: `file-cfg`). What is set
comes first.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from ota_bridge.core.errors import ConfigError, InvalidInput
from ota_bridge.core.values import FIRMWARE, checked_component

FIRMWARE_FILES: Final = ("firmware.bin", "firmware.tar", "firmware")
_COMPONENT_MAX: Final = 16
_OTHER: Final = re.compile(r"[^a-z0-9_-]")


class FileNames:
    """The names that are set, over those that follow from the rule."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        """`named`: file name to component, as in the settings; raises ConfigError."""
        self._components = dict.fromkeys(FIRMWARE_FILES, FIRMWARE)
        for name, component in named.items():
            try:
                self._components[name] = checked_component(str(component))
            except InvalidInput as error:
                raise ConfigError(f"dialects.xively.files.{name[:40]}: {error}") from None

    def component(self, name: str) -> str:
        """The component that a file is."""
        return self._components.get(name) or _OTHER.sub("-", name.lower())[:_COMPONENT_MAX]
