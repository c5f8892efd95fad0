"""Every family of timm: the table that stands for them, and what is true of each."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from benchmarks import zoo as sweep
from core import METHODS, Explainer, ModelHandle
from core.errors import ModelError, NotApplicableError, UnknownNameError
from core.inputs.preprocessing import Preprocessing
from core.models import zoo
from core.models.layers import SMALLEST_GRID
from core.tasks.activation import IDENTITY
from core.tasks.classification import Classification
from core.tasks.outputs import Scores
from core.tasks.reading import to_rows
from core.types import Property

DOZEN = [
    *("cait", "coat", "dla", "efficientvim", "eva", "levit", "mambaout", "maxxvit", "mlp_mixer"),
    *("pit", "regnet", "xcit"),
]
"""Streams, tokens, windows, features instead of classes: families that are unlike one another."""
KEYS = ["gradcam", "layercam", "saliency", "integrated_gradients", "occlusion"]


@cache
def shared(family: str) -> ModelHandle:
    return zoo.member(family).handle()


# -- the table --------------------------------------------------------------------------------


def test_every_family_has_a_member_of_its_own() -> None:
    assert list(zoo.members()) == sorted(timm.list_modules())
    for family, member in zoo.members().items():
        assert member.family == family
        assert member.model in timm.list_models(module=family)


def test_the_smallest_model_of_a_family() -> None:
    assert zoo.smallest("sequencer") == zoo.member("sequencer").model == "sequencer2d_s"


def test_the_least_size_is_where_cams_look_as_usual() -> None:
    member = zoo.member("mlp_mixer")
    assert zoo.least_size(member.model) == member.side
    usual = zoo.build(member.model)
    assert member.side < usual.input_size[1]
    assert usual.default_layer == member.handle().default_layer


def test_no_such_family() -> None:
    with pytest.raises(UnknownNameError, match=r"no family 'swim_tr.*'swin_transformer'"):
        zoo.member("swim_transformer")


def test_a_member_is_built_the_same_each_time_without_a_draw_from_the_callers_numbers() -> None:
    before = torch.get_rng_state()
    one, two = (zoo.member("crossvit").handle().model for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert name.endswith("bias") or p.any(), name


# -- what once went wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("cait", "idgi"),  # a score that hardly moves, against rounding
        ("coat", "fullgrad"),  # one layer called at several sizes
        ("convit", "legrad"),  # two attention maps in a block
        ("crossvit", "attention"),  # a class token by another name
        ("cspnet", "scorecam"),  # channels that all weigh the same
        ("gemma4_vit", "ablationcam"),  # a feature that is one of the channels
        ("hgnet", "scorecam"),
        ("mobilenetv3", "fullgrad"),  # an activation without a second gradient
        ("naflexvit", "attnlrp"),  # a product that the model writes into
    ],
)
def test_no_family_fails_where_it_once_did(family: str, key: str) -> None:
    verdict = sweep.examine(shared(family), key)
    assert verdict.word != sweep.FAILS, verdict.reason


@pytest.mark.parametrize("family", ["cspnext", "cait", "inception_v4"])
def test_random_models_tell_pictures_apart(family: str) -> None:
    owner = shared(family)
    logits = owner.model(zoo.smooth_noise(3, owner.input_size, seed=5)).detach()
    assert torch.isfinite(logits).all()
    assert logits.std(0).mean() > 0.1


# -- every family -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("family", DOZEN)
def test_a_dozen_families_keep_what_methods_promise(family: str, key: str) -> None:
    verdict = sweep.examine(shared(family), key)
    assert (verdict.word, verdict.reason) == (sweep.WORKS, "")


@pytest.mark.slow
@pytest.mark.parametrize("family", list(zoo.members()))
def test_every_family_is_explained_by_gradcam(family: str) -> None:
    owner = zoo.member(family).handle()
    assert owner.default_layer is not None
    layout = owner.layers[owner.default_layer].layout
    assert layout is not None
    assert min(layout.grid) >= SMALLEST_GRID
    verdict = sweep.examine(owner, "gradcam")
    assert verdict.word == sweep.WORKS, verdict.reason


# -- models without classes -------------------------------------------------------------------


class Tower(nn.Module):
    """Features of every cell, in one of the ways towers give them."""

    num_classes = 0

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(3, 16, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        cells: Tensor = self.conv(x)
        ways = {
            "pooled": lambda: cells.mean((2, 3)),
            "cells": lambda: cells,
            "cells last": lambda: cells.permute(0, 2, 3, 1),
            "tokens": lambda: cells.flatten(2).transpose(1, 2),
        }
        return ways[self.way]()


def tower(way: str) -> ModelHandle:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Tower(way)
    prepared = Preprocessing((3, 24, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    return ModelHandle(model, name=way, preprocessing=prepared)


@pytest.mark.parametrize("way", ["pooled", "cells", "cells last", "tokens"])
def test_features_of_cells_are_averaged_over_the_picture(way: str) -> None:
    owner, x = tower(way), torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(2))
    expected = owner.model.conv(x).mean((2, 3)).detach()  # type: ignore[operator,union-attr]
    torch.testing.assert_close(Explainer(owner).predict(x).scores, expected)
    assert owner.task.kind == "feature"
    assert owner.outputs == 16
    answer = Explainer(owner).explain(x, "gradcam", target=3, relu=False)
    weight = owner.model.conv(x).detach()[:, 3] / 24  # type: ignore[operator,union-attr]
    torch.testing.assert_close(answer.values, weight)


def test_a_classifier_that_returns_cells_is_refused_still() -> None:
    with pytest.raises(ModelError, match=r"cells returns \(1, 5, 2, 2\) where"):
        to_rows(torch.ones(1, 5, 2, 2), 1, "cells")


def test_features_are_not_shown_as_probabilities() -> None:
    scores = Scores(torch.tensor([[2.0, -1.0, 7.0]]))
    said = Classification(IDENTITY, kind="feature").predict(scores)
    assert said.top(2) == [(2, "feature 2", 7.0), (0, "feature 0", 2.0)]
    with pytest.raises(NotApplicableError, match="features without probabilities"):
        said.probabilities  # noqa: B018
    assert Classification().predict(scores).top(1)[0][1] == "class 2"


# -- the sweep --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", list(METHODS))
def test_a_coarse_method_takes_few_rows(key: str) -> None:
    owner = shared("levit")
    if owner.why_not(METHODS.make(key).requires()):
        return
    method = sweep.coarse(key, owner)
    cost = method.estimate_cost(owner, owner.resolve_layer(method.layer_needs(), None))
    assert cost.forward + 2 * cost.backward <= sweep.ROWS


def break_(monkeypatch: pytest.MonkeyPatch, key: str, change: Any) -> None:
    """Let a method's map be changed before anyone sees it."""
    original = METHODS[key].attribute

    def attribute(self: Any, run: Any) -> Any:
        values, score = original(self, run)
        return change(values, score)

    monkeypatch.setattr(METHODS[key], "attribute", attribute)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v, s: (v * 0 + 1, s), "the map is constant"),
        (lambda v, s: (v[:, :2], s), "the map is 2x3"),
        (lambda v, s: (v + torch.linspace(-1, 1, 9).view(1, 3, 3), s), "the least value is -"),
        (lambda v, s: (v, s + 1), "the model's own"),
        (lambda v, s: (torch.arange(9.0).view(1, 3, 3), s), "the same for another target"),
    ],
)
def test_a_broken_promise_fails(monkeypatch: pytest.MonkeyPatch, change: Any, reason: str) -> None:
    owner = shared("levit")
    assert sweep.examine(owner, "gradcam").word == sweep.WORKS
    break_(monkeypatch, "gradcam", change)
    verdict = sweep.examine(owner, "gradcam")
    assert verdict.word == sweep.FAILS
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("key", "law"),
    [("integrated_gradients", Property.COMPLETE), ("kernel_shap", Property.EFFICIENT)],
)
def test_a_wrong_sum_fails(monkeypatch: pytest.MonkeyPatch, key: str, law: Property) -> None:
    assert law in METHODS[key].properties
    assert sweep.examine(shared("levit"), key).word == sweep.WORKS
    break_(monkeypatch, key, lambda v, s: (3 * v, s))
    verdict = sweep.examine(shared("levit"), key)
    assert verdict.word == sweep.FAILS
    assert f"the {sweep.SUMS[law]} error is" in verdict.reason


