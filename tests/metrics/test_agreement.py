"""How far outcomes, and measures, agree on which classes are weak."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, norm, pearsonr, spearmanr

from art_classwise import InputError
from art_classwise.metrics.agreement import correlations, paired_counts, rank_agreement

ACCURACIES = np.array([0.524, 0.678, 0.311, 0.318, 0.339, 0.369, 0.376, 0.468, 0.592, 0.576])


def outcomes(first, second, n, seed=0, shared=0.0):
    """Outcomes of n examples per class with these accuracies; a share of the examples is as hard for both."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(first)), n)
    hardness = rng.random((2, len(y)))
    hardness[1] = np.where(rng.random(len(y)) < shared, hardness[0], hardness[1])
    return y, hardness[0] < np.asarray(first)[y], hardness[1] < np.asarray(second)[y]


def exactly(first, second, n):
    """Outcomes with exactly these numbers of successes, on examples drawn independently."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(first)), n)
    places = rng.permuted(np.tile(np.arange(n), (2, len(first), 1)), axis=2).reshape(2, -1)
    return y, places[0] < np.asarray(first)[y], places[1] < np.asarray(second)[y]


def test_tau_and_p_are_scipys():
    y, first, second = outcomes(ACCURACIES, ACCURACIES[::-1] ** 2, 60)
    means = [[w[y == c].mean() for c in range(10)] for w in (first, second)]
    expected = kendalltau(*means)
    found = rank_agreement(y, first, second, 10)
    assert (found["tau"], found["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert found["low"] <= found["tau"] <= found["high"]
    assert found["n_classes"] == 10


def test_four_cells_are_counted_per_class():
    y, first, second = outcomes(ACCURACIES, ACCURACIES**2, 40)
    counts = paired_counts(y, first, second, 11)
    for c in range(11):
        a, b = first[y == c], second[y == c]
        assert counts[c].tolist() == [(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()]


def test_identical_outcomes_agree_as_far_as_classes_can_be_told_apart():
    """That few examples came out alike both times does not prove that all would."""
    widths = []
    for n in (1, 5, 100, 1000):
        y, withstood, _ = outcomes(ACCURACIES, ACCURACIES, n, seed=3)
        found = rank_agreement(y, withstood, withstood, 10)
        assert (found["tau"], found["high"]) == pytest.approx((1, 1))
        assert found["low"] < 1
        widths.append(found["high"] - found["low"])
    assert widths[0] == 2
    assert widths == sorted(widths, reverse=True)
    y, withstood, _ = exactly([100, 500, 900], [0] * 3, 1000)
    assert rank_agreement(y, withstood, withstood, 3)[["tau", "low", "high", "resolved"]].tolist() == [1] * 4


def test_what_is_nearly_always_alike_may_still_be_of_opposite_order():
    """Mostly identical outcomes of five examples each; an interval of no width missed the true tau in 68 %."""
    first = 0.5 + np.linspace(-0.005, 0.005, 10)
    found = [rank_agreement(*outcomes(first, first[::-1], 5, s, 0.98), 10, repeats=200, seed=s) for s in range(100)]
    assert np.mean([f["low"] == -1 for f in found]) > 0.7


def test_opposite_outcomes_disagree():
    y, first, second = exactly([10, 50, 90], [90, 50, 10], 100)
    found = rank_agreement(y, first, second, 3)
    assert found[["tau", "low", "high", "resolved"]].tolist() == [-1, -1, -1, 1]


def test_a_pair_that_is_not_resolved_may_count_for_or_against():
    """Of three pairs two are far apart, and one is of classes that are alike."""
    y, first, second = exactly([100, 900, 901], [100, 900, 901], 1000)
    found = rank_agreement(y, first, second, 3)
    assert found[["tau", "low", "high", "resolved"]].tolist() == pytest.approx([1, 1 / 3, 1, 2 / 3])
    y, first, second = exactly([100, 500, 501], [900, 500, 499], 1000)
    assert rank_agreement(y, first, second, 3)[["low", "high"]].tolist() == pytest.approx([-1, -1 / 3])


def test_of_one_example_per_class_nothing_can_be_said():
    y, first, second = outcomes(ACCURACIES, ACCURACIES, 1, seed=3)
    assert rank_agreement(y, first, second, 10)[["low", "high", "resolved"]].tolist() == [-1, 1, 0]


@pytest.mark.parametrize("shared", [0.0, 0.7])
@pytest.mark.parametrize("n", [100, 1000])
def test_the_interval_covers_the_tau_of_the_true_accuracies(n, shared):
    """Which a percentile interval does in less than 1 % of data sets with n = 100: noise pulls tau towards 0."""
    second = 0.9 * ACCURACIES
    found = [rank_agreement(*outcomes(ACCURACIES, second, n, s, shared), 10, repeats=300, seed=s) for s in range(200)]
    assert np.mean([f["tau"] for f in found]) < 0.97  # of a true tau of 1
    assert np.mean([f["low"] <= 1 <= f["high"] for f in found]) >= 0.95
    assert np.mean([f["high"] - f["low"] for f in found]) < (1.4 if n == 100 else 0.6)


def test_it_narrows_with_examples_and_widens_with_confidence():
    widths = []
    for n, confidence in ((200, 0.99), (200, 0.95), (200, 0.5), (5000, 0.5)):
        found = rank_agreement(*outcomes(ACCURACIES, ACCURACIES**2, n), 10, confidence=confidence)
        widths.append(found["high"] - found["low"])
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


def test_the_seed_decides_and_global_random_state_is_left_alone():
    arguments = (*outcomes(ACCURACIES, ACCURACIES, 30), 10)
    np.random.seed(5)
    found = [rank_agreement(*arguments, repeats=50, seed=s) for s in (0, 0, 1, 2, 3)]
    after = np.random.random()
    np.random.seed(5)
    assert after == np.random.random()
    assert found[0].equals(found[1])
    assert len({f["resolved"] for f in found}) > 1


def test_of_many_pairs_some_are_resolved_by_chance():
    """Of 4,950 pairs, whose true tau is 1: the upper end has to allow for them."""
    accuracies = np.linspace(0.3, 0.7, 100)
    for seed in range(4):
        found = rank_agreement(*outcomes(accuracies, 0.9 * accuracies, 100, seed), 100, repeats=600, seed=seed)
        assert found["low"] < found["tau"] < 0.9
        assert found["high"] == pytest.approx(1)


def test_classes_without_examples_are_left_out():
    y, first, second = outcomes(ACCURACIES, ACCURACIES, 50)
    found = rank_agreement(2 * y, first, second, 20)
    assert found.equals(rank_agreement(y, first, second, 10))


def test_without_an_order_there_is_no_tau():
    one = rank_agreement([1, 1], [True, False], [True, True], 3)
    assert one["n_classes"] == 1
    assert one.drop("n_classes").isna().all()
    y, first, second = exactly([50, 50], [10, 90], 100)
    equal = rank_agreement(y, first, second, 2)
    assert equal[["tau", "low", "high", "p"]].isna().all()
    assert equal["resolved"] == 0
    for right in (True, False):
        found = rank_agreement([0, 1, 1], [right] * 3, [right] * 3, 2)
        assert found[["tau", "low", "high", "p"]].isna().all()
        assert found[["resolved", "n_classes"]].tolist() == [0, 2]


A = np.random.default_rng(0).random(12)
B = A + 0.3 * np.random.default_rng(1).random(12)


def test_correlations_and_p_are_scipys():
    table = correlations(A, B)
    for name, function in (("pearson", pearsonr), ("spearman", spearmanr), ("kendall", kendalltau)):
        expected = function(A, B)
        assert table.loc[name, ["value", "p"]].tolist() == pytest.approx([expected.statistic, expected.pvalue])
    assert (table["n"] == 12).all()


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_are_fishers_z(confidence):
    table = correlations(A, B, confidence=confidence)
    interval = pearsonr(A, B).confidence_interval(confidence)
    assert table.loc["pearson", ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high])
    for name, error in (("spearman", (1.06 / 9) ** 0.5), ("kendall", (0.437 / 8) ** 0.5)):
        half = norm.isf((1 - confidence) / 2) * error
        z = math.atanh(table.loc[name, "value"])
        expected = [math.tanh(z - half), math.tanh(z + half)]
        assert table.loc[name, ["low", "high"]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_cover_the_correlation_of_a_normal_population(rho):
    rng = np.random.default_rng(0)
    true = {"pearson": rho, "spearman": 6 / np.pi * np.arcsin(rho / 2), "kendall": 2 / np.pi * np.arcsin(rho)}
    covered = dict.fromkeys(true, 0)
    for _ in range(300):
        x = rng.normal(size=20)
        table = correlations(x, rho * x + (1 - rho**2) ** 0.5 * rng.normal(size=20))
        for name, value in true.items():
            covered[name] += table.loc[name, "low"] <= value <= table.loc[name, "high"]
    assert all(0.91 <= count / 300 <= 0.99 for count in covered.values()), covered


def test_ties_are_taken_as_scipy_takes_them():
    x, y = np.round(A, 1), np.round(B, 1)
    assert correlations(x, y).loc["kendall", "value"] == pytest.approx(kendalltau(x, y).statistic)
    assert correlations(x, y).loc["spearman", "value"] == pytest.approx(spearmanr(x, y).statistic)


def test_classes_without_a_value_are_left_out():
    a, b = A.copy(), B.copy()
    a[2], b[[2, 5]] = np.nan, np.nan
    kept = np.delete(np.arange(12), [2, 5])
    assert correlations(a, b).equals(correlations(A[kept], B[kept]))


@pytest.mark.parametrize("constant", [[0.3] * 12, [0.1 + 0.2, *[0.3] * 11], [0.0] * 12])
def test_equal_values_have_no_correlation(constant):
    table = correlations(constant, A)
    assert table[["value", "low", "high", "p"]].isna().all(axis=None)
    assert correlations(A, constant)["value"].isna().all()


def test_few_classes_have_no_interval():
    assert correlations(A[:2], B[:2])["value"].isna().all()
    three = correlations(A[:3], [1, 3, 2])
    assert three["value"].notna().all()
    assert three[["low", "high"]].isna().all(axis=None)
    four = correlations(A[:4], [1, 4, 2, 3])
    assert four["low"].isna().tolist() == [False, False, True]
    assert correlations([], [])["n"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_correlation_has_no_interval(sign):
    table = correlations([1, 2, 3, 4, 5, 6], [sign * v for v in (1, 2, 4, 8, 16, 32)])
    assert table.loc[["spearman", "kendall"], "value"].tolist() == pytest.approx([sign, sign])
    assert table.loc[["spearman", "kendall"], ["low", "high"]].isna().all(axis=None)
    assert table.loc["pearson", ["low", "high"]].notna().all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rank_agreement([], [], [], 2), "at least one example"),
        (
            lambda: rank_agreement([0, 1], [True], [True, True], 2),
            "2 labels, but `first` has shape",
        ),
        (lambda: rank_agreement([0, 1], [True] * 2, [[True] * 2], 2), r"`second` .* shape \(1, 2\)"),
        (lambda: rank_agreement([0, 1], [0, 2], [0, 1], 2), "`first` must be True or False"),
        (lambda: rank_agreement([0, 2], [0, 1], [0, 1], 2), "Label 2 of example 1"),
        (lambda: rank_agreement([0, 1], [0, 1], [0, 1], 2, repeats=0), "`repeats` must be a whole number"),
        (lambda: rank_agreement([0, 1], [0, 1], [0, 1], 2, confidence=1), "`confidence` must be a number above 0"),
        (lambda: rank_agreement([0, 1], [0, 1], [0, 1], 2, seed=-1), "`seed` must be"),
        (lambda: correlations([1, 2], [1, 2, 3]), "differ in length: 2 classes, but 3"),
        (lambda: correlations([[1, 2]], [[1, 2]]), r"value per class, \(C,\), but has shape \(1, 2\)"),
        (lambda: correlations([1, 2, np.inf], [1, 2, 3]), "must be finite"),
        (lambda: correlations([1, 2, 3], [1, 2, 3], confidence=95), "`confidence`"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
