"""Widgets of our own, where Gradio's do not suffice."""

from __future__ import annotations

from dashboard.components.checks import GroupedChoice
from dashboard.components.class_maps import ClassMapAnswer, ClassMapSource
from dashboard.components.classes import MARK_JS, PICK_JS, ClassRows
from dashboard.components.crop import CROP_JS, CropBox
from dashboard.components.curves import POINT_JS, CurveStage
from dashboard.components.drawing import Drawing
from dashboard.components.fields import Choice, Chosen, Picture, ProposedClasses
from dashboard.components.film import CHOSEN_JS, Film
from dashboard.components.gallery import Gallery
from dashboard.components.history import History
from dashboard.components.method_guide import PICKED_JS, GuideDialog
from dashboard.components.panels import DEFAULT_VIEW, VIEW_JS, Answer, Panels, encode
from dashboard.components.patches import PatchAnswer, PatchStage
from dashboard.components.phone_bar import PhoneBar
from dashboard.components.scripts import on_event
from dashboard.components.settings import settings_group, widget_for
from dashboard.components.ways_out import WaysOut

__all__ = [
    "CHOSEN_JS",
    "CROP_JS",
    "DEFAULT_VIEW",
    "MARK_JS",
    "PICKED_JS",
    "PICK_JS",
    "POINT_JS",
    "VIEW_JS",
    "Answer",
    "Choice",
    "Chosen",
    "ClassMapAnswer",
    "ClassMapSource",
    "ClassRows",
    "CropBox",
    "CurveStage",
    "Drawing",
    "Film",
    "Gallery",
    "GroupedChoice",
    "GuideDialog",
    "History",
    "Panels",
    "PatchAnswer",
    "PatchStage",
    "PhoneBar",
    "Picture",
    "ProposedClasses",
    "WaysOut",
    "encode",
    "on_event",
    "settings_group",
    "widget_for",
]
