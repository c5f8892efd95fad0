"""The facade: what it takes, what it keeps, what it says when something goes wrong."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from core import Explainer, ModelHandle, compare, explain
from core.errors import (
    CancelledError,
    ModelFailure,
    NotApplicableError,
    PictureError,
    TimmscopeError,
    UnknownNameError,
)
from core.inputs.image import open_picture
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS, attribute, cached_refusal
from core.runtime.cache import Cache
from core.tasks.classification import ClassScore
from tests.conftest import QUICK, SAMPLES, build, handle, images, runnable, shared_handle

COFFEE = SAMPLES / "coffee.jpg"


@pytest.fixture
def asker() -> Explainer:
    return Explainer(shared_handle("resnet"))


def lent(model: nn.Module, **more: Any) -> Explainer:
    """An explainer of a model that stays the caller's."""
    preparation = Preprocessing((3, 160, 160), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Explainer(ModelHandle(model, name="lent", preprocessing=preparation, **more))


# -- pictures -----------------------------------------------------------------------------------


def test_one_picture_in_every_form_is_one_picture(asker: Explainer) -> None:
    with Image.open(COFFEE) as opened:
        image = opened.convert("RGB")
    png = io.BytesIO()
    image.save(png, "PNG")
    forms = [COFFEE, str(COFFEE), COFFEE.read_bytes(), png.getvalue(), image]
    forms += [np.asarray(image), open_picture(COFFEE), [COFFEE], (str(COFFEE),)]
    looks = [asker.prepare(form) for form in forms]
    assert {batch.digest for batch in looks} == {looks[0].digest}
    assert all(torch.equal(batch.x, looks[0].x) for batch in looks)
    assert asker.prepare(looks[0]) is looks[0]
    assert looks[0].geometries[0].picture == (400, 600)


def test_pictures_of_different_sizes_make_a_batch(asker: Explainer) -> None:
    paths = sorted(SAMPLES.glob("*.jpg"))[:3]
    tiny = Image.new("RGB", (9, 7), "olive")
    batch = asker.prepare([*paths, tiny])
    assert batch.x.shape == (4, 3, 160, 160)
    assert [g.picture for g in batch.geometries] == [p.size for p in batch.pictures]
    together = asker.explain(batch, "gradcam", target=1).values
    alone = torch.cat([asker.explain(p, "gradcam", target=1).values for p in [*paths, tiny]])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_a_tensor_is_taken_as_it_is_and_left_as_it_is(asker: Explainer) -> None:
    x = images(asker.model, 2)
    batch = asker.prepare(x)
    assert torch.equal(batch.x, x)
    assert (batch.pictures, batch.geometries) == ((), ())
    one = asker.prepare(x[0].double())
    assert one.x.dtype == torch.float32
    assert torch.equal(one.x, x[:1])
    x.zero_()
    assert batch.x.any()


@pytest.mark.parametrize(
    "shape",
    [
        (160, 160),
        (1, 160, 160),
        (2, 1, 160, 160),
        (0, 3, 160, 160),
        (1, 160, 160, 3),
        (3, 160, 96),
        (1, 3, 320, 320),
        (1, 1, 3, 160, 160),
        (),
    ],
)
def test_a_tensor_of_another_shape_is_refused(asker: Explainer, shape: tuple[int, ...]) -> None:
    with pytest.raises(TimmscopeError) as refusal:
        asker.predict(torch.zeros(shape))
    assert str(shape) in str(refusal.value)
    assert "(B, 3, 160, 160)" in str(refusal.value)


@pytest.mark.parametrize("nothing", [[], (), None, 5, ["cat.jpg", None], [torch.zeros(3, 160, 96)]])
def test_what_is_no_picture_is_refused(asker: Explainer, nothing: Any) -> None:
    with pytest.raises(TimmscopeError):
        asker.prepare(nothing)


def test_a_missing_file_is_named(asker: Explainer) -> None:
    with pytest.raises(PictureError, match=r"nowhere\.jpg"):
        asker.explain([COFFEE, Path("nowhere.jpg")])


# -- questions ----------------------------------------------------------------------------------


def test_the_three_ways_to_ask_are_one(lite0: Explainer) -> None:
    one = lite0.explain(COFFEE, "gradcam")
    assert torch.equal(explain(COFFEE, method="gradcam").values, one.values)
    assert torch.equal(explain(str(COFFEE), model=lite0.model).values, one.values)
    assert torch.equal(compare(COFFEE, ["gradcam"]).results["gradcam"].values, one.values)
    for target in (967, "espresso", "967", ClassScore(967), ClassScore((967,))):
        assert torch.equal(lite0.explain(COFFEE, target=target).values, one.values)


def test_a_number_is_an_index_even_where_labels_are_numbers() -> None:
    owner = shared_handle("resnet")
    digits = ["6", "5", "4", "3", "2", "1", "0"]
    asker = Explainer(
        ModelHandle(owner.model, name="digits", preprocessing=owner.preprocessing, labels=digits)
    )
    x = images(owner, 1)
    logits = asker.predict(x).scores[0]
    assert asker.explain(x, target=1).score[0] == pytest.approx(float(logits[1]))
    assert asker.explain(x, target="1").score[0] == pytest.approx(float(logits[5]))


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        ({"method": "gradcan"}, UnknownNameError, "did you mean 'gradcam'"),
        ({"colour": 1}, UnknownNameError, "gradcam has no parameter 'colour'"),
        ({"layer": "layr4"}, UnknownNameError, "did you mean 'layer4'"),
        ({"method": "saliency", "layer": "layr4"}, UnknownNameError, "no layer 'layr4'"),
        ({"extra_layers": ["layr4"]}, UnknownNameError, "did you mean 'layer4'"),
        ({"target": 7}, UnknownNameError, "classes 0 to 6"),
        ({"target": -1}, UnknownNameError, "class -1 .* 0 to 6"),
        ({"target": ClassScore((1, 2))}, UnknownNameError, "2 classes given for 1 images"),
        ({"target": "cat"}, UnknownNameError, "'cat': resnet does not name its classes"),
        ({"layer": "fc"}, NotApplicableError, "'fc' of resnet"),
        ({"method": "attention"}, NotApplicableError, "resnet computes no softmax attention"),
    ],
)
def test_mistakes(
    asker: Explainer, question: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        asker.explain(images(asker.model, 1), **question)


def test_what_is_handed_out_is_the_callers_own(asker: Explainer) -> None:
    asker = Explainer(asker.model)
    x = images(asker.model, 2)
    logits = asker.predict(x).scores
    kept = logits.clone()
    answer = asker.explain(x, "integrated_gradients", target=1, steps=2)
    score = asker.measure(x, answer, steps=3, target=1)
    value = score.value.clone()
    logits.zero_()
    answer.score.zero_()
    answer.values.zero_()
    answer.extras["completeness_error"].fill_(9)
    score.value.zero_()
    assert torch.equal(asker.predict(x).scores, kept)
    again = asker.explain(x, "integrated_gradients", target=1, steps=2)
    torch.testing.assert_close(again.score, kept[:, 1])
    assert again.values.any()
    assert (again.extras["completeness_error"] != 9).all()
    assert torch.equal(asker.measure(x, again, steps=3, target=1).value, value)


def test_a_small_map_does_not_keep_a_large_tensor_alive() -> None:
    asker = Explainer(shared_handle("vit"))
    x = images(asker.model, 1)
    for key in ("attention", "gradcam", "random", "attention_rollout"):
        method = METHODS.make(key)
        run = asker._run(asker.query(x, target=1), asker._layer_for(method, None))
        kept = attribute(method, run)
        for tensor in (kept.values, kept.score):
            assert tensor.untyped_storage().nbytes() == tensor.nelement() * 4, key


# -- weights that change ------------------------------------------------------------------------


def _step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.ones(1, 3, 160, 160)).sum().backward()
    optimizer.step()


