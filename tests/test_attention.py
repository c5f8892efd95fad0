"""Attention: windows put back onto the picture; flow, relevance, LeGrad against known answers."""

from __future__ import annotations

import copy
import functools
from functools import cache
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.optimize import linprog
from timm.models.maxxvit import grid_partition
from timm.models.maxxvit import window_partition as block_partition
from timm.models.swin_transformer import window_partition
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import NotApplicableError, UnknownNameError
from core.inputs.preprocessing import Preprocessing
from core.methods.attention_flow import max_flows
from core.methods.base import METHODS
from core.models import zoo
from core.runtime.attention_capture import record_attention
from core.runtime.batching import Progress
from core.runtime.run import Run
from core.tasks.classification import ClassScore
from tests.conftest import build, images, shared_handle
from tests.test_layers import any_handle

TARGET = ClassScore((1, 3))


def run64(name: str, layer: str | None = None, count: int = 2) -> Run:
    """A question to a model of the zoo in double precision."""
    model = build(name).double().eval()
    owner = ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))
    x = images(owner, count).double()
    return Run(owner, x, ClassScore((1, 3)[:count]), layer=layer)


def ask(run: Run, key: str, **params: Any) -> Tensor:
    values, score = METHODS.make(key, params).attribute(run)
    torch.testing.assert_close(score, run.score())
    return values


# -- windows ------------------------------------------------------------------------------------


@cache
def shifting_swin() -> ModelHandle:
    """A Swin whose second and fourth blocks shift their windows."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=(96, 128), window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 2),
            num_classes=5,
        )  # fmt: skip
    return ModelHandle(model, name="shifting", preprocessing=Preprocessing.from_model(model))


def windows_by_hand(block: nn.Module, grid: tuple[int, int]) -> Tensor:
    """(windows, tokens) the cell that each token of a Swin block's windows stands for."""
    window, shift = block.window_size, block.shift_size  # type: ignore[union-attr]
    cells = torch.arange(grid[0] * grid[1], dtype=torch.float32).view(1, *grid, 1)
    if any(shift):
        cells = cells.roll((-shift[0], -shift[1]), (1, 2))
    return window_partition(cells, window).flatten(1).long()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("stage", [0, 1])
