"""Answers in a notebook: the map over its picture, HTML, arrays, and layers given as modules."""

from __future__ import annotations

import copy
import html.parser
import pickle
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageShow
from torch import nn

from core import Explainer, ModelHandle, Query, load_model
from core.errors import TimmscopeError, UnknownNameError
from core.evaluation.evaluate import evaluate
from core.evaluation.verdict import Finding, Verdict
from core.export import Style, save_png
from core.inputs.display import SIDE, shown_pictures
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS
from core.methods.configuration import Configuration
from core.result import Result
from core.runtime.cache import Cache, nbytes
from core.tasks.activation import IDENTITY
from core.tasks.classification import Classification
from core.tasks.outputs import Scores
from core.types import Attribution, Comparison, Score
from core.views.notebook import MOST
from tests.conftest import SAMPLES, build, handle, images, shared_handle
from tests.test_result import RESULTS, one_of

CHELSEA = SAMPLES / "chelsea.jpg"
WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def small() -> Explainer:
    return Explainer(shared_handle("resnet"))


@pytest.fixture(scope="module")
def cat(lite0: Explainer) -> Attribution:
    return lite0.explain(CHELSEA, "gradcam")


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image.convert("RGB")).astype(int)


def by_hand(values: torch.Tensor) -> Attribution:
    return Attribution(values, torch.zeros(len(values)), "made up", {})


# -- the picture ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "saliency", "random"])
@pytest.mark.parametrize("options", [{}, {"colormap": "jet", "alpha": 0.9}, {"fade": True}])
def test_the_overlay_is_what_is_saved(
    lite0: Explainer, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    query = lite0.query(CHELSEA)
    answer = lite0.explain(query, method)
    save_png(tmp_path / "saved.png", query.batch, answer, Style(**options))
    saved = pixels(Image.open(tmp_path / "saved.png"))
    exact = answer.overlay(picture=query.batch.pictures[0].image, **options)
    assert np.array_equal(pixels(exact), saved)
    copied = answer.overlay(**options)
    assert copied.size == query.batch.pictures[0].image.size
    assert abs(pixels(copied) - saved).mean() < 2  # the copy is a JPEG file


OPTIONS: list[dict[str, Any]] = [
    {}, {"colormap": "gray"}, {"alpha": 0.1}, {"fade": True}, {"limits": (0, 9)}, {"size": 99},
]  # fmt: skip


@pytest.mark.parametrize("smooth", [False, True])
def test_a_grainy_map_is_drawn_as_it_is_saved(
    lite0: Explainer, tmp_path: Path, smooth: bool
) -> None:
    query = lite0.query(CHELSEA)
    answer = lite0.explain(query, "saliency")
    save_png(tmp_path / "saved.png", query.batch, answer, Style(smooth=smooth))
    exact = answer.overlay(picture=query.batch.pictures[0].image, smooth=smooth)
    assert np.array_equal(pixels(exact), pixels(Image.open(tmp_path / "saved.png")))
    assert exact != answer.overlay(picture=query.batch.pictures[0].image, smooth=not smooth)
    assert "shown smoothed, radius 4 px" in answer._repr_html_()
    assert "smoothed" not in lite0.explain(query, "gradcam")._repr_html_()


def test_each_option_changes_the_picture(cat: Attribution) -> None:
    drawn = [cat.overlay(**options).tobytes() for options in OPTIONS]
    assert len(set(drawn)) == len(drawn)


def test_the_map_lies_where_the_model_looked(small: Explainer) -> None:
    answer = small.explain(WIDE, "gradcam")
    (shown,) = answer.pictures
    left, _, right, _ = shown.box
    assert not shown.whole
    outside = pixels(answer.overlay(picture=WIDE))
    changed = np.flatnonzero((outside != pixels(WIDE)).any((0, 2)))
    assert changed.min() == pytest.approx(left, abs=1)
    assert changed.max() + 1 == pytest.approx(right, abs=1)


@pytest.mark.parametrize("size", [100, 451, 900, 1800])
def test_the_map_lies_at_the_same_place_in_every_size(cat: Attribution, size: int) -> None:
    drawn, bare = (pixels(cat.overlay(size=size, alpha=alpha)) for alpha in (0.9, 0))
    assert max(drawn.shape) == size
    scale = size / cat.pictures[0].picture[1]
    for axis, ends in ((0, cat.pictures[0].box[0::2]), (1, cat.pictures[0].box[1::2])):
        covered = np.flatnonzero((drawn != bare).any((axis, 2)))
        found = covered.min(), covered.max() + 1
        assert found == pytest.approx([end * scale for end in ends], abs=3)  # within the outline


@pytest.mark.parametrize("shape", [(3000, 2000), (40, 2000), (1030, 30)])
def test_the_copy_of_a_large_picture_is_small(small: Explainer, shape: tuple[int, int]) -> None:
    big = Image.new("RGB", shape, "teal")
    answer = small.explain(big, "random")
    (shown,) = answer.pictures
    assert shown.picture == shape[::-1]
    drawn = answer.overlay()
    assert max(drawn.size) == SIDE
    assert drawn.width * shape[1] == pytest.approx(drawn.height * shape[0], abs=max(shape))
    assert answer.overlay(picture=big).size == shape
    assert len(pickle.dumps(answer)) < 300_000


def test_pixels_of_a_tensor_are_what_the_model_sees(small: Explainer) -> None:
    x = images(small.model, 2)
    answer = small.explain(x, "random")
    seen = small.model.to_pixels(x).mul(255).permute(0, 2, 3, 1).numpy()
    for i in range(2):
        assert answer.pictures[i].whole
        assert abs(pixels(answer.overlay(i, alpha=0)) - seen[i]).mean() < 3


def test_grey_tensors_are_shown() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    settings = {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.5,)}
    model(torch.zeros(1, 1, 16, 16))
    explainer = Explainer(load_model(model, preprocessing=settings))
    answer = explainer.explain(torch.rand(1, 16, 16), "saliency")
    assert answer.overlay().size == (16, 16)


