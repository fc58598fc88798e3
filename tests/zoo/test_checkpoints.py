from __future__ import annotations

import gzip
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError


@pytest.fixture
def saved(tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 3, seed=1)
    classifier = acw.as_classifier(network, (1, 8, 8), 3, device="cpu")
    path = tmp_path / "mine.pt"
    acw.save_checkpoint(
        path,
        classifier,
        architecture="digits-cnn",
        classes=["a", "b", "<c>"],
        threat="Linf:8/255",
        recipe={"method": "mart", "beta": 5.0, "steps": [1, 2], "best": None},
    )
    return path, classifier


def test_checkpoint_round_trip(saved, tmp_path):
    path, classifier = saved
    x = np.random.default_rng(0).random((4, 1, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(acw.load_checkpoint(path).predict(x), classifier.predict(x))
    checkpoint = acw.zoo.read_checkpoint(path)
    assert (checkpoint.architecture, checkpoint.input_shape) == ("digits-cnn", (1, 8, 8))
    assert checkpoint.classes == ("a", "b", "<c>")
    assert checkpoint.threat == acw.ThreatModel("Linf", 8 / 255)
    assert checkpoint.recipe == {"method": "mart", "beta": 5.0, "steps": [1, 2], "best": None}
    assert torch.load(path, weights_only=True)["format"] == "art-classwise checkpoint"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.pt"]  # nothing aside is left


def test_another_size_of_images_is_told_where_the_network_for_it_is_another(tmp_path):
    """From 48 pixels on, residual networks begin with a stride, so that the weights mean something else."""
    path, classes = tmp_path / "net.pt", ["a", "b"]
    network = acw.build("resnet8", (3, 28, 28), 2, seed=0)
    acw.save_checkpoint(path, network, architecture="resnet8", classes=classes, input_shape=(3, 28, 28))
    x = torch.zeros(2, 3, 32, 32)
    same = acw.load_checkpoint(path, input_shape=(3, 32, 32), device="cpu").model
    torch.testing.assert_close(same(x), network.eval()(x))
    with pytest.warns(
        UserWarning, match=r"images of shape \(3, 28, 28\)\. resnet8 for \(3, 64, 64\) computes something"
    ):
        acw.load_checkpoint(path, input_shape=(3, 64, 64), device="cpu")


def test_own_module_goes_through_a_checkpoint(network, classifier, images, tmp_path):
    acw.save_checkpoint(tmp_path / "own.pt", classifier, architecture="", classes=list("abcd"))
    with pytest.raises(InputError, match="that art-classwise doesn't define: .* Or give the network itself, `module`"):
        acw.load_checkpoint(tmp_path / "own.pt")
    again = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(128, 4)
    )
    loaded = acw.load_checkpoint(tmp_path / "own.pt", again)
    np.testing.assert_array_equal(loaded.predict(images), classifier.predict(images))


def test_checkpoint_of_another_architecture_is_named(saved, tmp_path):
    path, classifier = saved
    with pytest.raises(InputError, match=r"another architecture than the module Sequential: it (lacks|has)"):
        acw.load_checkpoint(path, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    wider = acw.build("digits-cnn", (1, 8, 8), 4)
    with pytest.raises(InputError, match=r"8.weight has shape \(3, 64\), not \(4, 64\)"):
        acw.load_checkpoint(path, wider)
    with pytest.raises(InputError, match="The model is of another architecture than the architecture 'mnist-cnn'"):
        acw.save_checkpoint(
            tmp_path / "x.pt",
            classifier.model,
            architecture="mnist-cnn",
            classes=list("abc"),
            input_shape=(1, 28, 28),
        )


def test_save_refuses_what_can_not_be_loaded_safely(saved, tmp_path):
    _, classifier = saved
    options = {"architecture": "digits-cnn", "classes": list("abc")}
    with pytest.raises(InputError, match=r"recipe\['lr'\] is a float64; a recipe holds"):
        acw.save_checkpoint(tmp_path / "x.pt", classifier, **options, recipe={"lr": np.float64(0.1)})
    with pytest.raises(InputError, match="can't be written to .*nowhere"):
        acw.save_checkpoint(tmp_path / "nowhere" / "x.pt", classifier, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.pt"]


def test_files_that_are_no_checkpoint_are_recognised(tmp_path, bad_weights):
    for path, says in bad_weights:
        with pytest.raises(InputError, match=f"{path.name} .*{says}|{says}.*{path.name}"):
            acw.load_checkpoint(path)
    with pytest.raises(InputError, match="has none of the files model.safetensors"):
        acw.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"), [({"version": 99}, "of version 99"), ({"version": None}, "of version None")]
)
def test_checkpoint_of_another_version_is_named(saved, change, says):
    path, _ = saved
    content = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in (content | change).items() if v is not None}, path)
    with pytest.raises(InputError, match=says):
        acw.load_checkpoint(path)


