"""Metric: one question asked of an explanation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from core.errors import TimmscopeError
from core.registry import Parameters, Registry
from core.runtime.engine import Run
from core.types import Attribution, Score

Reattribute = Callable[[Run], Tensor]
"""Asks a map's method again: the maps (B, H, W), in input pixels, of another run."""


class MetricInput(StrEnum):
    """What a metric asks for beside the map."""

    GROUND_TRUTH = "ground_truth"
    """Where the evidence is: a mask over the picture."""
    METHOD = "method"
    """The method that drew the map, to be asked again."""


@dataclass(frozen=True)
class MetricContext:
    """What is known beside the maps themselves.

    Attributes:
        ground_truth: (B, H, W) True where the evidence is, in input pixels; or None.
        attribution: the whole answer that the maps are part of; or None.
        reattribute: asks the same method again; or None.
    """

    ground_truth: Tensor | None = None
    attribution: Attribution | None = None
    reattribute: Reattribute | None = None

    def has(self, given: MetricInput) -> bool:
        """Whether a metric that asks for this can be measured."""
        return (
            self.ground_truth is not None
            if given is MetricInput.GROUND_TRUTH
            else self.reattribute is not None
        )


class Metric(Parameters, ABC):
    """A metric; its fields are its parameters, `about` is the question it answers.

    Attributes:
        higher_is_better: whether a better map scores higher.
        range: least and largest possible value.
        needs: what it asks for beside the map.
        caveat: what it cannot tell, where docs/metrics.md shows that; empty if it ranks the truth
            first on every model of the generated world.
        axes: what its curve runs over, from 0 to 1, and what it shows; empty if it follows none.
    """

    higher_is_better: ClassVar[bool]
    range: ClassVar[tuple[float, float]]
    needs: ClassVar[frozenset[MetricInput]]
    caveat: ClassVar[str]
    axes: ClassVar[tuple[str, str]]

    @abstractmethod
    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        """Score the maps `values` (B, H, W), in input pixels, of the images ``run.x``.

        Raises:
            TimmscopeError: the maps cannot be judged.
        """

    def score(self, run: Run, value: Tensor, **more: Tensor) -> Score:
        """An answer: values (B,), and what else a `Score` holds."""
        return Score(value, self.key, self.model_dump(), run.cost_counter.cost(), **more)


METRICS: Registry[Metric] = Registry("metric", __name__.rpartition(".")[0])
"""Every metric by key."""

M = TypeVar("M", bound=type[Metric])


def register(
    key: str,
    *,
    label: str,
    about: str,
    higher_is_better: bool,
    range: tuple[float, float],
    paper: str = "",
    needs: Iterable[MetricInput] = (),
    caveat: str = "",
    axes: tuple[str, str] = ("", ""),
) -> Callable[[M], M]:
    """Give a metric class its facts and enter it into `METRICS`."""

    def enter(cls: M) -> M:
        cls.key, cls.label, cls.about, cls.paper = key, label, about, paper
        cls.higher_is_better, cls.range = higher_is_better, range
        cls.needs, cls.caveat, cls.axes = frozenset(needs), caveat, axes
        METRICS.add(cls)
        return cls

    return enter


def check(values: Tensor, x: Tensor) -> None:
    """Refuse maps that cannot be judged for these images.

    Raises:
        TimmscopeError: `values` are not one finite map (H, W) per image (C, H, W).
    """
    if values.shape != (len(x), *x.shape[2:]):
        raise TimmscopeError(
            f"a map of shape {tuple(values.shape)} does not fit images of shape {tuple(x.shape)}; "
            f"give one of shape {(len(x), *x.shape[2:])}"
        )
    if not torch.isfinite(values).all():
        raise TimmscopeError(
            "the map has values that are not finite (NaN or infinite); it cannot be ranked"
        )
