"""Class names: given by the caller, from the model's configuration, or from ImageNet."""

from __future__ import annotations

import ast
import functools
import json
import textwrap
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from core.errors import ModelError

_LONGEST_FILE = 32_000_000


def given_labels(labels: Sequence[str] | str | Path, classes: int | None) -> tuple[str, ...]:
    """Class names given by the caller.

    Args:
        labels: the names in output order; or a file: `.json` (a list, {index: name} or
            {name: index}), or any other text file with one name per line.
        classes: how many there must be; None if unknown.

    Returns:
        The names; equal names get their class number appended.

    Raises:
        ModelError: the file cannot be read, or the number of names is wrong.

    >>> given_labels(["cat", "dog"], classes=2)
    ('cat', 'dog')
    >>> given_labels(["cat", "dog"], classes=3)
    Traceback (most recent call last):
    core.errors.ModelError: the labels name 2 classes and the model has 3; give one name per class
    """
    path = Path(labels) if isinstance(labels, str | Path) else None
    what = "the labels" if path is None else f"labels file {path.name!r}"
    names = _names(_read(path) if path is not None else labels)
    if names is None:
        raise ModelError(
            f"{what} must be a list of names, or map every class index from 0 on to a name"
        )
    if classes is not None and len(names) != classes:
        raise ModelError(
            f"{what} name{'s' * (path is not None)} {len(names)} classes and the model has "
            f"{classes}; give one name per class"
        )
    return _distinct(names)


def inferred_labels(cfg: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Class names from a model's configuration, or from the ImageNet variant of that many classes.

    Args:
        cfg: timm's `pretrained_cfg`; `label_names` and `label_descriptions` are read.
        classes: number of classes of the model.

    Returns:
        One distinct name per class; None if they are unknown.

    >>> inferred_labels({"label_names": ["n01", "n02"], "label_descriptions": {"n01": "tench"}}, 2)
    ('tench', 'n02')
    >>> imagenet = inferred_labels({}, 1000)
    >>> imagenet[282], imagenet[134], imagenet[639]
    ('tiger cat', 'crane (large long-necked wading bird of marshes ...)', 'maillot, tank suit')
    """
    names = _names(cfg.get("label_names"))
    if names is None:
        subset = infer_imagenet_subset({"num_classes": classes})
        return _imagenet(subset) if subset else None
    if len(names) != classes:
        return None
    descriptions = cfg.get("label_descriptions")
    descriptions = descriptions if isinstance(descriptions, Mapping) else {}
    return _distinct([_clean(str(descriptions.get(name) or name)) for name in names])


def file_labels(facts: Mapping[str, Any], classes: int | None) -> list[str] | None:
    """Class names that a file of weights holds, in output order.

    Args:
        facts: what the file holds beside the weights; names may be lists, {index: name},
            {name: index}, or any of these as text.
        classes: how many there must be.

    Returns:
        The names; None if there are none, or another number of them.

    >>> file_labels({"epoch": 3, "hyper_parameters": {"class_to_idx": {"dog": 1, "cat": 0}}}, 2)
    ['cat', 'dog']
    >>> file_labels({"classes": '["cat", "dog"]'}, 2)
    ['cat', 'dog']
    """
    for place in (facts, *(_literal(facts.get(key)) for key in _PLACES)):
        place = vars(place) if isinstance(place, Namespace) else place
        if not isinstance(place, Mapping):
            continue
        for key in _NAMES:
            names = _names(_literal(place.get(key)))
            if names is not None and len(names) == classes:
                return names
    return None


_PLACES = ("meta", "metadata", "dataset_meta", "hyper_parameters", "hparams", "args", "config")
_NAMES = ("class_names", "classes", "CLASSES", "label_names", "labels", "names", "id2label",
          "idx_to_class", "class_to_idx", "label2id")  # fmt: skip


def _literal(value: Any) -> Any:
    """A text that writes out a list or dictionary as what it writes; anything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{", "(")):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


@functools.cache
def _imagenet(subset: str) -> tuple[str, ...]:
    """ImageNet's class names, each as short as possible but distinct."""
    info = ImageNetInfo(subset)
    synonyms = info.label_descriptions()
    definitions = (text.partition(": ")[2] for text in info.label_descriptions(detailed=True))
    first = [text.partition(",")[0].strip() for text in synonyms]
    defined = [
        f"{name} ({textwrap.shorten(text.partition(';')[0], 45, placeholder=' ...')})"
        for name, text in zip(first, definitions, strict=True)
    ]
    return _distinct(first, synonyms, defined)


def _distinct(names: Sequence[str], *longer: Sequence[str]) -> tuple[str, ...]:
    """Makes names distinct, ignoring case.

    Equal names are replaced by the next of their `longer` forms, and at last by the name with its
    class number.
    """
    numbered = [f"{name} (class {i})" for i, name in enumerate(names)]
    for form in (*longer, numbered):
        count = Counter(name.casefold() for name in names)
        names = [
            long if count[name.casefold()] > 1 else name
            for name, long in zip(names, form, strict=True)
        ]
    return tuple(names)


def _read(path: Path) -> Any:
    """The content of a labels file: parsed JSON, or a list of lines."""
    is_json = path.suffix.lower() == ".json"
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_LONGEST_FILE + 1)
        content = json.loads(text) if is_json else text.strip().splitlines()
    except OSError as error:
        raise ModelError(
            f"cannot read labels file {str(path)!r} ({error.strerror}); check its path"
        ) from error
    except (ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "UTF-8 text"
        raise ModelError(
            f"labels file {path.name!r} is not {kind}; write one name per line, or a JSON list"
        ) from error
    if len(text) > _LONGEST_FILE:
        raise ModelError(f"labels file {path.name!r} is too long; give one name per line")
    return content


def _names(content: Any) -> list[str] | None:
    """Names in output order from a list, {index: name} or {name: index}; None for other content."""
    if isinstance(content, Mapping):
        if content and all(isinstance(value, int) for value in content.values()):
            content = {index: name for name, index in content.items()}
        try:
            by_index = {int(index): name for index, name in content.items()}
        except (ValueError, TypeError):
            return None
        content = [by_index.get(i) for i in range(len(content))]
    if not isinstance(content, Sequence) or isinstance(content, str | bytes) or not content:
        return None
    names = [_clean(name) for name in content if isinstance(name, str)]
    return names if len(names) == len(content) and all(names) else None


def _clean(name: str) -> str:
    """A name on one line without unprintable characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())
