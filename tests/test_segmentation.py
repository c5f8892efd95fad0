"""Segmentation: reading maps of scores, regions as targets, and what is said of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
import transformers
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
from torch import Tensor, nn
from torch.nn import functional as F

from core import METHODS, Explainer, InRegion, explain_segmentation, load_model
from core.cli import main
from core.errors import (
    ModelError,
    NotApplicableError,
    RegionError,
    TimmscopeError,
    UnknownNameError,
)
from core.inputs.preprocessing import Geometry
from core.runtime.batching import Budget
from core.tasks.activation import SIGMOID, SOFTMAX
from core.tasks.classification import ClassProbability
from core.tasks.outputs import DenseScores
from core.tasks.reading import find_scores, is_map, to_maps
from core.tasks.region import Region, cell_weights
from core.tasks.segmentation import (
    NOTHING,
    RegionScore,
    Segmentation,
    SegmentationPrediction,
    uncertainty,
)
from dashboard import actions
from dashboard.actions.question import Question
from dashboard.state import Service
from tests.conftest import quick, runnable

SIDE = 32
LABELS = ["background", "road", "sky", "car"]


def prepared(side: int = SIDE) -> dict[str, object]:
    return {"input_size": (3, side, side), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


class Net(nn.Module):
    """A small segmenter whose maps are half as fine as the picture."""

    def __init__(
        self, classes: int = len(LABELS), finish: Callable[[Tensor], Any] | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(5)
            self.first = nn.Conv2d(3, 12, 5, 2, 2)
            self.deep = nn.Conv2d(12, 12, 3, 2, 1)
            self.head = nn.Conv2d(12, classes, 1)
        with torch.no_grad():
            self.head.weight *= 40
        self.finish = finish

    def forward(self, x: Tensor) -> Any:
        deep = self.deep(self.first(x).relu()).relu()
        maps = self.head(F.interpolate(deep, scale_factor=2, mode="bilinear"))
        return maps if self.finish is None else self.finish(maps)


class Linear(nn.Module):
    """A convolution of 1 x 1 pixels: a pixel's scores depend on that pixel alone."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, len(weight), 1, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(weight)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x)
        return found


WEIGHT = [[1.0, -2.0, 0.5], [-1.0, 2.0, 1.5]]


def pictures(count: int = 2, side: int = SIDE, seed: int = 3) -> Tensor:
    """Smooth noise in model units."""
    coarse = torch.randn((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return 2 * F.interpolate(coarse, size=(side, side), mode="bilinear")


def asked(model: nn.Module, side: int = SIDE, **options: Any) -> Explainer:
    return Explainer(load_model(model.eval(), preprocessing=prepared(side), **options))


def labelled() -> Explainer:
    return asked(Net(), labels=LABELS)


def upsampled(maps: Tensor, side: int = SIDE) -> Tensor:
    return F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)


def plain(x: Tensor) -> Tensor:
    """The scores at every pixel of the input."""
    with torch.no_grad():
        return upsampled(Net().eval()(x))


def box_mask(left: int, top: int, right: int, bottom: int, side: int = SIDE) -> Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


# -- reading ------------------------------------------------------------------------------------


def segformer(classes: int = 3) -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16, num_labels=classes,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def unet(**options: Any) -> nn.Module:
    return smp.Unet(
        "tu-test_resnet", encoder_weights=None, encoder_depth=4, decoder_channels=(16, 8, 8, 8),
        **{"classes": 3, **options},
    )  # fmt: skip


def lraspp() -> nn.Module:
    return torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )


def fcn() -> nn.Module:
    return torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=True
    )


