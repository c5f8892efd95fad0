"""What everything that is registered owes: facts, a complete schema, sentences for mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor

from core import METHODS, METRICS, Explainer, TimmscopeError
from core.errors import UnknownNameError
from core.methods.base import Family, Method, control_keys, register
from core.metrics.base import Category
from core.metrics.verdict_rule import TONES
from core.registry import Parameters, Registry
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Cost, Group, Need, Property
from tests.conftest import images, shared_handle

EVERYTHING = [pytest.param(r, key, id=key) for r in (METHODS, METRICS) for key in r]
FIELDS = [
    pytest.param(r, key, name, id=f"{key}.{name}")
    for r in (METHODS, METRICS)
    for key, cls in r.items()
    for name in cls.model_fields
]


def test_the_methods_and_metrics_promised_are_there() -> None:
    assert set(METHODS) >= {
        *("gradcam", "gradcam_plus_plus", "hirescam", "layercam"),
        *("saliency", "input_x_gradient", "smoothgrad", "integrated_gradients", "occlusion"),
        *("attention", "attention_rollout", "random", "sobel", "centre"),
    }
    assert set(METRICS) >= {"deletion", "insertion"}


@pytest.mark.parametrize(("registry", "key"), EVERYTHING)
def test_facts(registry: Registry[Any], key: str) -> None:
    cls = registry[key]
    assert cls.key == key
    assert key.isidentifier()
    assert key == key.lower()
    assert cls.label
    assert len(cls.label) <= 30
    assert cls.about[0].isupper()
    assert cls.about.endswith((".", "?"))
    assert cls.__doc__
    assert cls.paper.startswith(("arXiv:", "10.")) or getattr(cls, "family", "") == "control"


@pytest.mark.parametrize("key", METHODS)
def test_facts_of_methods(key: str) -> None:
    cls = METHODS[key]
    assert isinstance(cls.family, Family)
    assert cls.is_control == (cls.family == "control")
    assert all(isinstance(need, Need) for need in cls.needs)
    assert all(isinstance(law, Property) for law in cls.properties)
    assert cls().requires() >= cls.needs or key == "smoothgrad"


@pytest.mark.parametrize("key", METRICS)
def test_facts_of_metrics(key: str) -> None:
    cls = METRICS[key]
    assert isinstance(cls.higher_is_better, bool)
    assert cls.range[0] < cls.range[1]
    assert isinstance(cls.category, Category)
    assert cls.category not in cls.also_answers
    if rule := cls.verdict_rule:
        assert {rule.assess(value, {}).tone for value in (-1.0, 0.85, 0.95, 9.0)} <= set(TONES)


@pytest.mark.parametrize("group", [*Family, *Category])
def test_groups_are_strings_with_a_label_and_a_description(group: Group) -> None:
    assert group == group.value == str(group)
    assert type(group)(group.value) is group
    assert group.label[0].isupper()
    assert group.description.endswith((".", "?"))
    assert list(type(group))[group.order] is group
    assert json.dumps({"group": group}) == f'{{"group": "{group.value}"}}'


def test_a_group_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'colour' is not a valid Family"):
        register("x", label="x", family="colour", about="x.")(Method)


def test_controls_are_the_methods_that_ignore_the_model() -> None:
    assert control_keys() == [k for k, c in METHODS.items() if Property.MODEL_FREE in c.properties]


@pytest.mark.parametrize(("registry", "key"), EVERYTHING)
def test_labels_are_distinct(registry: Registry[Any], key: str) -> None:
    assert [cls.label for cls in registry.values()].count(registry[key].label) == 1


@pytest.mark.parametrize(("registry", "key", "name"), FIELDS)
def test_a_parameters_schema_is_complete(registry: Registry[Any], key: str, name: str) -> None:
    facts = registry[key].schema_of_fields()[name]
    assert {"title", "description", "default"} <= facts.keys()
    assert facts["type"] in {"integer", "number", "boolean", "string", "array"}
    if facts["type"] in {"integer", "number"}:
        assert facts["minimum"] <= facts["default"] <= facts["maximum"]
    if facts["type"] == "string":
        assert "enum" in facts or "pattern" in facts
        assert "enum" not in facts or facts["default"] in facts["enum"]
    if facts["type"] == "array":
        assert facts["items"]["enum"]
        assert facts["minItems"] <= len(facts["default"]) <= facts["maxItems"]


@pytest.mark.parametrize(("registry", "key"), EVERYTHING)
def test_defaults_are_valid_and_survive_json(registry: Registry[Any], key: str) -> None:
    plain = registry.make(key)
    saved = json.loads(json.dumps(plain.model_dump(mode="json")))
    assert registry.make(key, saved) == plain
    assert registry.make(key, plain.model_dump()) == plain
    assert hash(plain) == hash(registry.make(key))
    json.dumps(registry[key].schema_of_fields())


@pytest.mark.parametrize(("registry", "key"), EVERYTHING)
def test_an_instance_is_immutable(registry: Registry[Any], key: str) -> None:
    instance = registry.make(key)
    for name in registry[key].model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(instance, name, None)


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("registry", "key"), EVERYTHING)
def test_an_unknown_parameter_is_named_with_those_there_are(
    registry: Registry[Any], key: str
) -> None:
    with pytest.raises(UnknownNameError) as refusal:
        registry.make(key, {"colour": 1})
    sentence = str(refusal.value)
    assert sentence.startswith(f"{key} has no parameter 'colour'; it has ")
    assert all(name in sentence for name in registry[key].model_fields)


@pytest.mark.parametrize(("registry", "key", "name"), FIELDS)
def test_a_value_that_does_not_do_is_named(registry: Registry[Any], key: str, name: str) -> None:
    facts = registry[key].schema_of_fields()[name]
    bad: list[object] = ["definitely not", None, float("nan")]
    if "minimum" in facts:
        bad += [facts["minimum"] - 1, facts["maximum"] + 1, str(facts["maximum"] + 1), 10**400]
    if facts["type"] == "array":
        bad += ["", ["black"] * (facts["maxItems"] + 1), "black,,white"]
    for value in bad:
        with pytest.raises(TimmscopeError) as refusal:
            registry.make(key, {name: value})
        sentence = str(refusal.value)
        assert sentence.startswith(f"{key}.{name}")
        assert " = " in sentence
        assert "\n" not in sentence
        assert len(sentence) < 400


def test_an_unknown_key_is_named_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="no method 'gradcan'; did you mean 'gradcam'"):
        METHODS.make("gradcan")
    with pytest.raises(UnknownNameError, match="no metric 'gradcam'"):
        METRICS.make("gradcam")


# -- what the command line gives ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name", "text", "value"),
    [
        ("integrated_gradients", "steps", "20", 20),
        ("integrated_gradients", "baselines", "black,white", ("black", "white")),
        ("integrated_gradients", "baselines", "blur+mean", ("blur", "mean")),
        ("integrated_gradients", "baselines", "zero", ("zero",)),
        ("gradcam", "relu", "true", True),
        ("gradcam", "relu", "off", False),
        ("gradcam", "relu", "0", False),
        ("smoothgrad", "noise", "0.2", 0.2),
        ("smoothgrad", "base", "gradcam", "gradcam"),
        ("attention", "head", "-1", -1),
        ("attention", "query", "17", "17"),
        ("attention_rollout", "discard", "1e-1", 0.1),
        ("occlusion", "baseline", "blur", "blur"),
    ],
)
def test_text_is_taken(key: str, name: str, text: str, value: object) -> None:
    assert getattr(METHODS.make(key, {name: text}), name) == value


@pytest.mark.parametrize("alias", ["gradcam++", "gradcampp"])
def test_aliases(alias: str) -> None:
    assert METHODS[alias] is METHODS["gradcam_plus_plus"]
    assert alias in METHODS
    assert alias not in list(METHODS)
    assert METHODS.make(alias, {"relu": False}).key == "gradcam_plus_plus"


def test_an_instance_passes_through_and_takes_changes() -> None:
    instance = METHODS.make("integrated_gradients", {"steps": 7})
    assert METHODS.make(instance) is instance
    changed = METHODS.make(instance, {"baselines": "white"})
    assert changed.model_dump() == {"steps": 7, "baselines": ("white",), "tolerance": 0.0}
    with pytest.raises(TimmscopeError, match=r"integrated_gradients\.steps = 0"):
        METHODS.make(instance, {"steps": 0})


# -- a method is one class ----------------------------------------------------------------------


@pytest.fixture
def brightness() -> Iterator[type[Method]]:
    @register("brightness", label="Brightness", family="control", about="A test.")
    class Brightness(Method):
        """The picture itself."""

        gain: float = Field(1.0, ge=0, le=10, description="How bright")

        def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
            return Cost(1)

        def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
            return self.gain * run.x.mean(1), run.score()

    yield Brightness
    del METHODS._classes["brightness"]


def test_one_class_is_a_method_everywhere(brightness: type[Method]) -> None:
    explainer = Explainer(shared_handle("resnet"))
    x = images(explainer.model, 2)
    answer = explainer.explain(x, "brightness", gain="3", target=1)
    torch.testing.assert_close(answer.values, 3 * x.mean(1))
    assert (answer.method, answer.params, answer.layer) == ("brightness", {"gain": 3.0}, None)
    assert list(explainer.compare(x, ["brightness", "gradcam"]).results) == [
        "brightness",
        "gradcam",
    ]
    assert "brightness" in explainer.controls(x, "deletion", steps=2)
    with pytest.raises(TimmscopeError, match=r"brightness\.gain = 11"):
        explainer.explain(x, brightness.key, gain=11)


def test_it_is_gone_again() -> None:
    assert "brightness" not in METHODS
    with pytest.raises(UnknownNameError):
        METHODS.make("brightness")


def test_a_key_can_be_taken_only_once() -> None:
    class Impostor(Method):
        """Another Grad-CAM."""

        def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
            return run.x.mean(1), run.score()

    with pytest.raises(TypeError, match="method 'gradcam' is registered twice"):
        register("gradcam", label="x", family="cam", about="x.")(Impostor)
    assert METHODS["gradcam"] is not Impostor


def test_a_registry_is_a_mapping_found_in_its_package() -> None:
    found: Registry[Parameters] = Registry("metric", "core.metrics")
    assert len(found) == 0  # whose modules are imported already and registered elsewhere
    assert len(METHODS) == len(list(METHODS)) == len(dict(METHODS.items()))
    assert "nothing" not in METHODS


FIRST_USE = """
import threading
from core.methods.base import METHODS
meet, seen = threading.Barrier(8), []
def ask():
    meet.wait()
    seen.append(len(METHODS))
threads = [threading.Thread(target=ask) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert len(set(seen)) == 1 and seen[0] >= 13, seen
"""


def test_nobody_meets_half_a_registry() -> None:
    subprocess.run(
        [sys.executable, "-c", FIRST_USE], cwd=Path(__file__).parents[1], check=True, timeout=120
    )
