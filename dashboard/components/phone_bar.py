"""The bar at the bottom of a narrow screen: what is asked, each behind a button."""

from __future__ import annotations

from typing import Any

from dashboard.components.own_html import OwnHTML
from dashboard.components.scripts import source, tags

MOUNT_JS = "window.timmscope.phoneBar.mount(element);"


class PhoneBar(OwnHTML):
    """Buttons that open the page's sheets; each tells what is chosen there.

    Args:
        kwargs: as for ``gr.HTML``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            value="",
            html_template='<nav class="ts-phone-bar" aria-label="What is asked"></nav>',
            css_template=source("phone_bar.css"),
            js_on_load=MOUNT_JS,
            head=tags("phone_bar.js"),
            apply_default_css=False,
            **kwargs,
        )
