"""The rules of the house, held by machine."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("core", "dashboard") for p in (ROOT / folder).rglob("*.py"))
EACH_FILE = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
NEVER_SHIPPED = {"pytest", "captum", "pytorch_grad_cam", "torchcam", "shap", "lime"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file with the name called, such as "torch.load"."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# -- imports ------------------------------------------------------------------------------------


def test_imports_run_one_way() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "0 broken" in done.stdout


def loaded_by(statement: str) -> set[str]:
    """The packages in memory after a statement in a fresh process."""
    program = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=300
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_core_loads_neither_the_page_nor_its_libraries() -> None:
    page = {"gradio", "dashboard", "fastapi", *NEVER_SHIPPED}
    core = loaded_by("import core; [*core.METHODS], [*core.METRICS]")
    assert {"core", "torch", "timm"} <= core
    assert not {"plotly", *page} & core
    # They take seconds, and only tables, statistics and annotations need them.
    assert not {"pandas", "statsmodels", "pycocotools", "skimage"} & core
    assert not page & loaded_by("import core.cli, core.views.maps, core.views.charts")


@EACH_FILE
def test_only_figures_know_plotly_and_only_the_page_gradio(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    folder = path.relative_to(ROOT).parts
    assert "gradio" not in imported or folder[0] == "dashboard"
    assert "plotly" not in imported or folder[:2] == ("core", "views") or folder[0] == "dashboard"
    assert not NEVER_SHIPPED & imported


def test_the_architecture_page_shows_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in contracts["tool"]["importlinter"]["contracts"]
        if contract["name"] == "imports run one way"
    )
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "```\n" + "\n".join(layers) + "\n```" in page


# -- rooms and names ----------------------------------------------------------------------------

OUTSIDE_ROOMS = {
    "__init__", "__main__", "errors", "explainer", "export", "registry", "report", "result",
    "types",
}  # fmt: skip
"""Modules of core that stand in no room."""
RETIRED = {
    "judge", "standing", "asking", "look", "passes", "meter", "piece", "merged", "shelf", "beside",
    "elsewhere", "nested", "likeness", "truth", "segments", "rewrite", "places", "order", "plan",
    "catalogue", "worlds", "laws", "work", "along", "veil", "known", "given", "again", "patience",
    "fill", "removed", "place", "removal", "subsets", "shape", "stability", "sanity", "words",
    "recipe", "scrub", "trust", "law",
}  # fmt: skip
"""Words of our own for which the field has others; no module, class or function has such a name."""


def named(tree: ast.Module) -> Iterator[str]:
    """Classes and functions of a module, and the public methods of its classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def test_every_module_of_core_is_in_a_room() -> None:
    assert {path.stem for path in (ROOT / "core").glob("*.py")} <= OUTSIDE_ROOMS


@EACH_FILE
def test_no_private_vocabulary(path: Path) -> None:
    names = {path.stem, *named(parsed(path))}
    assert {
        name for name in names if name.lower() in RETIRED - ALLOWED.get(path.stem, set())
    } == set()


ALLOWED: dict[str, set[str]] = {"types": {"shape", "order"}}
"""Retired words that are usual in a file: `Layout.shape` is a tensor's shape, and `Group.order`
is a group's position in a list."""


@EACH_FILE
def test_no_function_is_too_long_to_read(path: Path) -> None:
    long = [
        (node.name, node.end_lineno - node.lineno + 1)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST
    ]
    assert long == []


LONGEST = 60
"""Lines of a function, its docstring and signature included."""


# -- code ---------------------------------------------------------------------------------------


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public classes and functions without a docstring; methods may inherit theirs."""
    if ast.get_docstring(tree) is None and tree.body:
        yield "the module"
    for node in tree.body:
        named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if named and not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield node.name


@EACH_FILE
def test_everything_public_is_documented(path: Path) -> None:
    assert list(undocumented(parsed(path))) == []


@EACH_FILE
def test_every_public_method_is_documented(path: Path) -> None:
    """Its own docstring, or that of the method it overrides."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    missing = [
        f"{cls.__name__}.{name}"
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (
            inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
        )
        and not inspect.getdoc(getattr(cls, name))
    ]
    assert missing == []


@EACH_FILE
def test_no_print(path: Path) -> None:
    assert [node.lineno for name, node in calls(path) if name in ("print", "pprint")] == []


@EACH_FILE
def test_no_broad_except(path: Path) -> None:
    broad = []
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "everything" if node.type is None else ast.unparse(node.type)
        passes_on = any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
        if re.search(r"\b(everything|Exception|BaseException)\b", caught) and not passes_on:
            broad.append((node.lineno, caught))
    assert broad == []


@EACH_FILE
def test_nothing_in_a_file_of_weights_is_executed(path: Path) -> None:
    for name, node in calls(path):
        if name == "torch.load":
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", node.lineno
        assert not re.fullmatch(r"pickle\.loads?|eval|exec|os\.system|__import__", name), (
            node.lineno
        )
        shell = [k for k in node.keywords if k.arg == "shell"]
        assert not shell, node.lineno


@EACH_FILE
def test_the_page_cancels_by_its_own_tasks(path: Path) -> None:
    """Gradio's `cancels=`, where it comes late, also stops what was asked after it."""
    found = [
        call.lineno for _, call in calls(path) if any(k.arg == "cancels" for k in call.keywords)
    ]
    assert not found, f"use cancel_on_click at lines {found}"


@EACH_FILE
def test_nothing_is_left_to_do(path: Path) -> None:
    with path.open("rb") as stream:
        comments = [t for t in tokenize.tokenize(stream.readline) if t.type == tokenize.COMMENT]
    marks = [t.start[0] for t in comments if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", t.string)]
    stubs = [
        node.lineno
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and "NotImplementedError" in ast.unparse(node.exc)
    ]
    assert (marks, stubs) == ([], [])


@EACH_FILE
def test_annotations_are_read_lazily(path: Path) -> None:
    tree = parsed(path)
    typed = any(isinstance(n, ast.FunctionDef | ast.AnnAssign) for n in ast.walk(tree))
    future = "from __future__ import annotations" in path.read_text(encoding="utf-8")
    assert future or not typed


# -- what is installed --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_has_an_upper_bound(name: str) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pins = [line for line in lines if line and not line.startswith("-r ")]
    assert pins
    for pin in pins:
        assert re.search(r"==|~=|<", pin) or pin.startswith("types-"), pin


# -- the rules can be broken --------------------------------------------------------------------

BROKEN = """
def public(): pass
class _Private: pass
"""


def test_an_undocumented_function_would_be_found() -> None:
    assert list(undocumented(ast.parse(BROKEN))) == ["the module", "public"]
