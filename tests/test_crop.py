"""The part of a picture that a model is asked to see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core import Explainer, compare_models, load_model, sample_picture
from core.cli import _parser as parser
from core.cli import main
from core.cli.evaluate import Request as EvaluateRequest
from core.errors import PictureError, TimmscopeError
from core.inputs.crop import read_crop, read_crops, window_of
from core.inputs.preprocessing import Preprocessing

HALF = (0.5, 0.5, 0.5)
BOX = (100.0, 20.0, 300.0, 220.0)


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.open(sample_picture("coffee")).convert("RGB")


def preprocessing(**settings: object) -> Preprocessing:
    size = settings.pop("input_size", (3, 64, 64))
    channels = size[0]
    mean, std = (0.4,) * channels, (0.3,) * channels
    return Preprocessing(size, mean=mean, std=std, **settings)


WAYS = {
    "bicubic": {},
    "bilinear": {"interpolation": "bilinear", "crop_pct": 0.7},
    "wide": {"input_size": (3, 64, 128), "crop_pct": 0.9},
    "grey": {"input_size": (1, 64, 64)},
    "bands": {"input_size": (5, 64, 64)},
    "transform": {"resize": (80,), "interpolation": "bilinear"},
    "floats": {"resize": (80,), "interpolation": "bicubic", "backend": "float"},
    "rounded": {"resize": (80,), "interpolation": "bilinear", "backend": "rounded"},
    "bytes": {"resize": (80,), "interpolation": "bilinear", "backend": "uint8"},
    "not resized": {"resize": ()},
    "padded": {"crop_mode": "border", "crop_pct": 1.0},
    "smaller": {"resize": (40,), "interpolation": "bilinear"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(300, 211), (120, 333), (96, 96)])
def test_the_models_own_crop_as_a_box_gives_the_same_input(way: str, size: tuple[int, int]) -> None:
    prepare = preprocessing(**WAYS[way])
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 5), dtype=np.uint8)
    source = values if way == "bands" else Image.fromarray(values[..., :3])
    x, geometry = prepare(source)
    again, same = prepare(source, geometry.box)
    assert same == geometry
    assert torch.equal(again, x)


@pytest.mark.parametrize("way", WAYS)
def test_a_part_is_resampled_as_the_whole_picture_is(way: str) -> None:
    """A part on the same pixels of the input as the model's own: these are the same where both lie.

    Bytes are resized with whole-number weights, which Pillow and torchvision round differently.
    """
    prepare = preprocessing(**WAYS[way])
    values = np.random.default_rng(3).integers(0, 256, (480, 480, 5), dtype=np.uint8)
    source = values if way == "bands" else Image.fromarray(values[..., :3])
    _x, geometry = prepare(source)
    _, height, width = prepare.input_size
    step = (geometry.box[2] - geometry.box[0]) / width
    moved = tuple(edge + 3 * step for edge in geometry.box)
    again, same = prepare(source, moved)
    assert same.box == pytest.approx(moved)
    inside = prepare(source, geometry.box)[0][:, 3:, 3:] - again[:, :-3, :-3]
    seen = inside[:, 8 : height - 16, 8 : width - 16]
    assert seen.abs().max() < 1.5 / 255 / 0.3
    share = 0.2 if way == "bytes" else 0.01
    assert (seen.abs() > 1e-4).float().mean() < share


def test_the_whole_picture_is_seen_padded_with_the_mean_and_not_squashed() -> None:
    prepare = preprocessing(crop_mode="squash")
    x, geometry = prepare(Image.new("RGB", (200, 100), "white"), "whole")
    assert geometry.whole
    left, top, right, bottom = geometry.box
    assert (right - left, bottom - top) == pytest.approx((200, 200))
    assert x[:, :16].abs().max() < 0.02
    assert x[:, 48:].abs().max() < 0.02
    torch.testing.assert_close(x[:, 16:48], torch.full((3, 32, 64), 2.0))


def test_the_padding_of_a_transform_is_black() -> None:
    x, _ = preprocessing(resize=(64,))(Image.new("RGB", (200, 100), "white"), "whole")
    torch.testing.assert_close(x[:, 0], preprocessing().pixel(0.0)[:, :, 0].expand(3, 64))


@pytest.mark.parametrize("side", [64, 65, 7, 1])
@pytest.mark.parametrize("size", [(20, 1000), (1000, 20), (33, 100), (640, 481), (64, 64)])
def test_nothing_of_the_picture_is_cut(side: int, size: tuple[int, int]) -> None:
    prepare = preprocessing(input_size=(3, side, side), crop_pct=1.0)
    _, geometry = prepare(Image.new("RGB", size, "white"), "whole")
    assert geometry.whole
    left, top, right, bottom = geometry.box
    short = min(size) / max(size) * side
    if short > 1:  # it is a whole number of pixels on the input, so it may be half a pixel off
        assert (right - left) / (bottom - top) == pytest.approx(1, rel=1.1 * 0.5 / (short - 0.5))


def test_a_box_of_another_aspect_is_extended_around_its_centre() -> None:
    window = window_of((40, 40, 60, 50), (100, 200), (64, 64))
    assert window.box == pytest.approx((40, 35, 60, 55))
    assert window.target == (0, 0, 64, 64)  # the picture goes on there, so nothing is padded
    at_the_edge = window_of((0, 0, 100, 200), (200, 200), (64, 64))
    assert at_the_edge.box == pytest.approx((-50, 0, 150, 200))
    assert at_the_edge.target == (16, 0, 64, 64)


def test_a_box_shows_its_own_pixels() -> None:
    values = np.zeros((80, 80, 3), np.uint8)
    values[20:40, 50:70] = 255
    prepare = preprocessing(input_size=(3, 20, 20), interpolation="nearest", crop_pct=1.0)
    x, _ = prepare(Image.fromarray(values), (50, 20, 70, 40))
    assert prepare.to_pixels(x).min() == 1
    x, geometry = prepare(Image.fromarray(values), (40, 20, 80, 60))
    assert prepare.to_pixels(x)[0].sum() == 100  # 20 x 20 pixels of the picture, halved
    assert prepare.to_pixels(x)[0, :10, 5:15].min() == 1
    assert geometry.to_picture(5, 0) == (50, 20)


@pytest.mark.parametrize(
    ("crop", "said"),
    [
        ("1,2,3", "'1,2,3' has 3 numbers"),
        ((1, 2, 3, 4, 5), "has 5 numbers"),
        ("middle", "'middle' is no part of a picture"),
        ("0,0,nan,5", "'0,0,nan,5' has an edge that is nowhere"),
        ((0, 0, float("inf"), 5), "has an edge that is nowhere"),
        ((0, 0, 1e300, 5), "has an edge that is nowhere"),
        ("5,5,5,9", "'5,5,5,9' is less than a pixel wide or high"),
        ("9,5,2,8", "'9,5,2,8' is less than a pixel wide or high"),
        (7, "7 is no part of a picture"),
        ("1000,0,1200,100", "crop 1000,0,1200,100 lies outside of"),
        (["whole", None], "2 crops are given for 1 picture"),
    ],
)
def test_what_is_no_part_of_the_picture_is_refused(
    explainer: Explainer, picture: Image.Image, crop: object, said: str
) -> None:
    with pytest.raises(TimmscopeError) as found:
        explainer.prepare(picture, crop=crop)
    assert said in str(found.value)
    assert "give" in str(found.value)


def test_one_crop_for_all_pictures_or_one_for_each() -> None:
    assert read_crops("whole", 3) == ("whole",) * 3
    assert read_crops([BOX, None, "1,2,30,40"], 3) == (BOX, None, (1.0, 2.0, 30.0, 40.0))
    assert read_crops(np.array(BOX), 2) == (BOX, BOX)
    assert read_crop(" Whole ") == "whole"


def test_pictures_with_a_crop_each_are_as_alone(explainer: Explainer) -> None:
    files = [sample_picture("coffee"), sample_picture("chelsea"), sample_picture("rocket")]
    crops = [BOX, None, "whole"]
    together = explainer.prepare(files, crop=crops)
    for i, (file, crop) in enumerate(zip(files, crops, strict=True)):
        alone = explainer.prepare(file, crop=crop)
        assert torch.equal(together.x[i], alone.x[0])
        assert together.geometries[i] == alone.geometries[0]
        assert alone.digest in together.digest


def test_tensors_have_no_crop(explainer: Explainer, picture: Image.Image) -> None:
    x = explainer.prepare(picture).x
    for tensor in (x, list(x)):
        with pytest.raises(TimmscopeError, match="crop 'whole' is a part of a picture, and a ten"):
            explainer.explain(tensor, crop="whole")


def test_every_question_takes_a_crop(explainer: Explainer, picture: Image.Image) -> None:
    batch = explainer.prepare(picture, crop=BOX)
    own = explainer.predict(picture)
    assert torch.equal(explainer.predict(picture, crop=BOX).values, explainer.predict(batch).values)
    assert not torch.equal(explainer.predict(batch).values, own.values)
    found = explainer.explain(picture, crop=BOX)
    assert torch.equal(found.values, explainer.explain(batch).values)
    assert not torch.equal(found.values, explainer.explain(picture).values)  # nor from the cache
    assert found.pictures[0].box == BOX
    compared = explainer.compare(picture, ["gradcam"], crop=BOX)
    assert torch.equal(compared.results["gradcam"].values, found.values)
    for ask in (explainer.features, explainer.patches):
        ask(picture, crop=BOX)
    score = explainer.measure(picture, found, "deletion", crop=BOX, steps=4)
    assert torch.equal(score.value, explainer.measure(batch, found, "deletion", steps=4).value)
    with pytest.raises(TypeError, match="a Query already says its crop"):
        explainer.explain(explainer.query(picture), crop=BOX)


def test_a_batch_keeps_its_crop_for_another_model(picture: Image.Image) -> None:
    batch = Explainer().prepare(picture, crop=BOX)
    other = Explainer("world_resnet")
    again = other.prepare(batch)
    assert again.geometries[0].box == pytest.approx(BOX)
    assert other.prepare(again).digest == again.digest == batch.digest
    assert other.prepare(again, crop="whole").geometries[0].whole


def test_a_map_of_a_box_lies_in_the_box(explainer: Explainer, picture: Image.Image) -> None:
    """The overlay changes the picture within the box, and nowhere else but at its outline."""
    found = explainer.explain(picture, crop=BOX)
    plain = np.asarray(picture).astype(int)
    drawn = np.asarray(found.overlay(0).resize(picture.size)).astype(int)[..., :3]
    changed = np.abs(drawn - plain).max(2) > 24
    left, top, right, bottom = map(int, BOX)
    assert changed[top:bottom, left:right].mean() > 0.5
    assert changed[bottom + 12 :].mean() < 0.02
    assert changed[:, right + 12 :].mean() < 0.02


def test_a_region_in_pixels_of_the_picture_is_hidden_where_it_lies(
    explainer: Explainer, picture: Image.Image
) -> None:
    found = explainer.hide(picture, "100,20,200,120", crop=BOX, baseline="black")
    hidden = found.hidden[0]
    assert hidden[:112, :112].all()
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.01)
    assert found.pixels[0][:, :110, :110].max() == 0
    truth = explainer.ground_truth(picture, "100,20,200,120", crop=BOX)
    assert torch.equal(truth[0], hidden)
    with pytest.raises(TimmscopeError):
        explainer.hide(picture, "500,300,590,390", crop=BOX)  # nothing that the model sees


def test_models_side_by_side_see_the_same_part(picture: Image.Image) -> None:
    found = compare_models(
        picture, ["tf_efficientnet_lite0", "world_resnet"], crop="100,20,300,220"
    )
    assert found.seen_by_all == pytest.approx(BOX)
    assert {side.geometry.box for side in found.sides.values()} == {BOX}


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_line_takes_a_crop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, crop = sample_picture("coffee"), "100,20,300,220"
    asked = ["explain", file, "--output-dir", tmp_path, "--crop"]
    (report,) = told(capsys, *asked, crop)["images"]
    assert report["crop"]["box"] == list(BOX)
    assert not report["crop"]["whole"]
    saved = np.load(report["results"]["gradcam"]["files"]["npz"])
    assert saved["crop"].tolist() == list(BOX)
    (whole,) = told(capsys, *asked, "whole")["images"]
    assert whole["crop"]["whole"]
    assert whole["confidence"] != report["confidence"]
    assert whole["results"]["gradcam"]["files"] != report["results"]["gradcam"]["files"]
    assert told(capsys, "hide", file, "100,20,200,120", "--crop", crop)["hidden"] == 0.25
    assert told(capsys, "features", file, "--crop", "whole")["crop"]["whole"]
    sides = told(capsys, "compare", file, sample_picture("chelsea"), "--crop", "whole")["sides"]
    assert all(side["crop"]["whole"] for side in sides.values())


def test_an_evaluation_is_continued_with_the_same_crop_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["evaluate", str(sample_picture("coffee")), "--methods", "gradcam"]
    report = told(capsys, *asked, "--metrics", "sparseness", "--crop", "whole")
    assert report["crop"] == "whole"
    assert report["rows"][0]["value"] is not None
    model = load_model("world_resnet")
    questions = [
        EvaluateRequest.read(parser().parse_args([*asked, *more])).facts(model)
        for more in ([], ["--crop", "whole"], ["--crop", "0,0,50,60"])
    ]
    assert len({json.dumps(one) for one in questions}) == 3


def test_a_wrong_crop_is_refused_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(["explain", str(sample_picture("coffee")), "--crop", "1,2,3"])
    assert exit_code.value.code == 2
    assert "crop '1,2,3' has 3 numbers; give left,top,right,bottom" in capsys.readouterr().err


def test_a_crop_outside_of_a_picture_concerns_that_picture() -> None:
    with pytest.raises(PictureError, match=r"'small.png'|is 8 x 8 pixels"):
        preprocessing()(Image.new("RGB", (8, 8)), (20, 20, 30, 30))
