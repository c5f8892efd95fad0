"""Explainer: attributions of one model's predictions, and whether they deserve trust."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.analysis.evidence import EvidenceSummary, half_of, summarise
from core.analysis.features import FeatureMaps, Order, attention_heads, feature_maps
from core.analysis.hiding import Hiding, outputs_without, unit_of
from core.analysis.patches import PatchMaps, patch_maps
from core.errors import (
    CancelledError,
    NotApplicableError,
    TimmscopeError,
    WayOut,
    reasons_and_ways_out,
)
from core.evaluation import assess
from core.evaluation.agreement import Agreement, agreement
from core.evaluation.classes import explain_classes, likeliest
from core.evaluation.measure import check_target, maps_of, measure
from core.evaluation.recommendation import Recommendation
from core.evaluation.side_by_side import SideBySide, side_by_side
from core.evaluation.verdict import Verdict
from core.inputs.batch import (
    InputBatch,
    OnPartial,
    OnProgress,
    PictureLike,
    Pictures,
    prepare,
    to_input_size,
)
from core.inputs.crop import Crops
from core.inputs.display import shown_pictures
from core.inputs.ground_truth import Box, ground_truth_of, on_input
from core.methods.base import METHODS, Method, attribute
from core.methods.configuration import (
    Configuration,
    MethodLike,
    by_name,
    to_configuration,
    with_layer_name,
)
from core.metrics.base import METRICS, Metric
from core.metrics.faithfulness import RemovalCurve
from core.models.handle import ModelHandle
from core.models.load import DEFAULT_MODEL, load_model
from core.models.named_layer import LayerLike, layer_name
from core.perturb.imputation import RemovalBaseline
from core.registry import key_of
from core.runtime.batching import Progress, joint_progress
from core.runtime.cache import Cache, CacheScope
from core.runtime.evaluation_mode import no_grad_no_autocast
from core.runtime.painting import Stopped
from core.runtime.run import Run
from core.tasks.base import Explained, Target, TargetLike
from core.tasks.outputs import Outputs
from core.tasks.query import Query
from core.tasks.region import PREDICTED, InRegion, RegionLike
from core.tasks.segmentation import Segmentation
from core.types import (
    Attribution,
    Comparison,
    Cost,
    CurveStep,
    Need,
    PercentileRank,
    PictureWords,
    Prediction,
    Property,
    Score,
    ShownPicture,
)

logger = logging.getLogger(__name__)

DEFAULT_METHODS = ("gradcam", "layercam", "integrated_gradients", "occlusion")
"""What is compared where no method is named."""
QUERY_OPTIONS = frozenset(
    {
        *("target", "layer", "extra_layers", "extra_targets", "seed", "ground_truth"),
        *("on_progress", "on_partial", "stop_after", "crop"),
    }
)
"""Keyword arguments that `Explainer.query` takes; no method or metric has a parameter of that
name."""


class Explainer:
    """Answers questions about one model.

    A question is a `Query`: the pictures with the target, layer, seed and so on. Methods take a
    `Query`, or pictures and the options of `query`. A repeated question is answered from the cache
    while the answer is kept.

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

    # -- questions ------------------------------------------------------------------------------

    def prepare(self, pictures: Pictures, *, crop: Crops = None) -> InputBatch:
        """Decode and preprocess one or several pictures.

        Args:
            pictures: a file, bytes, a PIL image, an array, a list of these; or a tensor
                (C, H, W) or (B, C, H, W) that is in model units already.
            crop: the part of the picture that the model is to see: "whole" for all of it, padded
                to the aspect of the model's input; a box (left, top, right, bottom) in pixels of
                the picture, or the same as text, padded likewise; by default the crop of the
                model's own preprocessing. One for all pictures, or a list with one for each.

        Raises:
            PictureError: a picture cannot be read, or the box lies outside of it.
            TimmscopeError: a tensor has another shape than the model's input, or the crop cannot
                be read or is one of tensors.

        >>> from core import sample_picture
        >>> explainer, picture = Explainer(), sample_picture("coffee")
        >>> for crop in (None, "whole", "100,0,300,200"):
        ...     print(explainer.prepare(picture, crop=crop).geometries[0].box)
        (125.0, 25.0, 475.0, 375.0)
        (0.0, -99.32885906040269, 600.0, 502.0134228187919)
        (100.0, 0.0, 300.0, 200.0)
        """
        handle = self.model
        handle.refresh()
        with no_grad_no_autocast(handle.device):
            return prepare(
                pictures, handle.preprocessing, handle.device, handle.dtype, handle.name, crop
            )

    def query(
        self,
        pictures: Pictures | Query,
        *,
        target: TargetLike = None,
        layer: LayerLike | None = None,
        extra_layers: Sequence[LayerLike] = (),
        seed: int = 0,
        ground_truth: Tensor | None = None,
        on_progress: OnProgress | None = None,
        on_partial: OnPartial | None = None,
        stop_after: int | None = None,
        crop: Crops = None,
        extra_targets: Sequence[TargetLike] = (),
    ) -> Query:
        """A checked question about pictures, to be asked of several methods or metrics.

        Args:
            pictures: see `prepare`; a `Query` passes through.
            target: what to explain: a class number or label, "A-B" for A rather than B, an
                `InRegion`, one of these for each picture, or a `Target`; by default each picture's
                predicted class.
            layer: the layer of a CAM or attention method, by name or as a module of the model; by
                default the model's own choice.
            extra_layers: layers to capture in the same pass, so that they cost nothing later.
            seed: where random draws start.
            ground_truth: (B, H, W) True where the evidence is, in the pixels of the model's input.
            on_progress: called with the rows done and expected; may raise `CancelledError` to stop.
            on_partial: called about once a second, while a slow method works on one picture, with
                the map so far, an `Attribution` whose `partial` counts the samples; return True
                to stop and keep that map. docs/architecture.md says which methods call it.
            stop_after: how many samples a slow method takes at most, the first that it would take
                otherwise; a map that was stopped comes again with as many as its `partial` counts.
            crop: the part of the picture that the model is to see; see `prepare`.
            extra_targets: targets to differentiate in the same pass, so that asking for them later
                costs no forward pass; see `explain_classes`.

        Raises:
            PictureError: a picture cannot be read, or a crop lies outside of it.
            UnknownNameError: the target does not exist in this model.
            RegionError: a picture has no such region.
            TypeError: a `Query` is given and options too.
            TimmscopeError: `stop_after` is not positive.
        """
        if stop_after is not None and stop_after < 1:
            raise TimmscopeError(f"stop_after is {stop_after}; give a number of samples from 1")
        if isinstance(pictures, Query):
            _refuse_beside_query(
                target=target, layer=layer, extra_layers=extra_layers or None, seed=seed or None,
                ground_truth=ground_truth, on_progress=on_progress, on_partial=on_partial,
                stop_after=stop_after, crop=crop, extra_targets=extra_targets or None,
            )  # fmt: skip
            return self._with_fixed_targets(self._with_layer_names(pictures))
        batch = self.prepare(pictures, crop=crop)
        others = [self.target(one, len(batch.x)) for one in extra_targets]
        return self._with_fixed_targets(Query(
            batch, self.target(target, len(batch.x)), layer_name(self.model, layer),
            self._layer_names(extra_layers), seed, ground_truth, on_progress, on_partial,
            stop_after, tuple(one for one in others if one is not None),
        ))  # fmt: skip

    def _with_fixed_targets(self, query: Query) -> Query:
        """The query with targets that no longer depend on the pictures; see `Target.fixed`."""
        if query.target is None and not query.extra_targets:
            return query

        def outputs() -> Outputs:
            return self._run(Query(query.batch), None).outputs()

        images, model = tuple(range(len(query))), self.model
        explained = Explained(query.batch, outputs, model.labels, model.name, images)
        with no_grad_no_autocast(self.model.device):
            target = query.target and query.target.fixed(explained)
            extra = tuple(one.fixed(explained) for one in query.extra_targets)
        if (target, extra) == (query.target, query.extra_targets):
            return query
        return replace(query, target=target, extra_targets=extra)

    def target(self, target: TargetLike, images: int = 1) -> Target | None:
        """A checked target from a label, a number, "A-B", or a target; None stays None.

        Raises:
            UnknownNameError: it does not exist in this model.
        """
        if target is None:
            return None
        found = self.model.task.to_target(target, self.model.name)
        found.check(self.model.outputs, images, self.model.name)
        return found

    def ground_truth(
        self,
        pictures: Pictures,
        source: str | Path | Sequence[Box] | NDArray[np.bool_],
        *,
        label: str | None = None,
        crop: Crops = None,
    ) -> Tensor:
        """Where the evidence is, as metrics take it: (B, H, W) in the model's input.

        Args:
            pictures: the pictures.
            source: for each of them the same: a file (see `read_ground_truth` in
                `core.inputs.ground_truth`), a box as "left,top,right,bottom", a list of boxes,
                or a mask; in pixels of the picture.
            label: of a file, only objects of this class.
            crop: the part of the picture that the model is to see; see `prepare`.

        Raises:
            TimmscopeError: it cannot be read, does not fit, or marks nothing that the model sees.
        """
        batch = self.prepare(pictures, crop=crop)
        if not batch.pictures:
            raise TimmscopeError(
                "tensors are no pictures; give a mask over them as ground_truth itself"
            )
        masks = [
            on_input(ground_truth_of(source, geometry.picture, picture.name, label), geometry)
            for picture, geometry in zip(batch.pictures, batch.geometries, strict=True)
        ]
        return torch.stack(masks)

    def predict(self, pictures: Pictures | Query, *, crop: Crops = None) -> Prediction:
        """The model's scores of each picture; one forward pass, the first time.

        Args:
            pictures: see `prepare`; or a `Query`.
            crop: the part of the picture that the model is to see; see `prepare`.
        """
        run = self._run(Query(self.query(pictures, crop=crop).batch), None)
        with no_grad_no_autocast(self.model.device):
            return self._prediction(run.outputs())

    # -- attributions ---------------------------------------------------------------------------

    def explain(
        self, pictures: Pictures | Query, method: MethodLike = "gradcam", **options: Any
    ) -> Attribution:
        """Which pixels made the model predict so.

        Args:
            pictures: one or several pictures, see `prepare`; or a `Query`.
            method: a method's key, a `Method`, or a `Configuration` or its name.
            **options: those of `query` (target, layer, extra_layers, seed, on_progress, on_partial,
                stop_after, crop), and the method's parameters.

        Raises:
            UnknownNameError: no such method, parameter, layer or class.
            NotApplicableError: the model cannot be explained that way; the message is the reason.
            PictureError: a picture cannot be read.
            ModelFailure: the model's own code failed.
            TimmscopeError: partial maps are asked for of several pictures.
        """
        query, params = self._query(pictures, options)
        if len(query) > 1 and not (query.on_partial is None and query.stop_after is None):
            raise TimmscopeError(
                "on_partial and stop_after take one picture at a time; explain the pictures one by "
                "one"
            )
        configuration = to_configuration(method)
        instance = METHODS.make(configuration.method, params)
        named = layer_name(self.model, configuration.layer) or query.layer
        layer = self._layer_for(instance, named)
        run = self._run(query, layer)
        with no_grad_no_autocast(self.model.device):
            return self._explained(query, instance, run)

    def _explained(self, query: Query, method: Method, run: Run) -> Attribution:
        """The attribution, with its pictures; a map that was stopped is kept as what it is."""
        asked = _key(query, method, run)

        def with_pictures(found: Attribution, words: Sequence[PictureWords]) -> Attribution:
            shown = shown_pictures(query.batch)
            return replace(found, pictures=tuple(map(ShownPicture.saying, shown, words)))

        def show(found: Attribution) -> object:
            assert query.on_partial is not None
            return query.on_partial(with_pictures(found, self._words(run)))

        def compute() -> tuple[Attribution, list[PictureWords]]:
            on_partial = None if query.on_partial is None else show
            return attribute(method, run, on_partial, query.stop_after), self._words(run)

        try:
            answer = run.cache_scope.get_or_compute((*asked, query.stop_after), compute)
        except Stopped as stop:
            answer = stop.found, self._words(run)
            run.cache_scope.put((*asked, stop.done), answer)
        kept, words = answer
        return with_pictures(copy.deepcopy(kept), words)  # the caller may write into it

    def explain_layers(
        self,
        pictures: Pictures | Query,
        method: MethodLike = "gradcam",
        layers: Sequence[LayerLike] = (),
        **options: Any,
    ) -> dict[str, Attribution]:
        """A map at each of several layers, all from one pass where the method reads gradients.

        Args:
            pictures: see `explain`.
            method: one that looks at a layer.
            layers: by default the last one of each stage of the model, early ones first.
            **options: as for `explain`, without a layer.

        Returns:
            Attributions by the layer's name.

        Raises:
            NotApplicableError: the method looks at no layer.

        >>> from core import sample_picture
        >>> found = Explainer().explain_layers(sample_picture("coffee"))
        >>> [(name, *one.values.shape[1:]) for name, one in found.items()][-2:]
        [('blocks.6', 7, 7), ('bn2', 7, 7)]
        """
        query, params = self._query(pictures, options)
        instance = METHODS.make(to_configuration(method).method, params)
        if Need.LAYER not in instance.layer_needs():
            raise NotApplicableError(f"{instance.label} looks at no layer; choose a CAM method")
        names = self._layer_names(layers) or tuple(layer.name for layer in self.model.stages())
        query = replace(query, extra_layers=names)
        return {name: self.explain(query.at(name), instance) for name in names}

    def explain_classes(
        self,
        pictures: Pictures | Query,
        method: MethodLike = "gradcam",
        targets: Sequence[TargetLike] | None = None,
        **options: Any,
    ) -> dict[TargetLike, Attribution]:
        """A map for each of several classes, by CAMs from one forward pass.

        A method that reads the gradient at a layer or at attention maps takes one forward pass, and
        a backward pass for each class; any other method what it takes by itself.

        Args:
            pictures: see `explain`.
            method: see `explain`.
            targets: what to explain, see `query`; a tuple for one class of each picture. By default
                the five likeliest classes, which takes a forward pass unless they are known.
            **options: as for `explain`, without a target.

        Returns:
            Attributions by target, as it was given; their costs add up to the work done.

        Raises:
            TimmscopeError: a target is a list.

        >>> from core import sample_picture
        >>> found = Explainer().explain_classes(sample_picture("coffee"), targets=["espresso", 968])
        >>> [(name, one.cost.forward, one.cost.backward) for name, one in found.items()]
        [('espresso', 1, 1), (968, 0, 1)]
        """
        query, params = self._query(pictures, options)
        configuration = to_configuration(method)
        instance = METHODS.make(configuration.method, params)
        return explain_classes(self, query, replace(configuration, method=instance), targets)

    def explain_segmentation(
        self,
        pictures: Pictures | Query,
        method: MethodLike = "gradcam",
        classes: Sequence[TargetLike] | None = None,
        *,
        region: RegionLike = PREDICTED,
        **options: Any,
    ) -> dict[TargetLike, Attribution]:
        """A map for each of several classes of a segmenter; see `explain_classes`.

        Args:
            pictures: see `explain`.
            method: see `explain`.
            classes: numbers or labels; by default the five that take most of the picture.
            region: where they are explained, see `core.tasks.region.RegionLike`; by default each
                where it is predicted.
            **options: as for `explain`, without a target.

        Returns:
            Attributions by class, as it was given.

        Raises:
            NotApplicableError: the model does not segment.
            RegionError: a class is not predicted anywhere, or there is no such region.
        """
        query, params = self._query(pictures, options)
        if not isinstance(self.model.task, Segmentation):
            raise NotApplicableError(
                f"{self.model.name} scores whole pictures; use explain_classes, or load it with "
                "task='segmentation' if it scores each pixel"
            )
        wanted = likeliest(self.predict(query)) if classes is None else classes
        asked = {one: InRegion(one, region) for one in wanted}
        found = self.explain_classes(query, method, list(asked.values()), **params)
        return {one: found[target] for one, target in asked.items()}

    def compare(
        self,
        pictures: Pictures | Query,
        methods: Sequence[MethodLike] = DEFAULT_METHODS,
        *,
        params: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
        **options: Any,
    ) -> Comparison:
        """Several methods on one question; one that fails never keeps the others from answering.

        Args:
            pictures: see `explain`.
            methods: keys, instances, or configurations such as "lime(samples=20)": one method can
                be compared with itself under other parameters or at another layer.
            params: parameters by method key, for methods given by name.
            **options: those of `query`. A layer is used by the methods that can use it; the others
                use their default.

        Returns:
            Attributions and errors by the configuration's name: the method's key where the method
            is asked once, and else with what tells it apart.

        Raises:
            UnknownNameError: no such method, layer or class.
            PictureError: a picture cannot be read.
        """
        query, more = self._query(pictures, options)
        if more:
            raise TypeError(f"compare takes no {', '.join(more)}; give parameters as params")
        if query.layer is not None and query.layer not in {
            *self.model.layers,
            *self.model.attention_layers,
        }:
            self.model.resolve_layer([Need.LAYER], query.layer)
        errors: dict[str, TimmscopeError] = {}
        asked = self._asked(query, methods, params, errors)
        rows = [len(query) * self.estimate_rows(one, own.layer) for one, own in asked.values()]
        results: dict[str, Attribution] = {}
        turns = joint_progress(query.on_progress, rows)
        for (name, (one, own)), report in zip(asked.items(), turns, strict=True):
            try:
                results[name] = self.explain(own.reporting(report), one)
            except CancelledError:
                raise
            except TimmscopeError as error:
                logger.info("%s failed on %s", name, self.model.name, exc_info=True)
                errors[name] = error
        return Comparison(results, *reasons_and_ways_out(errors))

    # -- features and attention -----------------------------------------------------------------

    def features(
        self, pictures: Pictures | Query, *, top: int = 16, by: Order = "activation", **options: Any
    ) -> FeatureMaps:
        """What the channels of a layer respond to in the first picture.

        Args:
            pictures: see `explain`.
            top: how many channels.
            by: rank channels by mean size of "activation" or by spatial "variance".
            **options: `layer`, by default that of CAM methods, `crop` and `on_progress`.

        Raises:
            NotApplicableError: no layer of the model lies on a spatial grid.
        """
        run = self._run_at(pictures, Need.LAYER, options)
        with no_grad_no_autocast(self.model.device):
            return feature_maps(run, top, by)

    def attention(
        self, pictures: Pictures | Query, *, query: str = "auto", **options: Any
    ) -> Tensor:
        """(heads, h, w) the attention of each head of a layer.

        Args:
            pictures: see `explain`.
            query: the query token; see the `attention` method.
            **options: `layer`, by default the last that can be drawn, `crop` and `on_progress`.

        Raises:
            NotApplicableError: the model has no attention that can be laid over the picture.
        """
        run = self._run_at(pictures, Need.ATTENTION, options)
        with no_grad_no_autocast(self.model.device):
            return attention_heads(run, query)

    def patches(
        self,
        pictures: Pictures | Query,
        *,
        layers: Sequence[LayerLike] | None = None,
        **options: Any,
    ) -> PatchMaps:
        """How each patch of the first picture relates to every other one, at several layers.

        Args:
            pictures: see `explain`.
            layers: whose features are compared, and whose attention is read where they attend; by
                default the last layers of the stages, and all that attend over the picture.
            **options: `crop` and `on_progress`; see `query`.

        Raises:
            NotApplicableError: a layer lies on no grid, or none of the model's does.

        >>> from core import sample_picture
        >>> found = Explainer().patches(sample_picture("coffee"), layers=["bn2"])
        >>> found.similarity[0].grid, found.reasons["attention"].split(";")[0]
        ((7, 7), 'tf_efficientnet_lite0 computes no softmax attention')
        """
        query = self.query(pictures, **options)
        similar, attending = self._patch_layers(layers)
        reasons = {}
        if not similar:
            reasons["similarity"] = self.model.why_not([Need.LAYER]) or (
                "the layers that were named lie on no grid"
            )
        if not attending:
            reasons["attention"] = self.model.why_not([Need.ATTENTION]) or (
                "the layers that were named compute no attention"
            )
        if len(reasons) == 2:
            raise NotApplicableError(reasons["similarity"])
        run = self._run(query, None)
        with no_grad_no_autocast(self.model.device):
            return patch_maps(run, similar, attending, reasons)

    # -- hiding ---------------------------------------------------------------------------------

    def hide(
        self,
        pictures: Pictures | Query,
        region: Tensor | str | Path | Sequence[Box] | NDArray[np.bool_],
        *,
        keep_only: bool = False,
        baseline: RemovalBaseline = "blur",
        **options: Any,
    ) -> Hiding:
        """What the model says while a part of each picture is hidden; one row for each.

        Args:
            pictures: see `explain`.
            region: the part: a tensor (B, H, W), True in it, in the pixels of the model's input; or
                for each picture the same, as `ground_truth` takes it, such as a box
                "left,top,right,bottom" in pixels of the picture.
            keep_only: whether everything else is hidden instead.
            baseline: what replaces hidden pixels.
            **options: those of `query`; the target is whose score is followed.

        Raises:
            TimmscopeError: the region cannot be read, or does not fit.

        >>> from core import sample_picture
        >>> found = Explainer().hide(sample_picture("coffee"), "100,0,400,400")
        >>> bool(found.score_after < found.score_before)
        True
        """
        query, more = self._query(pictures, options)
        if more:
            raise TypeError(f"hide takes no {', '.join(more)}")
        run = self._run(query, None)
        if not isinstance(region, Tensor):
            region = self.ground_truth(query.batch, region)
        hidden = ~region.bool() if keep_only else region.bool()
        target = run.target.bounded() or run.target
        with no_grad_no_autocast(self.model.device):
            before = run.outputs()
            rows, after = outputs_without(run, hidden, baseline)
            first, then = (target(one, run.owner).detach().float().cpu() for one in (before, after))
            prediction = self._prediction(before)
            return Hiding(
                hidden.cpu(),
                baseline,
                prediction,
                self._prediction(after),
                tuple(run.target.describe(prediction, image) for image in range(len(run.x))),
                first,
                then,
                unit_of(target),
                self.model.to_pixels(rows).cpu(),
            )

    def evidence(
        self, pictures: Pictures | Query, values: Attribution, **options: Any
    ) -> tuple[EvidenceSummary, ...]:
        """Each picture's map in a sentence: where half of it lies, and what hiding that does.

        One row for each picture.

        Args:
            pictures: the pictures explained; see `explain`.
            values: their attribution.
            **options: those of `query`, where the target is what was explained.

        Raises:
            TimmscopeError: the map explains another target.
        """
        query, _ = self._query(pictures, options)
        run = self._run(query, None)
        check_target(run, values)
        maps = to_input_size(values.values, query.batch.x)
        hiding = self.hide(query, half_of(maps))
        sensitive = Property.CLASS_SENSITIVE in METHODS[values.method].properties
        return tuple(
            summarise(
                maps[image],
                hiding,
                image=image,
                whole=not query.batch.geometries or query.batch.geometries[image].whole,
                noun="evidence" if sensitive else "map",
            )
            for image in range(len(maps))
        )

    # -- evaluation -----------------------------------------------------------------------------

    def measure(
        self,
        pictures: Pictures | Query,
        values: Attribution | Tensor,
        metric: str | Metric = "deletion",
        **options: Any,
    ) -> Score:
        """Score attributions with one metric.

        Args:
            pictures: the pictures explained; see `explain`.
            values: their maps: an attribution, or a tensor (B, h, w).
            metric: a metric's key, or a `Metric`.
            **options: those of `query`, where the target is what was explained, and the metric's
                parameters.

        Raises:
            NotApplicableError: the metric cannot be measured here; the message is the reason.
            TimmscopeError: the map explains another target.
        """
        query, params = self._query(pictures, options)
        attribution = values if isinstance(values, Attribution) else None
        run = self._run(query, None if attribution is None else attribution.layer)
        with no_grad_no_autocast(self.model.device):
            return measure(run, values, METRICS.make(metric, params), query.ground_truth)

    def curve_step(
        self,
        pictures: Pictures | Query,
        values: Attribution | Tensor,
        metric: str | Metric = "deletion",
        *,
        step: int,
        **options: Any,
    ) -> CurveStep:
        """What the model was shown at one step of a removal curve, and what it predicted.

        Where the curve has been measured and is still kept, it takes no pass.

        Args:
            pictures: the pictures explained; see `explain`.
            values: their maps.
            metric: the key of a metric that removes or restores pixels, or such a `Metric`.
            step: from 0, before the first pixels change, to the metric's `steps`, after the last.
            **options: `seed` and the metric's parameters.

        Raises:
            NotApplicableError: the metric follows no such curve.
            TimmscopeError: there is no such step.
        """
        query, params = self._query(pictures, options)
        instance = METRICS.make(metric, params)
        if not isinstance(instance, RemovalCurve):
            raise NotApplicableError(
                f"{instance.label} does not remove pixels step by step; choose deletion or "
                "insertion"
            )
        run = self._run(Query(query.batch, seed=query.seed), None)
        with no_grad_no_autocast(self.model.device):
            found = instance.step_at(run, to_input_size(maps_of(values), query.batch.x), step)
            pixels = self.model.to_pixels(found.rows).cpu()
            return CurveStep(found.fraction, pixels, self._prediction(found.outputs))

    def controls(
        self, pictures: Pictures | Query, metric: str | Metric = "deletion", **options: Any
    ) -> dict[str, Score]:
        """Scores of the controls; see `core.evaluation.assess.controls`."""
        query, params = self._query(pictures, options)
        return assess.controls(self, query, METRICS.make(metric, params))

    def percentile_rank(
        self,
        pictures: Pictures | Query,
        values: Attribution | Tensor,
        metric: str | Metric = "srg",
        *,
        maps: int = 100,
        **options: Any,
    ) -> PercentileRank:
        """The rank of a map among random ones; see `core.evaluation.assess.percentile_rank`."""
        query, params = self._query(pictures, options)
        return assess.percentile_rank(self, query, values, METRICS.make(metric, params), maps)

    def sanity_checks(
        self,
        method: str | Method = "gradcam",
        *,
        layer: LayerLike | None = None,
        metrics: Sequence[str] | None = None,
        seed: int = 0,
        on_progress: OnProgress | None = None,
        **params: object,
    ) -> dict[str, Score]:
        """Whether a method depends on the model; see `core.evaluation.assess.sanity_checks`."""
        name = layer_name(self.model, layer)
        configuration = Configuration(METHODS.make(method, params), name)
        return assess.sanity_checks(self, configuration, metrics, seed, on_progress)

    def verdict(
        self, pictures: Pictures | Query, attribution: Attribution, **options: Any
    ) -> list[Verdict]:
        """Whether each map deserves trust; see `core.evaluation.assess.verdicts`."""
        return assess.verdicts(self, self.query(pictures, **options), attribution)

    def recommend(
        self, pictures: Pictures | Query, attributions: Mapping[str, Attribution], **options: Any
    ) -> Recommendation:
        """Which of several methods to use; see `core.evaluation.assess.recommendation`."""
        return assess.recommendation(self, self.query(pictures, **options), attributions)

    def agreement(
        self, pictures: Pictures | Query, attributions: Mapping[str, Attribution], image: int = 0
    ) -> Agreement:
        """How far methods agree on one of the pictures, and where they do not.

        Args:
            pictures: the pictures explained.
            attributions: by configuration.
            image: which picture.
        """
        x = self.query(pictures).batch.x
        return agreement({k: to_input_size(a.values, x)[image] for k, a in attributions.items()})

    # -- estimates ------------------------------------------------------------------------------

    def estimate(
        self,
        pictures: Pictures | Query,
        methods: Sequence[MethodLike],
        *,
        params: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
        **options: Any,
    ) -> Cost:
        """What the maps of several methods cost at most, beyond those that are kept in the cache.

        Args:
            pictures: see `explain`.
            methods: see `compare`; those that will be refused cost nothing.
            params: see `compare`.
            **options: those of `query`.

        >>> from core import sample_picture
        >>> explainer, coffee = Explainer(), sample_picture("coffee")
        >>> explainer.estimate(coffee, ["gradcam", "rise"]).pace
        'minutes'
        >>> _ = explainer.explain(coffee, "gradcam")
        >>> explainer.estimate(coffee, ["gradcam"])
        Cost(forward=0, backward=0, seconds=0.0, peak_bytes=None)
        """
        query, _ = self._query(pictures, options)
        asked = self._asked(query, methods, params, {})
        return sum((self._remaining(own, one) for one, own in asked.values()), Cost())

    def estimate_cost(self, method: Method, layer: str | None) -> Cost:
        """What a map of one image costs at most; nothing where the method will be refused."""
        try:
            found = self._layer_for(method, self._suitable(method, layer))
            return method.estimate_cost(self.model, found)
        except TimmscopeError:
            return Cost()

    def estimate_rows(self, method: Method, layer: str | None) -> int:
        """The rows that progress counts for one image; none where the method will be refused."""
        cost = self.estimate_cost(method, layer)
        return cost.forward + cost.backward

    def _remaining(self, query: Query, method: Method) -> Cost:
        """What a map costs at most; nothing where it is kept or will be refused."""
        try:
            run = self._run(query, self._layer_for(method, query.layer))
            kept = (*_key(query, method, run), query.stop_after) in run.cache_scope
        except TimmscopeError:
            return Cost()
        one = Cost() if kept else method.estimate_cost(self.model, run.layer)
        return replace(one, forward=one.forward * len(query), backward=one.backward * len(query))

    # -- helpers --------------------------------------------------------------------------------

    def _query(
        self, pictures: Pictures | Query, options: Mapping[str, Any]
    ) -> tuple[Query, dict[str, Any]]:
        """The query, and the remaining options, which are parameters."""
        asked = {name: value for name, value in options.items() if name in QUERY_OPTIONS}
        params = {name: value for name, value in options.items() if name not in asked}
        return self.query(pictures, **asked), params

    def _asked(
        self,
        query: Query,
        methods: Sequence[MethodLike],
        params: Mapping[str, Mapping[str, object]],
        errors: dict[str, TimmscopeError],
    ) -> dict[str, tuple[Method, Query]]:
        """By the configuration's name, each method and the query at its layer."""
        given = {METHODS[key].key: values for key, values in params.items()}
        asked = {}
        for name, one in by_name(self._configurations(methods, given, errors)).items():
            layer = layer_name(self.model, one.layer) or self._suitable(one.method, query.layer)
            asked[name] = one.method, query.at(layer)
        return asked

    def _configurations(
        self,
        methods: Sequence[MethodLike],
        params: Mapping[str, Mapping[str, object]],
        errors: dict[str, TimmscopeError],
    ) -> Iterator[Configuration]:
        """The methods with their parameters; wrong parameters go into `errors`."""
        for method in methods:
            if not isinstance(method, str):
                yield with_layer_name(to_configuration(method), self.model)
                continue
            key = METHODS[key_of(method)].key  # an unknown name is refused at once
            try:
                yield to_configuration(method, params)
            except TimmscopeError as error:
                errors[method if "(" in method else key] = error

    def _layer_names(self, layers: Sequence[LayerLike]) -> tuple[str, ...]:
        """The names of layers given by name or as modules."""
        return tuple(name for layer in layers if (name := layer_name(self.model, layer)))

    def _with_layer_names(self, query: Query) -> Query:
        """The query with names in place of modules."""
        if all(isinstance(layer, str) for layer in (query.layer or "", *query.extra_layers)):
            return query
        layer, extra = layer_name(self.model, query.layer), self._layer_names(query.extra_layers)
        return replace(query, layer=layer, extra_layers=extra)

    def _words(self, run: Run) -> list[PictureWords]:
        """What is said of each picture where an attribution is displayed; takes no pass."""
        outputs = run.cache_scope.peek("outputs")
        known = isinstance(outputs, Outputs)
        empty = self.model.task.blank(len(run.x), self.model.outputs)
        prediction = self._prediction(outputs if isinstance(outputs, Outputs) else empty)
        return [
            PictureWords(
                run.target.describe(prediction, image),
                prediction.describe(image) if known else "",
                run.target.for_image(image).key,
            )
            for image in range(len(run.x))
        ]

    def require_runnable(self, method: Method, layer: str | None = None) -> None:
        """Refuse a method that cannot explain the model.

        Args:
            method: the method.
            layer: the layer named by the caller, if any.

        Raises:
            NotApplicableError: it cannot; a method that can is among the ways out.
        """
        with no_grad_no_autocast(self.model.device):
            reason = method.why_not(self.model, layer)
        if reason:
            raise NotApplicableError(reason, self._other_methods(method))

    def _layer_for(self, method: Method, layer: str | None) -> str | None:
        """The layer the method uses; raises the reason why the model cannot be explained so."""
        self.model.refresh()
        self.require_runnable(method, layer)
        return self.model.resolve_layer(method.layer_needs(), layer)

    def _other_methods(self, method: Method) -> list[WayOut]:
        """The first method of the same family that can explain the model, or of any other."""
        family = [key for key, cls in METHODS.items() if cls.family is method.family]
        others = [METHODS[key] for key in (*family, *DEFAULT_METHODS)]
        with no_grad_no_autocast(self.model.device):
            found = next((cls for cls in others if not cls().why_not(self.model)), None)
        return [] if found is None else [WayOut("method", found.key, f"Use {found.label}")]

    def _suitable(self, method: Method, layer: str | None) -> str | None:
        """`layer` for the methods it concerns, None (their default) for the others."""
        attends = layer in self.model.attention_layers
        concerned = Need.ATTENTION if attends else Need.LAYER
        return layer if concerned in method.layer_needs() else None

    def _run_at(self, pictures: Pictures | Query, need: Need, options: Mapping[str, Any]) -> Run:
        """A run at the layer asked for, or at the default one."""
        query = self.query(pictures, **options)
        if reason := self.model.why_not([need], query.layer):
            raise NotApplicableError(reason)
        layer = self.model.resolve_layer([need], query.layer)
        return self._run(Query(query.batch, on_progress=query.on_progress), layer)

    def _patch_layers(self, layers: Sequence[LayerLike] | None) -> tuple[list[str], list[str]]:
        """The layers whose features can be compared, and those whose attention can be read."""
        model = self.model
        attending = model.choices([Need.ATTENTION])
        if layers is None:
            stages = [layer.name for layer in model.stages()]
            return stages or model.choices([Need.LAYER])[-1:], attending
        similar, read = [], []
        for name in self._layer_names(layers):
            layer = model.layers.get(name)
            within = [one for one in attending if one == name or one.startswith(f"{name}.")]
            if layer is not None and layer.layout is not None:
                similar.append(name)
            elif not within:
                model.resolve_layer([Need.LAYER], name)  # raises the reason
            read += within
        return list(dict.fromkeys(similar)), list(dict.fromkeys(read))

    def _run(self, query: Query, layer: str | None) -> Run:
        progress = Progress(query.on_progress)
        return Run(
            self.model,
            query.batch.x,
            query.target,
            layer=layer,
            extra_layers=[
                self.model.resolve_layer([Need.LAYER], name) or name for name in query.extra_layers
            ],
            extra_targets=query.extra_targets,
            seed=query.seed,
            cache_scope=CacheScope(
                self.cache,
                (self.model.fingerprint(), self.model.reading, query.batch.digest),
                waiting=lambda: progress.advance(0),
            ),
            progress=progress,
        )

    def _prediction(self, outputs: Outputs) -> Prediction:
        return self.model.task.predict(outputs)


