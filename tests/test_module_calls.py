"""A module that runs several times in one pass: maps belong to the call that sees the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import Explainer, ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.runtime.capture import record_calls
from tests.conftest import build, images

View = Callable[[Tensor], Tensor]


def crop(x: Tensor) -> Tensor:
    """The middle of the picture, enlarged to its size."""
    height, width = x.shape[-2] // 5, x.shape[-1] // 5
    return F.interpolate(x[..., height:-height, width:-width], size=x.shape[-2:])


def plain(x: Tensor) -> Tensor:
    return x


MISPLACED: dict[str, View] = {
    "mirrored": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2),
    "turned by 90 degrees": lambda x: x.rot90(1, (2, 3)),
    "turned by 180 degrees": lambda x: x.rot90(2, (2, 3)),
    "transposed": lambda x: x.mT,
    "cropped": crop,
    "moved": lambda x: x.roll(x.shape[-1] // 2, -1),
}
BESIDE: dict[str, View] = {
    "darker": lambda x: 0.5 * x,
    "blurred": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "smaller": lambda x: F.interpolate(x, scale_factor=0.5),
}


class Views(nn.Module):
    """The mean of a model's outputs for several views of the picture."""

    def __init__(self, inner: nn.Module, *views: View) -> None:
        super().__init__()
        self.inner, self.views = inner, views

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.inner(view(x)) for view in self.views]).mean(0)


@cache
def inner(name: str) -> nn.Module:
    return build(name).eval()


def lent(model: nn.Module, name: str = "resnet") -> Explainer:
    sized = Preprocessing.from_model(inner(name))
    return Explainer(ModelHandle(model, name="views", preprocessing=sized))


def of_call(model: nn.Module, x: Tensor, layer: str, index: int) -> tuple[Tensor, Tensor]:
    """Activation and gradient of class 1 at one call of a layer, by autograd alone."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        output.retain_grad()
        found.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    model(x.clone().requires_grad_())[:, 1].sum().backward()
    handle.remove()
    assert found[index].grad is not None
    return found[index].detach(), found[index].grad


ORDERS = pytest.mark.parametrize("first", [True, False], ids=["plain first", "plain last"])


@ORDERS
@pytest.mark.parametrize("view", [*MISPLACED, *BESIDE])
@pytest.mark.parametrize("layer", ["layer2", "layer4", "bn1"])
def test_the_map_belongs_to_the_call_on_the_picture(layer: str, view: str, first: bool) -> None:
    other = {**MISPLACED, **BESIDE}[view]
    model = Views(inner("resnet"), *((plain, other) if first else (other, plain)))
    asker = lent(model)
    x = images(asker.model, 2)
    layer = f"inner.{layer}"
    index = 0 if first else 1
    if view in ("darker", "blurred"):
        index = 0  # both lie on the picture
    act, grad = of_call(model, x, layer, index)
    found = asker.explain(x, "layercam", target=1, layer=layer, relu=False)
    torch.testing.assert_close(found.values, (grad.relu() * act).sum(1), rtol=1e-4, atol=1e-7)
    top = asker.features(x[:1], layer=layer, top=3)
    torch.testing.assert_close(top.maps, act[0, top.channels], rtol=1e-4, atol=1e-6)


@ORDERS
@pytest.mark.parametrize("method", ["eigencam", "scorecam", "ablationcam", "gradcam", "fullgrad"])
def test_no_method_shows_the_mirrored_call(method: str, first: bool) -> None:
    """The mean over a picture and its mirror image is the same for the mirror image."""
    views = (plain, MISPLACED["mirrored"])
    model = Views(inner("resnet"), *(views if first else views[::-1]))
    asker = lent(model)
    x = images(asker.model, 1)
    options = {} if method == "fullgrad" else {"layer": "inner.layer4", "relu": False}
    if method in ("scorecam", "ablationcam"):
        options["channels"] = 8
    found, mirrored = (
        asker.explain(rows, method, target=1, **options).values[0] for rows in (x, x.flip(-1))
    )
    alone = lent(inner("resnet")).explain(
        x, method, target=1, **{k: v for k, v in options.items() if k != "layer"}
    )
    shown = torch.corrcoef(torch.stack([found.flatten(), alone.values[0].flatten()]))[0, 1]
    assert not torch.allclose(found, mirrored)
    assert shown > 0.5 or method in ("scorecam", "ablationcam")
    if method == "eigencam":
        torch.testing.assert_close(found, alone.values[0])


@pytest.mark.parametrize("view", MISPLACED)
def test_a_layer_that_never_sees_the_picture_as_it_is_is_refused(view: str) -> None:
    asker = lent(Views(inner("resnet"), MISPLACED[view]))
    assert asker.model.default_layer is None
    x = images(asker.model, 1)
    with pytest.raises(NotApplicableError, match="mirrored, turned, cropped"):
        asker.explain(x, "gradcam", target=1, layer="inner.layer3")
    with pytest.raises(NotApplicableError, match="mirrored, turned, cropped"):
        asker.explain(x, "gradcam", target=1)
    assert asker.explain(x, "saliency", target=1).values.any()


@pytest.mark.parametrize("view", BESIDE)
def test_views_that_lie_on_the_picture_are_no_reason(view: str) -> None:
    asker = lent(Views(inner("resnet"), BESIDE[view]))
    assert asker.model.default_layer == "inner.layer4"


class MirroredWithin(nn.Module):
    """Applies a block to its input and to the mirrored input, in the middle of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.head = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.block(x.flip(-1)).flip(-1) + 0.5 * self.block(x)
        out: Tensor = self.head((x * torch.linspace(1, 2, x.shape[-1])).mean((2, 3)))
        return out


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return make().eval()


