"""Work, counted exactly: rows forward, rows backward, FLOPs."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core import Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.runtime import run as running
from core.runtime.batching import Budget, is_out_of_memory
from core.runtime.cache import Cache
from core.types import Cost
from tests.conftest import handle, images, pairs, quick, shared_handle

CAMS = ("gradcam", "hirescam", "layercam", "gradcam_plus_plus")


class Counted:
    """An explainer whose model counts the rows that pass it."""

    def __init__(self, name: str) -> None:
        self.handle = handle(name)
        assert self.handle.probe
        self.forward = 0
        self.handle.model.register_forward_pre_hook(self._count)
        self.handle.refresh()  # with a hook it is another model
        assert self.handle.probe
        self.forward = 0
        self.explainer = Explainer(self.handle)
        self.x = images(self.handle, 1)

    def _count(self, _module: object, args: tuple[Tensor]) -> None:
        self.forward += len(args[0])


def test_all_cams_on_one_image_and_layer_cost_one_pass() -> None:
    counted = Counted("resnet")
    answers = [counted.explainer.explain(counted.x, key, target=1) for key in CAMS]
    assert counted.forward == 1
    assert [(a.cost.forward, a.cost.backward) for a in answers] == [(1, 1)] + [(0, 0)] * 3
    assert answers[0].cost.seconds > 0


def test_without_a_target_the_prediction_comes_from_the_same_pass() -> None:
    counted = Counted("resnet")
    answer = counted.explainer.explain(counted.x, "gradcam")
    prediction = counted.explainer.predict(counted.x)
    assert counted.forward == 1
    assert answer.target == f"logit:{prediction.top(1)[0][0]}"
    torch.testing.assert_close(answer.score[0], prediction.scores[0].max())


def test_a_second_layer_captured_along_costs_nothing_more() -> None:
    counted = Counted("resnet")
    explainer = counted.explainer
    explainer.explain(
        counted.x, "gradcam", target=1, layer="layer4", extra_layers=["layer2", "layer3"]
    )
    for layer in ("layer2", "layer3"):
        answer = explainer.explain(counted.x, "layercam", target=1, layer=layer)
        alone = Explainer(counted.handle).explain(counted.x, "layercam", target=1, layer=layer)
        assert (answer.cost.forward, answer.cost.backward) == (0, 0)
        torch.testing.assert_close(answer.values, alone.values)
    assert counted.forward == 1 + 2


def test_a_repeated_question_is_answered_from_the_cache() -> None:
    counted = Counted("resnet")
    for _ in range(3):
        counted.explainer.explain(counted.x, "occlusion", target=1, window=80, stride=80)
    assert counted.forward == 4 + 1


def test_another_target_of_the_same_masked_copies_costs_nothing() -> None:
    counted = Counted("resnet")
    counted.explainer.explain(counted.x, "occlusion", target=1, window=80, stride=80)
    answer = counted.explainer.explain(counted.x, "occlusion", target=2, window=80, stride=80)
    assert counted.forward == 4 + 1
    assert answer.cost.forward == 0
    alone = Explainer(counted.handle).explain(
        counted.x, "occlusion", target=2, window=80, stride=80
    )
    torch.testing.assert_close(answer.values, alone.values)


def test_outputs_beyond_the_bound_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted("resnet")
    asked = {"window": 80, "stride": 80}
    outputs = counted.explainer.predict(counted.x).scores.shape[1]
    for bound, rows in ((4 * outputs * 4, 0), (4 * outputs * 4 - 1, 4)):
        monkeypatch.setattr(running, "KEPT_BYTES", bound)
        explainer = Explainer(counted.handle)
        explainer.explain(counted.x, "occlusion", target=1, **asked)
        assert explainer.explain(counted.x, "occlusion", target=2, **asked).cost.forward == rows


@pytest.mark.parametrize(("key", "name"), pairs())
def test_a_method_takes_no_more_rows_than_its_definition_needs(key: str, name: str) -> None:
    owner, method = shared_handle(name), quick(key)
    found = Explainer(owner).explain(images(owner, 2), method, target=1)
    bound = method.estimate_cost(owner, found.layer)
    assert found.cost.forward <= 1.1 * 2 * bound.forward
    assert found.cost.backward <= 1.1 * 2 * bound.backward


def test_the_cached_map_cannot_be_spoilt_by_its_receiver() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    first = explainer.explain(x, "gradcam", target=1)
    kept = first.values.clone()
    first.values.zero_()
    assert torch.equal(explainer.explain(x, "gradcam", target=1).values, kept)


def test_integrated_gradients_cost_their_steps_and_the_two_ends() -> None:
    counted = Counted("resnet")
    answer = counted.explainer.explain(counted.x, "integrated_gradients", target=1, steps=12)
    assert answer.cost.backward == 12
    assert counted.forward == answer.cost.forward == 12 + 2  # the ends, for the completeness error
    assert all(p.grad is None for p in counted.handle.model.parameters())


def test_occlusion_costs_its_windows_and_one() -> None:
    counted = Counted("resnet")
    answer = counted.explainer.explain(counted.x, "occlusion", target=1, window=40, stride=30)
    assert answer.cost.forward == counted.forward == 5 * 5 + 1
    assert answer.cost.backward == 0


def test_a_batch_costs_its_rows() -> None:
    counted = Counted("vit")
    x = images(counted.handle, 3)
    assert counted.explainer.explain(x, "gradcam", target=1).cost.forward == 3
    assert (
        counted.explainer.explain(x, "integrated_gradients", target=1, steps=5).cost.backward == 15
    )


def test_a_curve_costs_one_row_per_point_and_the_unperturbed_score_none() -> None:
    counted = Counted("resnet")
    answer = counted.explainer.explain(counted.x, "gradcam", target=1)
    score = counted.explainer.measure(counted.x, answer, "deletion", target=1, steps=10)
    assert score.cost.forward == 10
    assert counted.forward == 1 + 10


def test_gradcam_at_resnet50_layer4_costs_hardly_more_than_a_forward() -> None:
    model = timm.create_model("resnet50").eval()
    prepared = Preprocessing.from_model(model)
    owner = ModelHandle(model, name="resnet50", preprocessing=prepared, owned=True)
    x = images(owner, 1)
    assert owner.probe
    with FlopCounterMode(display=False) as bare, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as ours:
        for key in CAMS:
            Explainer(owner, cache=Cache()).explain(x, key, target=1, layer="layer4")
    assert ours.get_total_flops() <= len(CAMS) * 1.02 * bare.get_total_flops()
    with FlopCounterMode(display=False) as together:
        Explainer(owner).compare(x, CAMS, target=1, layer="layer4")
    assert together.get_total_flops() <= 1.02 * bare.get_total_flops()


def test_memory_that_runs_out_halves_the_rows_and_is_remembered() -> None:
    owner = handle("resnet")
    assert owner.probe
    owner.budget = Budget(16)
    sizes: list[int] = []

    def small(_module: object, args: tuple[Tensor]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 3:
            raise torch.OutOfMemoryError("out of memory")

    owner.model.register_forward_pre_hook(small)
    owner.owned = True  # the hook goes unnoticed: what is counted is the work of one question
    x = images(owner, 1)
    maps = Explainer(owner).explain(x, "integrated_gradients", target=1, steps=20).values
    assert sizes[:6] == [1, 1, 10, 5, 2, 3], "both ends of the path, then the steps"
    assert sizes.count(10) == 1
    assert max(sizes[-5:]) <= 2
    twin = Explainer(shared_handle("resnet"))
    expected = twin.explain(x, "integrated_gradients", target=1, steps=20).values
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)


# -- what to expect ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "pace"),
    [
        (Cost(6), "instant"),
        (Cost(7), "seconds"),
        (Cost(2, 2), "instant"),
        (Cost(1, 3), "seconds"),  # 7 passes, not 4
        (Cost(0, 3), "instant"),
        (Cost(600), "seconds"),
        (Cost(601), "minutes"),
        (Cost(200, 200), "seconds"),
        (Cost(1, 300), "minutes"),  # 601 passes, not 301
        (Cost(0, 0, 0.6), "instant"),
        (Cost(1, 0, 0.6), "seconds"),
        (Cost(0, 0, 60), "seconds"),
        (Cost(1, 0, 60), "minutes"),
    ],
)
def test_a_backward_pass_counts_as_two_forward_ones_in_what_to_expect(
    cost: Cost, pace: str
) -> None:
    assert cost.pace == pace


def test_a_budget_only_shrinks() -> None:
    budget = Budget(16)
    budget.halve("small", 8)
    assert budget.rows("small") == 4
    budget.halve("small", 16)  # a pass that another thread had begun before
    assert budget.rows("small") == 4
    budget.halve("small", 1)
    assert budget.rows("small") == 1
    assert (budget.rows("large"), budget.rows("small", backward=True)) == (16, 16)


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes", True),
        ("MPS backend out of memory (MPS allocated: 9 GB)", True),
        ("CUDA error: out of memory", True),
        ("shapes cannot be multiplied (2x3 and 4x5)", False),
    ],
)
def test_memory_running_out_is_recognised_on_every_device(words: str, known: bool) -> None:
    assert is_out_of_memory(RuntimeError(words)) is known
