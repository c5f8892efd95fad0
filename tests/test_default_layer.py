"""The layer that CAM methods use: nesting does not move it, and a named one is always used."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.types import Need
from tests.conftest import build, images


class Wrapper(nn.Module):
    """What people write around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class Normalise(nn.Module):
    """Shifts and scales a picture, by buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x - self.mean) / 2
        return out


class Calibrated(Wrapper):
    """Normalises before the model, and divides by a learned temperature after it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.before, self.temperature = Normalise(), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.model(self.before(x)) / self.temperature).log_softmax(-1)
        return out


WRAPPERS: dict[str, tuple[str, Callable[[nn.Module], nn.Module]]] = {
    "none": ("", lambda m: m),
    "one": ("model.", Wrapper),
    "three": ("model.model.model.", lambda m: Wrapper(Wrapper(Wrapper(m)))),
    "Sequential": ("0.", nn.Sequential),
    "normalising": ("1.", lambda m: nn.Sequential(Normalise(), m)),
    "post-processing": ("0.", lambda m: nn.Sequential(m, nn.Softmax(-1))),
    "another head": ("0.", lambda m: nn.Sequential(m, nn.Linear(7, 5))),
    "calibrated": ("model.", Calibrated),
    "DataParallel": ("module.", nn.DataParallel),
    "ModuleDict within": ("parts.net.", lambda m: Parts(m)),
}


class Parts(nn.Module):
    """Keeps its model in a dict."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"net": model})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.parts["net"](x)
        return out


BACKBONES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=7), "layer4"),
    "vgg11": (lambda: torchvision.models.vgg11(num_classes=7), "features"),
    "mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=7), "features"),
    "timm resnet": (lambda: build("resnet"), "layer4"),
    "timm efficientnet": (lambda: build("efficientnet"), "bn2"),
    "timm convnext": (lambda: build("convnext"), "stages.3"),
    "timm vit": (lambda: build("vit"), "blocks.5.norm1"),
    "zero head": (lambda: zero_head(), "layer4"),
}


def zero_head() -> nn.Module:
    """A model whose classifier is still zero, so that its outputs have no gradient."""
    model = timm.create_model("test_resnet", num_classes=7)
    nn.init.zeros_(model.get_classifier().weight)
    return model


@cache
def backbone(name: str) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return BACKBONES[name][0]().eval()


def lent(model: nn.Module, size: int = 160) -> Explainer:
    sized = Preprocessing((3, size, size), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Explainer(ModelHandle(model, name="lent", preprocessing=sized))


@pytest.mark.parametrize(
    ("name", "wrapper"),
    [(n, w) for n in BACKBONES for w in WRAPPERS if n in ("timm vit", "zero head") or w == "one"]
    + [(n, "none") for n in BACKBONES],
)
def test_nesting_does_not_move_the_default_layer(name: str, wrapper: str) -> None:
    prefix, wrap = WRAPPERS[wrapper]
    asker = lent(wrap(backbone(name)))
    assert asker.model.default_layer == prefix + BACKBONES[name][1]
    assert asker.model.default_layer in [layer.name for layer in asker.model.stages()]


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_a_wrapped_model_has_the_same_map(name: str) -> None:
    plain, wrapped = lent(backbone(name)), lent(Wrapper(Wrapper(backbone(name))))
    x = images(plain.model, 1)
    for method in ("gradcam", "eigencam"):
        found = [asker.explain(x, method, target=1).values for asker in (plain, wrapped)]
        torch.testing.assert_close(*found)


# -- named layers ---------------------------------------------------------------------------------

CAMS = [key for key, cls in METHODS.items() if Need.LAYER in cls.needs and key != "guided_gradcam"]
FEW = {"scorecam": {"channels": 4}, "ablationcam": {"channels": 4}}


@pytest.mark.parametrize("key", CAMS)
def test_a_layer_of_one_cell_is_used_if_it_is_named(key: str) -> None:
    asker = lent(backbone("vgg11"), 32)
    assert asker.model.layers["features"].layout.grid == (1, 1)
    assert "features" not in asker.model.choices([Need.LAYER])
    x = images(asker.model, 2)
    found = asker.explain(x, key, target=1, layer="features", **FEW.get(key, {}))
    assert found.values.shape == (2, 1, 1)
    assert found.extras["grid_cells"].tolist() == [1, 1]


def test_the_value_of_a_single_cell() -> None:
    asker = lent(backbone("vgg11"), 32)
    x = images(asker.model, 1)
    run_at = asker.explain(x, "hirescam", target=1, layer="features", relu=False)
    feats = backbone("vgg11").features(x).detach().requires_grad_()
    model = backbone("vgg11")
    out = model.classifier(torch.flatten(model.avgpool(feats), 1))[0, 1]
    (grad,) = torch.autograd.grad(out, feats)
    torch.testing.assert_close(run_at.values, (grad * feats).sum(1).detach())


class Coarse(nn.Module):
    """Has nothing but a grid of one cell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 32, 32), nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).flatten(1))
        return out


