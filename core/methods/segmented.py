"""Methods that explain regions of a picture instead of pixels."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from core.methods.base import Method
from core.perturb.superpixels import Segmentation, superpixels
from core.runtime.run import Run


class Segmented(Method):
    """A method that asks of a picture's parts rather than of its pixels."""

    segmentation: Segmentation = Field("slic", description="How the picture is cut into parts")
    segments: int = Field(
        50,
        ge=2,
        le=1000,
        description="Parts to aim at, for slic and grid; the others find their own number",
    )
    coarseness: float = Field(
        1.0, ge=0.25, le=8, description="Size of the parts, for quickshift and felzenszwalb"
    )

    def labels(self, run: Run, image: int) -> Tensor:
        """(H, W) the part of one of the run's images that each pixel belongs to, on the CPU."""
        how = self.segmentation, self.segments, self.coarseness

        def compute() -> Tensor:
            return superpixels(run.subject.to_pixels(run.x[image]), *how)

        return run.cache_scope.get_or_compute(("segments", image, how), compute)
