"""Deletion and insertion: take pixels away, or give them back, in the order a map ranks them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from core.engine import Run
from core.errors import TimmscopeError
from core.methods.baselines import Baseline, baseline
from core.metrics.base import Metric, register
from core.passes import Piece
from core.types import Score


class Removal(Metric):
    """What deletion and insertion share.

    The curve follows the probability of the target (of "A rather than B", the difference of two,
    from -1 to 1) over the fraction of pixels changed; the score is the area under it by the
    trapezoid rule. Ties are broken at random by the run's seed. A map of one single value is
    thereby a random ranking.
    """

    starts_whole: ClassVar[bool]
    """Whether the curve begins, or ends, with the unperturbed picture, whose score is known."""

    steps: int = Field(28, ge=1, le=1000, description="Steps from the first pixel to the last")

    def measure(self, run: Run, values: Tensor) -> Score:
        _check(values, run.x)
        empty = self.background(run)
        order = ranking(values, run.generator())
        bounds = [round(step * order.shape[1] / self.steps) for step in range(self.steps + 1)]
        perturbed = bounds[1:] if self.starts_whole else bounds[:-1]

        def rows() -> Iterator[Piece]:
            for bound in perturbed:
                chosen = torch.zeros_like(order, dtype=torch.bool)
                chosen.scatter_(1, order[:, :bound], True)
                mask = chosen.view_as(values)[:, None].to(run.x.device)
                yield self.mix(run.x, empty, mask), run.owner

        asked = run.nested(run.x, run.owner, run.target.probability())
        scores = asked.scores(rows(), expected=len(perturbed) * len(run.x)).view(-1, len(run.x))
        whole = asked.target(run.outputs(), run.owner)[None]
        parts = [whole, scores] if self.starts_whole else [scores, whole]
        curve = torch.cat(parts).T.cpu()
        fractions = torch.tensor(bounds, dtype=torch.float32) / order.shape[1]
        return Score(
            value=torch.trapezoid(curve, fractions),
            metric=self.key,
            params=self.model_dump(),
            cost=run.meter.cost(),
            curve_x=fractions,
            curve_y=curve,
        )

    @abstractmethod
    def background(self, run: Run) -> Tensor:
        """The pictures (B, C, H, W) that pixels come from or go to."""

    @abstractmethod
    def mix(self, x: Tensor, empty: Tensor, chosen: Tensor) -> Tensor:
        """The rows scored once the most relevant pixels, `chosen` (B, 1, H, W), had their turn."""


@register(
    "deletion",
    label="Deletion",
    about="Does the probability fall quickly when the most relevant pixels go first?",
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1806.07421",
)
class Deletion(Removal):
    """Area under the probability while pixels go, the best first (Petsiuk et al., 2018)."""

    starts_whole = True

    baseline: Baseline = Field("zero", description="What removed pixels become")

    def background(self, run: Run) -> Tensor:
        return baseline(self.baseline, run)

    def mix(self, x: Tensor, empty: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen, empty, x)


@register(
    "insertion",
    label="Insertion",
    about="Does the probability rise quickly when the most relevant pixels come first?",
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:1806.07421",
)
class Insertion(Removal):
    """Area under the probability while pixels come, the best first (Petsiuk et al., 2018)."""

    starts_whole = False

    baseline: Baseline = Field("blur", description="What the picture starts as")

    def background(self, run: Run) -> Tensor:
        return baseline(self.baseline, run)

    def mix(self, x: Tensor, empty: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen, x, empty)


def ranking(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pixel indices (B, H*W) from most to least relevant; ties in random order.

    >>> ranking(torch.tensor([[[1.0, 3.0], [2.0, -1.0]]]), torch.Generator().manual_seed(0))
    tensor([[1, 2, 0, 3]])
    """
    flat = values.flatten(1).cpu()
    shuffle = torch.randperm(flat.shape[1], generator=generator)
    return shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]


def _check(values: Tensor, x: Tensor) -> None:
    if values.shape != (len(x), *x.shape[2:]):
        raise TimmscopeError(
            f"a map of shape {tuple(values.shape)} does not fit images of shape {tuple(x.shape)}; "
            f"give one of shape {(len(x), *x.shape[2:])}"
        )
    if not torch.isfinite(values).all():
        raise TimmscopeError(
            "the map has values that are not finite (NaN or infinite); it cannot be ranked"
        )
