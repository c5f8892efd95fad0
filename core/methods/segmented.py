"""Base class of methods that explain segments of a picture instead of pixels."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from core.methods.base import Method
from core.perturb.superpixels import Segmentation, superpixels
from core.runtime.run import Run


class Segmented(Method):
    """A method that assigns one value to each segment of a picture."""

    segmentation: Segmentation = Field(
        "slic", description="Algorithm that cuts the picture into segments"
    )
    segments: int = Field(
        50,
        ge=2,
        le=1000,
        description="Approximate number of segments, for slic and grid; the other algorithms "
        "choose it themselves",
    )
    coarseness: float = Field(
        1.0,
        ge=0.25,
        le=8,
        description="Relative size of the segments, for quickshift and felzenszwalb; 1 is their "
        "usual setting",
    )

    def labels(self, run: Run, image: int) -> Tensor:
        """The segments of one image of a run.

        Args:
            run: the run.
            image: index of the image in the run's batch.

        Returns:
            (H, W) int64 on the CPU, the index of the segment that each pixel belongs to.
        """
        settings = self.segmentation, self.segments, self.coarseness

        def compute() -> Tensor:
            return superpixels(run.subject.to_pixels(run.x[image]), *settings)

        return run.cache_scope.get_or_compute(("segments", image, settings), compute)
