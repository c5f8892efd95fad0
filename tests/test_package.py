"""What is installed: one package, `timmscope`, that answers as the checkout does, from anywhere."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from email import message_from_bytes
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from setuptools.errors import SetupError

import core
from core import explain, sample_picture
from core.errors import UnknownNameError
from core.inputs.assets import asset
from setup import FOLDERS, renamed

ROOT = Path(__file__).parents[1]
LEFT_BEHIND = ("core/views/gone.pyi", "build/lib/timmscope/gone.py")
"""What tools and earlier builds leave in a checkout."""
OTHERS = re.compile(r"(?<![\w.])(core|dashboard)\.\w|(\b(from|import)|-m) (core|dashboard)\b")
"""Names under which nothing is installed."""

NO_NETWORK = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        sys.stderr.write(f"{event}{arguments}")
        os._exit(97)  # no handler can swallow it

sys.addaudithook(refuse)
"""

VISIT = """
import contextlib, doctest, hashlib, importlib, io, json, pkgutil, runpy, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
script = sys.argv[1]
import timmscope

modules = [m.name for m in pkgutil.walk_packages(timmscope.__path__, "timmscope.")]
imported = [importlib.import_module(name) for name in modules]
with contextlib.redirect_stdout(sys.stderr):
    tried = [doctest.testmod(module) for module in (timmscope, *imported)]
    assert not sum(t.failed for t in tried)
page = importlib.import_module("timmscope.dashboard.build").build()

def digest(answer):
    return hashlib.sha256(answer.values.numpy().tobytes()).hexdigest()

from timmscope.dashboard import actions
from timmscope.dashboard.actions import ExplainRequest, Question
from timmscope.dashboard.state import MODELS, Service

coffee = str(timmscope.sample_picture("coffee"))
question = Question(coffee, MODELS[0], "pretrained", None, None, "logit")
snippet = actions.explain(Service(), ExplainRequest(question, "gradcam", None, {})).code
scope = {}
exec(snippet, scope)

sys.argv[:] = [script, "methods"]
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
    runpy.run_path(script, run_name="__main__")

json.dump(
    {
        "modules": modules,
        "doctests": sum(t.attempted for t in tried),
        "page": type(page).__name__,
        "map": digest(timmscope.explain(coffee)),
        "synthetic map": digest(timmscope.explain(coffee, model="world_vit")),
        "snippet's map": digest(scope["answer"]),
        "methods": list(json.loads(said.getvalue())),
        "from the checkout": sorted({"core", "dashboard", "app", "setup"} & set(sys.modules)),
    },
    sys.stdout,
)
"""


def shipped() -> set[str]:
    """The files that a checkout's folders should become, under their names in the wheel."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyi")
    }


def run(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A Python process of its own, with nothing of this one's paths."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with what lies about in one."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    for name in (*FOLDERS.values(), "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc", "*.pyi"))
    for name in LEFT_BEHIND:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(scope="session")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    done = run("-m", "pip", "--isolated", "--disable-pip-version-check", *words, copy, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package, whose processes end when they ask for the network."""
    folder = tmp_path_factory.mktemp("installed")
    words = ("install", "--no-deps", "--no-index", "--no-compile", "--target", folder)
    done = run("-m", "pip", "--isolated", "--disable-pip-version-check", *words, wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "sitecustomize.py").write_text(NO_NETWORK, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def visit(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds that uses everything that is installed, from another folder."""
    script = installed / "bin" / "timmscope"
    cwd = tmp_path_factory.mktemp("elsewhere")
    done = run("-c", VISIT, script, cwd=cwd, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def digest(answer: core.Attribution) -> str:
    """A digest of a map, bit for bit."""
    return hashlib.sha256(answer.values.numpy().tobytes()).hexdigest()


# -- the wheel ------------------------------------------------------------------------------------


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    facts = f"timmscope-{core.__version__}.dist-info/"
    assert {name for name in names if not name.startswith(facts)} == shipped()
    assert {"timmscope/py.typed", "timmscope/dashboard/components/panels.js"} <= set(names)
    licences = {"LICENSE", "assets/plotly/LICENSE", "assets/samples/LICENCES.md"}
    assert {f"{facts}licenses/{name}" for name in licences} <= set(names)


def test_the_wheel_requires_what_the_app_requires(wheel: Path) -> None:
    archive = ZipFile(wheel)
    folder = f"timmscope-{core.__version__}.dist-info"
    facts = message_from_bytes(archive.read(f"{folder}/METADATA"))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    found = [line for line in facts.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [*map(pins, found)] == [*map(pins, required)]
    assert facts.get_all("Provides-Extra") == ["huggingface", "mcp"]
    assert facts["Requires-Python"] == ">=3.11"
    assert facts["License-Expression"] == "Apache-2.0 AND MIT"


def pins(requirement: str) -> list[str]:
    """A requirement's parts, whatever their order."""
    name, bounds = re.fullmatch(r"([\w.-]+)(.*)", requirement.replace(" ", "")).groups()
    return [name, *sorted(bounds.split(","))]


def test_nothing_in_the_wheel_names_the_checkouts_packages(wheel: Path) -> None:
    archive = ZipFile(wheel)
    for name in archive.namelist():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(archive.read(name))):
            texts: list[str] = []
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts = [node.value]
            elif isinstance(node, ast.Import | ast.ImportFrom):
                texts = [ast.unparse(node)]
            assert not any(map(OTHERS.search, texts)), (name, texts)


def test_an_editable_installation_is_refused_with_the_way_out(copy: Path, tmp_path: Path) -> None:
    program = f"from setuptools import build_meta; build_meta.build_editable({str(tmp_path)!r})"
    done = run("-c", program, cwd=copy)
    assert done.returncode != 0
    assert "cannot be installed as editable" in done.stderr
    assert "pip install ." in done.stderr


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("import core as c", "import timmscope as c"),
        ("import torch, core.cli as c", "import torch, timmscope.cli as c"),
        ("from core import (\n    explain,  # from core\n)\n", None),
        ("def f():\n    from dashboard.state import Service\n", None),
        ("é = 'é'; from core import errors", "é = 'é'; from timmscope import errors"),
        ('"""Ours: `core.views`, ``python -m core``."""', None),
        ("def f():\n    '''\n    >>> import core\n    core.errors.E: no\n    '''\n", None),
    ],
)
def test_imports_and_docstrings_are_renamed(here: str, there: str | None) -> None:
    names = {"core": "timmscope", "dashboard": "timmscope.dashboard"}
    expected = there
    if expected is None:
        expected = re.sub(r"(?<!# from )\b(core|dashboard)\b", lambda m: names[m[1]], here)
    assert renamed(here.encode()).decode() == expected