WRONG = {
    "architecture": [3, None, ["mnist-cnn"]],
    "input_shape": [3, "1x8x8", [1, 8, 0], [1, 8.0, 8], [True, 8, 8]],
    "classes": ["abc", [1, 2, 3], None],
    "threat": [0.1, "Linf", "Linf:-1", ["Linf", 0.1]],
    "recipe": [None, [], {1: 2}],
    "state_dict": [None, [1], {1: torch.zeros(2)}],
}


def test_every_value_of_a_header_is_checked():
    assert set(WRONG) == set(acw.zoo.checkpoints.Checkpoint.model_fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_header_with_a_wrong_value_is_named(saved, name, value):
    path, _ = saved
    content = torch.load(path, weights_only=True)
    torch.save(content | {name: value}, path)
    with pytest.raises(InputError, match=f"{path.name} is damaged: {name}"):
        acw.load_checkpoint(path)
    torch.save({k: v for k, v in content.items() if k != name}, path)
    with pytest.raises(InputError, match=f"{path.name} is damaged: it lacks {name}"):
        acw.load_checkpoint(path)
    torch.save(content | {"of a later release": 1}, path)
    acw.load_checkpoint(path)


def own_checkpoint(path, module, weights=None, shape=(1, 2, 2)):
    acw.save_checkpoint(path, module, architecture="", classes=list("abc"), input_shape=shape)
    if weights is not None:
        torch.save(torch.load(path, weights_only=True) | {"state_dict": weights}, path)
    return path


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


FOREIGN = [
    ("arrays.npz", lambda p: np.savez(p, a=np.zeros(3)), "holds arrays of NumPy's"),
    ("array.npy", lambda p: np.save(p, np.zeros(3)), "is an array of NumPy's"),
    ("pickle.pkl", lambda p: p.write_bytes(pickle.dumps({"a": 1})), "is a pickle that torch.save.. didn't write"),
    ("pointer.pt", lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "pointer of Git LFS"),
    ("page.pt", lambda p: p.write_bytes(b"\xef\xbb\xbf\n <html>quota</html>"), "holds a web page"),
    ("json.pt", lambda p: p.write_text('{"error": "not found"}'), "holds JSON"),
    ("zipped.pt", lambda p: p.write_bytes(gzip.compress(b"weights")), "compressed by gzip: unpack it"),
    ("h5.pt", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file"),
    ("model.safetensors", lambda p: p.write_bytes(struct.pack("<Q", 24) + b'{"a":{"dtype":"F32"}}   '), "safetensors"),
    ("module.pt", lambda p: torch.save(small(), p), "holds more than weights: a whole module .*torch.nn.modules.cont"),
    ("legacy.pt", lambda p: torch.save(small(), p, _use_new_zipfile_serialization=False), "a whole module"),
    ("numpy.pt", lambda p: torch.save({"lr": np.float64(0.1)}, p), "no weights"),
    ("program.pt", lambda p: torch.save({"run": os.system}, p), r"an object of the class \w+.system"),
    ("list.pt", lambda p: torch.save([1, 2], p), "holds a list, but no weights"),
    (
        "wrapped.pt",
        lambda p: torch.save({"state_dict": small().state_dict()}, p),
        "holds weights, but not of which network",
    ),
]


@pytest.mark.parametrize(("name", "write", "says"), FOREIGN)
def test_what_else_a_file_may_hold_is_said_in_one_sentence(name, write, says, tmp_path):
    write(tmp_path / name)
    with pytest.raises(InputError, match=says) as caught:
        acw.load_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert not {"\x1b", "\n"} & {*str(caught.value)}


def test_archives_of_torch_that_are_no_weights(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:  # as torch.jit.save, which is deprecated, lays it out
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(InputError, match=r"is a TorchScript archive: take torch.jit.load"):
        acw.load_checkpoint(tmp_path / "script.pt")
    torch.export.save(torch.export.export(small(), (torch.zeros(2, 1, 2, 2),)), tmp_path / "program.pt2")
    with pytest.raises(InputError, match=r"program of torch.export"):
        acw.load_checkpoint(tmp_path / "program.pt2")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("readme.txt", "hi")
    with pytest.raises(InputError, match=r"archive without torch weights .it holds readme.txt"):
        acw.load_checkpoint(tmp_path / "some.zip")


def test_what_can_not_be_read_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="fifo is not a file"):
        acw.load_checkpoint(tmp_path / "fifo")
    with pytest.raises(InputError, match="can't be read .File name too long"):
        acw.load_checkpoint(tmp_path / ("a" * 300))


def test_names_that_differ_are_named_both_ways(tmp_path):
    path = own_checkpoint(tmp_path / "own.pt", small())
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6))
    with pytest.raises(InputError) as caught:
        acw.load_checkpoint(path, other)
    assert "than the module Sequential: it lacks 2.weight, 2.bias, 2.running_mean and 2 more; it has 3.weight" in str(
        caught.value
    )
    assert "3.bias besides; 1.weight has shape (5, 4), not (6, 4), 1.bias has shape (5,), not (6,)." in str(
        caught.value
    )


