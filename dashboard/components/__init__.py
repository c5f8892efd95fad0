"""Widgets of our own, where Gradio's do not suffice."""

from __future__ import annotations

from dashboard.components.fields import Canvas, Choice, Picture
from dashboard.components.panels import DEFAULT_VIEW, VIEW_JS, Answer, Panels
from dashboard.components.settings import settings_group, widget_for

__all__ = [
    "DEFAULT_VIEW",
    "VIEW_JS",
    "Answer",
    "Canvas",
    "Choice",
    "Panels",
    "Picture",
    "settings_group",
    "widget_for",
]
