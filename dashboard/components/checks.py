"""GroupedChoice: options to tick, in groups under the question that each answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import source, tags


class GroupedChoice(OwnHTML):
    """Options to tick, in groups. Its value is the list of the keys ticked, in order.

    Events: ``change``, and ``input`` when a person ticks.

    Args:
        groups: each with a `label`, the `question` that its options answer, and `options`, each
            with a `key`, a `label` and a sentence `about` it.
        value: the keys ticked at first.
        kwargs: as for ``gr.HTML``, such as ``elem_id``.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]] = (),
        value: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            value=value,
            html_template='<div class="ts-checks"></div>',
            css_template=source("checks.css"),
            js_on_load=(
                "window.timmscope.checks(element.querySelector('.ts-checks'), props, trigger, "
                "watch); // 'input'"
            ),
            head=tags("checks.js"),
            apply_default_css=False,
            groups=list(groups),
            **kwargs,
        )

    def postprocess(self, value: Sequence[str] | None) -> Any:
        """The keys ticked."""
        return list(value or [])

    def api_info(self) -> dict[str, Any]:
        """A list of keys, for callers of the API."""
        return {"type": "array", "items": {"type": "string"}}

    def example_payload(self) -> Any:
        """Nothing ticked."""
        return []
