"""How the score changes while pixels are removed or restored in the order of a map."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from core.errors import TimmscopeError
from core.metrics.base import Category, Metric, MetricContext, check, register
from core.metrics.verdict_rule import Assessment, VerdictRule
from core.perturb.imputation import RemovalBaseline, remover
from core.perturb.masks import MASKS_PER_CHUNK
from core.runtime.batching import Chunk
from core.runtime.noise import NOT_FINITE, UNCHANGED, first_reasons, reasons, score_noise
from core.runtime.run import Run
from core.tasks.outputs import Outputs, joined
from core.types import Score

REMOVED = "share of pixels removed", "probability"
RESTORED = "share of pixels restored", "probability"
GAINED = "share of pixels removed", "difference in probability"


@dataclass(frozen=True, slots=True)
class RemovalStep:
    """One step of a removal curve.

    Attributes:
        fraction: share of the pixels that have been removed or restored, 0 to 1.
        rows: (B, C, H, W) the pictures that the model is shown, in model units.
        outputs: the model's outputs for them.
    """

    fraction: float
    rows: Tensor
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class Curve:
    """A score over the steps of a removal.

    Attributes:
        y: (B, steps + 1) the score.
        noise: (B, steps + 1) how much of it may be rounding.
    """

    y: Tensor
    noise: Tensor

    def reversed(self) -> Curve:
        """The same curve with its last step first."""
        return Curve(self.y.flip(1), self.noise.flip(1))

    def reasons(self) -> tuple[str, ...]:
        """For each image why the curve says nothing; an empty text where it does."""
        spread = self.y.amax(1) - self.y.amin(1)
        broken = reasons(~spread.isfinite(), NOT_FINITE)
        return first_reasons(broken, reasons(spread <= 2 * self.noise.amax(1), UNCHANGED))


class RemovalCurve(Metric):
    """Base of the metrics that remove or restore pixels step by step.

    The curve is the probability of the target over the share of pixels changed; for "A instead of
    B" it is the difference of two probabilities, from -1 to 1. Where a score has no probability
    (the numbers of a regression, a function of the caller) it is the share of the score: 1 for the
    whole picture and 0 for the picture with every pixel removed. Areas follow the trapezoid rule.
    Pixels of equal value are ordered at random by the run's seed, so a constant map is a random
    order. Where the curve is flat but for rounding errors, no order of pixels is better than
    another, and `cannot_tell` says so. Model outputs are kept and shared: with the same steps and
    baseline, deletion, insertion and symmetric relevance gain of one map take 2 (steps - 1) rows
    together, and two more rows for any number of maps.

    Attributes:
        restores: whether pixels are restored rather than removed.
    """

    restores: ClassVar[bool] = False

    steps: int = Field(28, ge=1, le=1000, description="Number of steps, from no pixel to all")
    # Deletion, insertion and symmetric relevance gain share their passes, hence this baseline.
    baseline: RemovalBaseline = Field("blur", description="What replaces removed pixels")

    def deletion(self, run: Run, values: Tensor) -> Curve:
        """The probability while pixels are removed, the most relevant first."""
        return self._curve(run, values, restored=False)

    def insertion(self, run: Run, values: Tensor) -> Curve:
        """The probability while pixels are restored, the most relevant first."""
        return self._curve(run, values, restored=True)

    def fractions(self, values: Tensor) -> Tensor:
        """(steps + 1,) the share of pixels changed at each step, 0 to 1."""
        pixels = values[0].numel()
        return torch.tensor(bounds(pixels, self.steps), dtype=torch.float32) / pixels

    def _area(self, run: Run, values: Tensor, curve: Curve, *parts: Curve) -> Score:
        """The area under a curve, which says nothing if none of its `parts` does."""
        x = self.fractions(values)
        return self.score(
            run,
            torch.trapezoid(curve.y, x),
            curve_x=x,
            curve_y=curve.y,
            noise=torch.trapezoid(curve.noise, x),
            cannot_tell=flat(*(parts or (curve,))),
        )

    def step_at(self, run: Run, values: Tensor, step: int) -> RemovalStep:
        """The pictures at one step of the curve, and the model's outputs for them.

        Args:
            run: the pictures and the model.
            values: (B, H, W) the maps whose values order the pixels.
            step: 0 to `steps`. If the curve was measured and is still kept, no pass is made.

        Raises:
            TimmscopeError: there is no such step.
        """
        if step not in range(self.steps + 1):
            raise TimmscopeError(f"no step {step}; steps go from 0 to {self.steps}")
        outputs = self._outputs(run, values, restored=self.restores)
        images = torch.arange(len(run.x)) * (self.steps + 1) + step
        order = ranking(values, run.generator())
        bound = bounds(order.shape[1], self.steps)[step]
        rows = []
        for image in range(len(run.x)):
            shown = self._shown(order[image], [bound], values, restored=self.restores)
            rows.append(remover(run, image, self.baseline)(shown.to(run.x.device)))
        return RemovalStep(bound / order.shape[1], torch.cat(rows), outputs.select(images))

    def _curve(self, run: Run, values: Tensor, *, restored: bool) -> Curve:
        outputs = self._outputs(run, values, restored=restored)
        owner, shape = run.owner.repeat_interleave(self.steps + 1), (len(run.x), self.steps + 1)
        bounded = run.target.bounded()
        target = bounded or run.target
        found = target(outputs, owner).detach().float().cpu().view(shape)
        noise = score_noise(run, target, outputs, owner, scale=1.0 if bounded else 0.0).view(shape)
        if bounded is not None:
            return Curve(found, noise)
        first, last = found[:, [0]], found[:, [-1]]
        ends = (last, first) if restored else (first, last)
        return _share(Curve(found, noise), *ends)

    def _outputs(self, run: Run, values: Tensor, *, restored: bool) -> Outputs:
        """The model's outputs at each step, image by image: B times steps + 1 rows."""
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
        ends = (self._emptied(run), run.outputs())
        parts = list(ends if restored else ends[::-1])
        if inner:
            parts.append(run.replies(rows(), count * len(inner), keep=("removal", asked))[1])
        image = torch.arange(count)[:, None]
        between = 2 * count + image * len(inner) + torch.arange(len(inner))
        return joined(parts).select(torch.cat([image, between, count + image], 1).flatten())

    def _shown(
        self, order: Tensor, bounds: Sequence[int], values: Tensor, *, restored: bool
    ) -> Tensor:
        """(n, H, W) True where the picture is shown after each number of pixels in `bounds`."""
        had = torch.stack([_first(order, bound) for bound in bounds])
        return (had if restored else ~had).view(-1, *values.shape[1:])

    def _emptied(self, run: Run) -> Outputs:
        """Outputs for the pictures with every pixel removed."""
        nothing = torch.zeros((1, *run.x.shape[2:]), dtype=torch.bool, device=run.x.device)
        rows = (
            (remover(run, i, self.baseline)(nothing), run.owner[i : i + 1])
            for i in range(len(run.x))
        )
        return run.replies(rows, len(run.x), keep=("emptied", self.baseline, run.seed))[1]