def test_swin_attention_is_put_where_swins_own_windows_lie(stage: int, number: int) -> None:
    owner = shifting_swin()
    name = f"layers.{stage}.blocks.{number}.attn"
    layer, x = owner.attention_layers[name], images(owner, 2)
    assert layer.layout is not None
    grid = layer.layout.grid
    assert grid == ((24, 32), (12, 16))[stage]
    block = owner.model.get_submodule(name.removesuffix(".attn"))
    assert any(block.shift_size) == bool(number)  # type: ignore[union-attr, arg-type]
    with torch.no_grad(), record_attention(owner.model.eval()) as maps:
        owner.model(x)
    cell = windows_by_hand(block, grid)
    expected = torch.zeros(2, layer.heads, grid[0] * grid[1], grid[0] * grid[1])
    for index, weights in enumerate(maps[name].unflatten(0, (2, -1)).flatten(0, 1)):
        image, window = divmod(index, len(cell))
        for head in range(layer.heads):
            expected[image, head, cell[window][:, None], cell[window]] = weights[head]
    explainer = Explainer(owner)
    for query in (0, 37, grid[0] * grid[1] - 1):
        for head, own in ((1, expected[:, 1]), (-1, expected.mean(1))):
            seen = explainer.explain(x, "attention", layer=name, query=str(query), head=head).values
            torch.testing.assert_close(seen.flatten(1), own[:, query], rtol=0, atol=1e-6)
            torch.testing.assert_close(seen.sum((1, 2)), torch.ones(2), rtol=0, atol=1e-5)
            assert ((seen > 0).flatten(1).sum(1) <= 16).all()
    mean = explainer.explain(x, "attention", layer=name, query="mean").values
    torch.testing.assert_close(mean.flatten(1), expected.mean((1, 2)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("part", "cut"), [("block", block_partition), ("grid", grid_partition)])
def test_maxvit_attention_is_put_where_its_own_partition_lies(part: str, cut: Any) -> None:
    owner = any_handle("maxvit")
    layer = owner.attention_layers[f"stages.1.blocks.0.attn_{part}.attn"]
    assert layer.layout is not None
    assert layer.layout.grid == (20, 20)
    assert layer.keys is not None
    cells = torch.arange(400.0).view(1, 20, 20, 1)
    by_hand = cut(cells, (5, 5)).flatten().long()
    found = torch.empty(400, dtype=torch.long)
    found[layer.keys.slot] = layer.keys.token
    assert torch.equal(found, by_hand)
    assert layer.queries is layer.keys


def test_pooled_keys_and_queries_have_grids_of_their_own() -> None:
    pvt, levit = any_handle("pvt"), any_handle("levit")
    pooled = pvt.attention_layers["stages.1.blocks.0.attn"]
    assert pooled.layout is not None
    assert pooled.query_layout is not None
    assert (pooled.layout.grid, pooled.query_layout.grid) == ((7, 7), (28, 28))
    x = images(pvt, 1)
    with torch.no_grad(), record_attention(pvt.model.eval()) as maps:
        pvt.model(x)
    seen = Explainer(pvt).explain(x, "attention", layer=pooled.name, query="700").values
    torch.testing.assert_close(seen.flatten(), maps[pooled.name][0].mean(0)[700])
    fewer = levit.attention_layers["stages.1.downsample.attn_downsample"]
    assert fewer.layout is not None
    assert fewer.query_layout is not None
    assert fewer.queries is not None
    assert (fewer.layout.grid, fewer.query_layout.grid) == ((14, 14), (7, 7))
    assert torch.equal(fewer.queries.slot[fewer.queries.token.argsort()], torch.arange(49))
    with pytest.raises(UnknownNameError, match="0 to 48"):
        Explainer(levit).explain(images(levit, 1), "attention", layer=fewer.name, query="49")


@pytest.mark.parametrize(
    ("name", "layer"), [("cait", "blocks_token_only.1.attn"), ("xcit", "cls_attn_blocks.0.attn")]
)
def test_a_class_token_that_looks_alone(name: str, layer: str) -> None:
    owner = any_handle(name)
    x = images(owner, 1)
    with torch.no_grad(), record_attention(owner.model.eval()) as maps:
        owner.model(x)
    seen = Explainer(owner).explain(x, "attention", layer=layer).values
    torch.testing.assert_close(seen.flatten(), maps[layer][0].mean(0)[0, 1:])


# -- further families ---------------------------------------------------------------------------

FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "tiny_vit_5m_224": ({"depths": (1, 2, 1, 1)}, 3),
    "twins_svt_small": ({"depths": (1, 1, 2, 1)}, 4),
    "beit_base_patch16_224": (
        {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}, 2
    ),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 2}, 2),
}  # fmt: skip
"""Arguments that make a family small, and how many attention layers can be laid out."""


@cache
def family(name: str) -> ModelHandle:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **FAMILIES[name][0])
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_further_families_lies_on_the_picture(name: str) -> None:
    owner = family(name)
    laid = [a for a in owner.attention_layers.values() if a.layout is not None]
    assert len(laid) >= FAMILIES[name][1]
    x, explainer = images(owner, 2), Explainer(owner)
    for layer in laid:
        both = explainer.explain(x, "attention", layer=layer.name, query="mean").values
        alone = explainer.explain(x[1], "attention", layer=layer.name, query="mean").values
        torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-7)
        assert layer.layout is not None
        if not layer.layout.prefix:
            torch.testing.assert_close(both.sum((1, 2)), torch.ones(2), rtol=1e-4, atol=1e-5)


def test_tokens_in_an_order_of_their_own_are_refused() -> None:
    model = timm.create_model("hiera_tiny_224", embed_dim=24, stages=(1, 1, 1, 1), num_classes=3)
    owner = ModelHandle(model, name="hiera", preprocessing=Preprocessing.from_model(model))
    assert owner.attention_layers
    assert all(layer.layout is None for layer in owner.attention_layers.values())
    with pytest.raises(NotApplicableError, match="row-by-row order"):
        Explainer(owner).explain(images(owner, 1), "attention")


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224"])
@pytest.mark.parametrize("key", ["transformer_relevance", "legrad", "attention_rollout"])
def test_methods_through_all_layers_run_on_further_families(name: str, key: str) -> None:
    owner = family(name)
    values = Explainer(owner).explain(images(owner, 1), key, target=1).values
    assert values.shape == (1, 4, 4)
    assert values.max() > values.min() >= 0


# -- flow ---------------------------------------------------------------------------------------