def _key(query: Query, method: Method, run: Run) -> tuple[Hashable, ...]:
    """What tells an explanation from the others of these pictures, but for where it stops."""
    return "explain", method.key, method.model_dump_json(), run.asked, run.layer, query.seed


def _refuse_beside_query(**options: object) -> None:
    """Refuse options that are not None, given beside a `Query` that has its own."""
    if names := ", ".join(name for name, value in options.items() if value is not None):
        raise TypeError(f"a Query already says its {names}; change the Query")


ModelLike = Explainer | ModelHandle | nn.Module | str
"""A model by name, as a module or a handle, or its explainer."""


@functools.lru_cache(maxsize=4)
def _explainer(model: str) -> Explainer:
    return Explainer(model)


def _explainer_of(model: ModelLike) -> Explainer:
    if isinstance(model, Explainer):
        return model
    return _explainer(model) if isinstance(model, str) else Explainer(model)


def explain(
    pictures: Pictures,
    method: MethodLike = "gradcam",
    *,
    model: ModelLike = DEFAULT_MODEL,
    **options: Any,
) -> Attribution:
    """Which pixels made a model predict so; see `Explainer.explain`.

    >>> from core import sample_picture
    >>> explain(sample_picture("coffee"), method="gradcam").method
    'gradcam'
    """
    explainer = _explainer_of(model)
    return explainer.explain(pictures, method, **options)


