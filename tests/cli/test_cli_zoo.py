"""The leaderboard beside what was measured: `zoo`, and a RobustBench model from its file to the finding."""

import numpy as np
import pandas as pd
import pytest
import torch

import art_classwise as acw
from art_classwise.errors import InputError
from art_classwise.studies import beside_measured
from art_classwise.zoo import published, robustbench_table
from art_classwise.zoo.robustbench import robustbench as import_robustbench


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a zoo of one model of random weights, and a set of 60 images of noise."""
    monkeypatch.setenv("COLUMNS", "80")
    torch.manual_seed(0)
    table = import_robustbench("model_zoo").model_dicts
    enums = import_robustbench("model_zoo.enums")
    module = table[enums.BenchmarkDataset.cifar_10][enums.ThreatModel.Linf]["Wong2020Fast"]["model"]()
    weights = tmp_path / "models" / "cifar10" / "Linf" / "Wong2020Fast.pt"
    weights.parent.mkdir(parents=True)
    torch.save(module.state_dict(), weights)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=rng.integers(0, 256, (60, 32, 32, 3), np.uint8), y=np.arange(60) % 10)
    return tmp_path


def audit(command_line, *more):
    return command_line(
        *("audit", "--model", "robustbench:cifar10/Wong2020Fast", "--dataset", "noise.npz", "--class-names", "cifar10"),
        *("--threat", "Linf:8/255", "--attacks", "fgsm", "--examples", "24", "--no-checks", "--quiet"),
        *("--out", "runs/a", *more),
    )


def test_the_leaderboard(command_line, folder):
    code, out, _ = command_line("zoo")
    assert code == 0
    assert max(map(len, out.splitlines())) <= max(80, len(str(folder / "models")) + 40)
    lines = [line.split() for line in out.splitlines()]
    (row,) = [line for line in lines if line[:1] == ["Wong2020Fast"]]
    assert row[-3:] == ["83.3", "43.2", "yes"]
    names = [line[0] for line in lines if line and line[0] in acw.zoo.robustbench_names()]
    assert len(names) == 76
    assert f"the weights of 1 models are in {folder / 'models'}" in out.replace("\n", "")
    code, out, _ = command_line("zoo", "--here", "--out", "lists/here.csv")
    assert (code, "Wong2020Fast" in out, "Rice2020Overfitting" in out) == (0, True, False)
    assert pd.read_csv(folder / "lists" / "here.csv")["robust"].tolist() == [0.4321]


def test_published_beside_measured(command_line, folder):
    code, out, _ = audit(command_line)
    assert code == 0
    # Random weights aren't what was published.
    assert "Wong2020Fast: differs from what is published" in out
    code, out, _ = command_line("zoo", "--measured", "runs/a", "--out", "beside.csv")
    assert code == 0
    (row,) = [line.split() for line in out.splitlines() if line.split()[:1] == ["Wong2020Fast"]]
    assert row[1:3] == ["83.3", "43.2"]
    assert row[-1] == "!"
    assert "measured robust: at most: no strong attack, such as standard AutoAttack, was run" in " ".join(out.split())
    (table,) = pd.read_csv(folder / "beside.csv").to_dict("records")
    result = acw.read_audit(folder / "runs" / "a")
    right = (result.outcomes["label"] == result.outcomes["clean_prediction"]).mean()
    assert (table["model"], table["n"], table["differs"]) == ("Wong2020Fast", 24, True)
    assert not table["strongly_attacked"]
    assert table["measured_clean"] == pytest.approx(right)
    assert table["measured_clean_low"] < right < table["measured_clean_high"]
    assert table["measured_robust"] == pytest.approx(result.outcomes["withstood"].mean())


def test_a_model_under_another_name_is_known(command_line, folder):
    code, _, _ = audit(command_line, "--model", "theirs=robustbench:cifar10/Wong2020Fast", "--out", "runs/b")
    assert code == 0
    result = acw.read_audit(folder / "runs" / "b")
    assert result.manifest.published["theirs"].source == "robustbench:cifar10/Linf/Wong2020Fast"
    assert {f.model for f in result.findings if f.model} == {"Wong2020Fast", "theirs"}


def test_what_the_command_line_refuses(command_line, folder):
    for arguments, says in (
        (("--dataset", "cifar"), "Unknown RobustBench data set 'cifar'. Did you mean cifar10"),
        (("--dataset", "cifar100", "--threat", "L2"), "has no L2 models for cifar100; it has"),
        (("--threat", "linf"), "Did you mean Linf"),
        (("--measured", "nowhere"), "holds no audit"),
        (("--out", "models"), "is a folder: name a file, such as models/leaderboard.csv"),
    ):
        code, _, err = command_line("zoo", *arguments)
        assert (code, says in err) == (2, True), err
    audit(command_line)
    code, _, err = command_line("zoo", "--measured", "runs/a", "--dataset", "cifar100")
    assert code == 2
    assert "None of the audit's models (Wong2020Fast) is of RobustBench's cifar100 Linf leaderboard" in err


def test_audits_of_other_models_are_not_on_the_leaderboard(result):
    with pytest.raises(InputError, match=r"None of the audit's models \(net\)"):
        beside_measured(robustbench_table(), result)


def test_what_a_loaded_model_tells(folder):
    classifier = acw.load_robustbench("Wong2020Fast", model_dir=folder / "models", device="cpu")
    told = published("Wong2020Fast")
    assert classifier.published == {
        "source": "robustbench:cifar10/Linf/Wong2020Fast",
        "norm": "Linf",
        "eps": 8 / 255,
        "clean": told.clean,
        "robust": told.robust,
    }


def test_a_mistyped_model_is_named_before_data_are_fetched(command_line, monkeypatch):
    monkeypatch.setattr("art_classwise.datasets.load_dataset", lambda *a, **k: pytest.fail("read data"))
    code, _, err = command_line("audit", "--model", "robustbench:Wong2020Fst", "--dataset", "cifar10")
    assert (code, "Did you mean Wong2020Fast" in err) == (2, True)
    code, _, err = command_line("audit", "--model", "robustbench:all", "--surrogate", "no.pt", "--dataset", "cifar10")
    assert (code, "There is no file 'no.pt'" in err) == (2, True)
