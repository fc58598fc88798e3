"""The experiments on classes: what they compute beside what they run, and that a killed run goes on."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import art_classwise as acw
from art_classwise.trainers.recipes import plain_recipe

TINY = ("--dataset", "digits", "--seeds", "2", "--epochs", "2", "--steps", "1", "--n-train", "300", "--n-test", "60")


def test_intervals_over_seeds_are_students(evaluation):
    small = evaluation("_small")
    values = [0.3, 0.5, 0.45]
    mean, low, high = small.over_seeds(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert small.shown([0.5, 0.5]) == "50.0 (50.0–50.0)"
    assert small.shown([0.123]) == "12.3"  # one seed tells of no spread


def test_the_network_of_few_channels_has_the_weights_it_says(evaluation):
    small = evaluation("_small")
    network = small.network("mnist", 0)
    n = sum(p.numel() for p in network.parameters())
    assert f"{n:,} weights" in small.network.__doc__
    other = small.network("mnist", 0)
    assert all((a == b).all() for a, b in zip(network.parameters(), other.parameters(), strict=True))


def runs_of(**accuracies):
    """Runs by policy: worst-class accuracies by seed."""
    return pd.DataFrame(
        {"objective": "trades", "policy": policy, "seed": seed, "n": 9, "clean": 0.9, "robust": 0.5, "worst": worst}
        for policy, values in accuracies.items()
        for seed, worst in enumerate(values)
    )


def test_a_policys_change_is_paired_by_seed(evaluation):
    """Seeds may differ by more than the policy changes, and it shows nevertheless."""
    script = evaluation("class_policies")
    runs = runs_of(none=[0.1, 0.4, 0.7], DAFA=[0.15, 0.46, 0.76])
    table = script.summary(runs.sample(frac=1, random_state=0)).set_index("policy")
    low, high = stats.ttest_rel([0.15, 0.46, 0.76], [0.1, 0.4, 0.7]).confidence_interval(0.95)
    columns = ["worst change", "worst change low", "worst change high"]
    assert table.loc["DAFA", columns].tolist() == pytest.approx([np.mean([0.05, 0.06, 0.06]), low, high])
    assert table.loc["none", columns].isna().all()  # nothing it was compared with
    assert low > 0
    shown = script.readable(runs).set_index("policy")
    assert shown.loc["DAFA", "worst change"].startswith("5.7 (")
    assert shown.loc["none", "worst change"] == ""


def test_policies_are_trained_attacked_and_kept(evaluation, monkeypatch, tmp_path, capsys):
    script = evaluation("class_policies")
    monkeypatch.setattr(script, "OBJECTIVES", ("trades",))
    arguments = (*TINY, "--store", str(tmp_path / "store"), "--out", str(tmp_path))
    script.main(arguments)
    runs = pd.read_csv(tmp_path / "class_policies_digits_runs.csv")
    assert len(runs) == 2 * (11 + 1)  # two seeds of ten policies and controls, none, and BAT
    assert runs["n"].eq(60).all()
    by_class = runs[[f"robust {k}" for k in range(10)]]
    np.testing.assert_allclose(runs["robust"], by_class.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(runs["worst"], by_class.min(axis=1), atol=1e-4)
    base = json.loads((tmp_path / "store" / "digits" / "trades-none-0" / "result.json").read_text())
    assert base["weakest on validation"] in range(10)
    capsys.readouterr()
    # Again, with one result gone: that training alone is read from its folder and attacked anew.
    gone = tmp_path / "store" / "digits" / "trades-WAT-1" / "result.json"
    gone.unlink()
    audits = []
    evaluate = acw.ClassWiseAudit.evaluate
    monkeypatch.setattr(acw.ClassWiseAudit, "evaluate", lambda self, *a: audits.append(1) or evaluate(self, *a))
    script.main(arguments)
    assert len(audits) == 1
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "class_policies_digits_runs.csv"), runs)
    with pytest.raises(SystemExit, match="holds trainings of another size: choose another --store"):
        script.main((*arguments, "--epochs", "3"))


def test_dividing_a_loss_is_made_up_for_by_rate_and_decay(evaluation):
    """SGD takes the same steps."""
    script = evaluation("class_policies")
    recipe, ends = plain_recipe("trades"), []
    for factor in (1.0, 7.0):
        weight = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
        scaled = script._rescaled(recipe, factor)
        optimizer = scaled.optimizer(torch.nn.ParameterList([weight]))
        for _ in range(50):
            optimizer.zero_grad()
            ((weight - 1).pow(4).sum() / 100 / factor).backward()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)
    assert not torch.allclose(ends[0], torch.tensor([2.0, -1.0]), atol=0.05)


def test_homing_is_measured_over_seeds(evaluation, tmp_path, capsys):
    script = evaluation("class_exclusion")
    learnt = ("--epochs", "12", "--n-train", "600", "--n-test", "200")  # enough for an attack to move some
    script.main((*TINY, *learnt, "--classes", "1", "8", "--store", str(tmp_path / "store"), "--out", str(tmp_path)))
    pairs = pd.read_csv(tmp_path / "class_exclusion_digits_pairs.csv")
    pooled = pd.read_csv(tmp_path / "class_exclusion_digits.csv")
    assert set(pooled["excluded"]) == {1, 8}
    assert pooled["n"].sum() == pairs["n"].sum()
    assert pooled["n"].max() < 200  # moved examples, not all of the test's
    assert pooled["test examples"].eq(200).all()
    homed = (pairs["homed"] * pairs["n"]).groupby([pairs["seed"], pairs["excluded"]]).sum()
    for row in pooled.itertuples():
        assert homed[row.seed, row.excluded] == pytest.approx(row.homed * row.n, abs=0.01)
    assert "2 seeds" in capsys.readouterr().out


def test_all_excluded_classes_are_averaged_by_their_examples(evaluation):
    script = evaluation("class_exclusion")
    pooled = pd.DataFrame(
        {
            "excluded": ["a", "b", "a", "b"],
            "seed": [0, 0, 1, 1],
            "n": [30, 10, 10, 10],
            "homed": [0.9, 0.5, 0.7, 0.5],
            "control_homed": [0.1, 0.1, 0.2, 0.0],
            "difference": [0.8, 0.4, 0.5, 0.5],
        }
    )
    table = script.readable(pooled).set_index("excluded")
    assert table["moved"].to_dict() == {"a": 40, "b": 20, "all": 60}
    assert table.loc["all", "homed"].startswith("70.0 (")  # the mean of (27 + 5) / 40 and (7 + 5) / 20
    assert table.loc["b", "homed"] == "50.0 (50.0–50.0)"


def test_both_trainings_on_few_labels_take_as_many_steps(evaluation, monkeypatch, tmp_path):
    """On digits in MNIST's place, enlarged; the seeds draw other labels."""
    script = evaluation("semi_supervised")

    def load(dataset, split, root, n_examples=None):
        data = acw.load_dataset("digits", split)
        x = np.pad(data.x.repeat(3, 2).repeat(3, 3), ((0, 0), (0, 0), (2, 2), (2, 2)))
        return acw.Dataset(x, data.y, data.classes, "mnist", split).first(n_examples or 400)

    steps, fit = [], acw.AdversarialTrainerMARTPyTorch.fit

    def counted(self, *arguments, **options):
        step = self._classifier.optimizer.register_step_post_hook(lambda *_: steps.__setitem__(-1, steps[-1] + 1))
        steps.append(0)
        try:
            return fit(self, *arguments, **options)
        finally:
            step.remove()

    monkeypatch.setattr(script, "load", load)
    monkeypatch.setattr(acw.AdversarialTrainerMARTPyTorch, "fit", counted)
    sizes = (
        "--seeds",
        "2",
        "--labels",
        "128",
        "--epochs",
        "2",
        "--steps",
        "1",
        "--n-test",
        "40",
        "--n-autoattack",
        "2",
    )
    script.main((*sizes, "--store", str(tmp_path / "store"), "--out", str(tmp_path)))
    assert steps == [4, 4, 4, 4]
    runs = pd.read_csv(tmp_path / "semi_supervised_mnist.csv")
    assert runs["unlabelled"].tolist() == [0, 272, 0, 272]
    assert runs["labels"].eq(128).all()
    assert runs["confidence"].notna().tolist() == [False, True, False, True]
