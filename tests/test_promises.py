"""Methods that promise to tell classes apart are held to it on trained models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core import METHODS, Explainer
from core.metrics.similarity import spearman
from core.models.embedded import NAME
from core.models.load import load_model
from core.synthetic import SYNTHETIC_MODELS
from core.synthetic.scenes import HELD_OUT, scene
from core.types import Need, Property
from tests.conftest import SAMPLES, runnable

LIMIT = 0.9
"""The largest mean rank correlation of different classes' maps, as `Property` says."""
ASKED = 3
"""Classes explained: those that the model thinks likeliest."""
PICTURES = 2
TRAINED = (*SYNTHETIC_MODELS, NAME)
"""A transformer, a ConvNeXt, a ResNet, and an EfficientNet that is trained on photographs."""
FASTER: Mapping[str, Mapping[str, Any]] = {
    "integrated_gradients": {"steps": 8},
    "idgi": {"steps": 8},
    "blur_ig": {"steps": 16},
    "guided_ig": {"steps": 12},
    "expected_gradients": {"samples": 12},
    "smoothgrad": {"samples": 20},
    "vargrad": {"samples": 20},
    "deep_shap": {"baselines": ("black", "blur")},
    "scorecam": {"channels": 32},
    "ablationcam": {"channels": 64},
    "occlusion": {"window": 24, "stride": 16},
    "rise": {"masks": 200},
    "lime": {"samples": 100},
    "shap": {"evaluations": 100},
    "kernel_shap": {"evaluations": 100},
}
"""Parameters that keep the tests short."""
PROMISING = [k for k, cls in METHODS.items() if Property.CLASS_SENSITIVE in cls.properties]
WITHHELD = {
    "guided_backprop": NAME,
}
"""Methods whose promise is withheld, and a trained model that shows why."""


@cache
def trained(name: str) -> tuple[Explainer, Tensor, Tensor]:
    """A model, pictures of several objects, and the classes (B, ASKED) that it finds likeliest."""
    explainer = Explainer(load_model(name))
    if name == NAME:
        pictures: list[Any] = [SAMPLES / "chelsea_coffee.jpg"]
    else:
        pictures = [scene(HELD_OUT + 10_000 + seed, 2).picture for seed in range(PICTURES)]
    x = torch.cat([explainer.prepare([picture]).x for picture in pictures])
    return explainer, x, explainer.predict(x).scores.topk(ASKED).indices


def likeness(key: str, name: str) -> float:
    """The mean rank correlation of different classes' maps; skips what the model cannot run."""
    explainer, x, likeliest = trained(name)
    method = METHODS.make(key, dict(FASTER.get(key, {})))
    if not runnable(method, explainer.model):
        pytest.skip(f"{name} cannot be explained by {key}")
    maps = [explainer.explain(x, method, target=each.tolist()).values for each in likeliest.T]
    pairs = [
        spearman(one[image], other[image])
        for one, other in itertools.combinations(maps, 2)
        for image in range(len(x))
    ]
    return float(np.nanmean(pairs))


def slow(key: str, name: str) -> bool:
    """Whether a method takes many passes through the large model."""
    return name == NAME and key in {*FASTER, "fullgrad", "deeplift"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param(key, name, marks=[pytest.mark.slow] if slow(key, name) else [])
        for key in PROMISING
        for name in TRAINED
        if not (name != TRAINED[0] and Need.ATTENTION in METHODS[key].needs)
    ],
)
def test_maps_of_different_classes_differ_on_trained_models(key: str, name: str) -> None:
    assert likeness(key, name) < LIMIT


@pytest.mark.parametrize(("key", "name"), WITHHELD.items())
def test_a_promise_is_withheld_where_it_does_not_hold(key: str, name: str) -> None:
    assert Property.CLASS_SENSITIVE not in METHODS[key].properties
    assert likeness(key, name) > LIMIT


def test_what_does_not_read_the_class_is_found_out() -> None:
    assert likeness("eigencam", "world_resnet") == pytest.approx(1)
