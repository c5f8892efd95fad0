"""Parts that several commands share."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from core.errors import TimmscopeError, unknown
from core.inputs.crop import Crop, read_crop
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.methods.configuration import Configuration, by_name
from core.metrics.base import METRICS, Metric
from core.models.handle import ModelHandle
from core.models.load import load_model
from core.registry import named_instances, parse_instance, split_names
from core.tasks.activation import ACTIVATIONS
from core.tasks.reading import TASKS, parse_part

Answer = tuple[Mapping[str, Any], int]
"""The JSON object of a command and its exit code."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        help: what it does, for ``--help``.
        configure: adds its arguments to a parser.
        run: carries it out.
        needs_model: whether it takes ``--model`` and what goes with it.
    """

    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Answer]
    needs_model: bool = True


def no_arguments(command: argparse.ArgumentParser) -> None:
    """For commands that take none."""


def count(text: str) -> int:
    """A whole number from 0 to 10000, as an argument's type.

    Raises:
        ArgumentTypeError: the text is no such number.
    """
    if not text.isascii() or not text.isdigit() or int(text) > 10_000:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number from 0 to 10000")
    return int(text)


def add_method_arguments(command: argparse.ArgumentParser, methods: str = "gradcam") -> None:
    """``--methods``, ``--set``, ``--layer`` and ``--seed``, the same for all commands that explain.

    Args:
        command: the parser.
        methods: the default of ``--methods``.
    """
    command.add_argument(
        "--methods",
        default=methods,
        help="names, comma separated: gradcam, gradcam@LAYER, lime(samples=200); see 'methods'",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY.PARAM=VALUE", help="a parameter"
    )
    command.add_argument("--layer", help="the layer of CAM or attention methods; see 'layers'")
    command.add_argument("--seed", type=int, default=0, help="where random draws start")


def add_crop_argument(command: argparse.ArgumentParser) -> None:
    """``--crop``, the same for all commands that take pictures."""
    command.add_argument(
        "--crop",
        type=_crop,
        metavar="whole|BOX",
        help="the part of each picture that the model sees: all of it, padded, or "
        "left,top,right,bottom in pixels; by default the model's own crop",
    )


def _crop(text: str) -> Crop:
    """A part of a picture, as an argument's type.

    Raises:
        ArgumentTypeError: the text is none.
    """
    try:
        return read_crop(text)
    except TimmscopeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_evidence_arguments(command: argparse.ArgumentParser, files: str) -> None:
    """``--ground-truth``, ``--ground-truth-label`` and ``--random-maps``.

    Args:
        command: the parser.
        files: what may be given beside a box, for the help.
    """
    command.add_argument(
        "--ground-truth",
        metavar="FILE|BOX",
        help=f"where the evidence is: {files}, or left,top,right,bottom",
    )
    command.add_argument(
        "--ground-truth-label",
        help="only objects of this class in the annotation; in a mask, its number",
    )
    command.add_argument(
        "--random-maps", type=count, default=0, metavar="N", help="rank maps among N random ones"
    )


def parse_settings(pairs: Sequence[str]) -> dict[str, dict[str, object]]:
    """Parameters by method or metric from ``key.param=value`` strings.

    >>> parse_settings(["integrated_gradients.steps=20"])
    {'integrated_gradients': {'steps': '20'}}
    """
    settings: dict[str, dict[str, object]] = {}
    for pair in pairs:
        match = re.fullmatch(r"([\w+]+)\.(\w+)=(.*)", pair, re.DOTALL)
        if match is None:
            raise TimmscopeError(f"--set {pair!r} is not of the form key.param=value")
        key, name, value = match.groups()
        owner = METRICS[key] if key in METRICS else METHODS[key]
        settings.setdefault(owner.key, {})[name] = value
    return settings


def parse_methods(names: str, settings: dict[str, dict[str, object]]) -> dict[str, Configuration]:
    """Methods by comma separated names; settings that concern them are taken out.

    Args:
        names: keys or configurations, such as "gradcam,lime(samples=20),gradcam@layer3".
        settings: parameters by key, for what the names do not set.

    Returns:
        By the name that tells them apart; see `core.methods.configuration.by_name`.

    Raises:
        UnknownNameError: there is no such method or parameter.
    """
    found = [Configuration.parse(name, settings) for name in split_names(names)]
    for one in found:
        settings.pop(one.method.key, None)
    return by_name(found)


def parse_metrics(names: str, settings: dict[str, dict[str, object]]) -> dict[str, Metric]:
    """Metrics by comma separated names; settings that concern them are taken out.

    Raises:
        UnknownNameError: there is no such metric or parameter.
    """
    found = [parse_instance(METRICS, name, settings) for name in split_names(names)]
    for one in found:
        settings.pop(one.key, None)
    return named_instances(found)


def add_model_arguments(command: argparse.ArgumentParser, default: str) -> None:
    """``--model`` and all that says how it is loaded and read.

    Args:
        command: the parser.
        default: the default of ``--model``.
    """
    add = command.add_argument
    add("--model", default=default, help="a timm name, hf-hub:owner/name, or a folder")
    add("--weights", help="a checkpoint file, or 'random'")
    add("--labels", type=Path, help="a file of class names")
    add("--device", help="cpu, cuda, cuda:1, mps; chosen automatically by default")
    add(
        "--preprocessing", action="append", default=[], metavar="KEY=VALUE",
        help="mean, std, input_size, interpolation, crop_pct, crop_mode, resize, value_range; "
        "in place of the model's own",
    )  # fmt: skip
    add(
        "--activation", choices=list(ACTIVATIONS),
        help="what turns scores into what you read; found from the model by default",
    )  # fmt: skip
    add("--unit", default="", help="the unit of outputs that are numbers (--activation identity)")
    add(
        "--output", type=parse_part, metavar="NAME|NUMBER",
        help="which part of what the model returns holds its scores",
    )  # fmt: skip
    add(
        "--task", choices=TASKS,
        help="whether the model scores whole pictures or each pixel; told by what it returns by "
        "default",
    )  # fmt: skip


def model_of(arguments: argparse.Namespace) -> ModelHandle:
    """The model that the arguments of `add_model_arguments` name.

    Raises:
        TimmscopeError: it cannot be loaded, or an argument is unusable.
    """
    settings = parse_preprocessing(arguments.preprocessing)
    return load_model(
        arguments.model,
        weights=arguments.weights,
        labels=arguments.labels,
        device=arguments.device,
        preprocessing=settings or None,
        activation=arguments.activation,
        unit=arguments.unit,
        output=arguments.output,
        task=arguments.task,
    )


def parse_preprocessing(pairs: Sequence[str]) -> dict[str, object]:
    """Settings of the preprocessing from ``key=value`` strings.

    >>> parse_preprocessing(["mean=0.5", "input_size=3,224,224", "crop_mode=squash", "resize=256"])
    {'mean': 0.5, 'input_size': (3, 224, 224), 'crop_mode': 'squash', 'resize': (256,)}
    """
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not text.strip():
            raise TimmscopeError(f"--preprocessing {pair!r} is not of the form key=value")
        if key not in (names := [field.name for field in fields(Preprocessing)]):
            raise unknown("preprocessing setting", key, names)
        numbers = tuple(_number(part) for part in text.split(","))
        if key in ("interpolation", "crop_mode", "backend", "crop_rounding"):
            settings[key] = text.strip()
        elif None in numbers:
            raise TimmscopeError(f"--preprocessing {pair!r}: {key} takes numbers, comma separated")
        else:
            settings[key] = numbers if len(numbers) > 1 or key == "resize" else numbers[0]
    return settings


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def refuse_unused(settings: Mapping[str, object], where: str) -> None:
    """Refuse parameters of what is not asked for.

    Raises:
        TimmscopeError: there are any.
    """
    if settings:
        raise TimmscopeError(
            f"--set names {', '.join(settings)}, which {where} does not name; add it there"
        )


def printable(name: str) -> str:
    """A file's name for a line on a terminal: no control characters, no broken encoding."""
    return "".join(c if c.isprintable() else "?" for c in name)


def check_writable(folder: Path | None) -> None:
    """Find out before the work whether its files can be written."""
    if folder is not None:
        with writing(folder):
            tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A block that writes into `folder`, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise TimmscopeError(f"cannot write to {str(folder)!r}: {error.strerror}") from None


def to_json(answer: object) -> str:
    """JSON in ASCII: it can be written whatever the encoding of stdout or of a file's name."""
    return json.dumps(answer, allow_nan=False, indent=2)
