"""What a pass of noise tells of a model's layers, on the zoo and on further families."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import ModelError, NotApplicableError, UnknownNameError
from core.inputs.preprocessing import Preprocessing
from core.models.layers import probe
from core.types import Layout, Need
from tests.conftest import ZOO, images, shared_handle

FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "byobnet": ("test_byobnet", {}),
    "coatnet": ("test_coatnet", {}),
    "maxvit": ("test_maxvit", {}),
    "nfnet": ("test_nfnet", {}),
    "relpos": ("test_vit_relpos", {}),
    "xcit": ("xcit_nano_12_p16_224", {"depth": 2}),
    "mixer": ("mixer_s32_224", {}),
    "levit": ("levit_128s", {}),
    "pvt": ("pvt_v2_b0", {}),
    "cait": ("cait_xxs24_224", {"depth": 2}),
    "wide_vit": ("test_vit", {"img_size": (96, 160)}),
    "tall_deit": ("deit_tiny_distilled_patch16_224", {"img_size": (160, 96), "depth": 2}),
    "wide_swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": (96, 192), "window_size": 3, "depths": (1, 1, 1), "num_heads": (2, 2, 4)},
    ),
}


@cache
def further(name: str) -> ModelHandle:
    architecture, arguments = FURTHER[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = timm.create_model(architecture, num_classes=7, **arguments)
    return ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))


def any_handle(name: str) -> ModelHandle:
    return shared_handle(name) if name in ZOO else further(name)


DEFAULTS = {
    "resnet": ("layer4", Layout("NCHW", (5, 5), 96)),
    "efficientnet": ("bn2", Layout("NCHW", (5, 5), 256)),
    "convnext": ("stages.3", Layout("NCHW", (5, 5), 64)),
    "mambaout": ("stages.3", Layout("NHWC", (5, 5), 64)),
    "swin": ("norm", Layout("NHWC", (7, 7), 96)),
    "vit": ("blocks.5.norm1", Layout("NLC", (10, 10), 64, 1, class_token=True)),
    "vit_registers": ("blocks.2.norm1", Layout("NLC", (4, 4), 48, 5, class_token=True)),
    "vit_pooled": ("blocks.2", Layout("NLC", (4, 4), 48, 0)),
    "deit_distilled": ("blocks.2.norm1", Layout("NLC", (4, 4), 48, 2, class_token=True)),
    "byobnet": ("final_conv", Layout("NCHW", (5, 5), 256)),
    "coatnet": ("norm", Layout("NCHW", (5, 5), 128)),
    "maxvit": ("norm", Layout("NCHW", (5, 5), 128)),
    "nfnet": ("final_conv", Layout("NCHW", (5, 5), 192)),
    "relpos": ("blocks.8", Layout("NLC", (10, 10), 96)),
    "xcit": ("cls_attn_blocks.1.norm1", Layout("NLC", (14, 14), 128, 1, class_token=True)),
    "mixer": ("norm", Layout("NLC", (7, 7), 512)),
    "levit": ("stages.2", Layout("NLC", (4, 4), 384)),
    "pvt": ("stages.3", Layout("NCHW", (7, 7), 256)),
    "cait": ("blocks_token_only.1.norm1", Layout("NLC", (14, 14), 192, 1, class_token=True)),
    "wide_vit": ("blocks.5.norm1", Layout("NLC", (6, 10), 64, 1, class_token=True)),
    "tall_deit": ("blocks.1.norm1", Layout("NLC", (10, 6), 192, 2, class_token=True)),
    "wide_swin": ("norm", Layout("NHWC", (6, 12), 384)),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_where_cams_look(name: str) -> None:
    owner = any_handle(name)
    assert owner.default_layer is not None
    assert (owner.default_layer, owner.layers[owner.default_layer].layout) == DEFAULTS[name]
    assert owner.default_layer in [layer.name for layer in owner.stages()]
    assert owner.outputs == 7


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_seen_there_depends_on_the_class(name: str) -> None:
    owner = any_handle(name)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        for parameter in owner.model.parameters():  # some families begin with a head of zeros
            if parameter.ndim >= 2 and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    x = images(owner, 1)
    maps = [Explainer(owner).explain(x, "hirescam", target=c, relu=False).values for c in (0, 1)]
    layout = DEFAULTS[name][1]
    assert maps[0].shape == (1, *layout.grid)
    assert (maps[0] != 0).float().mean() > 0.5
    assert not torch.allclose(maps[0], maps[1])


# -- layouts ------------------------------------------------------------------------------------

LAYOUTS = [
    Layout("NCHW", (2, 3), 4),
    Layout("NHWC", (2, 3), 4),
    *(Layout("NLC", (2, 3), 4, prefix) for prefix in (0, 1, 2, 5)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_cell_i_j_lies_at_i_j(layout: Layout) -> None:
    grid = torch.arange(2 * 4 * 6.0).view(2, 4, 2, 3)
    output = {
        "NCHW": lambda: grid,
        "NHWC": lambda: grid.permute(0, 2, 3, 1),
        "NLC": lambda: torch.cat(
            [
                torch.full((2, layout.prefix, 4), -1.0),
                *(grid[:, :, i, j][:, None] for i in range(2) for j in range(3)),
            ],
            1,
        ),
    }[layout.format]()
    assert torch.equal(layout.to_nchw(output), grid)


@pytest.mark.parametrize("name", ["wide_vit", "tall_deit", "wide_swin", "resnet", "mambaout"])
def test_a_bright_corner_shows_in_its_own_corner(name: str) -> None:
    """The first stage on the picture must respond where the picture was changed."""
    owner = any_handle(name)
    asker, x = Explainer(owner), images(owner, 1)
    height, width = x.shape[2:]
    first = next(n for n, layer in owner.layers.items() if layer.layout is not None)
    layout = owner.layers[first].layout
    assert layout is not None
    changed = x.clone()
    changed[:, :, : height // 4, -width // 4 :] += 3
    before, after = (asker.features(p, layer=first, top=layout.channels).maps for p in (x, changed))
    order = [
        asker.features(p, layer=first, top=layout.channels).channels.argsort() for p in (x, changed)
    ]
    difference = (before[order[0]] - after[order[1]]).abs().sum(0)
    h, w = layout.grid
    inside = torch.zeros(h, w, dtype=torch.bool)
    inside[: -(-h // 4) + 1, w - -(-w // 4) - 1 :] = True
    assert difference[inside].sum() > 0
    assert difference[~inside].sum() < 1e-3 * difference.sum()


class Shuffled(nn.Module):
    """Tokens (B, L, C) in another order."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]


