"""What a model returns and what can be asked of it: activations, outputs, targets, other inputs."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core import Explainer, load_model
from core.errors import (
    ModelError,
    ModelFailure,
    NotApplicableError,
    TimmscopeError,
    UnknownNameError,
)
from core.export import prediction_facts
from core.models.handle import ModelHandle
from core.runtime.cache import Cache
from core.runtime.derived_state import DerivedState
from core.tasks.activation import PROBABILITIES, SIGMOID, to_activation
from core.tasks.base import Combination, FunctionTarget
from core.tasks.classification import Classification, ClassScore, to_target
from core.tasks.outputs import Scores
from core.tasks.reading import find_scores, parse_part, to_rows

SIZE = (3, 24, 24)
PREPARED = {"input_size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
CLASSES = 4
Pair = namedtuple("Pair", "embedding logits")


@dataclass
class Answer:
    """An output with attributes, as some libraries return."""

    embedding: Tensor
    logits: Tensor


class Net(nn.Module):
    """A small network whose outputs are far from zero and from each other."""

    def __init__(self, outputs: int = CLASSES, finish: Callable[[Tensor], Any] | None = None):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(3, 8, 5, 2, 2)
            self.deep = nn.Conv2d(8, 8, 3, 2, 1)
            self.head = nn.Linear(8, outputs)
            self.head.weight.data *= 40
        self.finish = finish

    def embed(self, x: Tensor) -> Tensor:
        return self.deep(self.conv(x).relu()).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        found = self.head(self.embed(x))
        return found if self.finish is None else self.finish(found)


class Ending(nn.Module):
    """A network followed by another module, nested as deep as told."""

    def __init__(self, last: nn.Module, outputs: int = CLASSES) -> None:
        super().__init__()
        self.net, self.last = Net(outputs), last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.net(x))


def pictures(count: int = 2) -> Tensor:
    return torch.randn((count, *SIZE), generator=torch.Generator().manual_seed(7))


def asked(model: nn.Module, **options: Any) -> Explainer:
    return Explainer(load_model(model.eval(), preprocessing=PREPARED, **options))


def plain(outputs: int = CLASSES, x: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return Net(outputs).eval()(pictures() if x is None else x)


# -- activations --------------------------------------------------------------------------------


def test_one_output_is_a_yes_or_no() -> None:
    explainer = asked(Net(1))
    said = explainer.predict(pictures())
    torch.testing.assert_close(said.values, plain(1).sigmoid())
    assert 0.001 < said.top(1)[0][2] < 0.999
    answer = explainer.explain(pictures(), "gradcam")
    score = explainer.measure(pictures(), answer, "deletion")
    assert score.curve_y is not None
    torch.testing.assert_close(score.curve_y[:, 0], plain(1).sigmoid()[:, 0])
    assert (score.curve_y[:, 0] - score.curve_y[:, -1]).abs().max() > 0.01
    assert prediction_facts(said)["confidence"] == pytest.approx(float(plain(1).sigmoid()[0, 0]))


def test_tags_are_each_on_their_own() -> None:
    explainer = asked(Net(20), activation="sigmoid")
    said = explainer.predict(pictures())
    torch.testing.assert_close(said.values, plain(20).sigmoid())
    assert not said.exclusive
    assert said.values.sum(1).max() > 1.5
    shown = explainer.explain(pictures(), "saliency", target=7)
    deleted = explainer.measure(pictures(), shown, "deletion", target=7)
    assert deleted.curve_y is not None
    torch.testing.assert_close(deleted.curve_y[:, 0], plain(20).sigmoid()[:, 7])


ENDINGS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Softmax": (lambda: Ending(nn.Softmax(1)), "softmax"),
    "Softmax of the last axis": (lambda: Ending(nn.Softmax(-1)), "softmax"),
    "LogSoftmax": (lambda: Ending(nn.LogSoftmax(1)), "softmax"),
    "Sigmoid": (lambda: Ending(nn.Sigmoid()), "sigmoid"),
    "nested": (
        lambda: nn.Sequential(Net(), nn.Sequential(nn.Identity(), nn.Softmax(1))),
        "softmax",
    ),
    "Tensor.softmax": (lambda: Net(finish=lambda s: s.softmax(1)), "softmax"),
    "torch.softmax": (lambda: Net(finish=lambda s: torch.softmax(s, dim=-1)), "softmax"),
    "torch.sigmoid": (lambda: Net(finish=torch.sigmoid), "sigmoid"),
    "in a dict": (lambda: Net(finish=lambda s: {"probabilities": s.softmax(1)}), "softmax"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_head_that_ends_in_its_activation_is_read_before_it(name: str) -> None:
    build, key = ENDINGS[name]
    explainer, bare = asked(build()), asked(Net(), activation=key)
    ours, theirs = explainer.predict(pictures()), bare.predict(pictures())
    assert ours.activation == key
    torch.testing.assert_close(ours.values, theirs.values)
    torch.testing.assert_close(ours.scores, plain())
    for method in ("fullgrad", "gradcam", "saliency", "occlusion"):
        one = explainer.explain(pictures(), method, target=[0, 2], **_layer(explainer, method))
        other = bare.explain(pictures(), method, target=[0, 2], **_layer(bare, method))
        torch.testing.assert_close(one.values, other.values)
    ours_deleted = explainer.measure(pictures(), one, "deletion", target=[0, 2])
    torch.testing.assert_close(
        ours_deleted.value, bare.measure(pictures(), other, "deletion", target=[0, 2]).value
    )


def _layer(explainer: Explainer, method: str) -> dict[str, str]:
    if method != "gradcam":
        return {}
    return {"layer": next(n for n in explainer.model.layers if n.endswith("deep"))}


@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp"])
def test_a_softmax_over_classes_is_no_attention(method: str) -> None:
    with pytest.raises(NotApplicableError, match="rules are for attention, and Ending uses none"):
        asked(Ending(nn.Softmax(1))).explain(pictures(), method)


def test_probabilities_that_cannot_be_undone_are_probabilities() -> None:
    explainer = asked(Net(finish=lambda s: s.exp() / s.exp().sum(1, keepdim=True)))
    said = explainer.predict(pictures())
    assert said.activation == PROBABILITIES.key
    torch.testing.assert_close(said.values, plain().softmax(1))
    assert said.scores.sum(1).tolist() == pytest.approx([1, 1])


def test_an_activation_given_goes_first_but_not_against_the_model() -> None:
    with pytest.raises(ModelError, match="ends in a sigmoid"):
        asked(Ending(nn.Sigmoid()), activation="softmax").predict(pictures())
    numbers = asked(Ending(nn.Sigmoid()), activation="identity").predict(pictures())
    torch.testing.assert_close(numbers.values, plain().sigmoid())
    assert not numbers.bounded
    with pytest.raises(UnknownNameError, match="softmax"):
        asked(Net(), activation="softmaks")
    with pytest.raises(ModelError, match="activation is 3"):
        asked(Net(), activation=3)
    with pytest.raises(TypeError, match="takes no activaton"):
        asked(Net(), activaton="sigmoid")
    with pytest.raises(ModelError, match="the unit 'mm'"):
        asked(Net(), unit="mm")


def test_an_activation_of_the_callers_own() -> None:
    def cold(scores: Tensor) -> Tensor:
        return (scores / 10).softmax(-1)

    said = asked(Net(), activation=cold).predict(pictures())
    torch.testing.assert_close(said.values, (plain() / 10).softmax(-1))
    with pytest.raises(ModelError, match="return probabilities from 0 to 1"):
        asked(Net(), activation=lambda s: 2 * s.softmax(1)).predict(pictures())
    with pytest.raises(ModelError, match="same shape"):
        asked(Net(), activation=lambda s: s.sum(1)).predict(pictures())
    one, other = to_activation(cold), to_activation(lambda s: s.softmax(1))
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_one_model_with_two_activations_is_answered_for_each() -> None:
    model = Net()
    handle = load_model(model.eval(), preprocessing=PREPARED)
    both = Explainer(handle), Explainer(handle.under(SIGMOID))
    both[1].cache = both[0].cache
    first, second = (one.predict(pictures()).values for one in both)
    assert not torch.allclose(first, second)
    maps = [one.explain(pictures(), "gradcam", target=1) for one in both]
    curves = [
        e.measure(pictures(), m, "insertion", target=1) for e, m in zip(both, maps, strict=True)
    ]
    assert not torch.allclose(curves[0].value, curves[1].value)


def test_two_readings_of_one_model_never_share_an_answer() -> None:
    model, cache = both(lambda e, s: (2 * s, s)).eval(), Cache()
    made = [{"output": 0}, {"output": 1}, {"output": lambda out: out[1][:, 1:]}]
    made += [{"output": 1, "activation": "sigmoid"}]
    handles = [load_model(model, preprocessing=PREPARED, **options) for options in made]
    scores = [Explainer(h, cache=cache).predict(pictures()).scores for h in handles]
    torch.testing.assert_close(scores[0], 2 * plain())
    torch.testing.assert_close(scores[1], plain())
    torch.testing.assert_close(scores[2], plain()[:, 1:])
    age = torch.tensor([[3.0]])
    given = {"forward_kwargs": {"age": age}}
    conditioned = Conditioned().eval()
    asker = Explainer(load_model(conditioned, preprocessing=PREPARED, **given), cache=cache)
    torch.testing.assert_close(asker.predict(pictures()).scores, 3 * plain())
    age.fill_(5)
    torch.testing.assert_close(asker.predict(pictures()).scores, 5 * plain())


# -- numbers ------------------------------------------------------------------------------------


class Regression(Net):
    """Two numbers near 37 and 120."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([37.0, 120.0]) + super().forward(x) / 4