@pytest.mark.parametrize(
    "source",
    [
        "from coretools import x\nimport dashboards\n",
        "from .core import x\nfrom . import core\n",
        "core = score.core\nx = 'from core import y'  # import core\n",
        '"""The core of it; see core/views, core-like things, and a score.core.x."""\n',
    ],
)
def test_all_else_is_left_alone(source: str) -> None:
    assert renamed(source.encode()).decode() == source


@pytest.mark.parametrize("name", ["core", "core.methods", "dashboard"])
def test_an_import_that_cannot_be_renamed_stops_the_build(name: str) -> None:
    with pytest.raises(SetupError, match=f"line 2: write 'from {name} import"):
        renamed(f"import torch\nimport {name}\n".encode())


# -- what is installed ----------------------------------------------------------------------------


def test_the_installed_command_explains_from_anywhere(installed: Path, tmp_path: Path) -> None:
    words = ("explain", sample_picture("coffee"), "--output-dir", "out")
    done = run("-m", "timmscope", *words, cwd=tmp_path, PYTHONPATH=str(installed))
    assert (done.returncode, done.stderr) == (0, "")
    (report,) = json.loads(done.stdout)["images"]
    assert report["predicted_label"] == "espresso"
    files = report["results"]["gradcam"]["files"]
    assert set(files) == {"png", "npz", "json"}
    assert all((tmp_path / file).is_file() for file in files.values())


def test_every_installed_module_imports_and_none_of_the_checkouts(visit: dict[str, Any]) -> None:
    modules = {name for name in shipped() if name.endswith(".py")}
    dotted = {name.removesuffix(".py").replace("/", ".") for name in modules}
    packages = {name.removesuffix(".__init__") for name in dotted} - {"timmscope"}
    assert set(visit["modules"]) == packages
    assert visit["from the checkout"] == []


def test_the_installed_answers_are_the_checkouts(visit: dict[str, Any]) -> None:
    coffee = sample_picture("coffee")
    assert visit["map"] == digest(explain(coffee))
    assert visit["synthetic map"] == digest(explain(coffee, model="world_vit"))
    assert visit["methods"] == list(core.METHODS)


def test_the_installed_page_is_built_and_its_code_runs(visit: dict[str, Any]) -> None:
    assert visit["page"] == "Blocks"
    assert visit["snippet's map"] == visit["map"]


def test_the_installed_doctests_pass_from_anywhere(visit: dict[str, Any]) -> None:
    assert visit["doctests"] > 50  # the visit itself ends at one that fails


# -- assets ---------------------------------------------------------------------------------------


def test_a_sample_picture_has_a_name() -> None:
    assert sample_picture("chelsea_coffee") == asset("samples", "chelsea_coffee.jpg")
    assert sample_picture("striped_disc").is_file()
    with pytest.raises(UnknownNameError, match=r"no sample picture 'cofee'; did you mean 'coffee'"):
        sample_picture("cofee")


def test_assets_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert asset().is_absolute()
    assert asset("synthetic", "world_vit.safetensors").is_file()
