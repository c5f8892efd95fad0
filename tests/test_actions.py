"""What the page can do, called without a browser."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import app
from core import METHODS, METRICS, Attribution, Explainer, ModelHandle, load_model
from core.errors import CancelledError, ModelError, UnknownNameError
from core.inputs.batch import OnProgress
from core.methods.base import Family
from core.views.colour import lut
from dashboard import actions
from dashboard.actions.explain import summary
from dashboard.actions.formatting import facts
from dashboard.controls import control, params_of
from dashboard.handlers import working
from dashboard.state import NOTHING, Question, Service
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
        "versus": NOTHING,
        "unit": "logit",
    }
    return Question(picture, **{**asked, **changes})


CONTRAST = about(target=285, versus=281)
"""One cat rather than another: a Grad-CAM without its ReLU has both signs."""


def vit(**changes: Any) -> Question:
    return about(**{"model": "test_vit", "weights": "random", **changes})


def test_the_prediction_comes_with_every_class_to_choose_from(service: Service) -> None:
    seen = actions.predict(service, about())
    assert seen.predicted == 282
    assert seen.classes[0][0].startswith("tiger cat")
    assert len({index for _, index in seen.classes}) == 1000
    assert seen.panels[0]["title"] == "Prediction"


def test_an_explanation_says_what_it_took_and_where_it_looked(service: Service) -> None:
    found = actions.explain(service, about(), "gradcam", {}, None)
    (panel,) = found.panels
    assert panel["map"]
    assert "tiger cat" in panel["title"]
    assert "layer bn2" in panel["caption"]
    assert "1 forward, 1 backward" in panel["caption"]
    assert "outline" in panel["caption"]


def test_the_recipe_gives_the_same_map(service: Service, tmp_path: Path) -> None:
    asked = about(target=285, versus=281, unit="probability")
    found = actions.explain(service, asked, "layercam", {"layercam": {"relu": False}}, "blocks.4")
    code = found.code_snippet.replace("picture.jpg", CAT)
    scope: dict[str, Any] = {}
    exec(code, scope)
    path = actions.download(
        service,
        asked,
        "layercam",
        {"layercam": {"relu": False}},
        "blocks.4",
        "npz",
        "auto",
        1,
        False,
    )
    with np.load(path) as saved:
        np.testing.assert_allclose(saved["native"], scope["answer"].values[0], atol=1e-6)


def test_completeness_is_said_in_words(service: Service) -> None:
    settings = {"integrated_gradients": {"steps": 2}}
    found = actions.explain(service, about(), "integrated_gradients", settings, None)
    assert "Completeness error" in found.summary
    assert "does not add up" in found.summary


def test_a_layer_of_another_kind_gives_way_to_the_methods_own(service: Service) -> None:
    found = actions.explain(service, vit(), "attention", {}, "blocks.2")
    assert "blocks.5.attn" in found.panels[0]["caption"]


@pytest.mark.parametrize("kind", ["png", "npz", "json"])
def test_downloads(service: Service, kind: str) -> None:
    path = Path(actions.download(service, about(), "gradcam", {}, None, kind, "viridis", 0.5, True))
    if kind == "png":
        with Image.open(path) as saved, Image.open(CAT) as original:
            assert saved.size == original.size
    elif kind == "npz":
        with np.load(path) as arrays:
            assert arrays["values"].shape == (224, 224)
            assert arrays["values"].dtype == np.float32
            assert arrays["native"].shape == (7, 7)
    else:
        facts = json.loads(path.read_text())
        assert facts["model"] == LITE0
        assert facts["target"] == "tiger cat"
        assert facts["params"] == {"relu": True}
        assert facts["layer"] == "bn2"
        assert "Explainer" in facts["python"]


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize(("colormap", "alpha"), [("viridis", 0.25), ("gray", 1.0), ("auto", 0.6)])
@pytest.mark.parametrize("relu", [False, True])
def test_a_saved_picture_has_the_colours_opacity_and_fading_chosen(
    service: Service, colormap: str, alpha: float, fade: bool, relu: bool
) -> None:
    asked = service, CONTRAST, "gradcam", {"gradcam": {"relu": relu}}, None
    with Image.open(actions.download(*asked, "png", colormap, alpha, fade)) as saved:
        found = np.asarray(saved).astype(float)
    with np.load(actions.download(*asked, "npz", "", 0, False)) as arrays:
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
    found = actions.compare(service, about(), ["gradcam", "attention"], {}, None, False)
    assert [panel["tone"] for panel in found.panels] == ["", "error"]
    assert "softmax attention" in found.panels[1]["caption"]
    assert [row[0] for row in found.table] == ["Grad-CAM", "Attention"]


def test_agreement_stands_below_the_maps(service: Service) -> None:
    found = actions.compare(service, about(), ["gradcam", "hirescam", "sobel"], {}, None, False)
    *maps, where, ranks, structure, tops = found.panels
    assert len(maps) == 3
    assert where["map"]
    assert where["title"] == "Where they disagree"
    for panel in (ranks, structure, tops):
        (trace,) = panel["figure"]["data"]
        assert not panel["map"]
        assert [row[i] for i, row in enumerate(trace["z"])] == [1, 1, 1]
        assert trace["z"][0][1] > trace["z"][0][2], "Grad-CAM is more like HiResCAM than edges"
        assert panel["figure"]["layout"]["xaxis"]["ticktext"][2] == "Edges (control)"


def test_a_shared_range_is_the_same_for_all(service: Service) -> None:
    def ranges(shared: bool) -> list[tuple[float, float]]:
        found = actions.compare(service, about(), ["gradcam", "sobel"], {}, None, shared)
        traces = [panel["figure"]["data"][0] for panel in found.panels[:2]]
        return [(trace["zmin"], trace["zmax"]) for trace in traces]

    own, shared = ranges(False), ranges(True)
    assert own[0] != own[1]
    assert shared[0] == shared[1]
    assert shared[0][1] == max(hi for _, hi in own)


@pytest.mark.parametrize(("other", "signed"), [("sobel", False), ("xgradcam", True)])
def test_a_range_shared_with_a_signed_map_is_symmetric_about_zero(
    service: Service, other: str, signed: bool
) -> None:
    methods = ["gradcam", other]
    settings = {key: {"relu": False} for key in methods if key != "sobel"}
    found = actions.compare(service, CONTRAST, methods, settings, None, True)
    drawn = [panel["figure"]["data"][0] for panel in found.panels[:2]]
    ranges = {(trace["zmin"], trace["zmax"]) for trace in drawn}
    ((low, high),) = ranges
    assert low == -high < 0
    assert all(panel["signed"] for panel in found.panels[:2])
    alone = actions.compare(service, CONTRAST, methods, settings, None, False).panels[:2]
    assert high == max(panel["figure"]["data"][0]["zmax"] for panel in alone)
    assert alone[0]["signed"]
    assert alone[1]["signed"] == signed
    colours = {json.dumps(trace["colorscale"]) for trace in drawn}
    assert len(colours) == 1, "one colour means one value in all of them"


def test_feature_maps_and_their_statistics(service: Service) -> None:
    found = actions.features(service, about(), "blocks.4", 8, "variance")
    assert len(found.panels) == 8
    assert "blocks.4" in found.summary
    assert "112 channels of 14 x 14" in found.summary
    strongest = actions.features(service, about(), "blocks.4", 8, "activation")
    titles = [[panel["title"] for panel in shown.panels] for shown in (found, strongest)]
    explainer = service.explainer(LITE0)
    for by, shown in zip(("variance", "activation"), titles, strict=True):
        channels = explainer.features(CAT, layer="blocks.4", top=8, by=by).channels
        assert shown == [f"channel {int(channel)}" for channel in channels]
    assert titles[0] != titles[1]


def test_attention_heads_or_the_reason_why_there_are_none(service: Service) -> None:
    assert len(actions.attention(service, vit(), None, "auto").panels) == 2
    refused = actions.attention(service, about(), None, "auto").panels
    assert refused[0]["tone"] == "error"
    assert "softmax attention" in refused[0]["caption"]
    unknown = actions.attention(service, vit(), None, "100").panels
    assert "no patch '100'" in unknown[0]["caption"]


def test_scores_stand_beside_the_controls(service: Service) -> None:
    settings = {key: {"steps": 3} for key in ("deletion", "insertion")}
    metrics = ["deletion", "insertion", "complexity", "completeness_error"]
    found = actions.measure(service, about(), ["gradcam"], metrics, settings, None)
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
    shown = actions.assess(service, about(), "gradcam", {}, None)
    assert shown[0]["title"].startswith("Verdict: ")
    assert {card["tone"] for card in shown[1:]} <= {"good", "doubtful", "bad", "unasked"}
    assert any("Symmetric relevance gain" in card["caption"] for card in shown)
    (told,) = actions.assess(service, about(), "sobel", {}, None)
    assert "knows nothing of the model" in told["caption"]
    (told,) = actions.assess(service, about(), "attention", {}, None)
    assert "softmax attention" in told["caption"]


def test_the_model_says_which_methods_it_cannot_run_and_why(service: Service) -> None:
    facts = actions.describe_model(service, LITE0, "pretrained")
    labels = {key: label for label, key in facts.methods}
    assert labels["attention"] == "Attention · not for this model"
    assert labels["gradcam"] == "CAM · Grad-CAM"
    assert facts.default_layer == "bn2"
    sentence = actions.describe_method(service, LITE0, "pretrained", "attention").about
    assert "no softmax attention" in sentence
    assert (
        actions.describe_method(service, "test_vit", "random", "attention").layer == "blocks.5.attn"
    )


def test_what_goes_wrong_is_a_card_and_nothing_is_lost(service: Service, tmp_path: Path) -> None:
    bad = tmp_path / "text.jpg"
    bad.write_text("this is not a picture")
    for question, word in (
        (about(str(bad)), "text.jpg"),
        (about(None), "no picture yet"),
        (about(model="resnt50"), "resnt50"),
        (about(target=99999), "99999"),
        (about(versus=99999), "99999"),
    ):
        for panel in (
            actions.explain(service, question, "gradcam", {}, None).panels[0],
            actions.compare(service, question, ["gradcam"], {}, None, False).panels[0],
            actions.features(service, question, None, 4, "activation").panels[0],
            actions.measure(service, question, ["gradcam"], ["deletion"], {}, None).panels[0],
        ):
            assert word in panel["caption"]
            assert not panel["map"]
    settings = {"occlusion": {"window": 10**6}}
    panel = actions.explain(service, about(), "occlusion", settings, None).panels[0]
    assert "occlusion.window" in panel["caption"]
    assert actions.explain(service, about(), "gradcam", {}, None).panels[0]["map"]


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
            service.explainer(name)


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
    found = Service().explainer("hf-hub:owner/private")
    assert found.model.outputs == 7
    assert set(own_hub.tokens) == {"Bearer hf_secret"}


@pytest.mark.parametrize("downloaded", [False, True])
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_strangers_do_not_get_at_the_owners_models(
    own_hub: Hub, weights: str, downloaded: bool
) -> None:
    if downloaded:
        Service().explainer("hf-hub:owner/private")
        own_hub.tokens.clear()
    public = Service(public=True)
    with pytest.raises(ModelError, match="no model 'owner/private', or it is private"):
        public.explainer("hf-hub:owner/private", weights)
    assert public.explainer("hf-hub:owner/open", weights).model.outputs == 7
    assert set(own_hub.tokens) == {None}


@pytest.mark.parametrize(
    ("arguments", "environment", "public"),
    [
        ([], None, False),
        (["--host", "127.0.0.1"], "0.0.0.0", False),
        (["--host", "localhost"], None, False),
        (["--host", "0.0.0.0"], None, True),
        (["--host", "192.168.0.2"], None, True),
        ([], "0.0.0.0", True),
    ],
)
def test_who_can_be_reached_from_elsewhere_is_public(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: str | None, public: bool
) -> None:
    built: list[Service] = []
    launched: list[str] = []

    def build(service: Service) -> SimpleNamespace:
        built.append(service)
        return SimpleNamespace(launch=lambda **how: launched.append(how["server_name"]))

    monkeypatch.setattr("app.build", build)
    monkeypatch.setattr("sys.argv", ["app.py", *arguments])
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    if environment is not None:
        monkeypatch.setenv("GRADIO_SERVER_NAME", environment)
    app.main()
    assert [service.public for service in built] == [public]
    assert (launched[0] not in ("127.0.0.1", "localhost")) == public


# -- pictures kept decoded ----------------------------------------------------------------------


def saved(path: Path, colour: str, when: int) -> str:
    """A picture of one colour in a file that says when it was written, in seconds."""
    Image.new("RGB", (40, 30), colour).save(path)
    os.utime(path, (when, when))
    return str(path)


def test_a_picture_is_decoded_once(service: Service, tmp_path: Path) -> None:
    path, explainer = saved(tmp_path / "a.png", "red", 1), service.explainer(LITE0)
    assert service.prepare(explainer, path) is service.prepare(explainer, path)


def test_a_file_that_has_changed_under_its_name_is_decoded_again(
    service: Service, tmp_path: Path
) -> None:
    explainer = service.explainer(LITE0)
    first = service.prepare(explainer, saved(tmp_path / "a.png", "red", 1))
    second = service.prepare(explainer, saved(tmp_path / "a.png", "blue", 2))
    assert second.digest != first.digest
    assert second.pictures[0].image.getpixel((0, 0)) == (0, 0, 255)


def test_pictures_and_models_are_not_mixed_up(service: Service, tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{colour}.png", colour, 1) for colour in ("red", "blue")]
    askers = [service.explainer(*model) for model in ((LITE0,), ("test_vit", "random"))]
    found = [service.prepare(asker, path) for asker in askers for path in paths]
    fresh = [Explainer(asker.model).prepare(path) for asker in askers for path in paths]
    for batch, expected in zip(found, fresh, strict=True):
        assert batch.digest == expected.digest
        assert torch.equal(batch.x, expected.x)


def test_pretrained_and_random_weights_are_two_models(service: Service) -> None:
    own, random = (service.explainer(LITE0, weights) for weights in ("pretrained", "random"))
    assert own.model.fingerprint() != random.model.fingerprint()
    assert service.explainer(LITE0) is own


def test_cancelling_stops_the_work_and_the_next_starts_afresh(service: Service) -> None:
    tick = service.begin("someone/explain", lambda *_: service.cancel("someone/explain"))
    with pytest.raises(CancelledError):
        actions.explain(service, about(), "occlusion", {"occlusion": {"window": 90}}, None, tick)
    heard: list[float] = []
    tick = service.begin("someone/explain", lambda done, _: heard.append(done))
    settings = {"occlusion": {"window": 90, "stride": 90}}
    assert actions.explain(service, about(), "occlusion", settings, None, tick).panels[0]["map"]
    assert heard == sorted(heard)
    assert heard[-1] == 1


def test_a_new_request_of_a_session_stops_the_one_it_replaces(service: Service) -> None:
    old = service.begin("someone/explain", lambda *_: None)
    service.begin("someone/explain", lambda *_: None)
    with pytest.raises(CancelledError):
        old(1, 10)
    service.begin("other/explain", lambda *_: None)(1, 10)


def test_every_parameter_has_a_widget_that_starts_at_its_default() -> None:
    for registry in (METHODS, METRICS):
        for cls in registry.values():
            for schema in cls.schema_of_fields().values():
                widget = control(schema)
                assert widget.label == schema["title"]
                expected = schema["default"]
                assert widget.value == (list(expected) if isinstance(expected, tuple) else expected)


def test_parameters_of_others_are_left_out() -> None:
    kept = {"occlusion": {"window": 8, "nonsense": 1}, "gradcam": {"relu": False}}
    assert params_of(kept, "occlusion", METHODS["occlusion"]) == {"window": 8}
    assert params_of(None, "occlusion", METHODS["occlusion"]) == {}


def test_saved_files_go_with_the_service_and_the_oldest_before() -> None:
    short = Service()
    folders = [short.folder() for _ in range(60)]
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
    for_lite0 = actions.describe_model(service, LITE0, "pretrained").methods
    unsuited = ["not for this model" in label for label, _ in for_lite0]
    assert unsuited == sorted(unsuited)
    assert any(unsuited)


def test_what_a_method_takes_follows_its_settings_and_the_model(service: Service) -> None:
    def takes(key: str, **params: Any) -> str:
        return actions.takes(service, LITE0, "pretrained", key, {key: params}, None)

    assert takes("gradcam") == "At most 1 forward, 1 backward pass: instant"
    assert "7 backward passes: seconds" in takes("integrated_gradients", steps=7)
    assert takes("occlusion", window=224, stride=224) != takes("occlusion", window=32, stride=16)
    assert takes("occlusion", window=0) == ""
    assert takes("attention") == ""
    assert actions.takes(service, "resnt50", "pretrained", "gradcam", {}, None) == ""


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
    assert facts(found) == f"completeness error 12.3%; R² 0.50; {error}; converged: yes"
    assert summary(found).endswith(f"R² 0.50; {error}; converged: yes.")
    assert "does not add up" in summary(with_extras(efficiency_error=0.2))


def test_only_values_that_add_up_have_the_scores_unit(service: Service) -> None:
    settings = {"integrated_gradients": {"steps": 2}}
    for method, unit in (("integrated_gradients", "logit"), ("gradcam", "")):
        (panel,) = actions.explain(service, about(), method, settings, None).panels
        low, middle, high = panel["figure"]["data"][0]["colorbar"]["ticktext"]
        assert middle.partition(" ")[2] == unit
        assert " " not in low + high


def test_regions_are_summed_up_in_words() -> None:
    parts = torch.arange(4).repeat_interleave(224 * 56).view(224, 224)
    values = torch.tensor([2.0, 0.5, 0.0, -1.0])[parts][None]
    lime = dataclasses.replace(with_extras(segments=parts, r2=0.5), values=values)
    told = "4 regions: 2 speak for it, the strongest by 2; 1 speaks against it, the strongest by 1."
    assert summary(lime) == f"{told} R² 0.50."
    shap = dataclasses.replace(with_extras(segments=parts, efficiency_error=0.0), values=values)
    assert "the strongest by 2.51e+04" in summary(shap), "its pixels add up"


def test_segments_are_drawn_and_saved(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = torch.zeros(224, 224, dtype=torch.int64)
    halves[:, 112:] = 1
    explainer = service.explainer(LITE0)
    found = explainer.explain(CAT, "random")
    answer = dataclasses.replace(found, extras={"segments": halves[None]})
    monkeypatch.setattr(Explainer, "explain", lambda *_, **__: answer)
    (panel,) = actions.explain(service, about(), "random", {}, None).panels
    shapes = panel["figure"]["layout"]["shapes"]
    assert [shape["type"] for shape in shapes] == ["path", "path", "rect", "rect"]
    path = actions.download(service, about(), "random", {}, None, "npz", "auto", 1, False)
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["segments"], halves)


def test_kernel_shap_shows_its_parts_and_how_sure_it_is(service: Service) -> None:
    few = {"kernel_shap": {"segments": 12, "evaluations": 40}}
    answer = actions.explain(service, about(), "kernel_shap", few, None)
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
    monkeypatch.setattr("dashboard.state.load_model", lambda *_, **__: load_model(model))
    return Service()


def test_a_model_without_classes_shows_its_strongest_features(featureless: Service) -> None:
    asked = about(model="test_resnet", weights="random")
    seen = actions.predict(featureless, asked)
    (panel,) = seen.panels
    assert panel["title"] == "Strongest features"
    assert seen.classes[0][0].startswith(f"feature {seen.predicted} · ")
    notes = [a["text"] for a in panel["figure"]["layout"]["annotations"]]
    assert not any("%" in note for note in notes)
    bars = panel["figure"]["data"][1]["x"]
    assert bars[0] == 1
    assert bars == sorted(bars, reverse=True)
    (explained,) = actions.explain(featureless, asked, "gradcam", {}, None).panels
    assert explained["title"].endswith(f"feature {seen.predicted}")
    wrong = actions.explain(featureless, replace(asked, unit="probability"), "gradcam", {}, None)
    assert "no probability" in wrong.panels[0]["caption"]


# -- which question a result answers ------------------------------------------------------------


def test_a_result_stays_until_the_question_is_another() -> None:
    asked = about()
    answered = asked.settled(282)
    assert asked.answered_by(answered)
    assert replace(asked, target=282, versus=None).answered_by(answered)
    for change in (
        {"picture": "other.jpg"},
        {"model": "resnet18"},
        {"weights": "random"},
        {"target": 285},
        {"versus": 281},
        {"unit": "probability"},
    ):
        changed = replace(asked, **change)
        assert not changed.answered_by(answered), change
        concerns_target = change.keys() & {"target", "versus", "unit"}
        assert changed.answered_by(answered, whatever_target=True) == bool(concerns_target), change


def test_results_name_the_question_that_they_answer(service: Service) -> None:
    settled = about(target=282, versus=None)
    assert actions.compare(service, about(), ["gradcam"], {}, None, False).question == settled
    assert actions.features(service, about(), None, 4, "activation").question == settled
    settings = {"deletion": {"steps": 2}}
    assert (
        actions.measure(service, about(), ["gradcam"], ["deletion"], settings, None).question
        == settled
    )
    assert actions.compare(service, about(None), ["gradcam"], {}, None, False).question is None


# -- handlers -----------------------------------------------------------------------------------


def test_a_handler_takes_the_question_apart_for_the_api(service: Service) -> None:
    @working(service, "task")
    def double(question: Question, on_progress: OnProgress, number: int) -> tuple[Any, int]:
        return question, 2 * number

    parameters = inspect.signature(double).parameters
    fields = [field.name for field in dataclasses.fields(Question)]
    assert list(parameters) == [*fields, "number", "request", "progress"]
    assert parameters["request"].annotation is gr.Request
    asked = about()
    request = SimpleNamespace(session_hash="someone")
    inputs = [getattr(asked, name) for name in fields]
    assert double(*inputs, 4, request, gr.Progress()) == (asked, 8)


def test_a_cancelled_handler_leaves_the_page_as_it_is(service: Service) -> None:
    @working(service, "task")
    def wait(question: Question, on_progress: OnProgress) -> None:
        service.cancel("someone/task")
        on_progress(0, 0)

    request = SimpleNamespace(session_hash="someone")
    inputs = dataclasses.astuple(about())
    assert wait(*inputs, request, gr.Progress()) == gr.skip()


# -- waiting for others -------------------------------------------------------------------------


@pytest.fixture
def slow_loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Models named "test_vit" load once the event is set."""
    release = threading.Event()

    def load(name: str, **options: Any) -> ModelHandle:
        if name == "test_vit":
            assert release.wait(30)
        return load_model(name, **options)

    monkeypatch.setattr("dashboard.state.load_model", load)
    yield release
    release.set()