def test_numbers_are_numbers() -> None:
    explainer = asked(Regression(2), activation="identity", unit="mm", labels=["length", "height"])
    said = explainer.predict(pictures())
    assert [name for _, name, _ in said.top()] == ["length", "height"]
    assert said.text(said.top()[0][2]).endswith(" mm")
    with pytest.raises(NotApplicableError, match="without probabilities"):
        said.probabilities  # noqa: B018
    facts = prediction_facts(said)
    assert "confidence" not in facts
    assert facts["outputs"][1] == {
        "output": 1,
        "label": "height",
        "value": pytest.approx(float(said.values[0, 1])),
        "unit": "mm",
    }
    answer = explainer.explain(pictures(), "integrated_gradients", target="height")
    assert answer.target == "mm:1"
    score = explainer.measure(pictures(), answer, "insertion", target="height")
    assert score.curve_y is not None
    torch.testing.assert_close(score.curve_y[:, 0], torch.zeros(2))
    torch.testing.assert_close(score.curve_y[:, -1], torch.ones(2))


def test_the_share_of_a_number_does_not_depend_on_its_unit() -> None:
    class Scaled(Regression):
        def forward(self, x: Tensor) -> Tensor:
            return 1000 * super().forward(x) - 5

    found = []
    for model in (Regression(2), Scaled(2)):
        explainer = asked(model, activation="identity")
        answer = explainer.explain(pictures(), "saliency")
        found.append(explainer.measure(pictures(), answer, "deletion").value)
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-3)


