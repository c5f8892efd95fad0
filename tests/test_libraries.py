"""Models of torchvision, transformers and segmentation_models_pytorch, small and at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from benchmarks.models import CLASSES, Subject, subjects
from core import Explainer, load_model
from core.errors import ModelError
from core.types import Need

from .conftest import SAMPLES

LIBRARIES = {
    f"{s.group}: {s.name}": s
    for s in subjects()
    if s.group in ("torchvision", "Hugging Face", "segmentation_models_pytorch")
}
EACH = pytest.mark.parametrize("name", LIBRARIES)
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 8,
}


def pictures(subject: Subject) -> torch.Tensor:
    size = (2, 3, subject.size, subject.size)
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


@EACH
def test_the_scores_are_the_librarys_own(name: str) -> None:
    subject = LIBRARIES[name]
    handle = subject.handle()
    x = pictures(subject)
    with torch.no_grad():
        raw = handle.model(x)
    if "encoder" in name:
        expected = raw[-1].mean((2, 3))
    else:
        expected = getattr(raw, "logits", raw[1] if isinstance(raw, tuple) else raw)
        assert handle.outputs == CLASSES
    torch.testing.assert_close(Explainer(handle).predict(x).scores, expected)


@EACH
def test_a_cam_is_what_the_gradients_say(name: str) -> None:
    subject = LIBRARIES[name]
    handle, x = subject.handle(), pictures(subject)
    layer = handle.default_layer
    assert layer is not None
    found = Explainer(handle).explain(x, "gradcam", target=1, relu=False)
    kept: list[torch.Tensor] = []
    module = handle.model.get_submodule(layer)
    hook = module.register_forward_hook(lambda _m, _i, out: kept.append(out))
    score = handle.forward(x.clone().requires_grad_())[:, 1].sum()
    hook.remove()
    (grad,) = torch.autograd.grad(score, kept[0])
    layout = handle.layers[layer].layout
    assert layout is not None
    act, grad = layout.to_nchw(kept[0]), layout.to_nchw(grad)
    expected = (grad.mean((2, 3), keepdim=True) * act).sum(1).detach()
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-6)


STAGES = {
    "ConvNeXt": "convnext.encoder.stages.3",
    "ResNet": "resnet.encoder.stages.3",
    "ViT": "vit.layers.1.layernorm_before",
}


@pytest.mark.parametrize("name", STAGES)
def test_the_default_layer_is_a_stage_rather_than_a_part_of_one(name: str) -> None:
    handle = LIBRARIES[f"Hugging Face: {name}"].handle()
    assert handle.default_layer == STAGES[name]


@EACH
def test_every_attention_map_is_a_distribution(name: str) -> None:
    handle = LIBRARIES[name].handle()
    transformer = any(word in name for word in ("ViT", "DINO", "BEiT", "win", "VisionTrans"))
    assert (Need.ATTENTION in handle.supports) == transformer
    if transformer:
        heads = Explainer(handle).attention(pictures(LIBRARIES[name]))
        assert (heads >= 0).all()
        assert 0 < float(heads[0].sum()) <= 1 + 1e-4


@pytest.mark.parametrize(
    ("problem", "outputs", "activation"),
    [
        ("multi_label_classification", 4, "sigmoid"),
        ("single_label_classification", 4, "softmax"),
        ("regression", 2, "identity"),
        (None, 1, "identity"),
        (None, 4, "softmax"),
    ],
)
def test_the_problem_type_says_the_activation(
    problem: str | None, outputs: int, activation: str
) -> None:
    config = transformers.ViTConfig(**VIT, num_labels=outputs, problem_type=problem)
    model = nn.Sequential(transformers.ViTForImageClassification(config).eval())
    prepared = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert load_model(model, preprocessing=prepared).task.activation.key == activation


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder as transformers exports a model."""
    names = {0: "cat", 1: "cup", 2: "rocket"}
    config = transformers.ViTConfig(
        **VIT, num_labels=3, id2label=names, label2id={v: k for k, v in names.items()}
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    size = {"height": 64, "width": 64}
    transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_of_hugging_face_is_loaded_with_its_processor_and_labels(kept: Path) -> None:
    handle = load_model(kept)
    assert handle.labels == ("cat", "cup", "rocket")
    assert handle.preprocessing.mean == (0.4, 0.4, 0.4)
    assert handle.source.startswith(str(kept))
    processor = transformers.AutoImageProcessor.from_pretrained(kept)
    model = transformers.AutoModelForImageClassification.from_pretrained(kept).eval()
    picture = SAMPLES / "coffee.jpg"
    explainer = Explainer(handle)
    x = processor(images=explainer.prepare(picture).pictures[0].image, return_tensors="pt")
    with torch.no_grad():
        expected = model(**x).logits
    torch.testing.assert_close(explainer.predict(picture).scores, expected, rtol=1e-4, atol=1e-5)
    answer = explainer.explain(picture, "attention_rollout", target="rocket")
    assert np.isfinite(answer.values.numpy()).all()
    assert load_model(kept, weights="random").source.startswith("random")


def test_a_module_of_hugging_face_brings_its_processor_and_labels(kept: Path) -> None:
    module = transformers.AutoModelForImageClassification.from_pretrained(kept).eval()
    handle = load_model(module)
    assert handle.labels == ("cat", "cup", "rocket")
    assert handle.preprocessing == load_model(kept).preprocessing
    bare = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=2))
    with pytest.raises(ModelError, match="does not define its preprocessing"):
        load_model(bare.eval())
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    assert load_model(bare.eval(), preprocessing=processor).labels is None  # LABEL_0, LABEL_1


def test_weights_that_do_not_fit_are_refused(kept: Path) -> None:
    config = json.loads((kept / "config.json").read_text())
    (kept / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    with pytest.raises(ModelError, match=r"does not fit|cannot be built"):
        load_model(kept)
    (kept / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="of its weights are missing"):
        load_model(kept)


def test_code_in_a_repository_is_never_run(kept: Path) -> None:
    config = json.loads((kept / "config.json").read_text())
    hostile = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (kept / "evil.py").write_text("raise SystemExit('ran')\n")
    (kept / "config.json").write_text(json.dumps(config | hostile))
    with pytest.raises(ModelError, match="cannot be built"):
        load_model(kept)
