"""Weights as other people hold them: each form ends in the right numbers, or in a sentence that names the remedy."""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError

SHAPE, CLASSES = (1, 8, 8), 3


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)).eval()


@pytest.fixture(scope="module")
def weights():
    return network().state_dict()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)


def prefixed(weights, prefix):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def other(weights):
    return {name: torch.zeros_like(value) for name, value in weights.items()}


FORMS = {
    "plain": lambda w: w,
    "state_dict": lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"param_groups": [{"lr": 0.1}]}},
    "net": lambda w: {"net": w, "acc": np.float64(0.9), "history": np.zeros(3)},
    "model": lambda w: {"model": w, "args": argparse.Namespace(lr=0.1)},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {0: torch.zeros(1)}}},
    "ema": lambda w: {"ema": w, "decay": 0.999},
    "another key": lambda w: {"generator": w, "step": 3},
    "nested": lambda w: {"model": {"state_dict": w}},
    "DataParallel": lambda w: prefixed(w, "module."),
    "compiled": lambda w: prefixed(w, "_orig_mod."),
    "compiled within DDP": lambda w: {"state_dict": prefixed(w, "module._orig_mod.")},
    "Lightning": lambda w: {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": prefixed(w, "model."),
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
        "loops": {},
    },
    "of a normalising wrapper": lambda w: prefixed(w, "1."),
    "without counters": lambda w: {name: v for name, v in w.items() if "num_batches" not in name},
    "half": lambda w: {name: v.half() if v.is_floating_point() else v for name, v in w.items()},
    "parameters": lambda w: {name: nn.Parameter(v, requires_grad=False) for name, v in w.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_what_training_scripts_save(form, weights, x, tmp_path):
    torch.save(FORMS[form](weights), tmp_path / "net.pt")
    loaded = acw.load_checkpoint(tmp_path / "net.pt", network(2), input_shape=SHAPE, device="cpu")
    np.testing.assert_allclose(
        loaded.predict(x), network()(torch.from_numpy(x)).detach(), atol=3e-3 if form == "half" else 1e-6
    )


def test_a_wrapper_around_the_module_does_not_matter_either(weights, x, tmp_path):
    torch.save(weights, tmp_path / "net.pt")
    wrapped = nn.Sequential(nn.Identity(), nn.Sequential(network(2)))
    loaded = acw.load_checkpoint(tmp_path / "net.pt", wrapped, input_shape=SHAPE, device="cpu")
    np.testing.assert_allclose(loaded.predict(x), network()(torch.from_numpy(x)).detach(), atol=1e-6)


def test_copies_beside_the_weights_are_told(weights, x, tmp_path):
    expected = network()(torch.from_numpy(x)).detach()
    torch.save({"model": other(weights), "ema": weights}, tmp_path / "both.pt")
    with pytest.warns(UserWarning, match="'model' are taken. In Python, `key='ema'` takes the others"):
        acw.load_checkpoint(tmp_path / "both.pt", network(2), input_shape=SHAPE, device="cpu")
    loaded = acw.load_checkpoint(tmp_path / "both.pt", network(2), input_shape=SHAPE, key="ema", device="cpu")
    np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-6)
    torch.save({**prefixed(weights, "model."), "loss.weight": torch.ones(3)}, tmp_path / "beside.pt")
    with pytest.warns(UserWarning, match="begin with 'model.' are taken, and 'loss.weight'"):
        loaded = acw.load_checkpoint(tmp_path / "beside.pt", network(2), input_shape=SHAPE, device="cpu")
    np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-6)
    with pytest.raises(InputError, match="Unknown key in .* 'em'. Did you mean ema"):
        acw.load_checkpoint(tmp_path / "both.pt", network(2), input_shape=SHAPE, key="em", device="cpu")


def test_safetensors_and_hugging_face_folders_are_read(weights, x, tmp_path, monkeypatch):
    expected = network()(torch.from_numpy(x)).detach()
    safetensors.torch.save_file(weights, tmp_path / "net.safetensors")
    whole, split, older = (tmp_path / name for name in ("whole", "split", "older"))
    for folder in (whole, split, older):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    safetensors.torch.save_file(weights, whole / "model.safetensors")
    torch.save(prefixed(weights, "model."), older / "pytorch_model.bin")
    names = [*weights]
    parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for part, held in parts.items():
        safetensors.torch.save_file({name: weights[name] for name in held}, split / part)
    where = {name: part for part, held in parts.items() for name in held}
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for source in (tmp_path / "net.safetensors", whole, split, older):
        loaded = acw.load_checkpoint(source, network(2), input_shape=SHAPE, device="cpu")
        np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-6)

    import huggingface_hub

    def cached(name, *, local_files_only, allow_patterns):
        if name != "org/net":
            raise OSError("offline")
        return str(whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    loaded = acw.load_checkpoint("hf:org/net", network(2), input_shape=SHAPE, device="cpu")
    np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-6)
    with pytest.raises(InputError, match=r"hf:org/other is neither in the cache .* \(offline\)"):
        acw.load_checkpoint("hf:org/other", network(2), input_shape=SHAPE, device="cpu")
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../net.safetensors"}}))
    with pytest.raises(InputError, match="names files outside its folder"):
        acw.load_checkpoint(split, network(2), input_shape=SHAPE, device="cpu")


class Whole(nn.Linear):
    pass