@register(
    "deletion",
    label="Deletion",
    about="Does the probability fall fast when the highlighted pixels are removed?",
    category=Category.FAITHFULNESS,
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1806.07421",
    axes=REMOVED,
)
class Deletion(RemovalCurve):
    """Area under the probability while the top pixels are removed first (Petsiuk et al., 2018)."""

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        curve = self.deletion(run, values)
        return self._area(run, values, curve)


@register(
    "insertion",
    label="Insertion",
    about="Does the probability rise fast when the highlighted pixels are restored?",
    category=Category.FAITHFULNESS,
    higher_is_better=True,
    range=(0.0, 1.0),
    paper="arXiv:1806.07421",
    axes=RESTORED,
)
class Insertion(RemovalCurve):
    """Area under the probability while the top pixels are restored first (Petsiuk et al., 2018)."""

    restores: ClassVar[bool] = True

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        curve = self.insertion(run, values)
        return self._area(run, values, curve)


class Gain(RemovalCurve):
    """Base of the metrics that compare removing the least with removing the most relevant first.

    A picture without its least relevant pixels is one whose most relevant pixels are restored, so
    the curve for "least relevant first" is the insertion curve read backwards.
    """

    def gain(self, run: Run, values: Tensor) -> tuple[Curve, Curve, Curve]:
        """The curve for least relevant first minus that for most relevant first, and these two."""
        last, first = self.insertion(run, values).reversed(), self.deletion(run, values)
        return Curve(last.y - first.y, last.noise + first.noise), last, first


