from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.zoo import ARCHITECTURES, robustbench
from art_classwise.zoo.robustbench import robustbench as import_robustbench

SHAPES = {"digits-cnn": (1, 8, 8), "mnist-cnn": (1, 28, 28)}


@pytest.mark.parametrize("name", [*ARCHITECTURES, "wrn-10-1"])
def test_architectures_take_images_and_return_logits(name):
    if name in ("wrn-28-10", "wrn-34-10"):  # the definition is one; small here to stay quick
        name = name.replace("-10", "-1")
    shape = SHAPES.get(name, (3, 32, 32))
    network = acw.build(name, shape, 7, seed=0).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 7)


def test_weights_come_from_the_seed_and_leave_the_global_state():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (acw.build("digits-cnn", (1, 8, 8), 10, seed=s)[0].weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_published_parameter_counts():
    """CIFAR ResNet-18: 11.17 million; WRN-34-10: 46.16 million; TRADES' SmallCNN: 0.31 million."""

    def count(name, shape):
        with torch.device("meta"):
            return sum(p.numel() for p in acw.build(name, shape, 10).parameters())

    assert count("resnet18", (3, 32, 32)) == 11_173_962
    assert count("wrn-34-10", (3, 32, 32)) == 46_160_474
    assert count("mnist-cnn", (1, 28, 28)) == 312_202


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet-18", (3, 32, 32), 10), "Unknown architecture 'resnet-18'. Did you mean .*resnet18"),
        (("resnet18", (1, 28, 28), 10), r"shape \(3, 32, 32\), but got \(1, 28, 28\)"),
        (("mnist-cnn", (3, 32, 32), 10), "images of 28 x 28, but got 32 x 32"),
        (("wrn-29-10", (3, 32, 32), 10), "6k \\+ 4 layers"),
        (("digits-cnn", (8, 8), 10), "needs images"),
        (("digits-cnn", (1, 8, 8), 1), "2 classes or more"),
    ],
)
def test_bad_architectures_are_named(arguments, says):
    with pytest.raises(InputError, match=says):
        acw.build(*arguments)


class Asserting(nn.Module):
    def forward(self, x):
        raise AssertionError("of 224 only")


class Tuple(nn.Module):
    def forward(self, x):
        return x, x


def test_as_classifier_checks_the_module(network):
    with pytest.raises(InputError, match=r"can't take images of shape \(1, 6, 6\)"):
        acw.as_classifier(network, (1, 6, 6), 4)
    with pytest.raises(InputError, match=r"logits of shape \(1, 5\) .* returned \(1, 4\)"):
        acw.as_classifier(network, (3, 6, 6), 5)
    with pytest.raises(InputError, match="returned tuple: wrap it"):
        acw.as_classifier(Tuple(), (3, 6, 6), 5)
    with pytest.raises(InputError, match='"cpu" or "cuda", but got \'gpu\''):
        acw.as_classifier(network, (3, 6, 6), 4, device="gpu")
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, but is a str"):
        acw.as_classifier("network", (3, 6, 6), 4)
    with pytest.raises(InputError, match=r"`input_shape` must be the shape of an image"):
        acw.as_classifier(network, 6, 4)
    with pytest.raises(InputError, match="`n_classes` must be a whole number of at least 2"):
        acw.as_classifier(network, (3, 6, 6), 1)
    with pytest.raises(InputError, match="can't take images .*: of 224 only"):
        acw.as_classifier(Asserting(), (3, 6, 6), 4)
    assert acw.as_classifier(network, (3, 6, 6), 4, device=torch.device("cpu")).device.type == "cpu"
    network.train()
    mean = network[1].running_mean.clone()
    assert acw.as_classifier(network, (3, 6, 6), 4).nb_classes == 4
    assert network.training
    assert torch.equal(network[1].running_mean, mean)


# Checkpoints


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
    checkpoint = acw.read_checkpoint(path)
    assert (checkpoint.architecture, checkpoint.input_shape) == ("digits-cnn", (1, 8, 8))
    assert checkpoint.classes == ("a", "b", "<c>")
    assert checkpoint.threat == acw.ThreatModel("Linf", 8 / 255)
    assert checkpoint.recipe == {"method": "mart", "beta": 5.0, "steps": [1, 2], "best": None}
    assert torch.load(path, weights_only=True)["format"] == "art-classwise checkpoint"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.pt"]  # nothing aside is left


