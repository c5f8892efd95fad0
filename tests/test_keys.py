"""What an answer is kept under: every part of the question that the answer depends on.

Each case asks two questions that differ in one part, one after the other with one cache. The second
answer must be that of an explainer that was asked nothing before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from core import METHODS, METRICS, Explainer
from core.types import Attribution
from tests.conftest import QUICK, images, shared_handle


class Change(NamedTuple):
    """The part in which two questions differ."""

    first: Any
    second: Any


SEEDS = Change(1, 2)
ROUNDING = 1e-6
"""How far apart, relatively, two answers to one question may be."""


def case(name: str, model: str = "resnet", **asked: Any) -> Any:
    """Two questions; `name` is that of the method or metric asked, unless that changes."""
    changing = [part for part, value in asked.items() if isinstance(value, Change)]
    two = [
        {part: value[i] if isinstance(value, Change) else value for part, value in asked.items()}
        for i in range(2)
    ]
    more = [f"{part}={v}" for part, v in asked.items() if part in ("baseline", "order")]
    return pytest.param(model, name, *two, id="-".join([name or "any", *changing, *more]))


def alike(some: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two answers are the same but for rounding."""
    return len(some) == len(others) and all(
        a.shape == b.shape and bool((a - b).abs().max() <= ROUNDING * b.abs().max())
        for a, b in zip(some, others, strict=True)
    )


def check(
    model: str, ask: Callable[[Explainer, dict[str, Any]], list[Tensor]], *two: dict[str, Any]
) -> None:
    """Ask one question after the other, and the second of an explainer that knows nothing yet."""
    owner = shared_handle(model)
    shared = Explainer(owner)
    first, second = (ask(shared, question) for question in two)
    fresh = ask(Explainer(owner), two[1])
    assert not alike(first, fresh), "the two questions have one answer, so the case tells nothing"
    assert alike(second, fresh), "the answer to another question was given"


def fields_with(cls: Any, choice: str) -> list[str]:
    """The parameters of a method or metric that offer a choice."""
    return [
        name
        for name, schema in cls.schema_of_fields().items()
        if choice in str(schema.get("enum", schema.get("items")))
    ]


# -- explanations -------------------------------------------------------------------------------

GRID = {"segmentation": "grid", "segments": 6}
IG = {"steps": 2}

EXPLAINED = [
    case("", method=Change("gradcam", "hirescam"), layer="layer2"),
    case("gradcam", relu=Change(True, False), layer="layer2", target=2),
    case("gradcam", target=Change(1, 3)),
    case("gradcam", target=Change(None, 2)),
    case("gradcam", layer=Change("layer3", "layer4")),
    case("gradcam", picture=Change(0, 1)),
    case("random", seed=SEEDS),
    case("integrated_gradients", **IG, baselines=Change(("black",), ("white",))),
    case("integrated_gradients", **IG, baselines=("random", "black"), seed=SEEDS),
    case("integrated_gradients", steps=5, tolerance=0.5, baselines=("random",), seed=SEEDS),
    case("expected_gradients", samples=4, baselines=Change(("black",), ("white",))),
    case("expected_gradients", samples=4, noise=Change(0.0, 0.2)),
    case("expected_gradients", samples=4, seed=SEEDS),
    case("blur_ig", **IG, max_sigma=Change(5.0, 40.0)),
    case("smoothgrad", samples=2, noise=Change(0.1, 0.3)),
    case("smoothgrad", samples=2, seed=SEEDS),
    case("smoothgrad", samples=2, base="gradcam", layer=Change("layer2", "layer3")),
    case("vargrad", samples=2, seed=SEEDS),
    case("occlusion", window=64, stride=64, baseline=Change("zero", "white")),
    case("occlusion", window=Change(64, 60), stride=60, baseline="zero"),
    case("rise", masks=8, baseline=Change("zero", "white")),
    case("rise", masks=8, shown=Change(0.5, 0.8)),
    case("rise", masks=8, seed=SEEDS),
    case("lime", samples=12, **GRID, baseline=Change("segment", "black")),
    case("lime", samples=12, segmentation="grid", segments=Change(4, 6)),
    case("lime", samples=12, segmentation="felzenszwalb", coarseness=Change(2.0, 8.0)),
    case("lime", samples=12, segments=6, segmentation=Change("grid", "slic")),
    case("lime", samples=Change(12, 14), **GRID),
    case("lime", samples=12, **GRID, kernel_width=Change(0.25, 1.0)),
    case("lime", samples=12, **GRID, seed=SEEDS),
    case("kernel_shap", evaluations=20, **GRID, baseline=Change("blur", "black")),
    case("kernel_shap", evaluations=20, **GRID, seed=SEEDS),
    case("shap", evaluations=8, baseline=Change("blur", "black")),
    case("shap", evaluations=Change(8, 12)),
    case("shap", evaluations=70, order="target", target=Change(1, 0)),
    case("scorecam", channels=Change(4, 8)),
    case("scorecam", channels=4, layer=Change("layer3", "layer4")),
    case("ablationcam", channels=Change(3, 6), layer="layer3"),
    case("ablationcam", layer=Change("conv1.2", "conv1.5")),
    case("ablationcam", channels=3, layer="layer3", target=Change(1, 3)),
    *(
        case(key, **{**QUICK.get(key, {}), field: "random"}, seed=SEEDS)
        for key, cls in METHODS.items()
        for field in fields_with(cls, "random")
    ),
    case("attention", model="vit", layer=Change("blocks.1.attn", "blocks.2.attn")),
    case("transformer_relevance", model="vit", target=Change(1, 3)),
]


