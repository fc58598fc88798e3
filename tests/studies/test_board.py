"""Places on RobustBench's leaderboard: ranks by counting, and every mismatch named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import art_classwise as acw
from art_classwise import InputError
from art_classwise.audit import Manifest
from art_classwise.audit.manifest import Published
from art_classwise.audit.result import AuditResult
from art_classwise.datasets.catalog import CORRUPTIONS, SEVERITIES
from art_classwise.studies import board as module
from art_classwise.studies import place_on_board
from art_classwise.zoo import robustbench_board, robustbench_names

AUTOATTACK = {
    "class": "art_classwise.attacks.autoattack.AutoAttack",
    "attacks": "standard",
    "eps": 8 / 255,
    "norm": "inf",
}


@pytest.fixture
def labels(monkeypatch):
    """Labels that stand for those of the test set."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 1000))
    digest = hashlib.sha256(y.astype(np.uint8).tobytes()).hexdigest()
    monkeypatch.setitem(module._LABELS, "cifar10", digest)
    return y


def result_of(y, robust, *, eps=8 / 255, norm="Linf", parameters=AUTOATTACK, attack="autoattack", published=None):
    """An audit of one model for each number of examples that withstand."""
    tables = []
    for model, k in robust.items():
        withstood = np.arange(len(y)) < k
        right = np.arange(len(y)) < max(k, int(0.9 * len(y)))
        tables.append(
            pd.DataFrame(
                {
                    "model": model,
                    "attack": attack,
                    "example": np.arange(len(y)),
                    "label": y.astype(np.int32),
                    "clean_prediction": np.where(right, y, (y + 1) % 10).astype(np.int32),
                    "prediction": np.where(withstood, y, (y + 1) % 10).astype(np.int32),
                    "withstood": withstood,
                    "clean_margin": np.float32(1),
                    "margin": np.float32(1),
                    "perturbation": np.float32(eps),
                    "zero_gradient": False,
                }
            )
        )
    outcomes = pd.concat(tables, ignore_index=True).astype({"model": "category", "attack": "category"})
    manifest = Manifest.of_table(
        outcomes,
        list("abcdefghij"),
        acw.ThreatModel(norm, eps),
        attacks={attack: parameters},
        dataset="cifar10",
        split="test",
        published=published or {},
    )
    return AuditResult(outcomes, manifest)


def test_the_board_has_all_published_models():
    table = robustbench_board()
    assert len(table) == 100  # 99, and the network without defence
    assert set(robustbench_names()) < set(table.index)
    assert {"Madry2018Towards", "Alfarra2020ClusTR"} <= set(table.index) - set(robustbench_names())
    assert (np.diff(table["ranked"]) <= 0).all()
    assert table.loc["Kang2021Stable", "ranked"] == 0.6420  # by the attack that broke more
    assert table.loc["Qin2019Adversarial", "ranked"] == 0.5281
    assert [1 + int((table["ranked"] > value).sum()) for value in table["ranked"]] == table["rank"].tolist()
    with pytest.raises(InputError, match="no L2 leaderboard of cifar100; it has"):
        robustbench_board("cifar100", "L2")


def test_ranks_are_counted(labels):
    counts = {"best": 9000, "good": 5600, "none": 0}
    table = place_on_board(result_of(labels, counts))
    ranked = robustbench_board()["ranked"].to_numpy()
    for model, k in counts.items():
        row = table.loc[model]
        assert row["rank"] == 1 + sum(value > k / 10_000 for value in ranked)
        assert row["entries"] == 101
        assert row["rank_low"] <= row["rank"] <= row["rank_high"]
        assert row["robust"] == k / 10_000
    assert list(table.index) == ["best", "good", "none"]
    assert tuple(table.loc["best", ["rank", "rank_low", "rank_high"]]) == (1, 1, 1)
    assert table.loc["none", "rank_high"] == 101
    # By the normal approximation, which at these numbers is as good.
    z = norm.ppf(1 - 0.05 / 100 / 2)
    half = z * np.sqrt(0.56 * 0.44 / 10_000 + ranked * (1 - ranked) / 10_000)
    assert abs(table.loc["good", "rank_low"] - (1 + sum(ranked - 0.56 > half))) <= 1
    assert abs(table.loc["good", "rank_high"] - (101 - sum(0.56 - ranked > half))) <= 1
    assert 40 > table.loc["good", "rank_high"] - table.loc["good", "rank_low"] > 5


def test_the_true_rank_lies_within_as_often_as_promised(labels):
    """Of 10 published models of known accuracy and one measured, 400 times; others' numbers vary, too."""
    rng = np.random.default_rng(1)
    true, mine, missed = np.linspace(0.40, 0.58, 10), 0.495, 0
    rank = 1 + int((true > mine).sum())
    for _ in range(400):
        published, measured = rng.binomial(10_000, true) / 10_000, rng.binomial(10_000, mine) / 10_000
        ahead, behind = module._apart(measured, published, 10_000, 1 - 0.05 / 10)
        missed += not 1 + ahead <= rank <= 11 - behind
    assert missed <= 0.05 * 400


