"""Relevance and guided gradients against captum, against each other, and worked out by hand."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import Explainer, ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.runtime.batching import Budget
from core.runtime.run import Run
from core.tasks.classification import ClassScore
from tests.conftest import build, handle, images, shared_handle
from tests.test_oracles import clean, furthest, run64

pytestmark = pytest.mark.filterwarnings("ignore:Setting (forward|backward)", "ignore:Input Tensor")


# -- guided backpropagation ---------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["max", "l2", "mean", "sum"])
def test_guided_backpropagation_is_captums(reduction: str) -> None:
    run = run64("resnet")
    ours, _ = METHODS.make("guided_backprop", {"reduction": reduction}).attribute(run)
    grad = captum.attr.GuidedBackprop(clean(run)).attribute(run.x.clone(), target=[1, 3]).detach()
    theirs = {
        "max": grad.abs().amax(1),
        "l2": grad.norm(dim=1),
        "mean": grad.abs().mean(1),
        "sum": grad.sum(1),
    }[reduction]
    assert furthest(ours, theirs) <= 1e-12


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_guided_gradcam_is_captums(layer: str) -> None:
    asked = run64("resnet")
    run = Run(asked.subject, asked.x, asked.target, layer=layer)
    ours, _ = METHODS.make("guided_gradcam", {"reduction": "sum"}).attribute(run)
    model = clean(run)
    peer = captum.attr.GuidedGradCam(model, model.get_submodule(layer))
    theirs = peer.attribute(run.x.clone(), target=[1, 3], interpolate_mode="bilinear").detach()
    assert furthest(ours, theirs.sum(1)) <= 1e-12


@pytest.mark.parametrize(("name", "act"), [("vit", "gelu"), ("efficientnet", "silu")])
def test_guided_backpropagation_is_refused_without_relu(name: str, act: str) -> None:
    owner = shared_handle(name)
    with pytest.raises(NotApplicableError, match=f"{name} uses {act}; use saliency"):
        Explainer(owner).explain(images(owner, 1), "guided_backprop", target=1)


def test_a_replaced_activation_is_noticed() -> None:
    model = build("resnet")
    owner = ModelHandle(model, name="lent", preprocessing=Preprocessing.from_model(model))
    method = METHODS.make("guided_backprop")
    assert method.refusal(owner) == ""
    model.layer1[0].act1 = nn.GELU()
    assert "uses gelu" in method.refusal(owner)


# -- variance under noise -----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [4, 16])
@pytest.mark.parametrize("base", ["saliency", "guided_backprop"])
def test_vargrad_is_the_variance_over_the_same_noise(base: str, rows: int) -> None:
    owner = handle("resnet")
    owner.budget = Budget(rows)  # the copies come in two passes, or in one
    x, samples = images(owner, 1), 6
    ours = Explainer(owner).explain(
        x, "vargrad", target=1, base=base, samples=samples, noise=0.2, seed=3
    )
    drawn = torch.randn((samples, *x.shape[1:]), generator=torch.Generator().manual_seed(3))
    noisy = x + 0.2 * (x.max() - x.min()) * drawn
    maps = Explainer(owner).explain(noisy, base, target=1).values.double()
    expected = (maps**2).mean(0) - maps.mean(0) ** 2
    assert furthest(ours.values, expected[None].float()) <= 1e-5


def test_vargrad_without_noise_is_zero() -> None:
    run = run64("vit")
    ours, _ = METHODS.make("vargrad", {"base": "saliency", "noise": 0.0}).attribute(run)
    assert ours.abs().max() <= 1e-12


@pytest.mark.parametrize("base", ["vargrad", "smoothgrad", "random"])
def test_vargrad_repeats_no_repetition_and_no_control(base: str) -> None:
    with pytest.raises(ValueError, match="no base method"):
        METHODS.make("vargrad", {"base": base})


# -- relevance ----------------------------------------------------------------------------------


class Tiny(nn.Module):
    """Two convolutions, the first normalised, a pool and a classifier."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 5, 2, bias=bias)
        self.bn, self.fc = nn.BatchNorm2d(4), nn.Linear(5, 3, bias=bias)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for tensor in (*self.parameters(), self.bn.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            self.bn.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
            if not bias:
                self.bn.bias.zero_()
                self.bn.running_mean.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv1(x)), inplace=True)
        x = F.max_pool2d(self.conv2(x).relu_(), 2)
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def tiny(bias: bool = True) -> Run:
    model = Tiny(bias).double().eval()
    preprocessing = Preprocessing(input_size=(3, 8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    owner = ModelHandle(model, name="tiny", preprocessing=preprocessing)
    return Run(owner, images(owner, 2).double(), ClassScore((0, 2)))


def relevance(run: Run, key: str = "lrp", **params: Any) -> tuple[Tensor, Tensor, Tensor]:
    values, score = METHODS.make(key, params).attribute(run)
    return values, score, run.extras["completeness_error"]


def test_without_biases_epsilon_is_input_times_gradient() -> None:
    run = tiny(bias=False)
    ours, score, gap = relevance(run, rule="epsilon", epsilon=1e-12)
    theirs, _ = METHODS.make("input_x_gradient").attribute(run)
    assert furthest(ours, theirs) <= 1e-9
    torch.testing.assert_close(ours.sum((1, 2)), score, rtol=1e-8, atol=1e-10)
    assert gap.max() <= 1e-8


def handed_back(
    relevance: Tensor, x: Tensor, *terms: tuple[Tensor, Tensor, Tensor | None]
) -> Tensor:
    """Relevance (1, K, h, w) of a convolution's output, shared out weight by weight.

    Each term is what stands for the input, the weights and the bias; all of them share one sum.
    """
    size = terms[0][1].shape[-1]
    windows = [F.unfold(of, size)[0] for of, _, _ in terms]
    flat = relevance.flatten(2)[0]
    total = sum(
        w.flatten(1) @ window + (0 if b is None else b[:, None])
        for window, (_, w, b) in zip(windows, terms, strict=True)
    )
    shares = flat / (total + 1e-6 * torch.where(total < 0, -1.0, 1.0))
    parts = [
        (w.flatten(1).T @ shares) * window for window, (_, w, _) in zip(windows, terms, strict=True)
    ]
    return F.fold(sum(parts)[None], x.shape[2:], size)


@pytest.mark.parametrize("first", ["same", "flat", "wsquare", "box"])
def test_the_rules_for_convolutions_are_those_worked_out_by_hand(first: str) -> None:
    run = tiny()
    ours, _, _ = relevance(run, first=first)
    net: Any = run.subject.model
    black, white = (run.subject.pixel(level).expand_as(run.x[:1]) for level in (0.0, 1.0))
    with torch.no_grad():
        scale = net.bn.weight / (net.bn.running_var + net.bn.eps).sqrt()
        w1 = net.conv1.weight * scale[:, None, None, None]
        b1 = net.bn.bias - net.bn.running_mean * scale
        w2, b2 = net.conv2.weight, net.conv2.bias
        for image, c in enumerate((0, 2)):
            x = run.x[image : image + 1]
            a1 = F.conv2d(x, w1, b1).relu()
            a2 = F.conv2d(a1, w2, b2).relu()
            pooled, places = F.max_pool2d(a2, 2, return_indices=True)
            means = pooled.mean((2, 3))
            score = means @ net.fc.weight[c] + net.fc.bias[c]
            shares = means * net.fc.weight[c] * score / (score + 1e-6 * score.sign())
            even = pooled / pooled.sum((2, 3), keepdim=True).clamp_min(1e-300)
            r2 = F.max_unpool2d(shares[..., None, None] * even, places, 2, output_size=a2.shape)
            r1 = handed_back(r2, a1, (a1, w2.clamp_min(0), b2.clamp_min(0)))
            ones = torch.ones_like(x)
            terms = {
                "same": [
                    (x.clamp_min(0), w1.clamp_min(0), b1.clamp_min(0)),
                    (x.clamp_max(0), w1.clamp_max(0), None),
                ],
                "flat": [(ones, torch.ones_like(w1), None)],
                "wsquare": [(ones, w1**2, None)],
                "box": [
                    (x, w1, None),
                    (-black, w1.clamp_min(0), None),
                    (-white, w1.clamp_max(0), None),
                ],
            }[first]
            expected = handed_back(r1, x, *terms).sum(1)
            assert furthest(ours[image : image + 1], expected) <= 1e-9


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "convnext", "mambaout"])
def test_the_gap_is_what_the_map_lacks(name: str) -> None:
    run = run64(name)
    values, score, gap = relevance(run)
    torch.testing.assert_close(gap, (values.sum((1, 2)) / score - 1).abs())


