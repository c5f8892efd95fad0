"""What every tab is given, and what tabs have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from core.errors import TimmscopeError
from dashboard import actions
from dashboard.components import Choice, on_event
from dashboard.state import Service
from dashboard.tabs.address import Address, Trigger
from dashboard.tabs.binding import Inputs, inputs_of
from dashboard.tabs.handlers import Action, OnFault, handler

R = TypeVar("R")

QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "trigger_mode": "always_last",
}
"""For events that only keep the page consistent."""
AT_ONCE: dict[str, Any] = {**QUIET, "trigger_mode": "multiple"}
"""For those of them that must not wait for one another."""
CHOSEN_JS = on_event("answers.chosen")
"""Notes that a person has chosen something, and gives the time by the visitor's clock."""
DEFAULT_LAYER = ("default", "")
METHODS_INFO = (
    "To add a method again with other settings, type it: lime(samples=200) or gradcam@LAYER"
)
"""How a method can stand beside itself."""


@dataclass(frozen=True)
class Page:
    """What every tab is given.

    Attributes:
        service: models and running tasks.
        demo: the whole page.
        widgets: by name of a request's field: those of the question, of the view, and `settings`.
        model_opened: a model has been loaded, or cannot be.
        explainable: there is something new to explain: a picture, a model, or a class picked by
            its bar.
        target_changed: a person chose another class or score.
        address: fills in the page as its address says.
        asked_at: when a person asked for an answer, filled in by the browser.
    """

    service: Service
    demo: gr.Blocks
    widgets: Mapping[str, Component]
    model_opened: Trigger
    explainable: Sequence[Dependency]
    target_changed: Sequence[Trigger]
    address: Address
    asked_at: gr.Number

    @property
    def settings(self) -> gr.JSON:
        """Parameters that a person changed, by method or metric."""
        store = self.widgets["settings"]
        assert isinstance(store, gr.JSON)
        return store

    def inputs(self, request: type[R], *sources: object, **constants: Any) -> Inputs[R]:
        """A request's fields bound to the page's and a tab's widgets; see `inputs_of`."""
        return inputs_of(request, self.widgets, *sources, **constants)

    def handler(
        self,
        task: str,
        action: Action[R],
        inputs: Inputs[R],
        show: Callable[[Any], Any],
        on_fault: OnFault[R] | None = None,
        on_cancel: Callable[[R], Any] | None = None,
        *,
        stamped: bool = False,
    ) -> Callable[..., Any]:
        """The handler of an event that runs an action; see `handlers.handler`."""
        return handler(
            self.service, task, action, inputs, show, on_fault, on_cancel, stamped=stamped
        )


def layer_list(**kwargs: Any) -> Choice:
    """A list of a model's layers, which `follow_model` fills; the model's own choice at first.

    Args:
        kwargs: as for ``gr.Dropdown``.
    """
    return Choice([DEFAULT_LAYER], value=DEFAULT_LAYER[1], label="Layer", **kwargs)


def follow_model(page: Page, **kinds: gr.Dropdown) -> None:
    """Keep choices true to the model.

    Args:
        page: whose model.
        kinds: dropdowns by what they offer: `methods` (one that the model cannot run says so), or
            `layers` on a grid.
    """

    def show(offers: actions.ModelOffers) -> dict[Any, Any]:
        layers = [DEFAULT_LAYER, *((name, name) for name in offers.layers)]
        updates = {
            "methods": gr.Dropdown(offers.methods),
            "layers": gr.Dropdown(layers) if offers.has_layer else gr.Dropdown(layers, value=""),
        }
        return {dropdown: updates[kind] for kind, dropdown in kinds.items()}

    def without_model(request: object, error: TimmscopeError) -> dict[Any, Any]:
        return show(actions.ModelOffers(methods=actions.method_choices()))

    inputs = page.inputs(actions.OffersRequest, {"layer": kinds["layers"]})
    follow = page.handler("", actions.describe_model, inputs, show, without_model)
    page.model_opened(follow, inputs.components, list(kinds.values()), **QUIET)
