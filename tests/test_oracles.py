"""Our maps against the reference libraries, and against the formulas written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import captum.attr
import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn import functional as F

from core import Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.runtime.attention_capture import record_attention
from core.runtime.run import Run
from core.tasks.classification import ClassScore
from core.types import Layout, upsample
from tests.conftest import SAMPLES, ZOO, build, images, shared_handle

PICTURES = [SAMPLES / "chelsea.jpg", SAMPLES / "coffee.jpg"]
SEEN = (285, 967)
"""What is on them, as ImageNet classes: an Egyptian cat, an espresso."""


class Case:
    """An explainer, two images in model units, and a class for each."""

    def __init__(self, explainer: Explainer, x: Tensor, classes: tuple[int, int]) -> None:
        self.explainer, self.x, self.classes = explainer, x, classes
        self.owner = explainer.model
        self.target = ClassScore(classes)

    def ours(self, method: str, **question: Any) -> Any:
        return self.explainer.explain(self.x, method, target=self.target, **question)

    def copy(self) -> nn.Module:
        """The model in evaluation mode, to be handed to a library that may leave it dirty."""
        return copy.deepcopy(self.owner.model).eval().requires_grad_()

    def in_float64(self) -> Case:
        """The same question with all rounding out of the way."""
        name = self.owner.name if self.owner.name in ZOO else "lite0"
        return Case(Explainer(doubled(name)), self.x.double(), self.classes)

    def layout(self, layer: str) -> Layout:
        found = self.owner.layers[layer].layout
        assert found is not None
        return found


@pytest.fixture
def case(request: pytest.FixtureRequest, lite0: Explainer) -> Case:
    """Of the name given: the embedded model on real pictures, or a model of the zoo on noise."""
    if request.param == "lite0":
        return Case(lite0, lite0.prepare(PICTURES).x, SEEN)
    owner = shared_handle(request.param)
    return Case(Explainer(owner), images(owner, 2), (1, 3))


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", names, indirect=True)


def at(*places: tuple[str, str | None]) -> pytest.MarkDecorator:
    """Models and layers; no layer is the default layer."""
    ids = [f"{name}-{layer or 'default'}" for name, layer in places]
    return pytest.mark.parametrize(("case", "layer"), places, indirect=["case"], ids=ids)


def furthest(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the reference's largest value."""
    assert ours.shape == theirs.shape
    assert theirs.abs().amax(tuple(range(1, theirs.ndim))).min() > 0, "the reference says nothing"
    return float((ours - theirs).abs().max() / theirs.abs().max())


# -- class activation maps ----------------------------------------------------------------------

CNN_PLACES = [
    ("lite0", None),
    ("lite0", "blocks.5"),
    ("resnet", None),
    ("resnet", "layer2"),
    ("efficientnet", None),
    ("convnext", None),
]
PLACES = [
    *CNN_PLACES,
    ("mambaout", None),
    ("swin", None),
    ("swin", "layers.1"),
    ("vit", None),
    ("vit", "blocks.3.norm2"),
    ("vit_registers", None),
    ("vit_pooled", None),
    ("deit_distilled", "blocks.1.norm1"),
]
BEFORE_NORMS = [("convnext", "stages.2"), ("mambaout", "stages.1"), ("vit", "blocks.2")]
"""Where a normalisation undoes the layer's scale: HiResCAM is zero but for rounding there, and not
fit to be stretched to [0, 1]."""


def reshaped(layout: Layout) -> Callable[[Tensor], Tensor] | None:
    """The `reshape_transform` that the libraries want for what is not (B, K, h, w)."""
    if layout.format == "NCHW":
        return None
    height, width = layout.grid

    def transform(output: Tensor) -> Tensor:
        cells = output.reshape(len(output), -1, layout.channels)[:, -height * width :]
        return cells.reshape(len(output), height, width, -1).movedim(3, 1)

    return transform


def zero_to_one(maps: np.ndarray) -> np.ndarray:
    """Each map from 0 to 1, as pytorch-grad-cam scales it."""
    above = maps - maps.min((1, 2), keepdims=True)
    return above / (1e-7 + above.max((1, 2), keepdims=True))


PEERS_CAMS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam_plus_plus": pytorch_grad_cam.GradCAMPlusPlus,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
}


