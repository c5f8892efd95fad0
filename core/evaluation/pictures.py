"""Many pictures: every method by every metric, a row each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import FAULTS, CancelledError, TimmscopeError
from core.evaluation.rows import Row, RowKey
from core.explainer import Comparison, Explainer
from core.export import finite
from core.inputs.batch import InputBatch
from core.methods.base import METHODS, Method, control_keys
from core.metrics.base import Metric, MetricInput
from core.tasks.base import Target, TargetLike
from core.types import Attribution


def evaluate(
    explainer: Explainer,
    pictures: Iterable[Path],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    *,
    target: TargetLike = None,
    layer: str | None = None,
    seed: int = 0,
    ground_truth: Callable[[Path], Any] | None = None,
    label: str | None = None,
    random_maps: int = 0,
    done: Collection[RowKey] = (),
) -> Iterator[Row]:
    """A row for each picture, method and metric, the controls among the methods, one after another.

    What cannot be read, drawn or measured gives rows that say why.

    Args:
        explainer: asks the model.
        pictures: files.
        methods: their maps are measured.
        metrics: the questions.
        target: what to explain; by default each picture's predicted class.
        layer: where methods look that can look there.
        seed: where random draws start.
        ground_truth: gives a picture's truth, as `Explainer.ground_truth` takes it, or None.
        label: of a truth from a file, only objects of this class.
        random_maps: how many random maps to set each map among; 0 for none.
        done: rows that are there already.
    """
    controls = [METHODS.make(key) for key in control_keys()]
    asked = list({method.key: method for method in (*methods, *controls)}.values())
    for path in pictures:
        left = [
            (method, metric)
            for method in asked
            for metric in metrics
            if (str(path), method.key, metric.key) not in done
        ]
        if not left:
            continue
        try:
            batch = explainer.prepare(path)
            chosen = explainer.target(target) or explainer.target(
                explainer.predict(batch).top(1)[0][0]
            )
            assert chosen is not None
            place = None if ground_truth is None else ground_truth(path)
            mask = None if place is None else explainer.ground_truth(batch, place, label=label)
        except FAULTS as error:
            reason = _said(error)
            yield from (Row(str(path), m.key, k.key, error=reason) for m, k in left)
            continue
        once = list({method.key: method for method, _ in left}.values())
        drawn = explainer.compare(batch, once, target=chosen, layer=layer, seed=seed)
        question = {"target": chosen, "ground_truth": mask, "seed": seed}
        yield from _measured(explainer, str(path), batch, drawn, left, question, random_maps)


def _measured(
    explainer: Explainer,
    path: str,
    batch: InputBatch,
    drawn: Comparison,
    left: Sequence[tuple[Method, Metric]],
    question: Mapping[str, Any],
    random_maps: int,
) -> Iterator[Row]:
    for method, metric in left:
        row: dict[str, Any] = {"picture": path, "method": method.key, "metric": metric.key}
        target: Target = question["target"]
        try:
            if method.key in drawn.errors:
                raise TimmscopeError(drawn.errors[method.key])
            answer: Attribution = drawn.results[method.key]
            score = explainer.measure(batch, answer, metric, **question)
            percentile = None
            if random_maps and MetricInput.METHOD not in metric.needs and not method.is_control:
                percentile_rank = explainer.percentile_rank(
                    batch, answer, metric, maps=random_maps, **question
                )
                percentile = float(percentile_rank.percentile[0])
        except CancelledError:
            raise
        except FAULTS as error:
            yield Row(**row, target=target.key, error=_said(error))
            continue
        low, high = (None if e is None else finite(float(e[0])) for e in (score.low, score.high))
        yield Row(
            **row,
            value=finite(float(score.value[0])),
            low=low,
            high=high,
            percentile=percentile,
            target=target.key,
            forward=answer.cost.forward + score.cost.forward,
            backward=answer.cost.backward + score.cost.backward,
            seconds=round(answer.cost.seconds + score.cost.seconds, 4),
        )


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0]


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, and of folders the pictures in them, by name.

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
    """Whether a file is called like a picture."""
    known = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif"}
    return path.is_file() and path.suffix.lower() in known


def annotation_finder(folder: Path) -> Callable[[Path], Path | None]:
    """Gives each picture's truth: the file of its name in a folder."""

    def find(picture: Path) -> Path | None:
        names = (folder / f"{picture.stem}{suffix}" for suffix in (".png", ".xml", ".json"))
        return next((name for name in names if name.is_file()), None)

    return find


def without_ground_truth(metrics: Iterable[Metric], ground_truth: bool) -> list[str]:
    """The metrics that need a truth where there is none."""
    return [m.key for m in metrics if MetricInput.GROUND_TRUTH in m.needs and not ground_truth]
