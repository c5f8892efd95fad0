"""The rules of the house, held by machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("core", "dashboard") for p in (ROOT / folder).rglob("*.py"))
EACH_FILE = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
NEVER_SHIPPED = {"pytest", "captum", "pytorch_grad_cam", "torchcam", "shap", "lime"}


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
