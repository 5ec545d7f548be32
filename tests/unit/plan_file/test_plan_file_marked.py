"""Places, and how problems are shown."""

import pytest

from ota_bridge.plan_file.marked import DEPTH_MAX, NODES_MAX, START, Document, Mark, PlanFileError, Problem, Unreadable


def problem(line, column, source="abc", message="no"):
    return Problem(mark=Mark(line, column), message=message, source=source)


def test_a_problem_shows_its_line_with_a_caret_below_the_place():
    assert "p.toml:12:3: no\n  12 | abc\n         ^" == problem(12, 3).shown("p.toml")


@pytest.mark.parametrize("column", [1, 100, 5_000, 10_001])
def test_of_a_long_line_what_is_around_the_place_is_shown(column):
    source = "".join(chr(ord("a") + at % 26) for at in range(10_000)) + "!"
    _, shown, caret = problem(1, column, source).shown("f").split("\n")
    assert len(shown) <= 130
    assert source[column - 1] == shown[caret.index("^")]


def test_a_tab_takes_one_column_in_the_line_that_is_shown():
    _, shown, caret = problem(1, 3, "\t\tx").shown("f").split("\n")
    assert "x" == shown[caret.index("^")]


def test_problems_are_told_in_the_order_of_their_places_and_the_first_is_the_sentence():
    error = PlanFileError("f", [problem(9, 1), problem(2, 5, message="first"), problem(2, 7)])
    assert [(2, 5), (2, 7), (9, 1)] == [(one.mark.line, one.mark.column) for one in error.problems]
    assert "f:2:5: first (and 2 more)" == str(error)
    assert "f:2:5: first" == str(PlanFileError("f", [problem(2, 5, message="first")]))


def test_what_has_no_place_of_its_own_stands_where_what_is_around_it_does():
    document = Document()
    document.note(("a",), Mark(2, 1), Mark(2, 5))
    assert Mark(2, 5) == document.mark(("a", 3, "b"))
    assert Mark(2, 1) == document.mark(("a",), of_key=True)
    assert START == document.mark(("x",))


def test_depth_and_number_of_values_are_bounded():
    document = Document()
    document.note(("a",) * DEPTH_MAX, START, START)
    with pytest.raises(Unreadable, match="nested deeper than 16"):
        document.note(("a",) * (DEPTH_MAX + 1), START, START)
    for number in range(NODES_MAX - 1):
        document.note((number,), START, START)
    with pytest.raises(Unreadable, match="more than 10,000 values"):
        document.note(("b",), START, START)
