"""Whether a map finds its picture among others: a ground truth that needs no annotation."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from core.errors import NotApplicableError
from core.metrics.base import Category, Metric, MetricContext, MetricInput, check, register
from core.metrics.localisation import mass
from core.runtime.noise import score_noise
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Score

Quarter = tuple[slice, slice]
"""The rows and the columns of a quarter of a picture."""

OTHERS = 3
"""Number of other pictures in the mosaic."""
LESS = 0.01
"""A picture may fill a quarter if its score for the target is lower by this share at least. This
leaves out the explained picture itself."""


@register(
    "grid_pointing_game",
    label="Grid pointing game",
    about="In a mosaic with three other pictures, does the map mark this one? Chance is 0.25.",
    category=Category.LOCALISATION,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:2104.00032",
    needs=[MetricInput.METHOD],
)
class GridPointingGame(Metric):
    """Share of the positive values in the picture's own quarter (Boehle et al., 2021).

    The method explains a mosaic of four pictures: the explained one, and three sample pictures with
    a lower score for the target, chosen by the model's confidence in its prediction. The picture is
    put into one quarter after another, and the shares are averaged. A map without a positive value
    scores 0.

    The pictures keep their size, so the mosaic is twice as high and wide as the model's input. If
    the model cannot process it, the pictures are halved, which makes the score less telling for
    models that know objects at one size only; `halved` in the score's `params` says so.
    """

    places: int = Field(4, ge=1, le=4, description="Number of quarters to put the picture into")
    halved: bool = Field(
        False, description="Halve the pictures even if the model can process a larger mosaic"
    )

    def method_calls(self) -> int:
        return self.places

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
    """The model for pictures of twice the height and width; None if it cannot process them."""
    large = run.subject.enlarged(2)
    if large is None or run.layer is None:
        return large
    known = large.attention_layers if run.layer in run.subject.attention_layers else large.layers
    return large if run.layer in known and known[run.layer].layout is not None else None


def companions(run: Run) -> Tensor:
    """(B, 3, C, H, W) the sample pictures that share a mosaic with each of the run's images.

    Raises:
        NotApplicableError: fewer than three of them score lower for the target than the image.
    """
    samples = run.subject.samples.to(run.x)
    outputs = run.derive(x=samples, owner=None, target=None, images_name="samples").outputs()
    sure = run.subject.task.predict(outputs).certainty.to(run.x.device)
    chosen = []
    noise = score_noise(run, run.target, run.outputs(), run.owner).to(run.x.device)
    for owner, own, error in zip(run.owner, run.score(), noise, strict=True):
        theirs = run.target(outputs, owner.expand(len(samples)))
        less = own - theirs > (LESS * own.abs()).clamp_min(2 * error)
        if less.sum() < OTHERS:
            raise NotApplicableError(
                f"the grid pointing game needs {OTHERS} pictures with a lower score for the "
                f"target, and only {int(less.sum())} of the {len(samples)} samples have one; "
                "explain another class, or choose energy inside and give a ground truth"
            )
        chosen.append(samples[torch.where(less, sure, -1).topk(OTHERS).indices])
    return torch.stack(chosen)


def quarters(height: int, width: int) -> list[Quarter]:
    """The quarters of a picture of this size in pixels, row by row."""
    down = slice(0, height // 2), slice(height // 2, height)
    across = slice(0, width // 2), slice(width // 2, width)
    return [(rows, columns) for rows in down for columns in across]


def mosaic(x: Tensor, others: Tensor, place: int, size: tuple[int, int]) -> Tensor:
    """A picture (C, *size) made of four.

    Args:
        x: (C, H, W) the picture that goes into the quarter `place`.
        others: (3, C, H, W) the pictures that fill the other quarters in order.
        place: 0 to 3, row by row.
        size: height and width of the mosaic; pictures are scaled to its quarters.
    """
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