def test_own_module_goes_through_a_checkpoint(network, classifier, images, tmp_path):
    acw.save_checkpoint(tmp_path / "own.pt", classifier, architecture="", classes=list("abcd"))
    with pytest.raises(InputError, match="that art-classwise doesn't define: give it"):
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


def bad_files(folder):
    files = {
        "page.pt": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "empty.pt": b"",
        "text.pt": b"hello, this is no checkpoint",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    torch.save({"a": torch.zeros(50_000)}, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:9000])
    torch.save({"args": argparse.Namespace(lr=0.1)}, folder / "more.pt")
    torch.save({"a": torch.zeros(3)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "legacy_cut.pt").write_bytes((folder / "legacy.pt").read_bytes()[:100])
    return [
        ("page.pt", "holds a web page"),
        ("empty.pt", "is empty"),
        ("text.pt", "not a file of torch weights .it begins with b'hello"),
        ("cut.pt", "is cut short"),
        ("more.pt", "holds more than weights"),
        ("legacy_cut.pt", "damaged"),
        ("missing.pt", "There is no file"),
        ("legacy.pt", "holds weights, but is no art-classwise checkpoint"),
    ]


def test_files_that_are_no_checkpoint_are_recognised(tmp_path):
    for name, says in bad_files(tmp_path):
        with pytest.raises(InputError, match=f"{name} .*{says}|{says}.*{name}"):
            acw.load_checkpoint(tmp_path / name)
    with pytest.raises(InputError, match="is not a file"):
        acw.load_checkpoint(tmp_path)


# RobustBench


def test_robustbench_imports_on_todays_packages_and_leaves_no_trace():
    """In a fresh interpreter, where nothing of it is loaded yet, with warnings as errors."""
    code = (
        "import sys; from art_classwise.zoo.robustbench import robustbench\n"
        "assert robustbench().load_model and robustbench('utils').load_model\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'autoattack'], 'left behind'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_real_autoattack_is_used_where_it_is_installed(tmp_path):
    (tmp_path / "autoattack").mkdir()
    (tmp_path / "autoattack" / "__init__.py").write_text("class AutoAttack: real = True")
    (tmp_path / "autoattack" / "state.py").write_text("class EvaluationState: pass")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from art_classwise.zoo.robustbench import robustbench\n"
        "assert robustbench('eval').AutoAttack.real and 'autoattack' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_names_of_the_zoo():
    names = acw.robustbench_names("cifar10", "Linf")
    assert "Wong2020Fast" in names
    assert len(names) == 76  # RobustBench 1.1.1
    assert len(acw.robustbench_names("cifar100", "Linf")) == 38


@pytest.fixture
def model_dir(tmp_path):
    """A zoo folder with one model of random weights, as RobustBench lays it out."""
    torch.manual_seed(0)
    table = import_robustbench("model_zoo").model_dicts
    enums = import_robustbench("model_zoo.enums")
    module = table[enums.BenchmarkDataset.cifar_10][enums.ThreatModel.Linf]["Wong2020Fast"]["model"]()
    folder = tmp_path / "zoo" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    torch.save(module.state_dict(), folder / "Wong2020Fast.pt")
    return tmp_path / "zoo", module.eval()


def test_a_model_at_hand_loads_offline(model_dir, monkeypatch):
    folder, module = model_dir
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("used the network"))
    state = torch.get_rng_state()
    classifier = acw.load_robustbench("Wong2020Fast", model_dir=folder, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(classifier.predict(x.numpy()), module(x).numpy(), atol=1e-5)
    assert (classifier.nb_classes, classifier.input_shape) == (10, (3, 32, 32))
    assert torch.load.__module__ == "torch.serialization"  # what was patched is put back


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Wong2020",), "Unknown RobustBench model for cifar10 Linf 'Wong2020'. Did you mean Wong2020Fast"),
        (("../../etc/passwd",), "Unknown RobustBench model"),
        (("Wong2020Fast", "cifar"), "Unknown RobustBench data set 'cifar'. Did you mean"),
        (("Wong2020Fast", "cifar10", "linf"), "Unknown RobustBench threat model 'linf'. Did you mean Linf"),
        (("Wong2020Fast", "cifar100", "L2"), "has no L2 models for cifar100; it has"),
    ],
)
def test_unknown_models_get_the_nearest_names(arguments, says):
    with pytest.raises(InputError, match=says):
        acw.load_robustbench(*arguments)


