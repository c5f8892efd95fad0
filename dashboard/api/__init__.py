"""The page as an interface for programs: over HTTP, with gradio_client, and as MCP tools."""

from __future__ import annotations

from dashboard.api.endpoints import ENDPOINTS
from dashboard.api.handlers import serve

__all__ = ["ENDPOINTS", "serve"]
