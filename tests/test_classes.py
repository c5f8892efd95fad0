"""One method's maps for several classes: those of each class alone, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from core import METHODS, Explainer, load_model, sample_picture
from core.errors import TimmscopeError
from core.evaluation.classes import likeliest
from core.models.handle import ModelHandle
from core.runtime import layer_outputs
from core.synthetic.scenes import scene
from core.types import Need
from tests.conftest import quick, runnable

MODELS = {"lite0": "tf_efficientnet_lite0", "world_vit": "world_vit"}
SHARING = (
    *("gradcam", "gradcam_plus_plus", "hirescam", "layercam", "xgradcam", "finercam"),
    "eigengradcam",
    "transformer_relevance",
)
"""Methods whose classes share a forward pass."""
OTHERS = ("saliency", "occlusion", "integrated_gradients", "legrad", "scorecam", "fullgrad")


@pytest.fixture(scope="module")
def handles() -> dict[str, ModelHandle]:
    return {name: load_model(full) for name, full in MODELS.items()}


def picture(name: str) -> Image.Image:
    return sample_picture("coffee") if name == "lite0" else Image.fromarray(scene(3).picture)


def cases() -> list[Any]:
    """Methods that look at a layer and take a pass or two, and a few more, by model."""
    owners = {name: load_model(full) for name, full in MODELS.items()}
    return [
        pytest.param(name, key, id=f"{name}-{key}")
        for name, owner in owners.items()
        for key, cls in METHODS.items()
        if runnable(quick(key), owner)
        and (
            key in (*SHARING, *OTHERS)
            or (
                Need.LAYER in cls.needs
                and quick(key).estimate_cost(owner, owner.default_layer).pace == "instant"
            )
        )
    ]


@contextmanager
def counted(handle: ModelHandle, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Rows sent forward, and calls of the backward pass at layers."""
    seen = {"forward": 0, "backward": 0}

    def forward(_module: object, args: tuple[Tensor]) -> None:
        seen["forward"] += len(args[0])

    def differentiate(*args: object, **options: object) -> tuple[Tensor, ...]:
        seen["backward"] += 1
        return original(*args, **options)  # type: ignore[arg-type]

    original = layer_outputs.differentiate
    hook = handle.model.register_forward_pre_hook(forward)
    monkeypatch.setattr(layer_outputs, "differentiate", differentiate)
    handle.owned = True
    yield seen
    hook.remove()


@pytest.mark.parametrize(("name", "key"), cases())
def test_each_map_is_that_of_the_class_alone(
    handles: dict[str, ModelHandle], name: str, key: str
) -> None:
    method, shown = quick(key), picture(name)
    found = Explainer(handles[name]).explain_classes(shown, method, [3, 0, 2])
    assert list(found) == [3, 0, 2]
    for target, one in found.items():
        alone = Explainer(handles[name]).explain(shown, method, target=target)
        assert one.target == alone.target
        torch.testing.assert_close(one.values, alone.values, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.score, alone.score)
        assert one.extras.keys() == alone.extras.keys()


