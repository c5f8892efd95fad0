"""RISE: the mean score of randomly masked copies that show a pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.methods.base import Method, register
from core.perturb.baselines import Baseline, baseline_images
from core.perturb.masks import MASKS_PER_CHUNK
from core.runtime.batching import Chunk
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property


@register(
    "rise",
    label="RISE",
    family="perturbation",
    about="Best for large evidence in any model; not for fine detail, signs or quick answers.",
    paper="arXiv:1806.07421",
    properties=[Property.CLASS_SENSITIVE],
)
class Rise(Method):
    """Mean score of randomly masked copies that show a pixel (Petsiuk et al., 2018).

    All values are close to the mean score of all copies, and evidence is slightly above it. So the
    values rank pixels, but their ratios have no meaning. Masks are coarse random grids, upsampled
    bilinearly and shifted at random. `extras["standard_error"]` is a map of standard errors.
    """

    masks: int = Field(4000, ge=2, le=20000, description="Number of masked copies of each picture")
    grid: int = Field(7, ge=2, le=32, description="Number of mask cells along each side")
    shown: float = Field(0.5, ge=0.05, le=0.95, description="Probability that a mask cell is shown")
    baseline: Baseline = Field("zero", description="What replaces hidden pixels")

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(self.masks + 1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        x, replacement, count = run.x, baseline_images(self.baseline, run), len(run.x)

        def masked() -> Iterator[Chunk]:
            for masks in self._masks(run):
                weight = masks[:, None, None]  # (k, 1, 1, H, W)
                yield (
                    (weight * x + (1 - weight) * replacement).flatten(0, 1),
                    run.owner.repeat(len(masks)),
                )

        flat = run.scores(masked(), self.masks * count, keep=(self, run.seed))
        scores = flat.unflatten(0, (-1, count))
        total, squares = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        for masks, some in zip(self._masks(run), scores.split(MASKS_PER_CHUNK), strict=True):
            total += torch.einsum("nb,nhw->bhw", some, masks)
            squares += torch.einsum("nb,nhw->bhw", some.square(), masks.square())
        mean = total / self.masks
        spread = (squares / self.masks - mean.square()).clamp_min(0).sqrt()
        run.extras["standard_error"] = spread / math.sqrt(self.masks) / self.shown
        return mean / self.shown, run.score()

    def _masks(self, run: Run) -> Iterator[Tensor]:
        """Yields masks (k, H, W) from 0 (hidden) to 1 (shown); every call yields the same ones."""
        generator, (height, width) = run.generator(), run.x.shape[-2:]
        cell = math.ceil(height / self.grid), math.ceil(width / self.grid)
        cells = torch.rand((self.masks, self.grid, self.grid), generator=generator) < self.shown
        shifts = torch.rand((self.masks, 2), generator=generator) * torch.tensor(cell)
        large = [(self.grid + 1) * side for side in cell]
        for some, starts in zip(
            cells.split(MASKS_PER_CHUNK), shifts.split(MASKS_PER_CHUNK), strict=True
        ):
            enlarged = F.interpolate(some[:, None].to(run.x), size=large, mode="bilinear")[:, 0]
            yield torch.stack(
                [
                    mask[top : top + height, left : left + width]
                    for mask, (top, left) in zip(enlarged, starts.long().tolist(), strict=True)
                ]
            )