class Wrapped(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.add_module(name, small())
        self.name = name

    def forward(self, x):
        return getattr(self, self.name)(x)


@pytest.mark.parametrize("name", ["module", "model", "_orig_mod"])
def test_prefixes_that_wrappers_add_do_not_matter(name, tmp_path):
    x = np.random.default_rng(0).random((2, 1, 2, 2), dtype=np.float32)
    expected = acw.as_classifier(small(), (1, 2, 2), 3, device="cpu").predict(x)
    plain, wrapped = own_checkpoint(tmp_path / "plain.pt", small()), own_checkpoint(tmp_path / "a.pt", Wrapped(name))
    for path, module in ((wrapped, small()), (plain, Wrapped(name))):
        for parameter in module.parameters():
            parameter.data.zero_()
        np.testing.assert_array_equal(acw.load_checkpoint(path, module, device="cpu").predict(x), expected)


def test_lazy_modules_take_the_shapes_of_the_weights(tmp_path):
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)
    network = nn.Sequential(*layers).eval()
    nn.init.normal_(network[1].running_mean)
    path = own_checkpoint(tmp_path / "own.pt", network)
    x = np.random.default_rng(0).random((4, 1, 2, 2), dtype=np.float32)
    expected = network(torch.from_numpy(x)).detach().numpy()
    lazy = nn.Sequential(nn.LazyConv2d(2, 1), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(InputError, match="0.weight has no shape yet: let the model predict something once"):
        own_checkpoint(tmp_path / "lazy.pt", lazy)
    np.testing.assert_array_equal(acw.load_checkpoint(path, lazy, device="cpu").predict(x), expected)


def test_weights_of_another_kind(tmp_path):
    """Rounded ones are cast, sparse ones filled up; numbers of another kind would mean something else."""
    module = small()
    weights = module.state_dict()
    x = np.random.default_rng(0).random((4, 1, 2, 2), dtype=np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    for convert, tolerance in (
        (lambda t: t.double(), 0),
        (lambda t: t.to_sparse(), 0),
        (lambda t: t.half(), 1e-2),
        (lambda t: t.bfloat16(), 1e-1),
    ):
        path = own_checkpoint(tmp_path / "own.pt", module, {k: convert(v) for k, v in weights.items()})
        logits = acw.load_checkpoint(path, small(), device="cpu").predict(x)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=tolerance)
    for convert, says in (
        (lambda t: (t * 127).to(torch.int8), r"holds whole numbers \(torch.int8\) for 1.weight, but the module"),
        (lambda t: t.to(torch.complex64), "holds complex numbers"),
        (lambda t: t.tolist(), "1.weight is a list, not a tensor"),
    ):
        path = own_checkpoint(tmp_path / "own.pt", module, {k: convert(v) for k, v in weights.items()})
        with pytest.raises(InputError, match=says):
            acw.load_checkpoint(path, small())
    for bad in (None, [1], {1: weights["1.weight"]}):
        torch.save(torch.load(path, weights_only=True) | {"state_dict": bad}, path)
        with pytest.raises(InputError, match="is damaged: state_dict: must be weights by name"):
            acw.load_checkpoint(path, small())


class WithExtraState(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.epoch = nn.Linear(4, 3), 0

    def forward(self, x):
        return self.layer(x.flatten(1))

    def get_extra_state(self):
        return {"epoch": self.epoch}

    def set_extra_state(self, state):
        self.epoch = state["epoch"]


def test_extra_state_goes_through_a_checkpoint(tmp_path):
    module, again = WithExtraState(), WithExtraState()
    module.epoch = 7
    acw.load_checkpoint(own_checkpoint(tmp_path / "own.pt", module), again, device="cpu")
    assert again.epoch == 7


def test_vectors_go_through_a_checkpoint(tmp_path):
    path = own_checkpoint(tmp_path / "own.pt", nn.Linear(6, 3), shape=(6,))
    assert acw.load_checkpoint(path, nn.Linear(6, 3), device="cpu").input_shape == (6,)
