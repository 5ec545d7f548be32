"""The operator's face of the core: every command by name. Importing it registers them all."""

from ota_bridge.core.operations import (
    approvals,
    audit,
    devices,
    dry_run,
    history,
    limits,
    people,
    releases,
    rollouts,
    whole,
)
from ota_bridge.core.operations.registry import (
    EDGE,
    OPERATIONS,
    Context,
    Failure,
    Operation,
    admit,
    carry_out,
    checked_arguments,
    perform,
    record_failure,
)
from ota_bridge.core.operations.releases import Upload, add_release

__all__ = [
    "EDGE",
    "OPERATIONS",
    "Context",
    "Failure",
    "Operation",
    "Upload",
    "add_release",
    "admit",
    "approvals",
    "audit",
    "carry_out",
    "checked_arguments",
    "devices",
    "dry_run",
    "history",
    "limits",
    "people",
    "perform",
    "record_failure",
    "releases",
    "rollouts",
    "whole",
]