class Tokens(nn.Module):
    """Patches as tokens, row by row, then shuffled, then mixed all with all."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.Flatten(2), Transposed())
        self.shuffled, self.mixed = Shuffled(), Mixed()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.mixed(self.shuffled(self.patches(x))).mean(1))


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh().mean(1, keepdim=True).expand_as(x) * torch.ones(1, 64, 1)


def test_a_layer_that_keeps_an_order_of_its_own_does_not_lie_on_the_picture() -> None:
    layers = probe(Tokens(), (3, 32, 32), "tokens").layers
    assert layers["patches"].layout == Layout("NLC", (8, 8), 5)
    assert layers["shuffled"].layout is None
    assert layers["mixed"].layout == Layout("NLC", (8, 8), 5), "nothing speaks against it"


def test_hieras_blocks_keep_an_order_of_their_own_up_to_the_last_stage() -> None:
    model = timm.create_model("hiera_tiny_224", embed_dim=24, stages=(1, 1, 1, 1), num_classes=3)
    layers = probe(model.eval(), (3, 224, 224), "hiera").layers
    assert layers["blocks.0"].layout is None
    assert layers["blocks.3"].layout == Layout("NLC", (7, 7), 192)


def test_a_single_cell_is_not_offered() -> None:
    owner = shared_handle("efficientnet")
    pooled = [n for n in owner.layers if n.endswith(("global_pool.pool", "se.conv_reduce"))]
    assert pooled
    assert not set(pooled) & set(owner.choices([Need.LAYER]))
    assert all(getattr(owner.layers[n].layout, "grid", (1, 1)) == (1, 1) for n in pooled)


class Said(nn.Module):
    """What timm tells of a model whose last stage has no parameters, as in VGG."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
        self.drop = nn.Dropout()
        self.fc = nn.Linear(4, 7)
        self.feature_info = [
            {"num_chs": 4, "reduction": 2, "module": "features.0"},
            {"num_chs": 4, "reduction": 4, "module": "features.2"},
        ]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.features(x)).mean((2, 3)))
        return out


def test_the_last_stage_may_be_an_activation() -> None:
    assert probe(Said(), (3, 32, 32), "said").default_layer == "features.2"


def test_without_a_word_from_timm_the_children_are_the_stages() -> None:
    model = Said()
    del model.feature_info
    found = probe(model, (3, 32, 32), "silent")
    assert found.default_layer == "features"
    assert [n for n, layer in found.layers.items() if layer.stage] == ["features", "drop", "fc"]


def test_a_model_within_a_model_is_known_by_its_full_names() -> None:
    found = probe(
        nn.Sequential(timm.create_model("test_resnet", num_classes=7)), (3, 160, 160), "x"
    )
    assert found.default_layer == "0.layer4"


class Cube(nn.Module):
    """As many channels as rows and columns: only the model can say which axis is which."""

    def __init__(self, output_fmt: str) -> None:
        super().__init__()
        self.output_fmt = output_fmt
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.order = Permuted(output_fmt)

    def forward(self, x: Tensor) -> Tensor:
        return self.order(self.conv(x)).flatten(1)