def test_who_waits_for_a_model_can_leave_and_others_do_not_wait(
    slow_loading: threading.Event,
) -> None:
    service = Service()
    tick = service.begin("someone/model", lambda *_: None)
    threading.Timer(0.2, service.cancel, ["someone/model"]).start()
    with pytest.raises(CancelledError):
        actions.describe_model(service, "test_vit", "random", tick)
    assert not service.loaded("test_vit", "random")
    assert service.explainer("test_resnet", "random").model.name == "test_resnet"
    slow_loading.set()
    assert service.explainer("test_vit", "random").model.name == "test_vit"
    assert service.loaded("test_vit", "random")


def test_who_asks_for_a_model_that_is_loading_gets_the_same(slow_loading: threading.Event) -> None:
    service = Service()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(service.explainer, "test_vit", "random") for _ in range(4)]
        slow_loading.set()
        assert len({id(one.result()) for one in asked}) == 1


def test_who_waits_for_anothers_explanation_can_be_cancelled() -> None:
    service = Service()
    began, release = threading.Event(), threading.Event()
    settings = {"occlusion": {"window": 90, "stride": 90}}

    def first(done: int, expected: int) -> None:
        began.set()
        assert release.wait(30)

    def explain(on_progress: OnProgress) -> actions.Explained:
        return actions.explain(service, about(), "occlusion", settings, None, on_progress)

    service.explainer(LITE0).predict(CAT)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(explain, first)
        assert began.wait(30)
        second = service.begin("second/explain", lambda *_: None)
        threading.Timer(0.2, service.cancel, ["second/explain"]).start()
        with pytest.raises(CancelledError):
            explain(second)
        release.set()
        assert slow.result().panels[0]["map"]
