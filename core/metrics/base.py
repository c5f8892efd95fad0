"""Metric: one question asked of an attribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from core.errors import TimmscopeError
from core.metrics.verdict_rule import VerdictRule
from core.registry import Parameters, Registry
from core.runtime.run import Run
from core.types import Attribution, Group, Score

Reattribute = Callable[[Run], Tensor]
"""Runs the method that drew a map on another run; gives maps (B, H, W) in input pixels."""


class Category(Group):
    """What a metric tests, in the categories of Quantus (Hedstroem et al., arXiv:2202.06861)."""

    FAITHFULNESS = (
        "faithfulness",
        "Faithfulness",
        "Does the score change as the map says when pixels are removed or restored?",
    )
    ROBUSTNESS = (
        "robustness",
        "Robustness",
        "Does the map stay the same when the picture hardly changes?",
    )
    LOCALISATION = (
        "localisation",
        "Localisation",
        "Does the map mark the place where the evidence is known to be?",
    )
    COMPLEXITY = (
        "complexity",
        "Complexity",
        "Is the map simple: do few pixels hold most of it?",
    )
    RANDOMISATION = (
        "randomisation",
        "Randomisation",
        "Does the map change when the model's weights or the class change?",
    )
    AXIOMATIC = (
        "axiomatic",
        "Axiomatic",
        "Does the map have a property that it should have by definition?",
    )


class MetricInput(StrEnum):
    """What a metric needs in addition to the map."""

    GROUND_TRUTH = "ground_truth"
    """A mask of the evidence in the picture."""
    METHOD = "method"
    """The attribution that the map is part of, and the method that drew it."""


@dataclass(frozen=True)
class MetricContext:
    """What a metric may use in addition to the maps.

    Attributes:
        ground_truth: (B, H, W) True where the evidence is, in input pixels; None if unknown.
        attribution: the attribution that the maps are part of; None for maps given as a tensor.
        reattribute: runs the method that drew the maps again; None for maps given as a tensor.
        reattribute_signed: runs it without the ReLU that it ends with; None if it has none.
    """

    ground_truth: Tensor | None = None
    attribution: Attribution | None = None
    reattribute: Reattribute | None = None
    reattribute_signed: Reattribute | None = None

    def has(self, given: MetricInput) -> bool:
        """Whether this input is available."""
        if given is MetricInput.GROUND_TRUTH:
            return self.ground_truth is not None
        return self.reattribute is not None


class Metric(Parameters, ABC):
    """A metric; its fields are its parameters, and `about` is the question it answers.

    Attributes:
        category: what it tests.
        also_answers: other names for what it tests, as papers and requirements use them.
        higher_is_better: whether a better map scores higher.
        range: the smallest and the largest possible value.
        needs: what it needs in addition to the map.
        caveat: what it cannot tell; empty if it ranks the true evidence first on every synthetic
            model, see docs/metrics.md.
        axes: the labels of its curve's x axis, which runs from 0 to 1, and y axis; empty if it has
            no curve.
        verdict_rule: how it counts in a verdict; None if it does not.
    """

    category: ClassVar[Category]
    also_answers: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[bool]
    range: ClassVar[tuple[float, float]]
    needs: ClassVar[frozenset[MetricInput]]
    caveat: ClassVar[str]
    axes: ClassVar[tuple[str, str]]
    verdict_rule: ClassVar[VerdictRule | None]

    @abstractmethod
    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        """Score maps.

        Args:
            run: the images ``run.x`` (B, C, H, W), the target, and the model.
            values: (B, H, W) the maps, raw and signed, in input pixels.
            context: holds at least what `needs` names.

        Raises:
            TimmscopeError: the maps cannot be scored.
        """

    def method_calls(self) -> int:
        """How often at most it calls `MetricContext.reattribute`, with these parameters."""
        return 0

    def score(self, run: Run, value: Tensor, **more: Any) -> Score:
        """The result: values (B,), further fields of `Score`, and what the run has cost."""
        return Score(value, self.key, self.model_dump(), run.cost_counter.cost(), **more)


METRICS: Registry[Metric] = Registry("metric", __name__.rpartition(".")[0])
"""Every metric by key."""

M = TypeVar("M", bound=type[Metric])


def register(
    key: str,
    *,
    label: str,
    about: str,
    category: Category | str,
    higher_is_better: bool,
    range: tuple[float, float],
    paper: str = "",
    needs: Iterable[MetricInput] = (),
    caveat: str = "",
    axes: tuple[str, str] = ("", ""),
    also_answers: Iterable[str] = (),
    verdict: VerdictRule | None = None,
) -> Callable[[M], M]:
    """A class decorator that describes a metric and enters it into `METRICS`.

    Args:
        key: the name used in Python, on the command line and in files.
        label: the name people read.
        about: the question it answers.
        category: a `Category`, or its value.
        higher_is_better: whether a better map scores higher.
        range: the smallest and the largest possible value.
        paper: its source, as an arXiv or DOI reference.
        needs: what it needs in addition to the map.
        caveat: what it cannot tell.
        axes: the labels of its curve's axes, if it has a curve.
        also_answers: other names for what it tests.
        verdict: how it counts in a verdict, if it does.

    Raises:
        ValueError: there is no such category.
        TypeError: the key is taken.
    """

    def enter(cls: M) -> M:
        cls.key, cls.label, cls.about, cls.paper = key, label, about, paper
        cls.category, cls.also_answers = Category(category), tuple(also_answers)
        cls.higher_is_better, cls.range = higher_is_better, range
        cls.needs, cls.caveat, cls.axes = frozenset(needs), caveat, axes
        cls.verdict_rule = verdict
        METRICS.add(cls)
        return cls

    return enter


def check(values: Tensor, x: Tensor) -> None:
    """Refuse maps that do not fit the images.

    Args:
        values: the maps.
        x: (B, C, H, W) the images.

    Raises:
        TimmscopeError: `values` are not (B, H, W), or not all finite.
    """
    if values.shape != (len(x), *x.shape[2:]):
        raise TimmscopeError(
            f"a map of shape {tuple(values.shape)} does not fit images of shape {tuple(x.shape)}; "
            f"give one of shape {(len(x), *x.shape[2:])}"
        )
    if not torch.isfinite(values).all():
        raise TimmscopeError(
            "the map has values that are not finite (NaN or infinite), so its pixels cannot be "
            "ranked; choose another method or layer"
        )
