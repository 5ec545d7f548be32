"""The operator's face of the core: every command by name. Importing it registers them all."""

from ota_bridge.core.operations import devices, dry_run, limits, releases, rollouts, whole
from ota_bridge.core.operations.registry import OPERATIONS, Context, Operation, checked_arguments, perform
from ota_bridge.core.operations.releases import Upload, add_release

__all__ = [
    "OPERATIONS",
    "Context",
    "Operation",
    "Upload",
    "add_release",
    "checked_arguments",
    "devices",
    "dry_run",
    "limits",
    "perform",
    "releases",
    "rollouts",
    "whole",
]
