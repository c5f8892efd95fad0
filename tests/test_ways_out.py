"""Errors know the ways out, and the cards of the page offer them as buttons."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from core import METHODS, Explainer, load_model, sample_picture
from core.errors import (
    RANDOM_WEIGHTS,
    ModelError,
    NotApplicableError,
    TimmscopeError,
    UnknownNameError,
    WayOut,
    unknown,
)
from core.types import Need
from dashboard import actions
from dashboard.actions.reasons import MAX_WAYS_OUT, RANDOM, Chosen, fault_card
from dashboard.state import Service
from tests.test_actions import about, ask_for


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(load_model("tf_efficientnet_lite0"))


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def ways(error: TimmscopeError) -> list[tuple[str, str | int]]:
    return [(way.field, way.value) for way in error.ways_out]


def test_a_misspelt_name_offers_the_nearest_ones() -> None:
    error = unknown("method", "gradcan", ["gradcam", "saliency"])
    assert error.ways_out == (WayOut("method", "gradcam", "Use gradcam"),)
    assert unknown("colormap", "virids", ["viridis"]).ways_out == ()
    assert unknown("method", "x", ["gradcam"]).ways_out == ()


def test_ways_out_survive_pickling_and_are_told_once() -> None:
    error = ModelError("no").offering(RANDOM_WEIGHTS).offering(RANDOM_WEIGHTS)
    assert pickle.loads(pickle.dumps(error)).ways_out == (RANDOM_WEIGHTS,)
    unusable = actions.UnusableError("model", "no", [RANDOM_WEIGHTS])
    again = pickle.loads(pickle.dumps(unusable))
    assert (again.part, again.ways_out) == ("model", (RANDOM_WEIGHTS,))


def test_a_misspelt_class_offers_the_index_of_the_nearest(explainer: Explainer) -> None:
    with pytest.raises(UnknownNameError) as caught:
        explainer.target("espreso")
    assert ways(caught.value)[0] == ("target", 967)


def test_a_model_without_weights_offers_random_ones() -> None:
    with pytest.raises(ModelError) as caught:
        load_model("botnet50ts_256")
    assert caught.value.ways_out == (RANDOM_WEIGHTS,)


def test_a_method_that_does_not_run_offers_one_that_does(explainer: Explainer) -> None:
    with pytest.raises(NotApplicableError) as caught:
        explainer.explain(sample_picture("coffee"), "attention_rollout")
    assert ways(caught.value) == [("method", "gradcam")]
    without_relu = Explainer(load_model("test_vit", weights="random"))
    with pytest.raises(NotApplicableError) as caught:
        without_relu.explain(sample_picture("coffee"), "guided_backprop")
    ((_, value),) = ways(caught.value)
    assert METHODS[str(value)].family is METHODS["guided_backprop"].family
    without_relu.explain(sample_picture("coffee"), str(value))


def test_a_layer_that_does_not_exist_or_suit_offers_the_default(explainer: Explainer) -> None:
    with pytest.raises(UnknownNameError) as caught:
        explainer.model.resolve_layer([Need.LAYER], "blocks.55")
    assert ("layer", "bn2") in ways(caught.value)
    assert ways(caught.value)[0][1] != "bn2", "the nearest name comes first"
    with pytest.raises(NotApplicableError) as caught:
        explainer.model.resolve_layer([Need.LAYER], "classifier")
    assert ways(caught.value) == [("layer", "bn2")]


def test_a_card_has_a_button_for_each_way_out(service: Service) -> None:
    with pytest.raises(TimmscopeError) as caught:
        actions.explain(service, ask_for(about(model="resnt50"), "gradcam"))
    card = fault_card("No map", about(model="resnt50"), caught.value, "compare-run")
    assert card["ways_out"][0] == {
        "field": "model", "value": "resnet50", "text": "Use resnet50", "ask": "compare-run",
        "replaces": [],
    }  # fmt: skip
    assert "resnt50" not in card["caption"], "the left column tells it"
    with pytest.raises(TimmscopeError) as caught:
        actions.explain(service, ask_for(about(versus="espreso"), "gradcam"))
    assert fault_card("No map", about(), caught.value)["ways_out"][0]["field"] == "versus"
    many = TimmscopeError("no", [WayOut("method", str(i), str(i)) for i in range(9)])
    assert len(fault_card("No map", about(), many)["ways_out"]) == MAX_WAYS_OUT


# -- where several are compared -------------------------------------------------------------------

LIST = ("gradcam", "attention_rollout")


def buttons(panels: list[Any]) -> dict[str, list[tuple[Any, ...]]]:
    """By title of each card that has any, its buttons: text, field, value and what it replaces."""
    return {
        card["title"]: [
            (one["text"], one["field"], one["value"], one["replaces"]) for one in card["ways_out"]
        ]
        for card in panels
        if card["ways_out"]
    }


def compared(service: Service, **changes: Any) -> list[Any]:
    request = actions.CompareRequest(about(), LIST, {}, None)
    return actions.compare(service, replace(request, **changes)).panels


def test_a_method_without_a_map_is_replaced_or_removed(service: Service) -> None:
    lone = [("Remove it", "compare_methods", "", ["attention_rollout"])]
    assert buttons(compared(service)) == {"Attention rollout": lone}, "Grad-CAM stands there"
    found = buttons(compared(service, methods=("saliency", "attention_rollout", "attention")))
    gone = ["attention_rollout", "attention"]
    assert found == {
        "Attention rollout, Attention": [
            ("Use Grad-CAM", "compare_methods", "gradcam", gone),
            ("Remove these 2", "compare_methods", "", gone),
        ]
    }
    assert buttons(compared(service, methods=("attention",))) == {
        "Attention": [("Use Grad-CAM", "compare_methods", "gradcam", ["attention"])]
    }, "nothing would be left"


def test_the_name_in_the_list_is_found_whatever_was_set(service: Service) -> None:
    methods = ("gradcam", "gradcam@blocks.55", "lime(samples=1)", "saliency")
    settings = {"gradcam": {"relu": False}, "saliency": {"reduction": "odd"}}
    found = buttons(compared(service, methods=methods, settings=settings))
    (layer, *ways), (lime,), (saliency,) = found.values()
    assert layer[1:] == ("compare_methods", "gradcam@blocks.5", ["gradcam@blocks.55"])
    assert ways[-1] == ("Remove it", "compare_methods", "", ["gradcam@blocks.55"])
    assert [lime[-1], saliency[-1]] == [["lime(samples=1)"], ["saliency"]]


def test_a_name_in_a_list_that_does_not_exist_is_replaced() -> None:
    error = unknown("method", "gradcan", ["gradcam"])
    chosen = Chosen("metric", "method", ["saliency", "gradcan"], "metric-run")
    card = fault_card("No map", about(), error, "metric-run", chosen)
    assert buttons([card])["No map"] == [
        ("Use gradcam", "metric_methods", "gradcam", ["gradcan"]),
        ("Remove it", "metric_methods", "", ["gradcan"]),
    ]
    assert {one["ask"] for one in card["ways_out"]} == {"metric-run"}
    at_layer = unknown("layer", "bn3", ["bn2"])
    fine = replace(chosen, names=["saliency", "gradcam"])
    (way,) = buttons([fault_card("No map", about(), at_layer, "metric-run", fine)])["No map"]
    assert way == ("Use bn2", "metric_layer", "bn2", [])


def test_a_model_that_fails_is_replaced_taken_untrained_or_removed(service: Service) -> None:
    models = ("world_vt", "botnet50ts_256", "world_resnet")
    found = buttons(compared(service, what="models", models=models, own_class=True))
    first, second = found["world_vt"], found["botnet50ts_256"]
    assert first[0] == ("Use world_vit", "compare_models", "world_vit", ["world_vt"])
    assert first[-1] == ("Remove it", "compare_models", "", ["world_vt"])
    untrained = f"botnet50ts_256{RANDOM}"
    assert second[0] == (
        "Use random weights", "compare_models", untrained, ["botnet50ts_256"],
    )  # fmt: skip
    asked = {"what": "models", "models": ("world_vit",), "own_class": True}
    (card,) = compared(service, **asked, method="attention_rollout")[-1:]
    assert buttons([card])["tf_efficientnet_lite0"] == [
        ("Use Grad-CAM", "compare_method", "gradcam", [])
    ]


def test_metrics_and_recommendations_have_the_buttons_too(service: Service) -> None:
    measured = actions.measure(
        service, actions.MeasureRequest(about(), LIST, ["deletion", "pointing_game"], {}, None)
    )
    found = buttons(measured.panels)
    assert found["Attention rollout"] == [
        ("Remove it", "metric_methods", "", ["attention_rollout"])
    ]
    assert found["Pointing game"] == [("Remove it", "metric_metrics", "", ["pointing_game"])]
    advice = actions.recommend(service, actions.RecommendRequest(about(), LIST, {}, None))
    (card,) = (card for card in advice.panels if card["ways_out"])
    assert (card["title"], card["ways_out"][0]["ask"]) == ("Attention rollout", "recommend")