def test_each_image_has_its_own_picture(lite0: Explainer) -> None:
    answer = lite0.explain([CHELSEA, SAMPLES / "coffee.jpg"], "gradcam")
    assert [one.words.explained for one in answer.pictures] == ["tiger cat", "espresso"]
    assert answer.overlay(1).size == answer.pictures[1].picture[::-1] != answer.overlay(0).size
    assert answer.overlay(-1) == answer.overlay(1) == answer[1].overlay()
    assert answer.overlay(0) == answer[0].overlay() != answer.overlay(1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image": 1}, "there is no image 1"),
        ({"image": -2}, "there is no image -2"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"size": 0}, "size is 0"),
        ({"colormap": "rainbow"}, "no colormap 'rainbow'"),
        ({"picture": Image.new("RGB", (300, 451))}, "300 x 451 pixels and the one explained 451 x"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    cat: Attribution, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TimmscopeError, match=re.escape(sentence)):
        cat.overlay(**options)


def test_an_attribution_made_by_hand_knows_no_picture() -> None:
    with pytest.raises(TimmscopeError, match="knows no picture"):
        by_hand(torch.ones(1, 4, 4)).overlay()


def test_methods_side_by_side_may_share_their_colours(lite0: Explainer) -> None:
    found = lite0.compare(CHELSEA, ["gradcam", "random", "attention"])
    own, shared = found.overlays(), found.overlays(shared=True)
    assert list(own) == ["gradcam", "random"]
    assert own["gradcam"] == found.results["gradcam"].overlay()
    assert own["gradcam"] != shared["gradcam"]
    assert Comparison({}, {"a": "b"}).overlays(shared=True) == {}


# -- what it costs --------------------------------------------------------------------------------


