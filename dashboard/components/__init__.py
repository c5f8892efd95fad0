"""Widgets of our own, where Gradio's do not suffice."""

from __future__ import annotations

from dashboard.components.classes import MARK_JS, ClassRows
from dashboard.components.fields import Canvas, Choice, Picture
from dashboard.components.film import CHOSEN_JS, Film
from dashboard.components.history import History
from dashboard.components.panels import DEFAULT_VIEW, VIEW_JS, Answer, Panels
from dashboard.components.phone_bar import PhoneBar
from dashboard.components.settings import settings_group, widget_for

__all__ = [
    "CHOSEN_JS",
    "DEFAULT_VIEW",
    "MARK_JS",
    "VIEW_JS",
    "Answer",
    "Canvas",
    "Choice",
    "ClassRows",
    "Film",
    "History",
    "Panels",
    "PhoneBar",
    "Picture",
    "settings_group",
    "widget_for",
]
