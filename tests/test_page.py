"""How the page is put together: requests bound by name, one handler, tabs that can be added."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from core import METHODS, METRICS
from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from dashboard.actions import CompareRequest, Evidence, MeasureRequest, Question, SaveRequest
from dashboard.actions.question import POINTERS, UnusableError, brief
from dashboard.build import TABS, build
from dashboard.state import Service
from dashboard.tabs.binding import inputs_of
from dashboard.tabs.handlers import handler

DASHBOARD = Path(__file__).parent.parent / "dashboard"
QUESTION = Question("cat.jpg", "resnet18", "random", 3, None, "logit")
VISITOR = SimpleNamespace(session_hash="someone")


def fields(*names: str) -> dict[str, gr.Textbox]:
    """A widget of each name, in that order."""
    return {name: gr.Textbox(label=name) for name in names}


ABOUT = ("unit", "versus", "target", "weights", "model", "picture")
VALUES = {**dataclasses.asdict(QUESTION), "methods": ["lime"], "settings": {}, "layer": ""}


# -- binding ------------------------------------------------------------------------------------


def test_a_request_is_read_from_the_widgets_of_its_fields_names() -> None:
    widgets = fields("own_class", "layer", "unrelated", "methods", "settings", *ABOUT)
    inputs = inputs_of(CompareRequest, widgets)
    names = [parameter.name for parameter in inputs.parameters]
    assert names == [*reversed(ABOUT), "methods", "settings", "layer", "own_class"]
    assert inputs.components == [widgets[name] for name in names]
    request = inputs.build([{**VALUES, "own_class": True}[name] for name in names])
    assert request == CompareRequest(QUESTION, ["lime"], {}, "", own_class=True)


def test_a_new_option_is_a_field_and_a_widget_of_its_name() -> None:
    @dataclass(frozen=True)
    class WithOption(CompareRequest):
        smooth: bool = False

    def compare(
        service: Service, request: WithOption, on_progress: OnProgress | None = None
    ) -> Any:
        return request.smooth, request.methods, request.question

    widgets = fields(*ABOUT, "methods", "settings", "layer", "own_class")
    inputs = inputs_of(WithOption, {"smooth": gr.Checkbox(), **widgets})
    run = handler(Service(), "", compare, inputs, lambda found: found)
    values = {**VALUES, "own_class": True, "smooth": True}
    *given, visitor, progress = inspect.signature(run).parameters
    assert (visitor, progress, given[-1]) == ("visitor", "progress", "smooth")
    assert run(*(values[name] for name in given), VISITOR, None) == (True, ["lime"], QUESTION)


def test_dataclasses_within_a_request_are_bound_field_by_field() -> None:
    widgets = fields(*ABOUT, "methods", "metrics", "settings", "layer")
    inputs = inputs_of(MeasureRequest, widgets, SimpleNamespace(**fields("box", "file", "label")))
    names = [parameter.name for parameter in inputs.parameters]
    assert names[-3:] == ["box", "file", "label"]
    values = {**VALUES, "metrics": ["road"], "box": "1,2,3,4", "file": None, "label": "cup"}
    request = inputs.build([values[name] for name in names])
    assert request.evidence == Evidence("1,2,3,4", None, "cup")
    assert request.random_maps == 0, "a default where there is no widget"


def test_a_field_may_be_a_constant_but_not_missing() -> None:
    state = {"explanation": gr.State()}
    inputs = inputs_of(SaveRequest, state, fields("alpha"), kind="npz")
    assert inputs.components == [state["explanation"], *list(inputs.widgets.values())[1:]]
    assert inputs.build([None, 0.5]) == SaveRequest(None, "npz", alpha=0.5)
    with pytest.raises(TypeError, match=r"SaveRequest\.kind has no widget"):
        inputs_of(SaveRequest, state)


def test_an_event_takes_the_fields_of_its_request_by_name() -> None:
    every = build(Service()).fns.values()
    events = {one.name: one for one in every if one.api_visibility == "private"}
    for name, own in {
        "paint": ["method", "layer", "settings"],
        "features": ["layer", "by", "top"],
    }.items():
        event = events[name]
        assert event.fn is not None
        taken = [*inspect.signature(event.fn).parameters]
        assert [one for one in taken if one in own] == own
        assert taken[0] == "picture"


# -- handlers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    number: int


def handled(service: Service, action: Any, **options: Any) -> Any:
    inputs = inputs_of(Number, fields("number"))
    return handler(service, "task", action, inputs, lambda found: f"shown {found}", **options)


def test_an_action_reports_its_progress() -> None:
    def double(service: Service, request: Number, on_progress: Any = None) -> int:
        on_progress(3, 4)
        return 2 * request.number

    told: list[tuple[float, str]] = []
    run = handled(Service(), double)
    assert run(4, VISITOR, lambda share, desc: told.append((share, desc))) == "shown 8"
    assert told == [(0.75, "3 of 4 passes")]


def test_a_cancelled_action_leaves_the_page_as_it_is() -> None:
    service = Service()

    def wait(service: Service, request: Number, on_progress: Any = None) -> None:
        service.tasks.cancel("someone/task")
        on_progress(0, 0)

    assert handled(service, wait)(4, VISITOR, None) == gr.skip()
    stopped = handled(service, wait, on_cancel=lambda request: f"stopped {request.number}")
    assert stopped(4, VISITOR, None) == "stopped 4"


def test_a_question_that_a_cancellation_has_overtaken_is_not_answered() -> None:
    """Its answer may be known already, so that nothing is left to be stopped."""
    service = Service()
    run = handled(service, lambda *_: "an answer", stamped=True)
    assert run(4, 12.0, VISITOR, None) == "shown an answer"
    service.tasks.cancel("someone/task", before=20.0)
    assert run(4, 12.0, VISITOR, None) == gr.skip()
    assert run(4, 21.0, VISITOR, None) == "shown an answer"


def test_what_a_person_can_cause_is_shown_to_them() -> None:
    def refuse(service: Service, request: Number, on_progress: Any = None) -> None:
        raise TimmscopeError("too large")

    shown = handled(Service(), refuse, on_fault=lambda request, error: (request.number, str(error)))
    assert shown(4, VISITOR, None) == (4, "too large")
    with pytest.raises(gr.Error, match="too large"):
        handled(Service(), refuse)(4, VISITOR, None)


def test_a_fault_of_ours_is_logged_and_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    def broken(service: Service, request: Number, on_progress: Any = None) -> None:
        raise RuntimeError("our own mistake")

    run = handled(Service(), broken, on_fault=lambda request, error: "hidden")
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match="our own mistake"):
        run(4, VISITOR, None)
    (record,) = caplog.records
    assert record.message == "broken failed"
    assert record.exc_info is not None


def test_a_program_is_told_what_a_person_reads_elsewhere_on_the_page() -> None:
    def broken(service: Service, request: Number, on_progress: Any = None) -> None:
        raise UnusableError("model", "There is no such model.")

    run = handled(Service(), broken, on_fault=lambda request, error: brief(error), stamped=True)
    assert run(4, 0.0, VISITOR, None) == "There is no such model."
    assert run(4, 12.0, VISITOR, None) == POINTERS["model"]


def test_an_action_may_give_one_result_after_another() -> None:
    def count(service: Service, request: Number, on_progress: Any = None) -> Iterator[int]:
        yield from range(request.number)
        raise TimmscopeError("enough")

    run = handled(Service(), count, on_fault=lambda request, error: str(error))
    assert list(run(2, VISITOR, None)) == ["shown 0", "shown 1", "enough"]


# -- the page -----------------------------------------------------------------------------------


def test_only_stopping_comes_before_telling_that_something_else_is_asked() -> None:
    """The events of one component run in their order, each once the one before it is done.

    Stopping is first: what is asked after a choice must be later than the choice.
    """
    config = build(Service(checks=False)).get_config_file()
    events = config["dependencies"]
    tells = next(one for one in events if '.changed(null, ["picture", "model"' in (one["js"] or ""))
    assert not tells["backend_fn"]
    assert len(tells["targets"]) == len(dataclasses.fields(Question)) + 1
    for target in tells["targets"]:
        before = [one["js"] or "" for one in events[: tells["id"]] if target in one["targets"]]
        assert len(before) <= 1, target
        assert all("answers.chosen" in js for js in before), target


def test_settings_are_not_built_before_their_method_is_chosen() -> None:
    labels = {getattr(block, "label", None) for block in build(Service()).blocks.values()}
    titles = {
        schema["title"]
        for registry in (METHODS, METRICS)
        for cls in registry.values()
        for schema in cls.schema_of_fields().values()
    }
    assert titles
    assert titles & labels == set()


ACTION = '''
from dataclasses import dataclass
from dashboard.actions import Question

@dataclass(frozen=True)
class ShoutRequest:
    question: Question
    word: str

def shout(service, request, on_progress=None):
    """Say a word of the model, loudly."""
    return f"{request.word} {request.question.model}".upper()
'''
TAB = """
from dataclasses import dataclass
import gradio as gr
from toy_action import ShoutRequest, shout

