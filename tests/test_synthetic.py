"""Generated pictures are what they say, the models know them, explanations find the evidence."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from benchmarks import ground_truth, mosaics
from core import Explainer, load_model
from core.errors import UnknownNameError
from core.evaluation.journal import JsonLines
from core.methods.base import METHODS
from core.models.listing import find, list_models
from core.synthetic import FOLDER, SYNTHETIC_MODELS, train
from core.synthetic.scenes import CLASSES, HELD_OUT, SIDE, Scene, scene
from core.types import Need, Property
from dashboard.state import MODELS
from tests.conftest import images, shared_handle

EACH_WORLD = pytest.mark.parametrize("name", SYNTHETIC_MODELS)
PICTURES, MANY = 8, 200
LOCALISES: dict[str, dict[str, object]] = {
    "gradcam": {},
    "layercam": {},
    "integrated_gradients": {"steps": 12},
    "occlusion": {"window": 16, "stride": 16},
}


@functools.cache
def case(name: str, pictures: int = PICTURES, pairs: int = PICTURES) -> ground_truth.Case:
    """Held-out pictures that a model understands."""
    return ground_truth.collect(load_model(name, device="cpu"), pictures, pairs)


@functools.cache
def control(key: str, name: str) -> ground_truth.Found:
    """What a control scores on many pictures of one object."""
    return ground_truth.score(case(name, MANY, 0), key, seconds=60)


def pictures(scenes: list[Scene]) -> Tensor:
    return ground_truth.planes(scenes)


# -- scenes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("objects", [1, 2])
def test_a_scene_is_its_seeds_alone(objects: int) -> None:
    before = np.random.get_state()[1].tolist()
    first = scene(5, objects)
    scene(6, objects)
    again = scene(5, objects)
    for name in ("picture", "ground", "masks"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert first.classes == again.classes
    assert not np.array_equal(first.picture, scene(6, objects).picture)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("objects", [1, 2])
def test_the_masks_are_the_objects_and_nothing_else(objects: int) -> None:
    for seed in range(HELD_OUT, HELD_OUT + 50):
        found = scene(seed, objects)
        assert found.masks.shape == (objects, SIDE, SIDE)
        assert found.masks.sum(0).max() == 1
        changed = (found.picture != found.ground).any(-1)
        covered = found.masks.any(0)
        assert not changed[~covered].any()
        assert changed[covered].mean() > 0.98  # a pixel may have had the colour before


def test_two_objects_are_of_different_classes_and_side_by_side() -> None:
    for seed in range(50):
        found = scene(seed, objects=2)
        assert len(set(found.classes)) == 2
        assert not found.masks[0, :, SIDE // 2 :].any()
        assert not found.masks[1, :, : SIDE // 2].any()


def test_every_class_is_about_as_frequent_and_large_and_seldom_in_the_middle() -> None:
    scenes = [scene(seed) for seed in range(600)]
    counts = np.bincount([s.classes[0] for s in scenes], minlength=len(CLASSES))
    assert counts.min() > 0.6 * len(scenes) / len(CLASSES)
    for index in range(len(CLASSES)):
        area = np.mean([s.masks.mean() for s in scenes if s.classes[0] == index])
        assert 0.03 < area < 0.15, CLASSES[index]
    middle = slice(SIDE // 2 - 2, SIDE // 2 + 2)
    assert np.mean([s.masks[0, middle, middle].any() for s in scenes]) < 0.25


# -- models ---------------------------------------------------------------------------------------


@EACH_WORLD
def test_a_world_loads_by_name_with_its_labels_and_preprocessing(name: str) -> None:
    handle = load_model(name, device="cpu")
    assert (handle.name, handle.source, handle.owned) == (name, "embedded", True)
    assert tuple(handle.labels or ()) == CLASSES
    assert handle.outputs == len(CLASSES)
    x, geometry = handle.preprocessing(FOLDER / "ringed_star.png")
    assert geometry.whole
    star = next(s for s in map(scene, range(HELD_OUT, HELD_OUT + 100)) if s.classes[0] == 3)
    torch.testing.assert_close(x[None], pictures([star]), atol=1e-5, rtol=0)


@EACH_WORLD
def test_a_world_is_listed_first_and_offered(name: str) -> None:
    assert list(list_models())[: len(SYNTHETIC_MODELS)] == list(SYNTHETIC_MODELS)
    assert list_models(name)[name] == {
        "pretrained": True,
        "offline": True,
        "input_size": [3, SIDE, SIDE],
        "classes": len(CLASSES),
    }
    assert MODELS[1 : 1 + len(SYNTHETIC_MODELS)] == tuple(SYNTHETIC_MODELS)
    assert find(name).architecture == SYNTHETIC_MODELS[name].architecture


def test_a_mistyped_world_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'world_resnet'"):
        load_model("world_resnte")


@EACH_WORLD
def test_random_weights_know_nothing_of_the_world(name: str) -> None:
    handle = load_model(name, weights="random", device="cpu")
    assert handle.source.startswith("random")
    assert train.held_out_accuracy(handle.model, 64) < 0.5


@EACH_WORLD
def test_a_model_knows_pictures_it_was_not_trained_on(name: str) -> None:
    accuracy = train.held_out_accuracy(load_model(name, device="cpu").model, 200)
    assert accuracy >= 0.97
    with safe_open(SYNTHETIC_MODELS[name].file, "pt") as file:
        facts = file.metadata()
    assert float(facts["accuracy"]) >= 0.97
    assert facts["architecture"] == SYNTHETIC_MODELS[name].architecture
    assert facts["classes"].split(", ") == list(CLASSES)


@EACH_WORLD
def test_the_evidence_is_nowhere_but_on_the_object(name: str) -> None:
    scenes = [scene(seed) for seed in range(HELD_OUT, HELD_OUT + 200)]
    grounds = [Scene(s.ground, s.ground, s.classes, s.masks) for s in scenes]
    with torch.no_grad():
        found = load_model(name, device="cpu").model(pictures(grounds)).argmax(1)
    right = np.mean([int(a) == s.classes[0] for a, s in zip(found, scenes, strict=True)])
    assert right < 0.3  # one in six is chance


def test_the_weights_are_small() -> None:
    assert sum(world.file.stat().st_size for world in SYNTHETIC_MODELS.values()) < 6e6


def test_the_pictures_kept_are_what_the_generator_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "FOLDER", tmp_path)
    train.write_samples()
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in FOLDER.glob("*.png"))
    for name in made:
        kept, anew = (np.asarray(Image.open(folder / name)) for folder in (FOLDER, tmp_path))
        assert np.array_equal(kept, anew), name


# -- training -------------------------------------------------------------------------------------


def test_training_is_repeatable_and_leaves_the_callers_chance_alone() -> None:
    shown, targets = train.training_set(128)
    before = torch.get_rng_state()
    world = SYNTHETIC_MODELS["world_resnet"]
    one, other = (train.train(world, shown, targets, 2 * train.BATCH) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    fresh = train.build(world).state_dict()
    assert not torch.equal(one.state_dict()["fc.weight"], fresh["fc.weight"])


def test_the_training_pictures_show_what_their_targets_say() -> None:
    shown, targets = train.training_set(8)
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 8)
    for seed in range(8):
        found = scene(seed, 2 if seed % 4 == 0 else 1)
        assert set(targets[seed].nonzero().flatten().tolist()) == set(found.classes)
        assert np.array_equal(shown[seed, :3].permute(1, 2, 0).numpy(), found.picture)
        for index, mask in zip(found.classes, found.masks, strict=True):
            assert set(shown[seed, 3].numpy()[mask]) == {index + 1}
        assert not shown[seed, 3].numpy()[~found.masks.any(0)].any()


def test_the_command_trains_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "FOLDER", tmp_path)
    monkeypatch.setattr("core.synthetic.FOLDER", tmp_path)
    monkeypatch.setattr(train, "TESTED", 8)
    words = ["world_resnet", "--views", "64", "--pictures", "64", "--threads", "1"]
    assert train.main(words) == 0
    with safe_open(tmp_path / "world_resnet.safetensors", "pt") as file:
        assert "fc.weight" in file.keys()  # noqa: SIM118  it is no mapping
        assert 0 <= float(file.metadata()["accuracy"]) <= 1


# -- explanations ---------------------------------------------------------------------------------


def test_the_centre_control_is_a_gaussian_in_the_middle() -> None:
    owner = shared_handle("resnet")
    height, width = owner.input_size[1:]
    values = Explainer(owner).explain(images(owner, 2), "centre", target=0).values
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squared = ((down + 0.5 - height / 2) / (height / 4)) ** 2
    squared = squared + ((across + 0.5 - width / 2) / (width / 4)) ** 2
    torch.testing.assert_close(values, torch.exp(-squared / 2).expand(2, -1, -1))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pair
        for pair in itertools.product(LOCALISES, SYNTHETIC_MODELS)
        if pair != ("gradcam", "world_vit")
    ],
)
def test_the_evidence_is_found(key: str, name: str) -> None:
    found = ground_truth.score(case(name), METHODS.make(key, LOCALISES[key]), seconds=60)
    assert found.refused == ""
    for control in ground_truth.CONTROLS:
        known = ground_truth.score(case(name), control, seconds=60)
        assert ground_truth.beats(found, known), control
        assert (found.inside - known.inside).mean() > 0.08, control


def every_time(key: str, name: str) -> bool:
    """Whether a method is tried on a world every time: on one that it suits."""
    attends = Need.ATTENTION in METHODS[key].needs or key in {"attnlrp", "cp_lrp"}
    return name == ("world_vit" if attends else "world_resnet")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param(key, name, marks=[] if every_time(key, name) else pytest.mark.slow)
        for key, cls in METHODS.items()
        for name in SYNTHETIC_MODELS
        if Property.LOCALISES in cls.properties
    ],
)
def test_what_claims_to_localise_beats_the_controls(key: str, name: str) -> None:
    owner, method = case(name).explainer.model, METHODS.make(key)
    if owner.why_not(method.requires()) or method.refusal(owner):
        return
    if (
        method.estimate_cost(owner, owner.resolve_layer(method.layer_needs(), None)).pace
        != "instant"
    ):
        return  # docs/ground_truth.md has these
    found = ground_truth.score(case(name, MANY, 0), method, seconds=60)
    assert len(found.inside) == MANY
    for other in ground_truth.CONTROLS:
        assert ground_truth.beats(found, control(other, name)), other


def test_the_committed_page_bears_out_what_methods_claim() -> None:
    lines = ground_truth.PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip(" `") for cell in line.split("|")[2:-1]] for line in lines]
    beats = [(row[0], row[4]) for row in rows if len(row) == 6 and row[0] in METHODS]
    claimed = {key for key, cls in METHODS.items() if Property.LOCALISES in cls.properties}
    assert claimed <= {key for key, _ in beats}
    assert {(k, words) for k, words in beats if k in claimed and words != "all controls"} == set()


@EACH_WORLD
def test_the_object_asked_for_is_found(name: str) -> None:
    assert ground_truth.score(case(name), "gradcam", seconds=60).right.mean() > 0.65
    assert ground_truth.score(case(name), "centre", seconds=60).right.mean() == pytest.approx(0.5)


# -- how it is scored -----------------------------------------------------------------------------


def test_shares_and_hits_by_hand() -> None:
    values = np.array([[3.0, -5.0], [1.0, 0.0]])
    mask = np.array([[True, True], [False, False]])
    assert ground_truth.share(values, mask) == 0.75
    assert ground_truth.share(-np.ones((2, 2)), mask) == 0
    assert ground_truth.hit(values, mask) == 1
    assert ground_truth.hit(np.ones((2, 2)), mask) == 0.5


def test_an_interval_holds_the_mean_and_a_tie_beats_nobody() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.1, 40)
    low, high = ground_truth.interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.15)
    one, more = ground_truth.Found(inside=values), ground_truth.Found(inside=values + 0.01)
    assert not ground_truth.beats(one, one)
    assert ground_truth.beats(more, one)
    assert not ground_truth.beats(one, more)


def test_a_method_that_cannot_run_is_a_refusal() -> None:
    found = ground_truth.score(case("world_resnet"), "attention_rollout", seconds=60)
    assert "no softmax attention" in found.refused


def test_the_page_names_every_world_and_every_control() -> None:
    text = ground_truth.PAGE.read_text(encoding="utf-8")
    for name in SYNTHETIC_MODELS:
        assert f"## `{name}`" in text
    for key in ground_truth.CONTROLS:
        assert text.count(f"| `{key}` |") == len(SYNTHETIC_MODELS) + text.count("## Photographs")


def test_a_small_page_is_written(tmp_path: Path) -> None:
    words = ["--models", "world_resnet", "--methods", "gradcam", "saliency", "--pictures", "4"]
    page = tmp_path / "ground_truth.md"
    words += ["--rounds", "0", "--page", str(page), "--journal", str(tmp_path / "found.jsonl")]
    assert ground_truth.main([*words, "--jobs", "1"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.index("| `gradcam` |") < text.index("| `random` |")
    assert "Grad-CAM by layer" in text


def test_what_a_journal_holds_is_not_done_again(tmp_path: Path) -> None:
    path, asked = tmp_path / "new" / "found.jsonl", []

    def find() -> ground_truth.Found:
        asked.append(1)
        return ground_truth.Found(inside=np.array([0.25, 1 / 3]), seconds=2.0)

    with JsonLines(path) as lines:
        first = lines.once("a", ground_truth.Found, find)
    with path.open("a") as file:
        file.write('\n{"name": "b", "to')  # cut off in writing
    with JsonLines(path) as lines:
        again = lines.once("a", ground_truth.Found, find)
    assert asked == [1]
    assert again.inside.tolist() == first.inside.tolist()
    assert (again.right.shape, again.seconds, again.refused) == ((0,), 2.0, "")
    for _ in range(2):
        with JsonLines(path) as lines:
            lines.once("b", ground_truth.Found, find)
    assert asked == [1, 1]


def test_a_mosaic_shows_each_photograph_where_it_says() -> None:
    known = [(torch.full((3, 4, 6), float(label)), label) for label in (7, 8, 9, 9, 5)]
    shown = list(mosaics.mosaics(known, rounds=3))
    assert len(shown) == 3
    for mosaic in shown:
        assert len(set(mosaic.classes)) == 4
        assert mosaic.x.shape == (3, 8, 12)
        quarters = [mosaic.x[:, t : t + 4, j : j + 6] for t in (0, 4) for j in (0, 6)]
        assert [int(q.unique()) for q in quarters] == list(mosaic.classes)
    again = list(mosaics.mosaics(known, rounds=3))
    assert [m.classes for m in shown] == [m.classes for m in again]


def test_gradcam_finds_the_right_quarter_on_photographs_and_the_centre_does_not() -> None:
    played = mosaics.game("tf_efficientnet_lite0", rounds=1)
    assert played.known >= 18
    assert mosaics.score(played, "gradcam", seconds=60).shares.mean() > 0.6
    assert mosaics.score(played, "centre", seconds=60).shares.mean() == pytest.approx(
        0.25, abs=0.01
    )


def test_a_second_real_network_is_built_from_its_package() -> None:
    found = mosaics.game("mobilenet_v2 of torchvision", rounds=1)
    assert found.known >= 15
