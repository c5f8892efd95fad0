"""Classifiers and segmenters of transformers: from a folder, from the hub, or as a module.

The library is an optional extra. It builds the network and translates the names of old weights; the
files are fetched and read by our own code, so that nothing in them is executed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import RANDOM_WEIGHTS, ModelError, TimmscopeError
from core.inputs.preprocessing import Preprocessing
from core.inputs.transforms import from_transform
from core.models import checkpoint
from core.models.device import require_room, size_of

PROCESSOR = "preprocessor_config.json"
"""The file in which a model's image processor is kept."""
_INSTALL = "pip install 'timmscope[huggingface]', or pip install transformers"
_FAULTS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError)
"""What the library raises at a configuration that it cannot use."""


@dataclass(frozen=True, slots=True)
class HuggingFaceSpec:
    """How to build a model; it holds no weights.

    Attributes:
        name: the model's name.
        folder: where its `config.json` lies.
        weights: gives the file of weights, and a text that says where it comes from.
        fetch_processor: brings the file of its image processor into the folder, if there is one.
    """

    name: str
    folder: Path
    weights: Callable[[], tuple[Path, str]]
    fetch_processor: Callable[[], object]

    def build(
        self, given: str | Path | None, device: torch.device, seed: int
    ) -> tuple[nn.Module, str]:
        """The model on the CPU, and a text that says where its weights come from.

        Args:
            given: None for its own weights, "random", or a file.
            device: where it will go; what does not fit is refused before it is built.
            seed: of random weights.

        Raises:
            ModelError: it cannot be built, or the weights do not fit.
        """
        cls, config = self._class()
        try:
            with torch.device("meta"):
                size = size_of(cls(config))
            require_room(2 * size, torch.device("cpu"), self.name)
            require_room(size, device, self.name)
            if given == "random":
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(seed)
                    return cls(config).eval(), f"random weights (seed {seed})"
            file, origin = self._file() if given is None else (Path(given), str(given))
            state = checkpoint.read_weights(file)
            return self._with_weights(cls, config, state, file.name), origin
        except TimmscopeError:
            raise
        except _FAULTS as error:
            raise _unbuildable(self.name, error) from error

    def _file(self) -> tuple[Path, str]:
        """The file of its own weights, and where it comes from."""
        try:
            return self.weights()
        except ModelError as error:
            error.offering(RANDOM_WEIGHTS)
            raise

    def preprocessing(self) -> Preprocessing | None:
        """What its image processor does; None if it has none.

        Raises:
            ModelError: it is not understood.
        """
        self.fetch_processor()
        return read_preprocessing(self.folder)

    def _with_weights(
        self, cls: Any, config: Any, state: Mapping[str, Tensor], what: str
    ) -> nn.Module:
        checkpoint.require_finite(dict(state), what)
        model, report = cls.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True
        )
        wrong = [*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]
        if wrong:
            raise ModelError(
                f"{what!r} does not fit {self.name}: {len(wrong)} of its weights are missing or "
                f"have another shape, such as {sorted(wrong)[0]!r}; give the weights of this model"
            )
        found: nn.Module = model.eval()
        return found

    def _class(self) -> tuple[Any, Any]:
        """The library's class for this classifier or segmenter, and its configuration."""
        library = _library(self.name)
        try:
            config = library.AutoConfig.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
            classifiers = library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
            segmenters = library.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
            names = config.architectures or ()
            segments = any(str(name).endswith("ForSemanticSegmentation") for name in names)
            for known in (segmenters, classifiers) if segments else (classifiers, segmenters):
                if type(config) in known:
                    return known[type(config)], config
            raise ModelError(
                f"{self.name} is a {config.model_type} model, which transformers has no image "
                "classifier of, nor a semantic segmenter; give one of these"
            )
        except TimmscopeError:
            raise
        except _FAULTS as error:
            raise _unbuildable(self.name, error) from error


def is_hugging_face(folder: Path) -> bool:
    """Whether the `config.json` in a folder is one of transformers, not of timm."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    timm = isinstance(content, dict) and "architecture" in content
    return isinstance(content, dict) and isinstance(content.get("model_type"), str) and not timm


def labels_of(model: nn.Module) -> list[str] | None:
    """The class names in a module's Hugging Face configuration; None if it has none of its own."""
    config = configuration_of(model)
    names = getattr(config, "id2label", None)
    if not isinstance(names, Mapping) or not names:
        return None
    found = [str(names.get(i, names.get(str(i), ""))) for i in range(len(names))]
    placeholders = all(name in ("", f"LABEL_{i}") for i, name in enumerate(found))
    return None if placeholders else found


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing kept beside a module's weights; None if there is none on this machine.

    Raises:
        ModelError: there is one, and it is not understood.
    """
    config = configuration_of(model)
    folder = getattr(config, "_name_or_path", "") if config is not None else ""
    return read_preprocessing(Path(folder)) if folder else None


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """What the image processor kept in a folder does; None if there is none.

    Raises:
        ModelError: it is not understood.
    """
    if not (folder / PROCESSOR).is_file():
        return None
    try:
        processor = _library(folder.name).AutoImageProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except _FAULTS as error:
        raise _unbuildable(f"the image processor of {folder.name}", error) from error
    return from_transform(processor)


def configuration_of(model: nn.Module) -> Any:
    """The Hugging Face configuration of a module or of one inside it; None if there is none."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "problem_type") and hasattr(config, "id2label"):
            return config
    return None


def _library(name: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"{name} is a model of Hugging Face's transformers; {_INSTALL}") from error


def _unbuildable(name: str, error: Exception) -> ModelError:
    cause = " ".join(str(error).split())[:160]
    return ModelError(f"{name} cannot be built ({type(error).__name__}: {cause})")