def test_numbers_that_do_not_change_are_not_judged() -> None:
    class Still(Net):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([37.0, 120.0]) + 1e-9 * super().forward(x)

    explainer = asked(Still(2), activation="identity")
    answer = explainer.explain(pictures(), "saliency")
    score = explainer.measure(pictures(), answer, "srg")
    assert all("does not change" in score.reason(image) for image in range(2))
    assert {one.tone for one in explainer.verdict(pictures(), answer)} == {"doubtful"}


def test_a_contrast_of_numbers_and_what_needs_probabilities() -> None:
    explainer = asked(Regression(2), activation="identity")
    with pytest.raises(NotApplicableError, match="no others to compare"):
        explainer.explain(pictures(), "finercam", layer="deep")
    target = explainer.target("0-1")
    assert target is not None
    assert target.bounded() is None
    with pytest.raises(UnknownNameError, match="no probability"):
        target.probability()


# -- which part of the outputs ------------------------------------------------------------------


def both(make: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    class Two(Net):
        def forward(self, x: Tensor) -> Any:
            embedding = self.embed(x)
            return make(embedding, self.head(embedding))

    return Two()


CLEAR: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "a dict with logits": lambda e, s: {"embedding": e, "logits": s},
    "an ordered dict": lambda e, s: OrderedDict(logits=s, hidden=e[:, None]),
    "a dict with one entry": lambda e, s: {"anything": s},
    "a namedtuple": lambda e, s: Pair(e, s),
    "an object": lambda e, s: Answer(e, s),
    "a tuple of one": lambda e, s: (s,),
    "a list with maps": lambda e, s: [s, e[:, :, None, None].expand(-1, -1, 3, 3)],
    "a tuple with None": lambda e, s: (s, None),
    "cells of one": lambda e, s: s[:, :, None, None],
}


