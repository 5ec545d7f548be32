"""`device …`: one at a time, and from a CSV file."""

import pytest


def names(operator, *options):
    return [device["id"] for device in operator("device", "list", "--json", *options).json["devices"]]


def test_a_device_that_reports_appears(operator, daemon):
    daemon.report("demo/d1", "1.0.0")
    ran = operator("device", "list")
    assert ran.lines()[1][:4] == ["demo/d1", "active", "r1", "1.0.0"]
    shown = operator("device", "show", "d1", "--json").json
    assert shown["id"] == "demo/d1"
    assert shown["reports"][0]["report"]["hw"] == "r1"
    assert "demo/d1" in operator("device", "show", "demo/d1").out


def test_an_empty_fleet_is_said_on_stderr(operator, daemon):
    ran = operator("device", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "no devices" in ran.err


def test_add_tag_rename_retire(operator, daemon):
    assert operator("device", "add", "demo/d1", "--hw", "r1", "--tag", "lab").code == 0
    assert operator("device", "tag", "d1", "--add", "x", "--add", "y", "--remove", "lab").out == (
        "device demo/d1: tags x, y\n"
    )
    assert operator("device", "rename", "d1", "kitchen").out == "device demo/d1 is called 'kitchen' now\n"
    assert operator("device", "show", "kitchen", "--json").json["tags"] == ["x", "y"]
    assert operator("device", "list", "--tag", "x").lines()[1][0] == "demo/d1 (kitchen)"
    assert operator("device", "rename", "d1", "").out == "device demo/d1 has no label now\n"
    assert operator("device", "rename", "d1", "kitchen").code == 0
    assert operator("device", "retire", "kitchen").out == "device demo/d1 is retired\n"
    assert operator("device", "list", "--state", "retired", "--json").json["devices"][0]["id"] == "demo/d1"


def test_replace_names_a_successor(operator, daemon):
    operator("device", "add", "demo/d1", "--tag", "lab")
    assert operator("device", "replace", "d1", "--successor", "d2").out == "device demo/d2 takes over\n"
    assert operator("device", "show", "demo/d2", "--json").json["tags"] == ["lab"]
    assert operator("device", "replace", "demo/d2", "--hw", "r2").out == "device demo/d2 has hardware id r2 now\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("show", "gone"), "not_found"),
        (("add", "no-product"), "invalid"),
        (("add", "demo/a b"), "invalid"),
        (("add", "demo/d1", "--hw", "r 1"), "invalid"),
        (("add", "demo/d1", "--tag", "a b"), "invalid"),
        (("list", "--state", "lost"), "invalid"),
        (("approve", "demo/gone"), "not_found"),
    ],
)
def test_what_cannot_be_done_has_its_code(operator, daemon, words, code):
    ran = operator("device", *words, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, code)


def test_a_name_that_two_products_have_is_ambiguous(operator, daemon):
    operator("device", "add", "a/d1")
    operator("device", "add", "b/d1")
    ran = operator("device", "show", "d1")
    assert ran.code == 1
    assert "a/d1, b/d1" in ran.err


def test_a_query_is_tried_on_the_list(operator, daemon):
    operator("device", "add", "demo/d1")
    operator("device", "add", "demo/d2", "--tag", "lab")
    assert names(operator, "--where", '"lab" in tags') == ["demo/d2"]
    assert "no device matches" in operator("device", "list", "--where", "false").err
    ran = operator("device", "list", "--where", "tgas == []")
    assert (ran.code, "did you mean 'tags'?" in ran.err, ran.err.splitlines()[-1].strip()) == (1, True, "^")


def test_a_csv_file_is_imported(operator, daemon):
    file = operator.directory / "fleet.csv"
    file.write_text("device,hw,tags,label\ndemo/d1, r1 ,lab first,Kitchen\ndemo/d2,,,\n", encoding="utf-8-sig")
    ran = operator("device", "import", file, "--json")
    assert (ran.code, ran.json) == (0, {"added": 2})
    file.write_text("device\ndemo/d3\n")
    assert operator("device", "import", file).out == "1 device registered\n"
    shown = operator("device", "show", "demo/d1", "--json").json
    assert (shown["hw"], shown["tags"], shown["label"]) == ("r1", ["first", "lab"], "Kitchen")


def test_columns_of_attributes_are_imported(operator, daemon):
    file = operator.directory / "fleet.csv"
    file.write_text('device,attr.batch,attr.year,attr.lot\ndemo/d1,A7,2026,"""007"""\ndemo/d2,,,\n')
    assert operator("device", "import", file).out == "2 devices registered\n"
    attrs = [operator("device", "show", name, "--json").json["attrs"] for name in ("d1", "d2")]
    assert attrs == [{"batch": "A7", "lot": "007", "year": 2026}, {}]


