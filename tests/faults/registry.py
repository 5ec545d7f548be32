"""Every family of faults; see `tests/faults/families.py` for what one is."""

from tests.faults import hostile_input, link, power, process
from tests.faults.families import Family

FAMILIES: dict[str, Family] = {
    family.name: family for family in (*power.FAMILIES, link.LINK, process.PROCESS, hostile_input.INPUT)
}
