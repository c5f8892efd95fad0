"""Whether what a map gives to many pixels together is what the score loses without them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator

import torch
from pydantic import Field
from torch import Tensor

from core.metrics.base import Metric, MetricContext, check, register
from core.perturb.imputation import RemovalBaseline, remover
from core.perturb.masks import MASKS_PER_CHUNK
from core.runtime.batching import Chunk
from core.runtime.engine import Run
from core.types import Score

SCATTERED = (
    "Sets of scattered pixels cost a network what no map foretells: the truth scores no better "
    "than noise."
)


class Subsets(Metric):
    """What the members of the family share: random sets of pixels, the same for every map.

    The score is the target's own, a logit unless something else is asked for, and maps are read
    with their signs. The sets are drawn without regard to the map: another map takes no pass.
    """

    samples: int = Field(100, ge=4, le=5000, description="Random sets of pixels")
    baseline: RemovalBaseline = Field("mean", description="What removed pixels become")

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        removed = self.removed(run)  # (n, H, W)
        flat = removed.flatten(1).double()
        given = values.flatten(1).double() @ flat.T  # (B, n)
        lost = (run.score()[:, None] - self._left(run, removed)).double().cpu()
        return self.compare(run, given, lost)

    def _left(self, run: Run, removed: Tensor) -> Tensor:
        """(B, n) the score without each set of pixels."""

        def rows() -> Iterator[Chunk]:
            for image in range(len(run.x)):
                hide = remover(run, image, self.baseline)
                for some in (~removed).to(run.x.device).split(MASKS_PER_CHUNK):
                    yield hide(some), run.owner[image].expand(len(some))

        asked = type(self).__name__, self.asked(), run.seed
        return run.scores(rows(), len(run.x) * len(removed), keep=asked).view(len(run.x), -1)

    def asked(self) -> Hashable:
        """What the sets depend on."""
        return self.model_dump_json()

    @abstractmethod
    def removed(self, run: Run) -> Tensor:
        """(n, H, W) the sets, True where a pixel is removed."""

    @abstractmethod
    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        """Score what maps give to the sets (B, n) against what the score lost (B, n)."""


@register(
    "faithfulness_correlation",
    label="Faithfulness correlation",
    about="Do sets of pixels that the map gives more to cost the score more?",
    higher_is_better=True,
    range=(-1.0, 1.0),
    caveat=SCATTERED,
    paper="arXiv:2005.00631",
)
class FaithfulnessCorrelation(Subsets):
    """Correlation over random sets of one size (Bhatt et al., 2020), with its 95% interval.

    Where one of the two does not vary, as with a map of one single value, it is 0.
    """

    size: float = Field(0.05, ge=0.001, le=0.99, description="Share of the pixels in a set")

    def removed(self, run: Run) -> Tensor:
        return drawn(run, [self.size] * self.samples)

    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        value = correlation(given, lost)
        low, high = fisher(value, self.samples)
        return self.score(run, value, low=low, high=high)


@register(
    "sensitivity_n",
    label="Sensitivity-n",
    about="The same, for sets of every size from few pixels to most?",
    higher_is_better=True,
    range=(-1.0, 1.0),
    caveat=SCATTERED,
    paper="arXiv:1711.06104",
    axes=("share of pixels in a set", "correlation"),
)
class SensitivityN(Subsets):
    """Correlation over random sets of each size, averaged over sizes (Ancona et al., 2018).

    Sizes are spread evenly on a logarithmic scale, and the samples over the sizes.
    """

    sizes: int = Field(5, ge=1, le=20, description="How many sizes, from 1% to 80% of the pixels")
    samples: int = Field(150, ge=4, le=5000, description="Random sets of pixels, of all sizes")

    def shares(self) -> list[float]:
        """The sizes, as shares of the pixels."""
        low, high = math.log(0.01), math.log(0.8)
        steps = max(1, self.sizes - 1)
        return [math.exp(low + (high - low) * i / steps) for i in range(self.sizes)]

    def removed(self, run: Run) -> Tensor:
        each = max(3, self.samples // self.sizes)
        return drawn(run, [share for share in self.shares() for _ in range(each)])

    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        each = given.shape[1] // self.sizes
        pairs = zip(given.split(each, 1), lost.split(each, 1), strict=True)
        curve = torch.stack([correlation(g, o) for g, o in pairs], 1)
        low, high = fisher(curve, each)
        spread = (high - low).square().sum(1).sqrt() / (2 * self.sizes)
        value = curve.mean(1)
        return self.score(
            run,
            value,
            curve_x=torch.tensor(self.shares()),
            curve_y=curve,
            low=(value - spread).clamp_min(-1),
            high=(value + spread).clamp_max(1),
        )


@register(
    "infidelity",
    label="Infidelity",
    about="How wrong is the map about what removing squares costs the score?",
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1901.09392",
)
class Infidelity(Subsets):
    """Mean squared error of the map's forecast over random squares (Yeh et al., 2019).

    The forecast is the map's sum over the square, times the one factor that serves best, so that
    the map's scale does not matter; the error is a share of the mean squared loss itself. 0 is a
    perfect forecast, 1 one that is no better than saying nothing.
    """

    side: float = Field(0.2, ge=0.01, le=0.9, description="Side of a square, share of the picture")

    def removed(self, run: Run) -> Tensor:
        height, width = run.x.shape[2:]
        side = max(1, round(self.side * min(height, width)))
        generator = run.generator()
        tops = torch.randint(height - side + 1, (self.samples,), generator=generator)
        lefts = torch.randint(width - side + 1, (self.samples,), generator=generator)
        down, right = torch.arange(height)[None], torch.arange(width)[None]
        rows = (down >= tops[:, None]) & (down < tops[:, None] + side)
        columns = (right >= lefts[:, None]) & (right < lefts[:, None] + side)
        return rows[:, :, None] & columns[:, None, :]

    def compare(self, run: Run, given: Tensor, lost: Tensor) -> Score:
        return self.score(run, unexplained(given, lost))


def drawn(run: Run, shares: list[float]) -> Tensor:
    """(n, H, W) random sets of pixels, each of its share of the picture."""
    height, width = run.x.shape[2:]
    generator, sets = run.generator(), []
    for share in shares:
        chosen = torch.zeros(height * width, dtype=torch.bool)
        count = max(1, round(share * height * width))
        chosen[torch.randperm(height * width, generator=generator)[:count]] = True
        sets.append(chosen.view(height, width))
    return torch.stack(sets)


def correlation(some: Tensor, others: Tensor) -> Tensor:
    """(B,) Pearson's, of rows (B, n); 0 where one of the two does not vary.

    >>> correlation(torch.tensor([[1.0, 2, 3], [1, 1, 1]]), torch.tensor([[2.0, 4, 6], [1, 2, 3]]))
    tensor([1., 0.])
    """
    a, b = (v.double() - v.double().mean(1, keepdim=True) for v in (some, others))
    sizes = a.norm(dim=1) * b.norm(dim=1)
    floor = 1e-12 * (some.double().norm(dim=1) * others.double().norm(dim=1))
    return torch.where(sizes > floor, (a * b).sum(1) / sizes, 0).clamp(-1, 1).float()


def fisher(found: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The 95% interval of correlations found over `count` samples, by Fisher's transform."""
    if count <= 3:
        return -torch.ones_like(found), torch.ones_like(found)
    z = found.double().clamp(-1 + 1e-12, 1 - 1e-12).atanh()
    half = 1.959964 / math.sqrt(count - 3)
    return (z - half).tanh().float(), (z + half).tanh().float()


def unexplained(given: Tensor, lost: Tensor) -> Tensor:
    """(B,) share of what was lost (B, n), squared, that no multiple of `given` accounts for.

    >>> unexplained(torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[3.0, 6], [1, 1]]))
    tensor([0., 1.])
    """
    size, total = given.square().sum(1), lost.square().sum(1)
    factor = torch.where(size > 0, (given * lost).sum(1) / size, 0)
    error = (lost - factor[:, None] * given).square().sum(1)
    return torch.where(total > 0, error / total, 0).float()