def test_no_decoded_picture_is_kept(small: Explainer) -> None:
    photo = Image.open(CHELSEA).resize((4000, 2660))
    answer = small.explain(photo, "random")
    assert nbytes(answer) - nbytes(answer.values) < 400_000  # decoded, it takes 32 MB
    held = [getattr(answer.pictures[0], name) for name in answer.pictures[0].__slots__]
    assert {type(value) for value in held} <= {bytes, tuple, type(answer.pictures[0].words)}


def test_the_cache_keeps_maps_without_pictures() -> None:
    cache = Cache()
    explainer = Explainer(shared_handle("resnet"), cache=cache)
    x = images(explainer.model, 1)
    explainer.predict(x)
    before = cache.bytes
    answer = explainer.explain(x, "random")
    assert cache.bytes - before < nbytes(answer) - len(answer.pictures[0].jpeg)


def test_methods_share_one_copy_of_a_picture(small: Explainer) -> None:
    batch = small.prepare(WIDE)
    first, second = (small.explain(batch, key).pictures[0].jpeg for key in ("random", "saliency"))
    assert first is second
    assert copy.deepcopy(small.explain(batch, "random")).pictures[0].jpeg is first
    assert shown_pictures(batch)[0].jpeg is first


def test_words_take_no_pass(small: Explainer) -> None:
    x = images(small.model, 1, seed=7)
    passes: list[int] = []
    hook = small.model.model.register_forward_hook(lambda _module, args, _out: passes.append(1))
    small.model.refresh()  # with a hook it is another model, and is looked at anew
    assert small.model.probe
    passes.clear()
    alone = small.explain(x, "saliency", target=2)
    hook.remove()
    assert len(passes) == alone.cost.forward == 1
    assert alone.pictures[0].words.explained == "class 2"
    assert alone.pictures[0].words.predicted == ""
    small.predict(x)
    known = small.explain(x, "saliency", target=3)
    assert known.pictures[0].words.predicted == small.predict(x).describe()


def test_the_picture_does_not_count_in_a_comparison(small: Explainer) -> None:
    answer = small.explain(WIDE, "random")
    other = small.explain(WIDE.transpose(Image.Transpose.ROTATE_90), "random", seed=1)
    bare = Attribution(answer.values, answer.score, answer.method, answer.params, answer.target)
    assert answer == bare
    assert answer != other


def test_too_few_labels_do_not_keep_a_map_from_being_drawn() -> None:
    owner = handle("resnet")
    owner.labels = ("only one",)
    answer = Explainer(owner).explain(images(owner, 1), "random", target=5)
    assert answer.pictures[0].words.explained == "class 5"


# -- show -----------------------------------------------------------------------------------------


