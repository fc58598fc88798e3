"""What evaluations/claims/mart_cifar10.py computes beside what it runs, and that a killed run goes on."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import art_classwise as acw
from art_classwise.trainers import trained_weights
from art_classwise.trainers.engine import checkpoint
from art_classwise.trainers.recipes import paper_recipe


@pytest.fixture
def script(evaluation):
    return evaluation("mart_cifar10")


@pytest.fixture
def mart(script):
    return sys.modules["lib.mart"]


@pytest.fixture
def claims(script):
    return sys.modules["lib.mart_claims"]


def outcomes_of(right, *, kind="mart", seed=0, label=(0, 0, 0, 0, 1, 1), part="white"):
    """Outcomes by attack, whether each image was right."""
    frames = [
        pd.DataFrame(
            {"attack": attack, "example": np.arange(len(label)), "label": label, "right": np.array(values, bool)}
        )
        for attack, values in right.items()
    ]
    return pd.concat(frames, ignore_index=True).assign(kind=kind, weights="best", seed=seed, part=part)


@pytest.fixture
def fake():
    """Two classes, 4 and 2 images: 3 and 2 right without attack; 2 and 1 under fgsm, 1 and 0 under pgd-20 etc."""
    right = {"clean": [1, 1, 1, 0, 1, 1], "fgsm": [1, 1, 0, 0, 1, 0], "pgd-20": [1, 0, 0, 0, 0, 0]}
    return outcomes_of({**right, "cw-30": [0] * 6, "autoattack": [0] * 6})


@pytest.fixture
def networks():
    recipe = paper_recipe("mart", "resnet18", "cifar10")
    return SimpleNamespace(epoch=lambda kind, seed, weights: 76 + seed, recipe=lambda method: recipe, eps=8 / 255)


def test_the_tables_count_what_was_right(script, fake, networks):
    overall = script.summary(fake, networks).set_index("attack").loc
    for attack, right in {"clean": 5, "fgsm": 3, "pgd-20": 1, "cw-30": 0}.items():
        low, high = acw.metrics.wilson(right, 6)
        got = overall[attack]
        assert [got["accuracy"], got["low"], got["high"]] == pytest.approx([right / 6, float(low), float(high)])
        assert (got["n"], got["seeds"], got["epochs"]) == (6, 1, "76")
        assert got["eps x 255"] == pytest.approx(0 if attack == "clean" else 8)
    classes = script.by_class(fake, ("cat", "dog")).set_index(["attack", "class"]).loc
    expected = {("clean", "cat"): (4, 3), ("clean", "dog"): (2, 2), ("fgsm", "cat"): (4, 2), ("pgd-20", "dog"): (2, 0)}
    for of, (n, right) in expected.items():
        low, high = map(float, acw.metrics.wilson(right, n))
        got = classes[of]
        assert [got["n"], got["accuracy"], got["low"], got["high"]] == pytest.approx([n, right / n, low, high])


def test_several_seeds_have_an_interval_over_them(script, networks):
    shares = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    rows = [outcomes_of({"pgd-20": s}, seed=i, label=(0, 0, 1, 1)) for i, s in enumerate(shares)]
    (got,) = script.summary(pd.concat(rows), networks).to_dict("records")
    assert (got["seeds"], got["epochs"], got["n"]) == (3, "76, 77, 78", 4)
    half = 4.302653 * 0.25 / np.sqrt(3)  # t with 2 degrees of freedom
    assert [got["accuracy"], got["low"], got["high"]] == pytest.approx([0.5, max(0, 0.5 - half), min(1, 0.5 + half)])


def test_a_class_without_images_is_no_number(script, fake):
    table = script.by_class(fake[fake["label"] == 0], ("cat", "dog"))
    dog = table[(table["attack"] == "fgsm") & (table["class"] == "dog")].iloc[0]
    assert dog["n"] == 0
    assert dog[["accuracy", "low", "high"]].isna().all()


def test_the_papers_numbers_stand_beside_its_own_network_only(script, claims, fake, networks):
    overall = script.summary(fake, networks)
    full, small = (claims.report(overall, published=p) for p in (True, False))
    for number in ("83.07", "65.65", "55.57", "54.87", "47.49", "47.51"):
        assert number in full
        assert number not in small
    assert "pgd-20 -38.90 (aim 55.57), autoattack -47.50 (aim 47.5)" in full  # one of six is right, and none
    for text in (full, small):
        rows = [line.split() for line in text.splitlines() if line.startswith("mart, best ")]
        assert rows == [["mart,", "best", "83.33", "50.00", "16.67", "0.00", "0.00"]]
    both = {p: claims.judged({"white": pair(claims)}, "CIFAR-10", published=p) for p in (True, False)}
    assert all(not claim.published for claim in both[False])
    assert any(claim.published for claim in both[True])


def pair(claims):
    """Outcomes of MART and AT on eight images, of which AutoAttack was tried on four."""
    label = (0, 0, 0, 0, 1, 1, 1, 1)
    mart = {"pgd-20": [1, 1, 1, 1, 1, 1, 0, 0], "cw-30": [1, 0, 1, 1, 1, 0, 0, 1]}
    standard = {"pgd-20": [1, 1, 1, 0, 1, 0, 0, 0], "cw-30": [1, 1, 1, 0, 1, 0, 0, 0]}
    few = {"mart": [1, 0, 1, 0], "standard": [1, 1, 0, 1]}  # of images 0, 1, 4, 7
    rows = []
    for kind, right in (("mart", mart), ("standard", standard)):
        auto = outcomes_of({"autoattack": few[kind]}, kind=kind, label=(0, 0, 1, 1))
        auto["example"] = auto["example"].map({0: 0, 1: 1, 2: 4, 3: 7})
        rows += [outcomes_of(right, kind=kind, label=label), auto]
    return claims.with_together(pd.concat(rows))


def test_claims_are_sums_of_accuracies_on_the_images_that_all_were_tried_on(claims):
    measured = {c.statistic: c for c in claims.judged({"white": pair(claims)}, "CIFAR-10", published=False)}
    assert set(measured) == {
        "PGD-20: MART minus AT",
        "AutoAttack: MART minus AT",
        "PGD-20 minus AutoAttack: MART minus AT",
    }  # there is no TRADES
    assert measured["PGD-20: MART minus AT"].value == pytest.approx(100 * (6 - 4) / 8)
    assert measured["AutoAttack: MART minus AT"].value == pytest.approx(100 * (2 - 3) / 4)
    # Of images 0, 1, 4, 7 MART gets 3 and AT 3 right under PGD-20.
    assert measured["PGD-20 minus AutoAttack: MART minus AT"].value == pytest.approx(100 * ((3 - 2) - (3 - 3)) / 4)
    assert "n = 8 test images, 1 seed" in measured["PGD-20: MART minus AT"].n
    assert "n = 4 test images, 1 seed" in measured["AutoAttack: MART minus AT"].n


def test_together_is_what_withstands_both(claims):
    rows = pair(claims)
    both = rows[rows["attack"] == claims.TOGETHER].set_index(["kind", "example"])["right"]
    assert both["mart"].tolist() == [1, 0, 1, 1, 1, 0, 0, 0]
    assert both["standard"].tolist() == [1, 1, 1, 0, 1, 0, 0, 0]


def test_losses_by_noise_are_compared_by_hand(claims):
    right = {"standard": 6, "mart": 5, "standard, 10 % noise": 3, "mart, 10 % noise": 4}
    rows = [outcomes_of({"pgd-20": [1] * k + [0] * (6 - k)}, kind=kind) for kind, k in right.items()]
    (claim,) = claims.judged({"noise": pd.concat(rows)}, "CIFAR-10", published=False)
    assert claim.claim == "10 % wrong labels cost MART less than AT"
    assert claim.value == pytest.approx(100 * ((6 - 3) - (5 - 4)) / 6)


def test_what_rests_on_a_failed_training_is_unclear(claims):
    label = tuple(np.arange(100) % 2)

    def network(kind, clean, robust):
        right = {"clean": np.arange(100) < clean, "pgd-20": np.arange(100) < robust}
        return outcomes_of(right, kind=kind, label=label)

    for clean, verdict in ((50, "unclear"), (55, "unclear"), (65, "seen")):  # Wilson: 55 from 45, 65 from 55 %
        rows = pd.concat([network("mart", 80, 60), network("standard", clean, 5)])
        (claim,) = claims.judged({"white": rows}, "CIFAR-10", published=False)
        assert (claim.value, claim.verdict) == (pytest.approx(55), verdict)
        assert ("at chance without attack: standard" in claim.n) == (verdict == "unclear")


def test_black_box_is_beside_the_white_box_and_each_ablation_beside_mart(claims, mart):
    right = {"pgd-20": 1, "pgd-20 from natural": 5, "pgd-20 from standard": 3}
    rows = outcomes_of({a: [1] * k + [0] * (6 - k) for a, k in right.items()})
    values = [c.value for c in claims.judged({"black": rows}, "CIFAR-10", published=False)]
    assert values == pytest.approx([400 / 6, 200 / 6, 200 / 6])
    rows = [outcomes_of({"pgd-20": [1] * 3 + [0] * 3}, kind="mart")]
    right = {kind: i % 7 for i, kind in enumerate(mart.ABLATIONS)}
    rows += [outcomes_of({"pgd-20": [1] * i + [0] * (6 - i)}, kind=kind) for kind, i in right.items()]
    values = [c.value for c in claims.judged({"ablations": pd.concat(rows)}, "CIFAR-10", published=False)]
    assert values[:-2] == pytest.approx([100 * (3 - i) / 6 for i in right.values()])
    attacked = ["misclassified attacked by FGSM", "misclassified attacked by CW", "only correct attacked"]
    split = ["KL on misclassified only", "KL on correct only"]
    attack, regulariser = (np.mean([right[kind] for kind in kinds]) for kinds in (attacked, split))
    difference = right[split[0]] - right[split[1]]
    assert values[-2:] == pytest.approx([100 * (attack - regulariser) / 6, 100 * difference / 6])


def test_attacks_are_the_papers(script, mart):
    network = sys.modules["lib.setups"].cnn_a()
    classifier = acw.as_classifier(network, (3, 32, 32), 10, device="cpu")
    made = {
        name: make(classifier) for name, make in {**mart.papers(8 / 255), **mart.autoattack(8 / 255, "full")}.items()
    }
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
    half = mart.papers(4 / 255)["cw-30"](classifier)
    assert (half.eps, half.eps_step) == pytest.approx((4 / 255, 0.0015))
    assert (auto.members, auto.n_iter, auto.n_queries) == (("apgd-ce", "apgd-t", "fab-t", "square"), 100, 5000)


def test_each_ablation_changes_one_switch_of_mart(mart):
    usual = inspect.signature(acw.AdversarialTrainerMARTPyTorch).parameters
    changed = [option for options in mart.ABLATIONS.values() for option in options.items()]
    assert len(changed) == len(mart.ABLATIONS) == 10
    assert {name for name, _ in changed} == {*("boosted", "on", "kl", "weighted", "attacked", "misclassified_attack")}
    assert len({str(option) for option in changed}) == 10
    assert all(usual[name].default != value for name, value in changed)
    assert {k.method for name, k in mart.KINDS.items() if name in mart.ABLATIONS} == {"mart"}
    folders = {mart.folder_of(kind, 0) for kind in mart.KINDS}
    assert len(folders) == len(mart.KINDS)


def test_wrong_labels(mart):
    y = np.repeat(np.arange(10), 500)
    wrong = mart.noisy(y, 0.2, 10, seed=0)
    changed = wrong != y
    assert changed.sum() == 1000
    assert (np.bincount(wrong[changed], minlength=10) > 50).all()  # about 100 of each
    assert set((wrong - y)[changed] % 10) == set(range(1, 10))
    np.testing.assert_array_equal(wrong, mart.noisy(y, 0.2, 10, seed=0))
    assert (wrong != mart.noisy(y, 0.2, 10, seed=1)).any()
    np.testing.assert_array_equal(y, np.repeat(np.arange(10), 500))


@pytest.fixture
def small_full(mart, monkeypatch):
    """Full size on few images and a small network."""
    setup = replace(mart.SETUPS["full"], network="cnn-a", epochs=3, steps=1, n_train=60, n_test=40, n_curve=20)
    monkeypatch.setitem(mart.SETUPS, "full", setup)
    monkeypatch.setattr(acw, "as_classifier", on_cpu(acw.as_classifier))


def on_cpu(make):
    return lambda *a, **options: make(*a, **{**options, "device": "cpu"})


def test_full_size_is_the_papers_recipe_and_others_have_its_budget(mart, tmp_path):
    full = mart.SETUPS["full"]
    assert (full.network, full.epochs, full.n_train, full.n_test, full.n_curve) == ("resnet18", 120, None, None, 1000)
    assert mart.N_ATTACKED["full"] is mart.N_AUTOATTACK["full"] is None
    small = replace(full, n_train=20, n_test=20)
    trainings = mart.Trained(small, None, tmp_path, made_up=True)
    recipe = trainings.recipe("mart")
    assert recipe == paper_recipe("mart", "resnet18", "cifar10")
    assert recipe.epochs == 120
    assert sum(p.numel() for p in trainings.network(0).parameters()) == 11_173_962  # as commonly reported
    budget = ("threat", "eps_step", "steps", "epochs", "batch_size", "lr", "momentum", "weight_decay", "decay")
    budget += ("crop_padding", "flip")
    for method, beta in (("standard", None), ("trades", 6.0), ("natural", None)):
        other = trainings.recipe(method)
        assert (other.method, other.beta, other.exact) == (method, beta, False)
        assert all(getattr(other, name) == getattr(recipe, name) for name in budget)


def test_best_and_last_weights_at_full_size(mart, small_full, tmp_path):
    networks = mart.Networks("full", None, tmp_path, made_up=True)
    assert networks.weights == ("best", "last")
    best, last = (networks.load("mart", 0, w).model.state_dict() for w in ("best", "last"))
    history = networks.history("mart", 0)
    assert networks.epoch("mart", 0, "last") == len(history) == 3
    assert networks.epoch("mart", 0, "best") == 1 + np.argmax(history["val_robust"])
    folder = tmp_path / "mart" / "cifar10-stand-in" / "mart-0" / "training"
    for found, which in ((best, "kept"), (last, "last")):
        expected = trained_weights(folder, which)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    outcomes = networks.outcomes(["mart"], 0, {"fgsm": mart.papers(networks.eps)["fgsm"]})
    assert outcomes.groupby(["weights", "attack"]).size().to_dict() == {
        (w, a): 40 for w in ("best", "last") for a in ("clean", "fgsm")
    }


def test_where_nothing_is_chosen_weights_are_the_last(mart, tmp_path):
    for size in ("tiny", "quick"):
        assert mart.SETUPS[size].recipe == "plain"
    networks = mart.Networks("tiny", None, tmp_path, made_up=True)
    assert networks.weights == ("last",)
    assert set(networks.fewer.ids) < set(networks.data.ids) < set(networks.trainings.test.ids)


def test_small_trainings_begin_at_the_naturally_trained_network(mart, monkeypatch, tmp_path):
    networks, began = mart.Networks("tiny", None, tmp_path, made_up=True), []
    fit = acw.AdversarialTrainerMARTPyTorch.fit

    def look_and_fit(self, *given, **options):
        began.append({name: value.clone() for name, value in self.get_classifier().model.state_dict().items()})
        return fit(self, *given, **options)

    monkeypatch.setattr(acw.AdversarialTrainerMARTPyTorch, "fit", look_and_fit)
    trained = networks.load("mart", 3, "last").model.state_dict()
    natural = networks.load("natural", 3, "last").model.state_dict()
    (first,) = began
    assert all(torch.equal(first[name], natural[name]) for name in natural)
    assert not any(torch.equal(trained[name], natural[name]) for name in natural)
    fresh = networks.trainings.network(3).state_dict()
    assert not all(torch.equal(fresh[name], natural[name]) for name in natural)


def test_surrogates_are_of_another_seed(mart, monkeypatch, tmp_path):
    networks, loaded = mart.Networks("tiny", None, tmp_path, made_up=True), []
    classifier = acw.as_classifier(sys.modules["lib.setups"].cnn_a().eval(), (3, 32, 32), 10, device="cpu")
    monkeypatch.setattr(networks, "load", lambda *of: loaded.append(of) or classifier)
    for seed, seeds, other in ((0, 1, 1), (0, 3, 1), (2, 3, 0)):
        loaded.clear()
        made = mart.transferred(networks, seed, seeds)
        assert loaded == [("natural", other, "last")] * 3 + [("standard", other, "last")] * 3
        assert list(made)[:2] == [f"fgsm from natural {other}", f"pgd-20 from natural {other}"]
        attack = made[f"cw-30 from standard {other}"](classifier)
        assert isinstance(attack, acw.TransferAttack)
        assert (attack.attack.loss, attack.attack.max_iter) == ("margin", 30)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(acw, "as_classifier", on_cpu(acw.as_classifier))  # a GPU may add otherwise

    def run(name):
        where = ["--store", str(tmp_path / name), "--out", str(tmp_path / name)]
        what = ["--parts", "white", "--methods", "standard", "mart", "--seeds", "1"]
        script.main(["--size", "tiny", "--stand-in", *what, *where])
        return {
            path.name: pd.read_csv(path).drop(columns=["images_per_second"], errors="ignore")
            for path in (tmp_path / name).glob("*.csv")
        }

    whole = run("whole")
    name = "mart_cifar10_tiny"
    assert set(whole) == {f"{name}{end}.csv" for end in ("", "_classes", "_epochs", "_claims")}
    assert (tmp_path / "whole" / f"{name}.svg").is_file()
    overall = whole[f"{name}.csv"]
    assert len(overall) == 2 * 6  # clean, three attacks, two of them together, and AutoAttack
    assert set(overall["n"]) == {40, 10}
    assert len(whole[f"{name}_epochs.csv"]) == 2  # of one epoch each
    assert len(whole[f"{name}_claims.csv"]) == 3
    assert {"hardware", "versions", "recipe"} <= set(overall)

    write = checkpoint.TrainingFile.write

    def write_and_die(self, state):
        write(self, state)
        raise KeyboardInterrupt

    evaluate = acw.ClassWiseAudit.evaluate

    def evaluate_once(self, *given):
        if list((tmp_path / "killed").rglob("outcomes")):
            raise KeyboardInterrupt
        return evaluate(self, *given)

    for target, method, deadly in (
        (checkpoint.TrainingFile, "write", write_and_die),
        (acw.ClassWiseAudit, "evaluate", evaluate_once),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, method, deadly)
            with pytest.raises(KeyboardInterrupt):
                run("killed")
    after = run("killed")
    for table, expected in whole.items():
        pd.testing.assert_frame_equal(after[table], expected)
    with monkeypatch.context() as patch:  # all outcomes are there: none is made anew
        patch.setattr(acw.PGD, "generate", None)
        patch.setattr(acw.AutoAttack, "generate", None)
        pd.testing.assert_frame_equal(run("killed")[f"{name}.csv"], overall)
    assert "This isn't the paper's network and training" in capsys.readouterr().out


@pytest.mark.slow
def test_the_other_parts_run(script, tmp_path, capsys):
    where = ["--store", str(tmp_path), "--out", str(tmp_path)]
    script.main(
        [
            "--size",
            "tiny",
            "--stand-in",
            "--parts",
            "black",
            "ablations",
            "noise",
            "--methods",
            "mart",
            "--seeds",
            "1",
            *where,
        ]
    )
    table = pd.read_csv(tmp_path / "mart_cifar10_tiny.csv")
    black = table[table["part"] == "black"]
    assert set(black["kind"]) == {"mart"}
    assert {f"{a} from {s}" for a in ("fgsm", "pgd-20", "cw-30") for s in ("natural", "standard")} < set(
        black["attack"]
    )
    assert table[table["part"] == "ablations"]["kind"].nunique() == 11
    assert table[table["part"] == "noise"]["kind"].nunique() == 6
    claims = pd.read_csv(tmp_path / "mart_cifar10_tiny_claims.csv")
    assert len(claims) == 3 + 24 + 2
    assert claims["published"].isna().all()
    assert {"seen", "not seen", "unclear"} >= set(claims["verdict"])


def test_without_the_data_it_says_so(script, tmp_path, capsys):
    with pytest.raises(SystemExit, match="^3$"):  # which `make evaluate` tells from a failure
        script.main(["--size", "tiny", "--root", str(tmp_path), "--store", str(tmp_path)])
    assert capsys.readouterr().err.startswith(f"error: cifar10 (train) is not in {tmp_path}")
