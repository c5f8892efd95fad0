"""Tokens of outlying norm are found, told of, and left out where that is asked for."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core import METHODS, Explainer, ModelHandle
from core.export import result_facts
from core.inputs.preprocessing import Preprocessing
from core.methods.outliers import outlying
from core.models.load import load_model
from core.runtime.run import Run
from core.synthetic.scenes import HELD_OUT, scene
from dashboard.actions.formatting import extras_text
from tests.conftest import build, images, shared_handle

MASKING = [key for key, cls in METHODS.items() if "mask_outliers" in cls.model_fields]
GRIDS = [key for key in MASKING if key not in {"attention", "ablationcam"}]
FEW: dict[str, dict[str, Any]] = {"scorecam": {"channels": 8}, "ablationcam": {"channels": 4}}


class Planted(nn.Module):
    """A stage whose last corner token is far longer than the others."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        found = self.stage(x)
        corner = torch.zeros_like(found[:1, :, :, :1])
        corner[:, -1, -1] = 1
        direction = torch.linspace(0.5, 1.5, found.shape[3])
        out: Tensor = found + 10 * found.detach().abs().amax() * corner * direction
        return out


@functools.cache
def hierarchical(planted: bool) -> ModelHandle:
    """A hierarchical transformer, with an outlying token or without."""
    plain = shared_handle("swin").preprocessing
    model: Any = build("swin")
    if planted:
        model.layers[1] = Planted(model.layers[1])
    preprocessing = Preprocessing(plain.input_size, plain.mean, plain.std)
    return ModelHandle(model, name="hierarchical", preprocessing=preprocessing)


def test_methods_that_read_a_grid_can_mask_outliers() -> None:
    cams = {k for k, cls in METHODS.items() if cls.family == "cam" and "relu" in cls.model_fields}
    assert cams | {"attention"} == set(MASKING)


@pytest.mark.parametrize("key", [key for key in MASKING if key != "attention"])
def test_an_outlying_token_is_told_of_and_left_out_on_request(key: str) -> None:
    owner = hierarchical(planted=True)
    ask = functools.partial(Explainer(owner).explain, images(owner, 2), key, target=3)
    ask = functools.partial(ask, layer="layers.1", relu=False, **FEW.get(key, {}))
    found, masked = ask(), ask(mask_outliers=True)
    assert found.extras["outlying_tokens"].tolist() == [1, 1]
    assert found.extras["outlier_mask"].nonzero().tolist() == [[0, 13, 13], [1, 13, 13]]
    assert found.facts()["outlying_tokens"] == result_facts(found)["outlying_tokens"] == 1
    assert "1 token of outlying norm" in extras_text(found)
    largest = found.values.flatten(1).argmax(1) == found.values[0].numel() - 1
    assert found.extras["largest_on_outlier"].tolist() == largest.long().tolist()
    assert masked.values[:, -1, -1].tolist() == [0, 0]
    assert masked.values.abs().amax() > 0
    at_corner, elsewhere = found.values[:, -1, -1].abs(), found.values.flatten(1)[:, :-1].abs()
    if key in {"layercam", "gradcam_plus_plus", "eigencam"}:
        assert (at_corner > elsewhere.amax(1)).all(), "it would hold the largest value"


@pytest.mark.parametrize("key", GRIDS)
def test_where_no_token_is_outlying_nothing_is_masked(key: str) -> None:
    owner = hierarchical(planted=False)
    ask = functools.partial(Explainer(owner).explain, images(owner, 2), key, target=3)
    ask = functools.partial(ask, layer="layers.1", **FEW.get(key, {}))
    found, masked = ask(), ask(mask_outliers=True)
    assert torch.equal(found.values, masked.values)
    assert found.extras["outlying_tokens"].tolist() == [0, 0]
    assert "outlying" not in extras_text(found)


def test_a_patch_that_all_attend_to_is_an_outlier_of_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner = shared_handle("vit_registers")
    layer = list(owner.attention_layers)[-1]
    plain = Run.attention

    def drawn(run: Run) -> dict[str, Tensor]:
        maps = dict(plain(run))
        maps[layer] = maps[layer].clone()
        maps[layer][..., -1] += 0.5
        maps[layer] /= maps[layer].sum(-1, keepdim=True)
        return maps

    ask = functools.partial(Explainer(owner).explain, images(owner, 1), "attention", target=1)
    assert ask(layer=layer).extras["outlying_tokens"].tolist() == [0]
    monkeypatch.setattr(Run, "attention", drawn)
    found, masked = ask(layer=layer, seed=1), ask(layer=layer, mask_outliers=True, seed=1)
    assert found.extras["outlying_tokens"].tolist() == [1]
    assert found.extras["largest_on_outlier"].tolist() == [1]
    assert "the largest value lies on such a token" in extras_text(found)
    assert masked.values[0, -1, -1] == 0
    assert torch.equal(masked.values.flatten()[:-1], found.values.flatten()[:-1])


def test_evidence_in_a_convolutional_network_is_no_outlier() -> None:
    owner = shared_handle("resnet")
    answer = Explainer(owner).explain(images(owner, 1), "layercam", target=1, mask_outliers=True)
    assert "outlying_tokens" not in answer.extras


def test_a_trained_transformer_without_registers_has_no_outlier() -> None:
    """The object's tokens are longer than the ground's, but not by far."""
    explainer = Explainer(load_model("world_vit"))
    x = torch.cat([explainer.prepare([scene(HELD_OUT + i, 1).picture]).x for i in range(8)])
    for layer in ("blocks.1", "blocks.4", None):
        found = explainer.explain(x, "layercam", layer=layer)
        assert found.extras["outlying_tokens"].sum() == 0


def test_an_outlier_is_far_from_the_median_in_both_ways() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = 1 + 0.01 * torch.rand(1, 7, 7, generator=generator)
    grid[0, 0, 0] = 1.5  # many deviations, but near the median
    assert not outlying(grid).any()
    wide = torch.rand(1, 7, 7, generator=generator)
    wide[0, 0, 0] = 1.5  # three times the median, but few deviations
    assert not outlying(wide).any()
    assert not outlying(torch.zeros(1, 3, 3)).any()


@pytest.mark.parametrize("key", [key for key in MASKING if key != "attention"])
def test_a_parameter_without_meaning_for_the_model_changes_nothing(key: str) -> None:
    explainer = Explainer(shared_handle("resnet"))
    (needs,) = (
        schema["needs"]
        for name, schema in METHODS[key].schema_of_fields().items()
        if name == "mask_outliers"
    )
    assert set(needs) - explainer.model.supports
    asked = FEW.get(key, {})
    plain = explainer.explain(images(explainer.model), key, **asked)
    masked = explainer.explain(images(explainer.model), key, **asked, mask_outliers=True)
    assert torch.equal(plain.values, masked.values)