def _assess_gain(value: float, controls: Mapping[str, float]) -> Assessment:
    """What a gain means: it must exceed 0 and the gain of every control."""
    if not controls:
        return Assessment("doubtful", "There is no control to compare it with.")
    best = max(controls, key=lambda name: controls[name])
    if value <= controls.get("random", 0.0) or value <= 0:
        return Assessment("bad", "The pixels it highlights matter no more than random ones.")
    if value <= controls[best]:
        words = f"The control {best} finds important pixels at least as well."
        return Assessment("doubtful", words)
    return Assessment("good", "It finds important pixels better than every control.")


@register(
    "srg",
    label="Symmetric relevance gain",
    about="Do the highlighted pixels matter more?",
    category=Category.FAITHFULNESS,
    higher_is_better=True,
    range=(-1.0, 1.0),
    paper="arXiv:2401.06654",
    axes=GAINED,
    verdict=VerdictRule(
        priority=10,
        assess=_assess_gain,
        uses_controls=True,
        if_bad="Do not rely on this map: maps that ignore the model score as well.",
    ),
)
class SymmetricRelevanceGain(Gain):
    """Area between the curves of least and most relevant first (Bluecher et al., 2024).

    The choice of what replaces removed pixels shifts both curves alike, and so largely cancels out.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        return self._area(run, values, *self.gain(run, values))


@register(
    "road",
    label="ROAD",
    about="Do the highlighted pixels matter more, if removal leaves no visible edges?",
    category=Category.FAITHFULNESS,
    higher_is_better=True,
    range=(-0.5, 0.5),
    paper="arXiv:2202.00449",
    axes=GAINED,
)
class Road(Gain):
    """Half the difference of least and most relevant first, with noisy linear imputation.

    The mean over the steps between no pixel and all (Rong et al., 2022). Imputed pixels continue
    their surroundings, so the shape of the removed region tells the model little.
    """

    steps: int = Field(
        10, ge=2, le=100, description="Number of steps; 10 removes 10%, 20%, up to 90%"
    )
    baseline: RemovalBaseline = Field("imputation", description="What replaces removed pixels")

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        gain, *parts = self.gain(run, values)
        return self.score(
            run,
            gain.y[:, 1:-1].mean(1) / 2,
            curve_x=self.fractions(values),
            curve_y=gain.y / 2,
            noise=gain.noise[:, 1:-1].mean(1) / 2,
            cannot_tell=flat(*parts),
        )


def flat(*curves: Curve) -> tuple[str, ...]:
    """For each image why none of some curves says anything; an empty text where one does."""
    found = zip(*(curve.reasons() for curve in curves), strict=True)
    return tuple(each[0] if all(each) else "" for each in found)


def bounds(pixels: int, steps: int) -> list[int]:
    """The number of pixels changed after each of `steps` steps; symmetric, for either direction.

    >>> bounds(10, 4), bounds(2, 3)
    ([0, 2, 5, 8, 10], [0, 1, 1, 2])
    """
    half = [round(step * pixels / steps) for step in range(steps // 2 + 1)]
    return half + [pixels - bound for bound in half[: (steps + 1) // 2]][::-1]


def ranking(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pixel indices (B, H*W) of maps (B, H, W), the largest value first; ties in random order.

    >>> ranking(torch.tensor([[[1.0, 3.0], [2.0, -1.0]]]), torch.Generator().manual_seed(0))
    tensor([[1, 2, 0, 3]])
    """
    flat = values.flatten(1).cpu()
    shuffle = torch.randperm(flat.shape[1], generator=generator)
    return shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]


def _share(curve: Curve, whole: Tensor, empty: Tensor) -> Curve:
    """A curve of scores as shares of what the picture makes of them.

    Where removing the picture changes the score no more than rounding does, the share is 0 at every
    step, so that the curve says that it cannot tell.

    Args:
        curve: the scores.
        whole: (B, 1) those of the whole pictures.
        empty: (B, 1) those of the pictures with every pixel removed.
    """
    change = whole - empty
    lost = change.abs() <= 2 * curve.noise.amax(1, keepdim=True)
    change = torch.where(lost, 1.0, change)
    share = torch.where(lost, 0.0, (curve.y - empty) / change)
    return Curve(share, torch.where(lost, 1.0, curve.noise / change.abs()))


def _first(order: Tensor, bound: int) -> Tensor:
    return torch.zeros_like(order, dtype=torch.bool).scatter_(0, order[:bound], True)


def _chunks(bounds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(bounds), size):
        yield bounds[start : start + size]
