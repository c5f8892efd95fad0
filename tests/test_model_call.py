"""What a model raises is told as its failure; what we raise is not."""

from __future__ import annotations

import os.path
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import Explainer, ModelHandle
from core.errors import (
    CancelledError,
    MemoryExhaustedError,
    ModelFailure,
    NotApplicableError,
    TimmscopeError,
)
from core.inputs.preprocessing import Preprocessing
from core.methods import cam
from core.runtime import attention_capture, backward_rules, capture, resume
from core.runtime.attention_capture import record_attention
from core.runtime.batching import Budget
from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.model_call import call_model, copy_model, differentiate
from core.runtime.run import Run
from core.tasks.classification import ClassScore
from tests.conftest import handle, images
from tests.failing import FAULTS, KINDS, Moody, TheirError
from tests.test_code_rules import ROOT, SOURCES, calls
from tests.test_contract import assert_same, state_of


def moody(name: str) -> tuple[Moody, ModelHandle]:
    """A healthy model that has been probed, and its handle."""
    inner = handle(name).model
    model = Moody(inner).train()
    owner = ModelHandle(model, name="moody", preprocessing=Preprocessing.from_model(inner))
    assert owner.probe
    return model, owner


def state(model: nn.Module, x: Tensor) -> dict[str, Any]:
    found = state_of(model, x)
    assert torch.overrides._get_current_function_mode_stack() == []
    return found


QUESTIONS: dict[str, tuple[str, Callable[[Explainer, Tensor], object]]] = {
    "predict": ("resnet", lambda asker, x: asker.predict(x)),
    "saliency": ("resnet", lambda asker, x: asker.explain(x, "saliency", target=1)),
    "gradcam": ("resnet", lambda asker, x: asker.explain(x, "gradcam", target=1)),
    "attention": ("vit", lambda asker, x: asker.explain(x, "attention", target=1)),
    "relevance": ("vit", lambda asker, x: asker.explain(x, "transformer_relevance", target=1)),
    "lrp": ("resnet", lambda asker, x: asker.explain(x, "lrp", target=1)),
    "fullgrad": ("resnet", lambda asker, x: asker.explain(x, "fullgrad", target=1)),
    "ablationcam": ("resnet", lambda asker, x: asker.explain(x, "ablationcam", target=1)),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_model_that_raises_is_named(question: str, kind: str) -> None:
    name, ask = QUESTIONS[question]
    error = KINDS[kind]()
    model, owner = moody(name)
    asker, x = Explainer(owner), images(owner, 1)
    before = state(model, x)
    model.forward_error = error
    with pytest.raises(ModelFailure, match=r"^moody failed in its forward pass") as failure:
        ask(asker, x)
    model.forward_error = None
    assert failure.value.__cause__ is error
    assert "\n" not in str(failure.value)
    assert str(error).partition("\n")[0] in str(failure.value)
    assert type(error).__name__ in str(failure.value)
    assert "check that the model works" in str(failure.value)
    assert_same(before, state(model, x))


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("question", ["saliency", "gradcam", "relevance", "fullgrad"])
def test_a_model_that_raises_in_its_backward_pass_is_named(question: str, kind: str) -> None:
    name, ask = QUESTIONS[question]
    error = KINDS[kind]()
    model, owner = moody(name)
    model.eval()
    asker, x = Explainer(owner), images(owner, 1)
    before = state(model, x)
    model.backward_error = error
    with pytest.raises(ModelFailure, match=r"^the gradient of moody cannot be computed") as failure:
        ask(asker, x)
    model.backward_error = None
    assert failure.value.__cause__ is error
    assert "choose a method that needs no gradient" in str(failure.value)
    assert_same(before, state(model, x))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), CancelledError("enough")])
