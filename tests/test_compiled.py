"""Models in forms other than plain modules: compiled, traced, scripted, exported, quantised."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from core import Explainer, load_model
from core.errors import NotApplicableError
from core.models.structure import structure
from tests.conftest import QUICK

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is not supported"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max"),
]

SIZE = 96
PREPROCESSING = {"input_size": (3, SIZE, SIZE), "mean": (0.5,) * 3, "std": (0.5,) * 3}
ANY = torch.zeros(2, 3, SIZE, SIZE)
MANY = ({0: torch.export.Dim("n", min=1, max=4096)},)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        return out


def plain(name: str = "test_resnet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    sized = {"img_size": SIZE} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=7, scriptable=True, **sized).eval()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_in_part(model: nn.Module) -> nn.Module:
    name = "layer4" if hasattr(model, "layer4") else "blocks"
    setattr(model, name, compiled(getattr(model, name)))
    return model


def with_a_compiled_function(model: nn.Module) -> nn.Module:
    wrapper = Wrapper(model)
    wrapper.inner.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return wrapper


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(model, ANY)


def scripted(model: nn.Module) -> nn.Module:
    return torch.jit.script(model)


def frozen(model: nn.Module) -> nn.Module:
    return torch.jit.freeze(traced(model))  # type: ignore[arg-type]


def exported(model: nn.Module) -> nn.Module:
    return torch.export.export(model, (ANY,), dynamic_shapes=MANY).module()


def dynamic(model: nn.Module) -> nn.Module:
    return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def static(model: nn.Module) -> nn.Module:
    ready = prepare_fx(model, get_default_qconfig_mapping("fbgemm"), (ANY,))
    ready(torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    return convert_fx(ready)


COMPILED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "in a wrapper": lambda model: Wrapper(compiled(model)),
    "in place": compiled_in_place,
    "in part": compiled_in_part,
    "a function": with_a_compiled_function,
}
HIDDEN: dict[str, Callable[[nn.Module], nn.Module]] = {
    "traced": traced,
    "scripted": scripted,
    "frozen": frozen,
    "exported": exported,
    "traced in a wrapper": lambda model: Wrapper(traced(model)),
    "scripted in a wrapper": lambda model: Wrapper(scripted(model)),
}
QUANTISED = {"dynamic": dynamic, "static": static}


def lent(model: nn.Module) -> Explainer:
    return Explainer(load_model(model, preprocessing=PREPROCESSING))


def images() -> Tensor:
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def values(asker: Explainer, key: str) -> Tensor:
    return asker.explain(images(), key, target=1, **QUICK.get(key, {})).values


@pytest.mark.parametrize("form", COMPILED)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_what_is_compiled_is_explained_as_the_original(form: str, name: str) -> None:
    expected, asker = lent(plain(name)), lent(COMPILED[form](plain(name)))
    default = expected.model.default_layer
    assert default is not None
    found = (asker.model.default_layer or "").replace("_orig_mod.", "").removeprefix("inner.")
    assert found == default
    attends = ["attention_rollout", "attnlrp"] if name == "test_vit" else ["guided_backprop", "lrp"]
    for key in ["gradcam", "eigencam", "integrated_gradients", "occlusion", *attends]:
        torch.testing.assert_close(values(asker, key), values(expected, key), msg=key)


def test_the_caller_s_compiled_model_stays_compiled() -> None:
    runs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        runs.append("compiled")
        return graph.forward

    model = torch.compile(plain(), backend=backend)
    asker = lent(Wrapper(model))  # type: ignore[arg-type]
    asker.explain(images(), "gradcam", target=1)
    assert not runs
    with torch.no_grad():
        model(images())
    assert runs


@pytest.mark.parametrize("form", HIDDEN)
@pytest.mark.parametrize("name", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_what_hides_its_layers_answers_to_what_needs_none(form: str, name: str) -> None:
    expected, asker = lent(plain(name)), lent(HIDDEN[form](plain(name)))
    for key in ["integrated_gradients", "occlusion"]:
        torch.testing.assert_close(values(asker, key), values(expected, key), msg=key)
    for key in ["gradcam", "eigencam", "lrp", "deeplift", "guided_backprop", "fullgrad"]:
        with pytest.raises(NotApplicableError, match="load the original module"):
            values(asker, key)
    with pytest.raises(NotApplicableError, match="load the original module"):
        asker.attention(images())


@pytest.mark.parametrize("form", QUANTISED)
def test_a_quantised_model_has_no_gradient_and_says_so(form: str) -> None:
    asker = lent(QUANTISED[form](plain()))
    assert values(asker, "occlusion").std() > 0
    for key in ["gradcam", "saliency", "lrp", "deeplift", "integrated_gradients"]:
        with pytest.raises(NotApplicableError, match="no gradient"):
            values(asker, key)


def test_a_quantised_model_shows_the_layers_that_give_numbers() -> None:
    asker = lent(dynamic(plain()))
    assert asker.model.default_layer == "layer4"
    torch.testing.assert_close(values(asker, "eigencam"), values(lent(plain()), "eigencam"))
    with pytest.raises(NotApplicableError, match="quantised, and its layers give integers"):
        values(lent(static(plain())), "eigencam")


@pytest.mark.parametrize("form", ["traced", "scripted", "frozen", "exported", *QUANTISED])
def test_models_of_other_weights_are_told_apart_in_any_form(form: str) -> None:
    make = {**HIDDEN, **QUANTISED}[form]
    prints = []
    for sign in (1, 1, -1):
        model = plain()
        model.fc.weight.data *= sign
        prints.append(lent(make(model)).model.fingerprint())
    assert prints[0] != prints[2]
    if form != "exported":  # its generated code is numbered
        assert prints[0] == prints[1]


@pytest.mark.parametrize("form", [traced, scripted])
def test_scripts_of_other_code_are_told_apart(form: Callable[[nn.Module], nn.Module]) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum((2, 3))

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    assert structure(form(Sum())) == structure(form(Sum())) != structure(form(Mean()))


@pytest.mark.parametrize("form", [frozen, static, dynamic])
def test_weights_that_cannot_be_shuffled_are_no_control(
    form: Callable[[nn.Module], nn.Module],
) -> None:
    asker = lent(form(plain()))
    found = asker.explain(images(), "sobel", target=1)
    with pytest.raises(NotApplicableError, match="its weights cannot be shuffled"):
        asker.measure(images(), found, "randomisation", target=1)


def test_a_copy_that_runs_the_original_is_no_control() -> None:
    asker = lent(with_a_compiled_function(plain()))
    found = asker.explain(images(), "sobel", target=1)
    with pytest.raises(NotApplicableError, match="a function of the model it was copied from"):
        asker.measure(images(), found, "randomisation", target=1)
