from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch

import art_classwise as acw
from art_classwise import InputError
from art_classwise.zoo import robustbench
from art_classwise.zoo.robustbench import robustbench as import_robustbench


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
    names = acw.zoo.robustbench_names("cifar10", "Linf")
    assert "Wong2020Fast" in names
    assert len(names) == 76  # RobustBench 1.1.1
    assert len(acw.zoo.robustbench_names("cifar100", "Linf")) == 38


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


def test_bad_files_of_the_zoo_are_recognised_before_loading(model_dir, bad_weights):
    folder, _ = model_dir
    target = folder / "cifar10" / "Linf" / "Wong2020Fast.pt"
    for path, says in bad_weights:
        if path.name in ("missing.pt", "legacy.pt"):  # one is downloaded, the other are another model's weights
            continue
        target.write_bytes(path.read_bytes())
        with pytest.raises(InputError, match=f"Wong2020Fast.pt .*{says}|Is it the file of another model"):
            acw.load_robustbench("Wong2020Fast", model_dir=folder)
    torch.save({"other": torch.zeros(3)}, target)
    says = (
        r"can't be loaded from .*: it lacks \S+, \S+, \S+ and \d+ more; it has other besides. Is it the file of another"
    )
    with pytest.raises(InputError, match=says):
        acw.load_robustbench("Wong2020Fast", model_dir=folder)


def test_more_than_weights_needs_consent(model_dir):
    folder, module = model_dir
    target = folder / "cifar10" / "Linf" / "Wong2020Fast.pt"
    torch.save({"state_dict": module.state_dict(), "args": argparse.Namespace(lr=0.1)}, target)
    with pytest.raises(InputError, match="more than weights: an object of the class argparse.Namespace.*unsafe_weigh"):
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
    with pytest.raises(InputError, match=rf"{name} could not be downloaded \(no network\).*save them as .*{name}.pt"):
        acw.load_robustbench(name, model_dir=tmp_path)
    said = capsys.readouterr().err
    assert 'Downloading: "https://github.com/' in said
    assert f"Looking for {name} in timm's cache, else downloading it from https://github.com/" in said
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
