"""Explainer: look at an image once, ask many things of it."""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.analysis.features import FeatureMaps, Order, attention_heads, feature_maps
from core.errors import FAULTS, CancelledError, NotApplicableError, TimmscopeError, UnknownNameError
from core.evaluation.evaluator import Evaluator
from core.inputs.batch import InputBatch, OnProgress, PictureLike, to_input_size
from core.inputs.ground_truth import Box, ground_truth_of, on_input
from core.inputs.image import open_picture
from core.methods.base import METHODS, Method
from core.metrics.base import METRICS, Metric, MetricContext, MetricInput, Reattribute
from core.metrics.faithfulness import Removal
from core.models.handle import ModelHandle
from core.models.load import DEFAULT_MODEL, load_model
from core.runtime import capture
from core.runtime.batching import Progress, in_turn
from core.runtime.cache import Cache, CacheScope
from core.runtime.engine import Run
from core.tasks.base import Target, TargetLike
from core.tasks.classification import ClassLogit, parse_target
from core.types import Attribution, Need, Prediction, Score

logger = logging.getLogger(__name__)

LACKING = {
    MetricInput.GROUND_TRUTH: "needs to know where the evidence is; give a mask as truth",
    MetricInput.METHOD: "asks the method again; give its attribution, not the map alone",
}
"""What is missing where a metric cannot be measured."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several methods' answers to one question.

    Attributes:
        results: the attribution of each method that could answer, in the order asked.
        errors: for each other method, the reason.
    """

    results: Mapping[str, Attribution]
    errors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CurveStep:
    """One step of a removal curve.

    Attributes:
        fraction: of the pixels that have had their turn.
        pixels: (B, C, H, W) what the model was shown, in pixel values from 0 to 1.
        prediction: what it said.
    """

    fraction: float
    pixels: Tensor
    prediction: Prediction


