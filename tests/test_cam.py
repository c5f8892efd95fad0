"""Class activation maps beyond the gradient-weighted ones, against the reference libraries."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.methods.cam import note_limits
from core.methods.cam_eigen import first_component
from core.methods.cam_masking import Tail, _most_relevant
from core.methods.fullgrad import implicit_bias, smallest_parts
from core.runtime.layer_outputs import LayerGradients
from core.runtime.resume import record_until, resume_after
from core.runtime.run import Run
from core.tasks.classification import ClassProbability, ClassScore, scores_of
from core.types import Attribution, Layout, upsample
from tests.conftest import build, handle, images, shared_handle
from tests.test_oracles import doubled

CLASSES = (1, 3)
TARGET = ClassScore(CLASSES)


def ask(name: str, key: str, layer: str | None = None, **params: Any) -> Attribution:
    owner = shared_handle(name)
    return Explainer(owner).explain(
        images(owner, 2), key, target=params.pop("target", TARGET), layer=layer, **params
    )


def lent(name: str) -> nn.Module:
    """A copy that a library may leave dirty."""
    return copy.deepcopy(shared_handle(name).model).eval().requires_grad_()


def layout_of(name: str, layer: str | None) -> Layout:
    assert layer is not None
    found = shared_handle(name).layers[layer].layout
    assert found is not None
    return found


def zero_to_one(maps: np.ndarray) -> np.ndarray:
    above = maps - maps.min((1, 2), keepdims=True)
    return above / (1e-7 + above.max((1, 2), keepdims=True))


def as_theirs(answer: Attribution, size: tuple[int, int]) -> np.ndarray:
    """Our map as pytorch-grad-cam hands it out."""
    scaled = torch.from_numpy(zero_to_one(answer.values.relu().numpy()))
    return zero_to_one(upsample(scaled, size).numpy())


def peers(name: str, answer: Attribution, kind: Any, targets: list[Any], **options: Any) -> Any:
    """The map of pytorch-grad-cam at the same layer."""
    model, layout = lent(name), layout_of(name, answer.layer)
    transform = None if layout.format == "NCHW" else layout.to_nchw
    with kind(model, [model.get_submodule(answer.layer)], transform, **options) as cam:
        found = cam(images(shared_handle(name), 2), targets)
    assert found.max((1, 2)).min() > 0.99, "the reference says nothing"
    return found


def logits(classes: tuple[int, ...] = CLASSES) -> list[Any]:
    return [ClassifierOutputTarget(c) for c in classes]


PLACES = [
    ("resnet", None),
    ("resnet", "layer2"),
    ("efficientnet", None),
    ("convnext", None),
    ("swin", None),
    ("vit", None),
    ("vit_pooled", None),
]


# -- from one gradient --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), PLACES)
def test_xgradcam_is_that_of_pytorch_grad_cam_and_torchcam(name: str, layer: str | None) -> None:
    # In float64: the weights divide by a sum near zero, which enlarges the rounding of float32.
    owner, layout = doubled(name), layout_of(name, layer or shared_handle(name).default_layer)
    x, model = images(owner, 2).double(), copy.deepcopy(owner.model)
    answer = Explainer(owner).explain(x, "xgradcam", target=TARGET, layer=layer)
    place = model.get_submodule(answer.layer or "")
    transform = None if layout.format == "NCHW" else layout.to_nchw
    with pytorch_grad_cam.XGradCAM(model, [place], transform) as cam:
        theirs = cam(x, logits())
    assert theirs.max((1, 2)).min() > 0.99, "the reference says nothing"
    assert np.abs(as_theirs(answer, theirs.shape[1:]) - theirs).max() <= 2e-6
    with torchcam.methods.XGradCAM(model, answer.layer, reshape_transform=transform) as cam:
        (maps,) = cam(list(CLASSES), model(x), normalized=False)
    # Torchcam adds 1e-8 to that sum where we and pytorch-grad-cam add 1e-7.
    assert (answer.values - maps).abs().max() <= 5e-4 * maps.abs().max()


@pytest.mark.parametrize(("name", "layer"), PLACES)
@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("eigencam", pytorch_grad_cam.EigenCAM),
        ("eigengradcam", pytorch_grad_cam.EigenGradCAM),
    ],
)
def test_principal_components_are_those_of_pytorch_grad_cam_up_to_their_sign(
    name: str, layer: str | None, key: str, kind: Any
) -> None:
    answer = ask(name, key, layer, relu=False)
    model, layout = lent(name), layout_of(name, answer.layer)
    transform = None if layout.format == "NCHW" else layout.to_nchw
    with kind(model, [model.get_submodule(answer.layer)], transform) as cam:
        cam(images(shared_handle(name), 2), logits())
        seen = cam.activations_and_grads
        grads = [g.numpy() for g in seen.gradients] or [None]
        cells = [cam.get_cam_image(None, None, None, seen.activations[0].numpy(), grads[0], False)]
    for ours, theirs in zip(answer.values.numpy(), cells[0], strict=True):
        size = np.abs(theirs).max()
        off = min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max())
        assert off <= 1e-4 * size


def test_strong_cells_are_positive_in_eigencam() -> None:
    owner = shared_handle("resnet")
    run = Run(owner, images(owner, 2), TARGET, layer="layer4")
    values = METHODS.make("eigencam", {"relu": False}).attribute(run)[0]
    drawn = torch.randn((32, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    for found, cells in ((values, run.activation()), (first_component(drawn), drawn)):
        strength = cells.norm(dim=1).flatten(1)
        for one, other in zip(found.flatten(1), strength, strict=True):
            assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0


def test_eigencam_takes_one_pass_and_no_gradient() -> None:
    cost = ask("resnet", "eigencam").cost
    assert (cost.forward, cost.backward) == (2, 0)


@pytest.mark.parametrize(("name", "layer"), PLACES)
@pytest.mark.parametrize(("alpha", "comparisons"), [(1.0, 3), (0.6, 2)])
def test_finercam_is_that_of_pytorch_grad_cam(
    name: str, layer: str | None, alpha: float, comparisons: int
) -> None:
    answer = ask(name, "finercam", layer, alpha=alpha, comparisons=comparisons)
    outputs = Explainer(shared_handle(name)).predict(images(shared_handle(name), 2)).scores
    targets = []
    for row, c in zip(outputs, CLASSES, strict=True):
        nearest = sorted(range(len(row)), key=lambda k, c=c, row=row: abs(row[k] - row[c]))
        targets.append(FinerWeightedTarget(c, nearest[1 : 1 + comparisons], alpha))
    theirs = peers(name, answer, pytorch_grad_cam.GradCAM, targets)
    assert np.abs(as_theirs(answer, theirs.shape[1:]) - theirs).max() <= 1e-5
    torch.testing.assert_close(answer.score, outputs[[0, 1], CLASSES])


def test_finercam_of_the_predicted_class_is_what_the_library_does_by_itself() -> None:
    answer = ask("resnet", "finercam", target=None)
    model = lent("resnet")
    peer = pytorch_grad_cam.FinerCAM(model, [model.get_submodule(answer.layer)])
    theirs = peer(images(shared_handle("resnet"), 2))
    assert np.abs(as_theirs(answer, theirs.shape[1:]) - theirs).max() <= 1e-5


def test_finercam_wants_a_class() -> None:
    with pytest.raises(NotApplicableError, match="one class"):
        ask("resnet", "finercam", target=ClassProbability(1))


# -- Score-CAM ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "swin", "vit_pooled"])
def test_scorecam_is_that_of_pytorch_grad_cam(name: str) -> None:
    answer = ask(name, "scorecam")
    theirs = peers(name, answer, pytorch_grad_cam.ScoreCAM, logits())
    assert np.abs(as_theirs(answer, theirs.shape[1:]) - theirs).max() <= 3e-5


def test_scorecam_with_some_channels_uses_those_that_vary_most() -> None:
    owner = handle("vit_pooled")
    x = images(owner, 1)
    run = Run(owner, x, ClassScore(1), layer="blocks.2")
    act = run.activation()[0]
    best = sorted(act.flatten(1).var(1).topk(5).indices.tolist())
    stretched = nn.functional.interpolate(
        act[best][None], size=x.shape[2:], mode="bilinear", align_corners=True
    )[0]
    weights = []
    for mask in stretched:
        seen = x * (mask - mask.min()) / (mask.max() - mask.min())
        weights.append(run.subject.model.eval()(seen)[0, 1].detach())
    shares = torch.stack(weights).softmax(0)
    expected = (shares[:, None, None] * act[best]).sum(0).relu()
    values, _ = METHODS.make("scorecam", {"channels": 5}).attribute(run)
    torch.testing.assert_close(values[0], expected, rtol=1e-4, atol=1e-6)


FLAT = -0.002
"""Below zero, so that the share of constant channels decides where the map is cut off; near zero,
so that rescaling the map does not magnify rounding errors."""


class Flat(nn.Module):
    """Makes the first channels of a layer constant."""

    def __init__(self, inner: nn.Module, count: int) -> None:
        super().__init__()
        self.inner, self.count = inner, count

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        keep = (torch.arange(out.shape[1]) >= self.count)[:, None, None]
        return torch.where(keep, out, FLAT)


def flattened(count: int) -> ModelHandle:
    model: Any = build("resnet")
    model.layer4 = Flat(model.layer4, count)
    return ModelHandle(model, name="flat", preprocessing=Preprocessing.from_model(model))


def test_channels_without_contrast_take_one_pass_together_and_keep_their_share() -> None:
    owner = flattened(90)
    x = images(owner, 1)
    answer = Explainer(owner).explain(x, "scorecam", target=1, layer="layer4")
    act = Run(owner, x, layer="layer4").activation()
    shown = int((act.amax((2, 3)) > act.amin((2, 3))).sum())
    assert 0 < shown <= 6
    assert answer.cost.forward == shown + 1 + 1
    model = copy.deepcopy(owner.model).eval()
    with pytorch_grad_cam.ScoreCAM(model, [model.layer4]) as cam:
        theirs = cam(x, logits((1,)))
    assert 0 < float((answer.values == 0).float().mean()) < 1
    assert np.abs(as_theirs(answer, theirs.shape[1:]) - theirs).max() <= 1e-5


@pytest.mark.parametrize("key", ["scorecam"])
def test_another_target_at_the_same_layer_takes_no_pass(key: str) -> None:
    owner = handle("vit_pooled")
    explainer, x = Explainer(owner), images(owner, 2)
    explainer.explain(x, key, target=1, channels=6)
    again = explainer.explain(x, key, target=2, channels=6)
    assert again.cost.forward == 0
    elsewhere = explainer.explain(x, key, target=2, channels=6, layer="blocks.1")
    alone = Explainer(owner).explain(x, key, target=2, channels=6, layer="blocks.1")
    torch.testing.assert_close(elsewhere.values, alone.values)


# -- Ablation-CAM -------------------------------------------------------------------------------


class Zeroing(AblationLayer):
    """The library's layer with the paper's rule everywhere: an ablated channel is zero."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def set_next_batch(
        self, input_batch_index: int, activations: Tensor, num_channels_to_ablate: int
    ) -> None:
        one = activations[input_batch_index][None].clone()
        self.activations = one.repeat(num_channels_to_ablate, *[1] * (one.ndim - 1))

    def __call__(self, _x: Tensor) -> Tensor:
        cells = self.layout.to_nchw(self.activations)
        for row in range(len(cells)):
            cells[row, self.indices[row]] = 0
        return self.activations


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet", None),
        ("resnet", "layer3"),
        ("efficientnet", "blocks.4"),
        ("convnext", None),
        ("swin", None),
        ("vit_pooled", None),
        ("vit_registers", None),
    ],
)
def test_ablationcam_is_that_of_pytorch_grad_cam(name: str, layer: str | None) -> None:
    answer = ask(name, "ablationcam", layer)
    ablation = Zeroing(layout_of(name, answer.layer))
    model, x = lent(name), images(shared_handle(name), 2)
    transform = None if ablation.layout.format == "NCHW" else ablation.layout.to_nchw
    place = [model.get_submodule(answer.layer)]
    options = {"ablation_layer": ablation, "batch_size": 16}
    with pytorch_grad_cam.AblationCAM(model, place, transform, **options) as cam:
        theirs = cam(x, logits())
    assert theirs.max((1, 2)).min() > 0.99, "the reference says nothing"
    assert np.abs(as_theirs(answer, theirs.shape[1:]) - theirs).max() <= 1e-5


