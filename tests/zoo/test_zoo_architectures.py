from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest
import torch
from places import ROOT
from torch import nn

import art_classwise as acw
from art_classwise import InputError
from art_classwise.zoo.robustbench import cuda_optional
from art_classwise.zoo.robustbench import robustbench as import_robustbench

EVALUATIONS = ROOT / "evaluations"
PAGE = ROOT / "docs" / "zoo.md"


@pytest.fixture
def script(evaluation, monkeypatch) -> ModuleType:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("used the network"))
    return evaluation("zoo_architectures")


def test_a_network_loads_and_is_audited(script, tmp_path):
    row = script.try_model("Wong2020Fast", "cifar10", tmp_path)
    assert (row["loads"], row["audited"], row["reason"]) == ("yes", "yes", "")
    assert (row["class"], row["parameters M"], row["file MB"]) == ("Wong2020FastNet", "11.2", "45")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # its weights are deleted


@pytest.mark.parametrize(
    "name", ["Chen2020Adversarial", "Debenedetti2022Light_XCiT-S12", "Andriushchenko2020Understanding"]
)
def test_every_form_of_file_loads(script, tmp_path, monkeypatch, name):
    """An ensemble of three files, one that timm loads and that has no id on Google Drive, one of two checkpoints."""
    monkeypatch.setattr(script, "structure", lambda network: "same")
    row = script.try_model(name, "cifar10", tmp_path, audited={"same": "cifar10 Wong2020Fast"})
    assert (row["loads"], row["audited"], row["reason"]) == ("yes", "as cifar10 Wong2020Fast", "")


def test_weights_of_another_network_do_not_pass(script, tmp_path, monkeypatch):
    save = script.save

    def save_shifted(network, name, files, **options):
        with torch.no_grad():
            network.linear.bias += 0.01
        save(network, name, files, **options)

    monkeypatch.setattr(script, "save", save_shifted)
    row = script.try_model("Wong2020Fast", "cifar10", tmp_path)
    assert (row["loads"], row["audited"]) == ("no", "no")
    assert row["reason"].startswith("it doesn't load: AssertionError: its logits differ by 0.01 from those")

    monkeypatch.setattr(script, "save", lambda network, name, files, **_: save(nn.Linear(2, 2), name, files))
    row = script.try_model("Wong2020Fast", "cifar10", tmp_path)
    assert row["reason"].startswith("it doesn't load: InputError: Wong2020Fast can't be loaded from")
    assert not list(tmp_path.rglob("*.pt"))


def test_too_little_memory_is_said(script, tmp_path, monkeypatch):
    def network_of(name, dataset):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(script, "network_of", network_of)
    monkeypatch.setattr(sys, "platform", "none that holds a process to it")
    assert script.try_model("Wong2020Fast", "cifar10", tmp_path, memory=8.0)["reason"] == "loading takes more than 8 GB"


