"""What the page keeps on the server: models, looks at pictures, and who asked to stop."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cachetools import LRUCache, TTLCache

from core import Explainer, load_model
from core.cache import Cache, nbytes
from core.errors import CancelledError, PictureError, TimmscopeError
from core.explainer import Look, OnProgress
from core.models.catalogue import find
from core.targets import Target

HUB = re.compile(r"hf[-_]hub:[\w.-]+/[\w.-]+")

MODELS = (
    "tf_efficientnet_lite0",
    "resnet50.a1_in1k",
    "convnext_tiny.fb_in1k",
    "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "deit3_small_patch16_224.fb_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "mobilenetv3_large_100.ra_in1k",
)
"""Suggestions; any timm name or ``hf-hub:owner/name`` can be typed."""


FAILURE_SECONDS = 20
"""How long a model that could not be loaded is not tried again: the whole page asks at once."""
LOOK_BYTES = 256 * 2**20
"""What all pictures kept decoded may take."""
SAVED_FOLDERS = 50
"""How many saved files are kept for the browser to fetch."""
NOTHING = -1
"""Stands for "no class" where a choice needs a value."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a person asks about, on whatever tab.

    Attributes:
        picture: path of the uploaded picture.
        model: a timm name or ``hf-hub:owner/name``.
        weights: "pretrained" or "random".
        target: class index or label; None for the predicted class.
        versus: class index or label of "rather than"; None or `NOTHING` for a single class.
        unit: "logit" or "probability".
    """

    picture: str | None
    model: str
    weights: str
    target: int | str | None
    versus: int | str | None
    unit: str

    @property
    def contrasts(self) -> bool:
        """Whether it is "rather than" another class."""
        return self.versus not in (None, NOTHING, "")

    def to_target(self, explainer: Explainer, predicted: int) -> Target:
        """The target asked for, given the predicted class.

        Raises:
            UnknownNameError: the model has no such class.
        """
        target = explainer.target(predicted if self.target in (None, "") else self.target)
        assert target is not None
        if self.contrasts:
            rival = explainer.target(self.versus)
            assert rival is not None
            target = target - rival
        return target.probability() if self.unit == "probability" else target


def weight_of(look: Look) -> int:
    """Bytes a look keeps alive: its pictures, decoded, and the model's input."""
    heights_and_widths = (picture.size for picture in look.pictures)
    return nbytes(look.x) + sum(3 * height * width for height, width in heights_and_widths)


class Service:
    """Models and answers shared by everybody who has the page open.

    Args:
        models: how many models stay loaded; the least recently used goes first.
        cache_bytes: what all cached answers may take.
    """

    def __init__(self, models: int = 3, cache_bytes: int = 512 * 2**20) -> None:
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._explainers: LRUCache[tuple[str, str], Explainer] = LRUCache(models)
        self._failures: TTLCache[tuple[str, str], TimmscopeError] = TTLCache(64, FAILURE_SECONDS)
        self._looks: LRUCache[object, Look] = LRUCache(LOOK_BYTES, getsizeof=weight_of)
        self._saved = tempfile.mkdtemp(prefix="timmscope-")
        weakref.finalize(self, shutil.rmtree, self._saved, ignore_errors=True)
        self._folders: list[Path] = []
        self._stops: LRUCache[str, threading.Event] = LRUCache(1000)
        self.cache = Cache(cache_bytes)

    def explainer(self, model: str, weights: str = "pretrained") -> Explainer:
        """The explainer of a model, loaded when first asked for.

        Only names are taken, never paths: whoever reaches the page must not reach the disk.

        Raises:
            UnknownNameError: timm has no such model.
            ModelError: it cannot be loaded.
        """
        name = model.strip()
        key = name, weights
        known = self._known(key)
        if known is not None:
            return known
        with self._loading:
            known = self._known(key)
            if known is not None:
                return known
            try:
                explainer = self._load(name, weights)
            except TimmscopeError as failure:
                with self._lock:
                    self._failures[key] = failure
                raise
            with self._lock:
                self._explainers[key] = explainer
            return explainer

    def _known(self, key: tuple[str, str]) -> Explainer | None:
        """The explainer if it is loaded; nobody waits for it while another model loads."""
        with self._lock:
            if failure := self._failures.get(key):
                raise failure
            return self._explainers.get(key)

    def _load(self, name: str, weights: str) -> Explainer:
        if not HUB.fullmatch(name):
            find(name)
        handle = load_model(name, weights="random" if weights == "random" else None)
        return Explainer(handle, cache=self.cache)

    def look(self, explainer: Explainer, picture: str | None) -> Look:
        """A picture as the model sees it, decoded once.

        Raises:
            PictureError: there is none, or it cannot be read.
        """
        if not picture:
            raise PictureError("no picture yet; drop one on the left, or take an example")
        try:
            changed = Path(picture).stat().st_mtime_ns
        except OSError:
            raise PictureError("the picture is no longer there; drop it again") from None
        key = picture, changed, explainer.model.fingerprint()
        with self._lock:
            found = self._looks.get(key)
        if found is None:
            found = explainer.look(picture)
            if weight_of(found) <= self._looks.maxsize:
                with self._lock:
                    self._looks[key] = found
        return found

    def folder(self) -> Path:
        """A new folder for a file to be saved; the oldest go."""
        folder = Path(tempfile.mkdtemp(dir=self._saved))
        with self._lock:
            self._folders.append(folder)
            old = self._folders.pop(0) if len(self._folders) > SAVED_FOLDERS else None
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return folder

    def begin(self, session: str, report: Callable[[float, str], object]) -> OnProgress:
        """Start a piece of work for a session; what it was still waiting for is cancelled.

        Args:
            session: who asks, and on which tab.
            report: called as ``report(fraction, text)`` while it runs.

        Returns:
            For `on_progress`: reports, and raises `CancelledError` once the session says stop.
        """
        stop = threading.Event()
        self.cancel(session)
        with self._lock:
            self._stops[session] = stop

        def on_progress(done: int, expected: int) -> None:
            if stop.is_set():
                raise CancelledError("cancelled; nothing was changed")
            if expected > 2:
                report(done / expected, f"{done} of {expected} rows")

        return on_progress

    def cancel(self, session: str) -> None:
        """Stop what the session is waiting for."""
        with self._lock:
            stop = self._stops.get(session)
        if stop is not None:
            stop.set()