@pytest.mark.parametrize("name", CLEAR)
def test_outputs_without_doubt_are_read(name: str) -> None:
    explainer = asked(both(CLEAR[name]))
    torch.testing.assert_close(explainer.predict(pictures()).scores, plain())
    answer = explainer.explain(pictures(), "gradcam", layer="deep", target=1)
    expected = asked(Net()).explain(pictures(), "gradcam", layer="deep", target=1)
    torch.testing.assert_close(answer.values, expected.values)


DOUBTFUL: dict[str, tuple[Callable[[Tensor, Tensor], Any], Any]] = {
    "a tuple": (lambda e, s: (e, s), 1),
    "a list": (lambda e, s: [e, s], -1),
    "a dict": (lambda e, s: {"features": e, "scores": s}, "scores"),
    "a dict, by position": (lambda e, s: {"features": e, "scores": s}, 1),
    "a function": (lambda e, s: (e, {"deep": s}), lambda out: out[1]["deep"]),
    "attributes": (lambda e, s: _Bag(e, s), "second"),
}


class _Bag:
    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, second


@pytest.mark.parametrize("name", DOUBTFUL)
def test_outputs_in_doubt_are_refused_until_it_is_said_which(name: str) -> None:
    make, part = DOUBTFUL[name]
    if name != "a function":
        with pytest.raises(ModelError, match=r"\(1, 8\).*not clear.*output="):
            asked(both(make)).predict(pictures())
    explainer = asked(both(make), output=part)
    torch.testing.assert_close(explainer.predict(pictures()).scores, plain())


def test_the_number_of_classes_removes_doubt() -> None:
    explainer = asked(both(lambda e, s: (e, s)), labels=list("abcd"))
    torch.testing.assert_close(explainer.predict(pictures()).scores, plain())