class Window(ImageShow.Viewer):
    """Keeps what PIL would have shown."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def show(self, image: Image.Image, **options: Any) -> bool:
        self.sizes.append(image.size)
        return True


def test_outside_a_notebook_a_window_opens(
    cat: Attribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window()
    monkeypatch.setattr(ImageShow, "_viewers", [window])
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    cat.show()
    cat.show(size=90)
    assert window.sizes == [cat.overlay().size, cat.overlay(size=90).size]


@pytest.mark.parametrize("kernel", [True, False], ids=["notebook", "terminal"])
def test_in_a_notebook_it_is_displayed_below_the_cell(
    cat: Attribution, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    displayed: list[Image.Image] = []
    window = Window()
    shell = types.SimpleNamespace(**({"kernel": object()} if kernel else {}))
    package, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    vars(package)["get_ipython"] = lambda: shell
    vars(module)["display"] = displayed.append
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(ImageShow, "_viewers", [window])
    cat.show(0, alpha=0.2)
    assert (len(displayed), len(window.sizes)) == ((1, 0) if kernel else (0, 1))


# -- HTML -----------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The tags and the text of a page, which must be well formed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def page_of(result: Result) -> Page:
    return Page(result._repr_html_())


@pytest.mark.parametrize("cls", RESULTS, ids=lambda cls: cls.__name__)
def test_every_result_shows_itself_as_html(cls: Any) -> None:
    text = one_of(cls)._repr_html_()
    assert Page(text).tags
    assert "<text>" not in text  # what `one_of` gives as text
    assert len(text) < 200_000


def test_the_html_of_a_map_says_what_it_is(cat: Attribution) -> None:
    page = page_of(cat)
    assert page.tags.count("img") == 1
    for word in ("tiger cat (37.6%)", "explained", "gradcam", "bn2", f"{float(cat.score):.4g}"):
        assert word in page.text
    assert len(cat._repr_html_()) < 40_000


def test_many_pictures_make_a_bounded_grid(small: Explainer) -> None:
    answer = small.explain(images(small.model, MOST + 5), "random")
    page = page_of(answer)
    assert page.tags.count("img") == MOST
    assert "and 5 more pictures" in page.text
    assert page_of(answer[: MOST + 1]).text.strip().endswith("and 1 more picture")
    assert "more" not in page_of(answer[:MOST]).text
    predicted = page_of(small.predict(images(small.model, MOST + 5)))
    assert predicted.tags.count("table") == MOST
    assert "and 5 more pictures" in predicted.text


def test_text_is_escaped() -> None:
    owner = handle("resnet")
    nasty = '<script>alert("1")</script>'
    owner.labels = tuple(nasty for _ in range(owner.outputs))
    explainer = Explainer(owner)
    x = images(owner, 1)
    found = explainer.compare(x, ["gradcam"])
    errors = Comparison(found.results, {nasty: nasty})
    verdict = Verdict("good", nasty, [Finding(nasty, 0.1, "good", nasty, {})], {nasty: nasty})
    score = Score(torch.zeros(1), nasty, {})
    answers = [found.results["gradcam"], found, errors, explainer.predict(x), verdict, score]
    for answer in answers:
        page = page_of(answer)
        assert "script" not in page.tags
        assert nasty in page.text


def test_a_map_without_a_picture_is_drawn_alone() -> None:
    assert page_of(by_hand(torch.rand(2, 3, 5))).tags.count("img") == 2


def test_a_map_that_cannot_be_drawn_says_why() -> None:
    page = page_of(by_hand(torch.full((1, 2, 2), float("nan"))))
    assert "not finite" in page.text
    assert "img" not in page.tags


def test_methods_stand_side_by_side_with_reasons(lite0: Explainer) -> None:
    page = page_of(lite0.compare(CHELSEA, ["gradcam", "lime(samples=20)", "attention"]))
    assert page.tags.count("img") == 2
    assert "lime" in page.text
    assert "computes no softmax attention" in page.text


def test_likeliest_classes_stand_in_a_table() -> None:
    labelled = Classification(labels=("cat", "cup", "rocket"))
    page = page_of(labelled.predict(Scores(torch.tensor([[0.0, 9.0, 3.0]]))))
    assert re.search(r"cup\s+99.7%\s+rocket\s+0.2%\s+cat", page.text)
    features = Classification(IDENTITY, kind="feature").predict(Scores(torch.tensor([[0.0, 9.0]])))
    assert "9 " in page_of(features).text


def test_scores_and_verdicts_say_what_they_mean() -> None:
    score = Score(torch.tensor([0.5, 0.25]), "deletion", {}, low=torch.zeros(2), high=torch.ones(2))
    assert "0.25 (0 to 1)" in page_of(score).text
    assert repr(score) == (
        "Score(value=[0.5, 0.25], metric='deletion', params={}, curve_x=None, curve_y=None, "
        "low=[0, 0], high=[1, 1], noise=None, cannot_tell=(), notes=(), advice=())"
    )
    finding = Finding("srg", 0.5, "good", "Better than the controls.", {"edges": 0.1})
    page = page_of(Verdict("good", "This map passed every test.", [finding], {}))
    assert "This map passed every test." in page.text
    assert "Better than the controls." in page.text


def test_displaying_loads_the_drawing_library_only_then() -> None:
    program = (
        "import sys, torch; from core import Attribution; "
        "a = Attribution(torch.ones(1, 2, 2), torch.ones(1), 'm', {}); repr(a); a == a; "
        "assert 'plotly' not in sys.modules; a._repr_html_(); assert 'plotly' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


# -- arrays and parts -----------------------------------------------------------------------------


def test_an_answer_is_an_array_of_its_values(cat: Attribution) -> None:
    assert np.array_equal(np.asarray(cat), cat.values.numpy())
    assert np.asarray(cat, dtype=np.float64).dtype == np.float64
    assert np.shares_memory(np.asarray(cat), cat.values.numpy())
    assert not np.shares_memory(np.array(cat), cat.values.numpy())
    assert not np.shares_memory(np.array(cat, copy=True), cat.values.numpy())
    with pytest.raises(ValueError, match="copy"):
        np.array(cat, dtype=np.float64, copy=False)
    assert np.mean(cat) == pytest.approx(float(cat.values.mean()))
    assert np.asarray(by_hand(torch.ones(1, 2, 2, requires_grad=True))).sum() == 4


def test_the_answer_for_one_of_several_pictures(lite0: Explainer) -> None:
    paths = [CHELSEA, SAMPLES / "coffee.jpg"]
    both = lite0.explain(paths, "lime", samples=20)
    assert len(both) == len(list(both)) == 2
    for i, path in enumerate(paths):
        alone = lite0.explain(path, "lime", samples=20)
        torch.testing.assert_close(both[i].values, alone.values, rtol=1e-4, atol=1e-5)
        assert both[i].target == alone.target == both[i - 2].target
        assert both[i].extras.keys() == alone.extras.keys()
        assert all(len(extra) == 1 for extra in both[i].extras.values())
        assert both[i].pictures == alone.pictures
        assert float(lite0.measure(path, both[i], "sparseness").value) > 0
    assert both[:] == both
    assert len(both[2:]) == 0
    assert both[0].values.untyped_storage().nbytes() == both.values[0].numel() * 4
    for image in (2, -3):
        with pytest.raises(IndexError):
            both[image]


@pytest.mark.parametrize("target", [[1, 3], [1, 1], 2])
def test_one_of_several_answers_keeps_its_own_target(small: Explainer, target: Any) -> None:
    x = images(small.model, 2)
    contrast = small.target(target, 2)
    assert contrast is not None
    other = small.target(0)
    assert other is not None
    for asked in (contrast, contrast - other):
        answer = small.explain(x, "gradcam", target=asked)
        one = target[1] if isinstance(target, list) else target
        of_one = small.target(one)
        assert of_one is not None
        same = of_one if asked is contrast else of_one - other
        alone = small.explain(x[1:], "gradcam", target=same)
        assert answer[1].target == alone.target
        torch.testing.assert_close(answer[1].values, alone.values)


# -- layers as modules ----------------------------------------------------------------------------


@pytest.fixture
def own() -> tuple[nn.Module, Explainer]:
    model = build("resnet")
    return model, Explainer(load_model(model))


def test_a_layer_may_be_given_as_a_module(own: tuple[Any, Explainer]) -> None:
    model, explainer = own
    x = images(explainer.model, 1)
    module = model.layer3
    named = explainer.explain(x, "gradcam", layer="layer3")
    assert explainer.explain(x, "gradcam", layer=module) == named
    assert named.layer == "layer3"
    assert explainer.explain(x, Configuration(METHODS.make("gradcam"), module)) == named
    query = explainer.query(x, layer=module, extra_layers=[model.layer2, "layer1"])
    assert (query.layer, query.extra_layers) == ("layer3", ("layer2", "layer1"))
    by_itself: Any = Query(query.batch, layer=module, extra_layers=(model.layer2,))
    assert explainer.query(by_itself).layer == "layer3"
    assert explainer.query(by_itself).extra_layers == ("layer2",)
    assert explainer.explain(by_itself, "gradcam") == named
    assert explainer.features(x, layer=module) == explainer.features(x, layer="layer3")
    found = explainer.compare(
        x, ["gradcam", "random", Configuration(METHODS.make("gradcam"), model.layer2)], layer=module
    )
    assert list(found.results) == ["gradcam", "random", "gradcam@layer2"]
    assert found.results["gradcam"] == named
    checks = [
        explainer.sanity_checks("gradcam", layer=layer, metrics=["class_sensitivity"])
        for layer in (module, "layer3")
    ]
    assert checks[0] == checks[1]
    metric = {"metric": "max_sensitivity", "samples": 2}
    assert explainer.measure(by_itself, named, **metric) == explainer.measure(
        explainer.query(x, layer="layer3"), named, **metric
    )


def test_rows_of_an_evaluation_name_the_layer(own: tuple[Any, Explainer]) -> None:
    model, explainer = own
    gradcam = METHODS.make("gradcam")
    asked = [Configuration(gradcam, model.layer2), Configuration(gradcam, model.layer3)]
    rows = list(evaluate(explainer, [CHELSEA], asked, ["sparseness"], layer=model.layer1))
    assert {"gradcam@layer2", "gradcam@layer3"} <= {row.method for row in rows}
    assert not any(row.error for row in rows)


def test_attention_of_a_module() -> None:
    model = build("vit")
    explainer = Explainer(load_model(model))
    module: Any = model.get_submodule("blocks.1.attn")
    x = images(explainer.model, 1)
    assert torch.equal(
        explainer.attention(x, layer=module), explainer.attention(x, layer="blocks.1.attn")
    )


def test_a_module_of_the_model_that_was_wrapped(own: tuple[Any, Explainer]) -> None:
    model, _ = own

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x)

    preprocessing = Preprocessing.from_model(model)
    owner = ModelHandle(Wrapper(), name="wrapped", preprocessing=preprocessing)
    answer = Explainer(owner).explain(images(owner, 1), "gradcam", layer=model.layer2)
    assert answer.layer == "inner.layer2"


class Twice(nn.Module):
    """A model that holds one of its layers under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.again = self.first
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = self.head(self.second(self.again(x).relu()).relu().mean((2, 3)))
        return mean


