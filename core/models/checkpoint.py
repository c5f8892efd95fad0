"""Reads weights from untrusted files and compares them with an architecture."""

from __future__ import annotations

import argparse
import itertools
import os
import pickle
import re
import struct
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from core.errors import ModelError
from core.inputs.image import is_address

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of weights files; all but the first are read by the restricted unpickler."""

_AVERAGES = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "params_ema",
    "ema",
    "shadow",
)
"""Under which names trainers keep the moving average of the weights."""
_WRAPPERS = (
    *_AVERAGES,
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
_HARMLESS = (
    "numpy.",
    "pathlib.",
    "datetime.",
    "zoneinfo.",
    "uuid.",
    "decimal.",
    "fractions.",
    "types.SimpleNamespace",
    "omegaconf.",
    "typing.Any",
)
"""What trainers keep beside the weights, by the beginning of its name. It is passed over: nothing
of that name is imported or called."""
_MOST_HARMLESS = 100
_DAMAGE = (
    # What the restricted unpickler raises on damaged files and on files of another kind.
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
    struct.error,
)


class Weights(dict[str, Tensor]):
    """Tensors by name.

    Attributes:
        facts: what the file holds beside them: class names, settings of the training and so on.
    """

    def __init__(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        super().__init__(tensors)
        self.facts = facts


class _PassedOver:
    """Stands for something in a file that is not needed; it does nothing, whatever it is given."""

    def __new__(cls, *args: object, **options: object) -> _PassedOver:
        return super().__new__(cls)

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_weights(path: str | Path) -> Weights:
    """The tensors of a checkpoint by name, on the CPU. No code in the file is executed.

    A training checkpoint is unwrapped. If it holds several sets of weights, a moving average
    (`state_dict_ema`, `model_ema`, `ema`, ...) is preferred to `state_dict`, `model_state_dict`,
    `model`, `net` and so on. Plain data of other libraries beside the weights, such as numbers of
    numpy, paths and dates, is passed over.

    Args:
        path: a file whose name ends in one of `SUFFIXES`.

    Raises:
        ModelError: the file does not exist, is damaged, contains code, or holds no weights.
    """
    if is_address(str(path)):
        raise ModelError(
            f"{str(path)[:80]!r} is an address; download the weights and give the path of the file"
        )
    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113  unlike Path, False for an invalid name
        raise ModelError(f"there is no file {str(path)!r}; check the path of the weights")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(
            f"{path.name!r} is not a checkpoint; its name must end in one of {', '.join(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise ModelError(f"{path.name!r} is empty (0 bytes); download or save it again")
    safe = path.suffix.lower() == ".safetensors"
    if safe:
        state, facts = _read_safetensors(path)
    else:
        content = _read_pickle(path)
        state, facts = _unwrap(content), content if isinstance(content, Mapping) else {}
    if not state:
        raise ModelError(f"{path.name!r} holds no weights; save model.state_dict() into it")
    return Weights(state, facts)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
        return safetensors.torch.load_file(path), facts
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _plain_dict(*_: object) -> dict[Any, Any]:
    """What a defaultdict in a file becomes."""
    return {}


def _plain_list(*_: object) -> list[Any]:
    """What a deque in a file becomes."""
    return []


def _read_pickle(path: Path) -> Any:
    # Trainers (also timm's) store their command line with the weights; it is plain data.
    known: list[Any] = [argparse.Namespace, int, float, str, list, dict, tuple, bool]
    known += [(_plain_dict, "collections.defaultdict"), (_plain_list, "collections.deque")]
    for _ in range(_MOST_HARMLESS):
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(known):
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
            if forbidden is None:
                raise _damaged(path, error) from error
            name = forbidden[1]
            passed_over = (_PassedOver, name)
            if not name.startswith(_HARMLESS) or passed_over in known:
                raise ModelError(
                    f"{path.name!r} refers to {name[:80]}, which is code and not weights, so it "
                    "was not opened; save only model.state_dict(), preferably as .safetensors"
                ) from error
            known.append(passed_over)
    raise ModelError(f"{path.name!r} holds too much beside weights; save only model.state_dict()")


def _damaged(path: Path, error: Exception) -> ModelError:
    cause = " ".join(str(error).split())
    cause = "" if cause.startswith("Weights only load failed") else f" ({cause[:100]})"
    return ModelError(
        f"{path.name!r} is damaged or not a checkpoint{cause}; download or save it again"
    )


def _unwrap(content: Any, depth: int = 4) -> dict[str, Tensor]:
    """The tensors of the first wrapper that holds any, else those of the content itself."""
    if not isinstance(content, Mapping) or not depth:  # a dictionary in a file can contain itself
        return {}
    for key in _WRAPPERS:
        found = _unwrap(content.get(key), depth - 1)
        if any(tensor.ndim for tensor in found.values()):
            return found
    return {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}


def align(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Renames weights to the names of an architecture by removing a common prefix.

    Wrappers (`module.`, Lightning's `model.`, ...) put a prefix before each name. The prefix with
    which most of `names` are found is removed. Tensors without this prefix (a loss, another copy)
    are left out. If two prefixes fit equally well, the first in the file is used.

    Args:
        state: tensors by their name in the file.
        names: the architecture's names.

    >>> one = torch.ones(1)
    >>> align({"net.fc.weight": one, "loss.weight": one}, ["fc.weight", "fc.bias"])
    {'fc.weight': tensor([1.])}
    """
    names = frozenset(names)
    plain = {key.replace("_orig_mod.", ""): tensor for key, tensor in state.items()}
    hits = Counter(key[:start] for key in plain for start in _starts(key) if key[start:] in names)
    prefix = hits.most_common(1)[0][0] if hits else ""
    return {k.removeprefix(prefix): v for k, v in plain.items() if k.startswith(prefix)}


