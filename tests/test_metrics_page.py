"""The Metrics and Compare tabs: evidence, random maps, steps of a curve, recommendations."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import METRICS
from core.errors import TimmscopeError
from core.views.panels import Panel
from dashboard import actions
from dashboard.actions import (
    CurveStepRequest,
    DrawingRequest,
    Evidence,
    MeasureRequest,
    RecommendRequest,
)
from dashboard.actions.evidence import ground_truth_of
from dashboard.components import Canvas
from dashboard.state import Service
from tests.conftest import SAMPLES
from tests.test_actions import about

COFFEE = str(SAMPLES / "coffee.jpg")
CUP = "150, 0, 450, 400"


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def measured(
    service: Service, metrics: list[str], settings: Any = None, **more: Any
) -> actions.MeasureResult:
    request = MeasureRequest(about(COFFEE), ["gradcam"], metrics, settings or {}, None, **more)
    return actions.measure(service, request)


def stepped(service: Service, curve: Any, share: float) -> list[Panel]:
    request = CurveStepRequest(about(COFFEE), curve, share, {}, None)
    return actions.curve_step(service, request).panels


def recommended(service: Service, methods: list[str]) -> actions.RecommendResult:
    return actions.recommend(service, RecommendRequest(about(COFFEE), methods, {}, None))


# -- where the evidence is ------------------------------------------------------------------------


def test_metrics_that_need_the_evidence_say_so_and_take_a_box(service: Service) -> None:
    found = measured(service, ["energy_inside", "complexity"])
    assert [row[1] for row in found.table] == [None] * len(found.table)
    assert "needs to know where the evidence is" in found.panels[-1]["caption"]
    told = measured(service, ["energy_inside"], evidence=Evidence(CUP))
    assert told.table[0][1] > 0.7
    assert "needs to know" not in str(told.panels)


def test_a_file_overrides_a_box(service: Service, tmp_path: Path) -> None:
    with Image.open(COFFEE) as picture:
        size = picture.size
    path = tmp_path / "mask.png"
    mask = np.zeros(size[::-1], dtype=np.uint8)
    mask[-150:] = 255
    Image.fromarray(mask).save(path)
    asked = actions.resolve(service, about(COFFEE))
    of_file, of_box = (
        ground_truth_of(asked, one) for one in (Evidence(CUP, str(path)), Evidence(CUP))
    )
    assert of_file is not None
    assert of_box is not None
    assert of_file[:, -50:].all()
    assert not of_file[:, :50].any()
    assert of_box[:, :50].any()
    assert ground_truth_of(asked, Evidence()) is None


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "9000,9000,9001,9001"])
def test_a_box_that_is_none_is_refused(service: Service, box: str) -> None:
    with pytest.raises(TimmscopeError, match=r"box|marks"):
        measured(service, ["energy_inside"], evidence=Evidence(box))


def test_a_box_is_never_taken_for_a_file(service: Service, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"images": [], "annotations": []}')
    with pytest.raises(TimmscopeError, match="is no box"):
        measured(service, ["energy_inside"], evidence=Evidence(str(secret)))


def test_a_drawing_becomes_a_mask_of_the_pictures_size(service: Service, tmp_path: Path) -> None:
    question = about(COFFEE)
    height, width, _ = actions.drawing_canvas(service, question).shape
    layer = np.zeros((height // 2, width // 2, 4), dtype=np.uint8)
    layer[:20, :30, 3] = 255
    painted = tmp_path / "layer.png"
    Image.fromarray(layer).save(painted)
    path = actions.save_drawing(service, DrawingRequest(question, str(painted)))
    with Image.open(path) as mask:
        assert mask.size == (width, height)
        assert np.asarray(mask).astype(bool).sum() == pytest.approx(40 * 60, rel=0.05)
    Image.fromarray(layer * 0).save(painted)
    for nothing in (None, str(painted), COFFEE):
        with pytest.raises(TimmscopeError, match="Nothing is drawn yet"):
            actions.save_drawing(service, DrawingRequest(question, nothing))
    Image.new("RGBA", (9000, 9000)).save(painted)
    with pytest.raises(TimmscopeError, match="pixels"):
        actions.save_drawing(service, DrawingRequest(question, str(painted)))


def test_the_editor_hands_on_the_first_layer_alone_undecoded() -> None:
    editor = Canvas(type="numpy")
    layers = [SimpleNamespace(path="one.png"), SimpleNamespace(path="two.png")]
    assert editor.preprocess(SimpleNamespace(layers=layers)) == "one.png"  # type: ignore[arg-type]
    assert editor.preprocess(SimpleNamespace(layers=[])) is None  # type: ignore[arg-type]
    assert editor.preprocess(None) is None


# -- among random maps ----------------------------------------------------------------------------


def test_maps_are_set_among_random_ones_where_that_applies(service: Service) -> None:
    found = measured(
        service, ["energy_inside", "max_sensitivity"], evidence=Evidence(CUP), random_maps=10
    )
    assert found.headers[3:] == ["Energy inside: percentile among 10 random maps"]
    assert found.table[0][3] == 100
    assert all(row[3] is None for row in found.table[1:]), "controls have no standing"


def test_a_score_with_an_interval_shows_it(service: Service) -> None:
    settings = {"faithfulness_correlation": {"samples": 8}}
    found = measured(service, ["faithfulness_correlation"], settings)
    assert re.fullmatch(r"-?\d\.\d{3} \(-?\d\.\d{3} to -?\d\.\d{3}\)", found.table[0][1])


# -- one step of a curve --------------------------------------------------------------------------


def test_a_curve_can_be_looked_into(service: Service) -> None:
    found = measured(service, ["complexity", "deletion", "insertion"])
    choices = actions.curve_choices(found.curves)
    assert choices == [
        ("Grad-CAM: deletion", "gradcam deletion"),
        ("Grad-CAM: insertion", "gradcam insertion"),
    ]
    whole, bars = stepped(service, "gradcam deletion", 0)
    assert whole["title"] == "0% removed"
    assert whole["figure"]["layout"]["images"]
    assert whole["figure"]["data"], "a figure without a trace is not drawn"
    assert "espresso" in str(bars["figure"]["layout"]["annotations"])
    none, _ = stepped(service, "gradcam insertion", 0)
    assert none["title"] == "0% restored"
    some, _ = stepped(service, "gradcam deletion", 50)
    assert "Step 14 of 28" in some["caption"]
    assert some["figure"]["layout"]["images"] != whole["figure"]["layout"]["images"]


@pytest.mark.parametrize("curve", [None, "", "gradcam complexity", "gradcam", 5, ["a"]])
def test_what_has_no_steps_says_what_to_do(service: Service, curve: Any) -> None:
    (panel,) = stepped(service, curve, 50)
    assert "then choose a curve" in panel["caption"]


# -- which to take --------------------------------------------------------------------------------


def test_a_recommendation_comes_with_its_table(service: Service) -> None:
    found = recommended(service, ["gradcam", "saliency"])
    (panel,) = found.panels
    assert panel["title"] == "Grad-CAM"
    assert panel["caption"].startswith("Take Grad-CAM: it has the largest symmetric relevance gain")
    assert [row[0] for row in found.table[:2]] == ["Grad-CAM", "Saliency"]
    assert found.table[0][-1] == "recommended"
    assert found.table[1][-1].startswith("no better than")
    assert {row[-1] for row in found.table[2:]} == {"control"}
    with pytest.raises(TimmscopeError, match="no method to recommend"):
        recommended(service, ["random"])
    (panel,) = recommended(service, ["attention"]).panels
    assert "softmax attention" in panel["caption"]
    (panel,) = recommended(service, []).panels
    assert "at least one method" in panel["caption"]


def test_every_metric_is_offered_and_a_caveat_is_marked() -> None:
    labels = {key: label for label, key in actions.metric_choices()}
    assert set(labels) == set(METRICS)
    for key, cls in METRICS.items():
        assert labels[key].endswith(" *") == bool(cls.caveat)