class Permuted(nn.Module):
    """Gives NCHW or NHWC."""

    def __init__(self, output_fmt: str) -> None:
        super().__init__()
        self.output_fmt = output_fmt

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else x


@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
def test_where_shapes_leave_it_open_the_model_is_believed(output_fmt: str) -> None:
    layout = probe(Cube(output_fmt), (3, 32, 32), "cube").layers["order"].layout
    assert layout == Layout(output_fmt, (8, 8), 8)


def test_no_scores_no_model() -> None:
    with pytest.raises(ModelError, match=r"flat returns .* where"):
        probe(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2)), (3, 8, 8), "flat")


# -- attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("vit", "vit_registers", "vit_pooled", "deit_distilled"),
        *("wide_vit", "tall_deit", "relpos"),
    ],
)
def test_attention_over_the_whole_picture(name: str) -> None:
    owner = any_handle(name)
    prefix = DEFAULTS[name][1].prefix
    grid = DEFAULTS[name][1].grid
    for layer in owner.attention_layers.values():
        assert layer.layout is not None
        assert (layer.layout.grid, layer.layout.prefix, layer.reason) == (grid, prefix, "")
        assert layer.tokens == prefix + grid[0] * grid[1]
    assert Need.ATTENTION in owner.supports


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("xcit", "blocks.0.attn", "attention is among channels"),
    ],
)
def test_other_attention_says_why_not(name: str, layer: str, reason: str) -> None:
    owner = any_handle(name)
    assert owner.attention_layers[layer].layout is None
    assert reason in owner.attention_layers[layer].reason
    with pytest.raises(NotApplicableError) as refusal:
        Explainer(owner).explain(images(owner, 1), "attention_rollout")
    assert len(str(refusal.value)) > 40


class AmongChannels(nn.Module):
    """Attention of 16 channels to each other, whose map has the shape of one over 4 x 4 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2)[:, None]
        mixed = (tokens @ tokens.transpose(2, 3)).softmax(-1) @ tokens
        out: Tensor = self.head(mixed[:, 0].mean(2))
        return out


def test_attention_lies_only_where_some_layers_tokens_lie() -> None:
    (found,) = probe(AmongChannels(), (3, 32, 32), "channels").attention.values()
    assert found.layout is None
    assert found.reason


@pytest.mark.parametrize("name", ["resnet", "mixer", "mambaout"])
def test_no_attention_at_all(name: str) -> None:
    owner = any_handle(name)
    assert not owner.attention_layers
    assert "computes no softmax attention" in owner.why_not([Need.ATTENTION])


def test_tokens_that_change_on_the_way_can_be_looked_at_but_not_rolled_out() -> None:
    owner = any_handle("levit")
    x = images(owner, 1)
    maps = Explainer(owner).explain(x, "attention", layer="stages.0.blocks.0.attn").values
    assert maps.shape == (1, 14, 14)
    with pytest.raises(NotApplicableError, match="rollout follows tokens through all layers"):
        Explainer(owner).explain(x, "attention_rollout")


# -- naming a layer -----------------------------------------------------------------------------


def test_the_layer_meant() -> None:
    vit, resnet = shared_handle("vit"), shared_handle("resnet")
    assert resnet.resolve_layer([Need.LAYER], None) == "layer4"
    assert resnet.resolve_layer([Need.LAYER], "layer2") == "layer2"
    assert resnet.resolve_layer([], None) is None
    assert resnet.resolve_layer([], "layer2") is None
    assert vit.resolve_layer([Need.ATTENTION], None) == "blocks.5.attn"
    assert vit.resolve_layer([Need.ATTENTION], "blocks.1") == "blocks.1.attn"
    assert vit.resolve_layer([Need.LAYER], "blocks.1") == "blocks.1"


@pytest.mark.parametrize("needs", [[], [Need.LAYER]])
def test_a_layer_that_does_not_exist_is_refused_whoever_asks(needs: list[Need]) -> None:
    with pytest.raises(UnknownNameError, match="no layer 'layr4' in resnet; did you mean 'layer4'"):
        shared_handle("resnet").resolve_layer(needs, "layr4")


def test_a_layer_that_does_not_suit_is_refused_with_one_that_does() -> None:
    resnet, vit = shared_handle("resnet"), shared_handle("vit")
    with pytest.raises(NotApplicableError, match=r"'fc' of resnet .* spatial grid; .* 'act1'"):
        resnet.resolve_layer([Need.LAYER], "fc")
    with pytest.raises(NotApplicableError, match=r"'norm' of vit .* picture; .* 'blocks\.5\.attn'"):
        vit.resolve_layer([Need.ATTENTION], "norm")


def test_meaningful_layers_come_first_and_every_module_once() -> None:
    owner = shared_handle("resnet")
    names = owner.choices([Need.LAYER])
    assert names[:5] == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert len(names) == len(set(names))
    assert {"conv1", "layer1.0.conv1"} <= set(names)
