"""Looking inside a model and leaving no trace, one context manager at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from core.errors import NotApplicableError, UnknownNameError
from core.runtime.attention_capture import record_attention
from core.runtime.capture import observe_calls, record_layers
from core.runtime.evaluation_mode import evaluation_mode
from tests.test_contract import assert_same, state_of


class InPlace(nn.Module):
    """Two layers whose outputs are overwritten in place by what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)
        self.two = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x), inplace=True)
        x = self.two(x)
        x *= 2
        x = F.relu(x, inplace=True)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.fixture
def model() -> InPlace:
    torch.manual_seed(3)
    model = InPlace().train()
    model.two.eval()
    model.one.bias.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    return model


@pytest.fixture
def x() -> Tensor:
    return torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0))


# -- no trace -----------------------------------------------------------------------------------

WAYS: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
    "evaluation_mode": evaluation_mode,
    "record_layers": lambda model: record_layers(model, ["one", "two"]),
    "observe_calls": lambda model: observe_calls(model, lambda *_: None, lambda *_: None),
    "record_attention": record_attention,
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("outer", WAYS)
@pytest.mark.parametrize("inner", WAYS)
def test_everything_is_as_it_was(
    outer: str, inner: str, fails: bool, model: InPlace, x: Tensor
) -> None:
    before = state_of(model, x)
    if fails:
        model.head.register_forward_hook(lambda *_: 1 / 0)
        before = state_of(model, x)
    with torch.no_grad():
        try:
            with WAYS[outer](model), WAYS[inner](model):
                model(x)
                torch.rand(3)
        except ZeroDivisionError:
            assert fails
    if "evaluation_mode" not in (outer, inner):
        torch.set_rng_state(before["random"])
    assert_same(before, state_of(model, x))
    assert _get_current_function_mode_stack() == []


