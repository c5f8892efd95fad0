"""Models of other libraries, wrapped models and unusual outputs, by every method: `docs/models.md`.

Every network is small and has random weights, so nothing is fetched.
"""

from __future__ import annotations

import argparse
import sys
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from benchmarks.zoo import FAILS, REFUSED, WORKS, Report, examine, facts, matrix, reasons, table
from core import METHODS, ModelHandle, load_model

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
CLASSES = 5

Pair = namedtuple("Pair", "embedding scores")


@dataclass(frozen=True)
class Subject:
    """A model that is tried.

    Attributes:
        group: the part of the page it stands in.
        name: what it is.
        build: makes the module.
        size: height and width of its input, in pixels.
        options: further arguments of `load_model`.
    """

    group: str
    name: str
    build: Callable[[], nn.Module]
    size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)

    def handle(self) -> ModelHandle:
        """The model, loaded as a user would."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            model = _alive(self.build().eval())
        prepared = {"input_size": (3, self.size, self.size), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        return load_model(model, preprocessing=prepared, **self.options)


def _alive(model: nn.Module) -> nn.Module:
    """The model with its heads that start as zeros drawn at random: zeros explain nothing."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


# -- networks ------------------------------------------------------------------------------------


def resnet(classes: int = CLASSES) -> nn.Module:
    """A small residual network of timm."""
    return timm.create_model("test_resnet", num_classes=classes)


class Wrapped(nn.Module):
    """A model inside another one, which may change what goes in and what comes out.

    Args:
        model: the model inside.
        before: what is done to the pictures.
        after: what is done to the scores.
    """

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Any] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x: Tensor) -> Any:
        """Whatever `after` makes of the scores."""
        x = x if self.before is None else self.before(x)
        scores = self.model(x)
        return scores if self.after is None else self.after(scores)


class WithEmbedding(nn.Module):
    """Returns its embedding beside its scores.

    Args:
        make: puts the two together.
    """

    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.model, self.make = resnet(), make

    def forward(self, x: Tensor) -> Any:
        """Embedding and scores, as `make` puts them together."""
        features = self.model.forward_features(x)
        embedding = self.model.forward_head(features, pre_logits=True)
        return self.make(embedding, self.model.get_classifier()(embedding))


class Twice(nn.Module):
    """The mean of a model's scores of a picture and of its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.model = resnet()

    def forward(self, x: Tensor) -> Tensor:
        """(n, N) the mean scores."""
        return (self.model(x) + self.model(x.flip(-1))) / 2


class Conditioned(nn.Module):
    """Takes the age of a patient beside the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.age = resnet(), nn.Linear(1, CLASSES)

    def forward(self, pixel_values: Tensor, age: Tensor) -> Tensor:
        """(n, N) scores from pictures and ages (n, 1)."""
        scores: Tensor = self.model(pixel_values) + self.age(age)
        return scores


def encoder(name: str) -> nn.Module:
    """An encoder of segmentation_models_pytorch, which returns a list of feature maps."""
    return smp.encoders.get_encoder(name, weights=None)


def _hugging_face() -> list[Subject]:
    t = transformers
    tokens: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "num_labels": CLASSES,
    }
    stages: dict[str, Any] = {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_labels": CLASSES,
    }
    swin: dict[str, Any] = {
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 1, 1],
        "num_heads": [1, 2, 2],
        "window_size": 4,
        "num_labels": CLASSES,
    }
    found: list[tuple[str, Any, Any, int]] = [
        ("ViT", t.ViTForImageClassification, t.ViTConfig(**tokens, intermediate_size=64), 64),
        ("DINOv2", t.Dinov2ForImageClassification, t.Dinov2Config(**tokens), 64),
        ("BEiT", t.BeitForImageClassification, t.BeitConfig(**tokens, intermediate_size=64), 64),
        ("Swin", t.SwinForImageClassification, t.SwinConfig(**swin), 64),
        ("ConvNeXt", t.ConvNextForImageClassification, t.ConvNextConfig(**stages), 96),
        (
            "ResNet",
            t.ResNetForImageClassification,
            t.ResNetConfig(**stages, embedding_size=8),
            96,
        ),
    ]
    return [
        Subject("Hugging Face", name, lambda cls=cls, config=config: cls(config), size)
        for name, cls, config, size in found
    ]