def _load(model: nn.Module) -> None:
    model.load_state_dict(build("resnet", seed=1).state_dict())


def _assign(model: nn.Module) -> None:
    model.load_state_dict(build("resnet", seed=1).state_dict(), assign=True)


def _one_weight(model: nn.Module) -> None:
    model.fc.bias.data[2] += 1e-3  # type: ignore[union-attr, operator, index]


def _flip(model: nn.Module) -> None:
    model.fc.weight.data.neg_()  # type: ignore[union-attr, operator]


def _shuffle(model: nn.Module) -> None:
    weight = model.fc.weight.data  # type: ignore[union-attr]
    weight.copy_(weight.flip(0))  # type: ignore[operator, arg-type]


def _replace_head(model: nn.Module) -> None:
    model.fc = nn.Linear(model.fc.in_features, 7)  # type: ignore[union-attr, arg-type]


def _statistics(model: nn.Module) -> None:
    next(b for n, b in model.named_buffers() if n.endswith("running_var")).data.mul_(2)


CHANGES: list[Callable[[nn.Module], None]] = [
    *(_step, _load, _assign, _one_weight, _flip, _shuffle, _replace_head, _statistics)
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_model_is_never_answered_for_from_the_cache(
    change: Callable[[nn.Module], None],
) -> None:
    model = build("resnet").eval()
    asker = lent(model)
    x = images(asker.model, 1)
    before, mark = asker.explain(x, "input_x_gradient", target=2), asker.model.fingerprint()
    assert asker.model.fingerprint() == mark
    change(model)
    assert asker.model.fingerprint() != mark
    after = asker.explain(x, "input_x_gradient", target=2)
    fresh = lent(model).explain(x, "input_x_gradient", target=2)
    assert torch.equal(after.values, fresh.values)
    assert not torch.equal(after.score, before.score)


def test_weights_that_come_back_have_their_fingerprint_back() -> None:
    model = build("resnet")
    asker = lent(model)
    mark = asker.model.fingerprint()
    for owner in (asker.model, lent(model, owned=True).model):
        first = owner.fingerprint()
        with torch.no_grad():
            kept = model.fc.bias.clone()  # type: ignore[union-attr, operator]
            model.fc.bias.add_(1)  # type: ignore[union-attr, operator]
            assert owner.fingerprint() != first
            model.fc.bias.copy_(kept)  # type: ignore[union-attr, operator]
        assert owner.fingerprint() == first
    assert mark == asker.model.fingerprint()
    assert mark == lent(build("resnet")).model.fingerprint()
    assert mark != lent(build("resnet", seed=1)).model.fingerprint()


def test_odd_tensors_have_fingerprints() -> None:
    model = nn.Module()
    odd = {
        "short": torch.ones(3, dtype=torch.float16),
        "scalar": torch.tensor(1.0),
        "strided": torch.arange(1.0, 13).view(3, 4).T,
        "offset": torch.arange(7.0)[1:],
        "flag": torch.tensor([True, True]),
        "numbers": torch.arange(5),
    }
    for name, tensor in odd.items():
        model.register_buffer(name, tensor, persistent=name != "numbers")
    model.register_buffer("empty", torch.empty(0))
    owner = lent(model).model
    marks = [owner.fingerprint()]
    for tensor in odd.values():
        tensor.data[(-1,) * tensor.ndim] = 0
        marks.append(owner.fingerprint())
    assert len(set(marks)) == len(marks)
    assert lent(nn.Identity()).model.fingerprint()


def test_two_models_may_share_a_cache() -> None:
    cache, x = Cache(), images(shared_handle("resnet"), 1)
    one, other = (Explainer(handle("resnet", seed), cache=cache) for seed in (0, 1))
    first = one.explain(x, "gradcam", target=1)
    second = other.explain(x, "gradcam", target=1)
    assert not torch.equal(first.values, second.values)
    assert cache.hits == 0
    again = Explainer(handle("resnet"), cache=cache).explain(x, "gradcam", target=1)
    assert torch.equal(first.values, again.values)
    assert cache.hits == 1


# -- several methods ----------------------------------------------------------------------------


def test_one_that_fails_does_not_keep_the_others_from_answering(asker: Explainer) -> None:
    found = asker.compare(images(asker.model, 1), ["attention", "gradcam", "sobel"], target=1)
    assert list(found.results) == ["gradcam", "sobel"]
    assert list(found.errors) == ["attention"]
    assert "choose a CAM or gradient method" in found.errors["attention"]


class Moody(nn.Module):
    """Gives NaN or breaks when the picture's first pixel says so."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("resnet")
        self.mood = "good"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        if self.mood == "broken" and len(x) > 1:
            raise RuntimeError("mat1 and mat2 do not get along\nin the second line")
        return out / 0 * 0 if self.mood == "nan" else out


def test_what_breaks_inside_the_model_is_that_methods_reason() -> None:
    model = Moody()
    asker = lent(model)
    x = images(asker.model, 1)
    asker.predict(x)
    model.mood = "broken"
    found = asker.compare(x, ["occlusion", "gradcam"], target=1, params=QUICK)
    assert list(found.results) == ["gradcam"]
    assert "RuntimeError: mat1 and mat2 do not get along" in found.errors["occlusion"]
    assert "second line" not in found.errors["occlusion"]
    with pytest.raises(ModelFailure, match="mat1"):
        asker.explain(x, "occlusion", target=1, **QUICK["occlusion"])


@pytest.mark.parametrize("key", ["gradcam", "saliency", "occlusion", "integrated_gradients"])
def test_a_map_that_is_not_finite_is_refused(key: str) -> None:
    model = Moody()
    asker = lent(model)
    assert asker.model.probe
    model.mood = "nan"
    with pytest.raises(NotApplicableError, match="not finite"):
        asker.explain(images(asker.model, 1), key, target=1, **QUICK.get(key, {}))


def test_parameters_find_their_method_under_any_of_its_names(asker: Explainer) -> None:
    x = images(asker.model, 1)
    for asked, named in [("gradcam++", "gradcam_plus_plus"), ("gradcam_plus_plus", "gradcampp")]:
        found = asker.compare(x, [asked], target=1, params={named: {"relu": False}})
        assert found.results["gradcam_plus_plus"].params == {"relu": False, "mask_outliers": False}


@pytest.mark.parametrize(
    "question",
    [
        {"methods": ["gradcam", "gradcan"]},
        {"methods": ["gradcam"], "layer": "layr4"},
        {"methods": ["sobel"], "layer": "layr4"},
        {"methods": ["gradcam"], "target": 70},
        {"methods": ["gradcam"], "params": {"gradcan": {}}},
    ],
)
def test_unknown_names_are_refused_before_any_work(question: dict[str, Any]) -> None:
    asker = Explainer(handle("resnet"))
    x = images(asker.model, 1)

    def told(*_: int) -> None:
        raise AssertionError("work began")

    with pytest.raises(UnknownNameError):
        asker.compare(x, on_progress=told, **question)


def test_a_comparison_can_be_cancelled(asker: Explainer) -> None:
    asker = Explainer(asker.model)
    x, told = images(asker.model, 1), []

    def stop(done: int, expected: int) -> None:
        told.append((done, expected))
        if done > 2:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        asker.compare(x, ["gradcam", "occlusion"], target=1, params=QUICK, on_progress=stop)
    assert all(done <= expected for done, expected in told)
    hits = asker.cache.hits
    asker.explain(x, "gradcam", target=1)
    assert asker.cache.hits == hits + 1
    assert asker.explain(x, "occlusion", target=1, **QUICK["occlusion"]).values.any()


def test_progress_ends_when_all_is_done(asker: Explainer) -> None:
    asker = Explainer(asker.model)
    told: list[tuple[int, int]] = []
    asker.explain(
        images(asker.model, 1),
        "integrated_gradients",
        target=1,
        steps=6,
        on_progress=lambda done, expected: told.append((done, expected)),
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_the_progress_of_a_comparison_is_that_of_all_methods(asker: Explainer) -> None:
    asker = Explainer(asker.model)
    told: list[tuple[int, int]] = []
    asker.compare(
        images(asker.model, 2),
        ["gradcam", "attention", "occlusion", "random"],
        target=1,
        params=QUICK,
        on_progress=lambda done, expected: told.append((done, expected)),
    )
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({expected for _, expected in told}) == 1
    assert told[-1][0] >= 0.8 * told[-1][1]


# -- many at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_eight_who_ask_at_once_get_what_one_gets_in_turn(name: str) -> None:
    owner = handle(name)
    x = images(owner, 2)
    keys = [k for k in METHODS if runnable(METHODS.make(k), owner)]
    asked = [(key, 1 + 2 * (place % 2)) for place, key in enumerate(keys)]

    def ask(asker: Explainer, key: str, target: int) -> Tensor:
        return asker.explain(x, key, target=target, **QUICK.get(key, {})).values

    alone = Explainer(handle(name))
    expected = [ask(alone, *question) for question in asked]
    shared, before = Explainer(owner), [m.training for m in owner.model.modules()]
    meet = threading.Barrier(8, timeout=60)

    def together(index: int) -> list[Tensor]:
        meet.wait()
        turn = asked[index:] + asked[:index]
        found = [ask(shared, *question) for question in turn]
        return found[-index:] + found[:-index] if index else found

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(together, range(8)))
    for maps in answers:
        for found, wanted, question in zip(maps, expected, asked, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=str(question))
    assert [m.training for m in owner.model.modules()] == before
    assert not any(m._forward_hooks for m in owner.model.modules())


def test_why_a_method_is_refused_is_found_out_once_however_many_ask() -> None:
    owner = handle("resnet")
    meet = threading.Barrier(4, timeout=60)
    calls: list[str] = []

    def find_out() -> str:
        calls.append("one")
        time.sleep(0.3)  # the others ask meanwhile
        return "It cannot be."

    def ask(_: int) -> str:
        meet.wait()
        return cached_refusal(owner, "saliency", find_out)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == ["It cannot be."] * 4
    assert calls == ["one"]


def test_targets_of_any_whole_number_or_one_per_image() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 2)
    plain = explainer.explain(x, "saliency", target=3).values
    for target in (np.int64(3), torch.tensor(3), "3", [3, 3]):
        assert torch.equal(explainer.explain(x, "saliency", target=target).values, plain)  # type: ignore[arg-type]
    for target in (3.0, True, {"a": 1}, [], object()):
        with pytest.raises(UnknownNameError, match="target"):
            explainer.explain(x, "saliency", target=target)  # type: ignore[arg-type]


def test_a_map_is_measured_by_the_target_it_explains() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    predicted = explainer.predict(x).top(1)[0][0]
    other = (predicted + 1) % 7
    answer = explainer.explain(x, "gradcam", target=other)
    with pytest.raises(TimmscopeError, match=f"logit:{other}"):
        explainer.measure(x, answer, "deletion", steps=2)
    assert explainer.measure(x, answer, "deletion", steps=2, target=other).value.shape == (1,)


def test_a_look_of_another_model_is_taken_anew() -> None:
    one, other = Explainer(shared_handle("resnet")), Explainer(shared_handle("swin"))
    batch = one.prepare(SAMPLES / "coffee.jpg")
    assert other.prepare(batch).x.shape[-2:] == (112, 112)
    with pytest.raises(TimmscopeError, match="another model"):
        other.prepare(one.prepare(images(shared_handle("resnet"), 1)))


def test_a_bad_parameter_of_one_method_leaves_the_others_their_answers() -> None:
    owner = shared_handle("vit")
    params = {"attention": {"query": "foo"}, "occlusion": {"window": -1}}
    found = Explainer(owner).compare(
        images(owner, 1), ["gradcam", "attention", "occlusion"], params=params
    )
    assert list(found.results) == ["gradcam"]
    assert set(found.errors) == {"attention", "occlusion"}
