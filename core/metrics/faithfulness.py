"""What the model still says while pixels go, or come back, in the order a map ranks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from core.errors import TimmscopeError
from core.metrics.base import Metric, MetricContext, check, register
from core.perturb.imputation import RemovalBaseline, remover
from core.perturb.masks import MASKS_PER_CHUNK
from core.runtime.batching import Chunk
from core.runtime.engine import Run
from core.types import Score

REMOVED = "share of pixels removed", "probability"
RESTORED = "share of pixels restored", "probability"
GAINED = "share of pixels removed", "gain in probability"


@dataclass(frozen=True, slots=True)
class RemovalStep:
    """One step of a curve.

    Attributes:
        fraction: of the pixels that have had their turn.
        rows: (B, C, H, W) what the model is shown, in model units.
        outputs: (B, N) what it says of it.
    """

    fraction: float
    rows: Tensor
    outputs: Tensor


class Removal(Metric):
    """What the members of the family share.

    A curve follows the probability of the target (of "A rather than B", the difference of two, from
    -1 to 1) over the fraction of pixels changed; areas are taken by the trapezoid rule. Ties are
    broken at random by the run's seed: a map of one single value is thereby a random ranking.
    Curves that run over the same pictures are one: with the same steps and baseline, deletion,
    insertion and symmetric relevance gain of one map take 2 (steps - 1) rows together, and two rows
    more whatever the number of maps.

    Attributes:
        restores: whether pixels come back one after another, rather than go.
    """

    restores: ClassVar[bool] = False

    steps: int = Field(28, ge=1, le=1000, description="Steps from the first pixel to the last")
    baseline: RemovalBaseline = Field("blur", description="What removed pixels become")

    def deletion(self, run: Run, values: Tensor) -> Tensor:
        """(B, steps + 1) probabilities while the most relevant pixels go."""
        return self._curve(run, values, restored=False)

    def insertion(self, run: Run, values: Tensor) -> Tensor:
        """(B, steps + 1) probabilities while the most relevant pixels come back."""
        return self._curve(run, values, restored=True)

    def fractions(self, values: Tensor) -> Tensor:
        """(steps + 1,) of the pixels that have had their turn."""
        pixels = values[0].numel()
        return torch.tensor(bounds(pixels, self.steps), dtype=torch.float32) / pixels

    def _area(self, run: Run, values: Tensor, curve: Tensor) -> Score:
        x = self.fractions(values)
        return self.score(run, torch.trapezoid(curve, x), curve_x=x, curve_y=curve)

    def step_at(self, run: Run, values: Tensor, step: int) -> RemovalStep:
        """What the model is shown at one step of the curve, and what it says of it.

        Args:
            run: asks about the pictures.
            values: (B, H, W) the maps that rank their pixels.
            step: 0 to `steps`; where the curve is kept, looking at one takes no pass.

        Raises:
            TimmscopeError: there is no such step.
        """
        if step not in range(self.steps + 1):
            raise TimmscopeError(f"no step {step}; steps go from 0 to {self.steps}")
        outputs = self._outputs(run, values, restored=self.restores)[:, step]
        order = ranking(values, run.generator())
        bound = bounds(order.shape[1], self.steps)[step]
        rows = []
        for image in range(len(run.x)):
            shown = self._shown(order[image], [bound], values, restored=self.restores)
            rows.append(remover(run, image, self.baseline)(shown.to(run.x.device)))
        return RemovalStep(bound / order.shape[1], torch.cat(rows), outputs)

    def _curve(self, run: Run, values: Tensor, *, restored: bool) -> Tensor:
        outputs = self._outputs(run, values, restored=restored)
        owner = run.owner.repeat_interleave(outputs.shape[1])
        found = run.target.probability()(outputs.flatten(0, 1), owner)
        return found.view(len(outputs), -1).detach().float().cpu()

    def _outputs(self, run: Run, values: Tensor, *, restored: bool) -> Tensor:
        """(B, steps + 1, N) what the model says at each step."""
        check(values, run.x)
        order = ranking(values, run.generator())
        inner = bounds(order.shape[1], self.steps)[1:-1]
        count = len(run.x)

        def rows() -> Iterator[Chunk]:
            for image in range(count):
                hide = remover(run, image, self.baseline)
                for some in _chunks(inner, MASKS_PER_CHUNK):
                    shown = self._shown(order[image], some, values, restored=restored)
                    yield hide(shown.to(run.x.device)), run.owner[image].expand(len(shown))

        digest = hashlib.sha1(order.numpy().tobytes()).hexdigest()
        asked = self.baseline, run.seed, tuple(inner), restored, digest
        whole, empty = run.outputs()[:, None], self._emptied(run)[:, None]
        between = whole[:, :0]
        if inner:
            _, outputs = run.replies(rows(), count * len(inner), keep=("removal", asked))
            between = outputs.unflatten(0, (count, len(inner)))
        ends = (empty, whole) if restored else (whole, empty)
        return torch.cat([ends[0], between, ends[1]], 1)

    def _shown(
        self, order: Tensor, bounds: Sequence[int], values: Tensor, *, restored: bool
    ) -> Tensor:
        """(n, H, W) True where a picture is shown when its first pixels have had their turn."""
        had = torch.stack([_first(order, bound) for bound in bounds])
        return (had if restored else ~had).view(-1, *values.shape[1:])

    def _emptied(self, run: Run) -> Tensor:
        """(B, N) outputs for the pictures with every pixel removed."""
        nothing = torch.zeros((1, *run.x.shape[2:]), dtype=torch.bool, device=run.x.device)
        rows = (
            (remover(run, i, self.baseline)(nothing), run.owner[i : i + 1])
            for i in range(len(run.x))
        )
        return run.replies(rows, len(run.x), keep=("emptied", self.baseline, run.seed))[1]


@register(
    "deletion",
    label="Deletion",
    about="Does the probability fall quickly when the most relevant pixels go first?",
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1806.07421",
    axes=REMOVED,
)
class Deletion(Removal):
    """Area under the probability while pixels go, the best first (Petsiuk et al., 2018)."""

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        curve = self.deletion(run, values)
        return self._area(run, values, curve)


@register(
    "insertion",
    label="Insertion",
    about="Does the probability rise quickly when the most relevant pixels come first?",
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:1806.07421",
    axes=RESTORED,
)
class Insertion(Removal):
    """Area under the probability while pixels come, the best first (Petsiuk et al., 2018)."""

    restores: ClassVar[bool] = True

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        curve = self.insertion(run, values)
        return self._area(run, values, curve)


class Gain(Removal):
    """How much longer the probability lasts if the least relevant pixels go first.

    The pictures without the least relevant pixels are those with the most relevant ones restored:
    read backwards, insertion is deletion from the other end.
    """

    def gain(self, run: Run, values: Tensor) -> Tensor:
        """(B, steps + 1) least relevant first minus most relevant first."""
        return self.insertion(run, values).flip(1) - self.deletion(run, values)


@register(
    "srg",
    label="Symmetric relevance gain",
    about="Do the pixels it ranks low matter less than those it ranks high?",
    higher_is_better=True,
    range=(-1.0, 1.0),
    paper="arXiv:2401.06654",
    axes=GAINED,
)
class SymmetricRelevanceGain(Gain):
    """Area between the curves of least and most relevant first (Bluecher et al., 2024).

    What the removed pixels become shifts both curves alike, and largely cancels.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        gain = self.gain(run, values)
        return self._area(run, values, gain)


