"""Controls: maps that do not depend on the model. A useful method must score better."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.methods.base import Method, register
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Property


@register(
    "random",
    label="Random (control)",
    family="control",
    about="A control: uniform noise. A useful method must score better.",
    properties=[Property.MODEL_FREE, Property.NONNEGATIVE],
)
class Random(Method):
    """Uniform noise in [0, 1), the same for every image and model."""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        noise = torch.rand(run.x.shape[2:], generator=run.generator())
        return noise.expand(len(run.x), -1, -1), run.score()


@register(
    "sobel",
    label="Edges (control)",
    family="control",
    about="A control: the edges of the picture. A map that looks like them may ignore the model.",
    properties=[Property.MODEL_FREE, Property.NONNEGATIVE],
)
class Sobel(Method):
    """Magnitude of the Sobel gradient of the channel mean."""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(run.x)
        grey = F.pad(run.x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        edges = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])
        return edges.norm(dim=1), run.score()


@register(
    "centre",
    label="Centre (control)",
    family="control",
    about="A control: a blob in the centre. A method that does no better may only find the centre.",
    properties=[Property.MODEL_FREE, Property.NONNEGATIVE],
)
class Centre(Method):
    """A Gaussian in the centre whose sigma is a quarter of the side, so borders are at 2 sigma."""

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        down, across = (_gaussian(size) for size in run.x.shape[2:])
        return (down[:, None] * across).expand(len(run.x), -1, -1), run.score()


def _gaussian(size: int) -> Tensor:
    """A Gaussian (size,) over pixel centres from -2 sigma to 2 sigma."""
    sigmas = (torch.arange(size) + 0.5) * (4 / size) - 2
    return torch.exp(-(sigmas**2) / 2)
