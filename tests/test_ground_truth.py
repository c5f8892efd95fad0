"""Boxes, masks and annotations become the mask that they describe, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import skimage.draw
from pycocotools import mask as coco_tools

from core import Explainer
from core.errors import TimmscopeError, UnknownNameError
from core.inputs.ground_truth import boxed, on_input, read_ground_truth
from core.inputs.mask_canvas import MOST_OUTLINE, MaskCanvas
from core.inputs.preprocessing import Geometry

SIZE = (6, 8)
"""Height and width of the picture."""
EXPECTED = boxed([(1, 2, 4, 5)], SIZE)


def voc(*objects: tuple[str, tuple[int, int, int, int]]) -> str:
    edges = ("xmin", "ymin", "xmax", "ymax")
    parts = [
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{edge}>{v}</{edge}>" for edge, v in zip(edges, box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    ]
    return f"<annotation>{''.join(parts)}</annotation>"


def coco(**annotation: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 3, "file_name": "a/cat.jpg"}, {"id": 4, "file_name": "dog.jpg"}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 3, "category_id": 1, **annotation},
            {"image_id": 4, "category_id": 2, "bbox": [0, 0, 8, 6]},
        ],
    }


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_box_holds_the_pixels_whose_centres_it_holds() -> None:
    assert boxed([(0.4, 0, 1.6, 1)], (1, 3)).tolist() == [[True, True, False]]
    assert EXPECTED.sum() == 9


def test_a_voc_box_counts_pixels_from_one_and_its_last_one_too(tmp_path: Path) -> None:
    path = written(tmp_path, "a.xml", voc(("cat", (2, 3, 4, 5)), ("dog", (1, 1, 1, 1))))
    assert np.array_equal(read_ground_truth(path, SIZE, label="cat"), EXPECTED)
    assert read_ground_truth(path, SIZE).sum() == 10


RUNS = [8, 3, 3, 3, 3, 3, 25]
"""`EXPECTED`, column by column."""


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": [1, 2, 3, 3]},
        {"segmentation": {"size": [6, 8], "counts": RUNS}},
        {"segmentation": {"size": [6, 8], "counts": "833000f0"}},
        {"segmentation": [[1, 2, 4, 2, 4, 5, 1, 5]]},
    ],
    ids=["box", "runs", "compressed", "polygon"],
)
def test_coco_in_all_its_forms(tmp_path: Path, annotation: dict[str, Any]) -> None:
    path = written(tmp_path, "a.json", json.dumps(coco(**annotation)))
    found = read_ground_truth(path, SIZE, picture="elsewhere/cat.jpg")
    assert np.array_equal(found, EXPECTED)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "P"])
def test_masks_as_pictures(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        values = EXPECTED.astype(np.uint8) * 7
        values[0] = 255  # what VOC leaves undecided
        image = PIL.Image.fromarray(values, "L")
        image = image.convert("P")
        image.putdata(values.flatten().tolist())
    elif mode == "RGBA":
        image = PIL.Image.new("RGBA", SIZE[::-1], (9, 9, 9, 0))
        image.putalpha(PIL.Image.fromarray(EXPECTED.astype(np.uint8) * 255))
    else:
        image = PIL.Image.fromarray(EXPECTED.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_ground_truth(tmp_path / "mask.png", SIZE), EXPECTED)


def test_a_mask_of_numbers_knows_its_classes_and_others_say_that_they_do_not(
    tmp_path: Path,
) -> None:
    numbers = np.zeros(SIZE, np.uint8)
    numbers[EXPECTED], numbers[0, 0], numbers[5, 7] = 15, 7, 255
    image = PIL.Image.fromarray(numbers, "L").convert("P")
    image.putdata(numbers.flatten().tolist())
    image.save(tmp_path / "numbers.png")
    assert np.array_equal(read_ground_truth(tmp_path / "numbers.png", SIZE, label="15"), EXPECTED)
    with pytest.raises(UnknownNameError, match=r"'cat'.*7"):
        read_ground_truth(tmp_path / "numbers.png", SIZE, label="cat")
    with pytest.raises(UnknownNameError, match="255"):
        read_ground_truth(tmp_path / "numbers.png", SIZE, label="255")
    PIL.Image.fromarray(EXPECTED).save(tmp_path / "one.png")
    with pytest.raises(TimmscopeError, match="without class numbers, so it has no 'cat'"):
        read_ground_truth(tmp_path / "one.png", SIZE, label="cat")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.xml", "<annotation", "no annotation that can be read"),
        ("a.xml", "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><annotation/>", "declares XML entities"),
        ("a.xml", voc(), "names no object"),
        ("a.json", "{}", "no annotation that can be read"),
        ("a.json", "[1, 2", "no annotation that can be read"),
        ("a.json", json.dumps(coco(segmentation={"size": [6, 8], "counts": [1, 2]})), "add up"),
        ("a.json", json.dumps(coco(segmentation={"size": [9, 9], "counts": [81]})), "does not fit"),
        ("a.png", "no picture", "a.png"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(TimmscopeError, match=reason):
        read_ground_truth(written(tmp_path, name, text), SIZE, picture="cat.jpg")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TimmscopeError, match="no file"):
        read_ground_truth(tmp_path / "none.png", SIZE)
    path = written(tmp_path, "a.json", json.dumps(coco(bbox=[1, 2, 3, 3])))
    with pytest.raises(TimmscopeError, match=r"bird\.jpg"):
        read_ground_truth(path, SIZE, picture="bird.jpg")
    with pytest.raises(UnknownNameError, match="cats"):
        read_ground_truth(path, SIZE, picture="cat.jpg", label="cats")


def test_the_truth_lies_on_the_input_where_the_crop_shows_it() -> None:
    crop = Geometry(picture=SIZE, input=(8, 8), box=(1.0, 1.0, 5.0, 5.0))
    expected = boxed([(0, 2, 6, 8)], (8, 8))
    assert np.array_equal(on_input(EXPECTED, crop).numpy(), expected)
    padded = Geometry(picture=SIZE, input=(10, 12), box=(-2.0, -2.0, 10.0, 8.0))
    assert np.array_equal(on_input(EXPECTED, padded).numpy(), boxed([(3, 4, 6, 7)], (10, 12)))
    with pytest.raises(TimmscopeError, match="does not fit a picture"):
        on_input(EXPECTED[1:], crop)
    elsewhere = Geometry(picture=SIZE, input=(8, 8), box=(5.0, 0.0, 8.0, 3.0))
    with pytest.raises(TimmscopeError, match="nothing that the model sees is marked"):
        on_input(EXPECTED, elsewhere)


def test_a_box_around_the_cup_scores_gradcam_better_than_one_beside_it(lite0: Explainer) -> None:
    picture = Path(__file__).parents[1] / "assets/samples/coffee.jpg"
    batch = lite0.prepare(picture)
    answer = lite0.explain(batch, "gradcam")
    height, width = batch.geometries[0].picture
    inside = []
    for box in ((150, 0, 450, height), (0, 0, 150, height)):
        ground_truth = on_input(boxed([box], (height, width)), batch.geometries[0])[None]
        score = lite0.measure(batch, answer, "energy_inside", ground_truth=ground_truth)
        inside.append(score.value.item())
    assert inside[0] > 0.7 > 0.2 > inside[1]


# -- what an annotation may cost ------------------------------------------------------------------


def test_polygons_are_what_scikit_image_draws_but_for_pixels_on_the_edge() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :35] + 0.5
    for _ in range(100):
        points = rng.uniform(-5, 40, size=2 * rng.integers(3, 9))
        canvas = MaskCanvas((30, 35))
        canvas.polygon(points.tolist())
        theirs = np.zeros((30, 35), dtype=bool)
        theirs[skimage.draw.polygon(points[1::2] - 0.5, points[0::2] - 0.5, (30, 35))] = True
        different = canvas.mask != theirs
        assert different.sum() < 0.1 * theirs.sum() + 5
        centres = np.stack([x[different], y[different]], 1)
        assert (to_edges(centres, points.reshape(-1, 2)) <= 0.75).all()


def to_edges(centres: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(n,) how far points (n, 2) are from the nearest edge of a polygon (k, 2)."""
    along = np.roll(corners, -1, 0) - corners
    off = centres[:, None] - corners
    share = ((off * along).sum(2) / (along**2).sum(1)).clip(0, 1)
    return np.linalg.norm(off - share[..., None] * along, axis=2).min(1)


