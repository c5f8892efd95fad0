"""Errors know the ways out, and the cards of the page offer them as buttons."""

from __future__ import annotations

import pickle

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
from dashboard.actions.question import MAX_WAYS_OUT, fault_card
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
    }  # fmt: skip
    assert "resnt50" not in card["caption"], "the left column tells it"
    with pytest.raises(TimmscopeError) as caught:
        actions.explain(service, ask_for(about(versus="espreso"), "gradcam"))
    assert fault_card("No map", about(), caught.value)["ways_out"][0]["field"] == "versus"
    many = TimmscopeError("no", [WayOut("method", str(i), str(i)) for i in range(9)])
    assert len(fault_card("No map", about(), many)["ways_out"]) == MAX_WAYS_OUT
