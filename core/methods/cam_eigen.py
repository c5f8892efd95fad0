"""Class activation maps from the first principal component of a layer's cells."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from core.methods.base import Method, register
from core.methods.cam import CAM, CAM_PROPERTIES
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Need, Property


@register(
    "eigencam",
    label="Eigen-CAM",
    family="cam",
    about="Best for what a layer sees most of, whatever the class; not for telling classes apart.",
    paper="arXiv:2008.00299",
    needs=[Need.LAYER],
    properties=[Property.NONNEGATIVE],
)
class EigenCAM(Method):
    """First principal component of the activation (Muhammad & Yeasin, 2020).

    The target plays no part.
    """

    relu: bool = Field(
        True, title="ReLU", description="Keep only the side of the strong cells; off shows both"
    )

    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        values = first_component(run.activation())
        return values.relu() if self.relu else values, run.score()

    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        return Cost(1)


@register(
    "eigengradcam",
    label="Eigen-Grad-CAM",
    family="cam",
    about="Best for the one dominant object of a class; not for amounts or several objects.",
    paper="arXiv:2008.00299",
    needs=[Need.GRADIENT, Need.LAYER],
    properties=CAM_PROPERTIES,
)
class EigenGradCAM(CAM):
    """First principal component of activation times gradient (after Muhammad & Yeasin, 2020)."""

    def combine(self, act: Tensor, grad: Tensor) -> Tensor:
        return first_component(grad * act)


def first_component(cells: Tensor) -> Tensor:
    """The projection (B, h, w) of cells (B, K, h, w) on the axis along which they differ most.

    The mean cell projects to zero. An axis has no sign of its own: it is turned so that cells
    with large values, of either sign, project positively.
    """
    rows = cells.flatten(2).mT  # (B, h*w, K)
    centred = rows - rows.mean(1, keepdim=True)
    axis = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]
    projection = (centred @ axis[:, :, None])[..., 0]
    strength = rows.norm(dim=2)
    turn = (projection * (strength - strength.mean(1, keepdim=True))).sum(1, keepdim=True)
    values: Tensor = torch.where(turn < 0, -projection, projection).view_as(cells[:, 0])
    return values