def test_what_stops_us_and_our_own_errors_pass(error: BaseException) -> None:
    model, owner = moody("resnet")
    for place, question in (("forward_error", "predict"), ("backward_error", "saliency")):
        x = images(owner, 1)
        setattr(model, place, error)
        with pytest.raises(type(error)) as raised:
            QUESTIONS[question][1](Explainer(owner), x)
        setattr(model, place, None)
        assert raised.value is error


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_probe_of_a_model_that_raises_is_its_failure(question: str) -> None:
    name, ask = QUESTIONS[question]
    model, owner = moody(name)
    vars(owner).pop("probe")
    x = images(owner, 1)
    before = state(model, x)
    model.forward_error = TheirError("on a Monday")
    with pytest.raises(ModelFailure, match=r"moody .* on a Monday"):
        ask(Explainer(owner), x)
    model.forward_error = None
    assert_same(before, state(model, x))


# -- operations of torch that fail, with and without frames of ours around them -------------------


class WrongShapes(nn.Module):
    """Calls one operation of torch with tensors that it does not take."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


def _tokens(x: Tensor, width: int) -> Tensor:
    return x.new_ones(len(x), 2, 3, width)


OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "a layer of torch's own": lambda: nn.Linear(7, 2),
    "several": lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 2)),
    "a function": lambda: WrongShapes(lambda x: F.linear(x, x.new_ones(2, 7))),
    "a method": lambda: WrongShapes(lambda x: x.view(7, 7)),
    "softmax": lambda: WrongShapes(lambda x: x.softmax(9)),
    "fused attention": lambda: WrongShapes(
        lambda x: F.scaled_dot_product_attention(_tokens(x, 4), _tokens(x, 5), _tokens(x, 4))
    ),
    "fused attention with an argument it has not": lambda: WrongShapes(
        lambda x: F.scaled_dot_product_attention(x, x, x, wrong=1)  # type: ignore[call-arg]
    ),
    "multi-head attention": lambda: nn.MultiheadAttention(8, 2),
}
AROUND: dict[str, Callable[[nn.Module], Any]] = {
    "nothing": evaluation_mode,
    "record_attention": record_attention,
    "rules": lambda _: backward_rules.BackwardRules({}, {}),
    "observe_calls": lambda model: capture.observe_calls(model, lambda *_: None, lambda *_: None),
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_fails_is_the_models_fault(operation: str, around: str) -> None:
    model, x = OPERATIONS[operation](), torch.zeros(1, 3, 8, 8)
    arguments = (x, x, x) if isinstance(model, nn.MultiheadAttention) else (x,)
    with AROUND[around](model), pytest.raises(ModelFailure, match=r"^odd failed"):
        call_model(model, *arguments, name="odd")


def test_a_module_of_torch_that_fails_in_a_resumed_pass_is_the_models_fault() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 2)).eval()
    x = torch.ones(1, 3, 2, 2)
    with resume.record_until(model, "1") as recorded:
        call_model(model, x, name="odd")
    recorded.calls = [(model[2], torch.ones(1, 2))]  # one answer is there, a second is not
    with resume.resume_after(recorded, torch.ones(1, 3)):
        model[2](x)
        with pytest.raises(ModelFailure, match=r"^odd failed"):
            call_model(model[2], torch.ones(1, 5), name="odd")


def test_a_gradient_that_does_not_exist_is_the_models_fault() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    y.detach().zero_()  # writes into what the backward pass needs, unseen
    y.mul_(2)
    with pytest.raises(ModelFailure, match=r"gradient of odd .*RuntimeError: one of the variables"):
        differentiate(y.sum(), x, name="odd")


def test_a_model_that_cannot_be_copied_is_told() -> None:
    model = nn.Linear(2, 2)
    vars(model)["log"] = (line for line in ())
    with pytest.raises(ModelFailure, match=r"^odd cannot be copied .TypeError"):
        copy_model(model, name="odd")
    assert isinstance(copy_model(nn.Linear(2, 2), name="odd"), nn.Linear)


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate"),
    ],
    ids=["accelerator", "torch on the CPU", "Python"],
)
def test_memory_that_runs_out_leads_to_smaller_passes(error: Exception) -> None:
    model, owner = moody("resnet")
    owner.budget = Budget(16)
    sizes: list[int] = []

    def limited(_module: nn.Module, args: tuple[Tensor]) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise error

    hook = model.register_forward_pre_hook(limited)
    run = Run(owner, images(owner, 5), ClassScore(1))
    assert len(run.outputs()) == 5
    assert sizes == [5, 2, 3, 1, 2]
    model.forward_error = error
    with pytest.raises(MemoryExhaustedError, match="moody at 160x160"):
        Run(owner, images(owner, 1)).outputs()
    vars(owner).pop("probe")
    with pytest.raises(MemoryExhaustedError, match="moody at 160x160"):
        _ = owner.probe
    with pytest.raises(MemoryExhaustedError, match="moody at 320x320"):
        owner.enlarged(2)
    hook.remove()


def test_a_model_that_cannot_take_larger_pictures_is_not_enlarged() -> None:
    model, owner = moody("resnet")
    own = owner.input_size[1]

    def fussy(_module: nn.Module, args: tuple[Tensor]) -> None:
        if args[0].shape[-1] != own:
            raise TheirError("not my size")

    model.register_forward_pre_hook(fussy)
    assert owner.enlarged(2) is None


# -- bugs of ours ---------------------------------------------------------------------------------


BUGS: dict[str, tuple[Any, str, Any, str]] = {
    "in a forward hook": (capture, "Tensor", None, "gradcam"),
    "in intercepted attention": (attention_capture, "_SOFTMAX", None, "attention"),
    "in what computes attention": (attention_capture, "attention_weights", None, "attention"),
    "in a rule": (backward_rules, "with_gradient_of", None, "lrp"),
    "in the backward pass of a rule": (backward_rules, "torch", None, "lrp"),
    "in a resumed pass": (resume, "deque", list, "ablationcam"),
    "in a method": (cam, "note_limits", None, "gradcam"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_ours_is_seen_as_the_bug_it_is(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, name, value, question = BUGS[bug]
    model, owner = moody(QUESTIONS[question][0])
    model.eval()
    asker, x = Explainer(owner), images(owner, 1)
    QUESTIONS[question][1](Explainer(owner), x)  # it works
    assert asker.predict(x)
    before = state(model, x)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, value)
        with pytest.raises((TypeError, AttributeError)) as raised:
            QUESTIONS[question][1](asker, x)
    assert not isinstance(raised.value, TimmscopeError)
    innermost = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert innermost.filename.endswith(f"{place.__name__.replace('.', '/')}.py")
    assert_same(before, state(model, x))
    QUESTIONS[question][1](Explainer(owner), x)


def test_an_error_of_ours_raised_within_the_model_passes_unchanged() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    model = nn.Sequential(Pair())
    refusal = pytest.raises(NotApplicableError, match="gives a tuple")
    with capture.record_layers(model, ["0"]), refusal:
        call_model(model, torch.zeros(1), name="odd")


def test_a_library_called_by_a_hook_of_ours_does_not_hide_the_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    monkeypatch.setattr(capture, "isinstance", os.path.join, raising=False)
    with capture.record_layers(model, ["0"]), pytest.raises(TypeError):
        call_model(model, torch.zeros(1, 2), name="odd")


# -- nobody goes another way ----------------------------------------------------------------------

RULES = {"core/runtime/backward_rules.py", "core/methods/deeplift.py"}
"""Rules of a backward pass differentiate single functions, never a model."""
CORE = [path for path in SOURCES if path.is_relative_to(ROOT / "core")]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_models_are_called_and_differentiated_in_one_place(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("core/synthetic/"):  # trains models of ours
        return
    called = {name: node.lineno for name, node in calls(path)}
    direct = [n for n in called if n == "model" or n.endswith((".model", ".forward_features"))]
    assert direct == []
    if name not in RULES:
        assert not {n for n in called if n.endswith(("autograd.grad", ".backward"))}