class Explainer(Evaluator):
    """Answers questions about one model.

    Args:
        model: a `ModelHandle`, or anything `load_model` takes.
        cache: where answers are kept; by default a new one of 256 MiB.

    >>> from core import sample_picture
    >>> explainer = Explainer()
    >>> explainer.predict(sample_picture("coffee")).top(1)[0][1]
    'espresso'
    >>> explainer.explain(sample_picture("coffee"), "gradcam").values.shape
    torch.Size([1, 7, 7])
    """

    def __init__(
        self,
        model: ModelHandle | nn.Module | str | Path = DEFAULT_MODEL,
        *,
        cache: Cache | None = None,
    ) -> None:
        self.model = model if isinstance(model, ModelHandle) else load_model(model)
        self.cache = cache or Cache()

    def prepare(
        self, pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike]
    ) -> InputBatch:
        """Decode and preprocess one or several pictures.

        Args:
            pictures: a file, bytes, a PIL image, an array, a list of these; or a tensor
                (C, H, W) or (B, C, H, W) that is in model units already.

        Raises:
            PictureError: a picture cannot be read.
        """
        if isinstance(pictures, InputBatch):
            if pictures.preprocessing == self.model.preprocessing:
                return pictures if pictures.x.device == self.model.device else self._moved(pictures)
            if not pictures.pictures:
                raise TimmscopeError(
                    f"this look was prepared for another model than {self.model.name}; look again"
                )
            pictures = pictures.pictures
        with capture.plain(self.model.device):
            if isinstance(pictures, Tensor):
                return self._prepare_tensor(pictures)
            return self._prepare_pictures(pictures)

    def _moved(self, batch: InputBatch) -> InputBatch:
        return replace(batch, x=batch.x.to(self.model.device, self.model.dtype))

    def _prepare_pictures(self, pictures: PictureLike | Sequence[PictureLike]) -> InputBatch:
        handle = self.model
        several = (
            list(pictures)
            if isinstance(pictures, Sequence) and not isinstance(pictures, str | bytes)
            else [pictures]
        )
        opened = tuple(open_picture(picture) for picture in several)
        if not opened:
            raise TimmscopeError("no picture given; give at least one")
        pairs = [handle.preprocessing(picture.image) for picture in opened]
        x = torch.stack([pixels for pixels, _ in pairs]).to(handle.device, handle.dtype)
        digest = " ".join(picture.digest for picture in opened)
        geometries = tuple(geometry for _, geometry in pairs)
        return InputBatch(x, digest, handle.preprocessing, opened, geometries)

    def _prepare_tensor(self, x: Tensor) -> InputBatch:
        size = self.model.preprocessing.input_size
        given, x = tuple(x.shape), x[None] if x.ndim == 3 else x
        if x.shape[1:] != size or not len(x):
            raise TimmscopeError(
                f"a tensor of shape {given} is not a batch of images for {self.model.name}; "
                f"give (B, {', '.join(map(str, size))})"
            )
        x = x.detach().clone().to(self.model.device, self.model.dtype)
        return InputBatch(x, _hash(x), self.model.preprocessing)

    def predict(
        self, pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike]
    ) -> Prediction:
        """What the model says of each picture; one forward pass, the first time."""
        run = self._run(self.prepare(pictures), None, None, 0, None)
        with capture.plain(self.model.device):
            return Prediction(
                run.outputs().cpu().clone(), self.model.labels, features=self.model.features
            )

    def target(self, target: TargetLike, images: int = 1) -> Target | None:
        """A checked target from a label, an index, "A-B", or a target; None stays None.

        Raises:
            UnknownNameError: it does not exist in this model.
        """
        if target is None:
            return None
        if not isinstance(target, Target):
            target = self._parsed(target)
        target.check(self.model.outputs, images, self.model.name)
        return target

    def _parsed(self, target: object) -> Target:
        """A target from a label, a whole number of any kind, or one of these for each image."""
        if isinstance(target, (list, tuple)) and target:
            each = [self._parsed(one) for one in target]
            if all(isinstance(one, ClassLogit) for one in each):
                return ClassLogit(tuple(one.of(0) for one in each if isinstance(one, ClassLogit)))
        elif isinstance(target, str):
            return parse_target(target, self.model.labels, self.model.name)
        elif not isinstance(target, bool):
            with suppress(TypeError):
                return ClassLogit(operator.index(target))  # type: ignore[arg-type]
        raise UnknownNameError(
            f"{str(target)[:80]!r} is no target; give a class's number or label, one for each "
            "image, or 'A-B'"
        )

    def explain(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        method: str | Method = "gradcam",
        *,
        target: TargetLike = None,
        layer: str | None = None,
        extra_layers: Sequence[str] = (),
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **params: object,
    ) -> Attribution:
        """Which pixels made the model say so.

        Args:
            pictures: one or several pictures; see `look`.
            method: a method's key, or a `Method`.
            target: what to explain: a class index or label, "A-B" for A rather than B, or a
                `Target`; by default each picture's predicted class.
            layer: where a CAM or attention method looks; by default the model's own choice.
            extra_layers: layers to capture in the same pass, so that asking for them later costs
                nothing.
            seed: where random draws start.
            on_progress: told of rows done and expected.
            **params: the method's parameters.

        Returns:
            The attribution; a repeated question is answered from the cache.

        Raises:
            UnknownNameError: no such method, parameter, layer or class.
            NotApplicableError: the model cannot be explained that way; the message is the reason.
            PictureError: a picture cannot be read.
        """
        instance = METHODS.make(method, params)
        batch = self.prepare(pictures)
        asked = self.target(target, len(batch.x))
        layer = self._layer_for(instance, layer)
        run = self._run(batch, asked, layer, seed, on_progress, extra_layers)
        question = "explain", instance.key, instance.model_dump_json(), run.asked, layer, seed
        kept = run.cache_scope.get_or_compute(question, lambda: self._attribute(instance, run))
        return copy.deepcopy(kept)  # the caller may write into it

    def compare(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        methods: Sequence[str | Method] = (
            "gradcam",
            "layercam",
            "integrated_gradients",
            "occlusion",
        ),
        *,
        params: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
        on_progress: OnProgress | None = None,
        **question: Any,
    ) -> Comparison:
        """Several methods on one question; one that fails never keeps the others from answering.

        Args:
            pictures: see `explain`.
            methods: keys or instances.
            params: parameters by method key.
            on_progress: told of rows done and expected, of all methods together.
            **question: `target`, `layer`, `seed` as for `explain`. A layer concerns the methods
                that can look there, the others look where they would.

        Raises:
            UnknownNameError: no such method, layer or class.
            PictureError: a picture cannot be read.
        """
        batch = self.prepare(pictures)
        layer = question.pop("layer", None)
        given = {METHODS[key].key: values for key, values in params.items()}
        asked = {(METHODS[m] if isinstance(m, str) else m).key: m for m in methods}
        if layer is not None and layer not in {*self.model.layers, *self.model.attention_layers}:
            self.model.resolve_layer([Need.LAYER], layer)
        self.target(question.get("target"), len(batch.x))
        results: dict[str, Attribution] = {}
        errors: dict[str, str] = {}
        made: dict[str, Method] = {}
        for key, method in asked.items():
            try:
                made[key] = METHODS.make(method, given.get(key))
            except TimmscopeError as error:
                errors[key] = str(error)
        rows = [len(batch.x) * self.rows(instance, layer) for instance in made.values()]
        for (key, instance), told in zip(made.items(), in_turn(on_progress, rows), strict=True):
            try:
                results[key] = self.explain(
                    batch,
                    instance,
                    layer=self._suitable(instance, layer),
                    on_progress=told,
                    **question,
                )
            except CancelledError:
                raise
            except FAULTS as error:
                logger.info("%s failed on %s", key, self.model.name, exc_info=True)
                errors[key] = str(error).partition("\n")[0]
        return Comparison(results, errors)

    def measure(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        values: Attribution | Tensor,
        metric: str | Metric = "deletion",
        *,
        target: TargetLike = None,
        ground_truth: Tensor | None = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **params: object,
    ) -> Score:
        """Ask a question of an explanation.

        Args:
            pictures: the pictures explained.
            values: their maps: an attribution, or a tensor (B, h, w).
            metric: a metric's key, or a `Metric`.
            target: what was explained; by default each picture's predicted class.
            ground_truth: for metrics that need it, (B, H, W) True where the evidence is, in the
                pixels of the model's input.
            seed: where random draws start.
            on_progress: told of rows done and expected.
            **params: the metric's parameters.
        """
        instance = METRICS.make(metric, params)
        batch = self.prepare(pictures)
        answer = values if isinstance(values, Attribution) else None
        layer = answer.layer if answer is not None else None
        run = self._run(batch, self.target(target, len(batch.x)), layer, seed, on_progress)
        if answer is not None and answer.target not in ("", run.target.key):
            raise TimmscopeError(
                f"the map explains {answer.target}, not {run.target.key}; "
                "pass the target that it explains"
            )
        maps = to_input_size(values.values if isinstance(values, Attribution) else values, batch.x)
        context = MetricContext(ground_truth, answer, None if answer is None else _again(answer))
        for given in sorted(instance.needs):
            if not context.has(given):
                raise NotApplicableError(f"{instance.label} {LACKING[given]}")
        asker = None if answer is None else (answer.method, str(answer.params), layer)
        question = (
            "measure",
            instance.key,
            instance.model_dump_json(),
            run.asked,
            seed,
            _hash(maps),
            asker if MetricInput.METHOD in instance.needs else None,
            _hash(ground_truth)
            if ground_truth is not None and MetricInput.GROUND_TRUTH in instance.needs
            else None,
        )
        with capture.plain(self.model.device):
            kept = run.cache_scope.get_or_compute(
                question, lambda: instance.measure(run, maps, context)
            )
        return copy.deepcopy(kept)

    def ground_truth(
        self,
        pictures: PictureLike | InputBatch | Sequence[PictureLike],
        source: str | Path | Sequence[Box] | NDArray[np.bool_],
        *,
        label: str | None = None,
    ) -> Tensor:
        """Where the evidence is, as `measure` takes it: (B, H, W) in the model's input.

        Args:
            pictures: the pictures.
            source: for each of them the same: a file (see `read_ground_truth` in
                `core.inputs.ground_truth`), a box as "left,top,right,bottom", a list of boxes,
                or a mask; in pixels of the picture.
            label: of a file, only objects of this class.

        Raises:
            TimmscopeError: it cannot be read, does not fit, or marks nothing that the model sees.
        """
        batch = self.prepare(pictures)
        if not batch.pictures:
            raise TimmscopeError("tensors are no pictures; give a mask over them as truth itself")
        masks = [
            on_input(ground_truth_of(source, geometry.picture, picture.name, label), geometry)
            for picture, geometry in zip(batch.pictures, batch.geometries, strict=True)
        ]
        return torch.stack(masks)

    def curve_step(
        self,
        pictures: PictureLike | Tensor | InputBatch | Sequence[PictureLike],
        values: Attribution | Tensor,
        metric: str | Metric = "deletion",
        *,
        step: int,
        seed: int = 0,
        **params: object,
    ) -> CurveStep:
        """What the model was shown at one step of a removal curve, and what it said.

        Where the curve has been measured and is still kept, it takes no pass.

        Args:
            pictures: the pictures explained.
            values: their maps.
            metric: the key of a metric that removes or restores pixels, or such a `Metric`.
            step: from 0, before the first pixel's turn, to the metric's `steps`, after the last.
            seed: where random draws start.
            **params: the metric's parameters.

        Raises:
            NotApplicableError: the metric follows no such curve.
            TimmscopeError: there is no such step.
        """
        instance, batch = METRICS.make(metric, params), self.prepare(pictures)
        if not isinstance(instance, Removal):
            raise NotApplicableError(
                f"{instance.label} does not remove pixels step by step; choose deletion or "
                "insertion"
            )
        maps = values.values if isinstance(values, Attribution) else values
        run = self._run(batch, None, None, seed, None)
        with capture.plain(self.model.device):
            found = instance.step_at(run, to_input_size(maps, batch.x), step)
            said = Prediction(
                found.outputs.cpu().clone(), self.model.labels, features=self.model.features
            )
            return CurveStep(found.fraction, self.model.to_pixels(found.rows).cpu(), said)

    def features(
        self,
        picture: PictureLike | Tensor | InputBatch,
        *,
        layer: str | None = None,
        top: int = 16,
        by: Order = "activation",
        on_progress: OnProgress | None = None,
    ) -> FeatureMaps:
        """What the channels of a layer respond to in one picture.

        Args:
            picture: see `look`.
            layer: by default where CAM methods look.
            top: how many channels.
            by: rank channels by mean "activation" or by spatial "variance".
            on_progress: told of rows done and expected.
        """
        run = self._run_at(picture, Need.LAYER, layer, on_progress)
        with capture.plain(self.model.device):
            return feature_maps(run, top, by)

    def attention(
        self,
        picture: PictureLike | Tensor | InputBatch,
        *,
        layer: str | None = None,
        query: str = "auto",
        on_progress: OnProgress | None = None,
    ) -> Tensor:
        """(heads, h, w) where each head of a layer looks; see the `attention` method."""
        run = self._run_at(picture, Need.ATTENTION, layer, on_progress)
        with capture.plain(self.model.device):
            return attention_heads(run, query)

    # -- how ------------------------------------------------------------------------------------
    def _layer_for(self, method: Method, layer: str | None) -> str | None:
        """The layer the method looks at, or the reason why the model cannot be explained so."""
        reason = self.model.why_not(method.requires()) or method.refusal(self.model)
        if reason:
            raise NotApplicableError(reason)
        return self.model.resolve_layer(method.layer_needs(), layer)

    def _run_at(
        self,
        picture: PictureLike | Tensor | InputBatch,
        need: Need,
        layer: str | None,
        on_progress: OnProgress | None,
    ) -> Run:
        if reason := self.model.why_not([need]):
            raise NotApplicableError(reason)
        name = self.model.resolve_layer([need], layer)
        return self._run(self.prepare(picture), None, name, 0, on_progress)

    def rows(self, method: Method, layer: str | None) -> int:
        """The rows that progress counts for one image; none where the method will be refused."""
        try:
            cost = method.estimate_cost(
                self.model, self._layer_for(method, self._suitable(method, layer))
            )
        except FAULTS:
            return 0
        return cost.forward + cost.backward

    def _suitable(self, method: Method, layer: str | None) -> str | None:
        """`layer` for the methods it concerns, None (their default) for the others."""
        attends = layer in self.model.attention_layers
        concerned = Need.ATTENTION if attends else Need.LAYER
        return layer if concerned in method.layer_needs() else None

    def _run(
        self,
        batch: InputBatch,
        target: Target | None,
        layer: str | None,
        seed: int,
        on_progress: OnProgress | None,
        extra_layers: Sequence[str] = (),
    ) -> Run:
        progress = Progress(on_progress)
        return Run(
            self.model,
            batch.x,
            target,
            layer=layer,
            extra_layers=[
                self.model.resolve_layer([Need.LAYER], name) or name for name in extra_layers
            ],
            seed=seed,
            cache_scope=CacheScope(
                self.cache,
                (self.model.fingerprint(), batch.digest),
                waiting=lambda: progress.advance(0),
            ),
            progress=progress,
        )

    def _attribute(self, method: Method, run: Run) -> Attribution:
        with capture.plain(run.x.device), _peak_memory(run.x.device) as peak:
            values, score = method.attribute(run)
        if not torch.isfinite(values).all():
            raise NotApplicableError(
                f"{method.label} gave values that are not finite (NaN or infinite) on "
                f"{self.model.name}; choose another method or layer"
            )
        return Attribution(
            values=_own(values.float()),
            score=_own(score.float()),
            method=method.key,
            params=method.model_dump(),
            target=run.target.key,
            layer=run.layer,
            cost=replace(run.cost_counter.cost(), peak_bytes=peak()),
            extras={name: _own(extra) for name, extra in run.extras.items()},
        )


