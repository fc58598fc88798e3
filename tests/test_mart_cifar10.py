"""What evaluations/mart_cifar10.py computes beside what it runs, and that a killed run goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import art_classwise as acw
from art_classwise.trainers import _checkpoint
from art_classwise.trainers.recipes import paper_recipe

FOLDER = Path(__file__).parents[1] / "evaluations"


@pytest.fixture
def script(evaluation):
    return evaluation("mart_cifar10")


@pytest.fixture
def files(tmp_path):
    """Sets of grey noise, whose class shows in its brightness: 60 images to train on, 40 to test on."""
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("test", 40)):
        y = np.arange(n) % 10
        x = (rng.integers(0, 40, (n, 32, 32, 3)) + 20 * y[:, None, None, None]).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    return ["--train", str(tmp_path / "train.npz"), "--test", str(tmp_path / "test.npz")]


@pytest.fixture
def fake(script):
    """Two classes, 4 and 2 images: 3 and 2 right without attack; 2 and 1 under fgsm, 1 and 0 under pgd-20 etc."""
    label, clean = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    withstood = {"fgsm": [1, 1, 0, 0, 1, 0], "pgd-20": [1, 0, 0, 0, 0, 0], "cw-30": [0] * 6, "autoattack": [0] * 6}
    parts = []
    for model in ("mart best", "mart last"):
        for attack, right in withstood.items():
            for rows in (slice(0, 3), slice(3, 6)):
                right_now = np.array(right, bool)[rows]
                frame = {
                    "example": np.arange(6)[rows],
                    "label": label[rows],
                    "clean_prediction": clean[rows],
                    "prediction": np.where(right_now, label[rows], 1 - label[rows]),
                    "withstood": right_now,
                    "margin": np.where(right_now, 1.0, -1.0),
                }
                outcomes = pd.DataFrame(frame)
                for column, value in (("attack", attack), ("model", model)):
                    outcomes.insert(0, column, pd.Categorical([value] * 3))
                info = {"n_examples": 3, "attacks": {attack: {}}}
                parts.append([acw.AuditResult(outcomes, ("cat", "dog"), acw.ThreatModel.parse("Linf:8/255"), info)])
    return script.joined(parts)


def test_slices_of_an_audit_are_joined(fake):
    assert fake.models == ("mart best", "mart last")
    assert fake.attacks == ("fgsm", "pgd-20", "cw-30", "autoattack")
    assert len(fake.outcomes) == 2 * 4 * 6
    assert (fake.info["n_examples"], set(fake.info["attacks"])) == (6, set(fake.attacks))


def test_the_table_counts_what_was_right(script, fake):
    table = script.table(fake)
    assert len(table) == 2 * 5 * 3
    row = table.set_index(["method", "weights", "attack", "class"]).loc
    expected = {
        ("clean", "cat"): (4, 3), ("clean", "dog"): (2, 2), ("clean", "mean"): (6, 5),
        ("fgsm", "cat"): (4, 2), ("fgsm", "dog"): (2, 1), ("fgsm", "mean"): (6, 3),
        ("pgd-20", "cat"): (4, 1), ("pgd-20", "dog"): (2, 0), ("pgd-20", "mean"): (6, 1),
    }  # fmt: skip
    for (attack, name), (n, right) in expected.items():
        got = row["mart", "last", attack, name]
        assert got["n"] == n
        low, high = acw.metrics.wilson(right, n)
        assert [got["accuracy"], got["low"], got["high"]] == pytest.approx([right / n, float(low), float(high)])
        assert got["eps x 255"] == pytest.approx(0 if attack == "clean" else 8)


def test_a_class_without_images_is_no_number(script, fake):
    outcomes = fake.outcomes[fake.outcomes["label"] == 0]
    table = script.table(acw.AuditResult(outcomes, fake.classes, fake.threat, fake.info))
    rows = table[(table["attack"] == "fgsm") & (table["weights"] == "best")].set_index("class")
    assert rows.loc["dog", "n"] == 0
    assert rows.loc["dog", ["accuracy", "low", "high"]].isna().all()
    assert rows.loc["mean", "accuracy"] == 0.5


def test_the_papers_numbers_stand_beside_its_own_network_only(script, fake):
    table = script.table(fake)
    full, small = (script.report(table, published=p) for p in (True, False))
    for number in ("83.07", "65.65", "55.57", "54.87", "47.49", "47.51"):
        assert number in full
        assert number not in small
    assert "pgd-20 -38.90 (aim 55.57), autoattack -47.50 (aim 47.5)" in full  # one of six is right, and none
    for text in (full, small):
        rows = [line.split() for line in text.splitlines() if line.startswith("mart best ")]
        assert rows[0] == ["mart", "best", "83.33", "50.00", "16.67", "0.00", "0.00"]
        assert ["mart", "best", "25.00", "0.00"] in rows  # cat and dog under pgd-20


def test_attacks_are_the_papers(script):
    classifier = acw.as_classifier(script.network("cpu"), (3, 32, 32), 10, device="cpu")
    made = {name: make(classifier) for name, make in script.ATTACKS.items()}
    assert list(made) == ["fgsm", "pgd-20", "cw-30", "autoattack"]
    assert {(a.eps, str(a.norm)) for a in made.values()} == {(8 / 255, "inf")}
    searches = {
        name: (a.loss, a.eps_step, a.max_iter, a.num_random_init, a.momentum, a.early_stop)
        for name, a in made.items()
        if name != "autoattack"
    }
    assert searches == {
        "fgsm": ("cross_entropy", 8 / 255, 1, 0, 0.0, False),
        "pgd-20": ("cross_entropy", 0.003, 20, 1, 0.0, False),
        "cw-30": ("margin", 0.003, 30, 1, 0.0, False),
    }
    auto = made["autoattack"]
    assert (auto.members, auto.n_iter, auto.n_queries) == (("apgd-ce", "apgd-t", "fab-t", "square"), 100, 5000)


def test_the_small_network(script):
    """Weights of each layer: inputs x kernel x outputs, and biases."""
    before = torch.get_rng_state()
    network = script.network("cpu")
    assert torch.equal(torch.get_rng_state(), before)
    weights = (3 * 16 * 16 + 16) + (16 * 16 * 32 + 32) + (32 * 8 * 8 * 100 + 100) + (100 * 10 + 10)
    assert sum(p.numel() for p in network.parameters()) == weights
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert all(map(torch.equal, network.parameters(), script.network("cpu").parameters()))


def test_full_size_is_the_papers_recipe(script):
    full = script.SIZES["full"]
    assert full.methods == ("mart",)
    assert script.scaled_recipe("mart", full, full.epochs) == paper_recipe("mart", "resnet18", "cifar10")
    assert full.epochs == 120
    network = script.network("full")
    assert sum(p.numel() for p in network.parameters()) == 11_173_962  # as commonly reported for CIFAR's ResNet-18


def test_a_shorter_recipe_falls_at_the_same_fractions(script):
    cpu = script.SIZES["cpu"]
    mart = script.scaled_recipe("mart", cpu, 12)
    assert mart.decay == ((8, 0.1), (10, 0.01), (11, 0.001))  # after 74, 89 and 99 of 120 epochs: 7.4, 8.9, 9.9 of 12
    assert all(first > 1 for first, _ in script.scaled_recipe("mart", cpu, 1).decay)
    budget = ("threat", "eps_step", "steps", "epochs", "batch_size", "lr", "momentum", "weight_decay", "decay")
    budget += ("crop_padding", "flip")
    for method, beta in (("standard", None), ("trades", 6.0)):
        other = script.scaled_recipe(method, cpu, 12)
        assert (other.method, other.beta, other.exact) == (method, beta, False)
        assert all(getattr(other, name) == getattr(mart, name) for name in budget)
    assert (mart.threat.eps, mart.eps_step, mart.steps, mart.beta, mart.exact) == (0.031, 0.007, 10, 5.0, True)


def test_at_cpu_size_no_image_is_both_chosen_on_and_evaluated(script):
    rng = np.random.default_rng(0)
    test = acw.Dataset(np.zeros((3000, 3, 2, 2), np.float32), rng.integers(0, 10, 3000), tuple("abcdefghij"))
    cpu, full = script.SIZES["cpu"], script.SIZES["full"]
    chosen, attacked = script.chosen_on(test), script.evaluated_on(test, cpu.per_class)
    np.testing.assert_array_equal(chosen.ids, np.arange(1000))
    assert not set(chosen.ids) & set(attacked.ids)
    assert np.bincount(attacked.y).tolist() == [cpu.per_class] * 10
    fewer = script.evaluated_on(test, cpu.autoattack_per_class)
    assert np.bincount(fewer.y).tolist() == [cpu.autoattack_per_class] * 10
    assert set(fewer.ids) < set(attacked.ids)
    assert script.evaluated_on(test, full.per_class) is script.evaluated_on(test, full.autoattack_per_class) is test


def test_a_killed_run_goes_on_and_ends_the_same(script, files, tmp_path, monkeypatch, capsys):
    quick = partial(acw.AutoAttack, eps=script.EPS, n_iter=3, n_queries=3, verbose=False)
    monkeypatch.setitem(script.ATTACKS, "autoattack", quick)
    monkeypatch.setattr(script, "SLICE", 16)
    monkeypatch.setattr(acw, "as_classifier", partial(acw.as_classifier, device="cpu"))  # a GPU may add otherwise

    def run(name, *more):
        script.main(
            [
                *("--size", "cpu", "--epochs", "2", "--methods", "standard", "mart", *files, *more),
                *("--out", str(tmp_path / name), "--checkpoint-dir", str(tmp_path / name)),
            ]
        )
        return {
            path.name: pd.read_csv(path).drop(columns=["images_per_second", "command"], errors="ignore")
            for path in (tmp_path / name).glob("*.csv")
        }

    whole = run("whole")
    assert set(whole) == {"mart_cifar10_cpu.csv", "mart_cifar10_cpu_history.csv"}
    results, history = whole.values() if "weights" in next(iter(whole.values())) else reversed(whole.values())
    assert history["epoch"].tolist() == [1, 2, 1, 2]
    assert len(results) == 2 * 2 * 5 * 11  # methods, weights, attacks with none, classes with their mean
    assert set(results.loc[results["class"] == "mean", "n"]) == {20}  # half of the test set; the other half chose
    best = history.loc[history.groupby("method", sort=False)["val_robust"].idxmax()].set_index("method")["epoch"]
    for (method, weights), rows in results.groupby(["method", "weights"]):
        assert set(rows["epoch"]) == {best[method] if weights == "best" else 2}
    assert {"hardware", "versions", "recipe"} <= set(results) & set(history)

    write = _checkpoint.TrainingFile.write

    def write_and_die(self, state):
        write(self, state)
        raise KeyboardInterrupt

    evaluate = acw.ClassWiseAudit.evaluate

    def evaluate_once(self, models, data):
        if list((tmp_path / "killed").glob("standard/outcomes/*")):
            raise KeyboardInterrupt
        return evaluate(self, models, data)

    for target, name, deadly in (
        (_checkpoint.TrainingFile, "write", write_and_die),
        (acw.ClassWiseAudit, "evaluate", evaluate_once),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, deadly)
            with pytest.raises(KeyboardInterrupt):
                run("killed")
    after = run("killed")
    for name, table in whole.items():
        pd.testing.assert_frame_equal(after[name], table)

    with monkeypatch.context() as patch:  # all outcomes are there: none is made anew
        patch.setattr(acw.ClassWiseAudit, "evaluate", None)
        pd.testing.assert_frame_equal(
            run("killed", "--evaluate-only")["mart_cifar10_cpu.csv"], whole["mart_cifar10_cpu.csv"]
        )
    assert "mart last, autoattack" in capsys.readouterr().out


def test_training_alone_and_what_is_missing(script, files, tmp_path, capsys):
    where = ["--size", "cpu", "--epochs", "1", "--methods", "mart"]
    where += ["--out", str(tmp_path / "out"), "--checkpoint-dir", str(tmp_path / "runs")]
    with pytest.raises(SystemExit, match="^error: There is no file .*training.pt"):
        script.main([*where, *files, "--evaluate-only"])
    script.main([*where, *files, "--train-only"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mart_cifar10_cpu_history.csv"]
    with pytest.raises(SystemExit):
        script.main([*where, *files[2:]])
    assert "--train is needed" in capsys.readouterr().err


def test_the_command_holds_no_folders(script):
    arguments = script._arguments(["--size", "cpu", "--train", "/home/me/a.npz", "--test", "b.npz", "--epochs", "3"])
    assert script._command(arguments) == (
        "python evaluations/mart_cifar10.py --size cpu --test b.npz --train a.npz --epochs 3"
    )
