"""What the page keeps on the server: models, looks at pictures, and who asked to stop."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from cachetools import LRUCache, TTLCache

from core import Explainer, load_model
from core.errors import CancelledError, PictureError, TimmscopeError
from core.inputs.batch import InputBatch, OnProgress
from core.models.listing import find
from core.runtime.cache import POLL_SECONDS, Cache, nbytes
from core.synthetic import SYNTHETIC_MODELS
from core.tasks.base import Target

HUB = re.compile(r"hf[-_]hub:[\w.-]+/[\w.-]+")

MODELS = (
    "tf_efficientnet_lite0",
    *SYNTHETIC_MODELS,
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
LOADS = 16
"""How many models may be loading at a time."""
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

    def settled(self, predicted: int | str) -> Question:
        """The same question, with the predicted class where none was chosen."""
        target = predicted if self.target in (None, "") else self.target
        return replace(self, target=target, versus=self.versus if self.contrasts else None)

    def answered_by(self, other: Question, whatever_target: bool = False) -> bool:
        """Whether the answer to another question, a settled one, answers this one too.

        Args:
            other: the question answered.
            whatever_target: for answers that do not depend on the target.
        """
        about = (self.picture, self.model, self.weights)
        if about != (other.picture, other.model, other.weights):
            return False
        return whatever_target or self.settled(other.target or 0) == other

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


def batch_bytes(batch: InputBatch) -> int:
    """Bytes that a batch keeps alive: its pictures, decoded, and the model's input."""
    heights_and_widths = (picture.size for picture in batch.pictures)
    return nbytes(batch.x) + sum(3 * height * width for height, width in heights_and_widths)


class Service:
    """Models and answers shared by everybody who has the page open.

    Args:
        models: how many models stay loaded; the least recently used goes first.
        cache_bytes: what all cached answers may take.
        public: whether strangers may come: then this machine's access to the hub is not theirs.
    """

    def __init__(
        self, models: int = 3, cache_bytes: int = 512 * 2**20, *, public: bool = False
    ) -> None:
        self.public = public
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(LOADS, "load")
        self._loading: dict[tuple[str, str], Future[Explainer]] = {}
        self._explainers: LRUCache[tuple[str, str], Explainer] = LRUCache(models)
        self._failures: TTLCache[tuple[str, str], TimmscopeError] = TTLCache(64, FAILURE_SECONDS)
        self._looks: LRUCache[object, InputBatch] = LRUCache(LOOK_BYTES, getsizeof=batch_bytes)
        self._saved = tempfile.mkdtemp(prefix="timmscope-")
        weakref.finalize(self, shutil.rmtree, self._saved, ignore_errors=True)
        self._folders: list[Path] = []
        self._stops: LRUCache[str, threading.Event] = LRUCache(1000)
        self.cache = Cache(cache_bytes)

    def explainer(
        self, model: str, weights: str = "pretrained", on_progress: OnProgress | None = None
    ) -> Explainer:
        """The explainer of a model, loaded when first asked for; other models do not wait.

        Only names are taken, never paths: whoever reaches the page must not reach the disk.

        Args:
            model: its name.
            weights: "pretrained" or "random".
            on_progress: called as ``on_progress(0, 0)`` while it loads. What it raises ends the
                wait; the loading goes on for whoever asks next.

        Raises:
            UnknownNameError: timm has no such model.
            ModelError: it cannot be loaded.
        """
        key = model.strip(), weights
        with self._lock:
            if failure := self._failures.get(key):
                raise failure
            if explainer := self._explainers.get(key):
                return explainer
            flight = self._loading.get(key)
            if flight is None:
                flight = self._loading[key] = self._loader.submit(self._open, key)
        while on_progress is not None and not wait([flight], POLL_SECONDS).done:
            on_progress(0, 0)
        return flight.result()

    def loaded(self, model: str, weights: str) -> bool:
        """Whether a model need not be waited for."""
        with self._lock:
            key = model.strip(), weights
            return key in self._explainers or key in self._failures

    def _open(self, key: tuple[str, str]) -> Explainer:
        try:
            explainer = self._load(*key)
            with self._lock:
                self._explainers[key] = explainer
        except TimmscopeError as failure:
            with self._lock:
                self._failures[key] = failure
            raise
        finally:
            with self._lock:
                del self._loading[key]
        return explainer

    def _load(self, name: str, weights: str) -> Explainer:
        if not HUB.fullmatch(name):
            find(name)
        handle = load_model(
            name,
            weights="random" if weights == "random" else None,
            token=False if self.public else None,
        )
        handle.probe  # noqa: B018  takes a while, and whoever waits can cancel it here
        return Explainer(handle, cache=self.cache)

    def prepare(self, explainer: Explainer, picture: str | None) -> InputBatch:
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
            found = explainer.prepare(picture)
            if batch_bytes(found) <= self._looks.maxsize:
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
                raise CancelledError("cancelled; ask again for an answer")
            if expected > 2:
                report(done / expected, f"{done} of {expected} rows")

        return on_progress

    def cancel(self, session: str) -> None:
        """Stop what the session is waiting for."""
        with self._lock:
            stop = self._stops.get(session)
        if stop is not None:
            stop.set()