@at(*PLACES)
@pytest.mark.parametrize("key", PEERS_CAMS)
def test_cams_are_those_of_pytorch_grad_cam(case: Case, layer: str | None, key: str) -> None:
    case = case.in_float64()  # so that the processor's rounding does not decide
    answer = case.ours(key, layer=layer)
    model = case.copy()
    targets = [ClassifierOutputTarget(c) for c in case.classes]
    transform = reshaped(case.layout(answer.layer))
    with PEERS_CAMS[key](model, [model.get_submodule(answer.layer)], transform) as cam:
        theirs = cam(case.x, targets)
    scaled = torch.from_numpy(zero_to_one(answer.values.numpy()))
    ours = zero_to_one(upsample(scaled, tuple(case.x.shape[2:])).numpy())
    assert theirs.max((1, 2)).min() > 0.99, "the reference says nothing"
    assert np.abs(ours - theirs).max() <= 1.1e-6


@at(*PLACES, *BEFORE_NORMS)
@pytest.mark.parametrize("key", ["gradcam", "layercam"])
def test_cams_on_the_layers_grid_are_those_of_torchcam(
    case: Case, layer: str | None, key: str
) -> None:
    answer = case.ours(key, layer=layer)
    peer = {"gradcam": torchcam.methods.GradCAM, "layercam": torchcam.methods.LayerCAM}[key]
    model, transform = case.copy(), reshaped(case.layout(answer.layer))
    with peer(model, answer.layer, reshape_transform=transform) as extractor:
        (theirs,) = extractor(list(case.classes), model(case.x), normalized=False)
    assert furthest(answer.values, theirs) <= 2e-7


@at(*CNN_PLACES)
def test_signed_gradcam_is_captums(case: Case, layer: str | None) -> None:
    answer = case.ours("gradcam", layer=layer, relu=False)
    model = case.copy()
    peer = captum.attr.LayerGradCam(model, model.get_submodule(answer.layer))
    theirs = peer.attribute(case.x, target=list(case.classes))
    assert furthest(answer.values, theirs.detach()[:, 0]) <= 2e-7


@at(*PLACES)
def test_signed_hirescam_is_captums_gradient_times_activation(
    case: Case, layer: str | None
) -> None:
    answer = case.ours("hirescam", layer=layer, relu=False)
    model = case.copy()
    peer = captum.attr.LayerGradientXActivation(model, model.get_submodule(answer.layer))
    transform = reshaped(case.layout(answer.layer)) or (lambda output: output)
    theirs = transform(peer.attribute(case.x, target=list(case.classes)).detach())
    off = (answer.values - theirs.sum(1)).abs().max() / theirs.abs().sum(1).max()
    assert off <= 2e-7


# -- gradients ----------------------------------------------------------------------------------

GRADIENTS = on("lite0", "resnet", "mambaout", "swin", "vit_registers")


@GRADIENTS
@pytest.mark.parametrize("reduction", ["max", "l2", "mean", "sum"])
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_saliency_is_captums(case: Case, reduction: str) -> None:
    peer = captum.attr.Saliency(case.copy())
    grad = peer.attribute(case.x.clone(), target=list(case.classes), abs=False).detach()
    theirs = {
        "max": grad.abs().max(1).values,
        "l2": grad.square().sum(1).sqrt(),
        "mean": grad.abs().mean(1),
        "sum": grad.sum(1),
    }[reduction]
    assert furthest(case.ours("saliency", reduction=reduction).values, theirs) <= 1e-6


@GRADIENTS
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_input_x_gradient_is_captums(case: Case) -> None:
    peer = captum.attr.InputXGradient(case.copy())
    theirs = peer.attribute(case.x.clone(), target=list(case.classes)).detach().sum(1)
    assert furthest(case.ours("input_x_gradient").values, theirs) <= 1e-6


@on("lite0", "resnet", "vit")
@pytest.mark.parametrize(
    ("base", "peer", "reduce"),
    [
        ("saliency", captum.attr.Saliency, lambda grad: grad.abs().amax(1)),
        ("input_x_gradient", captum.attr.InputXGradient, lambda product: product.sum(1)),
    ],
)
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_smoothgrad_is_captums_map_averaged_over_the_same_noise(
    case: Case, base: str, peer: Any, reduce: Callable[[Tensor], Tensor]
) -> None:
    samples, seed, asked = 5, 3, peer(case.copy())
    answer = case.ours("smoothgrad", base=base, samples=samples, noise=0.2, seed=seed)
    drawn = torch.randn((samples, *case.x.shape[1:]), generator=torch.Generator().manual_seed(seed))
    for image, (x, c) in enumerate(zip(case.x, case.classes, strict=True)):
        noisy = [x + 0.2 * (x.max() - x.min()) * noise for noise in drawn]
        maps = [reduce(asked.attribute(row[None], target=c).detach()) for row in noisy]
        assert furthest(answer.values[image : image + 1], sum(maps) / samples) <= 2e-6


