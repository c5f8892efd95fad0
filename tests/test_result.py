"""Results: equal by value, without a hash, pickled and copied alone, short as text."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import core
from core import Explainer, Query
from core.inputs.batch import InputBatch
from core.inputs.display import encoded
from core.inputs.image import Picture, open_picture
from core.inputs.preprocessing import Preprocessing
from core.result import Result, in_short, same
from core.tasks.base import Target
from core.tasks.classification import ClassScore
from core.types import Attribution, Comparison, PictureWords, Prediction, Score
from tests.conftest import images, shared_handle

# -- every type -----------------------------------------------------------------------------------


def all_modules() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(core.__path__, "core."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def parts(hint: Any) -> Iterator[Any]:
    """The classes that a type hint names."""
    if inspect.isclass(hint) and not typing.get_args(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from parts(inner)


def answers() -> set[type]:
    """The dataclasses that methods of an explainer return, and those within them."""
    found: set[type] = {Query}
    for name, method in inspect.getmembers(Explainer, inspect.isfunction):
        if not name.startswith("_"):
            found |= set(parts(typing.get_type_hints(method).get("return")))
    while True:
        fields = {c for cls in found if dataclasses.is_dataclass(cls) for c in within(cls)}
        if fields <= found:
            return {cls for cls in found if dataclasses.is_dataclass(cls) and cls is not Target}
        found |= fields


def within(cls: Any) -> set[type]:
    return {c for hint in typing.get_type_hints(cls).values() for c in parts(hint)}


MODULES = list(all_modules())
RESULTS = sorted(
    {
        cls
        for module in MODULES
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Result) and cls is not Result
    },
    key=lambda cls: cls.__name__,
)
EACH_RESULT = pytest.mark.parametrize("cls", RESULTS, ids=lambda cls: cls.__name__)
MADE: dict[Any, Any] = {
    str: "<text>",
    int: 3,
    float: 0.25,
    bool: True,
    object: (1, "two"),
    Preprocessing: Preprocessing((3, 8, 8), (0.5,) * 3, (0.5,) * 3),
    Picture: open_picture(np.zeros((4, 5), np.uint8), name="p"),
    Target: ClassScore(1),
    bytes: encoded(Image.new("RGB", (3, 3))),
    PictureWords: PictureWords("a", "b", "c"),
}
"""One value of each type that is no dataclass of ours."""
SHAPES = {
    "value": (2,),
    "score": (2,),
    "low": (2,),
    "high": (2,),
    "scores": (2, 5),
}
"""The shapes of tensors by the name of their field; for two images."""


def make(hint: Any, draw: torch.Generator) -> Any:
    """A value of a type, tensors and dataclasses among them."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Tensor:
        return torch.rand(2, 3, 4, generator=draw)
    if origin is typing.Literal:
        return inner[0]
    if origin in (typing.Union, types.UnionType):
        return make(inner[0], draw)
    if origin is collections.abc.Callable:
        return len
    if origin is collections.abc.Mapping:
        return MappingProxyType({make(inner[0], draw): make(inner[1], draw)})
    if origin is collections.abc.Sequence:
        return [make(inner[0], draw)]
    if origin is tuple:
        one_each = inner if ... not in inner else inner[:1] * 2
        return tuple(make(one, draw) for one in one_each)
    if dataclasses.is_dataclass(hint) and hint not in MADE:
        hints = typing.get_type_hints(hint)
        return hint(**{f.name: field_of(f.name, hints, draw) for f in dataclasses.fields(hint)})
    return MADE[hint]


def field_of(name: str, hints: Mapping[str, Any], draw: torch.Generator) -> Any:
    if name == "values" and "scores" in hints:  # those of a prediction, not of a map
        name = "scores"
    if hints[name] in (Tensor, Tensor | None) and name in SHAPES:
        return torch.rand(SHAPES[name], generator=draw)
    return make(hints[name], draw)


def one_of(cls: Any, seed: int = 0) -> Any:
    return make(cls, torch.Generator().manual_seed(seed))


def test_all_that_an_explainer_answers_is_found() -> None:
    assert {Attribution, Comparison, Prediction, Score, Query, InputBatch} <= set(RESULTS)


@pytest.mark.parametrize(
    "cls", sorted(answers(), key=lambda c: c.__name__), ids=lambda c: c.__name__
)
def test_every_answer_is_a_result_or_holds_no_tensor(cls: Any) -> None:
    held = within(cls)
    plain = cls is Picture or not any(issubclass(c, (Tensor, Result, Mapping)) for c in held)
    assert issubclass(cls, Result) or plain


@EACH_RESULT
def test_a_result_leaves_its_rules_to_the_base(cls: Any) -> None:
    assert cls.__eq__ is Result.__eq__
    assert cls.__hash__ is None
    assert "__dict__" not in dir(cls), "add slots=True"
    assert dataclasses.fields(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one_of(cls), dataclasses.fields(cls)[0].name, 1)


@EACH_RESULT
def test_equal_by_value(cls: Any) -> None:
    one, twin, other = one_of(cls), one_of(cls), one_of(cls, seed=1)
    assert (one == twin) is True
    assert (one != twin) is False
    if any(isinstance(getattr(one, f.name), Tensor) for f in dataclasses.fields(cls)):
        assert (one == other) is False
    assert (one == 3) is False
    assert one.__eq__(3) is NotImplemented


