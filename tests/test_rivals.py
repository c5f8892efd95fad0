"""Which other class a map is compared with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core import METRICS, Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.metrics import rivals
from core.metrics.rivals import UNKNOWN, classifier_rows, dissimilar_rivals, next_rivals
from core.metrics.similarity import spearman
from core.runtime.run import Run
from core.tasks.classification import scores_of
from tests.conftest import CLASSES, SAMPLES, handle, images, shared_handle

SIDE = 16


class Headless(nn.Module):
    """Four scores without a linear layer: two reds that are twins, a blue, and a green."""

    def __init__(self, varies: bool = True) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(float(varies)))

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = (self.gain * x).mean((2, 3)).unbind(1)
        return torch.stack([red + 3, 0.9 * red + 2, 1 - red - blue, green - red], 1)


def lent(model: nn.Module) -> ModelHandle:
    preprocessing = Preprocessing(input_size=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    return ModelHandle(model.eval(), name="lent", preprocessing=preprocessing)


def found(owner: ModelHandle, x: Tensor, asked: list[int]) -> rivals.Rivals:
    run = Run(owner, x)
    return dissimilar_rivals(run, scores_of(run.outputs()), torch.tensor(asked))


def test_the_rival_of_a_cat_is_no_cat(lite0: Explainer) -> None:
    said = lite0.predict(SAMPLES / "chelsea.jpg")
    (asked,) = said.scores.argmax(1).tolist()
    x = lite0.prepare(SAMPLES / "chelsea.jpg").x
    (twin,) = next_rivals(said.scores, torch.tensor([asked])).classes.tolist()
    assert said.label(asked) == "tiger cat"
    assert said.label(twin) == "Egyptian cat"
    (rival,), note = found(lite0.model, x, [asked])
    cats = range(281, 294)  # from tabby to cheetah
    assert int(rival) not in cats
    assert note == ""
    rows = classifier_rows(lite0.model, 1000)
    assert rows is not None
    cosine = torch.cosine_similarity(rows, rows[asked][None])
    assert cosine[int(rival)] <= cosine.median()
    likelier = (said.scores[0] > said.scores[0, int(rival)]).nonzero().flatten()
    assert (cosine[likelier] > cosine.median()).all(), "the likeliest of those"


@pytest.mark.parametrize("name", ["resnet", "vit_pooled", "deit_distilled"])
def test_half_of_the_other_classes_count_as_dissimilar(name: str) -> None:
    owner, x = shared_handle(name), images(shared_handle(name), 3)
    asked = [0, 3, 6]
    rows = classifier_rows(owner, CLASSES)
    assert rows is not None
    scores = scores_of(Run(owner, x).outputs())
    classes = found(owner, x, asked).classes.tolist()
    for image, own in enumerate(asked):
        cosine = torch.cosine_similarity(rows, rows[own][None]).tolist()
        others = sorted((c for c in range(CLASSES) if c != own), key=cosine.__getitem__)
        least = others[: CLASSES // 2]
        assert classes[image] == max(least, key=scores[image].tolist().__getitem__)


def test_of_two_classes_the_rival_is_the_other() -> None:
    owner = lent(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)))
    x = torch.randn(2, 3, SIDE, SIDE)
    assert found(owner, x, [0, 1]).classes.tolist() == [1, 0]


def test_the_rows_are_those_of_the_classifier_wherever_it_is() -> None:
    distilled = shared_handle("deit_distilled")
    rows = classifier_rows(distilled, CLASSES)
    assert rows is not None
    assert rows.shape == (CLASSES, 2 * distilled.model.head.in_features)
    pooled = lent(
        nn.Sequential(nn.Linear(SIDE, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    )
    last = classifier_rows(pooled, 5)
    assert last is not None
    assert torch.equal(last, pooled.model[3].weight)
    assert classifier_rows(lent(Headless()), 4) is None
    odd = handle("resnet")
    odd.model.get_classifier = lambda needs_more: None
    assert classifier_rows(odd, CLASSES) is not None, "a method of that name may mean another thing"


def test_without_a_linear_classifier_scores_over_the_samples_tell_who_is_alike() -> None:
    owner = lent(Headless())
    x = torch.zeros(1, 3, SIDE, SIDE)
    assert next_rivals(scores_of(Run(owner, x).outputs()), torch.tensor([0])).classes.item() == 1
    (rival,), note = found(owner, x, [0])
    assert int(rival) == 2, "the likeliest of those that move the other way"
    assert note == ""


def test_where_no_class_is_known_to_be_alike_the_score_says_so() -> None:
    owner = lent(Headless(varies=False))
    x = torch.rand(1, 3, SIDE, SIDE)
    classes, note = found(owner, x, [0])
    assert (classes.tolist(), note) == ([1], UNKNOWN)
    explainer = Explainer(owner)
    answer = explainer.explain(x, "random", target=0)
    assert explainer.measure(x, answer, "class_sensitivity", target=0).notes == (UNKNOWN,)


def test_the_metric_asks_for_the_rival_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    answer = explainer.explain(x, "saliency", target=1)
    scores, asked = scores_of(Run(owner, x).outputs()), torch.tensor([1])
    rows = {"dissimilar": found(owner, x, [1]), "next": next_rivals(scores, asked)}
    for rival, (classes, _) in rows.items():
        other = explainer.explain(x, "saliency", target=int(classes))
        alike = float(spearman(answer.values[0], other.values[0]))
        metric = METRICS.make("class_sensitivity", {"rival": rival})
        score = explainer.measure(x, answer, metric, target=1)
        assert float(score.value) == pytest.approx(alike, abs=1e-5)
    assert METRICS["class_sensitivity"]().rival == "dissimilar"
