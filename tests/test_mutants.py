"""The mutants of `make mutants` fit the tree: each applies, and names a rule and tests that exist."""

import ast
import subprocess

import pytest

from tests.mutants import trial
from tests.mutants.patches import Mutant, all_mutants, read
from tests.mutants.trial import ROOT, Verdict, try_one

MUTANTS = all_mutants()


def names_in(path):
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_there_are_at_least_twenty_with_numbers_of_their_own():
    assert len(MUTANTS) >= 20
    assert len(MUTANTS) == len({mutant.name[:2] for mutant in MUTANTS})


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_tree_and_touches_the_product_alone(mutant):
    checked = subprocess.run(
        ["git", "apply", "--check", str(mutant.path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    touched = [line[6:] for line in mutant.path.read_text().splitlines() if line.startswith("+++ b/")]

    assert (0, "") == (checked.returncode, checked.stderr)
    assert touched
    assert [] == [name for name in touched if not name.startswith(("ota_bridge/", "device_sim/"))]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_names_tests_that_exist(mutant):
    for test in mutant.caught_by:
        file, _, name = test.partition("[")[0].partition("::")
        assert name in names_in(ROOT / file), test


@pytest.mark.parametrize(
    ("name", "rule", "caught_by", "sentence"),
    [
        ("1-short", "a rule", ("tests/x.py::test_x",), "is not named like"),
        ("01-no-rule", "", ("tests/x.py::test_x",), "needs a line 'Rule: …'"),
        ("01-no-test", "a rule", (), "a line 'Caught by: …'"),
        (
            "01-other-words",
            "I2 reports are kept",
            ("tests/x.py::test_x",),
            "is not how tests/faults/families.py has it",
        ),
        ("01-no-such-key", "I99 reports are kept", ("tests/x.py::test_x",), "is not how tests/faults/families.py has"),
    ],
)
def test_a_head_that_is_wrong_is_said_so(tmp_path, name, rule, caught_by, sentence):
    with pytest.raises(ValueError, match=sentence):
        Mutant(path=tmp_path / f"{name}.patch", rule=rule, caught_by=caught_by)


@pytest.fixture
def small_tree(tmp_path, monkeypatch):
    """A project of two files in the place of this one."""
    files = {
        "ota_bridge/__init__.py": "ANSWER = 42\nOTHER = 1\n",
        "device_sim/__init__.py": "",
        "tests/test_small.py": "import ota_bridge\n\n\ndef test_answer():\n    assert ota_bridge.ANSWER == 42\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(trial, "ROOT", tmp_path)
    return tmp_path


def small_mutant(tree, *, old, new, caught_by="tests/test_small.py::test_answer"):
    path = tree / "01-small.patch"
    path.write_text(
        f"Rule: the answer is 42\nCaught by: {caught_by}\n\n"
        "diff --git a/ota_bridge/__init__.py b/ota_bridge/__init__.py\n"
        f"--- a/ota_bridge/__init__.py\n+++ b/ota_bridge/__init__.py\n@@ -1,2 +1,2 @@\n-{old}\n+{new}\n OTHER = 1\n"
    )
    return read(path)


@pytest.mark.parametrize(
    ("change", "verdict", "about"),
    [
        ({"new": "ANSWER = 41"}, Verdict.CAUGHT, "by tests/test_small.py::test_answer"),
        ({"new": "ANSWER = 42.0"}, Verdict.SURVIVED, "not noticed by tests/test_small.py::test_answer"),
        ({"old": "ANSWER = 43", "new": "ANSWER = 41"}, Verdict.BROKEN, "does not apply"),
        ({"new": "ANSWER = "}, Verdict.BROKEN, "did not run"),
        ({"new": "ANSWER = 41", "caught_by": "tests/test_small.py::test_gone"}, Verdict.BROKEN, "did not run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mutant_is_caught_only_by_a_test_that_ran_and_failed(small_tree, change, verdict, about):
    tried = try_one(small_mutant(small_tree, **{"old": "ANSWER = 42", **change}))

    assert verdict == tried.verdict
    assert about in tried.about


def test_no_mutant_is_tried_where_a_test_fails_without_it(small_tree):
    mutant = small_mutant(small_tree, old="ANSWER = 42", new="ANSWER = 41")
    (small_tree / "ota_bridge/__init__.py").write_text("ANSWER = 40\n")

    told = []
    (tried,) = trial.try_all([mutant], jobs=1, tell=told.append)

    assert (Verdict.BROKEN, []) == (tried.verdict, told)
    assert "do not pass" in tried.about
