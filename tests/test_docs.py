"""What the documents say is so: code and commands run, pages are what the registries give."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torchvision import transforms

import core.methods
import core.metrics
from core import METHODS, METRICS, Explainer, load_model
from core.cli import main
from core.explainer import _explainer
from core.inputs.preprocessing import Preprocessing
from docs import generate
from tests.conftest import SAMPLES

Put = Callable[[ModuleType, str, str], None]

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """The fenced code of one language on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {language}"
    return found


def commands(page: str) -> list[str]:
    """The command lines of `core` on a page."""
    lines = "\n".join(blocks(page, "sh")).splitlines()
    return [line for line in lines if line.startswith("python -m core ")]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which the sample pictures are found, and files may be written."""
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """``put(package, name, code)``: a package with one more file, until the test ends."""
    added: list[tuple[ModuleType, str]] = []

    def add(package: ModuleType, name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        added.append((package, name))

    for registry in (METHODS, METRICS):
        monkeypatch.setattr(registry, "_classes", {key: registry[key] for key in registry})
        monkeypatch.setattr(registry, "_loaded", False)
    yield add
    for package, name in added:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


# -- generated ------------------------------------------------------------------------------------


def test_the_page_of_methods_is_what_the_registries_give() -> None:
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run: make docs"


def test_every_metric_answers_something_that_people_ask_for() -> None:
    answers = generate.qualities()
    assert {key for keys in answers.values() for key in keys} == set(METRICS)
    asked = {"faithfulness", "sensitivity", "complexity", "stability", "localisation"}
    assert asked | {"consistency"} <= {name for name, keys in answers.items() if keys}


def test_every_source_is_a_link() -> None:
    for cls in (*METHODS.values(), *METRICS.values()):
        assert not cls.paper or generate.link(cls.paper).startswith("["), cls.key
    assert generate.link("arXiv:1610.02391").endswith("](https://arxiv.org/abs/1610.02391)")
    assert generate.link("10.1109/TIP.2021").endswith("](https://doi.org/10.1109/TIP.2021)")


# -- README ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("README.md", 11),
        ("docs/notebook.md", 10),
        ("docs/outputs.md", 6),
        ("docs/segmentation.md", 9),
    ],
)
def test_the_python_of_a_page_gives_what_it_says(elsewhere: Path, page: str, least: int) -> None:
    _explainer.cache_clear()  # costs are those of a first question
    names: dict[str, Any] = {}
    checked = 0
    for block in blocks(page, "python"):
        lines = block.splitlines()
        for node in ast.parse(block).body:
            code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if not isinstance(node, ast.Expr):
                exec(code, names)
                continue
            said = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
            assert repr(eval(code, names)) == said, code
            checked += 1
    assert checked >= least


@pytest.mark.parametrize("command", commands("README.md"))
def test_the_readmes_commands_run(
    command: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(command)[3:]) == 0
    assert json.loads(capsys.readouterr().out)


def test_the_readmes_answer_is_a_part_of_the_real_one(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (said,) = blocks("README.md", "json")
    main(shlex.split(commands("README.md")[0])[3:])
    assert_part(json.loads(said), json.loads(capsys.readouterr().out))


def assert_part(said: Any, real: Any, where: str = "") -> None:
    """Everything said is there, numbers to the digits given."""
    if isinstance(said, dict):
        for key in said:
            assert_part(said[key], real[key], f"{where}/{key}")
    elif isinstance(said, list):
        assert len(said) == len(real), where
        for i, (one, other) in enumerate(zip(said, real, strict=True)):
            assert_part(one, other, f"{where}/{i}")
    elif isinstance(said, float):
        assert real == pytest.approx(said, rel=0.03), where
    else:
        assert said == real, where


def test_the_front_matter_fits_the_app() -> None:
    _, front, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (ROOT / facts["app_file"]).is_file()
    assert len(facts["short_description"]) <= 60
    assert facts["python_version"] == "3.11"
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    lowest = re.search(r"^gradio>=([\d.]+),<(\d+)", required, re.MULTILINE)
    assert lowest is not None
    assert facts["sdk_version"].startswith(f"{lowest[1]}.")


def test_the_readme_quotes_what_integrated_gradients_misses(lite0: Explainer) -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    said = re.search(r"20 steps miss the score's rise by (\d+) %, 50 steps by (\d+) %", text)
    assert said is not None
    for steps, share in zip((20, 50), said.groups(), strict=True):
        found = lite0.explain(SAMPLES / "chelsea.jpg", "integrated_gradients", steps=steps)
        error = 100 * float(found.extras["completeness_error"][0])
        assert error == pytest.approx(float(share), abs=1), steps


# -- CONTRIBUTING ---------------------------------------------------------------------------------


def test_the_worked_method_explains_a_picture(
    put: Put, lite0: Explainer, capsys: pytest.CaptureFixture[str]
) -> None:
    put(core.methods, "reveal", blocks("CONTRIBUTING.md", "python")[0])
    x = lite0.prepare(SAMPLES / "coffee.jpg").x
    answer = lite0.explain(x, "reveal", target="espresso", tile=56)
    empty, lone = torch.zeros_like(x), torch.zeros_like(x)
    lone[:, :, 56:112, 112:168] = x[:, :, 56:112, 112:168]
    nothing, alone = (lite0.predict(rows).scores[0, 967] for rows in (empty, lone))
    torch.testing.assert_close(answer.values[0, 60, 120], alone - nothing, rtol=1e-4, atol=1e-4)
    assert answer.cost.forward == 18  # 16 tiles, the empty ground, the picture itself
    assert answer.cost.backward == 0
    assert main(["methods"]) == 0
    assert json.loads(capsys.readouterr().out)["reveal"]["params"]["tile"]["maximum"] == 512


def test_the_worked_metric_scores_a_map(put: Put, lite0: Explainer) -> None:
    put(core.metrics, "least_first", blocks("CONTRIBUTING.md", "python")[1])
    picture = SAMPLES / "coffee.jpg"
    answer = lite0.explain(picture, "gradcam")
    score = lite0.measure(picture, answer, "least_first", steps=8)
    upside_down = lite0.measure(picture, -answer.values, "least_first", steps=8)
    assert score.metric == "least_first"
    assert float(score.value) > float(upside_down.value)


# -- all pages ------------------------------------------------------------------------------------


# -- pictures and preprocessing -------------------------------------------------------------------


def test_the_python_about_inputs_runs() -> None:
    code = "\n".join(blocks("docs/inputs.md", "python"))
    names: dict[str, Any] = {"Explainer": Explainer, "np": np, "timm": timm, "T": transforms}
    exec(code, {**names, "load_model": load_model}, names)
    assert names["answer"].values.isfinite().all()
    assert names["twin"].preprocessing == names["handle"].preprocessing
    assert names["handle"].preprocessing.resize == (256,)


@pytest.mark.parametrize("command", commands("docs/inputs.md"))
def test_the_commands_about_inputs_run(
    command: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(command)[3:]) == 0
    assert json.loads(capsys.readouterr().out)


def test_the_settings_of_the_preprocessing_are_those_listed() -> None:
    page = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    listed = {
        n for row in re.findall(r"^\| (`.*?) \|", page, re.M) for n in re.findall(r"`(\w+)`", row)
    }
    known = {field.name for field in fields(Preprocessing)}
    assert known - listed == {"backend", "crop_rounding"}, "these are set by transforms only"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    broken = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert broken == []
    headings = {slug(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    anchors = re.findall(r"\]\(#([^)]+)\)", text)
    assert [a for a in anchors if a not in headings] == []


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:core|dashboard|tests|docs|benchmarks|assets)/[\w./]*)`", page.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for name in re.findall(r"\bmake ([a-z-]+)\b", " ".join(_code(page))):
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), (page.name, name)


def _code(page: Path) -> list[str]:
    """What is set as code on a page, fenced or inline."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"`([^`\n]+)`", text) + re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)


def test_the_licence_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