def _torchvision() -> list[Subject]:
    models = torchvision.models
    small: dict[str, Any] = {"num_classes": CLASSES, "weights": None}
    swin: dict[str, Any] = {
        "patch_size": [4, 4],
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": [8, 8],
    }
    vit = {"image_size": 64, "patch_size": 8, "num_layers": 2, "num_heads": 2}
    builds: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "resnet18": (lambda: models.resnet18(**small), 96),
        "vgg11": (lambda: models.vgg11(**small), 96),
        "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(**small), 96),
        "SwinTransformer": (lambda: models.SwinTransformer(**swin, num_classes=CLASSES), 64),
        "VisionTransformer": (
            lambda: models.VisionTransformer(**vit, hidden_dim=32, mlp_dim=64, num_classes=CLASSES),
            64,
        ),
    }
    return [Subject("torchvision", name, build, size) for name, (build, size) in builds.items()]


def _encoders() -> list[Subject]:
    aux = {"classes": CLASSES, "pooling": "avg"}
    last = {"output": lambda maps: maps[-1].mean((2, 3)), "activation": "identity"}
    return [
        Subject(
            smp.__name__,
            "Unet with a head for classes",
            lambda: smp.Unet("resnet18", encoder_weights=None, aux_params=aux),
            96,
        ),
        *(
            Subject(
                smp.__name__,
                f"encoder {name}",
                lambda n=name: encoder(n),
                96,
                last,
            )
            for name in ("resnet18", "mobilenet_v2", "tu-test_resnet")
        ),
    ]


def _wrapped() -> list[Subject]:
    def scaled(x: Tensor) -> Tensor:
        return 2 * x - 0.1

    builds: dict[str, Callable[[], nn.Module]] = {
        "the model itself": resnet,
        "in a module": lambda: Wrapped(resnet()),
        "three deep, normalising": lambda: Wrapped(Wrapped(Wrapped(resnet()), scaled)),
        "in a Sequential": lambda: nn.Sequential(nn.Identity(), resnet()),
        "DataParallel": lambda: nn.DataParallel(resnet()),
        "compiled": lambda: torch.compile(resnet()),  # type: ignore[dict-item,return-value]
        "traced": lambda: torch.jit.trace(resnet().eval(), torch.zeros(1, 3, 96, 96)),
        "called twice": Twice,
    }
    given = {"forward_kwargs": {"age": torch.tensor([[0.5]])}}
    return [
        *(Subject("Wrapped", name, build, 96) for name, build in builds.items()),
        Subject("Wrapped", "with a second input", Conditioned, 96, given),
    ]


def _activations() -> list[Subject]:
    def squared(scores: Tensor) -> Tensor:
        return scores.square() / scores.square().sum(1, keepdim=True)

    listed: list[tuple[str, Callable[[], nn.Module], dict[str, Any]]] = [
        ("one output", lambda: resnet(1), {}),
        ("tags", lambda: resnet(20), {"activation": "sigmoid"}),
        ("ends in Softmax", lambda: Wrapped(resnet(), after=nn.Softmax(1)), {}),
        ("ends in LogSoftmax", lambda: Wrapped(resnet(), after=nn.LogSoftmax(1)), {}),
        ("ends in Sigmoid", lambda: Wrapped(resnet(), after=nn.Sigmoid()), {}),
        (
            "numbers",
            lambda: Wrapped(resnet(2), after=lambda scores: 120 + 300 * scores),
            {"activation": "identity", "unit": "mm"},
        ),
        ("the caller's own", resnet, {"activation": squared}),
        ("features", lambda: resnet(0), {}),
    ]
    return [Subject("Activations", name, build, 96, options) for name, build, options in listed]


