"""What the page can do, called without a browser."""

from __future__ import annotations

import base64
import dataclasses
import gc
import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from gradio import FileData
from PIL import Image

from core import METHODS, METRICS, Attribution, Explainer, ModelHandle, export, load_model
from core.errors import (
    CancelledError,
    ModelError,
    ModelFailure,
    TimmscopeError,
    UnknownNameError,
)
from core.inputs.batch import OnProgress
from core.methods.base import Family
from core.runtime import painting
from core.views.colour import ALPHA, lut
from core.views.display import display_limits
from core.views.maps import unpack
from core.views.panels import Panel
from dashboard import actions
from dashboard.actions import (
    NO_CLASS,
    CompareRequest,
    EstimateRequest,
    ExplainRequest,
    FeatureRequest,
    MeasureRequest,
    MethodRequest,
    ModelRequest,
    OffersRequest,
    PatchRequest,
    Question,
    SaveRequest,
    VerdictRequest,
)
from dashboard.actions.explain import summary
from dashboard.actions.formatting import extras_text
from dashboard.actions.question import POINTERS, UnusableError, params_of
from dashboard.actions.reasons import fault_card
from dashboard.api import requests
from dashboard.components import DEFAULT_VIEW
from dashboard.components.settings import widget_for
from dashboard.state import Service, Tasks
from dashboard.tabs import sidebar
from tests.conftest import SAMPLES
from tests.hub import Hub

CAT = str(SAMPLES / "chelsea.jpg")
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def about(picture: str | None = CAT, **changes: Any) -> Question:
    asked = {
        "model": LITE0,
        "weights": "pretrained",
        "target": None,
        "versus": NO_CLASS,
        "unit": "logit",
    }
    return Question(picture, **{**asked, **changes})


CONTRAST = about(target=285, versus=281)
"""One cat rather than another: a Grad-CAM without its ReLU has both signs."""


def vit(**changes: Any) -> Question:
    return about(**{"model": "test_vit", "weights": "random", **changes})


def ask_for(
    question: Question, method: str, settings: Any = None, layer: str | None = None
) -> ExplainRequest:
    return ExplainRequest(question, method, layer, settings or {})


def compared(question: Question, methods: list[str], layer: str | None = None) -> CompareRequest:
    return CompareRequest(question, methods, {}, layer)


def test_the_prediction_comes_with_every_class_to_choose_from(service: Service) -> None:
    seen = actions.predict(service, about())
    assert seen.predicted == 282
    assert seen.classes[0][0].startswith("tiger cat")
    assert len({index for _, index in seen.classes}) == 1000
    assert seen.likely.title == "Prediction"
    assert [row.index for row in seen.likely.rows] == [index for _, index in seen.classes[:5]]
    assert seen.likely.rows[0].share == pytest.approx(0.376, abs=0.01)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        (LITE0, "pretrained", ""),
        (LITE0, "random", "The weights are random: the prediction means nothing."),
        ("world_vit", "pretrained", "world_vit knows only generated scenes of 6 kinds of objects"),
        ("world_resnet", "pretrained", "such as a photograph, the prediction means nothing."),
        ("world_vit", "random", "The weights are random"),
    ],
)
def test_a_prediction_out_of_its_domain_comes_with_a_warning(
    service: Service, model: str, weights: str, words: str
) -> None:
    asked = about(model=model, weights=weights)
    told = " ".join(actions.predict(service, asked).likely.notes)
    assert words in told
    note = service.models.of(asked).model.domain_note
    assert note in told
    assert bool(note) == bool(words)


def test_models_of_scenes_are_offered_scenes() -> None:
    assert actions.knows_scenes(" world_convnext ")
    assert not actions.knows_scenes(LITE0)
    labels = sidebar.SCENE_EXAMPLES
    assert labels["ringed star"] == "ringed_star.png"
    assert all((sidebar.SCENES / name).is_file() for name in labels.values())


def test_an_explanation_says_what_it_took_and_where_it_looked(service: Service) -> None:
    found = actions.explain(service, ask_for(about(), "gradcam"))
    (panel,) = found.panels
    assert panel["map"]
    assert (panel["title"], panel["method"]) == ("Why tiger cat?", "Grad-CAM")
    assert "layer bn2" in panel["caption"]
    assert "1 forward, 1 backward pass" in panel["caption"]
    assert panel["seen"] == "The model sees 51% of this picture"
    assert panel["words"].startswith("The model says tiger cat, 3")
    assert "Half of the evidence lies in" in panel["words"]


