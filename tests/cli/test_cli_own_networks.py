"""Networks of the user's own on the command line: from a plain file of weights to an audit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import art_classwise as acw

NETWORK = """
from torch import nn

def make(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
"""
QUICK = ("--examples", "40", "--attacks", "FGSM", "--no-checks", "--json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("own")
    (path / "net.py").write_text(NETWORK)
    network = acw.build(f"{path}/net.py:make", (1, 8, 8), 10, seed=0)
    wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 1, "model": wrapped}, path / "net.pth")
    acw.save_checkpoint(
        path / "ours.pt",
        acw.build("digits-cnn", (1, 8, 8), 10, seed=0),
        architecture="digits-cnn",
        classes=[str(k) for k in range(10)],
        input_shape=(1, 8, 8),
    )
    return path


def test_a_file_of_weights_is_audited_beside_a_checkpoint(command_line, folder, tmp_path):
    code, out, err = command_line(
        *("audit", "--model", f"mine={folder}/net.pth", "--model", f"{folder}/ours.pt"),
        *("--arch", f"{folder}/net.py:make", "--mean", "0.3", "--std", "mine=0.35", *QUICK, "--out", str(tmp_path)),
    )
    assert code == 0, err
    models = {model["name"]: model for model in json.loads(out)["models"]}
    data = acw.load_dataset("digits").first(40)
    network = acw.build(f"{folder}/net.py:make", data.input_shape, 10, seed=0)
    with torch.no_grad():
        predicted = network((torch.from_numpy(data.x) - 0.3) / 0.35).argmax(1).numpy()
    of_class = np.array([(predicted == data.y)[data.y == k].mean() for k in range(10)])
    assert models["mine"]["clean"] == pytest.approx(of_class.mean())
    assert set(models) == {"mine", "ours"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--model", "net.pth"),
            "holds weights, but not of which network: .* with --arch, e.g. resnet18",
        ),
        (("--model", "net.pt"), "There is no file 'net.pt'. Give a file of weights"),
        (("--model", "Wong2020Fast"), "Did you mean robustbench:Wong2020Fast?"),
        (("--model", "net.pth", "--arch", "nett=digits-cnn"), "Unknown model in --arch 'nett'. Did you mean net"),
        (("--model", "net.pth", "--arch", "net.py:mak"), "Did you mean make"),
        (
            ("--model", "net.pth", "--arch", "digits-cnn"),
            "is of another architecture than the architecture 'digits-cnn'",
        ),
        (
            ("--model", "net.pth", "--arch", "net.py:make", "--mean", "grey"),
            "--mean takes a number, or one per channel",
        ),
        (("--model", "net.pth", "--arch", "a", "--arch", "b"), "Both 'a' and 'b' are given for all models"),
    ],
)
def test_what_does_not_fit_is_said_in_the_words_of_the_command_line(
    command_line, folder, options, says, tmp_path, monkeypatch
):
    import re

    monkeypatch.chdir(folder)
    code, _, err = command_line("audit", *options, *QUICK, "--out", str(tmp_path))
    assert code == 2
    assert re.search(says, err), err


def test_a_checkpoint_does_not_choose_a_program_to_run(folder, tmp_path, monkeypatch):
    network = acw.build(f"{folder}/net.py:make", (1, 8, 8), 10, seed=0)
    architecture = f"{folder}/net.py:make"
    acw.save_checkpoint(
        tmp_path / "own.pt", network, architecture=architecture, classes=list("0123456789"), input_shape=(1, 8, 8)
    )
    with pytest.raises(acw.InputError, match="isn't run because a file says so: if you trust it, give `architecture="):
        acw.load_checkpoint(tmp_path / "own.pt")
    x = acw.load_dataset("digits").first(5).x
    loaded = acw.load_checkpoint(tmp_path / "own.pt", architecture=architecture, device="cpu")
    np.testing.assert_allclose(loaded.predict(x), network(torch.from_numpy(x)).detach(), atol=1e-6)


def test_options_are_written_to_a_file_and_read_from_it(command_line, folder, tmp_path):
    asked = ("audit", "--model", f"{folder}/ours.pt", "--examples", "40", "--attacks", "FGSM", "--no-checks", "--json")
    code, first, err = command_line(*asked, "--class", "3", "--save-config", "audit.toml", "--out", "here")
    assert code == 0, err
    saved = (tmp_path / "audit.toml").read_text()
    assert set(saved.splitlines()[1:]) == {
        *(f'model = ["{folder}/ours.pt"]', "examples = 40", 'attacks = "FGSM"', "checks = false", "json = true"),
        *('class = ["3"]', 'out = "here"'),
    }
    code, again, err = command_line("audit", "--config", "audit.toml")
    assert code == 0, err
    assert {**json.loads(again), "command": ""} == {**json.loads(first), "command": ""}
    code, other, err = command_line("audit", "--config", "audit.toml", "--examples", "20", "--out", "there")
    assert (code, json.loads(other)["examples"]) == (0, 20), err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exmples = 3", "Unknown option in audit.toml 'exmples'. Did you mean examples?"),
        ("examples = [3, 4]", "examples must be one value, but got 2"),
        ("quiet = 3", "quiet must be true or false, but got 3"),
        ("examples = true", "examples must be a value, not true or false"),
        ("[audit]\nexamples = 3", "Unknown option in audit.toml 'audit'"),
        ("examples =", "audit.toml is not TOML"),
        (None, "audit.toml can't be read: No such file"),
    ],
)
def test_bad_files_of_options_are_named(command_line, tmp_path, text, says):
    if text is not None:
        (tmp_path / "audit.toml").write_text(text)
    code, _, err = command_line("audit", "--config", "audit.toml")
    assert code == 2
    assert says in err
