"""The promises methods make, on every model that can run them and on models known by heart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.tasks.classification import ClassScore
from core.types import Property
from tests.conftest import build, handle, images, pairs, quick, runnable, shared_handle


@pytest.mark.parametrize(("key", "name"), pairs(Property.CLASS_SENSITIVE))
def test_another_class_gives_another_map(key: str, name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 1)
    one, other = (Explainer(owner).explain(x, quick(key), target=c).values for c in (1, 4))
    assert (one - other).abs().max() > 1e-3 * one.abs().max()


ALMOST_ALIKE = {"guided_backprop", "eigengradcam"}
"""Methods whose maps differ between classes, but too little on some trained model to promise it;
see test_promises.py."""


def test_methods_that_ignore_the_class_do_not_claim_otherwise() -> None:
    owner = shared_handle("vit")
    x = images(owner, 1)
    for key, cls in METHODS.items():
        if key in ALMOST_ALIKE:
            assert Property.CLASS_SENSITIVE not in cls.properties
            continue
        if Property.CLASS_SENSITIVE not in cls.properties and runnable(quick(key), owner):
            one, other = (Explainer(owner).explain(x, quick(key), target=c).values for c in (1, 4))
            assert torch.equal(one, other), key


@pytest.mark.parametrize(("key", "name"), pairs(Property.NONNEGATIVE))
def test_no_value_is_negative_by_default(key: str, name: str) -> None:
    owner = shared_handle(name)
    answer = Explainer(owner).explain(images(owner, 2), quick(key), target=1)
    assert answer.values.min() >= 0


@pytest.mark.parametrize(("key", "name"), pairs(Property.EFFICIENT))
def test_an_efficient_map_sums_to_the_rise_over_what_is_hidden(key: str, name: str) -> None:
    owner = shared_handle(name)
    x, method = images(owner, 2), METHODS.make(quick(key), {"baseline": "black"})
    answer = Explainer(owner).explain(x, method, target=1)
    hidden = Explainer(owner).predict(owner.pixel(0.0).expand_as(x).clone()).scores[:, 1]
    rise = answer.score - hidden
    torch.testing.assert_close(answer.values.sum((1, 2)), rise, rtol=1e-3, atol=1e-5)
    assert answer.extras["efficiency_error"].max() < 1e-3


PLENTY: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 200, "baselines": ["black"]},
    "idgi": {"steps": 10, "baseline": "black"},
    "guided_ig": {"baseline": "black"},
    "deeplift": {"baseline": "black"},
}
"""Parameters that leave no more than a small completeness error, from black."""


@pytest.mark.parametrize(
    "name", ["resnet", pytest.param("mambaout", marks=pytest.mark.slow), "vit"]
)
def test_a_complete_map_sums_to_the_rise_of_the_score(name: str) -> None:
    owner = ModelHandle(
        build(name).double(), name=name, preprocessing=Preprocessing.from_model(build(name))
    )
    x = images(owner, 2)
    target = ClassScore((1, 3))
    for key, cls in METHODS.items():
        if Property.COMPLETE not in cls.properties:
            continue
        answer = Explainer(owner).explain(x, key, target=target, **PLENTY.get(key, {}))
        floor = Explainer(owner).predict(owner.pixel(0.0).expand_as(x).clone()).scores
        rise = answer.score - floor[[0, 1], [1, 3]]
        total = answer.values.sum((1, 2))
        error = (total - rise).abs() / rise.abs()
        assert error.max() < 0.02, key
        torch.testing.assert_close(
            answer.extras["completeness_error"].float(), error.float(), rtol=0.05, atol=1e-3
        )


def test_the_completeness_error_is_honest_when_steps_do_not_suffice() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    coarse = Explainer(owner).explain(
        x, "integrated_gradients", target=1, steps=1, baselines=["black"]
    )
    floor = Explainer(owner).predict(owner.pixel(0.0).expand_as(x).clone()).scores[0, 1]
    error = abs((coarse.values.sum() - (coarse.score[0] - floor)) / (coarse.score[0] - floor))
    assert error > 0.05
    torch.testing.assert_close(coarse.extras["completeness_error"][0], error, rtol=1e-3, atol=1e-4)


# -- a model known by heart ---------------------------------------------------------------------

SIZE = 8
FINEST: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"baselines": ["black"]},
    "guided_ig": {"baseline": "black"},
    "deeplift": {"baseline": "black"},
    "occlusion": {"window": 1, "stride": 1, "baseline": "black"},
    "shap": {"evaluations": 20000, "baseline": "black"},
}


class Linear(nn.Module):
    """Three linear scores of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, 3)
        with torch.no_grad():
            self.fc.weight.copy_(torch.randn(3, 192, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out

    def weight(self, index: int) -> Tensor:
        """(3, 8, 8) the weight of each pixel for one score."""
        return self.fc.weight[index].detach().view(3, SIZE, SIZE)


def linear() -> ModelHandle:
    preprocessing = Preprocessing(
        input_size=(3, SIZE, SIZE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)
    )
    return ModelHandle(Linear(), name="linear", preprocessing=preprocessing)


@pytest.mark.parametrize(
    "key", [k for k, cls in METHODS.items() if Property.LINEAR_EXACT in cls.properties]
)
def test_on_a_linear_model_the_map_is_each_pixels_contribution(key: str) -> None:
    owner = linear()
    x = images(owner, 2)
    target = ClassScore(2) - ClassScore(0)
    answer = Explainer(owner).explain(x, key, target=target, **FINEST.get(key, {}))
    weight = owner.model.weight(2) - owner.model.weight(0)  # type: ignore[operator]
    start = torch.zeros(3, 1, 1) if key == "input_x_gradient" else owner.pixel(0.0)
    expected = (weight * (x - start)).sum(1)
    torch.testing.assert_close(answer.values, expected, rtol=1e-4, atol=1e-4)


def test_saliency_reductions_on_a_linear_model() -> None:
    owner = linear()
    x, weight = images(owner, 1), owner.model.weight(1)  # type: ignore[operator]
    expected = {
        "max": weight.abs().amax(0),
        "mean": weight.abs().mean(0),
        "l2": weight.norm(dim=0),
        "sum": weight.sum(0),
    }
    for reduction, value in expected.items():
        answer = Explainer(owner).explain(x, "saliency", target=1, reduction=reduction)
        torch.testing.assert_close(answer.values[0], value)


def test_black_and_white_are_pixels_of_that_colour() -> None:
    owner = linear()
    x, weight = images(owner, 1), owner.model.weight(1)  # type: ignore[operator]
    for name, level in (("black", 0.0), ("white", 1.0)):
        start = (level - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.25, 0.3])
        answer = Explainer(owner).explain(
            x, "integrated_gradients", target=1, baselines=[name], steps=2
        )
        expected = (weight * (x[0] - start[:, None, None])).sum(0)
        torch.testing.assert_close(answer.values[0], expected, rtol=1e-4, atol=1e-4)


def test_several_baselines_are_averaged() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 2)

    def ask(*names: str) -> Tensor:
        return (
            Explainer(owner)
            .explain(x, "integrated_gradients", target=1, baselines=names, steps=4)
            .values
        )

    mean = (ask("black") + ask("blur") + ask("random")) / 3
    torch.testing.assert_close(ask("black", "blur", "random"), mean, rtol=1e-3, atol=1e-5)


