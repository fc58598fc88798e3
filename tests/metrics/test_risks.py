"""FRL's risks class by class, and rho, by hand and against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from art_classwise import InputError
from art_classwise.metrics.accuracy import risks
from art_classwise.metrics.disparity import rho

RISKS = ["r_nat", "r_bndy", "r_rob"]
# Class 0: 4 examples, 3 right, 1 of them withstands. Class 1: none. Class 2: 2 examples, both right, one withstands.
Y = [0, 2, 0, 0, 2, 0]
CLEAN = [True, True, True, False, True, True]
WITHSTOOD = [True, False, False, False, True, False]


def test_risks_by_hand():
    table = risks(Y, CLEAN, WITHSTOOD, 3, classes=["cat", "dog", "ship"])
    assert table.index.name == "class"
    assert table["n"].to_dict() == {"cat": 4, "dog": 0, "ship": 2}
    assert table.loc["cat", RISKS].tolist() == [0.25, 0.5, 0.75]
    assert table.loc["ship", RISKS].tolist() == [0.0, 0.5, 0.5]
    assert table.loc["dog"].drop("n").isna().all()


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_each_risk_has_its_wilson_interval(confidence):
    rng = np.random.default_rng(0)
    y, clean = rng.integers(0, 4, 300), rng.random(300) < 0.8
    withstood = clean & (rng.random(300) < 0.5)
    table = risks(y, clean, withstood, 4, confidence=confidence)
    for c, row in table.iterrows():
        of_class = y == c
        failed = {"r_nat": ~clean, "r_bndy": clean & ~withstood, "r_rob": ~withstood}
        for risk, bad in failed.items():
            k = (bad & of_class).sum()
            low, high = proportion_confint(k, of_class.sum(), 1 - confidence, method="wilson")
            assert row[[risk, f"{risk}_low", f"{risk}_high"]].tolist() == pytest.approx([k / of_class.sum(), low, high])
    assert table["r_rob"].to_numpy() == pytest.approx((table["r_nat"] + table["r_bndy"]).to_numpy())


def test_pooled_is_the_share_of_all_examples_and_not_the_mean_over_classes():
    table = risks(Y, CLEAN, WITHSTOOD, 3, pooled=True)
    assert table.index.tolist() == ["all"]
    assert table.loc["all", ["n", *RISKS]].tolist() == pytest.approx([6, 1 / 6, 3 / 6, 4 / 6])
    assert table.loc["all", ["r_nat_low", "r_nat_high"]].tolist() == pytest.approx(
        proportion_confint(1, 6, 0.05, method="wilson")
    )
    assert risks(Y, CLEAN, WITHSTOOD, 3)["r_nat"].mean() == 0.125


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: risks([0, 1], [True, False], [True, True], 2),
            "Example 1 is marked as withstood, but is misclassified without an attack",
        ),
        (lambda: risks([], [], [], 2), "at least one example"),
        (lambda: risks([0, 1], [True], [True, False], 2), r"2 labels, but `clean_correct` has shape \(1,\)"),
        (lambda: risks([0, 1], [True, True], [True], 2), r"2 labels, but `withstood` has shape \(1,\)"),
        (lambda: risks([0, 1], [True, True], [True, 2], 2), "`withstood` must be True or False"),
        (lambda: risks([0, 2], [True, True], [True, True], 2), "Label 2 of example 1"),
        (lambda: risks([0, 1], [True, True], [True, True], 2, classes=["a"]), "2 classes, but 1 class names"),
        (lambda: risks([0, 1], [True, True], [True, True], 2, pooled=True, classes=["a"]), "1 class names"),
        (lambda: risks([0, 1], [True, True], [True, True], 2, confidence=95), "between 0 and 1"),
        (lambda: rho(52.4, 0.5, 0.2, 0.5), "`worst` must be a number from 0 to 1"),
        (lambda: rho(0.3, -0.5, 0.2, 0.5), "`average` must"),
        (lambda: rho(0.3, 0.5, -0.1, 0.5), "`worst_base` must"),
        (lambda: rho(0.3, 0.5, 0.2, 50.0), "`average_base` must"),
        (lambda: rho(float("nan"), 0.5, 0.2, 0.5), "`worst` must"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


# Worst and average robust accuracy beside TRADES, AutoAttack, CIFAR-10 (Lee et al. 2024), and rho worked out by hand.
@pytest.mark.parametrize(
    ("worst", "average", "by_hand"),
    [
        (0.3053, 0.4905, 0.43266 - 0.01506),  # DAFA: the worst class gains, the average loses
        (0.2762, 0.5078, 0.29610 + 0.01968),  # CFA: both gain
        (0.1782, 0.4589, -0.16377 - 0.07851),  # BAT: both lose
        (0.2131, 0.4980, 0.0),
    ],
)
def test_rho_by_hand(worst, average, by_hand):
    assert rho(worst, average, 0.2131, 0.4980) == pytest.approx(by_hand, abs=2e-5)


@pytest.mark.parametrize(("worst", "worst_base", "average_base"), [(0.2, 0.0, 0.5), (0.0, 0.0, 0.5), (0.2, 0.1, 0.0)])
def test_to_a_baseline_of_nothing_there_is_no_rho_and_no_error(worst, worst_base, average_base):
    assert np.isnan(rho(worst, 0.5, worst_base, average_base))
