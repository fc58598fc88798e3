"""The worst class: the mean over all splits, exact coverage of its interval, and how simulated data sets come out."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from art_classwise import InputError
from art_classwise.metrics.worst import _split, worst_class, worst_interval


def examples(k, n):
    """Labels and outcomes of k right among n examples per class."""
    y = np.repeat(np.arange(len(n)), n)
    return y, np.concatenate([np.arange(size) < right for right, size in zip(k, n, strict=True)])


# The estimate.


def all_splits(k, n):
    """Mean accuracy of the class chosen, and its share per class, over all ways to halve the examples of each class."""
    measured, chosen, splits = 0.0, np.zeros(len(n)), 0
    outcomes = [np.arange(size) < right for right, size in zip(k, n, strict=True)]
    for firsts in product(*(combinations(range(size), size // 2) for size in n)):
        inside = [np.isin(np.arange(size), first) for size, first in zip(n, firsts, strict=True)]
        one = np.array([o[i].mean() for o, i in zip(outcomes, inside, strict=True)])
        other = np.array([o[~i].mean() for o, i in zip(outcomes, inside, strict=True)])
        for seen, unseen in ((one, other), (other, one)):
            tied = seen == seen.min()
            measured += unseen[tied].mean()
            chosen += tied / tied.sum()
            splits += 1
    return measured / splits, chosen / splits


@pytest.mark.parametrize(
    ("k", "n"),
    [
        ([2, 1, 3], [4, 4, 5]),
        ([1, 1], [4, 6]),
        ([0, 2, 2], [2, 4, 3]),
        ([3, 3, 3], [5, 5, 5]),
        ([1] * 6 + [2] * 3, [2] * 6 + [3] * 3),  # drawn by how many of a kind get which count
    ],
)
def test_estimate_is_the_mean_over_all_splits(k, n):
    repeats = 50_000
    worst = worst_class(*examples(k, n), len(n), repeats=repeats)
    measured, chosen = all_splits(k, n)
    split, _ = _split(np.array(k), np.array(n), repeats, np.random.default_rng(0))
    assert split == pytest.approx(measured, abs=5 * 0.5 / np.sqrt(repeats))
    assert worst["accuracy"] == min(split, np.divide(k, n).mean())
    assert worst["chosen"] == pytest.approx(chosen.max(), abs=5 * 0.5 / np.sqrt(repeats))
    assert chosen[worst["class"]] == pytest.approx(chosen.max())
    assert worst["naive"] == min(np.divide(k, n))


def mean_estimate(p, n, data_sets):
    """Mean of the estimate over simulated data sets, and its standard error."""
    rng, sizes = np.random.default_rng(0), np.full(len(p), n)
    estimates = [_split(rng.binomial(sizes, p), sizes, 20, rng)[0] for _ in range(data_sets)]
    return np.mean(estimates), np.std(estimates) / np.sqrt(data_sets)


def test_estimate_is_unbiased_where_all_classes_are_equal():
    estimate, error = mean_estimate([0.5] * 10, 100, 3000)
    assert estimate == pytest.approx(0.5, abs=4 * error)
    assert error < 0.001  # the minimum of ten is 0.077 too low


def test_estimate_targets_the_class_chosen_on_half_of_the_examples():
    p = np.array([0.3, 0.35, 0.4, 0.45, 0.6])
    estimate, error = mean_estimate(p, 60, 3000)
    half = np.random.default_rng(1).binomial(30, p, (200_000, len(p)))
    lowest = half == half.min(1, keepdims=True)
    target = (lowest / lowest.sum(1, keepdims=True) * p).sum(1).mean()
    assert estimate == pytest.approx(target, abs=4 * error)
    assert 0.31 < target < 0.34


@pytest.mark.parametrize("n", [15, 26, 100])
def test_estimate_of_a_minimum_never_exceeds_the_mean(n):
    rng = np.random.default_rng(n)
    for seed in range(40):
        k = rng.binomial(n, 0.88, 10)
        worst = worst_class(*examples(k, [n] * 10), 10, repeats=30, seed=seed)
        assert worst["accuracy"] <= (k / n).mean() + 1e-12


def test_tied_classes_share_the_choice():
    worst = worst_class(*examples([30, 30, 30, 90], [100] * 4), 4)
    assert worst["chosen"] == pytest.approx(1 / 3, abs=0.05)


# The interval.


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("n", [[6], [8, 8], [4, 11], [5, 5, 5], [2, 3, 6]])
def test_interval_covers_the_worst_class_whatever_the_accuracies(n, alpha):
    """Over all outcomes with their probabilities, on a grid of true accuracies; each end by itself, too."""
    sizes = np.array(n)
    outcomes = np.array(list(product(*(range(size + 1) for size in n))))
    low, high = np.transpose([worst_interval(k, sizes, alpha) for k in outcomes])
    for p in product(np.linspace(0.02, 0.98, 13), repeat=len(n)):
        probability = binom.pmf(outcomes, sizes, p).prod(1)
        assert probability[low > min(p)].sum() <= alpha / 2 + 1e-9, p
        assert probability[high < min(p)].sum() <= alpha / 2 + 1e-9, p


def test_low_end_is_the_smallest_of_the_classes_own():
    k, n = [31, 5, 44], [100, 10, 90]
    worst = worst_class(*examples(k, n), 3, confidence=0.9)
    own = [binomtest(*kn).proportion_ci(0.9, method="exact").low for kn in zip(k, n, strict=True)]
    assert worst["low"] == pytest.approx(min(own))


def test_high_end_of_one_class_and_of_one_far_below():
    alone = binomtest(20, 100).proportion_ci(1 - 0.9 * 0.05, method="exact").high
    for k in ([20], [20, *[90] * 9], [*[90] * 99, 20]):
        worst = worst_class(*examples(k, [100] * len(k)), len(k))
        assert worst["high"] == pytest.approx(alone, abs=1e-6)


def high_end(k, n, alpha):
    """The two steps with SciPy's distributions, count by count; the high end by each class alone beside it."""
    floor = [
        binomtest(*kn).proportion_ci(1 - 2 * alpha / 20 / len(n), method="exact").low for kn in zip(k, n, strict=True)
    ]
    upper = [
        [binomtest(j, size).proportion_ci(1 - 0.9 * alpha / len(n), method="exact").high for j in range(size + 1)]
        for size in n
    ]
    top = min(u[right] for u, right in zip(upper, k, strict=True))
    counts = [sum(end <= top + 1e-9 for end in u) - 1 for u in upper]

    def excess(accuracy):
        return (
            1
            - np.prod([binom.sf(j, s, max(f, accuracy)) for j, s, f in zip(counts, n, floor, strict=True)])
            - 0.45 * alpha
        )

    return brentq(excess, 0, top, xtol=1e-10), top


