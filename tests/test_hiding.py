"""Hiding parts of a picture, and the sentence about a map, on models whose numbers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from core import Attribution, Explainer, ModelHandle
from core.analysis.evidence import half_of, where
from core.cli import main
from core.errors import TimmscopeError, UnknownNameError
from core.inputs.preprocessing import Preprocessing
from core.inputs.samples import sample_picture
from core.perturb.imputation import RemovalBaseline, remover
from core.perturb.masks import Masker
from core.runtime.run import Run
from core.tasks.activation import to_activation

PREPROCESSING = Preprocessing((3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
LEFT, RIGHT = torch.zeros(1, 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8, dtype=torch.bool)
LEFT[..., :4], RIGHT[..., 4:] = True, True


class Sides(nn.Module):
    """Its outputs are the sums over the left and the right half of the picture, and zero."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., :4].sum((1, 2, 3)), x[..., 4:].sum((1, 2, 3))
        return torch.stack([left, right, 0 * left], 1)


def explainer(activation: str = "softmax", unit: str = "") -> Explainer:
    handle = ModelHandle(Sides(), name="sides", preprocessing=PREPROCESSING)
    return Explainer(handle.under(to_activation(activation, unit)))


X = torch.zeros(1, 3, 8, 8)
X[..., :4], X[..., 4:] = 0.02, 0.01


def map_of(values: Tensor, target: str = "") -> Attribution:
    return Attribution(values, torch.zeros(len(values)), "gradcam", {"relu": True}, target)


def test_a_hidden_part_is_replaced_and_the_rest_is_not() -> None:
    found = explainer().hide(X, LEFT, baseline="black", target=0)
    assert torch.equal(found.pixels, X.where(~LEFT[:, None], 0))
    assert found.share.tolist() == [0.5]
    assert found.before.scores[0].tolist() == pytest.approx([1.92, 0.96, 0.0])
    assert found.after.scores[0].tolist() == pytest.approx([0.0, 0.96, 0.0])
    odds = torch.tensor([[1.92, 0.96, 0.0], [0.0, 0.96, 0.0]]).softmax(1)[:, 0]
    assert [float(found.score_before), float(found.score_after)] == pytest.approx(odds.tolist())


def test_keeping_only_a_part_hides_the_rest() -> None:
    kept = explainer().hide(X, LEFT, keep_only=True, baseline="black")
    hidden = explainer().hide(X, RIGHT, baseline="black")
    assert torch.equal(kept.pixels, hidden.pixels)
    assert kept == hidden


def test_the_same_part_is_asked_once_and_other_draws_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = explainer()
    asked.model.owned = True  # nobody else changes it between two questions
    removed: list[int] = []

    def counted(run: Run, image: int, baseline: RemovalBaseline) -> Masker:
        removed.append(image)
        return remover(run, image, baseline)

    monkeypatch.setattr("core.analysis.hiding.remover", counted)
    first = asked.hide(X, LEFT, baseline="random", seed=1)
    assert asked.hide(X, LEFT, baseline="random", seed=1) == first
    assert removed == [0]
    for other in (
        asked.hide(X, LEFT, baseline="random", seed=2),
        asked.hide(X, RIGHT, baseline="random", seed=1),
        asked.hide(X, LEFT, baseline="black", seed=1),
    ):
        assert not torch.equal(other.pixels, first.pixels)
    assert asked.hide(X, LEFT, baseline="random", seed=1) == first


def test_hiding_nothing_changes_nothing() -> None:
    found = explainer().hide(X, torch.zeros_like(LEFT))
    assert torch.equal(found.score_before, found.score_after)
    assert found.share.tolist() == [0.0]


def test_every_picture_has_a_part_of_its_own() -> None:
    found = explainer().hide(
        torch.cat([X, X]), torch.cat([LEFT, RIGHT]), baseline="black", target=[0, 1]
    )
    expected = torch.tensor([[0.0, 0.96, 0.0], [1.92, 0.0, 0.0]])
    assert torch.allclose(found.after.scores, expected)
    assert found.explained == ("class 0", "class 1")


def test_a_contrast_is_followed_as_a_difference_of_probabilities() -> None:
    asker = explainer()
    found = asker.hide(X, LEFT, baseline="black", target="0-1")
    odds = torch.tensor([0.0, 0.96, 0.0]).softmax(0)
    assert float(found.score_after) == pytest.approx(float(odds[0] - odds[1]))
    assert found.explained == ("class 0 rather than class 1",)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(TimmscopeError, match=r"shape \(1, 7, 7\) does not fit; give \(1, 8, 8\)"):
        explainer().hide(X, torch.zeros(1, 7, 7, dtype=torch.bool))
    with pytest.raises(UnknownNameError):
        explainer().hide(X, LEFT, target=7)
    with pytest.raises(TypeError, match="hide takes no samples"):
        explainer().hide(X, LEFT, samples=3)


