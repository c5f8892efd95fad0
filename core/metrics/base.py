"""Metric: one question asked of an explanation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import Tensor

from core.engine import Run
from core.registry import Parameters, Registry
from core.types import Score


class Metric(Parameters, ABC):
    """A metric; its fields are its parameters, `about` is the question it answers.

    Attributes:
        higher_is_better: whether a better map scores higher.
        range: least and largest possible value.
    """

    higher_is_better: ClassVar[bool]
    range: ClassVar[tuple[float, float]]

    @abstractmethod
    def measure(self, run: Run, values: Tensor) -> Score:
        """Score the maps `values` (B, H, W), in input pixels, of the images ``run.x``."""


METRICS: Registry[Metric] = Registry("metric", "core.metrics")
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
) -> Callable[[M], M]:
    """Give a metric class its facts and enter it into `METRICS`."""

    def enter(cls: M) -> M:
        cls.key, cls.label, cls.about, cls.paper = key, label, about, paper
        cls.higher_is_better, cls.range = higher_is_better, range
        METRICS.add(cls)
        return cls

    return enter