@pytest.mark.slow
def test_a_failing_model_gets_a_row_and_the_next_is_tried(script, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    script.measure([("cifar10", "Nobody2020Nothing")], out)  # in a process of its own, which ends with this error
    (row,) = script.read_rows(out)
    assert (row["loads"], row["audited"]) == ("no", "no")
    assert "its process ended with code 1" in row["reason"]
    assert "Unknown RobustBench model for cifar10 Linf 'Nobody2020Nothing'" in row["reason"]

    def too_slow(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(script.subprocess, "run", too_slow)
    script.measure([("cifar10", "Wong2020Fast"), ("cifar100", "Rice2020Overfitting")], out, timeout=3)
    rows = script.read_rows(out)
    assert [row["name"] for row in rows] == ["Nobody2020Nothing", "Wong2020Fast", "Rice2020Overfitting"]
    assert [row["reason"] for row in rows[1:]] == ["it took more than 3 s"] * 2
    assert set(rows[0]) == set(script.COLUMNS)


def test_rows_that_are_there_are_kept(script, tmp_path, monkeypatch):
    out, tried = tmp_path / "out.csv", []

    def apart(task, timeout):
        tried.append((task["dataset"], task["name"], dict(task["audited"])))
        return {"loads": "yes", "audited": "yes", "reason": "", "peak MB": "9", "structure": task["name"][:4]}

    monkeypatch.setattr(script, "_apart", apart)
    script.measure([("cifar10", "Wong2020Fast")], out)
    script.measure([("cifar10", "Wong2020Fast"), ("cifar100", "Wong2020Fast"), ("cifar10", "Rice2020Overfitting")], out)
    assert tried == [
        ("cifar10", "Wong2020Fast", {}),
        ("cifar100", "Wong2020Fast", {"Wong": "cifar10 Wong2020Fast"}),  # known from the file
        ("cifar10", "Rice2020Overfitting", {"Wong": "cifar100 Wong2020Fast"}),
    ]
    assert len(script.read_rows(out)) == 3


def test_structure_is_of_classes_and_arguments_not_of_weights(script):
    def of(width=4, dropout=0.1, act=nn.ReLU):
        return script.structure(nn.Sequential(nn.Linear(3, width), act(), nn.Dropout(dropout)))

    assert of() == of()  # other random weights
    assert len({of(), of(width=5), of(dropout=0.2), of(act=nn.SiLU)}) == 4

    class Scaled(nn.Linear):
        def __init__(self, scale):
            super().__init__(3, 4)
            self.scale = scale

    assert script.structure(Scaled(1.0)) != script.structure(Scaled(2.0))  # not in its repr


def test_names_of_weights_survive_robustbench_s_cutting(script):
    utils = import_robustbench("utils")
    weights = {name: torch.ones(1) for name in ("conv.weight", "model.conv.weight", "block.model.fc.bias")}
    saved = script._prefixed(weights, ("module.", "model."))
    read = utils.rm_substr_from_state_dict(utils.rm_substr_from_state_dict(saved, "module."), "model.")
    assert list(read) == list(weights)


def test_infinite_logits_are_tamed_and_that_is_said(script):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.fill_(3e38)
    row = {}
    logits = script._tame(network, torch.ones(1, 3, 3, 3), row)
    assert torch.isfinite(logits).all()
    assert "random weights were halved" in row["reason"]


def test_constants_on_a_gpu_stay_on_the_cpu_only_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    original, constant = torch.Tensor.cuda, torch.zeros(2)
    with cuda_optional():
        assert constant.cuda() is constant
        assert constant.cuda(0, non_blocking=True) is constant
    assert torch.Tensor.cuda is original
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with cuda_optional():
        assert torch.Tensor.cuda is original


def test_torchvision_s_model_needs_no_file_in_the_folder(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(import_robustbench("utils"), "download_gdrive_new", lambda *_: pytest.fail("has no id"))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=r"Standard_R50 could not be downloaded \(no network\)\. torchvision keeps its"
    ):
        acw.load_robustbench("Standard_R50", "imagenet", model_dir=tmp_path)


def test_tables_take_published_numbers_and_keep_the_page(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script._BEGIN}\nold\n{script._END}\nafter\n")
    shared = {"parameters M": "11.2", "loads": "yes", "audited": "yes", "peak MB": "1128", "reason": ""}
    shared |= {"n": "8", "attacks": "fgsm", "hardware": "2 cores", "versions": "torch", "command": "python x.py"}
    names = ["Wong2020Fast", "Kang2021Stable"]
    script.write_tables(page, [{**shared, "dataset": "cifar10", "name": name} for name in names])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    kang = "| Kang2021Stable | WideResNet-70-16, Neural ODE block | 11.2 | 93.73 | 71.28 (64.20) | yes | yes | 1.1 |  |"
    wong = "| Wong2020Fast | PreActResNet-18 | 11.2 | 83.34 | 43.21 | yes | yes | 1.1 |  |"
    assert f"{kang}\n{wong}\n" in text  # the more robust one first
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        script.write_tables(page, [{}])


@pytest.mark.skipif(version("robustbench") != "1.1.1", reason="measured with 1.1.1")
def test_the_page_is_what_the_measurements_say(script, tmp_path):
    rows = script.read_rows(EVALUATIONS / "results" / "zoo_architectures" / "zoo_architectures.csv")
    assert [(row["dataset"], row["name"]) for row in rows] == [
        (dataset, name) for dataset in ("cifar10", "cifar100") for name in acw.zoo.robustbench_names(dataset, "Linf")
    ]
    copy = tmp_path / "zoo.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    script.write_tables(copy, rows)
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