def test_random_baselines_are_drawn_anew_each_time() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    one, two = (
        Explainer(owner)
        .explain(x, "integrated_gradients", target=1, baselines=["random"] * n, steps=3)
        .values
        for n in (1, 2)
    )
    assert (one - two).abs().max() > 1e-3 * one.abs().max()


def test_hirescam_is_refused_where_a_normalisation_undoes_the_layers_scale() -> None:
    owner = shared_handle("convnext")
    with pytest.raises(NotApplicableError, match="normalisation"):
        Explainer(owner).explain(images(owner, 1), "hirescam", target=1, layer="stages.1")


def test_a_cam_is_zero_and_says_so_where_the_score_does_not_depend_on_the_patches() -> None:
    owner = shared_handle("vit")
    for key in ("gradcam", "layercam", "hirescam", "gradcam_plus_plus"):
        found = Explainer(owner).explain(images(owner, 1), key, target=1, layer="blocks.5")
        assert not found.values.any()
        assert found.extras["zero_gradient"].tolist() == [1]


def test_controls_do_not_depend_on_the_model() -> None:
    one, other = handle("resnet", 0), handle("resnet", 1)
    x = images(one, 1)
    for key, cls in METHODS.items():
        if Property.MODEL_FREE in cls.properties:
            maps = [Explainer(h).explain(x, key, target=1).values for h in (one, other)]
            assert torch.equal(*maps), key


def test_edges_are_where_the_picture_changes() -> None:
    owner = shared_handle("resnet")
    x = torch.zeros(1, *owner.preprocessing.input_size)
    x[..., 80:] = 1
    edges = Explainer(owner).explain(x, "sobel", target=0).values[0]
    assert edges[:, 79:81].min() > 0
    assert edges[:, :78].max() == 0
    assert edges[:, 82:].max() == 0


def test_smoothgrad_without_noise_is_its_base() -> None:
    owner = shared_handle("vit")
    x = images(owner, 2)
    for base in ("saliency", "gradcam", "input_x_gradient"):
        smooth = Explainer(owner).explain(x, "smoothgrad", target=1, base=base, noise=0, samples=3)
        plain = Explainer(owner).explain(x, base, target=1)
        torch.testing.assert_close(smooth.values, plain.values, rtol=1e-4, atol=1e-6)


def test_smoothgrad_calms() -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    maps = [
        Explainer(owner).explain(x, "smoothgrad", target=1, samples=40, noise=0.1, seed=s).values
        for s in (0, 1)
    ]
    single = [
        Explainer(owner).explain(x, "smoothgrad", target=1, samples=1, noise=0.1, seed=s).values
        for s in (0, 1)
    ]
    assert (maps[0] - maps[1]).norm() < 0.5 * (single[0] - single[1]).norm()