def test_ablationcam_before_pooling_and_a_linear_head_tries_no_channel() -> None:
    answer = ask("resnet", "ablationcam", relu=False)
    assert answer.extras["tail_rows"].tolist() == [4, 4]
    assert answer.cost.forward == 4
    model, owner = lent("resnet"), shared_handle("resnet")
    act = Run(owner, images(owner, 2), layer="layer4").activation()
    head = model.get_submodule("fc").weight.detach()[list(CLASSES)]
    weights = head * act.mean((2, 3)) / answer.score[:, None]
    expected = (weights[:, :, None, None] * act).sum(1)
    torch.testing.assert_close(answer.values, expected, rtol=1e-4, atol=1e-6)


def test_a_target_that_is_not_affine_is_tried_channel_by_channel() -> None:
    answer = ask("resnet", "ablationcam", target=ClassProbability(CLASSES))
    assert answer.extras["tail_rows"].min() > layout_of("resnet", "layer4").channels


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet", "layer3"),
        ("resnet", "layer3.0.act3"),
        ("resnet", "layer2.0.downsample.0"),
        ("efficientnet", "blocks.2.0.se"),
        ("efficientnet", "blocks.3"),
        ("convnext", "stages.1"),
        ("convnext", "stages.2.blocks.1.norm"),
        ("mambaout", "stages.1"),
        ("swin", "layers.1"),
        ("swin", "layers.1.blocks.1.norm1"),
        ("vit", "blocks.2"),
        ("vit_registers", "blocks.1.norm1"),
    ],
)
def test_resuming_at_a_layer_gives_what_a_full_pass_gives(name: str, layer: str) -> None:
    owner = shared_handle(name)
    tail = Tail(Run(owner, images(owner, 1), TARGET, layer=layer), 0)
    factors = torch.rand((3, tail.layout.channels), generator=torch.Generator().manual_seed(0))
    resumed = tail.outputs([factors], 3)
    assert tail.resumes
    tail.recorded.calls.clear()
    full = tail.outputs([factors], 3)
    assert full.change(full.select(torch.tensor([0]))).max() > 0
    resumed, full = scores_of(resumed), scores_of(full)
    torch.testing.assert_close(resumed, full, rtol=1e-5, atol=1e-5 * float(full.abs().max()))