def explain_segmentation(
    pictures: Pictures,
    method: MethodLike = "gradcam",
    classes: Sequence[TargetLike] | None = None,
    *,
    model: ModelLike,
    **options: Any,
) -> dict[TargetLike, Attribution]:
    """A map for each of several classes of a segmenter; see `Explainer.explain_segmentation`."""
    return _explainer_of(model).explain_segmentation(pictures, method, classes, **options)


def compare(
    pictures: Pictures,
    methods: Sequence[MethodLike] = DEFAULT_METHODS,
    *,
    model: ModelLike = DEFAULT_MODEL,
    **options: Any,
) -> Comparison:
    """Several methods on one question; see `Explainer.compare`.

    >>> from core import sample_picture
    >>> answer = compare(sample_picture("coffee"), ["gradcam", "attention"])
    >>> list(answer.results), answer.errors["attention"].split(";")[0]
    (['gradcam'], 'tf_efficientnet_lite0 computes no softmax attention')
    """
    explainer = _explainer_of(model)
    return explainer.compare(pictures, methods, **options)


def compare_models(
    picture: Pictures,
    models: Sequence[ModelLike],
    method: MethodLike = "gradcam",
    **options: Any,
) -> SideBySide:
    """One method on several models, all asked about one picture.

    Args:
        picture: the picture.
        models: names, modules, handles or explainers.
        method: the method; see `Explainer.explain`.
        **options: those of `core.evaluation.side_by_side.side_by_side`: params, target, layer,
            seed, crop, on_progress. A class is looked up by its label; by default each model
            explains its own prediction.

    Returns:
        The answers by the models' names, and how far their maps agree.

    >>> from core import sample_picture
    >>> found = compare_models(sample_picture("coffee"), ["tf_efficientnet_lite0", "world_resnet"])
    >>> [side.prediction.labels is not None for side in found.sides.values()]
    [True, True]
    """
    explainers = [_explainer_of(model) for model in models]
    names = numbered([explainer.model.name for explainer in explainers])
    asked = {name: (one, picture) for name, one in zip(names, explainers, strict=True)}
    return side_by_side(asked, method, **options)