def softmax_maps(layers: int, tokens: int, scale: float, seed: int = 0) -> np.ndarray:
    logits = scale * np.random.default_rng(seed).normal(size=(layers, tokens, tokens))
    weights = np.exp(logits)
    return weights / weights.sum(-1, keepdims=True)


def largest_flow(maps: np.ndarray, held: np.ndarray, sink: int) -> float:
    """Maximum flow written out as a linear programme over the flow in every pipe."""
    layers, tokens, _ = maps.shape
    pipes = np.stack([(w + np.eye(tokens)) / 2 for w in maps])
    sizes = np.concatenate([held, pipes[::-1].ravel()])  # from the source, then down the layers
    count = layers * tokens * tokens
    kept = np.zeros((layers * tokens, tokens + count))
    for level in range(layers):
        for token in range(tokens):
            node = level * tokens + token
            out = tokens + level * tokens**2 + token * tokens
            kept[node, out : out + tokens] = -1
            if level == 0:
                kept[node, token] = 1
            else:
                into = tokens + (level - 1) * tokens**2 + token
                kept[node, into : into + tokens**2 : tokens] = 1
    gain = np.zeros(tokens + count)
    gain[tokens + (layers - 1) * tokens**2 + sink :: tokens] = -1
    bounds = np.stack([np.zeros_like(sizes), sizes], 1)
    # what reaches another token of the input is lost, so only the sink's inflow counts
    found = linprog(gain, A_eq=kept, b_eq=np.zeros(len(kept)), bounds=bounds)
    return -float(found.fun)


@pytest.mark.parametrize(("layers", "scale"), [(1, 1.0), (2, 3.0), (3, 1.0), (4, 4.0), (5, 0.1)])
@pytest.mark.parametrize("source", ["one", "all"])
def test_flow_is_the_optimum_of_the_linear_programme(
    layers: int, scale: float, source: str
) -> None:
    tokens = 5
    maps = softmax_maps(layers, tokens, scale)
    held = np.eye(tokens)[0] if source == "one" else np.full(tokens, 1 / tokens)
    found = max_flows(maps, held, Progress())
    expected = [largest_flow(maps, held, sink) for sink in range(tokens)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_flow_that_is_shown_is_the_flow_that_is_dinic_flows_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from core.methods import attention_flow

    maps, held = softmax_maps(12, 40, 0.7), np.eye(40)[0]
    searched: list[int] = []
    search = attention_flow._dinic_flows

    def counted(pipes: Any, held: Any, sinks: Any, progress: Any) -> Any:
        searched.extend(sinks)
        return search(pipes, held, sinks, progress)

    monkeypatch.setattr(attention_flow, "_dinic_flows", counted)
    shown = max_flows(maps, held, Progress())
    assert len(searched) < 40
    monkeypatch.setattr(attention_flow, "_reaches_bound", lambda *_: np.zeros(40, dtype=bool))
    np.testing.assert_allclose(shown, max_flows(maps, held, Progress()), rtol=0, atol=2e-6)
    assert shown.max() <= 1


def test_one_layer_of_flow_is_half_attention_half_itself() -> None:
    weights = softmax_maps(1, 6, 1.0)
    found = max_flows(weights, np.eye(6)[2], Progress())
    np.testing.assert_allclose(found, (weights[0, 2] + np.eye(6)[2]) / 2, atol=1e-8)


@pytest.mark.parametrize("name", ["vit_registers", "vit_pooled"])
def test_flow_reads_the_models_own_maps(name: str) -> None:
    run = run64(name)
    maps = [weights.mean(1).numpy() for weights in run.attention().values()]
    pooled = name == "vit_pooled"
    held = np.full(16, 1 / 16) if pooled else np.eye(21)[0]
    values = ask(run, "attention_flow")
    for image in range(2):
        network = np.stack([w[image] for w in maps])
        expected = [largest_flow(network, held, sink) for sink in (len(held) - 1, len(held) - 7)]
        own = values[image].flatten()[[-1, -7]]
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_registers", "vit_pooled"])
def test_patch_to_patch_written_out(name: str) -> None:
    run = run64(name, count=1)
    flow = np.eye(16)
    for weights in run.attention().values():
        random_maps = weights[0].mean(0).numpy()[-16:, -16:]
        flow = (random_maps / random_maps.sum(1, keepdims=True) + np.eye(16)) / 2 @ flow
    np.testing.assert_allclose(flow.sum(1), 1)
    received = np.array([sum(flow[i, j] for i in range(16) if i != j) / 15 for j in range(16)])
    ours = ask(run, "attention_flow", reading="patch-to-patch")
    np.testing.assert_allclose(ours.flatten(), received, rtol=0, atol=1e-8)
    one = ask(run, "attention_flow", reading="patch-to-patch", query="5")
    np.testing.assert_allclose(one.flatten(), flow[5], rtol=0, atol=1e-8)
    with pytest.raises(UnknownNameError, match=r"among the patches|no class token"):
        ask(run, "attention_flow", reading="patch-to-patch", query="class")


def test_flow_is_refused_where_it_would_take_too_long() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=288, embed_dim=12, depth=1, num_heads=1, num_classes=3
    )
    owner = ModelHandle(model, name="large", preprocessing=Preprocessing.from_model(model))
    x = images(owner, 1)
    with pytest.raises(NotApplicableError, match="large has 325"):
        Explainer(owner).explain(x, "attention_flow")
    values = Explainer(owner).explain(x, "attention_flow", reading="patch-to-patch").values
    assert values.shape == (1, 18, 18)


