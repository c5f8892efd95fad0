"""Many pictures: every method by every metric, a row each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.errors import CancelledError, NotApplicableError, TimmscopeError, first_line
from core.evaluation.assess import ExplainerLike, control_methods, percentile_rank
from core.evaluation.rows import Row, RowKey
from core.inputs.batch import InputBatch
from core.inputs.crop import CropLike
from core.methods.base import control_keys
from core.methods.configuration import (
    Configuration,
    MethodLike,
    by_name,
    to_configuration,
    with_layer_name,
)
from core.metrics.base import METRICS, Metric, MetricInput
from core.models.named_layer import LayerLike
from core.registry import named_instances, parse_instance
from core.tasks.base import TargetLike
from core.tasks.query import Query
from core.types import Attribution, Comparison, finite


def evaluate(
    explainer: ExplainerLike,
    pictures: Iterable[Path],
    methods: Sequence[MethodLike],
    metrics: Sequence[str | Metric],
    *,
    target: TargetLike = None,
    layer: LayerLike | None = None,
    seed: int = 0,
    ground_truth: Callable[[Path], Any] | None = None,
    label: str | None = None,
    random_maps: int = 0,
    crop: CropLike = None,
    done: Collection[RowKey] = (),
) -> Iterator[Row]:
    """A row for each picture, method and metric, one after another; the controls come with them.

    What cannot be read, explained or measured gives rows that say why.

    Args:
        explainer: the explainer that is asked.
        pictures: files.
        methods: keys, instances or configurations; one method may come in several configurations.
        metrics: keys, instances, or names such as "deletion(steps=10)".
        target: what to explain; by default each picture's predicted class.
        layer: the layer for methods that can look there, by name or as a module of the model.
        seed: where random draws start.
        ground_truth: gives a picture's ground truth as `Explainer.ground_truth` takes it, or None.
        label: of a ground truth from a file, only objects of this class.
        random_maps: how many random maps to rank each map among; 0 for none.
        crop: the part of each picture that the model is to see; see `core.inputs.crop`.
        done: the keys of rows that need not be made again.
    """
    configurations = _configurations(explainer, methods)
    named = named_instances(parse_instance(METRICS, one) for one in metrics)
    for path in pictures:
        left = [
            (method, metric)
            for method in configurations
            for metric in named
            if (str(path), method, metric) not in done
        ]
        if not left:
            continue
        try:
            query = _query(explainer, explainer.prepare(path, crop=crop), target, layer, seed)
            if ground_truth is not None and (annotation := ground_truth(path)) is not None:
                mask = explainer.ground_truth(query.batch, annotation, label=label)
                query = replace(query, ground_truth=mask)
        except CancelledError:
            raise
        except TimmscopeError as error:
            yield from (Row(str(path), *pair, error=first_line(error)) for pair in left)
            continue
        wanted = [configurations[name] for name in dict.fromkeys(name for name, _ in left)]
        compared = explainer.compare(query, wanted)
        yield from _measured(
            explainer, str(path), query, _full_names(compared, wanted, configurations), left,
            named, random_maps,
        )  # fmt: skip


def _configurations(
    explainer: ExplainerLike, methods: Sequence[MethodLike]
) -> dict[str, Configuration]:
    """The methods and the controls by name."""
    every = map(to_configuration, [*methods, *control_methods()])
    return by_name(with_layer_name(one, explainer.model) for one in every)


def _query(
    explainer: ExplainerLike,
    batch: InputBatch,
    target: TargetLike,
    layer: LayerLike | None,
    seed: int,
) -> Query:
    """The question about one picture, its predicted class looked up where no target is given."""
    query = explainer.query(batch, target=target, layer=layer, seed=seed)
    if query.target is None:
        predicted = explainer.predict(query).top(1)[0][0]
        query = explainer.query(batch, target=predicted, layer=layer, seed=seed)
    return query


def _full_names(
    compared: Comparison,
    wanted: Sequence[Configuration],
    configurations: Mapping[str, Configuration],
) -> Comparison:
    """The comparison under the names used in the whole evaluation."""
    names = {one.name: name for name, one in configurations.items()}
    whole = {short: names[one.name] for short, one in by_name(wanted).items()}
    return Comparison(
        {whole[short]: answer for short, answer in compared.results.items()},
        {whole[short]: error for short, error in compared.errors.items()},
        {whole[short]: ways for short, ways in compared.ways_out.items()},
    )


def _measured(
    explainer: ExplainerLike,
    path: str,
    query: Query,
    compared: Comparison,
    left: Sequence[tuple[str, str]],
    metrics: Mapping[str, Metric],
    random_maps: int,
) -> Iterator[Row]:
    """The rows of one picture."""
    assert query.target is not None
    for method, metric in left:
        row: dict[str, Any] = {
            "picture": path,
            "method": method,
            "metric": metric,
            "target": query.target.key,
        }
        try:
            if method in compared.errors:
                raise TimmscopeError(compared.errors[method])
            yield _row(
                explainer, query, compared.results[method], metrics[metric], random_maps, row
            )
        except CancelledError:
            raise
        except TimmscopeError as error:
            yield Row(**row, error=first_line(error))


def _row(
    explainer: ExplainerLike,
    query: Query,
    attribution: Attribution,
    metric: Metric,
    random_maps: int,
    row: Mapping[str, Any],
) -> Row:
    """One row: the score, its interval and its percentile rank, and what they cost."""
    score = explainer.measure(query, attribution, metric)
    if reason := score.reason():
        raise NotApplicableError(f"cannot tell: {reason}")
    percentile = None
    ranked = MetricInput.METHOD not in metric.needs and attribution.method not in control_keys()
    if random_maps and ranked:
        rank = percentile_rank(explainer, query, attribution, metric, random_maps)
        percentile = finite(float(rank.percentile[0]))
    low, high = (None if e is None else finite(float(e[0])) for e in (score.low, score.high))
    return Row(
        **row,
        value=finite(float(score.value[0])),
        low=low,
        high=high,
        percentile=percentile,
        forward=attribution.cost.forward + score.cost.forward,
        backward=attribution.cost.backward + score.cost.backward,
        seconds=round(attribution.cost.seconds + score.cost.seconds, 4),
    )


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """Files as given, and the pictures of each folder, sorted by name.

    Raises:
        TimmscopeError: there is no picture.
    """
    found: list[Path] = []
    for path in paths:
        found += sorted(p for p in path.iterdir() if is_picture(p)) if path.is_dir() else [path]
    if not found:
        raise TimmscopeError("no pictures: name files, or a folder with pictures in it")
    return found


def is_picture(path: Path) -> bool:
    """Whether a file has the suffix of a picture."""
    known = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"}
    return path.is_file() and path.suffix.lower() in known


def annotation_finder(folder: Path) -> Callable[[Path], Path | None]:
    """A function that finds the annotation of a picture: the file of its name in `folder`."""

    def find(picture: Path) -> Path | None:
        names = (folder / f"{picture.stem}{suffix}" for suffix in (".png", ".xml", ".json"))
        return next((name for name in names if name.is_file()), None)

    return find


def without_ground_truth(metrics: Iterable[Metric], ground_truth: bool) -> list[str]:
    """The keys of the metrics that need ground truth where there is none."""
    return [m.key for m in metrics if MetricInput.GROUND_TRUTH in m.needs and not ground_truth]
