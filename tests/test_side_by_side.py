"""One method on several models or on several pictures."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core import Explainer, cli, compare_models, compare_pictures, load_model
from core.errors import TimmscopeError, UnknownNameError
from core.evaluation.side_by_side import resampled, side_by_side, translated
from core.inputs.assets import asset
from core.tasks.classification import ClassProbability, ClassScore
from core.types import upsample
from dashboard import actions
from dashboard.actions import NO_CLASS, RANDOM, CompareRequest, Question
from dashboard.state import Service
from tests.conftest import SAMPLES

SCENE = asset("synthetic") / "checked_square.png"
OTHER = asset("synthetic") / "checked_square_and_striped_disc.png"
MODELS = ["world_resnet", "world_vit"]


@pytest.fixture(scope="module")
def worlds() -> list[Explainer]:
    return [Explainer(name) for name in MODELS]


# -- Python -------------------------------------------------------------------------------------


def test_each_model_predicts_and_explains_the_same_picture(worlds: list[Explainer]) -> None:
    found = compare_models(SCENE, worlds, "saliency")
    assert list(found.sides) == MODELS
    for name, explainer in zip(MODELS, worlds, strict=True):
        side = found.sides[name]
        assert side.model == name
        assert side.prediction == explainer.predict(SCENE)
        assert side.attribution == explainer.explain(SCENE, "saliency", target="checked square")
        assert side.target_name == "checked square"
        assert side.target_value == pytest.approx(float(side.prediction.values[0].max()))
    assert found.agreement is not None
    assert found.agreement.methods == tuple(MODELS)
    assert found.seen_by_all == (0, 0, 96, 96)
    assert set(found.comparison.overlays()) == set(MODELS)
    assert "<img" in found._repr_html_()
    again = pickle.loads(pickle.dumps(found))
    assert again == found


def test_a_class_is_the_one_of_the_same_label(worlds: list[Explainer]) -> None:
    labels = worlds[0].model.labels
    assert labels is not None
    turned = Explainer(load_model(worlds[1].model.model, labels=labels[::-1]))
    first, last = ClassScore(0), ClassScore(len(labels) - 1)
    target = worlds[0].target(first - ClassScore(1))
    found = translated(target, worlds[0], turned)
    expected = turned.target(last - ClassScore(len(labels) - 2))
    assert found == expected
    probability = translated(ClassProbability(0), worlds[0], turned)
    assert probability == turned.target(ClassProbability(len(labels) - 1))
    seen = compare_models(SCENE, [worlds[0], turned], target=labels[0]).sides.values()
    assert {side.target_name for side in seen} == {labels[0]}


def test_a_model_without_the_class_says_so_and_the_other_answers(
    lite0: Explainer, worlds: list[Explainer]
) -> None:
    found = compare_models(SAMPLES / "coffee.jpg", [lite0, worlds[0]], target="espresso")
    assert list(found.sides) == ["tf_efficientnet_lite0"]
    assert "world_resnet has no class 'espresso'" in found.errors["world_resnet"]
    assert found.agreement is None
    unnamed = Explainer(load_model("test_resnet", weights="random"))
    unnamed.model.labels = None
    with pytest.raises(UnknownNameError, match="does not name its classes"):
        translated(ClassScore(0), worlds[0], unnamed)
    with pytest.raises(UnknownNameError, match="espresso"):
        compare_models(SCENE, worlds, target="espresso")


def test_maps_agree_on_the_part_that_all_models_saw(lite0: Explainer) -> None:
    squashed = Explainer(load_model("tf_efficientnet_lite0", preprocessing={"crop_mode": "squash"}))
    picture = SAMPLES / "coffee.jpg"
    asked = {"crop": (lite0, picture), "squash": (squashed, picture)}
    found = side_by_side(asked, "sobel")
    boxes = [side.geometry.box for side in found.sides.values() if side.geometry]
    assert boxes[0] != boxes[1]
    assert found.seen_by_all == tuple(boxes[0])
    assert found.agreement is not None
    moved = found.sides["squash"].attribution.values[0]
    naive = torch.corrcoef(
        torch.stack([found.sides["crop"].attribution.values[0], moved]).flatten(1)
    )
    assert found.agreement.pearson[0, 1] > naive[0, 1] + 0.2, "the same edges, in the same place"


def test_a_part_of_a_map_is_what_the_whole_map_has_there() -> None:
    values = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    whole = resampled(values, (0, 0, 50, 70), (0, 0, 50, 70), (140, 100))
    torch.testing.assert_close(whole, upsample(values[None], (140, 100))[0])
    part = resampled(values, (0, 0, 50, 70), (10, 20, 40, 50), (60, 60))
    torch.testing.assert_close(part, whole[40:100, 20:80])


def test_pictures_stand_beside_each_other_without_agreement(worlds: list[Explainer]) -> None:
    found = compare_pictures([SCENE, OTHER, SCENE], model=worlds[0])
    assert list(found.sides) == [SCENE.name, OTHER.name, f"{SCENE.name} (2)"]
    assert found.agreement is None
    assert found.seen_by_all is None
    array = np.asarray(Image.open(SCENE).convert("RGB"))
    named = compare_pictures({"a": array, "b": OTHER}, model=worlds[0], target="striped disc")
    assert {side.target_name for side in named.sides.values()} == {"striped disc"}
    assert named.sides["a"].target_value is not None
    assert named.sides["b"].target_value is not None
    assert named.sides["a"].target_value < named.sides["b"].target_value


def test_a_picture_that_cannot_be_read_keeps_none_back(
    worlds: list[Explainer], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    found = compare_pictures([bad, SCENE], model=worlds[0])
    assert list(found.sides) == [SCENE.name]
    assert "bad.png" in found.errors["bad.png"]
    with pytest.raises(TimmscopeError, match="nothing to compare"):
        compare_models(SCENE, [])


# -- the command line ---------------------------------------------------------------------------


def test_models_are_compared_on_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["compare", str(SCENE), "--models", ",".join(MODELS), "--output-dir", str(tmp_path)]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compared"] == "models"
    assert list(found["sides"]) == found["agreement"]["sides"] == MODELS
    assert found["seen_by_all"] == [0, 0, 96, 96]
    for name, side in found["sides"].items():
        assert side["model"] == name
        assert side["target"] == "checked square"
        assert side["target_value"] == pytest.approx(side["confidence"])
        files = side["results"]["gradcam"]["files"]
        assert all(Path(file).is_file() and name in file for file in files.values())
        assert set(files) == {"png", "npz", "json"}


def test_pictures_are_compared_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(SCENE), str(OTHER), "--model", "world_resnet", "--method", "saliency"]
    assert cli.main([*command, "--target", "striped disc"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["compared"] == "pictures"
    assert list(found["sides"]) == [str(SCENE), str(OTHER)]
    assert "agreement" not in found
    assert {side["target"] for side in found["sides"].values()} == {"striped disc"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([str(SCENE)], "1 model and 1 picture are named"),
        ([str(SCENE), str(OTHER), "--models", "world_vit,world_resnet"], "2 models and 2 pictures"),
        ([str(SCENE), "--models", "a,b", "--method", "gradcam,lime"], "explain --methods A,B"),
        ([str(SCENE), "--models", "a,b", "--save", "gif"], "cannot save as 'gif'"),
        ([str(SCENE), "--models", "a,b", "--set", "lime.samples=2"], "lime, which --method"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_model_is_loaded(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", *words]) == 2
    assert said in capsys.readouterr().err


# -- the page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def request(picture: Path = SCENE, model: str = MODELS[0], **changes: Any) -> CompareRequest:
    question = Question(str(picture), model, "pretrained", None, NO_CLASS, "logit")
    return CompareRequest(question, ["gradcam"], {}, None, **changes)


def test_models_on_the_page(service: Service) -> None:
    untrained = f"world_resnet{RANDOM}"
    asked = request(what="models", models=["world_vit", untrained, "tf_efficientnet_lite0"])
    found = actions.compare(service, asked)
    picture, *maps, error, where, switch = found.panels
    assert [panel["title"] for panel in maps] == [*MODELS, untrained]
    assert maps[0]["caption"].startswith("Predicts checked square (98.8%) · 1 forward")
    assert "explains checked square (" in maps[2]["caption"]
    assert error["title"] == "tf_efficientnet_lite0"
    assert "has no class 'checked square'" in error["caption"]
    assert len({panel["linked"] for panel in (picture, *maps, where)} - {""}) == 1
    assert switch["linked"] == ""
    assert [panel["ranks"]["score"] > 0.9 for panel in maps] == [True, True, False]
    assert found.table[-1][0] == "tf_efficientnet_lite0"
    assert found.answers.label == "Grad-CAM on 4 models, checked square"
    assert found.answers.same["methods"] == found.answers.same["second"] == "any"
    assert "models" not in found.answers.same


def test_each_model_may_explain_its_own_prediction(service: Service) -> None:
    asked = request(SAMPLES / "coffee.jpg", "tf_efficientnet_lite0", what="models",
                    models=["world_vit"], own_class=True)  # fmt: skip
    found = actions.compare(service, asked)
    _, first, second, _, switch = found.panels
    assert first["caption"].startswith("Predicts espresso")
    assert "sees 51% of the picture" in first["caption"]
    assert second["tone"] == ""
    assert "Compared where all look" in switch["caption"]
    assert found.answers.same["target"] == "any"


def test_pictures_on_the_page_are_linked_each_with_its_own_maps(service: Service) -> None:
    found = actions.compare(service, request(what="pictures", second=str(OTHER)))
    first, map_1, second, map_2 = found.panels
    assert [p["title"] for p in (first, second)] == ["Picture", "Second picture"]
    assert first["linked"] == map_1["linked"] != second["linked"] == map_2["linked"]
    assert (map_1["name"], map_2["name"]) == (SCENE.stem, OTHER.stem)
    assert found.answers.same["models"] == "any"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"what": "models"}, "at least one more model"),
        ({"what": "models", "models": ["a", "b", "c", "d"]}, "at most 3 more"),
        ({"what": "pictures"}, "Add a second picture"),
    ],
)
def test_what_is_missing_is_said(service: Service, changes: dict[str, Any], words: str) -> None:
    (card,) = actions.compare(service, request(**changes)).panels
    assert words in card["caption"]


def test_a_model_that_cannot_be_loaded_keeps_none_back(service: Service) -> None:
    found = actions.compare(service, request(what="models", models=["resnt50"]))
    assert [panel["tone"] for panel in found.panels] == ["", "", "error"]
    assert "resnt50" in found.panels[2]["caption"]
    with pytest.raises(UnknownNameError, match="methods"):
        actions.compare(service, request(what="method"))


def test_a_method_stands_beside_itself_with_another_setting(service: Service) -> None:
    chosen = actions.add_variant(["sobel"], "lime", "samples", " 20 ")
    assert chosen == ["sobel", "lime", "lime(samples=20)"]
    assert actions.add_variant(chosen, "lime", "samples", "20") == chosen
    assert actions.add_variant(["gradcam"], "gradcam", "@", "layer2")[-1] == "gradcam@layer2"
    for method, parameter, value in (
        ("lime", "samples", "-1"),
        ("lime", "", "3"),
        ("lime", "x", "1"),
    ):
        with pytest.raises(TimmscopeError):
            actions.add_variant([], method, parameter, value)


def test_the_recommendation_scores_the_maps_by_their_names(service: Service) -> None:
    methods = ["gradcam", "lime(samples=20)"]
    question = request().question
    maps = actions.compare(service, CompareRequest(question, methods, {}, None)).panels
    advice = actions.recommend(service, actions.RecommendRequest(question, methods, {}, None))
    assert {p["name"] for p in maps if p["name"]} == set(advice.panels[0]["scores"])