# -- relevance and LeGrad -----------------------------------------------------------------------


def gradients_by_hand(run: Run) -> tuple[list[Tensor], list[Tensor]]:
    """Maps and gradients from timm's own unfused attention, as its dropout passes them on."""
    model = copy.deepcopy(run.subject.model).eval()
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Tensor) -> None:
        output.retain_grad()
        maps.append(output)

    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(keep)  # type: ignore[union-attr]
    rows = torch.arange(len(run.x))
    model(run.x)[rows, torch.tensor((1, 3))[: len(rows)]].sum().backward()
    grads = [torch.zeros_like(m) if m.grad is None else m.grad for m in maps]
    return [m.detach() for m in maps], grads


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_pooled", "deit_distilled"])
def test_relevance_is_the_matrix_product_written_out(name: str) -> None:
    run = run64(name)
    maps, grads = gradients_by_hand(run)
    tokens = maps[0].shape[-1]
    for image, ours in enumerate(ask(run, "transformer_relevance")):
        relevance = torch.eye(tokens).double()
        for attn, grad in zip(maps, grads, strict=True):
            relevance = relevance + (grad[image] * attn[image]).clamp(min=0).mean(0) @ relevance
        relevance = relevance - torch.eye(tokens).double()
        read = {"vit_pooled": slice(None), "deit_distilled": slice(2)}.get(name, slice(1))
        expected = relevance[read].mean(0)[-ours.numel() :].view_as(ours)
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["vit", "vit_registers", "vit_pooled", "deit_distilled"])
@pytest.mark.parametrize(
    ("layers", "tokens"), [(0, "model"), (1, "model"), (2, "model"), (0, "mean")]
)
def test_legrad_reads_every_block_through_the_models_own_head(
    name: str, layers: int, tokens: str
) -> None:
    run = run64(name)
    model: Any = copy.deepcopy(run.subject.model).eval()
    maps: list[Tensor] = []
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda _m, _a, out: maps.append(out))
    outs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _a, out: outs.append(out))
    model(run.x)
    total = torch.zeros(2, maps[0].shape[-1]).double()
    used = len(maps) if layers == 0 else layers
    for attn, out in list(zip(maps, outs, strict=True))[-used:]:
        if tokens == "model":
            logits = model.forward_head(model.norm(out))
        else:  # as the authors' code: the mean of all tokens, then the normalisation
            mean = model.fc_norm(model.norm(out.mean(1)))
            heads = (model.head, model.head_dist) if name == "deit_distilled" else (model.head,)
            logits = torch.stack([head(mean) for head in heads]).mean(0)
        read = logits[[0, 1], [1, 3]].sum()
        (grad,) = torch.autograd.grad(read, attn, retain_graph=True)
        total += grad.clamp(min=0).mean(1).mean(1) / used
    ours = ask(run, "legrad", layers=layers, tokens=tokens).flatten(1)
    torch.testing.assert_close(ours, total[:, -ours.shape[1] :], rtol=1e-8, atol=1e-14)


class OneLayer(nn.Module):
    """One attention layer over 3 x 3 cells with attention, values and readout known by heart.

    A class token looks at nine patches whose values are single numbers; the score of class c is
    c times what it sees, plus its own value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 1))
        self.num_prefix_tokens = 1
        self.blocks = nn.ModuleList([Looks()])
        self.norm = nn.Identity()
        self.scale = nn.Parameter(torch.arange(3.0))

    def forward_head(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] * self.scale

    def forward(self, x: Tensor) -> Tensor:
        cells = x.mean(1).flatten(1)[..., None]
        tokens = torch.cat([self.cls_token.expand(len(x), 1, 1), cells], 1)
        return self.forward_head(self.norm(self.blocks[0](tokens)))


class Looks(nn.Module):
    """Tokens plus what they see: everybody looks at everybody else alike."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Even()

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.attn(tokens)