def test_inside_the_model_is_in_evaluation_mode_and_frozen(model: InPlace) -> None:
    with torch.inference_mode(), torch.autocast("cpu"), evaluation_mode(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
    assert [m.training for m in (model, model.one, model.two)] == [True, True, False]


def test_an_unknown_layer_leaves_no_hook_on_the_known_ones(model: InPlace) -> None:
    with pytest.raises(UnknownNameError, match="no layer 'tow'"):  # noqa: SIM117
        with record_layers(model, ["one", "tow"]):
            pass
    assert not model.one._forward_hooks


# -- recording ----------------------------------------------------------------------------------


def test_what_is_recorded_survives_what_is_done_in_place_later(model: InPlace, x: Tensor) -> None:
    with evaluation_mode(model), record_layers(model, ["one", "two"]) as outputs:
        out = model(x)
    one = model.one(x)
    torch.testing.assert_close(outputs["one"], one)
    torch.testing.assert_close(outputs["two"], model.two(one.relu()))
    assert (outputs["one"] < 0).any()
    torch.testing.assert_close(out, model(x))


def test_what_is_recorded_survives_changes_to_what_passed_through(x: Tensor) -> None:
    layer = nn.Identity()
    with record_layers(layer, [""]) as outputs:
        given = x.clone()
        layer(given)
        given.zero_()
    assert torch.equal(outputs[""], x)


def test_the_graph_begins_at_the_first_layer_recorded(model: InPlace, x: Tensor) -> None:
    seen: list[str] = []
    with evaluation_mode(model), record_layers(model, ["two"]) as outputs:
        out = model(x)
    out.grad_fn.register_hook(lambda *_: seen.append("head"))
    assert outputs["two"].is_leaf
    (grad,) = torch.autograd.grad(out.sum(), [outputs["two"]])
    live = (outputs["two"] > 0).float() * 2 / 16
    torch.testing.assert_close(grad, live * model.head.weight.detach().sum(0)[:, None, None])
    assert seen == ["head"]


def test_two_layers_are_part_of_one_graph(model: InPlace, x: Tensor) -> None:
    with evaluation_mode(model), record_layers(model, ["two", "one"]) as outputs:
        out = model(x)
    assert list(outputs) == ["one", "two"]
    assert outputs["one"].is_leaf
    assert not outputs["two"].is_leaf
    grads = torch.autograd.grad(out.sum(), list(outputs.values()))
    assert all(grad.abs().sum() > 0 for grad in grads)


def test_a_graph_that_began_at_the_input_is_kept(model: InPlace, x: Tensor) -> None:
    rows = x.clone().requires_grad_()
    with evaluation_mode(model), record_layers(model, ["one"]) as outputs:
        out = model(rows)
    grads = torch.autograd.grad(out.sum(), [rows, outputs["one"]])
    assert all(grad.abs().sum() > 0 for grad in grads)


def test_a_layer_called_twice_leaves_its_last_output() -> None:
    layer = nn.Linear(2, 2)
    with evaluation_mode(layer), record_layers(layer, [""]) as outputs:
        layer(torch.zeros(1, 2))
        last = layer(torch.ones(1, 2))
    assert torch.equal(outputs[""], last)


@pytest.mark.parametrize("index", [0, 1])
def test_one_call_of_a_layer_can_be_chosen(index: int) -> None:
    layer = nn.Linear(2, 2)
    with evaluation_mode(layer), record_layers(layer, [""], {"": index}) as outputs:
        found = [layer(torch.full((1, 2), float(value))) for value in (0, 1)]
    assert torch.equal(outputs[""], found[index])
    assert [out.requires_grad for out in found] == [index == 0, index == 1]


def test_calls_are_seen_with_those_around_them(x: Tensor) -> None:
    class Caught(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad, self.good = nn.Linear(1, 1), InPlace()

        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(RuntimeError):
                self.bad(x)
            return self.good(x) + self.good(x=x)

    seen: list[str] = []
    outer = nn.Sequential(Caught())
    with observe_calls(
        outer,
        lambda path, given: seen.append(f"{path[-1][0]}.{path[-1][1]} {given is x}"),
        lambda path, _: seen.append("/".join(name for name, _ in path)),
    ):
        outer(x)
    assert seen[:5] == [
        "0.0 True", "0.bad.0 True", "0/0.bad", "0.good.0 True", "0.good.one.0 True",
    ]  # fmt: skip
    assert seen.count("0/0.good") == 2
    assert "0.good.1 True" in seen
    assert seen[-1] == "0"


def test_a_layer_that_gives_a_tuple_cannot_be_recorded(x: Tensor) -> None:
    model = nn.Sequential(Pair())
    with (
        record_layers(model, ["0"]),
        pytest.raises(NotApplicableError, match=r"layer '0' .* tuple"),
    ):
        model(x)
    assert not model[0]._forward_hooks


def test_the_observer_sees_every_output_and_changes_none(model: InPlace, x: Tensor) -> None:
    seen: dict[str, Tensor] = {}
    plain = model(x)
    with observe_calls(model, lambda *_: None, lambda path, out: seen.update({path[-1][0]: out})):
        out = model(x)
    assert list(seen) == ["one", "two", "head"]
    assert torch.equal(out, plain)
    assert seen["head"] is out


# -- attention ----------------------------------------------------------------------------------

SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "Tensor.softmax": lambda logits: logits.softmax(-1),
    "Tensor.softmax dim": lambda logits: logits.softmax(dim=3),
    "torch.softmax": lambda logits: torch.softmax(logits, -1),
    "F.softmax": lambda logits: F.softmax(logits, dim=-1),
    "nn.Softmax": nn.Softmax(-1),
}


class SelfAttention(nn.Module):
    """The same attention, fused or spelt out."""

    def __init__(self, spelling: str | None, heads: int = 2, width: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = SPELLINGS[spelling] if spelling else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.softmax is None:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        else:
            mixed = self.softmax(q @ k.mT * q.shape[-1] ** -0.5) @ v
        return mixed.transpose(1, 2).flatten(2)


def twins(*spellings: str | None) -> list[SelfAttention]:
    """The same weights, spelt differently."""
    made = [SelfAttention(spelling).eval() for spelling in spellings]
    for other in made[1:]:
        other.load_state_dict(made[0].state_dict())
    return made


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn((2, 5, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_fused_and_spelt_out_attention_give_the_same_maps(spelling: str, tokens: Tensor) -> None:
    fused, spelt = twins(None, spelling)
    plain = fused(tokens)
    found = []
    for block in (fused, spelt):
        model = nn.Sequential(block)
        with record_attention(model) as maps:
            out = model(tokens)
        torch.testing.assert_close(out, plain, rtol=0, atol=1e-6)
        assert list(maps) == ["0"]
        found.append(maps["0"])
    assert found[0].shape == (2, 2, 5, 5)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0].sum(-1), torch.ones(2, 2, 5))


def test_dropout_is_ignored(tokens: Tensor) -> None:
    (block,) = twins(None)
    with record_attention(block.train()) as maps:
        block(tokens)
    torch.testing.assert_close(maps[""].sum(-1), torch.ones(2, 2, 5))


@pytest.mark.parametrize(("need_weights", "average"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("grad", [False, True])
def test_torchs_own_multi_head_attention_is_read(
    need_weights: bool, average: bool, grad: bool, tokens: Tensor
) -> None:
    block = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    asked = {"need_weights": need_weights, "average_attn_weights": average}
    with torch.set_grad_enabled(grad):
        plain, weights = block(tokens, tokens, tokens, **asked)
        with record_attention(block) as maps:
            out, same = block(tokens, tokens, tokens, **asked)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-6)
    assert list(maps) == [""]
    assert maps[""].shape == (2, 2, 5, 5)
    torch.testing.assert_close(maps[""].sum(-1), torch.ones(2, 2, 5))
    assert (weights is None) == (same is None) == (not need_weights)
    if need_weights:
        torch.testing.assert_close(same, weights, rtol=0, atol=1e-6)
        torch.testing.assert_close(maps[""].mean(1) if average else maps[""], weights)


def test_torchs_own_encoder_is_read_layer_by_layer(tokens: Tensor) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        plain = model(tokens)
        with record_attention(model) as maps:
            out = model(tokens)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-6)
    assert list(maps) == ["layers.0.self_attn", "layers.1.self_attn"]


def test_who_may_look_nowhere_sees_nothing() -> None:
    query, key, value = torch.randn((3, 1, 2, 4, 8), generator=torch.Generator().manual_seed(1))
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[1] = False
    forbidding = torch.zeros(4, 4).masked_fill(~allowed, -torch.inf)
    for mask in (allowed, forbidding):
        plain = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        with record_attention(nn.Identity()) as maps:
            out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        torch.testing.assert_close(out, plain, rtol=0, atol=1e-6)
        assert not maps[""][:, :, 1].any()


def test_a_scale_of_zero_is_a_scale() -> None:
    query, key, value = torch.randn((3, 1, 2, 4, 8), generator=torch.Generator().manual_seed(1))
    with record_attention(nn.Identity()) as maps:
        F.scaled_dot_product_attention(query, key, value, scale=0.0)
    torch.testing.assert_close(maps[""], torch.full((1, 2, 4, 4), 0.25))


def test_several_maps_of_one_module_are_numbered(tokens: Tensor) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = x[:, None] @ x[:, None].mT
            return logits.softmax(-1) + (2 * logits).softmax(-1) + (3 * logits).softmax(-1)

    model = nn.ModuleDict({"a": Twice(), "aa": Twice()})
    with record_attention(model) as maps:
        model["aa"](tokens)
        model["a"](tokens)
    assert list(maps) == ["aa", "aa:2", "aa:3", "a", "a:2", "a:3"]
    assert not torch.equal(maps["a"], maps["a:2"])


def test_what_is_not_attention_is_not_recorded(tokens: Tensor) -> None:
    with record_attention(nn.Identity()) as maps:
        tokens.softmax(-1)  # three axes: class scores of tokens
        tokens[:, None].softmax(1)  # not over the last axis
        tokens[:, None].log_softmax(-1)
    assert maps == {}


def test_after_a_failure_maps_still_get_their_modules_names(tokens: Tensor) -> None:
    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bad = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(RuntimeError):
                self.bad(x)
            return (x[:, None] @ x[:, None].mT).softmax(-1)

    model = nn.ModuleDict({"tries": Tries()})
    with record_attention(model) as maps:
        model["tries"](tokens)
    assert list(maps) == ["tries"]


def test_two_threads_do_not_see_each_others_maps(tokens: Tensor) -> None:
    meet = threading.Barrier(2, timeout=30)
    found: dict[int, list[Tensor]] = {}

    def batch(index: int) -> None:
        block = SelfAttention(None, heads=index + 1).eval()
        with evaluation_mode(block), record_attention(block) as maps:
            meet.wait()
            for _ in range(10):
                block(tokens)
            meet.wait()
        found[index] = list(maps.values())

    threads = [threading.Thread(target=batch, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {i: {m.shape[1] for m in maps} for i, maps in found.items()} == {0: {1}, 1: {2}}
    assert all(len(maps) == 10 for maps in found.values())
