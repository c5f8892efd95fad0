"""Pictures that their owners have shared, under names that nobody can guess."""

from __future__ import annotations

import hashlib
import io
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

DAYS = 7
"""For how long a shared picture is kept at most, in days."""
MAX_PICTURES = 200
"""How many shared pictures are kept at once."""
MAX_BYTES = 256 * 2**20
"""Disk space for all shared pictures, in bytes."""
MAX_SIDE = 4096
"""Longer side of a shared picture in pixels; a larger one is scaled down."""
MAX_PNG = 16 * 2**20
"""A picture that needs more bytes without loss is kept as JPEG."""
NAME_BYTES = 24
"""Randomness of a name: 192 bits."""
FILE = "shared-picture"
"""What the file of every shared picture is called; its folder is nobody's business."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    digest: str
    size: int
    until: float


class SharedPictures:
    """Keeps copies of pictures for a while; the oldest go first, and all of them with this object.

    A copy has the pixels of the picture and nothing else: no metadata, no name. Names are looked
    up, and are no part of any path.

    Args:
        max_pictures: how many are kept at once.
        max_bytes: disk space for all of them, in bytes.
        seconds: for how long each is kept at most.
        clock: the time in seconds.
    """

    def __init__(
        self,
        max_pictures: int = MAX_PICTURES,
        max_bytes: int = MAX_BYTES,
        seconds: float = DAYS * 86400,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = max_pictures, max_bytes
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._root = tempfile.mkdtemp(prefix="timmscope-shared-")
        weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)

    def keep(self, picture: Image.Image) -> str:
        """Keep a copy of a picture; its name.

        A picture that is kept already keeps its name and its end: whoever has the address could
        share it anew for ever.

        Args:
            picture: decoded, in any mode.
        """
        content, ending = _encoded(picture)
        digest = hashlib.sha256(content).hexdigest()
        until = self._clock() + self._seconds
        with self._lock:
            self._forget_old()
            known = next((n for n, one in self._kept.items() if one.digest == digest), "")
            if known:
                return known
            name, path = secrets.token_urlsafe(NAME_BYTES), self._written(content, ending)
            self._kept[name] = _Kept(path, digest, len(content), until)
            self._forget_old()
        return name

    def path(self, name: str) -> str | None:
        """The file of a shared picture; None if nobody shared one of that name, or not any more."""
        with self._lock:
            self._forget_old()
            found = self._kept.get(name)
        return None if found is None else str(found.path)

    def _written(self, content: bytes, ending: str) -> Path:
        path = Path(tempfile.mkdtemp(dir=self._root)) / f"{FILE}.{ending}"
        path.write_bytes(content)
        return path

    def _forget_old(self) -> None:
        """Delete what has expired, and the oldest while there are too many; with the lock held."""
        now, (most, max_bytes) = self._clock(), self._limits
        for name, one in list(self._kept.items()):
            full = len(self._kept) > most or sum(k.size for k in self._kept.values()) > max_bytes
            if one.until <= now or full:
                del self._kept[name]
                shutil.rmtree(one.path.parent, ignore_errors=True)


def _encoded(picture: Image.Image) -> tuple[bytes, str]:
    """The pixels as PNG, or as JPEG where that is too large, and the ending of such a file."""
    bare = Image.fromarray(np.asarray(picture.convert("RGB")))  # the pixels, without metadata
    bare.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    bare.save(stream, "PNG")
    if stream.tell() <= MAX_PNG:
        return stream.getvalue(), "png"
    stream = io.BytesIO()
    bare.save(stream, "JPEG", quality=95)
    return stream.getvalue(), "jpg"
