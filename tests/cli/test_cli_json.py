"""`--json`: one document on stdout, and nothing else there."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from importlib.resources import files

import jsonschema
import numpy as np
import pandas as pd
import pytest

import art_classwise as acw
from art_classwise import __version__
from art_classwise.audit.result import WORST_CASE
from art_classwise.zoo import robustbench_table

NAMES = ('<b>"ant"</b>\\', "bée 蜂", "cow,\ttab", "doe")


@pytest.fixture
def document(command_line):
    """Run a command with --json: its document, checked for what all have in common."""

    def run(*arguments, code=0):
        got, out, err = command_line(*arguments, "--json")
        assert got == code, err
        out.encode("ascii")  # names survive any terminal and pipe

        def refuse(constant):
            raise AssertionError(f"{constant} is no JSON")

        told = json.loads(out, parse_constant=refuse)
        assert list(told)[:3] == ["schema", "kind", "art_classwise"]
        assert (told["schema"], told["art_classwise"]) == (2, __version__)
        schema = json.loads((files("art_classwise") / "schemas" / f"{told['kind']}-2.schema.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(told)
        return told, err

    return run


@pytest.fixture
def audits(classifier, images, tmp_path):
    """The folder of an audit of two models, with names that need care and a class without examples."""
    import torch
    from torch import nn

    torch.manual_seed(5)
    other = acw.as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)), (3, 6, 6), 4, device="cpu")
    data = acw.Dataset(images, np.arange(16) % 3, NAMES)
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm", "pgd-5"), verbose=False, store=tmp_path / "a")
    result = audit.evaluate({"net,1": classifier, "line\u2028": other}, data)
    return tmp_path / "a", result


def same(told, value):
    if isinstance(value, float) and math.isnan(value):
        return told is None
    return told == value


def test_report_tells_all_of_the_audit(document, audits):
    folder, result = audits
    told, err = document("report", folder)
    assert err == ""
    assert told["kind"] == "audit"
    assert (told["norm"], told["eps"], told["examples"]) == ("Linf", 0.02, 16)
    assert tuple(told["classes"]) == NAMES
    assert told["attacks"] == ["fgsm", "pgd-5"]
    assert told["finished"] is True
    assert [m["name"] for m in told["models"]] == list(result.models)
    assert [row["explanation"] for row in told["checks"]] == list(result.checks["explanation"])
    assert told["strongly_attacked"] == list(result.strongly_attacked)
    summary = result.summary()
    for model in told["models"]:
        for column, value in summary.loc[model["name"]].items():
            assert same(model[column], value), column
        assert model["worst_class"] in NAMES
        assert [a["name"] for a in model["attacks"]] == ["fgsm", "pgd-5", WORST_CASE]
        for attack in model["attacks"]:
            table = result.class_table(model["name"], attack["name"])
            assert tuple(row["class"] for row in attack["classes"]) == NAMES
            for row in attack["classes"]:
                assert all(same(row[column], value) for column, value in table.loc[row["class"]].items())
        assert model["attacks"][0]["classes"][3] == {"class": "doe", "n": 0} | dict.fromkeys(list(table)[1:])
        assert "groups" not in model
    assert [(f["model"], f["check"]) for f in told["findings"]] == [(f.model, f.check) for f in result.findings]
    assert told["files"]["report"] == str(folder / "report.html")


def test_jq_as_in_the_manual(audits, tmp_path):
    """A process of its own, read through a pipe."""
    folder, result = audits
    command = [sys.executable, "-m", "art_classwise", "report", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C", "PATH": "/usr/bin"})
    assert json.loads(done.stdout)["models"][0]["worst_class"] == result.summary()["worst_class"].iloc[0]


def test_compare_tells_every_comparison(document, audits):
    folder, result = audits
    told, _ = document("compare", folder)
    (one,) = told["comparisons"]
    comparison = result.compare("net,1", "line\u2028")
    assert told["kind"] == "comparison"
    assert (one["first"], one["second"], one["accuracy"], one["examples"]) == ("net,1", "line\u2028", "robust", 16)
    assert one["threat"] == "Linf:0.02"
    assert one["attack"] == WORST_CASE
    for row in one["classes"]:
        assert all(same(row[k], v) for k, v in comparison.by_class.loc[row["class"]].items())
    for part in ("overall", "mean", "worst_class"):
        assert all(same(one[part][k], v) for k, v in getattr(comparison, part).items())
    assert one["overall"]["p_adjusted"] == one["overall"]["p"]  # one pair: nothing to adjust for
    told, _ = document("compare", folder, "--attacks", "fgsm,pgd-5", "--model", "net,1")
    assert told["comparisons"][0]["model"] == "net,1"


def test_zoo_tells_the_leaderboard(document, tmp_path):
    told, _ = document("zoo", "--threat", "L2")
    table = robustbench_table("cifar10", "L2", tmp_path / "models")
    assert (told["kind"], told["dataset"], told["threat_model"]) == ("leaderboard", "cifar10", "L2")
    assert [row["name"] for row in told["models"]] == list(table.index)
    for row in told["models"]:
        assert all(same(row[k], v) for k, v in table.loc[row["name"]].items())
    assert document("zoo", "--here")[0]["models"] == []


def test_train_then_audit(document, tmp_path):
    training = ("--dataset", "digits", "--epochs", 2, "--threat", "Linf:0.1", "--validation", 100)
    told, err = document("train", "standard", *training, "--out", "m.pt")
    assert err == ""  # no bar: stderr is no terminal
    assert told["kind"] == "training"
    history = pd.read_csv(tmp_path / "m.csv")
    assert [row["epoch"] for row in told["history"]] == [1, 2]
    assert told["history"][1]["val_worst"] == pytest.approx(history["val_worst"].iloc[1])
    assert told["epoch"] in (1, 2)
    assert told["recipe"]["method"] == "standard"
    assert told["files"] == {"checkpoint": "m.pt", "history": "m.csv", "training": "m.training"}
    audit = ("--attacks", "fgsm", "--threat", "Linf:0.1", "--examples", 60, "--out", "runs/m")
    told, err = document("audit", "--model", "m.pt", *audit)
    assert err == ""
    assert told["models"][0]["name"] == "m"
    assert told["command"].startswith("art-classwise audit --model m.pt")
    assert (tmp_path / "runs" / "m" / "report.html").exists()


def test_quickstart(document, monkeypatch, result):
    monkeypatch.setattr("art_classwise.quickstart.quickstart", lambda out, **options: print("a line") or result)
    told, err = document("quickstart")
    assert told["models"][0]["name"] == "net"
    assert err == "a line\n"  # what others print goes elsewhere


def test_what_goes_wrong_is_on_stderr(command_line, audits):
    folder, _ = audits
    for arguments in (
        ("report", "nowhere"),
        ("compare", folder, "--models", "net,1,x"),
        ("zoo", "--dataset", "cifr10"),
    ):
        code, out, err = command_line(*arguments, "--json")
        assert (code, out) == (2, "")
        assert err.startswith("error: ")


def test_an_unfinished_audit_says_so(document, command_line, audits, monkeypatch):
    folder, _ = audits
    warnings.simplefilter("always")  # as for a user
    monkeypatch.setattr("art_classwise.audit.is_finished", lambda folder: False)
    told, err = document("report", folder)
    assert "warning: The audit isn't finished" in err
    assert told["models"]


# Groups


@pytest.fixture
def animals(classifier, images, tmp_path):
    data = acw.Dataset(images, np.arange(16) % 4, ("cat", "ship", "dog", "truck"))
    audit = acw.ClassWiseAudit("Linf:0.02", ("fgsm",), verbose=False, store=tmp_path / "g")
    return tmp_path / "g", audit.evaluate({"net": classifier}, data)


def test_groups_are_shown(command_line, document, animals):
    folder, result = animals
    code, out, _ = command_line("report", folder, "--groups", "transport-animal")
    assert code == 0
    section = out.partition("net: groups, in % at Linf:0.02")[2]
    table = result.by_group("transport-animal").loc[("net", WORST_CASE)].sort_values("robust", kind="stable")
    names = [line.split()[0] for line in section.splitlines() if line.split()[:1] and line.split()[0] in table.index]
    assert names == list(table.index)
    for name, row in table.iterrows():
        (line,) = [line for line in section.splitlines() if line.strip().startswith(name)]
        assert f"{100 * row['robust']:.1f}" in line
    told, _ = document("report", folder, "--groups", "transport-animal")
    groups = {g["group"]: g for g in told["models"][0]["groups"]}
    assert groups["animal"]["robust"] == table.loc["animal", "robust"]
    assert "groups, in %" not in command_line("report", folder)[1]


def test_groups_that_dont_fit_are_named_before_any_work(command_line, audits, animals):
    code, out, err = command_line("report", audits[0], "--groups", "cifar100")
    assert (code, out) == (2, "")
    assert "CIFAR-100" in err
    code, out, err = command_line("report", animals[0], "--groups", "animls")
    assert code == 2
    assert "'animls' is not one of 'cifar100', 'imagenet', 'imagenet-coarse', 'transport-animal'" in " ".join(
        err.replace("│", " ").split()
    )


def test_a_radius_other_than_in_training_is_told(document, command_line, digits, tmp_path):
    network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
    for name, threat in (("near", "Linf:0.1"), ("far", "Linf:8/255"), ("other", "L2:0.1"), ("unknown", None)):
        acw.save_checkpoint(
            *(f"{name}.pt", network),
            **{"architecture": "digits-cnn", "classes": digits.classes, "threat": threat, "input_shape": (1, 8, 8)},
        )
        network = acw.build("digits-cnn", (1, 8, 8), 10, seed=len(name))
    models = [word for name in ("near", "far", "other", "unknown") for word in ("--model", f"{name}.pt")]
    options = ("--examples", 20, "--attacks", "fgsm", "--no-checks", "--quiet")
    told, err = document("audit", *models, *options)
    line = "far was trained at Linf:8/255 and other was trained at L2:0.1, but are attacked at Linf:0.1."
    assert err.splitlines().count(line) == 1
    expected = {"near": "Linf:0.1", "far": "Linf:8/255", "other": "L2:0.1", "unknown": None}
    assert {model["name"]: model["trained_at"] for model in told["models"]} == expected
    again, err = document("report", "runs/audit")
    assert {model["name"]: model["trained_at"] for model in again["models"]} == expected
    _, err = document("audit", "--model", "near.pt", *options, "--out", "runs/b")
    assert "trained" not in err