@pytest.mark.parametrize(("model", "name", "first", "second"), EXPLAINED)
def test_no_map_is_given_for_another_question(
    model: str, name: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    x = images(shared_handle(model), 2)

    def ask(explainer: Explainer, question: dict[str, Any]) -> list[Tensor]:
        asked = {"method": name, "target": 1, **question}
        one = asked.pop("picture", 0)
        found = explainer.explain(x[one : one + 1], **asked)
        return [found.values, found.score, *(found.extras[key] for key in sorted(found.extras))]

    check(model, ask, first, second)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("lime", {"samples": 12, "segmentation": "slic", "segments": 6}),
        ("kernel_shap", {"evaluations": 20, "segmentation": "grid", "segments": 6}),
        ("shap", {"evaluations": 8}),
        ("ablationcam", {"channels": 3, "layer": "layer3"}),
        ("scorecam", {"channels": 3}),
        ("smoothgrad", {"samples": 2}),
    ],
)
def test_each_image_of_a_batch_has_a_map_of_its_own(method: str, params: dict[str, Any]) -> None:
    owner = shared_handle("resnet")
    x = images(owner, 2)
    together = Explainer(owner).explain(x, method, target=[1, 3], **params).values
    alone = Explainer(owner).explain(x[1:], method, target=3, **params).values
    off = (together[1:] - alone).abs().max() / alone.abs().max()
    assert off < 1e-3


# -- scores -------------------------------------------------------------------------------------


def ranked(which: int) -> Tensor:
    """(1, 160, 160) one of several maps without equal values."""
    draw = torch.Generator().manual_seed(which)
    return torch.randperm(160 * 160, generator=draw).view(1, 160, 160).float()


def told(method: str, layer: str | None = None, **params: Any) -> Attribution:
    """The same map as if different methods had drawn it."""
    full = METHODS.make(method, params).model_dump()
    return Attribution(ranked(0) / 1e9, torch.zeros(1), method, full, "logit:1", layer)


def left(columns: int) -> Tensor:
    """(1, 160, 160) True in the first columns."""
    return (torch.arange(160) < columns).expand(1, 160, 160)


def few(cls: Any) -> dict[str, int]:
    """Parameters that keep a metric short."""
    return {name: n for name, n in (("steps", 2), ("samples", 9)) if name in cls.model_fields}


FLAT = torch.zeros(1, 160, 160)
SOME = {"samples": 8}
WAYS = [Change("blur", "mean"), Change("mean", "black"), Change("random", "blur")]