@register(
    "road",
    label="ROAD",
    about="The same, with removed pixels that leave no trace of having been removed?",
    higher_is_better=True,
    range=(-0.5, 0.5),
    paper="arXiv:2202.00449",
    axes=GAINED,
)
class Road(Gain):
    """Half the difference of least and most relevant first, with noisy linear imputation.

    The mean over the steps between nothing and everything (Rong et al., 2022). Imputed pixels
    continue their surroundings, so that the shape of what was removed tells the model little.
    """

    steps: int = Field(10, ge=2, le=100, description="10 removes 10%, 20%, up to 90%")
    baseline: RemovalBaseline = Field("imputation", description="What removed pixels become")

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        gain = self.gain(run, values) / 2
        inner = gain[:, 1:-1].mean(1)
        return self.score(run, inner, curve_x=self.fractions(values), curve_y=gain)


def bounds(pixels: int, steps: int) -> list[int]:
    """How many pixels have had their turn after each step, the same from either end.

    >>> bounds(10, 4), bounds(2, 3)
    ([0, 2, 5, 8, 10], [0, 1, 1, 2])
    """
    half = [round(step * pixels / steps) for step in range(steps // 2 + 1)]
    return half + [pixels - bound for bound in half[: (steps + 1) // 2]][::-1]


def ranking(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pixel indices (B, H*W) from most to least relevant; ties in random order.

    >>> ranking(torch.tensor([[[1.0, 3.0], [2.0, -1.0]]]), torch.Generator().manual_seed(0))
    tensor([[1, 2, 0, 3]])
    """
    flat = values.flatten(1).cpu()
    shuffle = torch.randperm(flat.shape[1], generator=generator)
    return shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]


def _first(order: Tensor, bound: int) -> Tensor:
    return torch.zeros_like(order, dtype=torch.bool).scatter_(0, order[:bound], True)


def _chunks(bounds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(bounds), size):
        yield bounds[start : start + size]