def compare_pictures(
    pictures: Sequence[PictureLike] | Mapping[str, PictureLike],
    method: MethodLike = "gradcam",
    *,
    model: ModelLike = DEFAULT_MODEL,
    **options: Any,
) -> SideBySide:
    """One method on several pictures, under one model.

    Args:
        pictures: the pictures, by name or in a list.
        method: the method; see `Explainer.explain`.
        model: the model.
        **options: as for `compare_models`; by default each picture's prediction is explained.

    Returns:
        The answers by the names of the pictures.

    >>> from core import sample_picture
    >>> found = compare_pictures({name: sample_picture(name) for name in ("coffee", "chelsea")})
    >>> [side.target_name for side in found.sides.values()], found.agreement
    (['espresso', 'tiger cat'], None)
    """
    explainer = _explainer_of(model)
    if not isinstance(pictures, Mapping):
        named = [_picture_name(one, i) for i, one in enumerate(pictures)]
        pictures = dict(zip(numbered(named), pictures, strict=True))
    return side_by_side({k: (explainer, one) for k, one in pictures.items()}, method, **options)


def _picture_name(picture: PictureLike, number: int) -> str:
    """The name of a picture's file, or its number."""
    return Path(picture).name if isinstance(picture, (str, Path)) else f"picture {number + 1}"


def numbered(names: Sequence[str]) -> list[str]:
    """Names that differ: one that was there before has a number.

    >>> numbered(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    found: list[str] = []
    for name in names:
        before = names[: len(found)].count(name)
        found.append(f"{name} ({before + 1})" if before else name)
    return found