def test_a_control_that_knows_the_target_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    break_(monkeypatch, "centre", lambda v, s: (v * s.abs(), s))
    verdict = sweep.examine(shared("levit"), "centre")
    assert (verdict.word, verdict.reason) == (
        sweep.FAILS,
        "the map is another one for another target",
    )


def test_a_crash_fails_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise IndexError("no such thing\nand more")

    break_(monkeypatch, "saliency", crash)
    verdict = sweep.examine(shared("levit"), "saliency")
    assert (verdict.word, verdict.reason) == (sweep.FAILS, "IndexError: no such thing")


def test_what_a_process_left_undone_fails() -> None:
    output = json.dumps({"method": "one", "word": "works", "reason": "", "seconds": 1.0})
    report = sweep.gathered("resnet", ["one", "two"], f'{output}\n{{"meth', "killed")
    assert [(v.method, v.word, v.reason) for v in report.verdicts] == [
        ("one", "works", ""),
        ("two", "FAILS", "killed"),
    ]


def test_a_journal_keeps_the_last_whole_report_of_each_family(tmp_path: Path) -> None:
    journal, one, two = tmp_path / "zoo.jsonl", *(sweep.Verdict(k, sweep.WORKS) for k in "ab")
    old = sweep.Report("vgg", {}, [one, sweep.Verdict("b", sweep.FAILS, "why")])
    new = sweep.Report("vgg", {"model": "vgg11"}, [two, one])
    reports = [old, sweep.Report("resnet", {}, [one]), new, sweep.Report("dla", {}, [one, two])]
    assert sweep.kept(journal, ["a"]) == {}
    lines = [json.dumps(asdict(report)) + "\n" for report in reports]
    journal.write_text("".join([*lines, '{"family": "cut o']), encoding="utf-8")
    found = sweep.kept(journal, ["a", "b"])
    assert list(found) == ["dla", "vgg"]
    assert found["vgg"] == sweep.Report("vgg", {"model": "vgg11"}, [one, two])


def test_the_page_says_what_became_of_each() -> None:
    verdicts = [
        sweep.Verdict("gradcam", sweep.WORKS),
        sweep.Verdict("attention", sweep.REFUSED, "no attention here"),
        sweep.Verdict("rollout", sweep.REFUSED, "no attention here"),
        sweep.Verdict("lrp", sweep.FAILS, "KeyError: x"),
    ]
    text = sweep.page([sweep.Report("resnet", {"model": "resnet10"}, verdicts)])
    assert "1 families, 4 pairs" in text
    assert "| resnet | + | - | - | FAILS |" in text
    assert "- `attention`, `rollout`: no attention here\n" in text
    assert "- `lrp`: FAILS: KeyError: x\n" in text


def test_the_committed_page_is_of_these_families_and_nothing_fails() -> None:
    if not sweep.PAGE.exists():
        pytest.skip("written by make zoo")
    text = sweep.PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if "| " in line]
    assert set(zoo.members()) <= set(rows)
    assert sweep.FAILS not in text