def _starts(key: str, deepest: int = 8) -> list[int]:
    """Positions in a key where a name could start: 0 and after each of the first dots."""
    dots = itertools.islice(re.finditer(r"\.", key), deepest)
    return [0, *(dot.end() for dot in dots)]


def with_counters(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """`state` with missing batch counters set to 0, because only training reads them."""
    counters = (name for name in names if name.endswith(".num_batches_tracked"))
    return {**{name: torch.tensor(0) for name in counters}, **state}


def head_size(state: Mapping[str, Tensor], classifier: str | Sequence[str] | None) -> int | None:
    """Number of classes: the rows of the classifier's weight; None if there is no classifier.

    Args:
        state: weights under the architecture's names.
        classifier: name of the classifier module, or names if there are several.
    """
    heads = [classifier] if isinstance(classifier, str) else classifier or []
    weights = (state.get(f"{head}.weight") for head in heads)
    return next((len(w) for w in weights if w is not None and w.ndim), None)


def describe_mismatch(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Describes how weights differ from those of an architecture; empty if they fit.

    Args:
        state: the weights.
        wanted: the architecture's weights.

    >>> describe_mismatch({"a": torch.ones(2), "c": torch.ones(1)}, {"b": torch.ones(1)})
    '1 of its 1 weights is missing (b), 2 are unexpected (a, c)'
    >>> describe_mismatch({"a": torch.ones(2)}, {"a": torch.ones(3)})
    '1 has another shape (a is (2,), not (3,))'
    """
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    other = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    found = [
        f"{len(missing)} of its {len(wanted)} weights {_be(missing)} missing ({some(missing)})",
        f"{len(extra)} {_be(extra)} unexpected ({some(extra)})",
        f"{len(other)} {'has' if len(other) == 1 else 'have'} another shape ({some(other)})",
    ]
    return ", ".join(
        text for text, keys in zip(found, (missing, extra, other), strict=True) if keys
    )


def _be(items: Sequence[object]) -> str:
    return "is" if len(items) == 1 else "are"


def some(items: Iterable[str], shown: int = 3) -> str:
    """The first `shown` items as text for a sentence.

    >>> some("abcde")
    'a, b, c, ...'
    """
    items = [item[:80] for item in items]
    return ", ".join(items[:shown] + ["..."] * (len(items) > shown))


def require_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Refuses weights that hold NaN or infinity.

    Args:
        state: the weights.
        what: their name in the error message.

    Raises:
        ModelError: a weight holds NaN or infinity.
    """
    broken = [k for k, t in state.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise ModelError(
            f"{what} holds NaN or infinite values in {len(broken)} of its {len(state)} weights "
            f"({some(broken)}), so it cannot predict; save it again from an earlier epoch"
        )
