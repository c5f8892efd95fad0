"""What the page keeps on the server, shared by everybody who has it open."""

from __future__ import annotations

from dashboard.state.models import MODELS, Models
from dashboard.state.service import Service
from dashboard.state.tasks import Tasks

__all__ = ["MODELS", "Models", "Service", "Tasks"]
