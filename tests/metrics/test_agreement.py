"""How far outcomes agree on which classes are weak."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from art_classwise import InputError
from art_classwise.metrics.agreement import _ordered, paired_counts, rank_agreement

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


def halved(y, first, second, rng):
    """Accuracies under the first outcome on a random half of each class, under the second on the other half."""
    means = []
    for c in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == c))
        half = len(members) // 2
        means.append([first[members[:half]].mean(), second[members[half:]].mean()])
        means[-1] += [first[members[half:]].mean(), second[members[:half]].mean()]
    return np.transpose(means)


def test_tau_is_the_mean_over_orders_of_disjoint_halves():
    y, first, second = outcomes(ACCURACIES, ACCURACIES[::-1] ** 2, 21, shared=0.9)
    rng = np.random.default_rng(0)
    split = [halved(y, first, second, rng) for _ in range(600)]
    taus = [kendalltau(*pair).statistic for a, b, c, d in split for pair in ((a, b), (c, d))]
    found = rank_agreement(y, first, second, 10, repeats=2000)
    assert found["tau"] == pytest.approx(np.mean(taus), abs=5 * np.std(taus) / np.sqrt(600))
    means = [[w[y == c].mean() for c in range(10)] for w in (first, second)]
    assert found["plain"] == pytest.approx(kendalltau(*means).statistic)
    assert found["n_classes"] == 10


def test_p_is_twice_that_of_the_median_split():
    for seed in range(5):
        found = rank_agreement(*outcomes(ACCURACIES, ACCURACIES**2, 300, seed), 10, repeats=400)
        rng = np.random.default_rng(seed)
        split = [halved(*outcomes(ACCURACIES, ACCURACIES**2, 300, seed), rng) for _ in range(100)]
        p = np.median([kendalltau(*pair).pvalue for a, b, c, d in split for pair in ((a, b), (c, d))])
        assert found["p"] == pytest.approx(2 * p, rel=1.2)  # a discrete p: the next ones are half and twice as large


@pytest.mark.parametrize(
    ("n_classes", "n", "second", "shared"),
    [(10, 100, 0.40, 1.0), (10, 100, 0.45, 0.6), (60, 50, 0.40, 1.0), (5, 200, 0.40, 1.0)],
)
def test_equal_classes_have_no_order(n_classes, n, second, shared):
    """Nested attacks, or models that fail on the same examples: all of them together, p is below 5 % in up to 100 %."""
    first, second = np.full(n_classes, 0.45), np.full(n_classes, second)
    found = [rank_agreement(*outcomes(first, second, n, s, shared), n_classes, repeats=20) for s in range(100)]
    assert np.mean([f["plain"] for f in found]) > 0.35
    assert abs(np.mean([f["tau"] for f in found])) < 0.1
    assert np.mean([f["p"] < 0.05 for f in found]) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 100)
    assert np.mean([f["resolved"] > 0 for f in found]) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 100)


def test_unrelated_orders_are_no_agreement():
    rng = np.random.default_rng(0)
    found = [rank_agreement(*outcomes(ACCURACIES, rng.permutation(ACCURACIES), 200, s, 0.8), 10, repeats=20)["p"]
             for s in range(150)]  # fmt: skip
    assert np.mean(np.array(found) < 0.05) <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 150)


def test_four_cells_are_counted_per_class():
    y, first, second = outcomes(ACCURACIES, ACCURACIES**2, 40)
    counts = paired_counts(y, first, second, 11)
    for c in range(11):
        a, b = first[y == c], second[y == c]
        assert counts[c].tolist() == [(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()]


def test_identical_outcomes_agree_as_far_as_classes_can_be_told_apart():
    """That few examples came out alike both times does not prove that all would."""
    widths = []
    for n in (2, 5, 100, 1000):
        y, withstood, _ = outcomes(ACCURACIES, ACCURACIES, n, seed=3)
        found = rank_agreement(y, withstood, withstood, 10)
        assert (found["plain"], found["high"]) == pytest.approx((1, 1))
        assert found["low"] < 1
        widths.append(found["high"] - found["low"])
    assert widths[0] == 2
    assert widths == sorted(widths, reverse=True)
    y, withstood, _ = exactly([100, 500, 900], [0] * 3, 1000)
    assert rank_agreement(y, withstood, withstood, 3)[["tau", "low", "high", "resolved"]].tolist() == [1] * 4


def test_opposite_outcomes_disagree():
    y, first, second = exactly([10, 50, 90], [90, 50, 10], 100)
    found = rank_agreement(y, first, second, 3)
    assert found[["tau", "low", "high", "resolved"]].tolist() == [-1, -1, -1, 1]


def test_a_pair_that_is_not_resolved_may_count_for_or_against():
    """Of three pairs two are far apart, and one is of classes that are alike."""
    y, first, second = exactly([100, 900, 901], [100, 900, 901], 1000)
    found = rank_agreement(y, first, second, 3)
    assert found[["low", "high", "resolved"]].tolist() == pytest.approx([1 / 3, 1, 2 / 3])
    y, first, second = exactly([100, 500, 501], [900, 500, 499], 1000)
    assert rank_agreement(y, first, second, 3)[["low", "high"]].tolist() == pytest.approx([-1, -1 / 3])


def test_all_orders_hold_at_once():
    """Of classes that are equal in truth, none is ordered in either of two unrelated outcomes, in 95 % of data sets."""
    right = np.random.default_rng(0).binomial(400, 0.3, size=(300, 2, 10))
    n = np.full(10, 400)
    for alpha, times in ((0.05, 300), (0.5, 300)):
        wrong = [_ordered(one, n, alpha / 2).any() for of in right for one in of]
        assert np.mean(wrong) < alpha / 2 + 3.5 * np.sqrt(alpha / 2 / (2 * times))
    assert np.mean(wrong) > 0.12  # Tukey's criterion isn't much too wide


@pytest.mark.parametrize(
    ("first", "second", "n", "shared", "tau"),
    [
        (ACCURACIES, 0.9 * ACCURACIES, 100, 0.0, 1),
        (ACCURACIES, 0.9 * ACCURACIES, 1000, 0.7, 1),
        (np.linspace(0.46, 0.54, 10), np.linspace(0.54, 0.46, 10), 200, 0.98, -1),
        (np.linspace(0.49, 0.51, 10), np.linspace(0.51, 0.49, 10), 20, 0.98, -1),
    ],
)
def test_the_interval_covers_the_tau_of_the_true_accuracies(first, second, n, shared, tau):
    found = [rank_agreement(*outcomes(first, second, n, s, shared), 10, repeats=5) for s in range(100)]
    assert np.mean([f["low"] <= tau <= f["high"] for f in found]) >= 0.95
    if n == 1000:
        assert np.mean([f["high"] - f["low"] for f in found]) < 0.8


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
    assert len({f["tau"] for f in found}) > 1


def test_classes_without_examples_are_left_out():
    y, first, second = outcomes(ACCURACIES, ACCURACIES, 50)
    found = rank_agreement(2 * y, first, second, 20)
    assert found.equals(rank_agreement(y, first, second, 10))
    single = rank_agreement(np.append(y, 10), np.append(first, True), np.append(second, False), 11)
    assert single.equals(rank_agreement(y, first, second, 10))


def test_without_an_order_there_is_no_tau():
    one = rank_agreement([1, 1, 2], [True, False, True], [True, True, False], 3)
    assert one["n_classes"] == 1
    assert one.drop("n_classes").isna().all()
    y, first, second = exactly([50, 50], [10, 90], 100)
    equal = rank_agreement(y, first, second, 2)
    assert equal[["tau", "low", "high", "p"]].isna().all()
    assert equal["resolved"] == 0
    for right in (True, False):
        found = rank_agreement([0, 0, 1, 1], [right] * 4, [right] * 4, 2)
        assert found[["tau", "low", "high", "p"]].isna().all()
        assert found[["resolved", "n_classes"]].tolist() == [0, 2]


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
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