@on("resnet", "vit")
@pytest.mark.parametrize("base", ["saliency", "input_x_gradient", "gradcam"])
def test_smoothgrad_without_noise_is_its_base(case: Case, base: str) -> None:
    smooth = case.ours("smoothgrad", base=base, samples=3, noise=0.0).values
    assert furthest(smooth, case.ours(base).values) <= 1e-6


# -- integrated gradients -----------------------------------------------------------------------


@cache
def doubled(name: str) -> ModelHandle:
    """The embedded model or one of the zoo, in float64."""
    model = Explainer().model.model if name == "lite0" else build(name)
    model = copy.deepcopy(model).eval().double().requires_grad_()
    return ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))


def run64(name: str) -> Run:
    """Two images in float64, where rounding flips no ReLU, and nothing is cast on the way."""
    owner = doubled(name)
    x = Explainer(owner).prepare(PICTURES).x if name == "lite0" else images(owner, 2).double()
    if name == "lite0":
        x = F.interpolate(x, (64, 64), mode="area")  # depthwise convolutions are slow in float64
    return Run(owner, x, ClassScore((1, 3)), seed=7)


def clean(run: Run) -> nn.Module:
    """A copy of the run's model, for a library that may leave it dirty."""
    return copy.deepcopy(run.subject.model).eval().requires_grad_()


def colour(run: Run, level: float) -> Tensor:
    """Pictures of one grey level, in model units."""
    settings: Any = run.subject.model.pretrained_cfg
    units = (level - torch.tensor(settings["mean"])) / torch.tensor(settings["std"])
    return units[None, :, None, None].to(run.x).expand_as(run.x)


def blurred(x: Tensor) -> Tensor:
    """A Gaussian blur whose standard deviation is a sixteenth of the longer side, by OpenCV."""
    sigma = max(x.shape[2:]) / 16
    side = 2 * int(np.ceil(2 * sigma)) + 1
    soft = [
        cv2.GaussianBlur(picture, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
        for picture in x.movedim(1, 3).numpy()
    ]
    return torch.from_numpy(np.stack(soft)).movedim(3, 1).contiguous()


def start(name: str, run: Run) -> Tensor:
    """What a baseline should be, said another way."""
    black, white = colour(run, 0.0), colour(run, 1.0)
    noise = torch.rand(run.x.shape[1:], generator=torch.Generator().manual_seed(run.seed))
    return {
        "black": black,
        "white": white,
        "zero": 0 * run.x,
        "mean": run.x.flatten(2).mean(2)[..., None, None].expand_as(run.x),
        "blur": blurred(run.x),
        "random": black + noise.to(run.x) * (white - black),
    }[name]


IG_CASES = [
    *[("vit_pooled", (kind,), 9) for kind in ("black", "white", "zero", "mean", "blur", "random")],
    ("vit_registers", ("black", "white", "blur"), 7),
    ("vit", ("black",), 20),
    ("swin", ("mean", "random"), 12),
    ("resnet", ("white",), 5),
    ("mambaout", ("black",), 1),
    ("lite0", ("black", "blur"), 4),
]


@pytest.mark.parametrize(("name", "baselines", "steps"), IG_CASES)
def test_integrated_gradients_are_captums(
    name: str, baselines: tuple[str, ...], steps: int
) -> None:
    run = run64(name)
    method = METHODS.make("integrated_gradients", {"steps": steps, "baselines": baselines})
    ours, score = method.attribute(run)
    model = clean(run)
    maps, gaps, floors = [], [], []
    for kind in baselines:
        theirs, gap = captum.attr.IntegratedGradients(model).attribute(
            run.x,
            start(kind, run),
            target=[1, 3],
            n_steps=steps,
            method="gausslegendre",
            return_convergence_delta=True,
        )
        maps.append(theirs.detach().sum(1))
        gaps.append(gap)
        floors.append(model(start(kind, run)).detach()[[0, 1], [1, 3]])
    assert furthest(ours, torch.stack(maps).mean(0)) <= 1e-10
    error = torch.stack(gaps).mean(0).abs() / (score - torch.stack(floors).mean(0)).abs()
    torch.testing.assert_close(run.extras["completeness_error"], error, rtol=1e-8, atol=1e-10)


# -- occlusion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "window", "stride", "baseline"),
    [
        ("vit_pooled", 16, 12, "zero"),  # the last window ends at the rim
        ("vit_pooled", 17, 9, "black"),  # cut short by the rim
        ("vit_pooled", 20, 20, "mean"),  # cut short, no overlap
        ("vit_pooled", 64, 64, "white"),  # one window, the whole picture
        ("vit_registers", 24, 7, "random"),
        ("vit", 50, 40, "blur"),
        ("resnet", 100, 45, "white"),
        ("lite0", 30, 20, "black"),
    ],
)
def test_occlusion_is_captums(name: str, window: int, stride: int, baseline: str) -> None:
    run = run64(name)
    method = METHODS.make("occlusion", {"window": window, "stride": stride, "baseline": baseline})
    ours, _ = method.attribute(run)
    with torch.no_grad():
        theirs = captum.attr.Occlusion(clean(run)).attribute(
            run.x,
            (3, window, window),
            (3, stride, stride),
            baselines=start(baseline, run),
            target=[1, 3],
        )
    assert furthest(ours, theirs[:, 0]) <= 1e-7  # theirs is cast to float32


