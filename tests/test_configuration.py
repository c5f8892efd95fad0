"""One method beside itself: configurations by name, in Python, on the command line and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core import METHODS, METRICS, Explainer
from core.cli import main
from core.errors import TimmscopeError, UnknownNameError
from core.evaluation.evaluate import evaluate
from core.evaluation.statistics import summary
from core.methods.configuration import Configuration, by_name, label_of, to_configuration
from core.registry import changed_parameters, named_instances, parse_instance, split_names
from core.tasks.query import Query
from dashboard import actions
from dashboard.actions import (
    NO_CLASS,
    CompareRequest,
    CurveStepRequest,
    Evidence,
    MeasureRequest,
    Question,
)
from dashboard.state import Service
from tests.conftest import QUICK, SAMPLES, images, shared_handle

TWICE = ["occlusion(window=64, stride=64)", "occlusion(window=80, stride=80)", "gradcam"]


@pytest.mark.parametrize("key", METHODS)
def test_a_name_gives_the_method_again(key: str) -> None:
    method = METHODS.make(key, QUICK.get(key, {}))
    name = Configuration(method, "layer3").name
    assert Configuration.parse(name) == Configuration(method, "layer3")
    assert to_configuration(name) == Configuration(method, "layer3")
    assert label_of(name).startswith(f"{METHODS[key].label} at layer3")


@pytest.mark.parametrize("key", METRICS)
def test_a_metrics_name_gives_the_metric_again(key: str) -> None:
    metric = METRICS.make(key)
    assert changed_parameters(metric) == ""
    assert parse_instance(METRICS, key) == metric


def test_what_is_given_by_name_goes_before_the_settings() -> None:
    settings = {"lime": {"samples": 30, "segments": 9}}
    found = Configuration.parse("lime(samples=20)", settings).method.model_dump()
    assert (found["samples"], found["segments"]) == (20, 9)


def test_only_what_stands_twice_needs_its_full_name() -> None:
    names = ["lime(samples=20)", "gradcam@layer3", "gradcam", "lime(samples=20)"]
    found = by_name(map(Configuration.parse, names))
    assert list(found) == ["lime", "gradcam@layer3", "gradcam"]
    metrics = [METRICS.make("deletion", {"steps": steps}) for steps in (28, 5, 5)]
    assert list(named_instances(metrics)) == ["deletion", "deletion(steps=5)"]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("lyme", UnknownNameError, "did you mean 'lime'"),
        ("lime(sample=20)", UnknownNameError, "lime has no parameter 'sample'"),
        ("lime(samples)", TimmscopeError, "write parameter=value"),
        ("lime(samples=20", TimmscopeError, "is no method"),
        ("lime)samples(", TimmscopeError, "is no method"),
        ("lime(samples=3)", TimmscopeError, "lime.samples = 3"),
        ("", TimmscopeError, "is no method"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")):
        Configuration.parse(name)


def test_names_may_hold_commas_within_brackets() -> None:
    assert split_names(", ".join(TWICE)) == TWICE


def test_one_method_is_compared_with_itself() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    found = explainer.compare(x, [*TWICE, "gradcam@layer2", "attention"], target=1)
    assert list(found.results) == [*TWICE, "gradcam@layer2"]
    assert list(found.errors) == ["attention"]
    for name, answer in found.results.items():
        one = Configuration.parse(name)
        alone = explainer.explain(x, one, target=1)
        assert torch.equal(answer.values, alone.values)
        assert answer.params == one.method.model_dump()
    layers = [found.results[name].layer for name in ("gradcam", "gradcam@layer2")]
    assert layers == [owner.default_layer, "layer2"]
    assert list(explainer.agreement(x, found.results).methods) == list(found.results)


def test_a_wrong_parameter_costs_only_that_configuration() -> None:
    owner = shared_handle("resnet")
    found = Explainer(owner).compare(images(owner, 1), ["gradcam", "lime(samples=3)"], target=1)
    assert list(found.results) == ["gradcam"]
    assert "lime.samples = 3" in found.errors["lime(samples=3)"]


def test_a_recommendation_chooses_between_configurations(lite0: Explainer) -> None:
    query = lite0.query(SAMPLES / "coffee.jpg")
    names = ["gradcam", "gradcam(relu=False)"]
    advice = lite0.recommend(query, lite0.compare(query, names).results)
    assert {one.method for one in advice.ranking} == set(names)
    assert advice.method in names
    assert label_of(str(advice.method)) in advice.words


def test_a_query_is_asked_of_several_methods_and_metrics(lite0: Explainer) -> None:
    picture = SAMPLES / "coffee.jpg"
    query = lite0.query(picture, target="espresso", seed=3)
    assert isinstance(query, Query)
    assert len(query) == 1
    answer = lite0.explain(query, "gradcam")
    asked = lite0.explain(picture, "gradcam", target="espresso", seed=3)
    assert torch.equal(answer.values, asked.values)
    assert lite0.query(query) is query
    score = lite0.measure(query, answer, "deletion", steps=4)
    again = lite0.measure(picture, answer, "deletion", target="espresso", seed=3, steps=4)
    assert torch.equal(score.value, again.value)
    with pytest.raises(TypeError, match="already says its target"):
        lite0.explain(query, "gradcam", target=1)
    with pytest.raises(TypeError, match="compare takes no steps"):
        lite0.compare(query, ["gradcam"], steps=3)


def test_no_parameter_is_called_like_a_part_of_the_query() -> None:
    parts = {"target", "layer", "extra_layers", "seed", "ground_truth", "on_progress"}
    for cls in (*METHODS.values(), *METRICS.values()):
        assert not parts & set(cls.model_fields), cls.key


def test_an_evaluation_has_a_row_for_each_configuration(lite0: Explainer) -> None:
    picture = SAMPLES / "coffee.jpg"
    metrics = ["complexity", "deletion(steps=2)", "deletion(steps=3)"]
    rows = list(evaluate(lite0, [picture], TWICE, metrics))
    keys = {row.key[1:] for row in rows}
    assert {(name, metric) for name in TWICE for metric in metrics} <= keys
    assert not [row.error for row in rows if row.error]
    values = [row.value for row in rows if row.metric == "complexity" and row.method in TWICE]
    assert len(set(values)) == 3
    done = {row.key for row in rows if row.method != TWICE[1]}
    rest = list(evaluate(lite0, [picture], TWICE, metrics, done=done))
    assert {row.method for row in rest} == {TWICE[1]}
    assert [row.value for row in rest] == [row.value for row in rows if row.method == TWICE[1]]
    found = summary(rows)
    assert set(TWICE) <= set(found["deletion(steps=2)"]["methods"])


def test_the_command_line_takes_a_method_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", str(SAMPLES / "coffee.jpg"), "--methods", ", ".join(TWICE)]
    assert main([*words, "--output-dir", str(tmp_path), "--save", "npz"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["images"]
    assert list(report["results"]) == TWICE
    files = {Path(result["files"]["npz"]).name for result in report["results"].values()}
    assert files == {path.name for path in tmp_path.iterdir()}
    assert files == {
        "coffee.gradcam.npz",
        "coffee.occlusion_window-64_stride-64.npz",
        "coffee.occlusion_window-80_stride-80.npz",
    }
    assert report["agreement"]["methods"] == TWICE


def test_the_page_shows_a_method_twice() -> None:
    service = Service()
    picture = str(SAMPLES / "coffee.jpg")
    question = Question(picture, "tf_efficientnet_lite0", "pretrained", None, NO_CLASS, "logit")
    settings = {"occlusion": {"window": 80, "stride": 80}}
    methods = ["gradcam", "occlusion(window=64, stride=64)", "occlusion"]
    found = actions.compare(service, CompareRequest(question, methods, settings, None))
    labels = [
        "Grad-CAM",
        "Occlusion (window=64, stride=64)",
        "Occlusion (window=80, stride=80)",
    ]
    picture, *maps = found.panels
    assert picture["title"] == "Picture"
    assert [panel["title"] for panel in maps[:3]] == labels
    assert {row[0] for row in found.table} == set(labels)
    assert maps[1]["figure"] != maps[2]["figure"]
    request = MeasureRequest(
        question, methods[1:], ["deletion"], {**settings, "deletion": {"steps": 2}}, None,
        Evidence(), 0,
    )  # fmt: skip
    measured = actions.measure(service, request)
    assert [row[0] for row in measured.table[:2]] == labels[1:]
    choices = actions.curve_choices(measured.curves)
    assert [label for label, _ in choices[:2]] == [f"{label}: deletion" for label in labels[1:]]
    steps = [
        actions.curve_step(service, CurveStepRequest(question, curve, 50, request.settings, None))
        for _, curve in choices[:2]
    ]
    assert steps[0].panels[0]["figure"] != steps[1].panels[0]["figure"]