def test_a_block_that_is_mirrored_within_a_network() -> None:
    model = seeded(MirroredWithin)
    asker = lent(model)
    x = images(asker.model, 1)
    act, grad = of_call(model, x, "block", 1)
    found = asker.explain(x, "hirescam", target=1, layer="block", relu=False)
    torch.testing.assert_close(found.values, (act * grad).sum(1), rtol=1e-4, atol=1e-7)


class Recurrent(nn.Module):
    """Applies one block three times in a row, and one activation everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 4, 2)
        self.block = nn.Conv2d(8, 8, 3, 1, 1)
        self.act = nn.ReLU()
        self.hidden, self.head = nn.Linear(8, 8), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for _ in range(3):
            x = x + self.act(self.block(x))
        out: Tensor = self.head(self.act(self.hidden(x.mean((2, 3)))))
        return out


@pytest.mark.parametrize(("layer", "index"), [("block", 2), ("act", 3), ("stem", 0)])
def test_of_calls_in_a_row_the_last_on_the_picture_is_meant(layer: str, index: int) -> None:
    model = seeded(Recurrent)
    asker = lent(model)
    x = images(asker.model, 2)
    act, grad = of_call(model, x, layer, index)
    found = asker.explain(x, "gradcam", target=1, layer=layer, relu=False).values
    expected = (grad.mean((2, 3), keepdim=True) * act).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    ablated = asker.explain(x[:1], "ablationcam", target=1, layer=layer, relu=False)
    assert ablated.values.shape == found[:1].shape


class Pyramid(nn.Module):
    """One head on two levels, the coarse one first."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 5, 4, 2), nn.Conv2d(8, 8, 3, 2, 1)
        self.head, self.classes = nn.Conv2d(8, 8, 1), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x).relu()
        levels = [self.head(level).relu().mean((2, 3)) for level in (self.coarse(fine), fine)]
        out: Tensor = self.classes(torch.stack(levels).sum(0))
        return out


def test_of_calls_side_by_side_the_finest_is_meant() -> None:
    model = seeded(Pyramid)
    asker = lent(model)
    x = images(asker.model, 1)
    act, grad = of_call(model, x, "head", 1)
    found = asker.explain(x, "hirescam", target=1, layer="head", relu=False).values
    torch.testing.assert_close(found, (act * grad).sum(1), rtol=1e-4, atol=1e-8)


# -- the rest of what watches modules -------------------------------------------------------------


@ORDERS
def test_attention_of_the_mirrored_call_is_left_out(first: bool) -> None:
    views = (plain, MISPLACED["mirrored"])
    model = Views(inner("vit"), *(views if first else views[::-1]))
    asker, alone = lent(model, "vit"), lent(inner("vit"), "vit")
    x = images(asker.model, 2)
    assert len(asker.model.attention_layers) == len(alone.model.attention_layers)
    for method in ("attention", "attention_rollout", "attention_flow"):
        found = asker.explain(x, method, target=1).values
        torch.testing.assert_close(found, alone.explain(x, method, target=1).values)
    found = asker.explain(x, "transformer_relevance", target=1).values
    expected = alone.explain(x, "transformer_relevance", target=1).values
    ratio = found.flatten() / expected.flatten()
    assert ratio.std() < 0.05 * ratio.mean().abs()


@pytest.mark.parametrize("method", ["integrated_gradients", "expected_gradients", "smoothgrad"])
def test_a_first_layer_that_runs_twice_is_not_interpolated(method: str) -> None:
    model = Views(inner("resnet"), plain, MISPLACED["mirrored"])
    asker = lent(model)
    assert asker.model.stem is None
    x = images(asker.model, 1)
    if method == "integrated_gradients":
        found = asker.explain(x, method, target=1, steps=32)
        assert float(found.extras["completeness_error"]) < 0.05


def test_every_call_of_the_first_convolution_has_its_rule() -> None:
    """LRP of the mean of two equal views is that of one view."""
    twice = lent(Views(inner("resnet"), plain, plain))
    once = lent(inner("resnet"))
    x = images(once.model, 1)
    for first in ("flat", "wsquare", "box"):
        found, expected = (
            asker.explain(x, "lrp", target=1, first=first).values for asker in (twice, once)
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_calls_are_numbered() -> None:
    model = seeded(Recurrent)
    with record_calls(model, ["block", "act"]) as calls:
        model(torch.zeros(1, 3, 16, 16))
    assert [(c.name, c.index) for c in calls] == [
        ("act", 0), ("block", 0), ("act", 1), ("block", 1), ("act", 2), ("block", 2), ("act", 3),
        ("act", 4),
    ]  # fmt: skip
