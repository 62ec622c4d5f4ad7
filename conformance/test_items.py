"""The check list and the tests say the same: every item in scope has tests, every listed test exists."""

import ast
import collections
import pathlib
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ITEMS = {int(number): item for number, item in tomllib.loads((HERE / "items.toml").read_text()).items()}


def marked():
    """Tests by item number, as their `item` marks say."""
    found = collections.defaultdict(set)
    for path in HERE.glob("*/test_*.py"):
        for function in ast.parse(path.read_text()).body:
            if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
                continue
            for mark in function.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.item":
                    for number in mark.args:
                        found[number.value].add(f"{path.relative_to(HERE)}::{function.name}")
    return found


def test_all_124_items_are_listed():
    assert sorted(ITEMS) == list(range(1, 125))
    for item in ITEMS.values():
        assert item["clause"] and item["title"]


def test_every_item_has_tests_or_belongs_to_later_work():
    for number, item in ITEMS.items():
        assert bool(item.get("tests")) != bool(item.get("later")), number


def test_the_list_and_the_marks_agree():
    marks = marked()
    for number, item in ITEMS.items():
        assert set(item.get("tests", [])) == marks.get(number, set()), f"item {number}"
    assert set(marks) <= set(ITEMS)


def test_what_a_peer_does_otherwise_is_known_by_its_test():
    tests = {
        f"{path.relative_to(HERE)}::{function.name}"
        for path in HERE.glob("*/test_*.py")
        for function in ast.parse(path.read_text()).body
        if isinstance(function, ast.FunctionDef)
    }
    for name, deviation in tomllib.loads((HERE / "deviations_orthanc.toml").read_text()).items():
        assert name.partition("[")[0] in tests, name
        assert deviation["reason"]