class Even(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        zeros = torch.zeros(len(tokens), 1, tokens.shape[1], tokens.shape[1]).to(tokens)
        return (zeros.softmax(-1) @ tokens[:, None])[:, 0]


def test_a_single_layer_known_by_heart() -> None:
    owner = ModelHandle(
        OneLayer(), name="one", preprocessing=Preprocessing((3, 3, 3), (0.5,) * 3, (0.5,) * 3)
    )
    assert list(owner.attention_layers) == ["blocks.0.attn"]
    x = torch.arange(-4.0, 5.0).view(1, 1, 3, 3).expand(1, 3, 3, 3).clone()
    explainer = Explainer(owner)
    value = torch.arange(-4.0, 5.0).view(1, 3, 3)
    for index in (1, 2):  # the gradient of the score by a weight is the class times the value
        relevance = explainer.explain(x, "transformer_relevance", target=index).values
        torch.testing.assert_close(relevance, (index * value).relu() / 10)
        legrad = explainer.explain(x, "legrad", target=index, tokens="model").values
        torch.testing.assert_close(legrad, (index * value).relu() / 10)  # of ten tokens one is read
    rolled = explainer.explain(x, "attention_rollout", target=1).values
    torch.testing.assert_close(rolled, torch.full((1, 3, 3), 0.05))
    flow = explainer.explain(x, "attention_flow", target=1).values
    torch.testing.assert_close(flow, torch.full((1, 3, 3), 0.05))


def test_relevance_from_other_tokens() -> None:
    run = run64("vit_registers", count=1)
    auto, own, mean, patch = (
        ask(run, "transformer_relevance", query=q) for q in ("auto", "class", "mean", "3")
    )
    torch.testing.assert_close(auto, own)
    assert not torch.allclose(mean, own)
    assert not torch.allclose(patch, mean)


def test_gradients_of_attention_cost_one_pass_and_are_shared() -> None:
    owner = shared_handle("vit")
    explainer, x = Explainer(owner), images(owner, 1)
    first = explainer.explain(x, "transformer_relevance", target=1)
    again = explainer.explain(x, "transformer_relevance", target=1, query="mean")
    assert (first.cost.forward, first.cost.backward) == (1, 1)
    assert (again.cost.forward, again.cost.backward) == (0, 0)
    free = explainer.explain(images(owner, 1, seed=5), "transformer_relevance")
    assert (free.cost.forward, free.cost.backward) == (1, 1)


def test_legrads_two_readings_are_different_maps() -> None:
    owner = shared_handle("vit")
    x = images(owner, 1)
    ask = functools.partial(Explainer(owner).explain, x, "legrad", target=3)
    default, model, mean = (ask(**p).values for p in ({}, {"tokens": "model"}, {"tokens": "mean"}))
    assert torch.equal(default, mean), "that of the authors' code"
    assert (model - mean).abs().max() > 0.1 * model.abs().max()


def test_legrad_is_refused_where_the_head_reads_something_else() -> None:
    class Doubled(OneLayer):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    owner = ModelHandle(
        Doubled(), name="doubled", preprocessing=Preprocessing((3, 3, 3), (0.5,) * 3, (0.5,) * 3)
    )
    with pytest.raises(NotApplicableError, match="doubled does not compute"):
        Explainer(owner).explain(torch.ones(1, 3, 3, 3), "legrad", target=1)
    assert "use attention" in METHODS.make("legrad").refusal(shared_handle("swin"))


def test_a_class_token_by_another_name_is_one_and_patches_that_do_not_look_see_nothing() -> None:
    owner = zoo.member("crossvit").handle()
    name = "blocks.2.fusion.1.attn"
    layer = owner.attention_layers[name]
    assert layer.layout is not None
    assert layer.layout.class_token
    explainer, x = Explainer(owner), images(owner, 1)
    assert explainer.explain(x, "attention", layer=name).values.sum() > 0.5
    with pytest.raises(NotApplicableError, match="query token '3' attends to no patch"):
        explainer.explain(x, "attention", layer=name, query="3")
