"""Torch's own multi-head attention: the same maps as attention that is spelt out."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

from core import Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.runtime.attention_capture import multi_head_attention
from tests.conftest import images


class SpeltOut(nn.Module):
    """The attention of a timm block with the weights of a `MultiheadAttention`."""

    def __init__(self, given: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = given.num_heads
        self.qkv = nn.Linear(given.embed_dim, 3 * given.embed_dim)
        self.qkv.weight, self.qkv.bias = given.in_proj_weight, given.in_proj_bias
        self.proj = given.out_proj

    def forward(self, x: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor, None]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attn = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2)), None


def vision_transformer() -> VisionTransformer:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = VisionTransformer(64, 16, 3, 3, 48, 96, num_classes=7)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@cache
def twins() -> tuple[Explainer, Explainer]:
    """A torchvision transformer, and the same weights with attention spelt out."""
    theirs, spelt = vision_transformer(), vision_transformer()
    for block in spelt.encoder.layers:
        block.self_attention = SpeltOut(block.self_attention)
    sized = Preprocessing((3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    return tuple(  # type: ignore[return-value]
        Explainer(ModelHandle(model, name="vit", preprocessing=sized)) for model in (theirs, spelt)
    )


KEYS = [
    "attention", "attention_rollout", "attention_flow", "transformer_relevance", "legrad",
    "attnlrp", "cp_lrp", "deeplift", "gradcam", "input_x_gradient",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_the_same_weights_give_the_same_map(key: str) -> None:
    theirs, spelt = twins()
    x = images(theirs.model, 2)
    found, expected = (asker.explain(x, key, target=1) for asker in (theirs, spelt))
    assert found.values.any()
    torch.testing.assert_close(found.score, expected.score, rtol=1e-4, atol=1e-5)
    scale = float(expected.values.abs().max())
    torch.testing.assert_close(found.values, expected.values, rtol=1e-3, atol=1e-4 * scale)


def test_layers_and_heads_are_found() -> None:
    theirs, spelt = twins()
    assert list(theirs.model.attention_layers) == list(spelt.model.attention_layers)
    assert theirs.attention(images(theirs.model, 1)).shape == (3, 4, 4)


def test_rules_for_convolutions_still_refuse_attention() -> None:
    theirs, _ = twins()
    reason = METHODS.make("lrp").refusal(theirs.model)
    assert "uses attention; use attnlrp" in reason


class Encoder(nn.Module):
    """A transformer of torch's own layers, with and without batch first and pre-normalisation."""

    def __init__(self, batch_first: bool, norm_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patch = nn.Conv2d(3, 24, 8, 8)
        layer = nn.TransformerEncoderLayer(
            24, 3, 48, batch_first=batch_first, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        tokens = self.encoder(tokens if self.batch_first else tokens.transpose(0, 1))
        out: Tensor = self.head(tokens.mean(1 if self.batch_first else 0))
        return out


@pytest.mark.parametrize("key", ["transformer_relevance", "attnlrp", "cp_lrp", "attention_rollout"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_encoders_of_torch_are_explained(key: str, norm_first: bool, batch_first: bool) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Encoder(batch_first, norm_first).eval()
    sized = Preprocessing((3, 64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)
    asker = Explainer(ModelHandle(model, name="encoder", preprocessing=sized))
    x = images(asker.model, 2)
    together = asker.explain(x, key, target=1).values
    assert together.flatten(1).any(1).all()
    alone = torch.cat([asker.explain(row[None], key, target=1).values for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-6)


# -- the function itself --------------------------------------------------------------------------

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "no bias": ({"bias": False}, {}),
    "other sizes of keys and values": ({"kdim": 6, "vdim": 5}, {}),
    "a bias of keys and values": ({"add_bias_kv": True}, {}),
    "a key of zeros": ({"add_zero_attn": True}, {}),
    "both, and a mask": (
        {"add_zero_attn": True, "add_bias_kv": True},
        {"attn_mask": torch.ones(4, 5).triu(2).bool()},
    ),
    "a mask": ({}, {"attn_mask": torch.ones(4, 5).triu(1).bool()}),
    "a mask of numbers": ({}, {"attn_mask": torch.linspace(-1, 1, 20).view(4, 5)}),
    "a mask for each head": ({}, {"attn_mask": (torch.arange(120) % 7 == 0).view(6, 4, 5)}),
    "padding": ({}, {"key_padding_mask": torch.tensor([[False] * 4 + [True], [False] * 5])}),
    "padding and a mask": (
        {},
        {
            "key_padding_mask": torch.tensor([[False] * 4 + [True], [False] * 5]),
            "attn_mask": torch.ones(4, 5).triu(2).bool(),
        },
    ),
    "each head": ({}, {"average_attn_weights": False}),
    "no weights": ({}, {"need_weights": False}),
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_torch_does(
    case: str, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = CASES[case]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = nn.MultiheadAttention(12, 3, batch_first=batch_first, **made).eval()
        query, key, value = (
            torch.randn(2, length, made.get(name, 12)).requires_grad_()
            for length, name in ((4, ""), (5, "kdim"), (5, "vdim"))
        )
    given = [t if batch_first else t.transpose(0, 1) for t in (query, key, value)]
    expected = module(*given, **asked)
    monkeypatch.setattr(
        F,
        "multi_head_attention_forward",
        lambda *args, **kwargs: multi_head_attention(lambda attn: attn, *args, **kwargs),
    )
    found = module(*given, **asked)
    torch.testing.assert_close(found, expected)


def test_it_computes_what_torch_does_without_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = nn.MultiheadAttention(12, 3).eval(), torch.randn(4, 12, requires_grad=True)
    expected = module(x, x, x)
    monkeypatch.setattr(
        F,
        "multi_head_attention_forward",
        lambda *args, **kwargs: multi_head_attention(lambda attn: attn, *args, **kwargs),
    )
    torch.testing.assert_close(module(x, x, x), expected)