# -- attention ----------------------------------------------------------------------------------


def unfuse(model: nn.Module) -> dict[str, Tensor]:
    """Switch to timm's own unfused path; each pass fills in its maps, as they reach the dropout."""
    maps: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            module.attn_drop.register_forward_pre_hook(
                lambda _, args, name=name: maps.update({name: args[0]})
            )
    return maps


@on("swin", "vit", "vit_registers", "vit_pooled", "deit_distilled")
def test_attention_maps_are_those_of_timms_unfused_path(case: Case) -> None:
    fused, unfused = case.copy(), case.copy()
    for module in fused.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    theirs = unfuse(unfused)
    with torch.no_grad():
        unfused(case.x)
        plain = fused(case.x)
        with record_attention(fused) as ours:
            explicit = fused(case.x)
    assert list(ours) == list(theirs)
    for name, weights in theirs.items():
        torch.testing.assert_close(ours[name], weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(explicit, plain, rtol=0, atol=1e-6)


@on("vit", "vit_pooled", "deit_distilled")
def test_attention_is_the_softmax_of_queries_on_keys(case: Case) -> None:
    layer = "blocks.1.attn"
    model = case.copy()
    attends: Any = model.get_submodule(layer)
    found: list[Tensor] = []
    attends.qkv.register_forward_hook(lambda *seen: found.append(seen[2].detach()))
    model(case.x)
    batch, tokens, _ = found[0].shape
    query, key, _ = found[0].view(batch, tokens, 3, attends.num_heads, -1).permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    prefix, (height, width) = case.layout("blocks.1").prefix, case.layout("blocks.1").grid
    rows = {
        "mean": weights[:, :, prefix:, prefix:].mean(2),
        "0": weights[:, :, prefix, prefix:],
        str(height * width - 1): weights[:, :, -1, prefix:],
    }
    if prefix:
        rows |= {"class": weights[:, :, 0, prefix:], "auto": weights[:, :, 0, prefix:]}
    else:
        rows |= {"auto": rows["mean"]}
    for query_token, row in rows.items():
        for head, expected in ((-1, row.mean(1)), (1, row[:, 1])):
            ours = case.ours("attention", layer=layer, head=head, query=query_token).values
            torch.testing.assert_close(
                ours, expected.reshape(batch, height, width), rtol=0, atol=1e-6
            )


class Attends(nn.Module):
    """Nothing but one call of `scaled_dot_product_attention`."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **self.options)


def _mask(*shape: int) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(9))
    return (drawn > 0.4) | torch.eye(*shape[-2:], dtype=torch.bool)


@pytest.mark.parametrize(
    ("options", "queries", "heads"),
    [
        ({}, 6, 2),
        ({"attn_mask": _mask(6, 6)}, 6, 2),
        ({"attn_mask": _mask(2, 1, 6, 6)}, 6, 2),
        ({"attn_mask": 3 * torch.randn(2, 4, 6, 6)}, 6, 4),
        ({"is_causal": True}, 6, 2),
        ({"is_causal": True}, 4, 2),
        ({"scale": 0.3}, 6, 2),
        ({"enable_gqa": True}, 6, 4),
        ({"enable_gqa": True, "scale": 2.0, "is_causal": True}, 6, 6),
        ({"dropout_p": 0.0, "attn_mask": None}, 3, 2),
    ],
)
def test_a_hidden_attention_map_is_what_an_identity_for_values_shows(
    options: dict[str, Any], queries: int, heads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn((2, heads, queries, 8), generator=generator)
    key = torch.randn((2, 2 if options.get("enable_gqa") else heads, 6, 8), generator=generator)
    identity = torch.eye(6).expand(*key.shape[:2], 6, 6)
    model = Attends(**options)
    with record_attention(model) as maps:
        output = model(query, key, identity)
    weights = model(query, key, identity)
    torch.testing.assert_close(maps[""], weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(output, weights, rtol=0, atol=1e-6)


def rolled_out(
    layers: Sequence[np.ndarray], fusion: str, discard: float, query: str, layout: Layout
) -> np.ndarray:
    """Attention rollout of one image, written out; `layers` are (heads, T, T)."""
    tokens = layers[0].shape[-1]
    flow = np.eye(tokens)
    for heads in layers:
        fused = {"mean": heads.mean, "max": heads.max, "min": heads.min}[fusion](0)
        weakest = np.sort(fused.ravel())[: int(discard * fused.size)]
        if len(weakest):
            fused = np.where(fused <= weakest[-1], 0.0, fused)
        mixed = fused + np.eye(tokens)
        flow = (mixed / mixed.sum(1)[:, None]) @ flow
    row = flow[0] if query == "class" else flow[layout.prefix :].mean(0)
    if query.isdigit():
        row = flow[layout.prefix + int(query)]
    return row[layout.prefix :].reshape(layout.grid)


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_pooled", "deit_distilled"])
@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize(("discard", "query"), [(0.0, "auto"), (0.5, "mean"), (0.9, "5")])
def test_rollout_is_the_product_written_out(
    name: str, fusion: str, discard: float, query: str
) -> None:
    run = run64(name)
    model = clean(run)
    maps = unfuse(model)
    with torch.no_grad():
        model(run.x)
    layout = run.subject.layers["blocks.0"].layout
    assert layout is not None
    method = METHODS.make(
        "attention_rollout", {"fusion": fusion, "discard": discard, "query": query}
    )
    ours, _ = method.attribute(run)
    asked = query if query != "auto" else "class" if layout.prefix else "mean"
    for image, one in enumerate(ours):
        layers = [weights[image].numpy() for weights in maps.values()]
        expected = rolled_out(layers, fusion, discard, asked, layout)
        np.testing.assert_allclose(one.numpy(), expected, rtol=0, atol=1e-8)


# -- resizing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "size"),
    [((7, 7), (224, 224)), ((5, 8), (160, 256)), ((14, 14), (97, 131)), ((3, 4), (500, 333))],
)
def test_upsampling_is_opencvs(grid: tuple[int, int], size: tuple[int, int]) -> None:
    maps = torch.rand((2, *grid), generator=torch.Generator().manual_seed(0))
    theirs = np.stack([cv2.resize(one.numpy(), size[::-1]) for one in maps])
    assert np.abs(upsample(maps, size).numpy() - theirs).max() <= 1.1e-6


# -- metrics ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "metric", "baseline", "steps"),
    [
        ("lite0", "deletion", "black", 7),  # steps of unequal size
        ("lite0", "insertion", "blur", 5),
        ("resnet", "deletion", "zero", 8),
        ("vit_registers", "deletion", "random", 28),
        ("vit_registers", "insertion", "mean", 3),
        ("vit_pooled", "insertion", "white", 9),
    ],
    indirect=["case"],
)
def test_removal_curves_are_the_loop_written_out(
    case: Case, metric: str, baseline: str, steps: int
) -> None:
    height, width = case.x.shape[2:]
    ranks = torch.randperm(2 * height * width, generator=torch.Generator().manual_seed(4))
    values = ranks.view(2, height, width).float() - 1000
    answer = case.explainer.measure(
        case.x, values, metric, target=case.target, steps=steps, baseline=baseline, seed=7
    )
    empty = start(baseline, Run(case.owner, case.x, seed=7))
    before, after = (case.x, empty) if metric == "deletion" else (empty, case.x)
    model = case.copy()
    for image, c in enumerate(case.classes):
        worth = values[image].flatten().tolist()
        strongest = sorted(range(len(worth)), key=lambda pixel: -worth[pixel])
        fractions, curve = [], []
        for step in range(steps + 1):
            count = round(step * len(worth) / steps)
            row = before[image].flatten(1).clone()
            row[:, strongest[:count]] = after[image].flatten(1)[:, strongest[:count]]
            with torch.no_grad():
                likely = model(row.view(1, -1, height, width))[0].double().exp()
            curve.append(float(likely[c] / likely.sum()))
            fractions.append(count / len(worth))
        steps_taken = zip(fractions, fractions[1:], curve, curve[1:], strict=False)
        area = sum((b - a) * (low + high) / 2 for a, b, low, high in steps_taken)
        np.testing.assert_allclose(answer.curve_x, fractions, rtol=0, atol=1e-7)
        np.testing.assert_allclose(answer.curve_y[image], curve, rtol=0, atol=2e-6)
        np.testing.assert_allclose(answer.value[image], area, rtol=0, atol=1e-6)