def test_a_resumed_pass_runs_nothing_that_comes_before_the_layer() -> None:
    owner = handle("resnet")
    tail = Tail(Run(owner, images(owner, 1), TARGET, layer="layer4"), 0)
    ran: list[str] = []
    for name, module in owner.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    tail.outputs([torch.ones(1, tail.layout.channels)], 1)
    before = ("layer1.", "layer2.", "layer3.", "layer4.")
    assert "layer3" in ran  # handed out again
    assert not [name for name in ran if name.startswith(before)]


class Twice(nn.Module):
    """Calls one module before, at and after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.layer = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.calls = 0
        self.shared.register_forward_pre_hook(self._count)

    def _count(self, _module: nn.Module, _args: object) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(x).relu())
        return self.shared(self.layer(x).relu()).mean((2, 3))


def test_a_module_called_again_after_the_layer_runs_again() -> None:
    model, x = Twice().eval(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        with record_until(model, "layer") as past:
            plain = model(x)
        assert len(past.calls) == 2
        changed = torch.cat([past.output, 2 * past.output])
        with resume_after(past, changed):
            found = model(x.expand(2, -1, -1, -1))
        expected = torch.cat([model.shared(o[None].relu()).mean((2, 3)) for o in changed])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found[:1], plain)
    assert "forward" not in {*vars(model.shared), *vars(model.layer)}


def test_resuming_restores_the_modules_when_the_model_breaks() -> None:
    model = Twice().eval()
    own = model.layer.forward
    vars(model.layer)["forward"] = own  # as somebody before us may have done
    with torch.no_grad(), record_until(model, "layer") as past:
        model(torch.randn(1, 3, 8, 8))
    with pytest.raises(ZeroDivisionError), resume_after(past, past.output):
        raise ZeroDivisionError
    assert vars(model.layer)["forward"] is own
    assert "forward" not in vars(model.shared)


class Fickle(nn.Module):
    """Cannot be resumed: what comes before the layer is not all in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.layer, self.fc = nn.AvgPool2d(2), nn.Conv2d(3, 5, 1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.pool(x).flatten(0, 1)[:, None].expand(-1, 3, -1, -1)  # three for each image
        cells = self.layer(rows.unflatten(0, (len(x), 3)).mean(1))
        return self.fc(cells.relu().mean((2, 3)))


def test_ablationcam_of_a_small_model_is_the_formula_written_out() -> None:
    torch.manual_seed(0)
    model = Fickle().eval()
    sizes = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    owner = ModelHandle(model, name="fickle", preprocessing=sizes)
    x = images(owner, 1)
    answer = Explainer(owner).explain(x, "ablationcam", target=2, layer="layer", relu=False)
    act: list[Tensor] = []
    hook = model.layer.register_forward_hook(lambda *seen: act.append(seen[2]))
    score = model(x)[0, 2]
    hook.remove()
    expected = torch.zeros(8, 8)
    for k in range(5):
        without = act[0].clone()
        without[:, k] = 0
        left = model.fc(without.relu().mean((2, 3)))[0, 2]
        expected += (score - left) / score * act[0][0, k]
    torch.testing.assert_close(answer.values[0], expected.detach(), rtol=1e-4, atol=1e-5)


# -- FullGrad -----------------------------------------------------------------------------------


def seasoned(name: str) -> ModelHandle:
    """A model of the zoo whose normalisations and biases are none of them trivial."""
    owner = handle(name)
    generator = torch.Generator().manual_seed(0)
    for module in owner.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                tensor.data.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return owner


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_fullgrad_sums_to_the_score(name: str) -> None:
    owner = seasoned(name)
    answer = Explainer(owner).explain(images(owner, 2), "fullgrad", target=TARGET)
    torch.testing.assert_close(answer.values.sum((1, 2)), answer.score, rtol=1e-3, atol=1e-4)
    assert answer.extras["completeness_error"].max() < 1e-3


def test_fullgrad_on_a_relu6_network_counts_what_saturates(lite0: Explainer) -> None:
    owner = lite0.model
    assert METHODS.make("fullgrad", {}).refusal(owner) == ""
    answer = lite0.explain(3 * images(owner, 1), "fullgrad", target=5)
    assert answer.extras["completeness_error"].max() < 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fullgrad_scaled_as_in_the_paper_is_that_of_pytorch_grad_cam() -> None:
    owner = seasoned("resnet")
    x = images(owner, 2)
    answer = Explainer(owner).explain(x, "fullgrad", target=TARGET, scaling="paper")
    assert "completeness_error" not in answer.extras, "rescaled terms add up to nothing"
    model = copy.deepcopy(owner.model).eval().requires_grad_()
    with pytorch_grad_cam.FullGrad(model, []) as cam:
        theirs = cam(x, logits())
    assert np.abs(zero_to_one(answer.values.numpy()) - theirs).max() <= 1e-5


@pytest.mark.parametrize("name", ["efficientnet", "swin", "vit", "vit_pooled", "vit_registers"])
def test_fullgrad_refuses_where_products_of_activations_are_left_over(name: str) -> None:
    reason = METHODS.make("fullgrad", {}).refusal(shared_handle(name))
    assert "is missing" in reason
    assert name in reason


@pytest.mark.parametrize(
    "part",
    [nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.SiLU(inplace=True), nn.LayerNorm(6), nn.MaxPool2d(2)],
    ids=lambda part: type(part).__name__,
)
def test_a_part_is_linear_up_to_its_bias(part: nn.Module) -> None:
    x = 4 * torch.randn((2, 3, 4, 6), generator=torch.Generator().manual_seed(0))
    jacobian: Any = torch.autograd.functional.jacobian(lambda x: part(x.clone()), x)
    along = (jacobian * x).flatten(-4).sum(-1)
    bias = implicit_bias(part, x, name="part")
    expected = part(x.clone()) - along
    torch.testing.assert_close(torch.zeros_like(expected) if bias is None else bias, expected)


def test_the_smallest_parts_hold_no_module_with_parameters() -> None:
    model = build("efficientnet")
    parts = smallest_parts(model)
    assert "bn1" in parts or "bn2" in parts  # normalisation and activation in one
    assert not any(name.endswith(".act") and name[:-4] in parts for name in parts)
    leaves = {
        n for n, p in model.named_parameters() if not any(n.startswith(f"{q}.") for q in parts)
    }
    assert leaves == set()


def test_scorecam_refuses_where_no_channel_makes_a_difference() -> None:
    owner = handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    assert explainer.explain(x, "scorecam", target=1).values.any()
    torch.nn.init.zeros_(owner.model.get_classifier().weight)
    with pytest.raises(NotApplicableError, match="gives all channels of 'layer4' the same weight"):
        explainer.explain(x, "scorecam", target=1)


def test_few_ablated_channels_are_those_that_count_most() -> None:
    act, grad = torch.ones(1, 5, 2, 2), torch.tensor([0.1, -3.0, 0.0, 2.0, 1.0])
    found = LayerGradients(torch.ones(1), act, grad.view(1, 5, 1, 1).expand_as(act))
    assert _most_relevant(found, 2).tolist() == [[1, 3]]
    assert _most_relevant(found, 0).tolist() == [[0, 1, 2, 3, 4]]


def test_the_bias_of_an_activation_without_a_second_gradient() -> None:
    given = torch.tensor([[-4.0, -1.0, 0.5, 4.0]])
    expected = torch.tensor([[0.0, 0.5, 0.5, 1.0]])  # x / 6 + 1 / 2 between the knees
    bias = implicit_bias(torch.nn.Hardsigmoid(), given, name="part")
    torch.testing.assert_close(bias, expected)


def test_an_image_is_noted_for_which_a_layer_is_dead() -> None:
    run = Run(handle("resnet"), torch.zeros(2, 3, 160, 160))
    act, grad = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    grad[0, 1, 2, 3] = 1e-30
    note_limits(run, act[:1], grad[:1])
    assert not run.extras
    note_limits(run, act, grad)
    assert run.extras["zero_gradient"].tolist() == [0, 1]
    note_limits(run, act[..., :2])
    assert run.extras["grid_cells"].tolist() == [8, 8]
