"""Fills in the page as its address says, once it has been opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from dashboard import actions
from dashboard.actions.address import READERS, SHARED
from dashboard.components import on_event
from dashboard.state import Service
from dashboard.tabs.examples import EXAMPLE_FILES

Trigger = Callable[..., Dependency]

ADDRESSED = {"picture", *READERS}
"""Fields that the page's address can set."""
GONE = "The picture of this address is no longer shared; the page shows an example instead."
SUBJECT = ("picture", "model", "weights", "activation")
"""What the chosen classes and the chosen crop are about."""
UNQUEUED: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
SAYS_JS = "() => window.location.search.length > 1"
"""Whether the address may say anything."""


class Address:
    """What the addresses of visitors' pages say.

    Args:
        service: keeps shared pictures.
        demo: the whole page.
        known: the page's fields by name.
    """

    def __init__(self, service: Service, demo: gr.Blocks, known: Mapping[str, Component]) -> None:
        self._service, self._demo, self._known = service, demo, known
        self._filled = gr.Checkbox(False, visible="hidden")

    def read(self, visitor: gr.Request) -> dict[str, Any]:
        """What the address of a visitor's page says, by field; empty for nothing."""
        shared = self._service.shared.path
        return actions.read_address(dict(visitor.query_params), EXAMPLE_FILES, shared)

    def restore(self, more: Mapping[str, Component]) -> Trigger:
        """Set the page's fields, and more by name.

        Returns:
            The event after it; there is none where the address says nothing.
        """
        given = {**self._known, **more}
        fields = {name: one for name, one in given.items() if name in ADDRESSED}

        def apply(visitor: gr.Request) -> Any:
            found = self.read(visitor)
            values = {fields[name]: found[name] for name in fields if name in found}
            return {**values, self._filled: True} if found else gr.skip()

        def tell(visitor: gr.Request) -> None:
            if (name := visitor.query_params.get(SHARED)) and not self._service.shared.path(name):
                gr.Warning(GONE)

        # With every event, Gradio goes through all outputs that the page's events before it had. So
        # the fields are outputs only where there is an address to read.
        says = gr.Checkbox(False, visible="hidden")
        self._demo.load(None, None, says, js=SAYS_JS, **UNQUEUED)
        # Queued: else Gradio shows no warning.
        says.change(tell, None, None, show_progress="hidden")
        filled = says.change(apply, None, [self._filled, *fields.values()], **UNQUEUED)
        about: list[Any] = [self._known[name] for name in (*SUBJECT, "crop")]
        filled.then(None, about, None, js=on_event("question.restored"), **UNQUEUED)
        trigger: Trigger = self._filled.change
        return trigger

    def restore_tab(self, tab: str, more: Mapping[str, Component]) -> Trigger:
        """Set fields of a tab beside the first, after those of the page.

        Where the address says nothing of the tab, none of its fields is an output of any event: an
        update that reaches one of our own components before it is on the page takes its
        properties away.

        Args:
            tab: as the address names it.
            more: its fields by name.

        Returns:
            The event after it; there is none where the address says nothing of the tab.
        """
        asked, filled = (gr.Checkbox(False, visible="hidden") for _ in range(2))
        fields = {f"{tab}.{name}": one for name, one in more.items()}

        def is_asked(visitor: gr.Request) -> bool:
            return not fields.keys().isdisjoint(self.read(visitor))

        def apply(visitor: gr.Request) -> dict[Any, Any]:
            found = self.read(visitor)
            return {filled: True, **{fields[one]: found[one] for one in fields if one in found}}

        outputs: list[Any] = [filled, *fields.values()]
        self._filled.change(is_asked, None, asked, **UNQUEUED)
        asked.change(apply, None, outputs, **UNQUEUED)
        trigger: Trigger = filled.change
        return trigger