def _outputs() -> list[Subject]:
    listed: list[tuple[str, Callable[[], nn.Module], dict[str, Any]]] = [
        ("a dict with logits", lambda: WithEmbedding(lambda e, s: {"e": e, "logits": s}), {}),
        ("a tuple, output=1", lambda: WithEmbedding(lambda e, s: (e, s)), {"output": 1}),
        (
            "a namedtuple, output='scores'",
            lambda: WithEmbedding(Pair),
            {"output": "scores"},
        ),
        (
            "a list, output=FUNCTION",
            lambda: WithEmbedding(lambda e, s: [e, [s]]),
            {"output": lambda out: out[1][0]},
        ),
        ("one number a picture", lambda: Wrapped(resnet(1), after=lambda s: s[:, 0]), {}),
    ]
    return [Subject("Outputs", name, build, 96, options) for name, build, options in listed]


def subjects() -> list[Subject]:
    """Everything that is tried."""
    return [
        *_torchvision(),
        *_hugging_face(),
        *_encoders(),
        *_wrapped(),
        *_activations(),
        *_outputs(),
    ]


# -- the page ------------------------------------------------------------------------------------

INTRO = """\
# Models of other libraries, wrapped models, unusual outputs

Written by `make models`, which loads small networks with random weights as `load_model(module)`
does, and tries methods on each as `make zoo` does on timm's own families ([zoo.md](zoo.md)): a
method *works* where it gives a finite map that is not constant, for the score that the model
itself gives, and keeps what it promises. Where it cannot, it is refused with a reason, below.

How a model's outputs are found and read stands in [outputs.md](outputs.md).
"""


def report(subject: Subject, keys: Sequence[str]) -> Report:
    """What became of every method on one model."""
    handle = subject.handle()
    told = facts(handle) | {
        "group": subject.group,
        "activation": handle.task.activation.key.partition(":")[0],
    }
    found = [examine(handle, key) for key in keys]
    for verdict in found:
        said = f"{subject.name:28} {verdict.method:24} {verdict.seconds:6.1f} s  {verdict.word}"
        print(f"{said} {verdict.reason}", file=sys.stderr, flush=True)
    return Report(subject.name, told, found)


def page(reports: Sequence[Report]) -> str:
    """The whole page, as Markdown."""
    counts = {word: sum(r.count(word) for r in reports) for word in (WORKS, REFUSED, FAILS)}
    versions = ", ".join(
        f"{m.__name__} {m.__version__}" for m in (timm, torchvision, transformers, smp)
    )
    summary = (
        f"{versions}: {len(reports)} models, {sum(counts.values())} pairs of a model and a method: "
        f"{counts[WORKS]} work, {counts[REFUSED]} are refused, {counts[FAILS]} fail. "
        f"{len(reports[0].verdicts)} of the {len(METHODS)} methods were tried.\n"
    )
    names = ["parameters", "input", "outputs", "activation", "default layer", "grid"]
    parts = [INTRO, summary]
    for group in dict.fromkeys(r.facts["group"] for r in reports):
        some = [r for r in reports if r.facts["group"] == group]
        rows = ([r.family, *(r.facts.get(name, "") for name in names)] for r in some)
        parts += [f"## {group}\n", table(["model", *names], rows), matrix(some, "model")]
    return "\n".join([*parts, "## Reasons\n", *reasons(reports)])


def main(argv: Sequence[str] | None = None) -> int:
    """Try them all; 1 if anything fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--only", help="models whose name holds this; then the page is printed")
    parser.add_argument("--methods", help="some only, by comma")
    args = parser.parse_args(argv)
    torch.set_num_threads(2)
    keys = args.methods.split(",") if args.methods else list(METHODS)
    chosen = [s for s in subjects() if (args.only or "") in s.name]
    reports = [report(subject, keys) for subject in chosen]
    if args.only:
        print(page(reports))
    else:
        PAGE.write_text(page(reports), encoding="utf-8")
    return int(any(r.count(FAILS) for r in reports))


if __name__ == "__main__":
    sys.exit(main())