def test_hiding_takes_one_row_for_each_picture() -> None:
    asker = explainer()
    rows: list[int] = []
    asker.model.model.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    asker.model.owned = True
    asker.predict(X)
    del rows[:]
    asker.hide(X, LEFT)
    assert sum(rows) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[4.0, 1.0], [2.0, -9.0]], [[1, 0], [0, 0]]),
        ([[1.0, 1.0], [1.0, 1.0]], [[1, 1], [0, 0]]),
        ([[-1.0, -1.0], [-1.0, -1.0]], [[0, 0], [0, 0]]),
        ([[0.0, 0.0], [0.0, 5.0]], [[0, 0], [0, 1]]),
    ],
)
def test_the_fewest_pixels_that_hold_half(values: list[list[float]], expected: object) -> None:
    assert half_of(torch.tensor([values])).int().tolist() == [expected]


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(0, 2), slice(0, 2), "above and left of the middle"),
        (slice(5, 8), slice(0, 8), "below the middle"),
        (slice(0, 8), slice(6, 8), "right of the middle"),
        (slice(3, 5), slice(3, 5), "around the middle"),
        (slice(0, 8), slice(0, 8), ""),
    ],
)
@pytest.mark.parametrize("size", [8, 9])
def test_where_a_part_lies(rows: slice, columns: slice, expected: str, size: int) -> None:
    values = torch.zeros(size, size)
    values[rows, columns] = 1.0
    if size == 9 and expected == "around the middle":
        values[3:6, 3:6] = 1.0
    assert where(values) == expected


def test_two_opposite_parts_lie_on_no_side() -> None:
    values = torch.zeros(8, 8)
    values[:, 0] = values[:, 7] = 1.0
    assert where(values) == ""


def test_every_clause_is_measured() -> None:
    values = torch.zeros(1, 8, 8)
    values[0, :4, :4] = 1.0
    (found,) = explainer().evidence(X, map_of(values))
    hidden = half_of(values)
    again = explainer().hide(X, hidden)
    before, after = f"{float(again.score_before):.1%}", f"{float(again.score_after):.1%}"
    assert found.area == pytest.approx(8 / 64)
    assert found.words == (
        f"The model says class 0, {before}. Half of the evidence lies in 12% of the picture, "
        f"above and left of the middle; hiding it drops class 0 to {after}."
    )


def test_a_map_about_another_class_says_so() -> None:
    values = torch.ones(1, 8, 8)
    (found,) = explainer().evidence(X, map_of(values), target=1)
    assert "The model says class 0, 65.4%; this map is about class 1, 25.0%." in found.words
    assert "lies in 50% of the picture; hiding it" in found.words


def test_a_map_without_evidence_says_so() -> None:
    (found,) = explainer().evidence(X, map_of(-torch.ones(1, 8, 8)))
    assert math.isnan(found.area)
    assert found.words.endswith("Nothing in this map speaks for it.")


def test_numbers_have_their_unit_and_no_percentage() -> None:
    values = LEFT.float()
    (found,) = explainer("identity", "mm").evidence(X, map_of(values), target=0)
    assert found.words.startswith("The model says output 0: 1.92 mm.")
    assert "drops output 0 to" in found.words
    assert "probability" not in found.words
    assert found.hiding.unit == "mm"


def test_a_map_of_another_target_is_refused() -> None:
    asker = explainer()
    found = asker.explain(X, "saliency", target=1)
    with pytest.raises(TimmscopeError, match="pass the target that it explains"):
        asker.evidence(X, found, target=0)


def test_a_trained_model_loses_its_class_with_the_evidence(lite0: Explainer) -> None:
    picture = sample_picture("coffee")
    found = lite0.explain(picture, "gradcam")
    (summary,) = lite0.evidence(picture, found)
    assert float(summary.hiding.score_after) < float(summary.hiding.score_before)
    assert summary.words.startswith("The model says espresso, ")
    assert "of what the model sees" in summary.words


def test_a_map_that_ignores_the_class_is_not_called_evidence(lite0: Explainer) -> None:
    picture = sample_picture("coffee")
    (summary,) = lite0.evidence(picture, lite0.explain(picture, "eigencam"))
    assert "Half of the map lies in" in summary.words


def test_the_command_line_hides_a_box(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, saved = sample_picture("coffee"), tmp_path / "seen.png"
    assert main(["hide", str(path), "100,0,400,400", "--save", str(saved)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["score"]["after"] < report["score"]["before"]
    assert report["before"]["predicted_label"] == report["target"] == "espresso"
    with Image.open(saved) as seen:
        assert seen.size == (224, 224)
    assert report["files"]["png"] == str(saved)


def test_the_command_line_summarises_a_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(sample_picture("coffee")), "--summary"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["images"]
    summary = report["results"]["gradcam"]["summary"]
    assert summary["words"].startswith("The model says espresso")
    assert 0 < summary["area"] < 1
    assert summary["after"] < summary["before"]