def test_the_maps_of_five_classes_take_one_forward_row(
    handles: dict[str, ModelHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = handles["lite0"]
    with counted(handle, monkeypatch) as seen:
        explainer = Explainer(handle)
        handle.refresh()
        explainer.prepare(picture("lite0"))
        seen.update(forward=0, backward=0)
        found = explainer.explain_classes(picture("lite0"), "gradcam", range(5))
        assert seen == {"forward": 1, "backward": 5}
    costs = [(one.cost.forward, one.cost.backward) for one in found.values()]
    assert costs == [(1, 1)] + [(0, 1)] * 4


@pytest.mark.parametrize("key", SHARING)
def test_costs_add_up_to_one_forward_pass(handles: dict[str, ModelHandle], key: str) -> None:
    name = "world_vit" if key == "transformer_relevance" else "lite0"
    explainer = Explainer(handles[name])
    explainer.predict(picture(name))  # Finer-CAM has a score beside what it differentiates
    found = explainer.explain_classes(picture(name), key, [0, 1, 2]).values()
    assert sum(one.cost.forward for one in found) == 1
    assert [one.cost.backward for one in found] == [1, 1, 1]


def test_a_backward_pass_made_for_a_class_counts_once(handles: dict[str, ModelHandle]) -> None:
    explainer = Explainer(handles["lite0"])
    explainer.explain_classes(picture("lite0"), "gradcam", [0, 1])
    again = explainer.explain_classes(picture("lite0"), "layercam", [0, 1])
    assert [(a.cost.forward, a.cost.backward) for a in again.values()] == [(0, 0)] * 2


def test_a_class_that_is_known_is_not_differentiated_again(
    handles: dict[str, ModelHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = handles["lite0"]
    with counted(handle, monkeypatch) as seen:
        explainer = Explainer(handle)
        handle.refresh()
        explainer.explain(picture("lite0"), target=1)
        seen.update(forward=0, backward=0)
        explainer.explain_classes(picture("lite0"), targets=[0, 1, 2])
        assert seen == {"forward": 1, "backward": 2}


def test_what_does_not_depend_on_the_class_is_computed_once(
    handles: dict[str, ModelHandle],
) -> None:
    found = Explainer(handles["lite0"]).explain_classes(picture("lite0"), "eigencam", [0, 1, 2])
    first, *others = found.values()
    assert [one.cost.forward for one in others] == [0, 0]
    assert all(torch.equal(one.values, first.values) for one in others)


def test_several_layers_and_pictures_and_targets_in_one_pass(
    handles: dict[str, ModelHandle],
) -> None:
    explainer, shown = Explainer(handles["lite0"]), [picture("lite0"), sample_picture("chelsea")]
    found = explainer.explain_classes(
        shown, "layercam@blocks.4", [(504, 282), "cup-espresso"], extra_layers=["blocks.2"]
    )
    costs = [(one.cost.forward, one.cost.backward) for one in found.values()]
    assert costs == [(2, 2), (0, 2)]
    other = explainer.explain(shown, "layercam", target="cup-espresso", layer="blocks.2")
    assert (other.cost.forward, other.cost.backward) == (0, 0)
    alone = Explainer(handles["lite0"]).explain(
        shown, "layercam", target=[504, 282], layer="blocks.4"
    )
    torch.testing.assert_close(found[504, 282].values, alone.values, rtol=1e-4, atol=1e-6)


def test_by_default_the_likeliest_classes_are_explained(handles: dict[str, ModelHandle]) -> None:
    explainer = Explainer(handles["lite0"])
    prediction = explainer.predict(picture("lite0"))
    found = explainer.explain_classes(picture("lite0"))
    assert list(found) == [index for index, _, _ in prediction.top(5)]
    two = explainer.predict([picture("lite0"), sample_picture("chelsea")])
    assert likeliest(two, 1) == [(967, 282)]


def test_progress_counts_all_classes(handles: dict[str, ModelHandle]) -> None:
    seen: list[tuple[int, int]] = []
    Explainer(handles["lite0"]).explain_classes(
        picture("lite0"), "saliency", [0, 1], on_progress=lambda *now: seen.append(now)
    )
    assert seen == sorted(seen)
    assert seen[-1] == (4, 4)


def test_a_list_names_no_result(handles: dict[str, ModelHandle]) -> None:
    with pytest.raises(TimmscopeError, match="give a tuple"):
        Explainer(handles["lite0"]).explain_classes(picture("lite0"), targets=[[0], 1])


def test_a_target_that_fails_leaves_nothing_to_count(handles: dict[str, ModelHandle]) -> None:
    explainer = Explainer(handles["lite0"])
    with pytest.raises(TimmscopeError, match="the target function returns"):
        explainer.explain_classes(picture("lite0"), targets=[0, lambda scores: scores])
    found = explainer.explain(picture("lite0"), target=0)
    assert (found.cost.forward, found.cost.backward) == (1, 1)