def bias_free(name: str) -> Run:
    """A transformer in float64 whose layers and normalisations have no biases."""
    model = build(name).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias") or key in ("pos_embed", "cls_token", "reg_token"):
                parameter.zero_()
    owner = ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))
    return Run(owner, images(owner, 2).double(), ClassScore((1, 3)))


@pytest.mark.parametrize("name", ["vit_pooled", "vit"])
def test_cp_lrp_sums_to_the_logit_where_there_are_no_biases(name: str) -> None:
    values, score, gap = relevance(bias_free(name), "cp_lrp", epsilon=1e-12)
    torch.testing.assert_close(values.sum((1, 2)), score, rtol=1e-7, atol=0)
    assert gap.max() <= 1e-7


class Block(nn.Module):
    """Softmax attention among the pixels and a gated activation, written out."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        weights = (tokens @ tokens.mT / 3).softmax(-1)
        return F.gelu(F.layer_norm(weights @ tokens, (3,), eps=0.1)).sum(1)


@pytest.mark.parametrize("key", ["attnlrp", "cp_lrp"])
def test_attention_is_handed_back_as_written_out(key: str) -> None:
    preprocessing = Preprocessing(input_size=(3, 3, 3), mean=(0.5,) * 3, std=(0.5,) * 3)
    owner = ModelHandle(Block(), name="block", preprocessing=preprocessing)
    run = Run(owner, images(owner, 1).double(), ClassScore(1))
    ours, score, _ = relevance(run, key)
    t = run.x.flatten(2).mT[0]
    logits = t @ t.T / 3
    p = logits.softmax(-1)
    mixed = p @ t
    scale = (mixed.var(-1, correction=0, keepdim=True) + 0.1).rsqrt()
    normed = (mixed - mixed.mean(-1, keepdim=True)) * scale
    torch.testing.assert_close(F.gelu(normed)[:, 1].sum()[None], score)
    r = torch.zeros_like(normed)
    r[:, 1] = F.gelu(normed)[:, 1]
    flow = r / normed * scale  # relevance per unit, on its way through the mean
    r_mixed = mixed * (flow - flow.mean(-1, keepdim=True))
    products = p[:, :, None] * t[None] * (r_mixed / mixed)[:, None]
    if key == "cp_lrp":
        expected = products.sum(0)
    else:
        r_weights = products.sum(2) / 2
        r_logits = (r_weights - p * r_weights.sum(1, keepdim=True)) * logits
        pairs = (t[:, None] * t[None]) * (r_logits / logits / 3)[:, :, None] / 2
        expected = products.sum(0) / 2 + pairs.sum(1) + pairs.sum(0)
    assert furthest(ours, expected.sum(-1).view(1, 3, 3)) <= 1e-9


REFUSED = [
    ("lrp", "vit", "vit uses attention; use attnlrp"),
    ("lrp", "swin", "swin uses attention; use attnlrp"),
    ("attnlrp", "resnet", "resnet uses none; use lrp"),
    ("cp_lrp", "convnext", "convnext uses none; use lrp"),
]


@pytest.mark.parametrize(("key", "name", "reason"), REFUSED)
def test_rules_are_refused_where_they_are_not_defined(key: str, name: str, reason: str) -> None:
    assert reason in METHODS.make(key).refusal(shared_handle(name))
