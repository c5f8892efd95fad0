"""Everything the page's actions need of the server, in one object."""

from __future__ import annotations

from core.runtime.cache import Cache
from dashboard.state.batches import Batches
from dashboard.state.files import SavedFiles
from dashboard.state.lane import SlowLane
from dashboard.state.memory import give_back
from dashboard.state.models import Models
from dashboard.state.shared_pictures import SharedPictures
from dashboard.state.tasks import Tasks
from dashboard.state.times import Times


class Service:
    """Models, pictures, files and running tasks, shared by everybody who has the page open.

    Args:
        models: how many models stay loaded; the least recently used goes first.
        cache_bytes: memory for all cached answers, in bytes.
        public: whether strangers can reach the page; they do not get this machine's access to
            the hub.
        checks: whether every cheap map is tested without being asked.
        device: where models are; None for the fastest device.

    Attributes:
        models: loaded models.
        batches: decoded pictures.
        files: files written for the browser to fetch.
        shared: pictures that their owners have shared.
        tasks: what is running, for whom.
        slow: places for what takes longer than an instant.
        times: how long methods took.
    """

    def __init__(
        self,
        models: int = 3,
        cache_bytes: int = 512 * 2**20,
        *,
        public: bool = False,
        checks: bool = True,
        device: str | None = None,
    ) -> None:
        self.checks = checks
        self._limits = models, cache_bytes, public, checks
        self.models = Models(Cache(cache_bytes), models, public=public, device=device)
        self.batches = Batches()
        self.files = SavedFiles()
        self.shared = SharedPictures()
        self.tasks = Tasks()
        self.slow = SlowLane(when_idle=give_back)
        self.times = Times()

    def on(self, device: str) -> Service:
        """A service of its own, with the same limits, whose models are on a device."""
        models, cache_bytes, public, checks = self._limits
        return Service(models, cache_bytes, public=public, checks=checks, device=device)