def _own(tensor: Tensor) -> Tensor:
    """A copy on the CPU that keeps nothing else alive and shares nothing with what is cached."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _again(answer: Attribution) -> Reattribute:
    """Asks the method that gave `answer` again."""
    method = METHODS.make(answer.method, answer.params)
    return lambda run: to_input_size(method.attribute(run)[0], run.x)


def _hash(tensor: Tensor) -> str:
    digest = hashlib.blake2b(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), digest_size=16)
    digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """Gives a function that tells the accelerator memory used beyond what was in use before."""
    if device.type != "cuda":
        yield lambda: None
        return
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) - before


@functools.lru_cache(maxsize=4)
def _explainer(model: str) -> Explainer:
    return Explainer(model)


def explain(
    pictures: PictureLike | Tensor | Sequence[PictureLike],
    method: str | Method = "gradcam",
    *,
    model: ModelHandle | nn.Module | str = DEFAULT_MODEL,
    **question: Any,
) -> Attribution:
    """Which pixels made a model say what it says; see `Explainer.explain`.

    >>> from core import sample_picture
    >>> explain(sample_picture("coffee"), method="gradcam").method
    'gradcam'
    """
    asker = _explainer(model) if isinstance(model, str) else Explainer(model)
    return asker.explain(pictures, method, **question)


def compare(
    pictures: PictureLike | Tensor | Sequence[PictureLike],
    methods: Sequence[str | Method] = ("gradcam", "layercam", "integrated_gradients", "occlusion"),
    *,
    model: ModelHandle | nn.Module | str = DEFAULT_MODEL,
    **question: Any,
) -> Comparison:
    """Several methods on one question; see `Explainer.compare`.

    >>> from core import sample_picture
    >>> answer = compare(sample_picture("coffee"), ["gradcam", "attention"])
    >>> list(answer.results), answer.errors["attention"].split(";")[0]
    (['gradcam'], 'tf_efficientnet_lite0 computes no softmax attention')
    """
    asker = _explainer(model) if isinstance(model, str) else Explainer(model)
    return asker.compare(pictures, methods, **question)
