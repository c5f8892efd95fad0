"""Query: pictures, and what is asked about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from core.inputs.batch import InputBatch, OnPartial, OnProgress
from core.result import Result
from core.tasks.base import Target


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Query(Result):
    """Pictures, and all that an answer about them depends on beside the method or the metric.

    Attributes:
        batch: the pictures.
        target: what is explained; None for each picture's predicted class.
        layer: the layer to look at; None for each method's default.
        extra_layers: layers to capture in the same pass, so that a later question about one of them
            costs no pass.
        seed: where random draws start.
        ground_truth: (B, H, W) True where the evidence is, in the pixels of the model's input; None
            if it is not known.
        on_progress: called with the rows done and expected.
        on_partial: called with partial maps while a slow method works; returns True to stop it and
            keep the map.
        stop_after: how many samples a slow method takes at most; None for all.
        extra_targets: targets to differentiate in the same pass, so that a later question about one
            of them costs no forward pass.
    """

    batch: InputBatch
    target: Target | None = None
    layer: str | None = None
    extra_layers: tuple[str, ...] = ()
    seed: int = 0
    ground_truth: Tensor | None = None
    on_progress: OnProgress | None = field(default=None, compare=False)
    on_partial: OnPartial | None = field(default=None, compare=False)
    stop_after: int | None = None
    extra_targets: tuple[Target, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Callbacks belong to the process that waits for the answer; they are not pickled.
        called = self.on_progress is not None or self.on_partial is not None
        alone = replace(self, on_progress=None, on_partial=None) if called else self
        return Result.__reduce__(alone)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.batch.x)

    def reporting(self, on_progress: OnProgress | None) -> Query:
        """The same query with another progress callback."""
        return replace(self, on_progress=on_progress)

    def at(self, layer: str | None) -> Query:
        """The same query about another layer."""
        return replace(self, layer=layer)