@EACH_RESULT
def test_every_field_that_counts_makes_a_difference(cls: Any) -> None:
    one = one_of(cls)
    for field in dataclasses.fields(cls):
        changed = dataclasses.replace(one, **{field.name: "something else"})
        assert (one == changed) is (not field.compare), field.name


@EACH_RESULT
def test_no_hash(cls: Any) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(one_of(cls))


@EACH_RESULT
@pytest.mark.parametrize(
    "copied",
    [lambda result: pickle.loads(pickle.dumps(result)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_copy_is_equal(cls: Any, copied: Any) -> None:
    one = one_of(cls)
    twin = copied(one)
    assert twin == one
    assert twin is not one
    assert type(twin) is cls


@EACH_RESULT
def test_a_deep_copy_shares_no_tensor(cls: Any) -> None:
    one = one_of(cls)
    twin = copy.deepcopy(one)
    for field in dataclasses.fields(cls):
        if isinstance(value := getattr(twin, field.name), Tensor):
            value.zero_()
            assert getattr(one, field.name).any(), field.name


@EACH_RESULT
def test_the_text_is_short(cls: Any) -> None:
    text = repr(one_of(cls))
    assert text.startswith(f"{cls.__name__}(")
    assert len(text) < 400
    assert "tensor(" not in text


# -- values ---------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), True),
        (torch.tensor([1.0, NAN]), torch.tensor([NAN, 1.0]), False),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), False),
        (torch.zeros(2), torch.zeros(1, 2), False),
        (torch.zeros(0, 3), torch.zeros(0, 3), True),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), True),
        (torch.tensor([True]), torch.tensor([False]), False),
        (torch.zeros(1), 0.0, False),
        (None, torch.zeros(1), False),
        (torch.zeros(1), np.zeros(1, np.float32), False),
        (np.array([1.0, NAN]), np.array([1.0, NAN]), True),
        (np.array(["a"]), np.array(["a"]), True),
        (NAN, NAN, True),
        (NAN, 1.0, False),
        ([1, [torch.ones(1)]], (1, (torch.ones(1),)), True),
        ([1], [1, 2], False),
        ({"a": 1}, MappingProxyType({"a": 1}), True),
        ({"a": 1}, {"b": 1}, False),
        ("ab", ["a", "b"], False),
    ],
)
def test_values_are_compared(one: object, other: object, expected: bool) -> None:
    assert same(one, other) is expected
    assert same(other, one) is expected


def test_a_part_of_a_tensor_is_pickled_without_the_rest() -> None:
    whole = torch.zeros(1000, 8, 8)
    part = Score(whole[3, 0], "deletion", {"steps": 3}, curve_y=whole[:1, 0])
    assert len(pickle.dumps(part)) < 4000
    assert copy.deepcopy(part).value.untyped_storage().nbytes() == 32
    assert copy.copy(part).value.data_ptr() == part.value.data_ptr()


def test_a_value_with_a_gradient_can_be_copied() -> None:
    score = Score(torch.ones(2, requires_grad=True) * 2, "deletion", {})
    assert copy.deepcopy(score) == score == pickle.loads(pickle.dumps(score))


@pytest.mark.parametrize("value", ["w" * 999, list(range(999)), dict.fromkeys(map(str, range(99)))])
def test_long_values_are_cut(value: object) -> None:
    assert len(in_short(value)) <= 60


# -- real answers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> tuple[Explainer, Query]:
    owner = shared_handle("resnet")
    explainer = Explainer(owner)
    return explainer, explainer.query(images(owner, 2), target=1)


def test_an_answer_is_pickled_without_the_model(asked: tuple[Explainer, Query]) -> None:
    explainer, query = asked
    answer = explainer.explain(query, "gradcam")
    packed = pickle.dumps(answer)
    assert b"timm" not in packed
    assert b"ModelHandle" not in packed
    assert pickle.loads(packed) == answer == explainer.explain(query, "gradcam")


def test_comparisons_and_scores_are_equal_when_asked_twice(asked: tuple[Explainer, Query]) -> None:
    explainer, query = asked
    twice = [explainer.compare(query, ["gradcam", "saliency", "attention"]) for _ in range(2)]
    assert twice[0] == twice[1] == pickle.loads(pickle.dumps(twice[0]))
    assert twice[0] != explainer.compare(query, ["gradcam"])
    scores = [explainer.measure(query, twice[0].results["gradcam"], "sparseness") for _ in range(2)]
    assert scores[0] == scores[1]
    assert explainer.predict(query) == explainer.predict(query)


def test_a_question_is_pickled_without_its_callback(asked: tuple[Explainer, Query]) -> None:
    explainer, query = asked
    reporting = query.reporting(lambda done, expected: None)
    assert copy.deepcopy(reporting).on_progress is reporting.on_progress
    again = pickle.loads(pickle.dumps(reporting))
    assert again == query
    assert again.on_progress is None
    assert explainer.explain(again, "gradcam") == explainer.explain(query, "gradcam")


def test_pictures_of_equal_pixels_are_the_same_question(asked: tuple[Explainer, Query]) -> None:
    explainer, _ = asked
    one, other = (np.full((40, 40, 3), level, np.uint8) for level in (10, 200))
    assert explainer.prepare(one) == explainer.prepare(one.copy())
    assert explainer.prepare(one) != explainer.prepare(other)
    assert pickle.loads(pickle.dumps(explainer.prepare(one))) == explainer.prepare(one)
