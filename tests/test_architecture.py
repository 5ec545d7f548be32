"""What keeps the shape of the project: layers, mirrored tests, file sizes, dialects with papers, parity of CLI and core."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ota_bridge.core.operations import OPERATIONS
from ota_bridge.core.values import NATIVE
from ota_bridge.dialects.registry import BUILT_IN

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "ota_bridge").rglob("*.py") if path.name != "__init__.py"
)

# Modules without a test file of their own name: where they are tested, and why there.
TESTED_BY = {
    "__main__.py": ("unit/cli/test_cli_app.py", "one call of the CLI"),
    "block_table.py": ("unit/test_gateway.py", "what of it comes while it is loaded, by the gateway"),
    "block_process.py": ("integration/test_block_process.py", "a process is tested as one"),
    "block_worker.py": ("integration/test_block_process.py", "the other end of block_process"),
    "cli/config_cmd.py": ("unit/cli/test_cli_config.py", "the command is called config"),
    "cli/demo_view.py": ("unit/cli/test_cli_demo.py", "the screen of the demo"),
    "cli/offline.py": ("unit/cli/test_cli_device.py", "reads that a stopped daemon leaves to the database"),
    "cli/serve.py": ("unit/cli/test_cli_app.py", "starts the daemon, which the integration tests run"),
    "cli/session.py": ("unit/cli/test_cli_app.py", "what every command has in common"),
    "audit_head.py": ("unit/test_gateway.py", "published by the pump"),
    "core/artifacts.py": ("unit/core/test_core_blocks.py", "Protocols of what the block plane serves"),
    "core/conversation.py": ("unit/core/test_core_vendors.py", "plain records, with a dialect made for the tests"),
    "core/speaking.py": ("unit/core/test_core_vendors.py", "what a dialect is shown, over whole lives"),
    "core/bridge.py": ("unit/core/test_core_lifecycle.py", "with updates, over whole lives of deployments"),
    "core/errors.py": ("unit/core/test_core_values.py", "a tree and two lists"),
    "core/messages.py": ("unit/dialects/test_dialect_native.py", "plain records; the vectors fill them all"),
    "core/operations/dry_run.py": ("unit/core/test_core_stages.py", "who a rollout would reach, beside whom it does"),
    "core/notes.py": ("unit/core/test_core_lifecycle.py", "what the block plane tells, over whole lives"),
    "core/notices.py": ("unit/core/test_core_offers.py", "what is offered, with updates"),
    "core/people_views.py": ("unit/core/operations/test_operations_people.py", "what the operations return"),
    "core/ports.py": ("contract/test_contract_unit_of_work.py", "the contract suite runs over every store"),
    "core/rollout/approvals.py": ("unit/core/operations/test_operations_approvals.py", "by the operations"),
    "core/rollout/model.py": ("unit/core/test_core_rollout.py", "one file for the three of rollout"),
    "core/rollout/planner.py": ("unit/core/test_core_rollout.py", "one file for the three of rollout"),
    "core/rollout/policy.py": ("unit/core/test_core_rollout.py", "one file for the three of rollout"),
    "core/served.py": ("unit/core/test_core_blocks.py", "what the server counts"),
    "core/rules.py": ("unit/core/test_core_lifecycle.py", "plain settings, which every world has"),
    "core/steering.py": ("unit/core/test_core_stages.py", "what operators and gates do to whole rollouts"),
    "core/terms.py": ("unit/core/test_core_stages.py", "what a plan means for one device, over whole rollouts"),
    "core/explain_rollout.py": ("unit/core/test_core_stages.py", "each reason, where it comes up"),
    "core/updates.py": ("unit/core/test_core_offers.py", "with bridge, over whole lives of deployments"),
    "core/views.py": ("unit/core/operations/test_operations_registry.py", "what the operations return"),
    "counters.py": ("unit/test_gateway.py", "plain numbers"),
    "daemon.py": ("integration/test_update_end_to_end.py", "the composition root: only whole runs show it"),
    "decode/bounds.py": ("unit/decode/test_decode_readers.py", "limits that the readers apply"),
    "dialect.py": ("unit/dialects/test_dialect_native.py", "a Protocol; each dialect's tests"),
    "file_service.py": ("integration/test_files.py", "the file server in its place"),
    "mqtt/control_connection.py": ("unit/mqtt/test_mqtt_control.py", "one connection of the control link"),
    "mqtt/embedded.py": ("integration/test_embedded_broker.py", "a broker is tested with real clients"),
    "mqtt/embedded_amqtt.py": ("integration/test_embedded_broker.py", "a broker is tested with real clients"),
    "mqtt/embedded_topics.py": ("integration/test_embedded_broker.py", "a broker is tested with real clients"),
    "mqtt/listen.py": ("unit/cli/test_cli_tail.py", "what tail listens with"),
    "mqtt/probe.py": ("unit/cli/test_cli_doctor.py", "what doctor asks a broker with"),
    "plan_file/example.py": ("unit/cli/test_cli_rollout_plan.py", "a text that `rollout example` prints"),
    "request_lines.py": ("unit/test_block_gateway.py", "what waits for the disk, in the native protocol"),
    "store/dialect_tables.py": ("contract/test_contract_memories.py", "the port over both stores"),
    "store/device_table.py": ("contract/test_contract_equivalence.py", "the port over SQLite"),
    "store/finished.py": ("contract/test_contract_history.py", "with both stores, since both keep the same"),
    "store/old_keys.py": ("contract/test_contract_history.py", "with both stores, since both keep the same"),
    "store/report_table.py": ("contract/test_contract_reports.py", "the port over SQLite"),
    "store/schema_history.py": ("unit/store/test_store_opening.py", "migrations run when a store is opened"),
    "store/catalog_rows.py": ("contract/test_contract_releases.py", "rows come back as they went in"),
    "store/identifiers.py": ("contract/test_contract_unit_of_work.py", "new ids are unused, in both stores"),
    "store/memory.py": ("contract/test_contract_unit_of_work.py", "the contract suite runs over every store"),
    "store/memory_deployments.py": ("contract/test_contract_equivalence.py", "equal to SQLite step by step"),
    "store/memory_people.py": ("contract/test_contract_people.py", "equal to SQLite"),
    "store/memory_state.py": ("contract/test_contract_unit_of_work.py", "what fails leaves no trace"),
    "store/memory_tables.py": ("contract/test_contract_equivalence.py", "equal to SQLite step by step"),
    "store/outcome.py": ("contract/test_contract_unit_of_work.py", "what a store tells of a work"),
    "store/people_rows.py": ("contract/test_contract_people.py", "rows come back as they went in"),
    "store/people_tables.py": ("contract/test_contract_people.py", "the ports over SQLite"),
    "store/rows.py": ("contract/test_contract_equivalence.py", "rows come back as they went in"),
    "store/schema_rollouts.py": ("unit/store/test_store_opening.py", "migrations run when a store is opened"),
    "store/schema.py": ("unit/store/test_store_opening.py", "migrations run when a store is opened"),
    "store/statements.py": ("contract/test_contract_equivalence.py", "every statement is made of them"),
    "store/tables.py": ("contract/test_contract_equivalence.py", "the ports over SQLite"),
    "web/local_client.py": ("unit/web/test_web_local.py", "the other end of the socket"),
    "wire.py": ("unit/test_config.py", "plain data; broker URLs come from the configuration"),
}

# Files over 500 lines, and why they are not two.
LONG: dict[str, str] = {}


def test_every_layer_imports_only_what_lies_below_it():
    # In a process of its own: it switches off the loggers of the one it runs in.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    assert 0 == subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode


def own_tests(module):
    path = Path(module).relative_to("ota_bridge")
    package = path.parent.name
    names = [f"test_{path.stem}.py", f"test_{package}_{path.stem}.py"]
    if package == "dialects":
        names.append(f"test_dialect_{path.stem}.py")
    return [TESTS / "unit" / path.parent / name for name in names]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests(module):
    own = any(path.is_file() for path in own_tests(module))
    listed = TESTED_BY.get(module.removeprefix("ota_bridge/"))
    assert own or listed, f"{module} has no tests: add {own_tests(module)[-1].relative_to(ROOT)}, or say where they are"
    assert not (own and listed), f"{module} has its own tests now: take it off the list"
    if listed:
        assert (TESTS / listed[0]).is_file(), listed
        assert listed[1]


def test_the_list_names_only_what_there_is():
    assert [] == sorted(name for name in TESTED_BY if f"ota_bridge/{name}" not in MODULES)


def test_test_files_have_names_of_their_own():
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert [] == sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize(
    "module", [*MODULES, *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "device_sim").glob("*.py"))]
)
def test_no_file_is_longer_than_one_can_read(module):
    lines = len((ROOT / module).read_text().splitlines())
    assert (lines > 500) is (module in LONG), f"{module}: {lines} lines"


@pytest.mark.parametrize("path", sorted((ROOT / "ota_bridge").rglob("__init__.py")))
def test_packages_hold_no_logic(path):
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    assert [] == [type(node).__name__ for node in ast.parse(path.read_text()).body if not isinstance(node, allowed)]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_its_contract_and_none_is_a_drawer(module):
    assert ast.get_docstring(ast.parse((ROOT / module).read_text()))
    assert Path(module).stem not in {"utils", "util", "helpers", "manager", "common", "misc"}


@pytest.mark.parametrize("name", sorted([NATIVE, *BUILT_IN]))
def test_every_dialect_has_its_paper_and_its_vectors(name):
    assert (ROOT / "docs" / "dialects" / f"{name}.md").is_file()
    assert list((TESTS / "vectors" / name).glob("*.json"))


def texts_of_the_cli():
    for path in sorted((ROOT / "ota_bridge" / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_can_be_reached_from_the_cli(name):
    assert name in set(texts_of_the_cli())


def test_the_cli_asks_for_no_operation_that_there_is_not():
    looks_like_one = re.compile(r"(rollout|device|release|limits)\.[a-z]+")
    asked = {text for text in texts_of_the_cli() if looks_like_one.fullmatch(text)}
    assert set() == asked - set(OPERATIONS) - {"release.add"}