LIBRARIES: dict[str, tuple[Callable[[], nn.Module], int, Callable[[Any], Tensor]]] = {
    "torchvision": (lraspp, 64, lambda found: found["out"]),
    "torchvision with aux": (fcn, 48, lambda found: found["out"]),
    "transformers": (segformer, 96, lambda found: found.logits),
    "smp with a timm encoder": (unet, 64, lambda found: found),
    "a plain tensor": (Net, SIDE, lambda found: found),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_librarys_maps_are_read(name: str) -> None:
    build, side, pick = LIBRARIES[name]
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = build().eval()
    x = pictures(2, side)
    explainer = asked(model, side)
    assert isinstance(explainer.model.task, Segmentation)
    with torch.no_grad():
        maps = upsampled(pick(model(x)), side)
    said = explainer.predict(x)
    assert isinstance(said, SegmentationPrediction)
    assert (said.mask == maps.argmax(1)).float().mean() > 0.999
    torch.testing.assert_close(said.scores, maps.mean((2, 3)), rtol=1e-4, atol=1e-4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    answer = explainer.explain(x, "gradcam", target=InRegion(1, "whole"))
    torch.testing.assert_close(answer.score, maps[:, 1].mean((1, 2)), rtol=1e-4, atol=1e-4)
    assert answer.values.isfinite().all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_default_layer_of_a_segmenter_is_where_its_encoder_ends() -> None:
    assert asked(unet(), 64).model.default_layer == "encoder.model.layer3"
    assert asked(segformer(), 128).model.default_layer == "segformer.stages.3"
    assert asked(Net()).model.default_layer == "deep"


def test_a_head_that_ends_in_its_activation_is_read_before_it() -> None:
    x = pictures()
    bare = asked(Net())
    for finish, key in (
        (lambda maps: maps.softmax(1), "softmax"),
        (lambda maps: maps.sigmoid(), "sigmoid"),
        (lambda maps: {"masks": maps.softmax(dim=-3)}, "softmax"),
    ):
        explainer = asked(Net(finish=finish))
        assert explainer.predict(x).activation == key
        torch.testing.assert_close(explainer.predict(x).scores, bare.predict(x).scores)
    blended = asked(Net(finish=lambda maps: maps.exp() / maps.exp().sum(1, keepdim=True)))
    assert blended.predict(x).activation == "probabilities"
    same = blended.predict(x).mask == bare.predict(x).mask  # but where cells are interpolated
    assert same.float().mean() > 0.9


def test_a_softmax_along_another_axis_is_none_over_classes() -> None:
    explainer = asked(Net(finish=lambda maps: maps.softmax(2)))
    assert explainer.model.probe.ending is None


def test_one_channel_is_a_yes_or_no_for_each_pixel() -> None:
    x, explainer = pictures(), asked(Net(1))
    with torch.no_grad():
        maps = upsampled(Net(1).eval()(x))[:, 0]
    said = explainer.predict(x)
    assert said.activation == "sigmoid"
    assert torch.equal(said.mask, torch.where(maps > 0, 0, NOTHING))
    torch.testing.assert_close(said.values[:, 0], (maps > 0).float().mean((1, 2)))
    assert 0.02 < said.values[0, 0] < 0.98
    answer = explainer.explain(x, "saliency", target=0)
    expected = torch.stack([one[one > 0].mean() for one in maps])
    torch.testing.assert_close(answer.score, expected, rtol=1e-4, atol=1e-4)


def test_a_segmenter_of_transformers_with_one_label_is_no_regression() -> None:
    assert asked(segformer(1), 96).predict(pictures(1, 96)).activation == "sigmoid"


def test_classes_that_may_overlap_have_a_mask_each() -> None:
    x, explainer = pictures(), asked(Net(), activation="sigmoid")
    maps, said = plain(x), asked(Net(), activation="sigmoid").predict(x)
    torch.testing.assert_close(said.values, (maps > 0).float().mean((2, 3)))
    assert said.values.sum(1).max() > 1.05
    assert not said.exclusive
    both = (maps[0, 1] > 0) & (maps[0, 2] > 0)
    assert both.any()
    target = explainer.query(x[:1], target=1).target
    assert isinstance(target, RegionScore)
    assert torch.equal(target.region.masks[0], maps[0, 1] > 0)


def test_what_a_model_does_can_be_said() -> None:
    x = pictures()
    squeezed = Net(1, finish=lambda maps: maps[:, 0])
    with pytest.raises(ModelError, match=r"\(1, 16, 16\) where .*task='segmentation'"):
        asked(squeezed).predict(x)
    torch.testing.assert_close(
        asked(squeezed, task="segmentation").predict(x).scores, asked(Net(1)).predict(x).scores
    )
    with pytest.raises(ModelError, match=r"\(1, 4, 16, 16\) where \(images, classes\)"):
        asked(Net(), task="classification").predict(x)
    coarse = Net(finish=lambda maps: F.avg_pool2d(maps, 8))
    with pytest.raises(ModelError, match="task='segmentation'"):
        asked(coarse).predict(x)
    assert asked(coarse, task="segmentation").predict(x).mask.shape == (2, SIDE, SIDE)
    with pytest.raises(UnknownNameError, match="did you mean 'segmentation'"):
        asked(Net(), task="segmentaton")


def test_a_classifier_that_segments_too_is_a_classifier_unless_it_is_said() -> None:
    model = unet(aux_params={"classes": 5})
    assert asked(model, 64).predict(pictures(1, 64)).values.shape == (1, 5)
    said = asked(model, 64, task="segmentation").predict(pictures(1, 64))
    assert said.values.shape == (1, 3)
    assert asked(model, 64, output=0).predict(pictures(1, 64)).values.shape == (1, 3)


UNREADABLE: dict[str, tuple[Callable[[Tensor], Any], dict[str, Any], str]] = {
    "channels last": (lambda m: m.permute(0, 2, 3, 1), {}, "is needed"),
    "channels last, said": (
        lambda m: m.permute(0, 2, 3, 1), {"task": "segmentation"}, "height, width.*output=",
    ),
    "labels": (lambda m: m.argmax(1, keepdim=True), {"task": "segmentation"}, "of int64"),
    "two maps": (lambda m: {"fine": m, "coarse": m}, {}, "not clear"),
    "queries": (
        lambda m: {"class_queries_logits": m[:, 0], "masks_queries_logits": m}, {}, "of queries",
    ),
    "numbers": (lambda m: m, {"activation": "identity"}, "are no classes"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused_with_what_came_back(name: str) -> None:
    finish, options, said = UNREADABLE[name]
    with pytest.raises(ModelError, match=said):
        asked(Net(finish=finish), **options).predict(pictures())


def test_what_counts_as_a_map() -> None:
    assert is_map(torch.ones(1, 3, 8, 12), (64, 96))
    assert not is_map(torch.ones(1, 3, 7, 12), (64, 96))
    assert not is_map(torch.ones(1, 3, 16, 96), (64, 96))
    assert to_maps(torch.ones(2, 8, 12), 2, (64, 96), "one").shape == (2, 1, 8, 12)
    out = torch.ones(1, 3, 8, 8)
    assert find_scores({"out": out, "aux": 2 * out}, "both") is out


# -- regions and closed forms -------------------------------------------------------------------


def test_a_pixels_score_has_a_gradient_at_that_pixel_alone() -> None:
    explainer, x = asked(Linear(WEIGHT)), pictures(1)
    answer = explainer.explain(x, "input_x_gradient", target=InRegion(1, "9,4"))
    expected = torch.zeros(1, SIDE, SIDE)
    expected[0, 4, 9] = (x[0, :, 4, 9] * torch.tensor(WEIGHT[1])).sum()
    torch.testing.assert_close(answer.values, expected)
    torch.testing.assert_close(answer.score, expected.sum()[None])


@pytest.mark.parametrize(
    "region",
    ["4,8,20,16", (4, 8, 20, 16), [(4, 8, 20, 16)], box_mask(4, 8, 20, 16).numpy(),
     box_mask(4, 8, 20, 16), box_mask(4, 8, 20, 16)[None].expand(2, -1, -1)],
    ids=["text", "numbers", "boxes", "array", "tensor", "tensors"],
)  # fmt: skip
def test_a_region_is_averaged_over(region: Any) -> None:
    explainer, x = asked(Linear(WEIGHT)), pictures()
    answer = explainer.explain(x, "saliency", target=InRegion(0, region))
    maps = Linear(WEIGHT)(x).detach()
    torch.testing.assert_close(answer.score, maps[:, 0, 8:16, 4:20].mean((1, 2)))


def test_scores_are_averaged_as_they_are_interpolated() -> None:
    x, explainer = pictures(), labelled()
    maps = plain(x)
    for region, mask in (("5,3,6,20", box_mask(5, 3, 6, 20)), ("whole", box_mask(0, 0, 32, 32))):
        answer = explainer.explain(x, "saliency", target=InRegion("sky", region))
        expected = torch.stack([one[2][mask].mean() for one in maps])
        torch.testing.assert_close(answer.score, expected, rtol=1e-4, atol=1e-4)
    at = explainer.explain(x, "saliency", target=InRegion("sky", "7,12"))
    torch.testing.assert_close(at.score, maps[:, 2, 12, 7], rtol=1e-4, atol=1e-4)


def test_weights_of_cells_add_up_to_one() -> None:
    mask = torch.rand((3, 24, 40), generator=torch.Generator().manual_seed(0)) > 0.8
    for grid in ((24, 40), (6, 10), (5, 9), (48, 80)):
        weights = cell_weights(mask, grid)
        assert weights.shape == (3, *grid)
        torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3))


def test_pixels_and_boxes_are_those_of_the_picture() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[10:20, 50:70] = 255
    explainer = asked(Linear([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    picture = Image.fromarray(pixels)
    seen = explainer.prepare(picture, crop="40,0,80,40").geometries[0]
    assert seen == Geometry((40, 80), (SIDE, SIDE), (40.0, 0.0, 80.0, 40.0))
    bright = explainer.explain(
        picture, "saliency", target=InRegion(0, "52,12,68,18"), crop="40,0,80,40"
    )
    assert float(bright.score) == pytest.approx(3, abs=0.01)  # white is 1 in each channel
    dark = explainer.explain(picture, "saliency", target=InRegion(0, "43,35"), crop="40,0,80,40")
    assert float(dark.score) == pytest.approx(-3, abs=0.01)
    with pytest.raises(RegionError, match="outside of the part that the model sees"):
        explainer.query(picture, target=InRegion(0, "3,3"), crop="40,0,80,40")
    with pytest.raises(RegionError, match="80 x 40 pixels; give x from 0 to 79"):
        explainer.query(picture, target=InRegion(0, "80,3"))
    with pytest.raises(RegionError, match="nothing that the model sees"):
        explainer.query(picture, target=InRegion(0, "0,0,20,20"), crop="40,0,80,40")


def test_a_mask_in_a_file_is_a_region(tmp_path: Path) -> None:
    Image.fromarray(box_mask(2, 3, 9, 7).numpy()).save(tmp_path / "mask.png")
    picture = Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8))
    explainer = labelled()
    found = explainer.query(picture, target=InRegion("road", str(tmp_path / "mask.png"))).target
    assert isinstance(found, RegionScore)
    assert torch.equal(found.region.masks[0], box_mask(2, 3, 9, 7))


# -- the predicted region -----------------------------------------------------------------------


def test_the_largest_class_is_explained_where_it_is_predicted() -> None:
    x, maps, explainer = pictures(), plain(pictures()), asked(Net())
    answer = explainer.explain(x, "saliency")
    for image in range(2):
        predicted = maps[image].argmax(0)
        largest = int(predicted.flatten().bincount().argmax())
        expected = maps[image, largest][predicted == largest].mean()
        torch.testing.assert_close(answer.score[image], expected, rtol=1e-4, atol=1e-4)
    named = explainer.explain(x, "saliency", target=explainer.predict(x).values.argmax(1))
    torch.testing.assert_close(named.values, answer.values)


def test_background_comes_last() -> None:
    x = pictures()
    shares = asked(Net()).predict(x).values
    largest = int(shares[0].argmax())
    labels = [f"class {i}" for i in range(4)]
    labels[largest] = "background"
    explainer = asked(Net(), labels=labels)
    others = shares[0].clone()
    others[largest] = 0
    assert explainer.predict(x).main_class() == int(others.argmax())
    found = explainer.explain(x[:1], "saliency")
    assert found.target == explainer.query(x[:1], target=int(others.argmax())).target.key  # type: ignore[union-attr]


def test_the_predicted_region_stays_where_it_is() -> None:
    """Pixels that are hidden change class, but they still count where they counted."""
    explainer, x = asked(Linear(WEIGHT)), pictures(1)
    maps = Linear(WEIGHT)(x).detach()
    region = maps[0].argmax(0) == 1
    assert 0.1 < region.float().mean() < 0.9
    answer = explainer.explain(x, "occlusion", target=1, window=8, stride=8, baseline="black")
    hidden = x.clone()
    hidden[:, :, :8, :8] = -1.0  # black, in model units
    gone = Linear(WEIGHT)(hidden).detach()
    assert ((gone[0].argmax(0) == 1) != region)[:8, :8].any()
    drop = maps[0, 1][region].mean() - gone[0, 1][region].mean()
    torch.testing.assert_close(answer.values[0, 0, 0], drop, rtol=1e-4, atol=1e-5)


def test_a_class_that_is_not_predicted_is_refused_where_it_is_predicted() -> None:
    explainer = asked(Linear([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), labels=["road", "sky"])
    with pytest.raises(RegionError, match="predicts no 'sky' in this picture; give the region"):
        explainer.explain(pictures(1), target="sky")
    with pytest.raises(RegionError, match="in picture 1; "):
        explainer.explain(pictures(2), target="sky")
    explainer.explain(pictures(1), "occlusion", target=InRegion("sky", "whole"))
    nowhere = asked(Linear([[0.0, 0.0, 0.0]]))
    with pytest.raises(RegionError, match="no class is predicted anywhere"):
        nowhere.explain(pictures(1), "saliency")
    assert nowhere.predict(pictures(1)).describe() == "nothing"


# -- targets ------------------------------------------------------------------------------------


def test_a_contrast_of_two_classes_in_one_region() -> None:
    x, maps, explainer = pictures(), plain(pictures()), labelled()
    answer = explainer.explain(x, "saliency", target=InRegion("road-sky", "whole"))
    expected = (maps[:, 1] - maps[:, 2]).mean((1, 2))
    torch.testing.assert_close(answer.score, expected, rtol=1e-4, atol=1e-4)
    roads = [one[1:3][:, one.argmax(0) == 1] for one in maps]  # both classes, where it is road
    there = explainer.explain(x, "saliency", target="road-sky")
    expected = torch.stack([(one[0] - one[1]).mean() for one in roads])
    torch.testing.assert_close(there.score, expected, rtol=1e-4, atol=1e-4)
    one, other = (explainer.target(InRegion(name, "whole")) for name in ("road", "sky"))
    assert one is not None
    assert other is not None
    algebra = explainer.explain(x, "saliency", target=one - other)
    torch.testing.assert_close(algebra.values, answer.values)
    said = explainer.predict(x)
    target = explainer.query(x, target="road-sky").target
    assert target is not None
    assert target.describe(said) == "road in its region rather than sky in that of road"


def test_targets_a_picture() -> None:
    x, maps, explainer = pictures(), plain(pictures()), labelled()
    several = [InRegion("road", "whole"), InRegion("sky-car", "3,4")]
    answer = explainer.explain(x, "occlusion", target=several, window=8, stride=8)
    expected = torch.stack([maps[0, 1].mean(), maps[1, 2, 4, 3] - maps[1, 3, 4, 3]])
    torch.testing.assert_close(answer.score, expected, rtol=1e-4, atol=1e-4)
    for image in range(2):
        alone = explainer.explain(
            x[image : image + 1], "occlusion", target=several[image], window=8, stride=8
        )
        torch.testing.assert_close(alone.values[0], answer.values[image], rtol=1e-4, atol=1e-4)
        assert answer[image].target == alone.target


def test_sums_negations_functions_and_no_class_at_all() -> None:
    x, maps, explainer = pictures(), plain(pictures()), labelled()

    def score(target: Any) -> Tensor:
        return explainer.explain(x, "saliency", target=target).score

    both = maps[:, 1:3].mean((2, 3)).sum(1)
    torch.testing.assert_close(score(InRegion({1, 2}, "whole")), both, rtol=1e-4, atol=1e-4)
    against = -maps[:, 3].mean((1, 2))
    torch.testing.assert_close(score(InRegion("not car", "whole")), against, rtol=1e-4, atol=1e-4)
    spread = maps[:, 0].std((1, 2))
    found = score(lambda values: upsampled(values)[:, 0].std((1, 2)))
    torch.testing.assert_close(found, spread, rtol=1e-4, atol=1e-4)
    best = maps[:, :, 12, 7].amax(1)
    torch.testing.assert_close(score(InRegion(None, "7,12")), best, rtol=1e-4, atol=1e-4)
    p = maps.softmax(1)[:, 1].mean((1, 2))
    found = score(InRegion(ClassProbability(1), "whole"))
    torch.testing.assert_close(found, p, rtol=0.02, atol=5e-3)  # probabilities, interpolated


REFUSED: dict[str, tuple[Any, type[TimmscopeError], str]] = {
    "no such class": (InRegion(9, "whole"), UnknownNameError, "classes 0 to 3"),
    "no such label": (InRegion("rod", "whole"), UnknownNameError, "did you mean 'road'"),
    "outside": (InRegion(1, "40,3"), RegionError, "lies outside of picture 1"),
    "empty mask": (InRegion(1, box_mask(0, 0, 0, 0)), RegionError, "region is empty"),
    "empty array": (InRegion(1, box_mask(0, 0, 0, 0).numpy()), RegionError, "is marked"),
    "another size": (InRegion(1, torch.ones(8, 8)), RegionError, r"\(8, 8\) does not fit"),
    "turned box": (InRegion(1, "9,9,3,12"), RegionError, "nothing lies in the box 9,9,3,12"),
    "three numbers": (InRegion(1, "9,9,3"), RegionError, "neither a pixel nor a box"),
    "not a number": (InRegion(1, "nan,3"), RegionError, "neither a pixel nor a box"),
    "words": (InRegion(1, "upper left"), RegionError, "is no region; give 'predicted'"),
    "a number": (InRegion(1, 5), RegionError, "'5' is no region"),
    "always zero": (InRegion("road-road", "whole"), UnknownNameError, "always zero"),
    "a function": (InRegion(lambda m: m.mean((1, 2, 3)), "whole"), UnknownNameError, "leave the"),
    "a region twice": (InRegion(RegionScore(1), "whole"), UnknownNameError, "leave the region"),
    "too few": ([InRegion(1, "whole")], UnknownNameError, "1 targets given for 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_senseless_questions_are_refused_with_the_way_out(name: str) -> None:
    target, error, said = REFUSED[name]
    with pytest.raises(error, match=said) as raised:
        labelled().explain(pictures(), "saliency", target=target)
    assert "\n" not in str(raised.value)


def test_a_classifier_has_no_regions(lite0: Explainer) -> None:
    with pytest.raises(UnknownNameError, match="one row of scores for the whole picture"):
        lite0.target(InRegion("espresso", "whole"))
    with pytest.raises(NotApplicableError, match="scores whole pictures"):
        explain_segmentation(lite0.model.samples[:1], model=lite0)


def test_a_region_is_one_of_inputs_of_its_size() -> None:
    region = Region(box_mask(0, 0, 4, 4)[None], "there")
    outputs = DenseScores(torch.ones(1, 2, 16, 16), (2 * SIDE, 2 * SIDE))
    with pytest.raises(NotApplicableError, match="keeps the size of the picture"):
        RegionScore(0, region)(outputs, torch.zeros(1, dtype=torch.long))


# -- methods ------------------------------------------------------------------------------------


class Whole(nn.Module):
    """The maps of a segmenter at every pixel of its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return upsampled(self.model(x))


@pytest.mark.parametrize("region", ["predicted", "4,4,20,28", "whole"])
def test_gradcam_is_that_of_pytorch_grad_cam(region: str) -> None:
    """Its target sums over the mask and ours is the mean: a factor that scaling removes."""
    model, x = Net().eval(), pictures(1)
    explainer = asked(model)
    index = explainer.predict(x).main_class()
    masks = {
        "predicted": explainer.predict(x).mask[0] == index,
        "4,4,20,28": box_mask(4, 4, 20, 28),
    }
    mask = masks.get(region, box_mask(0, 0, SIDE, SIDE)).numpy().astype(np.float32)
    with GradCAM(Whole(model), [model.deep]) as cam:
        theirs = cam(x, [SemanticSegmentationTarget(index, mask)])[0]
    ours = explainer.explain(x, target=InRegion(index, region), layer="deep").values[0].numpy()
    fine = scaled(cv2.resize(scaled(ours), (SIDE, SIDE)))
    assert fine.std() > 0.1
    np.testing.assert_allclose(fine, theirs, atol=1e-4)


def scaled(values: Any) -> Any:
    """From 0 to 1, as pytorch-grad-cam does before it resizes a map and after."""
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("key", METHODS)
def test_every_method_that_can_run_answers_about_a_region(key: str) -> None:
    explainer, method = labelled(), quick(key)
    changes = {"window": 8, "stride": 8, "relu": False}
    method = method.model_copy(update={k: v for k, v in changes.items() if hasattr(method, k)})
    before = copy.deepcopy(explainer.model.model.state_dict())
    explainer.model.model.train()
    target = InRegion("road", "4,4,20,28")
    if key == "finercam" or not runnable(method, explainer.model):
        with pytest.raises(NotApplicableError):
            explainer.explain(pictures(), method, target=target)
        return
    answer = explainer.explain(pictures(), method, target=target)
    assert explainer.model.model.training
    assert answer.values.isfinite().all()
    assert all(float(one.std()) > 0 for one in answer.values)
    assert answer.target.startswith("logit:1@")
    after = explainer.model.model.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    module: nn.Module = explainer.model.model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    if method.is_control:
        return
    for image in range(2):
        expected = plain(pictures())[image, 1][box_mask(4, 4, 20, 28)].mean()
        torch.testing.assert_close(answer.score[image], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("key", ["saliency", "occlusion", "integrated_gradients", "rise"])
def test_chunking_does_not_change_maps(key: str) -> None:
    found = []
    for rows in (1, 3, 16):
        explainer = labelled()
        vars(explainer.model)["budget"] = Budget(rows)
        target = [InRegion("road", "whole"), InRegion("sky", "2,2,9,9")]
        found.append(explainer.explain(pictures(), quick(key), target=target).values)
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-4, atol=1e-5)


def test_integrated_gradients_add_up_to_the_rise_of_the_mean() -> None:
    explainer, x = asked(Linear(WEIGHT)), pictures(1)
    target = InRegion(0, "8,8,16,16")
    answer = explainer.explain(x, "integrated_gradients", target=target, baselines=["black"])
    maps = Linear(WEIGHT)(torch.cat([x, torch.full_like(x, -1.0)])).detach()  # and black
    rise = (maps[0, 0] - maps[1, 0])[8:16, 8:16].mean()
    torch.testing.assert_close(answer.values.sum(), rise, rtol=1e-3, atol=1e-3)
    assert not answer.values[0][~box_mask(8, 8, 16, 16)].any()


def test_classes_share_one_forward_pass() -> None:
    explainer = labelled()
    explainer.predict(pictures(1))
    found = explainer.explain_segmentation(pictures(1))
    assert list(found) == explainer.predict(pictures(1)).values[0].argsort(descending=True).tolist()
    assert sum(one.cost.forward for one in found.values()) == 1
    assert [one.cost.backward for one in found.values()] == [1] * 4
    for index, one in found.items():
        alone = labelled().explain(pictures(1), "gradcam", target=index)
        torch.testing.assert_close(one.values, alone.values)
    whole = explain_segmentation(
        pictures(1), "saliency", ["road", 2], model=explainer, region="whole"
    )
    assert list(whole) == ["road", 2]
    expected = explainer.explain(pictures(1), "saliency", target=InRegion(2, "whole"))
    assert torch.equal(whole[2].values, expected.values)


# -- metrics ------------------------------------------------------------------------------------


def test_curves_follow_the_mean_probability_over_the_region() -> None:
    x, explainer, target = pictures(), labelled(), InRegion("road", "4,4,20,28")
    answer = explainer.explain(x, "gradcam", target=target)
    score = explainer.measure(x, answer, "deletion", target=target)
    with torch.no_grad():
        p = upsampled(Net().eval()(x).softmax(1))[:, 1]
    assert score.curve_y is not None
    expected = torch.stack([one[box_mask(4, 4, 20, 28)].mean() for one in p])
    torch.testing.assert_close(score.curve_y[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert (score.curve_y >= 0).all()
    assert (score.curve_y <= 1).all()
    with pytest.raises(TimmscopeError, match="the map explains"):
        explainer.measure(x, answer, "deletion", target=InRegion("road", "whole"))


@pytest.mark.parametrize(
    "metric",
    ["insertion", "srg", "infidelity", "max_sensitivity", "randomisation", "sensitivity_n"],
)
def test_metrics_score_maps_of_a_region(metric: str) -> None:
    x, explainer = pictures(), labelled()
    answer = explainer.explain(x, "gradcam", target=2)
    assert explainer.measure(x, answer, metric, target=2).value.isfinite().all()


def test_what_compares_rows_of_classes_is_refused() -> None:
    x, explainer = pictures(), labelled()
    answer = explainer.explain(x, "gradcam")
    for metric in ("class_sensitivity", "grid_pointing_game"):
        with pytest.raises(NotApplicableError):
            explainer.measure(x, answer, metric)


def test_hiding_a_part_tells_the_mean_probability_before_and_after() -> None:
    x, explainer = pictures(1), labelled()
    found = explainer.hide(x, box_mask(0, 0, 16, 32)[None], target=InRegion("road", "whole"))
    assert isinstance(found.after, SegmentationPrediction)
    assert found.unit == "probability"
    assert found.score_before != found.score_after


# -- predictions --------------------------------------------------------------------------------


def test_a_prediction_is_shares_of_the_picture() -> None:
    x, maps = pictures(), plain(pictures())
    said = labelled().predict(x)
    mask = maps.argmax(1)
    assert torch.equal(said.mask, mask)
    torch.testing.assert_close(said.values.sum(1), torch.ones(2))
    for index in range(4):
        share = (mask == index).float().mean((1, 2))
        torch.testing.assert_close(said.values[:, index], share)
    index, label, share = said.top(1)[0]
    assert said.describe() == f"{LABELS[index]} ({share:.1%} of the picture)"
    assert str(said).splitlines()[0].startswith(f"{label} {share:.1%}, ")
    with pytest.raises(NotApplicableError, match="a probability for each pixel"):
        said.probabilities  # noqa: B018
    assert "road" in said._repr_html_()
    assert copy.deepcopy(said) == said


def test_uncertainty_is_one_where_nothing_is_known_and_zero_where_all_is() -> None:
    even = DenseScores(torch.zeros(1, 4, 2, 2), (4, 4))
    one = torch.tensor([60.0, 0, 0, 0])[None, :, None, None]
    sure = DenseScores(one.expand(1, 4, 2, 2), (4, 4))
    for outputs, entropy, margin in ((even, 1.0, 0.0), (sure, 0.0, 1.0)):
        found = uncertainty(outputs, SOFTMAX)
        torch.testing.assert_close(found[0], torch.full((1, 4, 4), entropy), rtol=0, atol=1e-5)
        torch.testing.assert_close(found[1], torch.full((1, 4, 4), margin), rtol=0, atol=1e-5)
    half = DenseScores(torch.tensor([0.0, 60.0])[None, :, None, None].expand(1, 2, 2, 2), (2, 2))
    entropy_map, margin_map = uncertainty(half, SIGMOID)
    torch.testing.assert_close(entropy_map, torch.full((1, 2, 2), 0.5))
    torch.testing.assert_close(margin_map, torch.zeros(1, 2, 2))
    p = torch.tensor([0.5, 0.25, 0.25])
    three = DenseScores(p.log()[None, :, None, None].expand(1, 3, 2, 2), (2, 2))
    entropy_map, margin_map = uncertainty(three, SOFTMAX)
    expected = 1.5 * math.log(2) / math.log(3)
    assert float(entropy_map[0, 0, 0]) == pytest.approx(expected, rel=1e-5)
    assert float(margin_map[0, 0, 0]) == pytest.approx(0.25, rel=1e-5)


# -- command line and page ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SegFormer with random weights, as transformers saves it."""
    path = tmp_path_factory.mktemp("models") / "roads"
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = transformers.SegformerConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 2, 4],
            decoder_hidden_size=16, id2label=dict(enumerate(LABELS)),
            label2id={name: i for i, name in enumerate(LABELS)},
        )  # fmt: skip
        model = transformers.SegformerForSemanticSegmentation(config)
        for parameter in model.decode_head.parameters():
            parameter.data *= 8
    model.save_pretrained(path)
    size = {"height": 96, "width": 96}
    transformers.SegformerImageProcessor(size=size).save_pretrained(path)
    return path


def run(*arguments: str) -> tuple[Any, int, str]:
    """JSON, exit code and errors of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return json.loads(out.getvalue() or "null"), code, err.getvalue()


def test_the_command_line_lists_regions_with_a_map_each(folder: Path, tmp_path: Path) -> None:
    words = ("explain", "coffee", "--model", str(folder), "--output-dir", str(tmp_path))
    found, code, _ = run(*words, "--each-class", "2")
    assert code == 0
    assert len(found["images"]) == 2
    for report, top in zip(found["images"], found["images"][0]["top5"], strict=False):
        (region,) = report["regions"]
        assert region == {**top, "where": "in its region"}
        files = report["results"]["gradcam"]["files"]
        assert all(Path(path).is_file() for path in files.values())
    assert 0 < found["images"][0]["uncertainty"]["entropy"] < 1


def test_the_command_line_asks_about_regions(folder: Path) -> None:
    words = ("explain", "coffee", "--model", str(folder), "--task", "segmentation")
    scores = {}
    for where in (
        ("--region", "whole"), ("--region", "100,50,300,200"), ("--point", "120,80"),
        ("--region", "predicted"),
    ):  # fmt: skip
        named = () if where[1] == "predicted" else ("--class", "sky-car")
        found, code, _ = run(*words, *named, *where)
        assert code == 0
        scores[where[1]] = found["images"][0]["results"]["gradcam"]["score"]
        places = {one["where"] for one in found["images"][0]["regions"]}
        assert len(places) == 1
    assert len(set(scores.values())) == len(scores)
    assert places == {"in its region"}
    explainer = Explainer(load_model(folder))
    picture = Path(__file__).parent.parent / "assets" / "samples" / "coffee.jpg"
    answer = explainer.explain(picture, target=InRegion("sky-car", (120, 80)))
    assert float(answer.score) == pytest.approx(scores["120,80"], rel=1e-4)


def page_commands() -> list[str]:
    page = Path(__file__).parent.parent / "docs" / "segmentation.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("python -m core ")]


@pytest.mark.parametrize("command", page_commands())
def test_the_commands_on_the_page_run(command: str, folder: Path) -> None:
    words = command.replace("street.jpg", "coffee").replace("segformer/", str(folder))
    found, code, _ = run(*shlex.split(words)[3:])
    assert code == 0
    assert all(report["regions"] for report in found["images"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--point", "900,3"), "the pixel 900,3 lies outside"),
        (("--class", "rod"), "did you mean 'road'"),
        (("--region", "9,9,3,12", "--class", "road"), "nothing lies in the box"),
        (("--task", "classification"), "is needed"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    words: tuple[str, ...], said: str, folder: Path
) -> None:
    _, code, err = run("explain", "coffee", "--model", str(folder), *words)
    assert code == 2
    assert said in err
    assert [line for line in err.splitlines() if line.startswith("error: ")]


def test_a_classifier_is_not_asked_about_a_region_on_the_command_line() -> None:
    _, code, err = run("explain", "coffee", "--point", "3,3")
    assert code == 2
    assert "one row of scores for the whole picture" in err
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as told:
        main(["explain", "coffee", "--point", "3"])
    assert "is no pixel" in told.getvalue()


def test_the_page_says_that_it_does_not_show_segmenters(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, explainer = Service(checks=False), Explainer(load_model(folder))
    monkeypatch.setattr(service.models, "of", lambda *_: explainer)
    picture = str(Path(__file__).parent.parent / "assets" / "samples" / "coffee.jpg")
    question = Question(picture, "roads", "pretrained", None, None, "logit")
    asks: list[Callable[[], object]] = [
        lambda: actions.predict(service, question),
        lambda: actions.explain(service, actions.ExplainRequest(question, "gradcam", None, {})),
    ]
    for ask in asks:
        with pytest.raises(TimmscopeError, match="segments pictures, and the page shows"):
            ask()