MEASURED = [
    case("", metric=Change("deletion", "insertion"), steps=3),
    case("deletion", steps=Change(3, 4)),
    case("deletion", steps=3, target=Change(1, 3)),
    case("deletion", steps=3, values=Change(ranked(0), ranked(1))),
    case("deletion", steps=3, values=FLAT, seed=SEEDS),
    *(
        case(key, steps=3, baseline=change)
        for key in ("deletion", "insertion", "srg", "road")
        for change in WAYS
    ),
    *(
        case(key, **few(cls), **{field: baseline}, seed=SEEDS)
        for key, cls in METRICS.items()
        for baseline in ("random", "imputation")
        for field in fields_with(cls, baseline)
    ),
    case("faithfulness_correlation", **SOME, baseline=Change("mean", "black")),
    case("faithfulness_correlation", **SOME, size=Change(0.1, 0.5)),
    case("faithfulness_correlation", samples=Change(8, 10)),
    case("faithfulness_correlation", **SOME, values=Change(ranked(0), ranked(1))),
    case("faithfulness_correlation", **SOME, seed=SEEDS),
    case("sensitivity_n", samples=9, sizes=3, seed=SEEDS),
    case("infidelity", **SOME, side=Change(0.2, 0.5)),
    case("infidelity", **SOME, seed=SEEDS),
    case("energy_inside", ground_truth=Change(left(40), left(90))),
    case("max_sensitivity", samples=1, values=told("saliency"), seed=SEEDS),
    case(
        "max_sensitivity",
        samples=1,
        values=Change(told("gradcam", "layer3"), told("hirescam", "layer3")),
    ),
    case(
        "max_sensitivity",
        samples=1,
        values=Change(told("saliency"), told("saliency", reduction="sum")),
    ),
    case(
        "max_sensitivity",
        samples=1,
        values=Change(told("gradcam", "layer3"), told("gradcam", "layer4")),
    ),
    case("randomisation", steps=1, values=told("saliency"), seed=SEEDS),
    case("randomisation", steps=1, smooth=2, values=told("saliency"), seed=SEEDS),
    case("randomisation", steps=1, values=told("gradcam", "layer3"), seed=SEEDS),
    case("randomisation_entropy", values=told("saliency"), seed=SEEDS),
]


@pytest.mark.parametrize(("model", "name", "first", "second"), MEASURED)
def test_no_score_is_given_for_another_question(
    model: str, name: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    x = images(shared_handle(model), 1)

    def ask(explainer: Explainer, question: dict[str, Any]) -> list[Tensor]:
        asked = {"metric": name, "target": 1, "values": ranked(0), **question}
        found = explainer.measure(x, **asked)
        parts = (found.value, found.curve_y, found.low, found.high)
        return [part for part in parts if part is not None]

    check(model, ask, first, second)


# -- where a seed must go -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "params", "value"),
    [
        ("max_sensitivity", {"samples": 1}, 0.0),
        ("class_sensitivity", {}, 1.0),
        ("randomisation", {"steps": 1}, 1.0),
        ("randomisation", {"steps": 1, "smooth": 2}, 1.0),
        ("randomisation_entropy", {}, 0.0),
    ],
)
def test_a_method_that_is_asked_again_draws_the_same(
    metric: str, params: dict[str, Any], value: float
) -> None:
    owner, seed = shared_handle("resnet"), 5
    explainer, x = Explainer(owner), images(owner, 2)
    answer = explainer.explain(x, "random", target=1, seed=seed)
    found = explainer.measure(x, answer, metric, target=1, seed=seed, **params)
    assert found.value.tolist() == pytest.approx([value] * 2, abs=1e-6)


class Noted(Explainer):
    """Notes the seed of everything that is asked of it."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seeds: list[tuple[str, int]] = []

    def explain(self, query: Any, *given: Any, **options: Any) -> Any:
        self.seeds.append(("explain", query.seed))
        return super().explain(query, *given, **options)

    def measure(self, query: Any, *given: Any, **options: Any) -> Any:
        self.seeds.append(("measure", query.seed))
        return super().measure(query, *given, **options)


@pytest.mark.parametrize("ask", ["controls", "standing", "sanity", "verdict", "recommend"])
def test_whatever_is_drawn_for_a_judgement_starts_at_its_seed(ask: str) -> None:
    owner = shared_handle("resnet")
    x = images(owner, 1)
    answer = Explainer(owner).explain(x, "saliency")
    explainer = Noted(owner)
    {
        "controls": lambda: explainer.controls(x, "complexity", seed=7),
        "standing": lambda: explainer.percentile_rank(x, answer, "complexity", maps=2, seed=7),
        "sanity": lambda: explainer.sanity_checks("saliency", seed=7),
        "verdict": lambda: explainer.verdict(x, answer, seed=7),
        "recommend": lambda: explainer.recommend(x, {"saliency": answer}, seed=7),
    }[ask]()
    assert explainer.seeds
    assert {seed for _, seed in explainer.seeds} == {7}, explainer.seeds
