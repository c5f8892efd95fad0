"""Whether a map finds its picture among others: ground truth that needs no annotation."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError
from core.metrics.base import Metric, MetricContext, MetricInput, check, register
from core.metrics.localisation import mass
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Score

Quarter = tuple[slice, slice]

OTHERS = 3
"""Pictures that fill the quarters beside the one in question."""
LESS = 0.01
"""A picture speaks less if its score is lower by this share; the same picture again is none."""


@register(
    "grid_pointing_game",
    label="Grid pointing game",
    about="Among three other pictures, does the map point at this one? A quarter is chance.",
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:2104.00032",
    needs=[MetricInput.METHOD],
)
class GridPointingGame(Metric):
    """Share of the positive values in the picture's own quarter (Boehle et al., 2021).

    The method is asked again about a picture of four: the one explained and three samples that come
    along, those that the model is surest of among such as speak less for the target. The picture
    takes its turn in several quarters. A map without a positive value scores 0.

    The four are put side by side whole. A model that cannot see so large a picture is shown halved
    ones, which tells little of one that knows its objects at one size; the score's `params` say
    which it was.
    """

    places: int = Field(4, ge=1, le=4, description="In how many quarters the picture takes a turn")
    halved: bool = Field(
        False, description="Halve pictures to the model's own input even where whole ones would do"
    )

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        assert context.reattribute is not None
        others, height, width = companions(run), *run.x.shape[2:]
        large = None if self.halved else fitting(run)
        subject, size = (
            (run.subject, (height, width)) if large is None else (large, (2 * height, 2 * width))
        )
        shares = []
        for place, (rows, columns) in enumerate(quarters(*size)[: self.places]):
            shown = torch.stack(
                [mosaic(x, own, place, size) for x, own in zip(run.x, others, strict=True)]
            )
            found = context.reattribute(run.derive(subject=subject, x=shown))
            mask = torch.zeros_like(found, dtype=torch.bool)
            mask[:, rows, columns] = True
            shares.append(mass(found.clamp_min(0), mask))
        played = self.model_copy(update={"halved": large is None})
        return played.score(run, torch.stack(shares).mean(0))


def fitting(run: Run) -> Subject | None:
    """The model seeing pictures twice as high and wide, if the run's layer means the same there."""
    large = run.subject.enlarged(2)
    if large is None or run.layer is None:
        return large
    known = large.attention_layers if run.layer in run.subject.attention_layers else large.layers
    return large if run.layer in known and known[run.layer].layout is not None else None


def companions(run: Run) -> Tensor:
    """(B, 3, C, H, W) the sample pictures to set beside each of the run's images.

    Raises:
        NotApplicableError: fewer than three of them speak less for the target than the image does.
    """
    samples = run.subject.samples.to(run.x)
    outputs = run.derive(x=samples, owner=None, target=None, images_name="samples").outputs()
    sure = outputs.float().softmax(1).amax(1)
    chosen = []
    for owner, own in zip(run.owner, run.score(), strict=True):
        theirs = run.target(outputs, owner.expand(len(samples)))
        less = own - theirs > LESS * own.abs()
        if less.sum() < OTHERS:
            raise NotApplicableError(
                f"the grid pointing game needs {OTHERS} pictures that speak less for the target "
                f"than this one, and only {int(less.sum())} of the {len(samples)} samples do; "
                "explain another class, or choose energy inside and say where the evidence is"
            )
        chosen.append(samples[torch.where(less, sure, -1).topk(OTHERS).indices])
    return torch.stack(chosen)


def quarters(height: int, width: int) -> list[Quarter]:
    """The quarters of a picture, row by row."""
    down = slice(0, height // 2), slice(height // 2, height)
    across = slice(0, width // 2), slice(width // 2, width)
    return [(rows, columns) for rows in down for columns in across]


def mosaic(x: Tensor, others: Tensor, place: int, size: tuple[int, int]) -> Tensor:
    """One picture (C, *size) of four: `x` in a quarter, three `others` (3, C, H, W) in the rest."""
    four = [*others[:place], x, *others[place:]]
    whole = x.new_empty(len(x), *size)
    for picture, (rows, columns) in zip(four, quarters(*size), strict=True):
        fits = whole[:, rows, columns].shape[1:]
        whole[:, rows, columns] = (
            picture
            if picture.shape[1:] == fits
            else F.interpolate(picture[None], size=fits, mode="bilinear", antialias=True)[0]
        )
    return whole