@pytest.mark.parametrize(
    ("part", "said"),
    [("logit", "no output 'logit'"), (5, "no output 5"), (lambda out: 3, "int, not a tensor")],
)
def test_a_part_that_is_not_there(part: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        asked(both(lambda e, s: (e, s)), output=part).predict(pictures())


def test_scores_in_other_shapes() -> None:
    assert to_rows(torch.ones(5), 5, "one").shape == (5, 1)
    assert to_rows(torch.ones(()), 1, "one").shape == (1, 1)
    assert parse_part("1") == 1
    assert parse_part("-1") == -1
    assert parse_part("logits") == "logits"
    for shape in ((4,), (5, 3, 2, 2), (4, 3), (5, 2, 3)):
        with pytest.raises(ModelError, match="is needed"):
            to_rows(torch.ones(shape), 5, "odd")
    with pytest.raises(ModelError, match="of int64"):
        to_rows(torch.ones(5, 3, dtype=torch.int64), 5, "whole")
    with pytest.raises(ModelError, match="not clear"):
        find_scores("text", "words")


def test_a_squeezed_output_is_one_number_a_picture() -> None:
    explainer = asked(Net(1, finish=lambda s: s[:, 0]))
    torch.testing.assert_close(explainer.predict(pictures()).scores, plain(1))
    ended = asked(Net(1, finish=lambda s: s.squeeze(1).sigmoid()))
    torch.testing.assert_close(ended.predict(pictures()).scores, plain(1))


# -- targets ------------------------------------------------------------------------------------


def score(target: Any, **options: Any) -> Tensor:
    return (
        asked(Net(), labels=["a", "b", "c", "d"])
        .explain(pictures(), "saliency", target=target, **options)
        .score
    )


def test_a_target_for_each_picture() -> None:
    out = plain()
    first, second = out[0], out[1]
    expected = {
        "contrasts": (["a-b", "d-c"], (first[0] - first[1], second[3] - second[2])),
        "mixed": ([2, "not b"], (first[2], -second[1])),
        "a tensor": (torch.tensor([3, 1]), (first[3], second[1])),
        "an array": (np.array([3, 1]), (first[3], second[1])),
        "a tuple": (("a", 1), (first[0], second[1])),
        "sums": (["a+b", "c+d+a"], (first[0] + first[1], second[[2, 3, 0]].sum())),
        "targets": ([ClassScore(0) - ClassScore(1), "b"], (first[0] - first[1], second[1])),
    }
    for name, (target, scores) in expected.items():
        torch.testing.assert_close(score(target), torch.stack(scores), msg=name)


def test_a_target_for_all_pictures() -> None:
    out = plain()
    torch.testing.assert_close(score("a+c"), out[:, 0] + out[:, 2])
    torch.testing.assert_close(score({"a", "c"}), out[:, 0] + out[:, 2])
    torch.testing.assert_close(score("not a"), -out[:, 0])
    torch.testing.assert_close(score(lambda s: s[:, :2].logsumexp(1)), out[:, :2].logsumexp(1))
    torch.testing.assert_close(score(np.int64(2)), out[:, 2])


def test_a_map_against_a_class_is_the_map_for_it_turned_round() -> None:
    explainer = asked(Net(), labels=["a", "b", "not b", "d"])
    one = explainer.explain(pictures(), "integrated_gradients", target="a")
    other = explainer.explain(pictures(), "integrated_gradients", target="not a")
    torch.testing.assert_close(one.values, -other.values)
    assert to_target("not b", ["a", "b", "not b"]) == ClassScore(2)  # a label goes first
    against = explainer.target("not a")
    assert against is not None
    found = against.probability()(Scores(plain()), torch.arange(2))
    torch.testing.assert_close(found, 1 - plain().softmax(1)[:, 0])
    said = explainer.predict(pictures())
    assert against.describe(said) == "not a"
    assert against.probability().describe(said) == "not p(a)"


def test_each_picture_keeps_its_target_in_curves_and_batches() -> None:
    explainer, target = asked(Net(), labels=list("abcd")), ["a-b", "d"]
    answer = explainer.explain(pictures(), "occlusion", target=target, window=8, stride=8)
    curve = explainer.measure(pictures(), answer, "deletion", target=target).curve_y
    p = plain().softmax(1)
    assert curve is not None
    torch.testing.assert_close(curve[:, 0], torch.stack([p[0, 0] - p[0, 1], p[1, 3]]))
    for image in range(2):
        alone = explainer.explain(
            pictures()[image : image + 1], "occlusion", target=target[image], window=8, stride=8
        )
        torch.testing.assert_close(alone.values[0], answer.values[image])


def test_functions_are_told_apart_and_checked() -> None:
    explainer = asked(Net())
    maps = [
        explainer.explain(pictures(), "saliency", target=function).values
        for function in (lambda s: s[:, 0], lambda s: s[:, 1])
    ]
    assert not torch.allclose(*maps)
    one = FunctionTarget(torch.sum)
    assert one.key == FunctionTarget(torch.sum).key
    for wrong, said in ((lambda s: s, r"\(2, 4\)"), (lambda s: 3, "int"), (torch.sum, r"\(\)")):
        with pytest.raises(TimmscopeError, match=f"the target function returns {said}"):
            explainer.explain(pictures(), "saliency", target=wrong)


def test_wrong_targets_say_what_would_be_right() -> None:
    explainer = asked(Net(), labels=list("abcd"))
    for target in (3.5, [], True, object(), {"a": 1}, [[0, 1], [2]]):
        with pytest.raises(UnknownNameError, match=r"is no target|nests lists"):
            explainer.explain(pictures(), "saliency", target=target)
    for target, said in (
        (["a", "b", "c"], "3 classes given for 2 images"),
        (["a-b", "b", "c"], "3 targets given for 2 images"),
        ("not e", "no class"),
        ("a+e", "no class"),
        (["a-a", "b"], "always zero"),
        ("not 7", "class 7 does not exist"),
    ):
        with pytest.raises(UnknownNameError, match=said):
            explainer.explain(pictures(), "saliency", target=target)


def test_a_probability_follows_the_activation() -> None:
    for key in ("softmax", "sigmoid"):
        activation = to_activation(key)
        assert activation is not None
        task = Classification(activation, labels=list("abcd"))
        target = task.to_target("b+c", "net")
        assert isinstance(target, Combination)
        found = target.probability()(Scores(plain()), torch.arange(2))
        torch.testing.assert_close(found, activation(plain())[:, 1:3].sum(1))


# -- other inputs -------------------------------------------------------------------------------


class Conditioned(Net):
    """A network with further inputs."""

    def forward(self, x: Tensor, age: Tensor, *, double: bool = False) -> Tensor:
        assert len(age) == len(x)
        return super().forward(x) * age * (2 if double else 1)


class Late(Net):
    """A network whose picture is not its first input."""

    def forward(self, scale: float, pixel_values: Tensor) -> Tensor:
        return scale * super().forward(pixel_values)


@pytest.mark.parametrize("method", ["gradcam", "occlusion", "integrated_gradients", "scorecam"])
def test_other_inputs_go_along_with_every_row(method: str) -> None:
    options = {"layer": "deep"} if "cam" in method else {}
    plainly = asked(Net()).explain(pictures(), method, target=1, **options)
    given = {"age": torch.tensor([[3.0]]), "double": True}
    explainer = asked(Conditioned(), forward_kwargs=given)
    torch.testing.assert_close(explainer.predict(pictures()).scores, 6 * plain())
    found = explainer.explain(pictures(), method, target=1, **options)
    assert found.values.shape == plainly.values.shape
    late = asked(Late(), forward_kwargs={"scale": 2.0}, image_argument="pixel_values")
    torch.testing.assert_close(late.predict(pictures()).scores, 2 * plain())
    if method != "scorecam":
        torch.testing.assert_close(found.values, 6 * plainly.values, rtol=1e-4, atol=1e-5)


def test_caches_of_a_model_with_other_inputs_follow_its_weights() -> None:
    class Caching(Conditioned):
        """Keeps what it computed from its weights, as some attention does."""

        kept: Tensor | None = None

        def forward(self, x: Tensor, age: Tensor, *, double: bool = False) -> Tensor:
            if self.kept is None:
                self.kept = self.head.weight.sum(1).detach()
            return super().forward(x, age, double=double) + self.kept

    explainer = asked(Caching(), forward_kwargs={"age": torch.tensor([[2.0]])})
    explainer.predict(pictures())
    assert DerivedState(explainer.model.clone()).caches == [("", "kept")]


def test_an_input_that_is_missing_is_named() -> None:
    with pytest.raises(ModelFailure, match=r"missing 1 required positional argument: 'age'"):
        asked(Conditioned()).predict(pictures())


def test_the_handle_says_what_it_assumes() -> None:
    handle: ModelHandle = asked(Net(1)).model
    assert handle.task.activation is SIGMOID
    assert handle.task.kind == "class"
    assert asked(Net(), activation="identity").model.task.kind == "output"
