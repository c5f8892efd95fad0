"""The faults of `make mutate` still apply to the code, and its runner tells what became of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutate
from benchmarks.mutate import Mutation, Outcome

MUTATIONS = mutate.mutations()

FAULT = Mutation("area.py", "a * b", "a + b", ("test_area.py::test_area",), "sum for product")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of one function and one test."""
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "area.py").write_text("def area(a, b):\n    return a * b\n")
    (root / "test_area.py").write_text(
        "from area import area\n\n\ndef test_area():\n    assert area(2, 3) == 6\n\n\n"
        "def test_square():\n    assert area(2, 2) == 4\n"
    )
    return root


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}: {m.about}")
def test_every_mutation_applies(mutation: Mutation) -> None:
    assert mutate.misfit(mutation) == ""


def test_no_mutation_is_there_twice() -> None:
    places = [(m.file, m.find, m.replace) for m in MUTATIONS]
    assert len(set(places)) == len(places)
    told = [(m.file, m.about) for m in MUTATIONS]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file": "gone.py"}, "there is no gone.py"),
        ({"find": "a / b"}, "'a / b' occurs 0 times in area.py, not once"),
        ({"find": "a"}, "'a' occurs 4 times in area.py, not once"),
        ({"replace": "a * b"}, "it changes nothing"),
        ({"replace": "a *"}, "cannot be parsed"),
        ({"tests": ()}, "it names no tests"),
        ({"tests": ("-k", "area")}, "it names no tests"),
        ({"tests": ("gone.py::test_area",)}, "there is no gone.py"),
        ({"tests": ("test_area.py::test_volume[1]",)}, "test_area.py defines no test_volume"),
    ],
)
def test_what_does_not_apply_says_why(checkout: Path, change: dict[str, Any], reason: str) -> None:
    assert mutate.misfit(FAULT, checkout) == ""
    assert reason in mutate.misfit(replace(FAULT, **change), checkout)


def test_tests_are_written_as_on_a_command_line(checkout: Path, tmp_path: Path) -> None:
    told = {**vars(FAULT), "tests": "test_area.py -k 'area and not square'"}
    (tmp_path / "list.json").write_text(json.dumps([told]))
    (found,) = mutate.mutations(tmp_path / "list.json")
    assert found.tests == ("test_area.py", "-k", "area and not square")
    assert mutate.misfit(found, checkout) == ""
    assert mutate.examine(found, 300, checkout).word == "caught"


def test_a_fault_is_caught_in_a_copy_and_the_checkout_stays_as_it_is(checkout: Path) -> None:
    before = (checkout / "area.py").read_text()
    assert mutate.is_green(FAULT.tests, 300, checkout)
    assert mutate.examine(FAULT, 300, checkout).word == "caught"
    blind = replace(FAULT, tests=("test_area.py::test_square",))
    assert mutate.examine(blind, 300, checkout).word == "NOT CAUGHT"
    assert (checkout / "area.py").read_text() == before
    assert sorted(path.name for path in checkout.iterdir()) == ["area.py", "test_area.py"]


def test_tests_that_cannot_be_found_catch_nothing(checkout: Path) -> None:
    gone = replace(FAULT, tests=("test_area.py::test_area[2-3]",))
    assert not mutate.is_green(gone.tests, 300, checkout)
    assert mutate.examine(gone, 300, checkout).word == "NOT CAUGHT"


def test_tests_that_take_too_long_are_stopped(checkout: Path) -> None:
    assert mutate.run_tests(checkout, FAULT.tests, limit=0.0) is None
    assert mutate.examine(FAULT, 0.0, checkout).word == "caught by time-out"
    assert not mutate.is_green(FAULT.tests, 0.0, checkout)


@pytest.mark.parametrize(
    ("words", "good"),
    [
        (["caught"] * 19 + ["NOT CAUGHT"], True),
        (["caught"] * 18 + ["NOT CAUGHT"], False),
        (["caught"] * 20 + ["caught by time-out"], True),
        (["caught"] * 99 + ["does not apply"], False),
        (["caught"] * 99 + ["tests fail without it"], False),
    ],
)
def test_nineteen_of_twenty_must_be_caught_and_all_must_apply(words: list[str], good: bool) -> None:
    assert mutate.passed([Outcome(FAULT, word) for word in words]) is good


def test_every_outcome_has_a_line_and_the_share_comes_last(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = replace(FAULT, tests=("test_area.py::test_square",))
    gone = replace(FAULT, find="a / b")
    (checkout / "test_red.py").write_text("def test_red():\n    assert False\n")
    red = replace(FAULT, tests=("test_red.py::test_red",))
    outcomes = mutate.examine_all([FAULT, blind, gone, red], 300, 1, checkout)
    words = ["caught", "NOT CAUGHT", "does not apply", "tests fail without it"]
    assert [outcome.word for outcome in outcomes] == words
    *lines, share = capsys.readouterr().out.splitlines()
    for line, word in zip(lines, words, strict=True):
        assert line.startswith(word)
        assert "area.py: sum for product" in line
    assert lines[2].endswith("('a / b' occurs 0 times in area.py, not once)")
    assert share == "1 of 4 caught (25.0%)"


def test_a_filter_that_finds_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        mutate.main(["--only", "no such fault"])
    assert "no mutation has 'no such fault'" in capsys.readouterr().err