@pytest.mark.parametrize(
    ("k", "n"),
    [
        ([30, 40, 50, 45], [80] * 4),
        ([3, 20, 30, 40], [8, 60, 60, 60]),  # of the first no count looks as bad as the second
        ([9, 2, 30, 70], [20, 3, 50, 90]),
        ([0, 5], [12, 12]),
    ],
)
@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_high_end_is_that_of_the_two_steps_and_below_bonferronis(k, n, alpha):
    expected, bonferroni = high_end(k, n, alpha)
    assert worst_interval(np.array(k), np.array(n), alpha)[1] == pytest.approx(expected, abs=1e-8)
    assert expected < bonferroni - 1e-4


def test_small_classes_with_bad_luck_leave_the_high_end_to_the_large():
    without = worst_interval(np.array([300, 600]), np.array([1000, 1000]), 0.05)[1]
    assert worst_interval(np.array([300, 600, 0]), np.array([1000, 1000, 3]), 0.05)[1] < without + 0.01


def test_interval_holds_the_estimate():
    rng = np.random.default_rng(0)
    for i in range(100):
        k = rng.binomial(6, rng.random(5) * rng.random())
        worst = worst_class(*examples(k, [6] * 5), 5, repeats=20, seed=i, confidence=0.5)
        assert 0 <= worst["low"] <= worst["accuracy"] <= worst["high"] <= 1


def test_simulation_of_the_evaluation_agrees_with_theory(evaluation):
    table = evaluation("worst_class").simulate("10 equal", 150, repeats=50).set_index("method")
    expected = (binom.sf(np.arange(1000), 1000, 0.5) ** 10).sum() / 1000 - 0.5
    assert table.loc["minimum", "bias"] == pytest.approx(expected, abs=4 * table.loc["minimum", "bias error"])
    assert -0.006 < table.loc["worst_class", "bias"] < 0  # unbiased, but for the cap at the mean over classes
    assert table.loc["worst_class", "coverage"] > 0.9 > table.loc["minimum", "coverage"]


# Its form.


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong(right):
    worst = worst_class(*examples([20 * right] * 3, [20] * 3), 3)
    assert worst["accuracy"] == worst["naive"] == right
    assert (worst["high"] if right else worst["low"]) == right
    assert worst["high"] - worst["low"] > 0.05


def test_classes_too_small_to_split_are_left_out():
    names = ["none", "car", "single", "cat"]
    worst = worst_class(*examples([0, 8, 0, 4], [0, 10, 1, 10]), 4, classes=names)
    without = worst_class(*examples([8, 4], [10, 10]), 2, classes=["car", "cat"])
    assert (worst.pop("left_out"), without.pop("left_out")) == (1, 0)
    assert worst.to_dict() == without.to_dict()
    assert worst["class"] == "cat"
    assert worst["naive"] == 0.4


def test_class_is_a_number_without_names():
    worst = worst_class(*examples([8, 4], [10, 10]), 2)
    assert worst.index.tolist() == ["accuracy", "low", "high", "naive", "class", "chosen", "left_out"]
    assert isinstance(worst["class"], int)
    assert worst["class"] == 1


def test_seed_decides_and_global_state_stays():
    data = examples([8, 7, 16], [20, 20, 21])
    state = np.random.get_state()[1].copy()
    first, again, other = (worst_class(*data, 3, repeats=50, seed=seed) for seed in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first["accuracy"] != other["accuracy"]
    assert (np.random.get_state()[1] == state).all()
    order = np.random.default_rng(0).permutation(61)
    assert worst_class(data[0][order], data[1][order], 3, repeats=50, seed=1).to_dict() == first.to_dict()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: worst_class([], [], 3), "at least one example"),
        (lambda: worst_class([0, 1], [True, False], 3), "No class has 2 examples"),
        (lambda: worst_class([0, 0], [True], 3), r"2 labels, but `correct` has shape \(1,\)"),
        (lambda: worst_class([0, 3], [True, False], 3), "Label 3 of example 1"),
        (lambda: worst_class([0, 0], [True, False], 3, classes=["a"]), "3 classes, but 1 class names"),
        (lambda: worst_class([0, 0], [True, False], 3, repeats=0), "`repeats`"),
        (lambda: worst_class([0, 0], [True, False], 3, seed=1.5), "`seed`"),
        (lambda: worst_class([0, 0], [True, False], 3, confidence=95), "`confidence`"),
        (lambda: worst_class([0, 0], [True, False], 3, confidence=1), "`confidence`"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
