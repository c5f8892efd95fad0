"""Widgets of our own, for what Gradio's do not do."""

from __future__ import annotations

from dashboard.components.panels import DEFAULT_VIEW, VIEW_JS, Panels

__all__ = ["DEFAULT_VIEW", "VIEW_JS", "Panels"]
