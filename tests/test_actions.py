"""What the page can do, called without a browser."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import METHODS, METRICS
from core.errors import CancelledError, UnknownNameError
from dashboard import actions
from dashboard.controls import control, params_of
from dashboard.state import NOTHING, Question, Service
from tests.conftest import SAMPLES

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
    code = found.recipe.replace("picture.jpg", CAT)
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


def test_one_failing_method_never_kills_the_others(service: Service) -> None:
    found = actions.compare(service, about(), ["gradcam", "attention"], {}, None, False)
    assert [panel["tone"] for panel in found.panels] == ["", "error"]
    assert "softmax attention" in found.panels[1]["caption"]
    assert [row[0] for row in found.table] == ["Grad-CAM", "Attention"]


def test_a_shared_range_is_the_same_for_all(service: Service) -> None:
    def ranges(shared: bool) -> list[tuple[float, float]]:
        found = actions.compare(service, about(), ["gradcam", "sobel"], {}, None, shared)
        traces = [panel["figure"]["data"][0] for panel in found.panels]
        return [(trace["zmin"], trace["zmax"]) for trace in traces]

    own, shared = ranges(False), ranges(True)
    assert own[0] != own[1]
    assert shared[0] == shared[1]
    assert shared[0][1] == max(hi for _, hi in own)


def test_feature_maps_and_their_statistics(service: Service) -> None:
    found = actions.features(service, about(), "blocks.4", 8, "variance")
    assert len(found.panels) == 8
    assert "blocks.4" in found.summary
    assert "112 channels of 14 x 14" in found.summary


def test_attention_heads_or_the_reason_why_there_are_none(service: Service) -> None:
    assert len(actions.attention(service, vit(), None, "auto").panels) == 2
    refused = actions.attention(service, about(), None, "auto").panels
    assert refused[0]["tone"] == "error"
    assert "softmax attention" in refused[0]["caption"]
    unknown = actions.attention(service, vit(), None, "100").panels
    assert "no patch '100'" in unknown[0]["caption"]


def test_scores_stand_beside_the_controls(service: Service) -> None:
    settings = {key: {"steps": 3} for key in ("deletion", "insertion")}
    found = actions.measure(service, about(), ["gradcam"], list(METRICS), settings, None)
    assert [row[0] for row in found.table] == ["Grad-CAM", "Random (control)", "Edges (control)"]
    assert found.headers[1:3] == ["Deletion ↓", "Insertion ↑"]
    assert len(found.headers) == 1 + len(METRICS)
    dashes = [trace.get("line", {}).get("dash") for trace in found.panels[0]["figure"]["data"]]
    assert len(dashes) == 3


def test_the_model_says_which_methods_it_cannot_run_and_why(service: Service) -> None:
    facts = actions.describe_model(service, LITE0, "pretrained")
    labels = {key: label for label, key in facts.methods}
    assert labels["attention"] == "Attention · not for this model"
    assert labels["gradcam"] == "Grad-CAM"
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