@pytest.mark.parametrize("key", CAMS)
def test_without_a_default_layer_a_named_one_is_used(key: str) -> None:
    asker = lent(Coarse().eval(), 32)
    x = images(asker.model, 1)
    with pytest.raises(NotApplicableError, match="name a layer on a coarser grid, such as 'conv'"):
        asker.explain(x, key, target=1, **FEW.get(key, {}))
    found = asker.explain(x, key, target=1, layer="conv", **FEW.get(key, {}))
    assert found.values.shape == (1, 1, 1)
    with pytest.raises(NotApplicableError, match="spatial grid"):
        asker.explain(x, key, target=1, layer="head")
    assert asker.features(x, layer="conv").maps.shape[1:] == (1, 1)


@pytest.mark.parametrize("key", [k for k in CAMS if Need.GRADIENT in METHODS[k].needs])
def test_a_layer_without_gradient_gives_a_zero_map_that_says_so(key: str) -> None:
    asker = lent(backbone("timm vit"))
    x = images(asker.model, 2)
    found = asker.explain(x, key, target=1, layer="blocks.5")  # only the class token is read
    assert not found.values.any()
    assert found.extras["zero_gradient"].tolist() == [1, 1]
    assert "zero_gradient" not in asker.explain(x, key, target=1).extras


# -- models without gradients ---------------------------------------------------------------------


class NoGrad(Wrapper):
    """Switches gradients off."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Inference(Wrapper):
    """Runs in inference mode."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Detached(Wrapper):
    """Cuts the graph at its output."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Numpy(Wrapper):
    """Leaves torch on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(super().forward(x).detach().numpy().copy())


class Frozen(Wrapper):
    """Has no parameter that asks for a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.requires_grad_(False)


@pytest.mark.parametrize("kind", [NoGrad, Inference, Detached, Numpy, Frozen])
@pytest.mark.parametrize("name", ["timm resnet", "timm vit"])
def test_methods_that_need_no_gradient_need_none(name: str, kind: type[Wrapper]) -> None:
    plain = lent(build(name.removeprefix("timm ")) if "timm" in name else backbone(name))
    asker = lent(kind(plain.model.model.eval()))
    assert asker.model.default_layer == f"model.{BACKBONES[name][1]}"
    x = images(asker.model, 1)
    for key in ("eigencam", "scorecam", "ablationcam"):
        options = {} if key == "eigencam" else {"channels": 8}
        if key == "ablationcam" and kind is not Frozen:
            options = {"channels": 0}
            if plain.model.layers[BACKBONES[name][1]].layout.channels > 100:
                continue
        found = asker.explain(x, key, target=1, relu=False, **options)
        expected = plain.explain(x, key, target=1, relu=False, **options)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-3, atol=1e-5)
    if kind is Frozen:
        assert asker.explain(x, "gradcam", target=1).values.any()
    else:
        with pytest.raises(NotApplicableError, match="no gradient"):
            asker.explain(x, "gradcam", target=1)
    assert asker.features(x, top=2).maps.shape[0] == 2


def test_only_what_uses_a_gradient_needs_one() -> None:
    handle = lent(NoGrad(build("resnet"))).model
    assert Need.LAYER in handle.supports
    assert Need.GRADIENT not in handle.supports
    assert not handle.why_not([Need.LAYER])
