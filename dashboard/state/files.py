"""Files that the page writes for the browser to fetch."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from pathlib import Path

MAX_FOLDERS = 50
"""How many saved files are kept."""


class SavedFiles:
    """Hands out temporary folders; the oldest are deleted, and all of them with this object."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._root = tempfile.mkdtemp(prefix="timmscope-")
        self._folders: list[Path] = []
        weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)

    def new_folder(self) -> Path:
        """An empty folder for one file."""
        folder = Path(tempfile.mkdtemp(dir=self._root))
        with self._lock:
            self._folders.append(folder)
            oldest = self._folders.pop(0) if len(self._folders) > MAX_FOLDERS else None
        if oldest is not None:
            shutil.rmtree(oldest, ignore_errors=True)
        return folder
