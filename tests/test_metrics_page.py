"""The Metrics and Compare tabs: evidence, random maps, steps of a curve, recommendations."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import METRICS
from core.errors import TimmscopeError
from core.metrics.base import Category
from core.views.panels import Panel
from dashboard import actions
from dashboard.actions import (
    CurveStepRequest,
    Evidence,
    MeasureRequest,
    RecommendRequest,
)
from dashboard.actions.evidence import ground_truth_of, mask_of
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
    with pytest.raises(TimmscopeError, match=r"box|marked"):
        measured(service, ["energy_inside"], evidence=Evidence(box))


def test_a_box_is_never_taken_for_a_file(service: Service, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"images": [], "annotations": []}')
    with pytest.raises(TimmscopeError, match="is no box"):
        measured(service, ["energy_inside"], evidence=Evidence(str(secret)))


def marks(*marked: dict[str, Any]) -> str:
    return json.dumps({"marks": marked})


def test_a_drawing_becomes_a_mask_of_the_pictures_size() -> None:
    box = mask_of(marks({"box": [10, 20, 30, 25]}), (60, 80))
    assert box is not None
    assert box.shape == (60, 80)
    assert box.sum() == 20 * 5
    assert box[20:25, 10:30].all()
    stroke = mask_of(marks({"stroke": [[20, 30], [60, 30]], "size": 10}), (60, 80))
    assert stroke is not None
    assert stroke[26:35, 20:60].all()
    assert stroke.sum() == pytest.approx(40 * 10 + math.pi * 25, rel=0.12)
    dot = mask_of(marks({"stroke": [[40, 30]], "size": 10}), (60, 80))
    assert dot is not None
    assert dot.sum() == pytest.approx(math.pi * 25, rel=0.25)
    both = mask_of(marks({"box": [10, 20, 30, 25]}, {"stroke": [[40, 30]], "size": 10}), (60, 80))
    assert both is not None
    assert (both == (box | dot)).all()
    for nothing in (None, "", "{}", marks()):
        assert mask_of(nothing, (60, 80)) is None


@pytest.mark.parametrize(
    ("drawing", "said"),
    [
        ("no json", "cannot be read"),
        ('{"marks": [{"box": [1, 2, 3]}]}', "cannot be read"),
        ('{"marks": [{"box": [NaN, 0, 1, 1]}]}', "cannot be read"),
        ('{"marks": [{"stroke": [[0, 0]], "size": -1}]}', "cannot be read"),
        (marks(*[{"box": [0, 0, 1, 1]}] * 501), "too much in the drawing"),
        (marks({"stroke": [[0, 0]] * 1000, "size": 70}), "too much in the drawing"),
    ],
)
def test_a_drawing_that_is_none_is_refused(drawing: str, said: str) -> None:
    with pytest.raises(TimmscopeError, match=said):
        mask_of(drawing, (60, 80))


def test_a_drawing_overrides_a_box_and_a_file_overrides_both(
    service: Service, tmp_path: Path
) -> None:
    asked = actions.resolve(service, about(COFFEE))
    canvas = actions.drawing_canvas(service, about(COFFEE))
    width, height = canvas["width"], canvas["height"]
    assert canvas["picture"].startswith("data:image/")
    drawing = marks({"box": [0, height // 2, width, height]})
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((height, width), 255, dtype=np.uint8)).save(path)
    drawn = ground_truth_of(asked, Evidence(CUP, drawing=drawing))
    whole = ground_truth_of(asked, Evidence(CUP, str(path), drawing=drawing))
    assert drawn is not None
    assert whole is not None
    assert not drawn[:, :100].any()
    assert drawn[:, 124:].all()
    assert whole.all()
    told = measured(service, ["energy_inside"], evidence=Evidence(drawing=drawing))
    assert 0 < told.table[0][1] < 1


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
    assert found.inspected == 2
    assert [panel["figure"]["layout"]["meta"] for panel in found.panels] == [
        "deletion", "insertion",
    ]  # fmt: skip
    assert found.panels[0]["figure"]["data"][0]["meta"] == "gradcam"
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
    groups = actions.metric_groups()
    assert [group["label"] for group in groups] == [one.label for one in Category]
    assert groups[0]["question"].startswith("Does the score change as the map says")
    options = {one["key"]: one for group in groups for one in group["options"]}
    assert set(options) == set(METRICS)
    labels = {key: one["label"] for key, one in options.items()}
    assert options["energy_inside"]["about"].endswith("Needs the evidence.")
    for key, cls in METRICS.items():
        assert labels[key].endswith(" *") == bool(cls.caveat)
