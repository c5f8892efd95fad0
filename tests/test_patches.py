"""What a patch is like and attends to, against numbers worked out by hand or by torch alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import Explainer, ModelHandle
from core.analysis import patches
from core.analysis.patches import PatchLayer, feature_similarity, overlap
from core.errors import NotApplicableError, TimmscopeError, UnknownNameError
from tests.conftest import images, shared_handle
from tests.test_features import PREPROCESSING, X, explainer


def outputs(owner: ModelHandle, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """What modules give for images, by torch's own hooks."""
    seen: dict[str, Tensor] = {}
    hooks = [
        owner.model.get_submodule(name).register_forward_hook(
            lambda _m, _a, out, name=name: seen.__setitem__(name, out.detach())
        )
        for name in names
    ]
    with torch.no_grad():
        owner.model.eval()(x)
    for hook in hooks:
        hook.remove()
    return seen


def one(found: Sequence[PatchLayer], layer: str) -> PatchLayer:
    (only,) = [each for each in found if each.layer == layer]
    return only


# -- likeness of features -----------------------------------------------------------------------


def test_similarity_of_a_layer_made_by_hand() -> None:
    found = explainer().patches(X, layers=["layer"])
    (layer,) = found.similarity
    assert (layer.grid, layer.key_grid, layer.own_grid, layer.heads) == ((4, 4), (4, 4), (4, 4), 1)
    # Channels: 0, 3, 0.05, -8 at the first patch only, and +2 and -2 in turn.
    first, second, third = ([0, 3, 0.05, -8, 2], [0, 3, 0.05, 0, -2], [0, 3, 0.05, 0, 2])
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    norms = [sum(a * a for a in v) ** 0.5 for v in (first, second)]
    assert layer.values[0, 0, 1] == pytest.approx(dot / (norms[0] * norms[1]), abs=1e-6)
    assert layer.values[0, 2, 2] == pytest.approx(1)
    dot = sum(a * b for a, b in zip(second, third, strict=True))
    assert layer.values[0, 1, 2] == pytest.approx(dot / norms[1] ** 2, abs=1e-6)
    assert layer.other_tokens.tolist() == [[0.0] * 16]
    assert found.attention == ()
    assert found.reasons["attention"].startswith("hand computes no softmax attention")
    assert found.notes == ()


@pytest.mark.parametrize("name", ["resnet", "convnext", "vit", "vit_registers", "swin"])
def test_similarity_is_the_cosine_of_the_layers_own_output(name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 2)
    found = Explainer(owner).patches(x)
    assert [layer.layer for layer in found.similarity] == [layer.name for layer in owner.stages()]
    layer = found.similarity[-1]
    layout = owner.layers[layer.layer].layout
    assert layout is not None
    act = layout.to_nchw(outputs(owner, [layer.layer], x)[layer.layer])[0]
    assert layer.grid == layout.grid
    for row, (i, j) in ((0, (0, 0)), (layout.grid[1] + 1, (1, 1))):
        own = F.cosine_similarity(act, act[:, i : i + 1, j : j + 1], dim=0)
        torch.testing.assert_close(layer.maps(row)[0], own, atol=1e-5, rtol=0)


def test_neighbours_on_a_fine_grid_are_averaged_before_they_are_compared() -> None:
    act = torch.randn((6, 32, 32), generator=torch.Generator().manual_seed(0))
    layer = feature_similarity("fine", act)
    assert (layer.grid, layer.own_grid) == ((16, 16), (32, 32))
    pooled = F.avg_pool2d(act[None], 2)[0].flatten(1)
    own = F.cosine_similarity(pooled, pooled[:, 17:18], dim=0)
    torch.testing.assert_close(layer.values[0, 17], own, atol=1e-5, rtol=0)


def test_a_patch_without_features_is_like_none() -> None:
    act = torch.ones(3, 4, 4)
    act[:, 0, 0] = 0
    assert feature_similarity("silent", act).values[0, 0].tolist() == [0.0] * 16


def test_a_grid_that_does_not_divide_is_shared_out_by_area() -> None:
    shares = overlap((5, 7), (2, 3))
    torch.testing.assert_close(shares.sum(0), torch.ones(35))
    torch.testing.assert_close(shares.sum(1), torch.full((6,), 35 / 6))
    assert shares[0, 2 * 7] == 0.5, "the middle row lies half in the upper cell"


