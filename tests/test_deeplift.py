"""DeepLIFT against captum where captum is right, and against its own axiom where it is not."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.errors import NotApplicableError
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.runtime.backward_rules import nonlinear_operations
from core.runtime.batching import Budget
from core.runtime.run import Run
from core.tasks.activation import IDENTITY
from core.tasks.classification import ClassProbability, ClassScore
from core.tasks.outputs import Scores
from tests.conftest import build, handle, images
from tests.test_oracles import clean, furthest, run64, start

pytestmark = pytest.mark.filterwarnings("ignore:Setting (forward|backward)", "ignore:Input Tensor")

EXACT = 1e-10


def without_max_pool(name: str) -> Run:
    """A model in float64 whose max pool is left out."""
    model = build(name).double().eval()
    model.maxpool = nn.Identity()
    owner = ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))
    x = nn.functional.interpolate(images(owner, 2).double(), (48, 48), mode="area")
    return Run(owner, x, ClassScore((1, 3)), seed=7)


def captums(run: Run, baseline: Tensor) -> Tensor:
    peer = captum.attr.DeepLift(clean(run))
    found: Tensor = peer.attribute(run.x.clone(), baseline.clone(), target=[1, 3])
    return found.detach().sum(1)


@pytest.mark.parametrize("baseline", ["black", "blur"])
def test_deeplift_is_captums(baseline: str) -> None:
    run = without_max_pool("resnet")
    ours, _ = METHODS.make("deeplift", {"baseline": baseline}).attribute(run)
    assert furthest(ours, captums(run, start(baseline, run))) <= EXACT


def test_deeplift_is_captums_through_a_max_pool() -> None:
    run = run64("resnet")
    ours, _ = METHODS.make("deeplift", {"baseline": "zero"}).attribute(run)
    assert furthest(ours, captums(run, 0 * run.x)) <= EXACT


def test_deep_shap_is_captums() -> None:
    run = without_max_pool("resnet")
    names = ("black", "white", "blur")
    ours, score = METHODS.make("deep_shap", {"baselines": names}).attribute(run)
    peer = captum.attr.DeepLiftShap(clean(run))
    starts = torch.stack([start(name, run) for name in names], 1)
    for image, c in enumerate((1, 3)):
        theirs = peer.attribute(run.x[image : image + 1], starts[image], target=c).detach().sum(1)
        assert furthest(ours[image : image + 1], theirs) <= EXACT
    floor = torch.stack([clean(run)(s)[[0, 1], [1, 3]] for s in starts.unbind(1)]).mean(0)
    assert (ours.sum((1, 2)) - (score - floor.detach())).abs().max() <= 1e-12
    assert run.extras["completeness_error"].max() <= EXACT


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "convnext", "mambaout", "swin", "vit"])
@pytest.mark.parametrize("kind", [ClassScore, ClassProbability])
def test_the_map_sums_to_the_rise_of_the_score(name: str, kind: type[ClassScore]) -> None:
    asked = run64(name)
    run = Run(asked.subject, asked.x, kind((1, 3)), seed=7)
    values, score = METHODS.make("deeplift", {"baseline": "black"}).attribute(run)
    with torch.no_grad():
        model = clean(run)
        ends = run.x, start("black", run)
        above, below = (run.target(Scores(model(x)), run.owner) for x in ends)
    torch.testing.assert_close(score, above, rtol=1e-9, atol=1e-12)
    rise = above - below
    error = (values.sum((1, 2)) - rise).abs() / rise.abs()
    assert error.max() <= EXACT
    assert (run.extras["completeness_error"] - error).abs().max() <= EXACT


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_captums_map_does_not_where_pools_and_products_are(name: str) -> None:
    run = run64(name)
    with torch.no_grad():
        rise = clean(run)(run.x) - clean(run)(start("black", run))
    gap = captums(run, start("black", run)).sum((1, 2)) - rise[[0, 1], [1, 3]]
    assert (gap / rise[[0, 1], [1, 3]]).abs().min() > 0.01


@pytest.mark.parametrize("baseline", ["black", "white", "blur"])
def test_in_single_precision_the_map_still_sums(baseline: str) -> None:
    for name in ("resnet", "efficientnet", "swin", "vit"):
        model = build(name)
        owner = ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))
        answer = Explainer(owner).explain(images(owner, 2), "deeplift", baseline=baseline, target=1)
        assert answer.extras["completeness_error"].max() < 1e-4, name


def test_rows_and_their_baselines_stay_within_the_budget() -> None:
    owner = handle("resnet")
    assert owner.probe
    owner.budget = Budget(4)
    passes: list[int] = []
    owner.model.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    run = Run(owner, images(owner, 3), ClassScore((1, 3, 0)))
    METHODS.make("deeplift").attribute(run)
    assert sum(passes) == 6
    assert max(passes) == 4


class Parts(nn.Module):
    """A function of the pixels, written in one of several ways."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(x.flatten(1))  # type: ignore[operator]
        return out


