"""Runs derived from a run: what they share with it, and what they must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from core.metrics.randomisation import shuffle
from core.models.handle import ModelHandle
from core.runtime.batching import CostCounter, Progress
from core.runtime.cache import Cache, CacheScope
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.classification import ClassScore, scores_of
from tests.conftest import images, shared_handle

TARGET = ClassScore((1, 3))


@pytest.fixture
def owner() -> ModelHandle:
    return shared_handle("resnet")


def full_run(owner: ModelHandle, **settings: Any) -> Run:
    """A run none of whose settings is the default."""
    given: dict[str, Any] = {
        "target": TARGET,
        "layer": "layer3",
        "extra_layers": ["layer2"],
        "seed": 5,
        "owner": torch.tensor([0, 1]),
        "cache_scope": CacheScope(Cache(), ("model", "images")),
        "progress": Progress(lambda _done, _expected: None),
        "cost_counter": CostCounter(),
    }
    return Run(owner, images(owner, 2), **{**given, **settings})


def shuffled(owner: ModelHandle) -> Subject:
    """The model with other weights."""
    twin = owner.clone()
    for module in twin.model.modules():
        shuffle(module, torch.Generator().manual_seed(0))
    return twin


WAYS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "nothing": lambda run: {},
    "other rows": lambda run: {"x": run.x + 0.5},
    "copies": lambda run: {"x": run.x.repeat(3, 1, 1, 1) + 0.5, "owner": run.owner.repeat(3)},
    "owners": lambda run: {"owner": run.owner.flip(0)},
    "another model": lambda run: {"subject": shuffled(run.subject)},  # type: ignore[arg-type]
    "another target": lambda run: {"target": ClassScore(0)},
    "another layer": lambda run: {"layer": "layer4"},
    "no extra layers": lambda run: {"extra_layers": ()},
    "another seed": lambda run: {"seed": 6},
    "a counter of its own": lambda run: {"cost_counter": CostCounter()},
    "named images": lambda run: {"x": run.x.flip(0), "images_name": "flipped"},
}
PRIVATE = ["other rows", "copies", "owners", "another model"]
SHARED = [way for way in WAYS if way not in PRIVATE and way != "named images"]


@pytest.mark.parametrize("way", WAYS)
def test_a_derived_run_copies_whatever_is_not_given(way: str, owner: ModelHandle) -> None:
    run = full_run(owner)
    changes = WAYS[way](run)
    derived = run.derive(**changes)
    for name in (
        *("subject", "x", "target", "layer", "extra_layers", "seed", "owner"),
        *("progress", "cost_counter"),
    ):
        expected = changes.get(name, getattr(run, name))
        assert getattr(derived, name) is expected or torch.equal(getattr(derived, name), expected)
    assert derived.extras is not run.extras


@pytest.mark.parametrize("way", WAYS)
def test_passes_of_a_derived_run_count_as_the_parents(way: str, owner: ModelHandle) -> None:
    run = full_run(owner)
    changes = WAYS[way](run)
    derived = run.derive(**changes)
    derived.layer_gradients()
    rows = len(derived.x)
    counter = changes.get("cost_counter", run.cost_counter)
    assert (counter.forward, counter.backward) == (rows, rows)
    assert run.progress.done == 2 * rows
    if counter is not run.cost_counter:
        assert run.cost_counter.forward == 0


@pytest.mark.parametrize("way", PRIVATE)
def test_a_private_scope_never_gives_the_parents_answers(way: str, owner: ModelHandle) -> None:
    run = full_run(owner)
    asked: list[Callable[[Run], torch.Tensor]] = [
        lambda one: one.outputs(),
        lambda one: one.layer_gradients().grad,
        lambda one: one.activation(),
        lambda one: one.scores([(one.x, one.owner)], len(one.x), keep="rows"),
    ]
    for ask in asked:
        ask(run)
    derived = run.derive(**WAYS[way](run))
    alone = Run(
        derived.subject, derived.x, derived.target, layer=derived.layer, owner=derived.owner
    )
    for ask in asked:
        torch.testing.assert_close(ask(derived), ask(alone), rtol=1e-4, atol=1e-6)
    found = [derived.scores([(derived.x, derived.owner)], len(derived.x), keep="rows")]
    kept = [run.scores([(run.x, run.owner)], len(run.x), keep="rows")]
    assert found[0].shape != kept[0].shape or not torch.allclose(found[0], kept[0], atol=1e-3)
    for key in ("outputs", ("layer", TARGET.key, "layer3"), ("replies", "rows")):
        assert key in run.cache_scope
    derived.cache_scope.put("mine", 1)
    assert "mine" not in run.cache_scope


@pytest.mark.parametrize("way", SHARED)
def test_the_same_rows_on_the_same_model_share_what_is_found(way: str, owner: ModelHandle) -> None:
    run = full_run(owner)
    outputs = run.outputs()
    derived = run.derive(**WAYS[way](run))
    assert derived.cache_scope is run.cache_scope
    assert derived.outputs() is outputs
    assert run.cost_counter.forward == len(run.x)


def test_named_images_are_shared_by_all_runs_on_the_model(owner: ModelHandle) -> None:
    cache, samples = Cache(), images(owner, 3, seed=9)
    found = []
    for digest in ("a", "b"):
        run = full_run(owner, cache_scope=CacheScope(cache, ("model", digest)))
        derived = run.derive(x=samples, owner=None, target=None, images_name="samples")
        assert derived.owner.tolist() == [0, 1, 2]
        assert derived.asked == "predicted"
        found.append(derived.outputs())
        assert "outputs" not in run.cache_scope
    assert found[0] is found[1]
    other = full_run(owner, cache_scope=CacheScope(cache, ("another model", "a")))
    fresh = other.derive(x=samples, owner=None, target=None, images_name="samples")
    assert fresh.outputs() is not found[0]


def test_other_rows_explain_the_class_predicted_for_the_images() -> None:
    run = full_run(shared_handle("vit_pooled"), target=None)
    said = scores_of(run.outputs()).argmax(1)
    assert run.derive().asked == "predicted"
    derived = run.derive(x=-run.x)
    assert derived.target.key == ClassScore(tuple(said.tolist())).key
    own = run.derive(x=-run.x, target=None)
    assert own.asked == "predicted"
    assert own.target.key != derived.target.key
    assert own.target.key == ClassScore(tuple(scores_of(own.outputs()).argmax(1).tolist())).key


def test_random_draws_start_where_the_parents_do(owner: ModelHandle) -> None:
    run = full_run(owner)
    drawn = [torch.rand(3, generator=one.generator()) for one in (run, run.derive(x=run.x + 1))]
    assert torch.equal(*drawn)
    assert not torch.equal(torch.rand(3, generator=run.derive(seed=6).generator()), drawn[0])


def test_more_rows_need_owners(owner: ModelHandle) -> None:
    run = full_run(owner)
    with pytest.raises(ValueError, match="6 rows with 2 owners"):
        run.derive(x=run.x.repeat(3, 1, 1, 1))


@pytest.mark.parametrize("with_rows", [False, True])
def test_only_images_on_the_same_model_can_be_named(with_rows: bool, owner: ModelHandle) -> None:
    run = full_run(owner)
    changes: dict[str, Any] = {"x": run.x, "subject": owner} if with_rows else {}
    with pytest.raises(ValueError, match="same model"):
        run.derive(images_name="samples", **changes)