def test_a_polygon_may_lie_across_the_rim_of_the_picture() -> None:
    expected = boxed([(-3, -2, 4, 3)], SIZE) | boxed([(6, 5, 12, 9)], SIZE)
    canvas = MaskCanvas(SIZE)
    for left, top, right, bottom in ((-3, -2, 4, 3), (6, 5, 12, 9), (-5, 1, -2, 3)):
        canvas.polygon([left, top, right, top, right, bottom, left, bottom])
    canvas.polygon([1, 5, 2, 5])  # no area
    assert np.array_equal(canvas.mask, expected)
    rng, far = np.random.default_rng(0), 20
    for _ in range(30):
        corners = rng.uniform(-8, 14, size=6)
        small, large = MaskCanvas(SIZE), MaskCanvas((SIZE[0] + 2 * far, SIZE[1] + 2 * far))
        small.polygon((corners.clip(-6, 12)).tolist())
        large.polygon((corners.clip(-6, 12) + far).tolist())
        inner = large.mask[far : far + SIZE[0], far : far + SIZE[1]]
        assert np.array_equal(small.mask, inner)


@pytest.mark.parametrize("kind", ["runs", "compressed"])
def test_masks_in_run_lengths_are_what_cocos_tools_wrote(kind: str) -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.3
    runs = coco_tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    if kind == "runs":
        flat = mask.T.ravel()
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *([0] if flat[0] else []), *ends, flat.size]).tolist()
    canvas = MaskCanvas((30, 40))
    canvas.run_lengths([30, 40], runs)
    assert np.array_equal(canvas.mask, mask)