def explained(function: object, baseline: str = "black") -> tuple[Tensor, Run]:
    """The map of a function's first output for two pictures of 2x2 pixels."""
    preprocessing = Preprocessing(input_size=(3, 2, 2), mean=(0.5,) * 3, std=(0.5,) * 3)
    owner = ModelHandle(
        Parts(function), name="parts", preprocessing=preprocessing, activation=IDENTITY
    )
    x = torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(2)).double()
    run = Run(owner, x, ClassScore(0))
    values, _ = METHODS.make("deeplift", {"baseline": baseline}).attribute(run)
    return values, run


def grouped(x: Tensor) -> Tensor:
    return nn.functional.group_norm(x[:, :, None], 3)[..., 0].exp()


def standardised(x: Tensor) -> Tensor:
    return nn.functional.batch_norm(x.view(-1, 4, 3), None, None, training=True).flatten(1)


OTHERS = torch.arange(12) > 7

SPELLINGS = [
    lambda x: x * x.sigmoid(),
    lambda x: x.clone().mul_(x.sigmoid()),
    lambda x: x / (1 + x**2),
    lambda x: 2 / (1 + x.square()),
    lambda x: nn.functional.normalize(x),
    lambda x: nn.functional.rms_norm(x, (12,)) + nn.functional.layer_norm(x, (12,)),
    lambda x: nn.functional.glu(x),
    lambda x: grouped(x) @ torch.ones(12, 2, dtype=x.dtype),
    lambda x: torch.einsum("bi,bi->b", x, x.tanh())[:, None],
    lambda x: x.softmax(1) * nn.functional.softplus(x),
    lambda x: torch.softmax(1000 * x, -1),
    lambda x: nn.functional.softmax(x.masked_fill(OTHERS, -torch.inf), dim=1),
]


@pytest.mark.parametrize("function", SPELLINGS)
def test_every_spelling_of_a_function_has_its_rule(function: object) -> None:
    _, run = explained(function)
    assert run.extras["completeness_error"].max() <= EXACT


def test_softmax_of_two_is_the_sigmoid_of_their_difference() -> None:
    values, run = explained(lambda x: (30 * x[:, :2]).softmax(1), baseline="zero")
    expected, _ = explained(lambda x: torch.sigmoid(30 * (x[:, :1] - x[:, 1:2])), baseline="zero")
    torch.testing.assert_close(values, expected)
    assert run.extras["completeness_error"].max() <= EXACT


def test_softmax_may_count_in_another_precision() -> None:
    _, run = explained(lambda x: x.float().softmax(1, dtype=torch.float64))
    assert run.extras["completeness_error"].max() <= 1e-6  # single precision before it


def test_softmax_of_one_picture_twice_has_its_own_slope() -> None:
    values, run = explained(lambda x: x.softmax(1), baseline="zero")
    close = run.x * 1e-7
    slope = torch.autograd.functional.jacobian(lambda x: x.flatten(1).softmax(1)[:, 0].sum(), close)
    near = Run(run.subject, close, ClassScore(0))
    found, _ = METHODS.make("deeplift", {"baseline": "zero"}).attribute(near)
    torch.testing.assert_close(found, (slope * close).sum(1))
    assert values.abs().max() > found.abs().max()


def test_a_product_gives_each_factor_the_others_mean() -> None:
    values, run = explained(lambda x: x[:, :1] * x[:, 1:2], baseline="zero")
    (a, b) = run.x[:, 0, 0].unbind(1)
    torch.testing.assert_close(values[:, 0], torch.stack([a * b / 2, a * b / 2], 1))


@pytest.mark.parametrize(
    "function",
    [lambda x: x.cumprod(1), lambda x: x.sort(1).values, lambda x: x.norm(dim=1)[:, None]],
)
def test_what_has_no_rule_is_refused(function: object) -> None:
    with pytest.raises(NotApplicableError, match=r"has no rule for .*integrated_gradients"):
        explained(function)


def test_a_quotient_is_linear_in_what_is_divided_alone() -> None:
    x, three = torch.ones(2, requires_grad=True), torch.full((2,), 3.0)
    assert nonlinear_operations(x / three) == set()
    assert nonlinear_operations(three / x) == {"Div"}
    assert nonlinear_operations(x / x) == {"Div"}


def test_statistics_of_the_batch_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="nativebatchnorm"):
        explained(standardised)