def test_a_published_model_isnt_compared_with_itself(labels):
    known = Published(
        source="robustbench:cifar10/Linf/Wong2020Fast", norm="Linf", eps=8 / 255, clean=0.8334, robust=0.4321
    )
    result = result_of(labels, {"fast": 4321}, published={"fast": known})
    row = place_on_board(result).loc["fast"]
    assert row["published"] == "Wong2020Fast"
    assert row["entries"] == 100
    assert row["rank"] == robustbench_board().loc["Wong2020Fast", "rank"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eps": 4 / 255}, "Radius: the audit is of eps = Linf:4/255, the leaderboard of Linf:8/255"),
        ({"norm": "L2", "eps": 0.5}, "Norm: the audit is of L2"),
        (
            {"parameters": {}, "attack": "pgd-20"},
            "Attack: the leaderboard is of standard AutoAttack, the audit of pgd-20",
        ),
        ({"parameters": {**AUTOATTACK, "attacks": ["square"]}}, "Attack: the leaderboard is of standard AutoAttack"),
        (
            {"parameters": {**AUTOATTACK, "eps": 4 / 255}},
            "Attack: autoattack is AutoAttack with another norm or radius",
        ),
    ],
)
def test_what_isnt_fair_is_refused(labels, change, says):
    with pytest.raises(InputError, match=says.replace("|", r"\|")):
        place_on_board(result_of(labels, {"net": 5000}, **change))


def test_every_mismatch_is_named(labels):
    result = result_of(labels[:1000], {"net": 500}, eps=2 / 255, parameters={}, attack="fgsm")
    told = module.mismatches(replace(result, missing=("pgd-20 is missing.",)), "cifar10", "Linf")
    assert [one.partition(":")[0] for one in told] == [
        "The audit isn't finished",
        "Radius",
        "Attack",
        "Number of images",
    ]
    shuffled = result_of(labels[::-1], {"net": 500})
    assert "Choice of images" in module.mismatches(shuffled, "cifar10", "Linf")[0]
    assert "cifar100" in " ".join(module.mismatches(shuffled, "cifar100", "Linf"))
    assert "chosen by file" in " ".join(module.mismatches(shuffled, "imagenet", "Linf"))
    assert "common corruptions" in module.mismatches(shuffled, "cifar10", "corruptions")[0]


def test_the_mean_of_all_corruptions_ranks_among_published_ones(monkeypatch):
    n, rng = 40, np.random.default_rng(0)
    y = rng.integers(0, 10, n)
    monkeypatch.setitem(module._IMAGES, "cifar10", n)
    monkeypatch.setitem(module._LABELS, "cifar10", hashlib.sha256(y.astype(np.uint8).tobytes()).hexdigest())
    names = [f"{kind}:{severity}" for kind in CORRUPTIONS for severity in SEVERITIES]
    right = rng.random((75, n)) < np.linspace(0.7, 1, n)
    parts = [result_of(y, {"net": 0}, norm="corruptions", eps=1, attack=name).outcomes for name in names]
    outcomes = pd.concat(
        [part.assign(withstood=withstood) for part, withstood in zip(parts, right, strict=True)], ignore_index=True
    )
    outcomes["attack"] = pd.Categorical(outcomes["attack"], names)

    def audit(source, some=names):
        told = {
            name: {"class": "art_classwise.Corruption", "corruption": kind, "severity": int(severity), "source": source}
            for name in some
            for kind, _, severity in [name.partition(":")]
        }
        of = outcomes[outcomes["attack"].isin(some)].assign(attack=lambda rows: rows["attack"].cat.set_categories(some))
        options = {"attacks": told, "dataset": "cifar10", "split": "test"}
        return AuditResult(of, Manifest.of_table(of, list("abcdefghij"), acw.ThreatModel("corruptions", 1), **options))

    row = place_on_board(audit("CIFAR-10-C"), "cifar10", "corruptions").loc["net"]
    published = robustbench_board("cifar10", "corruptions")["robust"]
    assert row["robust"] == pytest.approx(right.mean())
    assert row["rank"] == 1 + sum(published > right.mean())
    assert row["rank_low"] <= row["rank"] <= row["rank_high"]
    for other, says in ((audit("made"), "of CIFAR-10-C, all fifteen"), (audit("CIFAR-10-C", names[:-1]), "or of some")):
        with pytest.raises(InputError, match=says):
            place_on_board(other, "cifar10", "corruptions")
    with pytest.raises(InputError, match="the leaderboard is of attacks"):
        place_on_board(audit("CIFAR-10-C"))
    with pytest.raises(InputError, match="the leaderboard is of common corruptions, the audit of attacks"):
        place_on_board(result_of(y, {"net": 5}), "cifar10", "corruptions")


def test_labels_are_those_of_the_test_sets(shared):
    for name, digest in module._LABELS.items():
        with np.load(shared / "data" / name / "labels.npz") as held:
            assert hashlib.sha256(held["test_y"].astype(np.uint8).tobytes()).hexdigest() == digest


def test_on_the_command_line(labels, command_line, tmp_path):
    result_of(labels, {"mine": 5600, "a" * 60: 4500}).save(tmp_path / "run")
    code, out, err = command_line("zoo", "--rank", tmp_path / "run", "--out", tmp_path / "places.csv")
    assert (code, err) == (0, "")
    row = place_on_board(result_of(labels, {"mine": 5600})).loc["mine"]
    assert f"mine: {row['rank']}" in out
    assert "of 101, between" in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    assert pd.read_csv(tmp_path / "places.csv", index_col=0).loc["mine", "rank"] == row["rank"]
    code, out, _ = command_line("zoo", "--rank", tmp_path / "run", "--json")
    told = json.loads(out)
    assert (told["kind"], len(told["board"])) == ("ranking", 100)
    assert told["models"][0]["rank"] == row["rank"]
    code, _, err = command_line("zoo", "--rank", tmp_path / "run", "--threat", "L2")
    assert code == 2
    assert err.count("\n- ") == 2  # norm and radius
    code, _, err = command_line("zoo", "--rank", tmp_path / "run", "--here")
    assert (code, "without --here" in err) == (2, True)