def test_bad_files_of_the_zoo_are_recognised_before_loading(model_dir, tmp_path):
    folder, _ = model_dir
    target = folder / "cifar10" / "Linf" / "Wong2020Fast.pt"
    (tmp_path / "bad").mkdir()
    for name, says in bad_files(tmp_path / "bad"):
        if name in ("missing.pt", "legacy.pt"):
            continue
        target.write_bytes((tmp_path / "bad" / name).read_bytes())
        with pytest.raises(InputError) as caught:
            acw.load_robustbench("Wong2020Fast", model_dir=folder)
        assert str(target) in str(caught.value)
        assert says in str(caught.value).replace("(", ".") or "Is it the file of another model" in str(caught.value)
    torch.save({"other": torch.zeros(3)}, target)
    with pytest.raises(InputError, match="can't be loaded from .*Is it the file of another model"):
        acw.load_robustbench("Wong2020Fast", model_dir=folder)


def test_more_than_weights_needs_consent(model_dir):
    folder, module = model_dir
    target = folder / "cifar10" / "Linf" / "Wong2020Fast.pt"
    torch.save({"state_dict": module.state_dict(), "args": argparse.Namespace(lr=0.1)}, target)
    with pytest.raises(InputError, match="holds more than weights .*unsafe_weights=True"):
        acw.load_robustbench("Wong2020Fast", model_dir=folder)
    assert acw.load_robustbench("Wong2020Fast", model_dir=folder, unsafe_weights=True).nb_classes == 10


def test_a_failed_download_says_how_to_do_it_by_hand(tmp_path, monkeypatch, capsys):
    utils = import_robustbench("utils")

    def offline(drive_id, path):
        raise OSError("no network")

    monkeypatch.setattr(utils, "download_gdrive_new", offline)
    by_hand = r"Fetch it by hand: save https://drive.google.com/uc\?id=\S+ as .*cifar10/Linf/Wong2020Fast.pt"
    with pytest.raises(InputError, match=rf"could not be downloaded \(no network\)\. {by_hand}"):
        acw.load_robustbench("Wong2020Fast", model_dir=tmp_path)
    assert "Downloading Wong2020Fast from https://drive.google.com" in capsys.readouterr().err

    def quota(drive_id, path):
        path.write_text("<html>Quota exceeded</html>")

    monkeypatch.setattr(utils, "download_gdrive_new", quota)
    with pytest.raises(InputError, match=rf"holds a web page.*The download of Wong2020Fast failed\. {by_hand}"):
        acw.load_robustbench("Wong2020Fast", model_dir=tmp_path)
    assert list((tmp_path / "cifar10" / "Linf").iterdir()) == []  # no page is left as weights


def test_models_of_timm_load_offline_too_and_say_where_they_come_from(tmp_path, monkeypatch, capsys):
    import_robustbench()
    timm = sys.modules["timm"]
    name = "Debenedetti2022Light_XCiT-S12"

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=rf"{name} could not be fetched \(no network\).*save them as .*{name}.pt"):
        acw.load_robustbench(name, model_dir=tmp_path)
    assert 'Downloading: "https://github.com/' in capsys.readouterr().err
    import_robustbench()
    module = timm.create_model("debenedetti2022light_xcit_s12_cifar10_linf", num_classes=10)
    (tmp_path / "cifar10" / "Linf").mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), tmp_path / "cifar10" / "Linf" / f"{name}.pt")
    classifier = acw.load_robustbench(name, model_dir=tmp_path, device="cpu")
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(classifier.predict(x.numpy()), module.eval()(x).numpy(), atol=1e-5)


def test_a_good_download_is_kept(model_dir, tmp_path, monkeypatch):
    folder, _ = model_dir
    whole = (folder / "cifar10" / "Linf" / "Wong2020Fast.pt").read_bytes()
    monkeypatch.setattr(import_robustbench("utils"), "download_gdrive_new", lambda _, path: path.write_bytes(whole))
    acw.load_robustbench("Wong2020Fast", model_dir=tmp_path / "new")
    assert [p.name for p in (tmp_path / "new" / "cifar10" / "Linf").iterdir()] == ["Wong2020Fast.pt"]


def test_missing_robustbench_says_what_to_install(monkeypatch):
    for name in [m for m in sys.modules if m.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(InputError, match='pip install robustbench "setuptools<81"'):
        robustbench.robustbench()