def scripted(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in newer versions of torch
        torch.jit.script(nn.Linear(2, 2)).save(str(path))


REFUSED = {
    "a whole module": (lambda p: torch.save(Whole(2, 2), p), r"holds more than weights: .*state_dict\(\) alone"),
    "a module of torch": (lambda p: torch.save(nn.Linear(2, 2), p), "holds more than weights: a whole module"),
    "TorchScript": (scripted, r"TorchScript archive: take torch.jit.load\(\)"),
    "no weights": (lambda p: torch.save({"epoch": 3, "losses": [1.0]}, p), "but no weights: save the model's"),
    "numbers": (lambda p: torch.save([1, 2], p), "holds a list, but no weights"),
    "JSON": (lambda p: p.write_text("{}"), "holds JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_weights_is_refused_with_a_remedy(kind, tmp_path):
    write, says = REFUSED[kind]
    write(tmp_path / "net.pt")
    with pytest.raises(InputError, match=says):
        acw.load_checkpoint(tmp_path / "net.pt", network(), input_shape=SHAPE, device="cpu")


def test_an_onnx_graph_is_refused_by_its_name(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(InputError, match="ONNX graph, .* take the torch module that it was exported from"):
        acw.load_checkpoint(tmp_path / "net.onnx", network(), input_shape=SHAPE, device="cpu")


def test_names_that_do_not_fit_are_told_both_ways(weights, tmp_path):
    torch.save({"conv.weight": weights["0.weight"], **weights}, tmp_path / "more.pt")
    torch.save({name: value for name, value in weights.items() if name != "4.bias"}, tmp_path / "less.pt")
    for name, says in (("more.pt", "it has conv.weight besides"), ("less.pt", "it lacks 4.bias")):
        with pytest.raises(InputError, match=says):
            acw.load_checkpoint(tmp_path / name, network(2), input_shape=SHAPE, device="cpu")


def test_what_a_file_does_not_say_is_asked_for(weights, tmp_path):
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(InputError, match="not of which network: .* `architecture`, .* Or give the network itself"):
        acw.load_checkpoint(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"Give `input_shape`, e.g. \(3, 32, 32\)"):
        acw.load_checkpoint(tmp_path / "net.pt", network(2))
    with pytest.raises(InputError, match=r"can't take images of shape \(3, 8, 8\)"):
        acw.load_checkpoint(tmp_path / "net.pt", network(2), input_shape=(3, 8, 8), device="cpu")


NETWORKS = """
from torch import nn

def make(num_classes, input_shape):
    return nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                         nn.Linear(144, num_classes))

class Net(nn.Sequential):
    def __init__(self, n_classes=7):
        super().__init__(*make(n_classes, (1, 8, 8)))

number = 3
def fails(num_classes): raise KeyError("x")
def nothing(): return None
"""


def test_architectures_may_be_functions_and_classes_of_the_user(weights, x, tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    torch.save(weights, tmp_path / "net.pt")
    expected = network()(torch.from_numpy(x)).detach()
    monkeypatch.chdir(tmp_path)
    for architecture in ("own_networks.py:make", f"{tmp_path}/own_networks.py:Net", "own_networks:make"):
        loaded = acw.load_checkpoint("net.pt", architecture=architecture, input_shape=SHAPE, device="cpu")
        assert loaded.nb_classes == CLASSES  # as many as the last weight has rows
        np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-6)
    for architecture, says in (
        ("own_networks.py:mak", "Unknown function or class of own_networks.py 'mak'. Did you mean make"),
        ("own_networks.py:number", "Unknown function or class"),
        ("own_networks.py:fails", r"can't be called as fails\(num_classes=3\): KeyError: 'x'"),
        ("own_networks.py:nothing", "must return a torch.nn.Module, but returned a NoneType"),
        ("absent.py:make", "There is no file"),
        ("absent_module:make", "can't be imported"),
    ):
        with pytest.raises(InputError, match=says):
            acw.build(architecture, SHAPE, CLASSES)


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "squeezenet1_1", "timm:resnet10t"])
def test_architectures_of_torchvision_and_timm(name):
    built = acw.build(name, (3, 64, 64), 5, seed=0)
    with torch.no_grad():
        assert built.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(InputError, match="Unknown architecture"):
        acw.build(f"{name}x", (3, 64, 64), 5)


def test_a_normalisation_of_the_model_is_put_before_it(weights, x, tmp_path):
    torch.save(weights, tmp_path / "net.pt")
    options = {"input_shape": SHAPE, "device": "cpu"}
    loaded = acw.load_checkpoint(tmp_path / "net.pt", network(2), mean=[0.13], std=0.31, **options)
    expected = network()((torch.from_numpy(x) - 0.13) / 0.31).detach()
    np.testing.assert_allclose(loaded.predict(x), expected, atol=1e-5)
    for bad, says in (
        ({"mean": [0.1, 0.2]}, "`mean` must be a number, or one for each of 1 channels"),
        ({"mean": "grey"}, "`mean` must be"),
        ({"std": 0.0}, "`std` must be above 0"),
        ({"std": float("nan")}, "`std` must be"),
        ({"mean": 125.3}, r"divide those for images in \[0, 255\] by 255"),
    ):
        with pytest.raises(InputError, match=says):
            acw.load_checkpoint(tmp_path / "net.pt", network(2), **bad, **options)
