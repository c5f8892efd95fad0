"""Judge: what there is to ask of explanations once they are there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.errors import NotApplicableError, TimmscopeError
from core.evaluation.agreement import Agreement, agreement
from core.evaluation.recommendation import Candidate, Recommendation, recommend
from core.evaluation.verdict import AGAIN, MAX_ROWS, QUESTIONS, SANITY, Verdict, verdict
from core.inputs.batch import InputBatch, OnProgress, PictureLike, to_input_size
from core.methods.base import METHODS, Method
from core.metrics.base import METRICS, Metric, MetricInput
from core.metrics.localisation_grid import OTHERS
from core.models.handle import ModelHandle
from core.runtime.batching import joint_progress
from core.tasks.base import TargetLike
from core.types import Attribution, Cost, PercentileRank, Prediction, Score

WAYS: tuple[dict[str, object], ...] = (
    {"baseline": "blur"},
    {"baseline": "mean"},
    {"baseline": "black"},
)
"""How pixels are removed when methods are ranked, in turn."""
STEPS = 14
"""Steps of the curves by which methods are ranked."""
WHOLE = 100
"""Parts that progress counts for each of several maps."""


class Evaluator(ABC):
    """Asks metrics of explanations, and says what the answers mean.

    `core.explainer.Explainer` is one; it gives the explanations and the single scores.

    Attributes:
        model: the model explained.
    """

    model: ModelHandle

    @abstractmethod
    def prepare(
        self, pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike]
    ) -> InputBatch:
        """Decode and preprocess one or several pictures."""

    @abstractmethod
    def predict(
        self, pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike]
    ) -> Prediction:
        """What the model says of each picture."""

    @abstractmethod
    def explain(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        method: str | Method = "gradcam",
        **question: Any,
    ) -> Attribution:
        """Which pixels made the model say so."""

    @abstractmethod
    def measure(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        values: Attribution | Tensor,
        metric: str | Metric = "deletion",
        **question: Any,
    ) -> Score:
        """Ask a question of an explanation."""

    @abstractmethod
    def rows(self, method: Method, layer: str | None) -> int:
        """The rows that progress counts for one image."""

    def controls(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        metric: str | Metric = "deletion",
        *,
        target: TargetLike = None,
        ground_truth: Tensor | None = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **params: object,
    ) -> dict[str, Score]:
        """What a metric says of the maps that know nothing of the model, by method key.

        A score means something only beside these.
        """
        instance, batch = METRICS.make(metric, params), self.prepare(pictures)
        keys = [key for key, cls in METHODS.items() if cls.family == "control"]
        return {
            key: self.measure(
                batch,
                self.explain(batch, key, target=target, seed=seed, on_progress=on_progress),
                instance,
                target=target,
                ground_truth=ground_truth,
                seed=seed,
                on_progress=on_progress,
            )
            for key in keys
        }

    def agreement(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        answers: Mapping[str, Attribution],
        image: int = 0,
    ) -> Agreement:
        """How far methods agree on one of the pictures, and where they do not.

        Args:
            pictures: the pictures explained.
            answers: attributions by method key.
            image: which picture.
        """
        x = self.prepare(pictures).x
        return agreement({key: to_input_size(a.values, x)[image] for key, a in answers.items()})

    def percentile_rank(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        values: Attribution | Tensor,
        metric: str | Metric = "srg",
        *,
        maps: int = 100,
        target: TargetLike = None,
        ground_truth: Tensor | None = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **params: object,
    ) -> PercentileRank:
        """Where a map stands among random ones on the same grid, by one metric.

        Each random map takes the metric's passes anew, unless the metric takes none for another
        map.

        Args:
            pictures: the pictures explained.
            values: their maps: an attribution, or a tensor (B, h, w).
            metric: a metric's key, or a `Metric`; it must not ask the method again.
            maps: how many random maps.
            target: what was explained; by default each picture's predicted class.
            ground_truth: where the evidence is, for metrics that need it.
            seed: where random draws start.
            on_progress: told of parts done and expected, a hundred for each map.
            **params: the metric's parameters.

        Raises:
            NotApplicableError: the metric asks the method again, and a random map has none.
        """
        instance, batch = METRICS.make(metric, params), self.prepare(pictures)
        if MetricInput.METHOD in instance.needs:
            raise NotApplicableError(
                f"{instance.label} asks the method again, and a random map has none; choose "
                "another metric"
            )
        question = {"target": target, "ground_truth": ground_truth, "seed": seed}
        if maps < 1:
            raise TimmscopeError(f"a map cannot stand among {maps} others; give at least 1")
        own = self.measure(batch, values, instance, **question)
        grid = values.values if isinstance(values, Attribution) else values
        generator = torch.Generator().manual_seed(seed % 2**63)
        found = []
        for told in joint_progress(on_progress, [WHOLE] * maps):
            noise = torch.rand(grid.shape[1:], generator=generator).expand_as(grid)
            found.append(
                self.measure(batch, noise, instance, on_progress=_parts(told), **question).value
            )
            told(WHOLE, WHOLE)
        return PercentileRank.among(
            own, torch.stack(found), higher_is_better=instance.higher_is_better
        )

    def sanity_checks(
        self,
        method: str | Method = "gradcam",
        *,
        layer: str | None = None,
        metrics: Sequence[str] = SANITY,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **params: object,
    ) -> dict[str, Score]:
        """Whether a method's maps depend on what this model has learnt, and on what is asked.

        Asked of the sample pictures that the model is surest of, and so the same for every picture:
        found out once for a method and a model, and kept.

        Args:
            method: a method's key, or a `Method`.
            layer: where it looks; by default the model's own choice.
            metrics: what is asked of it.
            seed: where random draws start.
            on_progress: told of rows done and expected, of each metric in turn.
            **params: the method's parameters.

        Returns:
            By metric key the score of each sample picture.
        """
        samples = self.prepare(self.model.samples)
        sure = self.predict(samples).probabilities.amax(1).topk(OTHERS).indices
        batch = self.prepare(samples.x[sure.to(samples.x.device)])
        target = self.predict(batch).logits.argmax(1).tolist()
        question: dict[str, Any] = {"target": target, "seed": seed, "on_progress": on_progress}
        answer = self.explain(batch, METHODS.make(method, params), layer=layer, **question)
        return {key: self.measure(batch, answer, key, **question) for key in metrics}

    def verdict(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        answer: Attribution,
        *,
        target: TargetLike = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> list[Verdict]:
        """Whether each picture's map deserves trust: faithful, stable, complete, and sane.

        Whether the method is sane on this model is asked of the sample pictures, see `sanity`, the
        rest of the map itself.

        Args:
            pictures: the pictures explained.
            answer: their maps.
            target: what was explained; by default each picture's predicted class.
            seed: where random draws start.
            on_progress: told of rows done and expected, of each metric in turn.
        """
        batch, method = self.prepare(pictures), METHODS.make(answer.method, answer.params)
        asked: dict[str, Any] = {"target": target, "seed": seed, "on_progress": on_progress}
        scores: dict[str, Score] = {}
        unanswered: dict[str, str] = {}
        rows = self.rows(method, answer.layer)
        for key in QUESTIONS:
            if AGAIN.get(key, 0) * rows > MAX_ROWS:
                unanswered[key] = f"it takes {AGAIN[key]} x {rows} rows; ask for it by itself"
                continue
            try:
                if key in SANITY:
                    scores[key] = self._usual(
                        key, len(batch.x), method, answer.layer, seed, on_progress
                    )
                else:
                    scores[key] = self.measure(batch, answer, key, **asked)
            except NotApplicableError as reason:
                unanswered[key] = str(reason)
        beside = {"srg": self.controls(batch, "srg", **asked)}
        return [verdict(scores, beside, unanswered, image) for image in range(len(batch.x))]

    def _usual(
        self,
        key: str,
        images: int,
        method: Method,
        layer: str | None,
        seed: int,
        on_progress: OnProgress | None,
    ) -> Score:
        """What a metric of sanity says of the method on this model, the same for each image."""
        asked: dict[str, Any] = {"layer": layer, "seed": seed, "on_progress": on_progress}
        found = self.sanity_checks(method, metrics=[key], **asked)[key]
        return replace(found, value=found.value.mean().expand(images), curve_x=None, curve_y=None)

    def recommend(
        self,
        pictures: PictureLike | Tensor | InputBatch,
        answers: Mapping[str, Attribution],
        *,
        target: TargetLike = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Recommendation:
        """Which of several methods to take for one picture, and why.

        Methods are ranked by the mean of their symmetric relevance gain over three ways of removing
        pixels; see `core.evaluation.recommendation`.

        Args:
            pictures: the picture explained.
            answers: attributions by method key, all of the same target; controls do not contend.
            target: what was explained; by default the predicted class.
            seed: where random draws start.
            on_progress: told of parts done and expected, a hundred for each map measured.

        Raises:
            NotApplicableError: there is no method among them.
        """
        batch = self.prepare(pictures)
        if len(batch.x) != 1:
            raise NotApplicableError(
                f"a recommendation is about one picture, not {len(batch.x)}; evaluate ranks "
                "methods over many"
            )
        controls = [key for key, cls in METHODS.items() if cls.family == "control"]
        methods = [key for key in answers if key not in controls]
        if not methods:
            raise NotApplicableError("there is no method to recommend; give at least one")
        question: dict[str, Any] = {"target": target, "seed": seed}
        maps = {key: answers[key] for key in methods}
        maps |= {key: self.explain(batch, key, **question) for key in controls}
        turns = joint_progress(on_progress, [WHOLE] * (len(maps) * len(WAYS)))
        gains: dict[str, list[float]] = {key: [] for key in maps}
        for way in WAYS:
            for key, answer in maps.items():
                told = next(turns)
                asked = {**question, **way, "on_progress": _parts(told)}
                score = self.measure(batch, answer, "srg", steps=STEPS, **asked)
                gains[key].append(float(score.value[0]))
                told(WHOLE, WHOLE)
        return recommend(
            [Candidate(key, gains[key], self._work(answers[key])) for key in methods],
            {key: gains[key] for key in controls},
            {key: METHODS[key].label for key in maps},
        )

    def _work(self, answer: Attribution) -> Cost:
        """What a map takes where nothing is known yet."""
        return METHODS.make(answer.method, answer.params).estimate_cost(self.model, answer.layer)


def _parts(told: OnProgress) -> OnProgress:
    """Progress in rows, told on in parts of a whole that never grow fewer."""
    most = 0

    def tell(done: int, expected: int) -> None:
        nonlocal most
        most = max(most, WHOLE * done // max(1, expected))
        told(most, WHOLE)

    return tell
