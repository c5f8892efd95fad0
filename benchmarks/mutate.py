"""Break the code one line at a time and see whether the tests notice.

Each entry of `mutations.json` is one such fault. It is put into a copy of the checkout, never into
the checkout itself, and the tests named for it are run there: they must fail with the fault, and
pass without it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = Path(__file__).with_name("mutations.json")

LEAST_SHARE = 0.95
"""The share of mutations that the tests must catch."""

GREEN, FAILED, INTERRUPTED = 0, 1, 2
"""Exit codes of pytest: all passed, some failed, a test file could not be read."""

CAUGHT = ("caught", "caught by time-out")
MISSED, UNFIT, UNSOUND = "NOT CAUGHT", "does not apply", "tests fail without it"


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        file: the file to change, relative to the root of the checkout.
        find: text that occurs exactly once in the file.
        replace: text to put in its place.
        tests: pytest's arguments, such as "tests/test_cam.py::test_name" or, with a filter,
            "tests/test_cam.py", "-k", "relu".
        about: the fault, in a few words.
    """

    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    about: str

    def apply(self, source: str) -> str:
        """The content of the file with the fault in it."""
        return source.replace(self.find, self.replace, 1)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation.

    Attributes:
        mutation: which one.
        word: "caught", "caught by time-out", "NOT CAUGHT", "does not apply" or "tests fail without
            it".
        seconds: how long its tests ran.
        reason: why it does not apply; else empty.
    """

    mutation: Mutation
    word: str
    seconds: float = 0.0
    reason: str = ""


def mutations(path: Path = LIST) -> list[Mutation]:
    """The list, in its order; in the file, tests are one text, as on a command line."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Mutation(**{**entry, "tests": tuple(shlex.split(entry["tests"]))}) for entry in entries]


# -- whether a mutation applies -------------------------------------------------------------------


def misfit(mutation: Mutation, root: Path = ROOT) -> str:
    """Why a mutation does not apply to a checkout; empty if it does."""
    file = root / mutation.file
    if not file.is_file():
        return f"there is no {mutation.file}"
    source = file.read_text(encoding="utf-8")
    count = source.count(mutation.find)
    if count != 1:
        return f"{mutation.find!r} occurs {count} times in {mutation.file}, not once"
    if mutation.replace == mutation.find:
        return "it changes nothing"
    if file.suffix == ".py":
        try:
            ast.parse(mutation.apply(source))
        except SyntaxError as error:
            return f"the changed file cannot be parsed: {error}"
    named = [
        test
        for before, test in zip(("", *mutation.tests), mutation.tests, strict=False)
        if not test.startswith("-") and before not in ("-k", "-m")
    ]
    if not named:
        return "it names no tests"
    return next(filter(None, (_missing(test, root) for test in named)), "")


def _missing(test: str, root: Path) -> str:
    """What is missing of "file", "file::name" or "file::Class::name[case]"; empty if nothing is."""
    name, *parts = test.partition("[")[0].split("::")
    if not (root / name).is_file():
        return f"there is no {name}"
    tree = ast.parse((root / name).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
    # A doctest is called by its full dotted name.
    absent = [part for part in parts if part.rpartition(".")[2] not in defined]
    return f"{name} defines no {absent[0]}" if absent else ""


# -- running tests --------------------------------------------------------------------------------


def copy_checkout(root: Path, folder: Path) -> None:
    """Copy what git knows of, and what is new and not ignored; without git, what is not hidden."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [Path(name) for name in listed.stdout.split("\0") if name]
    else:
        names = [path.relative_to(root) for path in root.rglob("*")]
        names = [
            n for n in names if not any(part.startswith((".", "__")) for part in n.parent.parts)
        ]
    for name in names:
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


def run_tests(root: Path, tests: Sequence[str], limit: float) -> int | None:
    """Pytest's exit code for `tests` in a checkout; None if it takes more than `limit` seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.Popen(
        command,
        cwd=root,
        env=surroundings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with whatever the tests have started
            process.wait()


def is_green(tests: Sequence[str], limit: float, root: Path = ROOT) -> bool:
    """Whether `tests` pass in a copy of the checkout with no fault in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(root, Path(folder))
        return run_tests(Path(folder), tests, limit) == GREEN


def examine(mutation: Mutation, limit: float, root: Path = ROOT) -> Outcome:
    """Run a mutation's tests in a copy of the checkout that has the fault in it.

    A copy of its own for each: compiled files of another one could be taken for its own.
    """
    reason = misfit(mutation, root)
    if reason:
        return Outcome(mutation, UNFIT, reason=reason)
    with tempfile.TemporaryDirectory() as folder:
        copy_checkout(root, Path(folder))
        file = Path(folder) / mutation.file
        file.write_text(mutation.apply(file.read_text(encoding="utf-8")), encoding="utf-8")
        began = time.perf_counter()
        code = run_tests(Path(folder), mutation.tests, limit)
        seconds = time.perf_counter() - began
    if code is None:
        return Outcome(mutation, CAUGHT[1], seconds)
    # Pytest's other codes say that it found no such tests; a negative one, that it crashed.
    red = code in (FAILED, INTERRUPTED) or code < 0
    return Outcome(mutation, CAUGHT[0] if red else MISSED, seconds)


# -- the report -----------------------------------------------------------------------------------


def report(outcome: Outcome) -> None:
    """Print one line."""
    mutation, more = outcome.mutation, f" ({outcome.reason})" if outcome.reason else ""
    place = f"{mutation.file}: {mutation.about}{more}"
    print(f"{outcome.word:<21} {outcome.seconds:5.0f} s  {place}", flush=True)


def passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether enough were caught, and every one applies and has tests that pass without it."""
    caught = sum(outcome.word in CAUGHT for outcome in outcomes)
    sound = not any(outcome.word in (UNFIT, UNSOUND) for outcome in outcomes)
    return sound and caught >= LEAST_SHARE * len(outcomes)


def examine_all(
    chosen: Sequence[Mutation], limit: float, jobs: int, root: Path = ROOT
) -> list[Outcome]:
    """Examine mutations, `jobs` at a time, and print each outcome and the share caught.

    Their tests are run without them first, every selection once.
    """
    selections = list(dict.fromkeys(m.tests for m in chosen if not misfit(m, root)))
    outcomes = []
    with ThreadPoolExecutor(jobs) as pool:
        green = pool.map(partial(is_green, limit=limit, root=root), selections)
        unsound = {tests for tests, good in zip(selections, green, strict=True) if not good}
        sound = [mutation for mutation in chosen if mutation.tests not in unsound]
        found = pool.map(partial(examine, limit=limit, root=root), sound)
        for mutation in chosen:
            one = Outcome(mutation, UNSOUND) if mutation.tests in unsound else next(found)
            report(one)
            outcomes.append(one)
    caught = sum(outcome.word in CAUGHT for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} caught ({caught / len(outcomes):.1%})")
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the list, or some of it.

    Returns:
        The exit code: 0 if at least 95% were caught and every mutation applies, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutate", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose file or fault has")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--limit", type=float, default=300, metavar="SECONDS", help="for each")
    arguments = parser.parse_args(argv)
    chosen = [m for m in mutations() if arguments.only in f"{m.file}: {m.about}"]
    if not chosen:
        parser.error(f"no mutation has {arguments.only!r} in its file or its fault")
    return 0 if passed(examine_all(chosen, arguments.limit, arguments.jobs)) else 1


if __name__ == "__main__":
    sys.exit(main())