# -- attention ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_pooled", "deit_distilled"])
def test_attention_is_the_softmax_of_queries_and_keys(name: str) -> None:
    owner = shared_handle(name)
    x = images(owner, 1)
    found = Explainer(owner).patches(x)
    assert [layer.layer for layer in found.attention] == list(owner.attention_layers)
    layer = one(found.attention, "blocks.1.attn")
    described = owner.attention_layers["blocks.1.attn"]
    assert described.layout is not None
    prefix = described.layout.prefix
    qkv = outputs(owner, ["blocks.1.attn.qkv"], x)["blocks.1.attn.qkv"][0]
    q, k, _ = qkv.unflatten(1, (3, described.heads, -1)).permute(1, 2, 0, 3)
    own = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
    cells = described.layout.tokens - prefix
    torch.testing.assert_close(layer.values[:, :cells], own[:, prefix:, prefix:])
    torch.testing.assert_close(layer.values[:, cells:], own[:, :prefix, prefix:])
    to_others = own[:, prefix:, :prefix].sum(2)
    torch.testing.assert_close(layer.other_tokens[:, :cells], to_others, atol=1e-5, rtol=0)
    assert layer.window == 0
    assert len(layer.tokens) == prefix


def test_tokens_that_are_no_patches_have_names() -> None:
    tokens = {
        name: Explainer(shared_handle(name)).patches(images(shared_handle(name), 1)).attention[0]
        for name in ("vit", "vit_registers", "vit_pooled")
    }
    assert tokens["vit"].tokens == ("class token",)
    assert tokens["vit_pooled"].tokens == ()
    assert tokens["vit_registers"].tokens == (
        "class token", "extra token 1", "extra token 2", "extra token 3", "extra token 4",
    )  # fmt: skip


def test_attention_in_windows_ends_at_the_window() -> None:
    owner = shared_handle("swin")
    asker, x = Explainer(owner), images(owner, 1)
    found = asker.patches(x)
    first, last = found.attention[0], found.attention[-1]
    described = list(owner.attention_layers.values())
    assert (first.own_grid, first.grid, first.window) == ((28, 28), (14, 14), 49)
    # Patch (1, 2) of the shown grid stands for four of the layer's own.
    parts = [
        asker.attention(x, layer=first.layer, query=str(28 * i + j)) for i in (2, 3) for j in (4, 5)
    ]
    merged = 4 * F.avg_pool2d(torch.stack(parts).mean(0)[:, None], 2)[:, 0]
    shown = first.maps(14 * 1 + 2)
    torch.testing.assert_close(shown, merged, atol=1e-6, rtol=0)
    assert shown[:, 4:].max() < 1e-6, "windows have 7 of the own patches"
    assert shown[:, :4, :4].sum((1, 2)).tolist() == pytest.approx([1.0] * first.heads, abs=1e-5)
    assert last.grid == last.own_grid
    assert last.heads == described[-1].heads
    assert found.notes == ("On fine grids (28 x 28) neighbouring patches are merged.",)


def test_a_row_is_found_by_a_point_of_the_input() -> None:
    layer = feature_similarity("any", torch.randn(3, 4, 6))
    assert [layer.row_at(*at) for at in ((0, 0), (0.99, 0), (1, 1), (0.4, 0.6))] == [0, 5, 23, 14]
    with pytest.raises(TimmscopeError, match="does not see this point"):
        layer.row_at(1.01, 0.5)


# -- what is left out, and what is refused ------------------------------------------------------


def test_layers_are_left_out_where_all_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shared_handle("vit")
    x = images(owner, 1)
    whole = Explainer(owner).patches(x)
    size = sum(layer.values.numel() for layer in whole)
    monkeypatch.setattr(patches, "MAX_VALUES", size // 2)
    part = Explainer(owner).patches(x)
    assert sum(layer.values.numel() for layer in part) <= size // 2
    assert 0 < len(part.attention) < len(whole.attention)
    assert part.attention[-1].layer == whole.attention[-1].layer
    assert "too large together: every third is shown" in part.notes[0]


def test_named_layers_are_compared_and_read() -> None:
    owner = shared_handle("vit")
    found = Explainer(owner).patches(images(owner, 1), layers=["blocks.0", "blocks.2.attn"])
    assert [layer.layer for layer in found.similarity] == ["blocks.0", "blocks.2.attn"]
    assert [layer.layer for layer in found.attention] == ["blocks.0.attn", "blocks.2.attn"]


def test_all_layers_take_two_passes_and_the_next_time_none() -> None:
    owner = shared_handle("vit")
    asker, x = Explainer(owner), images(owner, 1)
    told: list[tuple[int, int]] = []
    asker.patches(x, on_progress=lambda done, expected: told.append((done, expected)))
    assert told[-1] == (2, 2)
    told.clear()
    asker.patches(x, on_progress=lambda done, expected: told.append((done, expected)))
    assert all(done == 0 for done, _ in told)


def test_a_model_without_a_grid_says_why() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    owner = ModelHandle(model, name="flat", preprocessing=PREPROCESSING)
    with pytest.raises(NotApplicableError, match="flat has no layer on a spatial grid"):
        Explainer(owner).patches(X)
    with pytest.raises(NotApplicableError, match=r"'head'.*spatial grid"):
        explainer().patches(X, layers=["head"])
    with pytest.raises(UnknownNameError, match="'layr'"):
        explainer().patches(X, layers=["layr"])
