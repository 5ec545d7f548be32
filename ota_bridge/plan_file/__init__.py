"""Plan files: a rollout written down in TOML or YAML, read strictly and with the line of whatever is wrong.

`form` is the one table of what a file may say; `reading` makes a plan of a file, `schema` a JSON Schema of the table.
"""

from ota_bridge.plan_file.marked import PlanFileError, Problem
from ota_bridge.plan_file.reading import PlanFile, read_plan_file, read_plan_text
from ota_bridge.plan_file.schema import plan_schema

__all__ = ["PlanFile", "PlanFileError", "Problem", "plan_schema", "read_plan_file", "read_plan_text"]