TITLE = "Shout"

@dataclass(frozen=True)
class ShoutWidgets:
    word: gr.Textbox
    run: gr.Button
    heard: gr.Textbox

def layout():
    return ShoutWidgets(gr.Textbox("hey", label="Word"), gr.Button("Shout"), gr.Textbox())

def wire(page, tab):
    inputs = page.inputs(ShoutRequest, tab)
    run = page.handler("shout", shout, inputs, lambda said: said)
    tab.run.click(run, inputs.components, tab.heard)
"""


def test_a_tab_is_an_action_and_a_module_of_widgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_action.py").write_text(ACTION)
    (tmp_path / "toy_tab.py").write_text(TAB)
    monkeypatch.syspath_prepend(tmp_path)
    demo = build(Service(), tabs=[*TABS, importlib.import_module("toy_tab")])
    titles = [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    assert titles == ["Explain", "Compare", "Features", "Metrics", "Shout"]
    (event,) = [one for one in demo.fns.values() if one.name == "shout"]
    question = [getattr(QUESTION, field.name) for field in dataclasses.fields(QUESTION)]
    assert event.fn is not None
    assert event.fn(*question, "ho", VISITOR, None) == "HO RESNET18"


@pytest.mark.parametrize(
    "path", sorted(DASHBOARD.rglob("*.py")), ids=lambda p: p.relative_to(DASHBOARD).as_posix()
)
def test_no_function_of_the_page_is_long(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in nodes
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