def test_a_module_with_two_names_goes_by_the_first() -> None:
    model = Twice()
    settings = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    explainer = Explainer(load_model(model, preprocessing=settings))
    x = images(explainer.model, 1)
    assert explainer.explain(x, "gradcam", layer=model.again).layer == "first"


def test_a_module_of_another_model_is_refused(own: tuple[Any, Explainer]) -> None:
    model, explainer = own
    x = images(explainer.model, 1)
    twin = copy.deepcopy(model)
    configuration = Configuration(METHODS.make("gradcam"), twin.layer2)
    for ask in (
        lambda: explainer.explain(x, "gradcam", layer=twin.layer2),
        lambda: explainer.explain(x, configuration),
        lambda: explainer.compare(x, ["gradcam"], layer=twin.layer2),
        lambda: explainer.compare(x, [configuration]),
        lambda: explainer.query(x, extra_layers=[twin.layer2]),
        lambda: explainer.features(x, layer=twin.layer2),
        lambda: explainer.attention(x, layer=twin.layer2),
        lambda: explainer.sanity_checks("gradcam", layer=twin.layer2),
    ):
        with pytest.raises(UnknownNameError, match=r"not a module of .*; take it from the module"):
            ask()
    with pytest.raises(UnknownNameError, match="is the whole model"):
        explainer.explain(x, "gradcam", layer=model)


def test_a_model_loaded_by_name_gives_its_modules() -> None:
    explainer = Explainer(load_model("test_resnet", weights="random", num_classes=3, device="cpu"))
    module = explainer.model.model.get_submodule("layer2")
    answer = explainer.explain(images(explainer.model, 1), "gradcam", layer=module)
    assert answer.layer == "layer2"
    with pytest.raises(UnknownNameError, match="not a module"):
        explainer.query(CHELSEA, layer=timm.create_model("test_resnet").get_submodule("layer2"))