def test_attributes_are_set_shown_and_taken_away(operator, daemon):
    operator("device", "add", "demo/d1")
    ran = operator("device", "set", "d1", "batch=A7", "year=2026", 'lot="12"', "note=a = b")
    assert ran.out == 'device demo/d1: batch=A7, lot="12", note=a = b, year=2026\n'
    shown = operator("device", "show", "d1", "--json").json["attrs"]
    assert shown == {"batch": "A7", "lot": "12", "note": "a = b", "year": 2026}
    assert 'lot="12"' in operator("device", "show", "d1").out
    ran = operator("device", "set", "d1", "year=-1", "--unset", "batch", "--unset", "lot", "--unset", "note")
    assert ran.out == "device demo/d1: year=-1\n"
    assert operator("device", "set", "d1", "--unset", "year").out == "device demo/d1: no attributes\n"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 2, "name at least one attribute"),
        (("batch",), 2, "write it as KEY=VALUE"),
        (("batch=1", "--unset", "batch"), 2, "batch is to be set and taken away"),
        (("Batch=1",), 1, "attribute 'Batch' is not valid"),
        (("--unset", "batch"), 1, "device demo/d1 has no attribute batch"),
        (("batch=" + "x" * 65,), 1, "attribute batch: at most 64 printable characters"),
    ],
)
def test_attributes_that_cannot_be_change_nothing(operator, daemon, words, code, sentence):
    operator("device", "add", "demo/d1")
    ran = operator("device", "set", "d1", *words)
    assert ran.code == code
    assert sentence in " ".join(ran.err.replace("│", " ").split())
    assert operator("device", "show", "d1", "--json").json["attrs"] == {}


def test_a_long_csv_file_goes_in_batches(operator, daemon):
    file = operator.directory / "fleet.csv"
    file.write_text("device\n" + "".join(f"demo/device-{number:05d}\n" for number in range(4500)))
    assert operator("device", "import", file).out == "4500 devices registered\n"
    assert len(names(operator)) == 4500


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the first line must name the column device and may name hw, tags, label, attr.NAME; it is ''"),
        (
            "demo/d1\n",
            "the first line must name the column device and may name hw, tags, label, attr.NAME; it is 'demo/d1'",
        ),
        ("device,colour\ndemo/d1,red\n", "it is 'device,colour'"),
        ("device,device\ndemo/d1,demo/d1\n", "it is 'device,device'"),
        ("device,hw\n", "names no device below the first line"),
        ("device,label\ndemo/d1,x\ndemo/d2,x\n", "line 3: label 'x' stands in line 2 too"),
        ("device,hw\ndemo/d1\n", "line 2: it has not as many fields as the first line"),
        ("device,hw\ndemo/d1,r1,x\n", "line 2: it has not as many fields as the first line"),
        ("device\nd1\n", "line 2: device 'd1': write it as PRODUCT/NAME"),
        ("device,hw\ndemo/d1,r1\ndemo/d2,r/2\n", "line 3: hardware id 'r/2' is not valid"),
        ("device,tags\ndemo/d1,a/b\n", "line 2: tag 'a/b' is not valid"),
        ("device\ndemo/d1\ndemo/d1\n", "line 3: demo/d1 stands in line 2 too"),
        ("device,attr.x-y\ndemo/d1,3\n", "attribute 'x-y' is not valid"),
        ("device,attr.x\ndemo/d1," + "y" * 65 + "\n", "line 2: attribute x: at most 64 printable characters"),
        ('device\n"demo/d1\n', "is not a CSV file in UTF-8"),
        ("device\ndemo/there\ndemo/d2\n", "1 of 2 devices exists already: demo/there"),
        ("device,label\ndemo/d2,there\n", "label 'there' is taken by demo/there"),
    ],
)
def test_a_csv_file_that_cannot_be_used_changes_nothing(operator, daemon, text, sentence):
    operator("device", "add", "demo/there")
    file = operator.directory / "fleet.csv"
    file.write_text(text)
    ran = operator("device", "import", file)
    assert ran.code == 1
    assert sentence in ran.err
    assert names(operator) == ["demo/there"]


def test_a_csv_file_that_is_not_there_or_not_text(operator, daemon):
    assert "there is no file" in operator("device", "import", "gone.csv").err
    (operator.directory / "binary").write_bytes(b"device\n\xff\xfe\x00")
    ran = operator("device", "import", "binary")
    assert (ran.code, "is not a CSV file in UTF-8" in ran.err) == (1, True)


def test_what_a_device_says_cannot_change_the_terminal(operator, daemon):
    daemon.report("demo/d1", "1.0.0")
    operator("device", "rename", "d1", "[red]:smile:[/red]")
    assert operator("device", "list").lines()[1][0] == "demo/d1 ([red]:smile:[/red])"
