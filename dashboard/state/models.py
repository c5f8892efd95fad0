"""Models that are loaded, being loaded, or could not be loaded."""

from __future__ import annotations

import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from cachetools import LRUCache, TTLCache

from core import Explainer, load_model
from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.models.listing import find
from core.runtime.cache import POLL_SECONDS, Cache
from core.runtime.model_call import load_foreign
from core.synthetic import SYNTHETIC_MODELS
from core.tasks.activation import IDENTITY, to_activation

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
"""For how long a failed load is not tried again: the whole page asks at once."""
MAX_LOADS = 16
"""How many models may be loading at a time."""

FOUND = "found"
"""Stands for the activation that a model itself has or declares."""
MAX_UNIT = 16
"""How long the unit of outputs that are numbers may be."""


class ModelChoice(Protocol):
    """The fields of a request that choose a model."""

    @property
    def model(self) -> str:
        """A timm name or ``hf-hub:owner/name``."""

    @property
    def weights(self) -> str:
        """Which weights: "pretrained" or "random"."""

    @property
    def activation(self) -> str:
        """What its outputs are."""

    @property
    def measured_in(self) -> str:
        """The unit of outputs that are numbers."""


ModelKey = tuple[str, str]
"""A model's name and its weights, "pretrained" or "random"."""


class Models:
    """Loads each model once, keeps the last few, and remembers failures for a while.

    Args:
        cache: where their answers are kept.
        limit: how many models stay loaded; the least recently used goes first.
        public: whether strangers can reach the page; they do not get this machine's access to
            the hub.
        device: where models are; None for the fastest device.
    """

    def __init__(
        self, cache: Cache, limit: int = 3, *, public: bool = False, device: str | None = None
    ) -> None:
        self.cache = cache
        self.public = public
        self.device = device
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_LOADS, "load")
        self._loading: dict[ModelKey, Future[Explainer]] = {}
        self._explainers: LRUCache[ModelKey, Explainer] = LRUCache(limit)
        self._failures: TTLCache[ModelKey, TimmscopeError] = TTLCache(64, FAILURE_SECONDS)
        self._under: LRUCache[tuple[ModelKey, str, str], Explainer] = LRUCache(limit)

    def get(
        self,
        name: str,
        weights: str = "pretrained",
        on_progress: OnProgress | None = None,
        activation: str = FOUND,
        measured_in: str = "",
    ) -> Explainer:
        """The explainer of a model, loaded on first use; other models do not wait for it.

        Only names are accepted, never paths: visitors of the page must not reach the disk.

        Args:
            name: a timm name or ``hf-hub:owner/name``.
            weights: "pretrained" or "random".
            on_progress: called as ``on_progress(0, 1)`` while the model loads. An error that it
                raises ends the wait; the load itself goes on for whoever asks next.
            activation: what its outputs are, a key of `core.tasks.activation`.
            measured_in: the unit of outputs that are numbers; for others it means nothing.

        Raises:
            UnknownNameError: timm has no such model.
            ModelError: the model cannot be loaded.
        """
        key = name.strip(), weights
        explainer = self._loaded(key, on_progress)
        if activation == FOUND:
            return explainer
        unit = measured_in.strip()[:MAX_UNIT] if activation == IDENTITY.key else ""
        reading = key, activation, unit
        with self._lock:
            known = self._under.get(reading)
            if known is not None and known.model.model is explainer.model.model:
                return known
        handle = explainer.model.under(to_activation(activation, unit))
        found = Explainer(handle, cache=self.cache)
        with self._lock:
            self._under[reading] = found
        return found

    def of(self, chosen: ModelChoice, on_progress: OnProgress | None = None) -> Explainer:
        """The explainer of the model that a request chooses; see `get`."""
        return self.get(
            chosen.model, chosen.weights, on_progress, chosen.activation, chosen.measured_in
        )

    def _loaded(self, key: ModelKey, on_progress: OnProgress | None) -> Explainer:
        with self._lock:
            if failure := self._failures.get(key):
                raise failure
            if explainer := self._explainers.get(key):
                return explainer
            load = self._loading.get(key)
            if load is None:
                load = self._loading[key] = self._pool.submit(self._open, key)
        while on_progress is not None and not wait([load], POLL_SECONDS).done:
            on_progress(0, 1)
        return load.result()

    def is_ready(self, name: str, weights: str) -> bool:
        """Whether `get` answers at once, with the model or with the reason why there is none."""
        with self._lock:
            key = name.strip(), weights
            return key in self._explainers or key in self._failures

    def _open(self, key: ModelKey) -> Explainer:
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
        handle = load_foreign(
            load_model,
            name,
            name=name,
            weights="random" if weights == "random" else None,
            device=self.device,
            token=False if self.public else None,
        )
        handle.probe  # noqa: B018  slow, and here the wait can be cancelled
        return Explainer(handle, cache=self.cache)
