"""The test of equal class accuracies, against SciPy, statsmodels and all permutations of small data."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare
from statsmodels.stats.proportion import proportions_chisquare

from art_classwise import InputError
from art_classwise.metrics._dealing import dealt_statistics
from art_classwise.metrics.disparity import disparity_test


def examples(k, n):
    """Labels and outcomes of k right among n examples per class, shuffled."""
    y = np.repeat(np.arange(len(n)), n)
    correct = np.concatenate([np.arange(size) < right for right, size in zip(k, n, strict=True)])
    order = np.random.default_rng(0).permutation(len(y))
    return y[order], correct[order]


@pytest.mark.parametrize(
    ("k", "n"), [([30, 40], [100, 100]), ([1, 7, 3], [5, 9, 20]), ([5, 6, 5, 4], [10, 11, 10, 9]), ([0, 5], [3, 5])]
)
def test_chi_square_equals_scipys_and_statsmodels(k, n):
    result = disparity_test(*examples(k, n), len(n), method="chi-square")
    expected = chi2_contingency(np.transpose([k, np.subtract(n, k)]), correction=False)
    assert result.to_dict() == pytest.approx(
        {"statistic": expected.statistic, "dof": expected.dof, "p": expected.pvalue, "permutations": 0}
    )
    statistic, p, _ = proportions_chisquare(np.array(k), np.array(n))
    assert (result["statistic"], result["p"]) == pytest.approx((statistic, p))


@pytest.mark.parametrize(("k", "n"), [([3, 0, 1], [3, 3, 3]), ([3, 1], [4, 5]), ([2, 1, 1], [3, 2, 4])])
def test_permutation_equals_all_permutations(k, n):
    y, correct = examples(k, n)
    table = [np.bincount(y[list(right)], minlength=len(n)) for right in combinations(range(len(y)), int(sum(k)))]
    statistics = [chi2_contingency(np.transpose([a, n - a]), correction=False).statistic for a in table]
    observed = chi2_contingency(np.transpose([k, np.subtract(n, k)]), correction=False).statistic
    exact = np.mean(np.array(statistics) > observed - 1e-9)
    result = disparity_test(y, correct, len(n), method="permutation", repeats=100_000)
    assert result["statistic"] == pytest.approx(observed)
    assert result["p"] == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 100_000) + 1e-5)


@pytest.mark.parametrize(
    ("n", "right"),
    [
        ([1] * 40 + [2] * 30, 9),  # both sizes are counted together, in two rounds
        ([1] * 40 + [2] * 30, 60),
        ([2] * 150, 2),
        ([3] * 40 + [5, 7, 11], 15),  # some classes are dealt to one by one
        ([4, 2, 9, 6], 5),  # all are
    ],
)
def test_statistics_have_the_distribution_of_all_ways_to_deal(n, right):
    ways = Counter({(0, 0): 1})  # how many, by the number of right examples and the statistic, class by class
    share, scale = right / sum(n), 27720  # the least common multiple of all sizes
    for size in n:
        ways, before = Counter(), ways
        for (dealt, squares), many in before.items():
            for k in range(min(size, right - dealt) + 1):
                ways[dealt + k, squares + k * k * scale // size] += many * math.comb(size, k)
    exact = {s: many / math.comb(sum(n), right) for (dealt, s), many in ways.items() if dealt == right}
    values = np.array([(s / scale - right * share) / (share * (1 - share)) for s in exact])
    drawn = dealt_statistics(np.array(n), right, 20_000, np.random.default_rng(0))
    nearest = np.abs(drawn[:, None] - values).argmin(1)
    np.testing.assert_allclose(drawn, values[nearest], rtol=1e-9)
    found, expected = np.bincount(nearest, minlength=len(values)), 20_000 * np.array([*exact.values()])
    rare = expected < 20
    found, expected = (np.append(of[~rare], of[rare].sum()) for of in (found, expected))
    assert chisquare(found[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_permutation_agrees_with_chi_square_on_large_counts():
    data = examples([300, 330, 350], [1000] * 3)
    p = disparity_test(*data, 3)["p"]
    assert disparity_test(*data, 3, method="permutation")["p"] == pytest.approx(p, abs=5 * np.sqrt(p / 10_000))


def test_p_is_never_below_what_the_permutations_can_tell():
    assert disparity_test(*examples([90, 10], [100, 100]), 2, method="permutation", repeats=99)["p"] == 0.01


@pytest.mark.parametrize(
    ("k", "n", "method"),
    [
        ([5, 5], [10, 10], "chi-square"),  # 5 expected of each
        ([4, 5], [10, 10], "permutation"),
        ([6, 5], [10, 10], "permutation"),
        ([50, 60, 1], [100, 100, 9], "permutation"),  # one small class is enough
        ([50, 60, 3], [100, 100, 11], "chi-square"),
    ],
)
def test_auto_permutes_where_fewer_than_five_are_expected(k, n, method):
    result, expected = disparity_test(*examples(k, n), len(n)), disparity_test(*examples(k, n), len(n), method=method)
    assert result.to_dict() == expected.to_dict()
    assert result["permutations"] == (10_000 if method == "permutation" else 0)


def test_small_classes_raise_no_false_alarms():
    """Equal accuracies are called different at 5 % in 5 % of the data sets at most; by chi-square, in a quarter."""
    n = np.array([1] * 20 + [200])
    rng = np.random.default_rng(0)
    found = {"auto": 0, "chi-square": 0}
    for _ in range(300):
        data = examples(rng.binomial(n, 0.02), n)
        for method in found:
            found[method] += disparity_test(*data, 21, method=method, repeats=300)["p"] <= 0.05
    assert found["auto"] / 300 < 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / 300)
    assert found["chi-square"] / 300 > 0.15


@pytest.mark.parametrize("method", ["chi-square", "permutation"])
@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_no_difference(method, right):
    result = disparity_test([0, 0, 1], [right] * 3, 2, method=method)
    assert result.to_dict() == {"statistic": 0, "dof": 1, "p": 1, "permutations": 0}


@pytest.mark.parametrize("method", ["chi-square", "permutation"])
def test_absent_classes_are_left_out(method):
    y, correct = examples([3, 5, 1], [6, 6, 6])
    with_gaps = disparity_test(2 * y + 1, correct, 8, method=method)
    assert with_gaps.to_dict() == disparity_test(y, correct, 3, method=method).to_dict()


def test_seed_decides_and_global_state_stays():
    data = examples([3, 6, 5], [9, 9, 9])
    state = np.random.get_state()[1].copy()
    first, again, other = (disparity_test(*data, 3, method="permutation", seed=seed)["p"] for seed in (1, 1, 2))
    assert first == again != other
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: disparity_test([], [], 3), "at least one example"),
        (lambda: disparity_test([0, 1], [True], 3), r"2 labels, but `correct` has shape \(1,\)"),
        (lambda: disparity_test([0, 3], [True, False], 3), "Label 3 of example 1 is outside"),
        (lambda: disparity_test([0, 1], [0.5, 1], 3), "must be True or False"),
        (lambda: disparity_test([0, 1], [np.nan, 1], 3), "must be True or False"),
        (lambda: disparity_test([0, 1], ["yes", "no"], 3), "must be True or False"),
        (lambda: disparity_test([1, 1], [True, False], 3), "of one class"),
        (lambda: disparity_test([0, 1], [True, False], 2, method="fisher"), "Unknown method 'fisher'"),
        (lambda: disparity_test([0, 1], [True, False], 2, repeats=0), "`repeats`"),
        (lambda: disparity_test([0, 1], [True, False], 2, seed=-1), "`seed`"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
