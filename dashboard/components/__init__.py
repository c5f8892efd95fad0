"""Widgets of our own, where Gradio's do not suffice."""

from __future__ import annotations

from dashboard.components.fields import Canvas, Choice, Picture
from dashboard.components.panels import DEFAULT_VIEW, VIEW_JS, Panels
from dashboard.components.settings import settings_group, widget_for

__all__ = [
    "DEFAULT_VIEW",
    "VIEW_JS",
    "Canvas",
    "Choice",
    "Panels",
    "Picture",
    "settings_group",
    "widget_for",
]