def test_the_recipe_gives_the_same_map(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = about(target=285, versus=281, unit="probability")
    request = ask_for(asked, "layercam", {"layercam": {"relu": False}}, "blocks.4")
    code = actions.explain(service, request).code
    scope: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(code, scope)
    path = actions.save(service, SaveRequest(request, "npz"))
    with np.load(path) as saved:
        np.testing.assert_allclose(saved["native"], scope["answer"].values[0], atol=1e-6)


def test_completeness_is_said_in_words(service: Service) -> None:
    settings = {"integrated_gradients": {"steps": 2}}
    found = actions.explain(service, ask_for(about(), "integrated_gradients", settings))
    assert found.summary.startswith("The map misses the score by ")


def test_a_layer_of_another_kind_gives_way_to_the_methods_own(service: Service) -> None:
    found = actions.explain(service, ask_for(vit(), "attention", {}, "blocks.2"))
    assert "blocks.5.attn" in found.panels[0]["caption"]


@pytest.mark.parametrize("kind", ["png", "svg", "npz", "json"])
def test_downloads(service: Service, kind: str) -> None:
    request = SaveRequest(ask_for(about(), "gradcam"), kind, "viridis", 0.5, True)
    path = Path(actions.save(service, request))
    assert path.name == f"chelsea-tiger-cat-gradcam-bn2.{kind}"
    if kind == "png":
        with Image.open(path) as saved:
            assert min(saved.size) > 2 * 480, "twice the size that it is shown at"
            assert saved.text["Title"] == "Why tiger cat?"
    elif kind == "svg":
        assert "Why tiger cat?" in path.read_text()
    elif kind == "npz":
        with np.load(path) as arrays:
            assert arrays["values"].shape == (224, 224)
            assert arrays["values"].dtype == np.float32
            assert arrays["native"].shape == (7, 7)
            metadata = json.loads(str(arrays["metadata"]))
            assert metadata["picture"] == "chelsea.jpg"
            assert (metadata["model"], metadata["method"]) == (LITE0, "gradcam")
            assert (metadata["layer"], metadata["target"]) == ("bn2", "tiger cat")
            assert {"params", "crop", "versions", "preprocessing"} <= set(metadata)
    else:
        facts = json.loads(path.read_text())
        assert facts["model"] == LITE0
        assert facts["target"] == "tiger cat"
        assert facts["params"] == {"relu": True, "mask_outliers": False}
        assert facts["layer"] == "bn2"
        assert "Explainer" in facts["python"]


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize(("colormap", "alpha"), [("viridis", 0.25), ("gray", 1.0), ("auto", 0.6)])
@pytest.mark.parametrize("relu", [False, True])
def test_a_saved_picture_has_the_colours_opacity_and_fading_chosen(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    colormap: str,
    alpha: float,
    fade: bool,
    relu: bool,
) -> None:
    shown = ask_for(CONTRAST, "gradcam", {"gradcam": {"relu": relu}})
    request = SaveRequest(shown, "png", colormap, alpha, fade)
    with monkeypatch.context() as patched:  # the picture alone, without what stands around it
        patched.setattr(export, "figure_png", lambda image, scale, text: image)
        path = actions.save(service, request)
    with Image.open(path) as saved:
        found = np.asarray(saved).astype(float)
    with np.load(actions.save(service, SaveRequest(shown, "npz"))) as arrays:
        native, values = arrays["native"], Image.fromarray(arrays["values"])
        left, upper, right, lower = (round(edge) for edge in arrays["crop"].tolist())
    signed, top = not relu, float(abs(native).max())
    assert signed == (native.min() < 0)
    values = values.resize((right - left, lower - upper), Image.Resampling.BILINEAR)
    at = ((np.asarray(values) / top).clip(-1, 1) + signed) / (1 + signed)
    name = colormap if colormap != "auto" else ("RdBu" if signed else "inferno")
    colours = lut(name)[(at * 255).round().astype(int)]
    with Image.open(CAT) as original:
        seen = np.asarray(original.convert("RGB")).astype(float)
    share = alpha * (abs(at * (1 + signed) - signed) if fade else np.ones(at.shape))[..., None]
    expected = seen.copy()
    inside = np.s_[upper:lower, left:right]
    expected[inside] = share * colours + (1 - share) * seen[inside]
    within = np.s_[upper + 2 : lower - 2, left + 2 : right - 2]  # the outline aside
    assert abs(found[within] - expected[within]).max() <= 3
    outside = np.ones(found.shape[:2], bool)
    outside[inside] = False
    assert (found[outside] == seen[outside]).all()


def test_one_failing_method_never_kills_the_others(service: Service) -> None:
    found = actions.compare(service, compared(about(), ["gradcam", "attention"]))
    assert [panel["tone"] for panel in found.panels] == ["", "", "error"]
    assert "softmax attention" in found.panels[2]["caption"]
    assert [row[0] for row in found.table] == ["Grad-CAM", "Attention"]


def test_agreement_stands_below_the_maps(service: Service) -> None:
    found = actions.compare(service, compared(about(), ["gradcam", "hirescam", "sobel"]))
    picture, *maps, where, switch = found.panels
    assert picture["title"] == "Picture"
    assert len(maps) == 3
    assert where["map"]
    assert where["title"] == "Where they disagree"
    charts = {one["label"]: one["figure"] for one in switch["alternatives"]}
    assert list(charts) == ["Correlation", "Rank", "SSIM", "Overlap"]
    assert switch["figure"] == charts["Correlation"]
    for figure in charts.values():
        (trace,) = figure["data"]
        assert [row[i] for i, row in enumerate(trace["z"])] == [1, 1, 1]
        assert trace["z"][0][1] > trace["z"][0][2], "Grad-CAM is more like HiResCAM than edges"
        names = [note["text"] for note in figure["layout"]["annotations"]]
        assert names[2] == "3  Edges (control)"


def test_a_grainy_map_is_smoothed_and_its_card_says_so(service: Service) -> None:
    (panel,) = actions.explain(service, ask_for(about(), "saliency")).panels
    assert panel["caption"].endswith(" · shown smoothed, radius 4 px")
    (trace,) = panel["figure"]["data"]
    with np.load(actions.save(service, SaveRequest(ask_for(about(), "saliency"), "npz"))) as arrays:
        raw = arrays["values"]
    assert abs(unpack(trace["z"]) - raw).max() <= np.ptp(raw) / 65535, "hovering tells raw values"
    assert (trace["zmin"], trace["zmax"]) == display_limits(raw)
    assert panel["smoothing"] is not None
    plainly = panel["smoothing"]["unsmoothed"]
    assert (plainly["zmin"], plainly["zmax"]) == display_limits(raw, smooth=False)
    (coarse,) = actions.explain(service, ask_for(about(), "gradcam")).panels
    assert coarse["smoothing"] is None
    assert "smoothed" not in coarse["caption"]


def test_a_shared_range_is_shared_smoothed_and_as_it_is(service: Service) -> None:
    maps = actions.compare(service, compared(about(), ["saliency", "sobel"])).panels[1:3]
    assert all(panel["smoothing"] for panel in maps)
    together = [panel["shared"]["unsmoothed"] for panel in maps if panel["shared"]]
    first, second = ({k: one[k] for k in ("zmin", "zmax")} for one in together)
    assert first == second
    assert first["zmax"] > maps[0]["figure"]["data"][0]["zmax"]


def test_a_picture_is_saved_unsmoothed_if_told(service: Service) -> None:
    shown = ask_for(about(), "saliency")
    saved = [
        Path(actions.save(service, SaveRequest(shown, "png", smooth=smooth))).read_bytes()
        for smooth in (True, False)
    ]
    assert saved[0] != saved[1]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_saved_picture_shows_as_much_of_the_map_as_the_page(service: Service, kind: str) -> None:
    def drawn(percent: float) -> bytes:
        request = SaveRequest(ask_for(about(), "gradcam"), kind, strongest=percent)
        return Path(actions.save(service, request)).read_bytes()

    whole, tenth, none = drawn(100), drawn(10), drawn(0)
    assert len({whole, tenth, none}) == 3


def test_one_opacity_holds_for_page_files_and_api() -> None:
    assert DEFAULT_VIEW["alpha"] == ALPHA
    assert SaveRequest(None, "png").alpha == export.Style().alpha == ALPHA
    assert requests.SaveRequest(picture=FileData(path=CAT)).opacity == ALPHA


def test_a_shared_range_is_the_same_for_all(service: Service) -> None:
    maps = actions.compare(service, compared(about(), ["gradcam", "sobel"])).panels[1:3]
    own, shared = own_ranges(maps), shared_ranges(maps)
    assert own[0] != own[1]
    assert shared[0] == shared[1]
    assert shared[0][1] == max(hi for _, hi in own)


def test_one_map_shares_its_range_with_none(service: Service) -> None:
    (_, alone) = actions.compare(service, compared(about(), ["gradcam"])).panels
    assert alone["shared"] is None


def own_ranges(maps: Sequence[Panel]) -> list[tuple[float, float]]:
    traces = [panel["figure"]["data"][0] for panel in maps]
    return [(trace["zmin"], trace["zmax"]) for trace in traces]


def shared_ranges(maps: Sequence[Panel]) -> list[tuple[float, float]]:
    together = [panel["shared"] for panel in maps]
    assert all(together)
    return [(one["drawn"]["zmin"], one["drawn"]["zmax"]) for one in together if one]


def test_the_means_of_a_smoothed_map_reach_as_far_as_the_range_it_shares(service: Service) -> None:
    methods = ["saliency", "integrated_gradients"]
    maps = actions.compare(service, compared(about(), methods)).panels[1:3]
    (low, high), _ = shared_ranges(maps)
    for one in maps:
        assert one["smoothing"]
        means = unpack(one["smoothing"]["z"])  # type: ignore[arg-type]
        assert low <= means.min()
        assert means.max() <= high * 1.001


@pytest.mark.parametrize(("other", "signed"), [("sobel", False), ("xgradcam", True)])
def test_a_range_shared_with_a_signed_map_is_symmetric_about_zero(
    service: Service, other: str, signed: bool
) -> None:
    methods = ["gradcam", other]
    settings = {key: {"relu": False} for key in methods if key != "sobel"}
    request = CompareRequest(CONTRAST, methods, settings, None)
    maps = actions.compare(service, request).panels[1:3]
    ((low, high),) = set(shared_ranges(maps))
    assert low == -high < 0
    assert all(panel["shared"] and panel["shared"]["signed"] for panel in maps)
    assert high == max(high for _, high in own_ranges(maps))
    assert [panel["signed"] for panel in maps] == [True, signed]


def test_each_check_is_a_line_that_says_how_it_ended(service: Service) -> None:
    _, *checks = actions.assess(service, VerdictRequest(ask_for(about(), "gradcam"))).panels
    outcomes = {"good": "passed", "doubtful": "doubtful", "bad": "failed", "unasked": ""}
    assert [one["method"] for one in checks] == [outcomes[one["tone"]] for one in checks]
    assert all("\n" not in one["title"] and len(one["title"]) < 80 for one in checks)


def test_layers_are_offered_from_early_to_late(service: Service) -> None:
    handle = service.models.get(LITE0).model
    depth = list(handle.layers).index
    layers = actions.describe_method(service, MethodRequest(LITE0, "pretrained", "gradcam")).layers
    assert layers == sorted(layers, key=depth)
    stages = {layer.name for layer in handle.stages()}
    assert stages < set(layers)
    offered = actions.describe_model(service, OffersRequest(LITE0, "pretrained")).layers
    assert stages == set(offered[: len(stages)]), "where no filmstrip shows them"


def test_feature_maps_and_their_statistics(service: Service) -> None:
    found = actions.features(service, FeatureRequest(about(), "blocks.4", "variance", 8))
    assert len(found.panels) == 8
    assert "blocks.4" in found.summary
    assert "112 channels of 14 × 14" in found.summary
    strongest = actions.features(service, FeatureRequest(about(), "blocks.4", "activation", 8))
    titles = [[panel["title"] for panel in shown.panels] for shown in (found, strongest)]
    explainer = service.models.get(LITE0)
    for by, shown in zip(("variance", "activation"), titles, strict=True):
        channels = explainer.features(CAT, layer="blocks.4", top=8, by=by).channels
        assert shown == [f"channel {int(channel)}" for channel in channels]
    assert titles[0] != titles[1]


def test_channels_lie_over_the_picture_and_say_where_they_come_from(service: Service) -> None:
    found = actions.features(service, FeatureRequest(about(), "blocks.4", "activation", 4))
    strongest = service.models.get(LITE0).features(CAT, layer="blocks.4", top=4)
    sources = [panel["figure"]["layout"]["images"][0]["source"] for panel in found.panels]
    assert len(set(sources)) == 1, "they share one picture"
    for panel, values in zip(found.panels, strongest.maps, strict=True):
        assert panel["caption"].startswith(f"blocks.4 of {LITE0}, ")
        np.testing.assert_allclose(
            unpack(panel["figure"]["data"][0]["z"]), values.numpy(), atol=1e-3
        )


def unpacked(layer: dict[str, Any]) -> np.ndarray:
    """The values (heads, n, m) of a packed layer, as `patch.js` reads them."""
    rows = math.prod(layer["grid"]) + len(layer["tokens"])
    shape = layer["heads"], rows, math.prod(layer["keys"])
    steps = np.frombuffer(base64.b64decode(layer["values"]), np.uint8).reshape(shape)
    step = (unpack(layer["peak"]) - layer["floor"]) / 255
    values: np.ndarray = layer["floor"] + steps * step[..., None]
    return values


@pytest.mark.parametrize("question", ["cnn", "transformer"])
def test_patches_arrive_whole_and_with_the_values_of_python(
    service: Service, question: str
) -> None:
    asked = about() if question == "cnn" else vit()
    found = actions.patches(service, PatchRequest(asked))
    explainer = service.models.of(ModelRequest(asked.model, asked.weights))
    own = explainer.patches(CAT)
    packed = found.touch["similarity"] + found.touch["attention"]
    assert [layer["layer"] for layer in packed] == [layer.layer for layer in own]
    for layer, mine in zip(packed, own, strict=True):
        off = abs(unpacked(layer) - mine.values.numpy())
        peaks = mine.values.numpy().max(2, keepdims=True)
        assert (off <= (peaks - layer["floor"]) / 509 + 2e-5).all(), layer["layer"]
    (panel,) = found.panels
    assert panel["figure"]["layout"]["images"]
    size = len(json.dumps(found.touch))
    assert size < 9 * 2**20
    if question == "cnn":
        assert found.touch["attention"] == []
        assert found.touch["reasons"]["attention"].startswith("No attention: tf_efficientnet_lite0")
        assert found.touch["notes"][0].startswith("On fine grids (112 x 112")
    else:
        assert found.touch["reasons"] == {}
        assert found.touch["attention"][0]["tokens"] == ["class token"]
    assert found.answers.label == f"patches in {asked.model}"


def test_scores_stand_beside_the_controls(service: Service) -> None:
    settings = {key: {"steps": 3} for key in ("deletion", "insertion")}
    metrics = ["deletion", "insertion", "complexity", "completeness_error"]
    request = MeasureRequest(about(), ["gradcam"], metrics, settings, None)
    found = actions.measure(service, request)
    assert [row[0] for row in found.table] == [
        "Grad-CAM",
        *(cls.label for cls in METHODS.values() if cls.family == "control"),
    ]
    assert found.headers[1:3] == ["Deletion ↓", "Insertion ↑"]
    assert len(found.headers) == 1 + len(metrics)
    *curves, reason = found.panels
    assert len(curves) == 2
    assert "need not add up" in reason["caption"]
    assert all(row[3] > 0 and row[4] is None for row in found.table), "none promises a sum"
    dashes = [trace.get("line", {}).get("dash") for trace in found.panels[0]["figure"]["data"]]
    assert len(dashes) == len(found.table)


def test_a_map_is_put_to_the_test(service: Service) -> None:
    shown = actions.assess(service, VerdictRequest(ask_for(about(), "gradcam"))).panels
    assert shown[0]["title"].startswith("Verdict: ")
    assert {card["tone"] for card in shown[1:]} <= {"good", "doubtful", "bad", "unasked"}
    assert any("Symmetric relevance gain" in card["caption"] for card in shown)
    (told,) = actions.assess(service, VerdictRequest(ask_for(about(), "sobel"))).panels
    assert "does not depend on the model" in told["caption"]
    with pytest.raises(TimmscopeError, match="softmax attention"):
        actions.assess(service, VerdictRequest(ask_for(about(), "attention")))
    with pytest.raises(TimmscopeError, match="Press Explain first"):
        actions.assess(service, VerdictRequest(None))


def test_the_model_says_which_methods_it_cannot_run_and_why(service: Service) -> None:
    facts = actions.describe_model(service, OffersRequest(LITE0, "pretrained"))
    labels = {key: label for label, key in facts.methods}
    assert labels["attention"] == "Attention · not for this model"
    assert labels["gradcam"] == "CAM · Grad-CAM"
    for layer, has in (("blocks.4", True), ("", True), (None, True), ("layer4", False)):
        asked = OffersRequest(LITE0, "pretrained", layer=layer)
        assert actions.describe_model(service, asked).has_layer is has, layer
    request = MethodRequest(LITE0, "pretrained", "attention")
    assert "no softmax attention" in actions.describe_method(service, request).about
    request = MethodRequest("test_vit", "random", "attention")
    assert actions.describe_method(service, request).layer == "blocks.5.attn"


def test_a_model_says_what_it_is_once_it_is_loaded() -> None:
    fresh = Service()
    first, last = actions.open_model(fresh, ModelRequest("test_vit", "random"))
    assert (first.text, first.loading) == ("Loading test_vit …", True)
    assert (
        "1,000 classes (softmax); input 160 × 160 pixels. Random weights (seed 0); on" in last.text
    )
    assert not last.loading
    (only,) = actions.open_model(fresh, ModelRequest("test_vit", "random"))
    assert only == last
    embedded = list(actions.open_model(fresh, ModelRequest(LITE0, "pretrained")))[-1]
    assert "Weights included" in embedded.text


def test_what_a_person_can_cause_is_a_sentence_and_nothing_is_lost(
    service: Service, tmp_path: Path
) -> None:
    bad = tmp_path / "text.jpg"
    bad.write_text("this is not a picture")
    for question, words in (
        (about(str(bad)), "text.jpg"),
        (about(None), "Add a picture or choose an example"),
        (about(str(tmp_path / "gone.jpg")), "no longer on the server"),
        (about(model="resnt50"), "resnt50"),
        (about(target=99999), "99999"),
        (about(versus=99999), "99999"),
    ):
        for action, request in (
            (actions.explain, ask_for(question, "gradcam")),
            (actions.compare, compared(question, ["gradcam"])),
            (actions.features, FeatureRequest(question, None, "activation", 4)),
            (actions.measure, MeasureRequest(question, ["gradcam"], ["deletion"], {}, None)),
        ):
            with pytest.raises(TimmscopeError, match=words):
                action(service, request)  # type: ignore[operator]
    settings = {"occlusion": {"window": 10**6}}
    with pytest.raises(TimmscopeError, match=r"occlusion\.window"):
        actions.explain(service, ask_for(about(), "occlusion", settings))
    with pytest.raises(TimmscopeError, match="Press Explain first"):
        actions.save(service, SaveRequest(None, "png"))
    assert actions.explain(service, ask_for(about(), "gradcam")).panels[0]["map"]


def test_an_error_is_told_where_it_belongs_and_nowhere_else(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "text.jpg"
    bad.write_text("this is not a picture")
    for question, part, words in (
        (about(str(bad)), "picture", "text.jpg"),
        (about(model="resnt50"), "model", "resnt50"),
    ):
        with pytest.raises(UnusableError, match=words) as caught:
            actions.explain(service, ask_for(question, "gradcam"))
        assert caught.value.part == part
        card = fault_card("No map", question, caught.value)
        assert (card["tone"], card["title"]) == ("", "")
        assert card["caption"] == POINTERS[caught.value.part]
        shown = actions.no_prediction(question, caught.value)
        assert shown.likely.notes == [card["caption"]]
        assert shown.likely.rows == []
        assert (words in shown.notes) == (part == "picture")

    def fail(*_: Any) -> None:
        raise ModelFailure("it broke")

    monkeypatch.setattr(Explainer, "predict", fail)
    with pytest.raises(UnusableError) as caught:
        actions.predict(service, about())
    shown = actions.no_prediction(about(), caught.value)
    assert shown.likely.notes == ["it broke"]
    assert shown.notes == ""
    assert "it broke" not in fault_card("No map", about(), caught.value)["caption"]


def test_a_class_that_does_not_exist_is_told_by_whoever_was_asked(service: Service) -> None:
    with pytest.raises(TimmscopeError, match="99999") as caught:
        actions.explain(service, ask_for(about(target=99999), "gradcam"))
    assert "99999" in fault_card("No map", about(target=99999), caught.value)["caption"]
    assert actions.predict(service, about(target=99999)).predicted == 282


def test_a_reason_that_several_share_is_told_once(service: Service) -> None:
    cams = ["gradcam", "layercam", "saliency"]
    found = actions.compare(service, compared(about(), cams, layer="classifier"))
    told = [panel for panel in found.panels if "classifier" in panel["caption"]]
    assert [panel["title"] for panel in told] == ["Grad-CAM, LayerCAM"]
    assert [row[4] for row in found.table[1:]] == ["no map: see its card"] * 2
    metrics = ["pointing_game", "energy_inside", "complexity"]
    request = MeasureRequest(about(), ["gradcam"], metrics, {}, None)
    (card,) = actions.measure(service, request).panels
    assert card["title"] == "Pointing game, Energy inside"
    assert card["caption"].startswith("needs to know where the evidence is")


def test_the_card_of_a_fault_says_what_to_do_first() -> None:
    error = TimmscopeError("Add a picture")
    assert fault_card("No map", about(None), error)["tone"] == ""
    assert fault_card("No map", about(), error)["tone"] == "error"


def test_only_names_of_models_are_taken_never_paths(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"architecture": "test_vit"}')
    monkeypatch.chdir(tmp_path)
    for name in (
        "vit",
        str(tmp_path),
        f"local-dir:{tmp_path}",
        "../secrets",
        "hf-hub:a/b/../../c",
        "",
    ):
        with pytest.raises(UnknownNameError):
            service.models.get(name)


# -- strangers ----------------------------------------------------------------------------------


@pytest.fixture
def own_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with a model that only this machine's owner may see, who is logged in, and an open one.

    Both bring a head of seven classes.
    """
    model = timm.create_model("test_resnet", num_classes=7)
    cfg = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "classifier": "fc"}
    told = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": cfg}
    files = {
        "config.json": json.dumps(told).encode(),
        "model.safetensors": safetensors.torch.save(model.state_dict()),
    }
    hub.add("owner/private", files, token="hf_secret")
    hub.add("owner/open", files)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return hub


def test_the_owners_models_are_the_owners(own_hub: Hub) -> None:
    found = Service().models.get("hf-hub:owner/private")
    assert found.model.outputs == 7
    assert set(own_hub.tokens) == {"Bearer hf_secret"}


@pytest.mark.parametrize("downloaded", [False, True])
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_strangers_do_not_get_at_the_owners_models(
    own_hub: Hub, weights: str, downloaded: bool
) -> None:
    if downloaded:
        Service().models.get("hf-hub:owner/private")
        own_hub.tokens.clear()
    public = Service(public=True)
    with pytest.raises(ModelError, match="no model 'owner/private', or it is private"):
        public.models.get("hf-hub:owner/private", weights)
    assert public.models.get("hf-hub:owner/open", weights).model.outputs == 7
    assert set(own_hub.tokens) == {None}


# -- pictures kept decoded ----------------------------------------------------------------------


def saved(path: Path, colour: str, when: int) -> str:
    """A picture of one colour in a file that says when it was written, in seconds."""
    Image.new("RGB", (40, 30), colour).save(path)
    os.utime(path, (when, when))
    return str(path)


def test_a_picture_is_decoded_once(service: Service, tmp_path: Path) -> None:
    path, explainer = saved(tmp_path / "a.png", "red", 1), service.models.get(LITE0)
    assert service.batches.get(explainer, path) is service.batches.get(explainer, path)


def test_a_file_that_has_changed_under_its_name_is_decoded_again(
    service: Service, tmp_path: Path
) -> None:
    explainer = service.models.get(LITE0)
    first = service.batches.get(explainer, saved(tmp_path / "a.png", "red", 1))
    second = service.batches.get(explainer, saved(tmp_path / "a.png", "blue", 2))
    assert second.digest != first.digest
    assert second.pictures[0].image.getpixel((0, 0)) == (0, 0, 255)


def test_pictures_and_models_are_not_mixed_up(service: Service, tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{colour}.png", colour, 1) for colour in ("red", "blue")]
    askers = [service.models.get(*model) for model in ((LITE0,), ("test_vit", "random"))]
    found = [service.batches.get(asker, path) for asker in askers for path in paths]
    fresh = [Explainer(asker.model).prepare(path) for asker in askers for path in paths]
    for batch, expected in zip(found, fresh, strict=True):
        assert batch.digest == expected.digest
        assert torch.equal(batch.x, expected.x)


def test_pretrained_and_random_weights_are_two_models(service: Service) -> None:
    own, random = (service.models.get(LITE0, weights) for weights in ("pretrained", "random"))
    assert own.model.fingerprint() != random.model.fingerprint()
    assert service.models.get(LITE0) is own


def test_cancelling_stops_the_work_and_the_next_starts_afresh(service: Service) -> None:
    tick = service.tasks.begin(
        "someone/explain", lambda *_: service.tasks.cancel("someone/explain")
    )
    with pytest.raises(CancelledError):
        actions.explain(service, ask_for(about(), "occlusion", {"occlusion": {"window": 90}}), tick)
    heard: list[float] = []
    tick = service.tasks.begin("someone/explain", lambda done, _: heard.append(done))
    settings = {"occlusion": {"window": 90, "stride": 90}}
    assert actions.explain(service, ask_for(about(), "occlusion", settings), tick).panels[0]["map"]
    assert heard == sorted(heard)
    assert heard[-1] == 1


def test_a_new_request_of_a_session_stops_the_one_it_replaces(service: Service) -> None:
    old = service.tasks.begin("someone/explain", lambda *_: None)
    service.tasks.begin("someone/explain", lambda *_: None)
    with pytest.raises(CancelledError):
        old(1, 10)
    service.tasks.begin("other/explain", lambda *_: None)(1, 10)


def test_every_parameter_has_a_widget_that_starts_at_its_default() -> None:
    for registry in (METHODS, METRICS):
        for cls in registry.values():
            for schema in cls.schema_of_fields().values():
                widget = widget_for(schema, schema["default"])
                assert widget.label == schema["title"]
                expected = schema["default"]
                assert widget.value == (list(expected) if isinstance(expected, tuple) else expected)


def test_parameters_of_others_are_left_out() -> None:
    kept = {
        "occlusion": {"window": 8, "nonsense": 1},
        "gradcam": {"relu": False},
    }
    assert params_of(kept, "occlusion", METHODS["occlusion"]) == {"window": 8}
    assert params_of(None, "occlusion", METHODS["occlusion"]) == {}


def test_saved_files_go_with_the_service_and_the_oldest_before() -> None:
    short = Service()
    folders = [short.files.new_folder() for _ in range(60)]
    assert sum(folder.exists() for folder in folders) == 50
    assert not folders[0].exists()
    home = folders[-1].parent
    del short
    gc.collect()
    assert not home.exists()


def test_methods_are_offered_family_by_family_and_those_that_do_not_suit_last(
    service: Service,
) -> None:
    offered = actions.method_choices()
    families = [METHODS[key].family for _, key in offered]
    assert sorted(key for _, key in offered) == sorted(METHODS)
    assert list(dict.fromkeys(families)) == [f for f in Family if f in families]
    assert families == sorted(families, key=list(Family).index)
    labels = [label for label, _ in offered]
    assert len(set(labels)) == len(labels)
    for_lite0 = actions.describe_model(service, OffersRequest(LITE0, "pretrained")).methods
    unsuited = ["not for this model" in label for label, _ in for_lite0]
    assert unsuited == sorted(unsuited)
    assert any(unsuited)


def test_the_estimate_follows_the_settings_and_the_model(service: Service) -> None:
    def estimate(key: str, model: str = LITE0, **params: Any) -> str:
        request = EstimateRequest(model, "pretrained", key, None, {key: params})
        return actions.estimate(service, request)

    service.models.get(LITE0)
    assert estimate("gradcam") == "Instant (1 forward, 1 backward pass)"
    assert re.fullmatch(
        r"Seconds \(\d+ forward, 7 backward passes\)", estimate("integrated_gradients", steps=7)
    )
    assert estimate("rise", masks=4000).startswith("Minutes (4,0")
    assert estimate("occlusion", window=224, stride=224) != estimate("occlusion", window=32)
    assert estimate("attention") == ""
    assert estimate("gradcam", model="resnet18") == "", "it does not wait for a model"
    with pytest.raises(TimmscopeError):
        estimate("occlusion", window=0)


def with_extras(**extras: Any) -> Attribution:
    return Attribution(
        torch.ones(1, 224, 224),
        torch.ones(1),
        "lime",
        {},
        extras={name: torch.as_tensor(value)[None] for name, value in extras.items()},
    )


def test_facts_are_told_in_their_own_units_and_segments_are_none() -> None:
    found = with_extras(
        completeness_error=0.123,
        r2=0.5,
        standard_error=torch.full((224, 224), 0.01234),
        converged=True,
        segments=torch.zeros(224, 224),
    )
    error = "standard error 1.2% of the largest value, on average"
    assert extras_text(found) == f"completeness error 12.3%; R² 0.50; {error}; converged: yes"
    assert summary(found).endswith(f"R² 0.50; {error}; converged: yes.")
    misses = "The map misses the score by 20.0%"
    assert summary(with_extras(efficiency_error=0.2)).startswith(misses)
    accounts = "The map accounts for the score to within 1.0%."
    assert summary(with_extras(efficiency_error=0.01)) == accounts
    assert extras_text(with_extras(tail_rows=4.0)) == "", "nothing to a reader"


KNOBS = ("steps", "samples", "evaluations", "tolerance", "epsilon", "masks", "baseline")
"""Words of an advice that are parameters of some methods."""


@pytest.mark.parametrize("key", METHODS)
def test_advice_names_only_what_the_method_has(key: str) -> None:
    advice = METHODS.make(key).advice()
    for knob in KNOBS:
        assert knob not in advice or knob in METHODS[key].model_fields, advice
    missing = {"completeness_error": torch.tensor([0.3])}
    found = dataclasses.replace(with_extras(), method=key, extras=missing)
    assert summary(found) == f"The map misses the score by 30.0%; {advice}."


def test_what_can_be_done_about_a_sum_depends_on_the_parameters() -> None:
    assert METHODS.make("integrated_gradients").advice() == "take more steps"
    adaptive = METHODS.make("integrated_gradients", {"tolerance": 0.02})
    assert adaptive.advice() == "lower the tolerance, or allow more steps"
    assert "order" in METHODS.make("lrp").advice()
    assert "order" in METHODS.make("idgi").advice(), "its sum is exact whatever the steps"


def test_a_sum_that_should_be_nothing_is_no_claim_about_a_baseline() -> None:
    told = summary(with_extras(completeness_error=torch.nan))
    assert "cannot be told" in told
    assert "baseline" not in told


def test_lrp_that_misses_everything_is_not_told_to_take_steps(service: Service) -> None:
    request = ask_for(about(), "lrp")
    told = actions.explain(service, request).summary
    assert told.startswith("The map misses the score by 100.0%; what biases and epsilon absorb")
    shown = actions.assess(service, VerdictRequest(request)).panels
    (card,) = (one for one in shown if one["title"] == METRICS["completeness_error"].about)
    assert "trust only the order" in card["caption"]
    assert "steps" not in card["caption"] + shown[0]["caption"]


def test_only_values_that_add_up_have_the_scores_unit(service: Service) -> None:
    settings = {"integrated_gradients": {"steps": 2}}
    for method, unit in (("integrated_gradients", "logit"), ("gradcam", "")):
        (panel,) = actions.explain(service, ask_for(about(), method, settings)).panels
        low, middle, high = panel["figure"]["data"][0]["colorbar"]["ticktext"]
        assert middle.partition(" ")[2] == unit
        assert " " not in low + high


def test_regions_are_summed_up_in_words() -> None:
    parts = torch.arange(4).repeat_interleave(224 * 56).view(224, 224)
    values = torch.tensor([2.0, 0.5, 0.0, -1.0])[parts][None]
    lime = dataclasses.replace(with_extras(segments=parts, r2=0.5), values=values)
    told = "2 of 4 regions support the class (strongest: 2); 1 opposes it (strongest: 1)."
    assert summary(lime) == f"{told} R² 0.50."
    shap = dataclasses.replace(with_extras(segments=parts, efficiency_error=0.0), values=values)
    assert "strongest: 2.51e+04" in summary(shap), "its pixels add up"


def test_segments_are_drawn_and_saved(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = torch.zeros(224, 224, dtype=torch.int64)
    halves[:, 112:] = 1
    explainer = service.models.get(LITE0)
    found = explainer.explain(CAT, "random")
    answer = dataclasses.replace(found, extras={"segments": halves[None]})
    monkeypatch.setattr(Explainer, "explain", lambda *_, **__: answer)
    (panel,) = actions.explain(service, ask_for(about(), "random")).panels
    shapes = panel["figure"]["layout"]["shapes"]
    assert [shape["type"] for shape in shapes] == ["path", "path", "path", "rect", "rect"]
    path = actions.save(service, SaveRequest(ask_for(about(), "random"), "npz"))
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["segments"], halves)


def test_kernel_shap_shows_its_parts_and_how_sure_it_is(service: Service) -> None:
    few = {"kernel_shap": {"segments": 12, "evaluations": 40}}
    answer = actions.explain(service, ask_for(about(), "kernel_shap", few))
    (panel,) = answer.panels
    shapes = [shape["type"] for shape in panel["figure"]["layout"]["shapes"]]
    assert shapes[:2] == ["path", "path"], "the parts' outlines"
    assert "regions" in answer.summary
    assert "% of the largest value" in answer.summary


# -- models without classes ---------------------------------------------------------------------


@pytest.fixture
def featureless(monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose every model gives features instead of classes."""
    model = timm.create_model("test_resnet", num_classes=0)
    monkeypatch.setattr("dashboard.state.models.load_model", lambda *_, **__: load_model(model))
    return Service()


def test_a_model_without_classes_shows_its_strongest_features(featureless: Service) -> None:
    asked = about(model="test_resnet", weights="random")
    seen = actions.predict(featureless, asked)
    assert seen.likely.title == "Strongest features"
    assert seen.classes[0][0].startswith(f"feature {seen.predicted} · ")
    assert not any("%" in row.text for row in seen.likely.rows)
    bars = [row.share for row in seen.likely.rows]
    assert bars[0] == 1
    assert bars == sorted(bars, reverse=True)
    (explained,) = actions.explain(featureless, ask_for(asked, "gradcam")).panels
    assert explained["title"] == f"Why feature {seen.predicted}?"
    with pytest.raises(TimmscopeError, match="without a probability; set Score to Logit"):
        actions.explain(featureless, ask_for(replace(asked, unit="probability"), "gradcam"))


# -- painting ------------------------------------------------------------------------------------

SLOW = {"rise": {"masks": 200}}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial maps come as often as they can."""
    monkeypatch.setattr(painting, "SECONDS_BEFORE", 0)
    monkeypatch.setattr(painting, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(painting, "LARGEST_SHARE", 1)


@pytest.mark.usefixtures("often")
def test_a_slow_method_shows_partial_maps_and_then_the_same_map() -> None:
    *partial, last = actions.paint(Service(), ask_for(about(), "rise", SLOW))
    assert partial
    assert all(one.answers.painting and "masks" in one.answers.partial for one in partial)
    assert "of 200 masks" in partial[0].panels[0]["caption"]
    assert (last.answers.painting, last.answers.partial) == (False, "")
    assert (last.request.method, last.request.stop_after) == ("rise", None)
    assert last.request.question.target == 282, "the predicted class is asked from now on"
    alone = actions.explain(Service(), ask_for(about(), "rise", SLOW))
    assert alone.panels[0]["map"] == last.panels[0]["map"]


@pytest.mark.usefixtures("often")
def test_a_map_that_is_good_enough_is_kept_as_what_it_is(tmp_path: Path) -> None:
    service = Service()
    task = service.tasks.begin("someone/explain", lambda *_: None)
    results = []
    for result in actions.paint(service, ask_for(about(), "rise", SLOW), task):
        results.append(result)
        service.tasks.enough("someone/explain")
    kept = results[-1]
    taken = kept.request.stop_after
    assert taken is not None
    assert taken < 200
    assert kept.answers.partial.startswith(f"{taken} of 200 masks, standard error")
    assert not kept.answers.painting
    assert f"stop_after={taken}" in kept.code
    path = Path(actions.save(service, SaveRequest(kept.request, "json")))
    report = json.loads(path.read_text())
    assert report["partial"] == {"done": taken, "of": 200, "unit": "masks"}
    assert report["cost"]["forward"] <= taken + 1
    whole = actions.explain(service, ask_for(about(), "rise", SLOW))
    assert (whole.request.stop_after, whole.answers.partial) == (None, "")


@pytest.mark.usefixtures("often")
def test_work_stops_once_nobody_takes_what_it_paints() -> None:
    service, rows = Service(), []
    request = ask_for(about(), "rise", {"rise": {"masks": 4000}})
    results = actions.paint(service, request, lambda done, expected: rows.append(done))
    next(results)
    results.close()  # type: ignore[attr-defined]
    with service.slow.slot(), service.slow.slot():  # both places are free again
        assert rows[-1] < 4000


def test_only_who_was_asked_before_is_told_that_it_is_enough() -> None:
    tasks = Tasks()
    task = tasks.begin("someone/explain", lambda *_: None, asked_at=5.0)
    tasks.enough("someone/explain", before=4.0)
    tasks.enough("other/explain", before=6.0)
    assert not task.enough
    tasks.enough("someone/explain", before=6.0)
    assert task.enough
    assert not tasks.begin("someone/explain", lambda *_: None, asked_at=7.0).enough


# -- which question a result answers ------------------------------------------------------------


def test_results_say_which_question_they_answer(service: Service) -> None:
    found = actions.explain(service, ask_for(about(), "gradcam")).answers
    assert (found.label, found.settings) == ("Grad-CAM, tiger cat", ["gradcam"])
    assert found.same == {
        "target": [None, "", 282], "versus": [None, "", NO_CLASS], "layer": [None, "", "bn2"],
    }  # fmt: skip
    other = actions.explain(service, ask_for(about(target=285), "gradcam")).answers
    assert other.label == "Grad-CAM, Egyptian cat"
    assert other.same["target"] == [None, "", 282], "no class means the predicted one"


def test_results_of_several_methods_answer_for_all_their_settings(service: Service) -> None:
    several = ["gradcam", "lime(samples=20)"]
    found = actions.compare(service, compared(about(), several)).answers
    assert (found.label, found.settings) == ("2 methods, tiger cat", ["gradcam", "lime"])
    assert actions.compare(service, compared(about(), [])).answers.label == ""
    request = MeasureRequest(about(), ["gradcam"], ["deletion"], {"deletion": {"steps": 2}}, None)
    assert actions.measure(service, request).answers.settings == ["gradcam", "deletion"]


def test_features_answer_for_every_class(service: Service) -> None:
    found = actions.features(service, FeatureRequest(about(), None, "activation", 4)).answers
    assert found.label == "channels of bn2"
    assert {found.same[name] for name in ("target", "versus", "unit", "against")} == {"any"}


# -- work that is replaced ----------------------------------------------------------------------


def still_wanted(task: Any) -> bool:
    try:
        task(0, 0)
    except CancelledError:
        return False
    return True


def test_only_what_was_asked_for_before_is_cancelled() -> None:
    tasks = Tasks()
    old = tasks.begin("someone/explain", lambda *_: None, asked_at=10)
    tasks.cancel("someone/explain", before=10)
    assert still_wanted(old)
    tasks.cancel("someone/explain", before=11)
    assert not still_wanted(old)
    assert still_wanted(tasks.begin("someone/explain", lambda *_: None, asked_at=12))


def test_a_cancellation_that_overtakes_its_task_still_cancels_it() -> None:
    tasks = Tasks()
    tasks.cancel("someone/explain", before=11)
    assert not still_wanted(tasks.begin("someone/explain", lambda *_: None, asked_at=10))
    assert still_wanted(tasks.begin("someone/explain", lambda *_: None, asked_at=12))


def test_a_question_that_is_overtaken_by_a_later_one_does_not_stop_it() -> None:
    tasks = Tasks()
    later = tasks.begin("someone/explain", lambda *_: None, asked_at=12)
    assert not still_wanted(tasks.begin("someone/explain", lambda *_: None, asked_at=10))
    assert still_wanted(later)


def test_work_of_a_page_that_was_closed_stops() -> None:
    tasks = Tasks()
    names = ("someone/explain", "someone/measure", "other/explain")
    running = [tasks.begin(name, lambda *_: None) for name in names]
    tasks.cancel_all("someone")
    assert [still_wanted(one) for one in running] == [False, False, True]


def test_another_picture_stops_all_but_the_loading_of_a_model() -> None:
    tasks = Tasks()
    names = ("someone/explain", "someone/model")
    explain, model = (tasks.begin(name, lambda *_: None, asked_at=10) for name in names)
    tasks.cancel_all("someone", before=10, keep=["model"])
    assert still_wanted(explain)
    tasks.cancel_all("someone", before=11, keep=["model"])
    assert (still_wanted(explain), still_wanted(model)) == (False, True)
    assert not still_wanted(tasks.begin("someone/measure", lambda *_: None, asked_at=10.5))
    assert still_wanted(tasks.begin("someone/measure", lambda *_: None, asked_at=12))


# -- progress -----------------------------------------------------------------------------------


def test_progress_says_the_time_left_once_it_can_be_told() -> None:
    now, told = [0.0], list[str]()
    tick = Tasks(lambda: now[0]).begin("someone/explain", lambda _, text: told.append(text))
    first = ((50.0, 0), (51.0, 500), (60.0, 1000), (100.0, 2000), (150.0, 4000))
    another = ((151.0, 10), (153.0, 20))
    for seconds, done in first + another:
        now[0] = seconds
        tick(done, 4000)
    tick(1, 2)
    tick(0, 1)
    tick(0, 0)
    assert told == [
        "0 of 4,000 passes",
        "500 of 4,000 passes",
        "1,000 of 4,000 passes, about 30 s left",
        "2,000 of 4,000 passes, about 50 s left",
        "4,000 of 4,000 passes",
        "10 of 4,000 passes",
        "20 of 4,000 passes, about 13 min left",
        "Waiting for a turn",
    ]


def test_actions_and_their_state_load_no_widgets() -> None:
    program = "import sys, dashboard.actions; sys.exit('gradio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=300)
    assert done.returncode == 0


# -- waiting for others -------------------------------------------------------------------------


@pytest.fixture
def slow_loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Models named "test_vit" load once the event is set."""
    release = threading.Event()

    def load(name: str, **options: Any) -> ModelHandle:
        if name == "test_vit":
            assert release.wait(30)
        return load_model(name, **options)

    monkeypatch.setattr("dashboard.state.models.load_model", load)
    yield release
    release.set()


def test_who_waits_for_a_model_can_leave_and_others_do_not_wait(
    slow_loading: threading.Event,
) -> None:
    service = Service()
    tick = service.tasks.begin("someone/model", lambda *_: None)
    threading.Timer(0.2, service.tasks.cancel, ["someone/model"]).start()
    with pytest.raises(CancelledError):
        actions.describe_model(service, OffersRequest("test_vit", "random"), tick)
    assert not service.models.is_ready("test_vit", "random")
    assert service.models.get("test_resnet", "random").model.name == "test_resnet"
    slow_loading.set()
    assert service.models.get("test_vit", "random").model.name == "test_vit"
    assert service.models.is_ready("test_vit", "random")


def test_who_asks_for_a_model_that_is_loading_gets_the_same(slow_loading: threading.Event) -> None:
    service = Service()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(service.models.get, "test_vit", "random") for _ in range(4)]
        slow_loading.set()
        assert len({id(one.result()) for one in asked}) == 1


def test_who_waits_for_anothers_explanation_can_be_cancelled() -> None:
    service = Service()
    began, release = threading.Event(), threading.Event()
    settings = {"occlusion": {"window": 90, "stride": 90}}

    def first(done: int, expected: int) -> None:
        began.set()
        assert release.wait(30)

    def explain(on_progress: OnProgress) -> actions.ExplainResult:
        return actions.explain(service, ask_for(about(), "occlusion", settings), on_progress)

    service.models.get(LITE0).predict(CAT)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(explain, first)
        assert began.wait(30)
        second = service.tasks.begin("second/explain", lambda *_: None)
        threading.Timer(0.2, service.tasks.cancel, ["second/explain"]).start()
        with pytest.raises(CancelledError):
            explain(second)
        release.set()
        assert slow.result().panels[0]["map"]


# -- outputs other than classes -------------------------------------------------------------------


def test_numbers_have_their_unit_and_no_scale(service: Service) -> None:
    asked = about(activation="identity", measured_in=" mm ", target=281)
    shown = actions.predict(service, asked)
    assert all(row.text.endswith(" mm") and row.share is None for row in shown.likely.rows)
    found = actions.explain(service, ask_for(asked, "gradcam"))
    assert "unit='mm'" in found.code
    assert re.match(r"[\d.]+ mm · layer", found.panels[0]["caption"])
    assert "robabilit" not in found.summary + repr(found.panels)


def test_a_unit_means_nothing_to_classes(service: Service) -> None:
    plain, with_unit = (service.models.of(about(measured_in=unit)) for unit in ("", "mm"))
    assert plain is with_unit
    tags = service.models.of(about(activation="sigmoid", measured_in="mm"))
    assert tags.model.task.activation.unit == "logit"


def test_a_model_is_read_once_for_each_unit(service: Service) -> None:
    one, other = (about(activation="identity", measured_in=unit) for unit in ("mm", "kg"))
    assert service.models.of(one) is service.models.of(one) is not service.models.of(other)


# -- every method -------------------------------------------------------------------------------


def test_every_method_stands_in_its_family_or_is_refused_with_a_reason() -> None:
    service, request = Service(), actions.ModelRequest(LITE0, "pretrained")
    guide = actions.method_guide(service, request)
    cards = [card for group in guide.groups for card in group.methods]
    assert {card.key for card in [*cards, *guide.refused]} == set(METHODS)
    assert all(card.cost and not card.reason and card.seconds is None for card in cards)
    assert "attention" in {card.key for card in guide.refused}
    assert all(card.reason for card in guide.refused)
    for group in guide.groups:
        assert {METHODS[card.key].family.label for card in group.methods} == {group.name}
    found = actions.explain(service, ask_for(about(), "gradcam"))
    assert found.request.method == "gradcam"
    again = actions.method_guide(service, request)
    took = {card.key: card.seconds for group in again.groups for card in group.methods}
    assert took["gradcam"] is not None
    assert took["gradcam"] > 0
    assert took["layercam"] is None
    actions.explain(service, ask_for(about(), "rise", {"rise": {"masks": 16}}))
    (time,) = (
        card.seconds
        for group in actions.method_guide(service, request).groups
        for card in group.methods
        if card.key == "rise"
    )
    assert time is None, "another number of masks takes another time than the estimate"


def test_a_picture_is_cut_into_parts_that_look_alike(service: Service) -> None:
    found = actions.picture_parts(service, about(str(SAMPLES / "coffee.jpg")))
    labels = np.frombuffer(base64.b64decode(found.labels), np.uint8)
    assert (max(found.width, found.height), found.words) == (256, "")
    labels = labels.reshape(found.height, found.width)
    assert 30 <= len(np.unique(labels)) <= 90
    with Image.open(SAMPLES / "coffee.jpg") as file:
        small = np.asarray(file.convert("L").resize((found.width, found.height)), float)
    within = sum(small[labels == one].var() * (labels == one).sum() for one in np.unique(labels))
    assert within < 0.35 * small.var() * small.size, "pixels of a part look alike"


def test_small_maps_are_those_of_each_class_whichever_is_chosen(service: Service) -> None:
    found = actions.class_maps(service, ask_for(about(target=285, versus=281), "layercam"))
    assert found.classes == [row.index for row in actions.predict(service, about()).likely.rows]
    assert found.note == "Small maps: LayerCAM. Each has its own colour range."
    assert found.panels[0]["title"] == "tiger cat"
    for index, small in zip(found.classes, found.panels, strict=True):
        (alone,) = actions.explain(service, ask_for(about(target=index), "layercam")).panels
        trace, whole = small["figure"]["data"][0], alone["figure"]["data"][0]
        assert (trace["zmin"], trace["zmax"]) == (whole["zmin"], whole["zmax"])
        assert max(trace["z"]["shape"]) <= 56
        fine, coarse = unpack(whole["z"]), unpack(trace["z"])
        averaged = fine.reshape(56, 4, 56, 4).mean((1, 3))
        assert np.abs(averaged - coarse).max() < 1e-3 * whole["zmax"]
    assert len({panel["figure"]["layout"]["images"][0]["source"] for panel in found.panels}) == 1


def test_small_maps_take_one_forward_row(monkeypatch: pytest.MonkeyPatch) -> None:
    service, seen = Service(), []
    explain_classes = Explainer.explain_classes

    def noted(*args: Any, **options: Any) -> Any:
        seen.append(found := explain_classes(*args, **options))
        return found

    monkeypatch.setattr(Explainer, "explain_classes", noted)
    actions.class_maps(service, ask_for(about(), "gradcam"))
    (found,) = seen
    costs = [(one.cost.forward, one.cost.backward) for one in found.values()]
    assert costs == [(1, 1)] + [(0, 1)] * 4


@pytest.mark.parametrize(
    ("question", "method", "note"),
    [
        (about(), "rise", "Small maps: Grad-CAM, because RISE takes longer. Each"),
        (
            about(),
            "attention_rollout",
            "Small maps: Grad-CAM, because Attention rollout cannot explain this model. Each",
        ),
        (about(), "eigencam", "Small maps: Eigen-CAM, the same for every class"),
        (about(unit="probability"), "saliency", "Small maps: Saliency. Each"),
    ],
)
def test_small_maps_say_how_they_were_made(
    service: Service, question: Question, method: str, note: str
) -> None:
    found = actions.class_maps(service, ask_for(question, method))
    assert found.note.startswith(note)
    assert len(found.panels) == 5
    assert found.answers.same["target"] == "any"
