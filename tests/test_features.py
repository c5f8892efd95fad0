"""Feature maps and attention heads, on a layer whose numbers are known."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import NotApplicableError, TimmscopeError, UnknownNameError
from core.inputs.preprocessing import Preprocessing
from tests.conftest import images, shared_handle

PREPROCESSING = Preprocessing((3, 4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)


class HandMade(nn.Module):
    """Its layer's channels are silent, flat, faint, spotted and striped, whatever the picture."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(5, 2)
        channels = torch.zeros(5, 4, 4)
        channels[1] = 3.0
        channels[2] = 0.05
        channels[3, 0, 0] = -8.0
        channels[4] = torch.tensor([2.0, -2.0]).repeat(8).view(4, 4)
        self.layer.register_forward_hook(lambda _m, _a, out: scale * channels + 0 * out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x).mean((2, 3)))
        return out


def explainer(scale: float = 1.0) -> Explainer:
    return Explainer(ModelHandle(HandMade(scale), name="hand", preprocessing=PREPROCESSING))


X = torch.randn((1, 3, 4, 4), generator=torch.Generator().manual_seed(0))


def test_statistics_of_a_layer_made_by_hand() -> None:
    found = explainer().features(X, layer="layer")
    values = [0.0] * 16 + [3.0] * 16 + [0.05] * 16 + [-8.0] + [0.0] * 15 + [2.0, -2.0] * 8
    mean = sum(values) / 80
    assert found.layer == "layer"
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx((sum((v - mean) ** 2 for v in values) / 80) ** 0.5)
    assert found.sparsity == pytest.approx(sum(abs(v) < 0.08 for v in values) / 80)
    assert (found.active, found.total) == (3, 5)


def test_order_by_activation_and_by_variance() -> None:
    asker = explainer()
    assert asker.features(X, layer="layer").channels.tolist() == [1, 4, 3, 2, 0]
    by_variance = asker.features(X, layer="layer", by="variance")
    assert by_variance.channels.tolist() == [4, 3, 0, 1, 2]
    assert torch.equal(by_variance.maps[0], torch.tensor([2.0, -2.0]).repeat(8).view(4, 4))
    assert by_variance.maps[1][0, 0] == -8


def test_the_first_few_of_all() -> None:
    asker = explainer()
    two = asker.features(X, layer="layer", top=2)
    assert two.channels.tolist() == [1, 4]
    assert two.maps.shape == (2, 4, 4)
    assert asker.features(X, layer="layer", top=99).maps.shape == (5, 4, 4)


def test_a_layer_that_is_silent() -> None:
    found = explainer(scale=0.0).features(X, layer="layer")
    assert (found.mean, found.std, found.sparsity, found.active) == (0.0, 0.0, 1.0, 0)


@pytest.mark.parametrize("name", ["resnet", "swin", "vit_registers"])
def test_maps_are_the_layers_own_output(name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 2)
    found = Explainer(owner).features(x, top=4)
    layer = owner.layers[str(owner.default_layer)]
    assert found.layer == layer.name
    seen: list[Tensor] = []
    module = owner.model.eval().get_submodule(layer.name)
    hook = module.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        owner.model(x)
    hook.remove()
    assert layer.layout is not None
    own = layer.layout.to_nchw(seen[0])[0]
    torch.testing.assert_close(found.maps, own[found.channels])
    sizes = own.abs().mean((1, 2))
    assert sizes[found.channels[-1]] >= sizes.sort(descending=True).values[3] - 1e-6
    assert found.total == layer.layout.channels


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_pooled", "deit_distilled"])
def test_heads_of_an_attention_layer(name: str) -> None:
    owner = shared_handle(name)
    asker, x = Explainer(owner), images(owner, 1)
    first, *_, last = owner.attention_layers.values()
    assert last.layout is not None
    heads = asker.attention(x)
    assert heads.shape == (last.heads, *last.layout.grid)
    for index in range(last.heads):
        alone = asker.explain(x, "attention", head=index).values[0]
        torch.testing.assert_close(heads[index], alone)
    torch.testing.assert_close(
        asker.attention(x, layer="blocks.0"), asker.attention(x, layer=first.name)
    )
    assert not torch.allclose(asker.attention(x, layer=first.name), heads)
    whole = asker.attention(x, query="5").sum((1, 2))
    assert (whole <= 1 + 1e-5).all()
    if not last.layout.prefix:
        torch.testing.assert_close(whole, torch.ones(last.heads))


@pytest.mark.parametrize("query", ["somebody", "-1", "²", "", "100000", "1.0"])
def test_who_is_not_there_cannot_look(query: str) -> None:
    owner = shared_handle("vit_pooled")
    with pytest.raises(UnknownNameError, match=r"no patch .* numbered 0 to 15"):
        Explainer(owner).attention(images(owner, 1), query=query)
    with pytest.raises(UnknownNameError, match="no class token"):
        Explainer(owner).attention(images(owner, 1), query="class")


def test_refusals() -> None:
    asker = explainer()
    with pytest.raises(TimmscopeError, match="top is 0"):
        asker.features(X, layer="layer", top=0)
    with pytest.raises(UnknownNameError, match=r"no layer 'layr'.* 'layer'"):
        asker.features(X, layer="layr")
    with pytest.raises(NotApplicableError, match=r"'head'.*spatial grid"):
        asker.features(X, layer="head")
    with pytest.raises(NotApplicableError, match="no softmax attention"):
        asker.attention(X)


def test_a_register_token_is_no_class_token() -> None:
    model = timm.create_model(
        "vit_medium_patch16_reg1_gap_256",
        img_size=64, embed_dim=48, depth=2, num_heads=3, num_classes=5,
    )  # fmt: skip
    owner = ModelHandle(model, name="gap", preprocessing=Preprocessing.from_model(model))
    explainer, x = Explainer(owner), images(owner, 1)
    auto, mean = (explainer.attention(x, query=q) for q in ("auto", "mean"))
    assert torch.equal(auto, mean)
    with pytest.raises(UnknownNameError, match="no class token"):
        explainer.attention(x, query="class")