def annotated(path: Path, *annotations: dict[str, Any]) -> Path:
    found = [{"image_id": 1, "category_id": 1, **one} for one in annotations]
    categories = [{"id": 1, "name": "cat"}]
    images = [{"id": 1, "file_name": "a.jpg"}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": found}))
    return path


def runs(counts: str) -> dict[str, Any]:
    return {"segmentation": {"size": [30, 40], "counts": counts}}


WHOLE = {"segmentation": [[0, 0, 40, 0, 40, 30, 0, 30]]}


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ([WHOLE] * 100, "draws more than"),
        ([{"bbox": [0, 0, 1, 1]}] * 10_001, "draws more than"),
        ([runs("o" * 1000)], "no text that COCO's tools write"),
        ([runs("1o")], "no text that COCO's tools write"),
        ([runs("ä")], "no text that COCO's tools write"),
        ([runs("")], "no text that COCO's tools write"),
        ([runs("34")], "do not add up"),
        ([runs("o`o1OOOOO?" * 50)], "do not add up|no text"),
        ([runs("PPPPO1" * 1000)], "do not add up|no text"),
        ([{"segmentation": {"size": [30, 40], "counts": [1e999]}}], "no annotation"),
        ([{"segmentation": [[0, 0, float("nan"), 1, 2, 2]]}], "not pairs of numbers"),
        ([{"segmentation": [[0, 0, 1]]}], "not pairs of numbers"),
        ([{"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}], "far outside the picture"),
        ([{"segmentation": [[0, 0, 40, 30] * (MOST_OUTLINE // 50)]}], "pixels of outline"),
    ],
    ids=[
        *("drawn over and over", "too many", "endless run", "cut off", "no COCO text", "empty"),
        *("too short", "negative runs", "too long", "infinite run", "no number", "odd"),
        *("far outside", "zigzag"),
    ],
)
def test_an_annotation_beyond_measure_is_refused_in_a_sentence(
    tmp_path: Path, annotations: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(TimmscopeError, match=said):
        read_ground_truth(annotated(tmp_path / "a.json", *annotations), (30, 40))


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(TimmscopeError, match="no annotation"):
        read_ground_truth(path, (30, 40))
