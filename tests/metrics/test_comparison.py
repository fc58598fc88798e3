"""Comparisons of two on the same examples: against statsmodels, enumeration and coin tosses."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from art_classwise import InputError
from art_classwise.metrics.comparison import (
    holm,
    mcnemar,
    mean_difference,
    paired_comparison,
)
from art_classwise.metrics.intervals import paired_difference
from art_classwise.metrics.worst import Pair, worst_class, worst_class_difference, worst_difference_ends, worst_p


def test_mcnemar_equals_statsmodels():
    counts = [*product(range(0, 9), repeat=2), (30, 55), (120, 121), (3, 400), (700, 640)]
    found = mcnemar([b for b, _ in counts], [c for _, c in counts])
    for (b, c), p in zip(counts, found, strict=True):
        assert p == pytest.approx(reference_mcnemar([[7, b], [c, 5]], exact=True).pvalue, rel=1e-9), (b, c)


def test_mcnemar_counts_the_tails_of_coin_tosses():
    """Of 2**n equally likely ways to part n examples, those that are at least as uneven."""
    for b, c in product(range(7), repeat=2):
        n = b + c
        uneven = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(b - c))
        assert float(mcnemar(b, c)) == pytest.approx(uneven / 2**n)


def test_mcnemar_of_no_difference_is_one():
    assert mcnemar([0, 3], [0, 3]).tolist() == [1, 1]
    assert mcnemar(np.zeros((2, 3)), 0).shape == (2, 3)


def test_holm_equals_statsmodels():
    rng = np.random.default_rng(0)
    for m in (1, 2, 5, 100):
        p = np.round(rng.random(m) ** 3, 2)  # with ties, zeros and ones
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_out_what_was_not_tested():
    adjusted = holm([0.01, np.nan, 0.04, np.nan])
    assert adjusted[[0, 2]] == pytest.approx(holm([0.01, 0.04]))
    assert np.isnan(adjusted[[1, 3]]).all()
    assert np.isnan(holm([np.nan])).all()
    assert holm([]).shape == (0,)


def test_holm_keeps_its_word():
    """Where nothing differs, a false difference is found at 5 % in at most 5 % of the tables, however they hang
    together; unadjusted, in most of them."""
    rng = np.random.default_rng(1)
    shared = rng.random((4000, 1))
    p = np.where(rng.random((4000, 20)) < 0.3, shared, rng.random((4000, 20)))
    assert (np.array([holm(row) for row in p]).min(1) <= 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
    assert (p.min(1) <= 0.05).mean() > 0.4


def test_table_equals_a_loop_over_classes():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 4, 300)
    first = rng.random(300) < 0.6
    second = np.where(rng.random(300) < 0.8, first, rng.random(300) < 0.3)
    table = paired_comparison(y, first, second, 5, classes=list("abcde"), confidence=0.9)
    assert table.index.name == "class"
    for k, name in enumerate("abcd"):
        a, b = first[y == k], second[y == k]
        row = table.loc[name]
        assert (row["n"], row["first"], row["second"]) == (len(a), pytest.approx(a.mean()), pytest.approx(b.mean()))
        cells = [np.sum(a & b), np.sum(a & ~b), np.sum(~a & b), np.sum(~a & ~b)]
        assert row[["difference", "low", "high"]].tolist() == pytest.approx(
            [*map(float, paired_difference(*cells, 0.9))]
        )
        assert row["difference"] == pytest.approx(a.mean() - b.mean())
        square = np.reshape(cells, (2, 2))
        assert row["p"] == pytest.approx(reference_mcnemar(square, exact=True).pvalue)
    assert table["p_adjusted"][:4].to_numpy() == pytest.approx(multipletests(table["p"][:4], method="holm")[1])
    assert table.loc["e", "n"] == 0
    assert table.loc["e"].drop("n").isna().all()


def test_exchanging_the_two_turns_the_signs():
    rng = np.random.default_rng(3)
    y, a, b = rng.integers(0, 3, 90), rng.random(90) < 0.5, rng.random(90) < 0.7
    there, back = paired_comparison(y, a, b, 3), paired_comparison(y, b, a, 3)
    assert there["difference"].to_numpy() == pytest.approx(-back["difference"].to_numpy())
    assert there["low"].to_numpy() == pytest.approx(-back["high"].to_numpy())
    assert there["p_adjusted"].tolist() == back["p_adjusted"].tolist()


# Over all classes.


def drawn(rng, n, first, second, phi):
    """Examples of C classes, n each, of which two get these shares right, correlated as phi says."""
    first, second = np.asarray(first), np.asarray(second)
    both = first * second + phi * np.sqrt(first * (1 - first) * second * (1 - second))
    both = np.clip(both, np.maximum(0, first + second - 1), np.minimum(first, second))
    cells = np.stack([both, first - both, second - both, 1 - first - second + both], 1).clip(0)
    counts = rng.multinomial(n, cells / cells.sum(1, keepdims=True))
    y = np.repeat(np.repeat(np.arange(len(first)), 4), counts.ravel())
    cell = np.repeat(np.tile(np.arange(4), len(first)), counts.ravel())
    return y, cell < 2, cell % 2 == 0


def covered(interval, n, first, second, phi, truth, times):
    rng = np.random.default_rng(5)
    found = [interval(*drawn(rng, n, first, second, phi), len(first)) for _ in range(times)]
    return np.mean([one["low"] <= truth <= one["high"] for one in found])


def test_mean_difference_weighs_classes_alike():
    rng = np.random.default_rng(6)
    y = np.repeat([0, 1, 3], [100, 10, 40])
    a, b = rng.random(150) < 0.6, rng.random(150) < 0.4
    found = mean_difference(y, a, b, 4, confidence=0.9)
    x = a.astype(float) - b
    assert found["first"] == pytest.approx(np.mean([a[y == k].mean() for k in (0, 1, 3)]))
    assert found["difference"] == pytest.approx(np.mean([x[y == k].mean() for k in (0, 1, 3)]))
    # The third of an example on which the two differ adds 1 / 3 to each class's sum of squares over n.
    variance = sum((x[y == k].var(ddof=1) + 1 / (3 * n)) / n for k, n in ((0, 100), (1, 10), (3, 40))) / 9
    half = norm.ppf(0.95) * np.sqrt(variance)
    assert found[["low", "high"]].tolist() == pytest.approx([found["difference"] - half, found["difference"] + half])


def test_mean_difference_of_one_class_is_that_of_paired_examples():
    """But for the one example more: the normal interval of a mean of differences."""
    y, a, b = drawn(np.random.default_rng(7), 4000, [0.6], [0.5], 0.5)
    x = a.astype(float) - b
    expected = norm.interval(0.95, x.mean(), x.std(ddof=1) / np.sqrt(4000))
    assert mean_difference(y, a, b, 1)[["low", "high"]].tolist() == pytest.approx(expected, abs=1e-4)


def test_what_agrees_throughout_has_a_width():
    y, same = np.arange(1000) % 10, np.arange(1000) % 3 == 0
    found = mean_difference(y, same, same, 10)
    assert found["low"] < 0 < found["high"] < 0.004  # three of 1,000 could differ unseen
    worst = worst_class_difference(y, same, same, 10)
    assert worst["low"] < 0 < worst["high"]


@pytest.mark.parametrize(("n", "n_classes", "phi"), [(100, 10, 0.7), (100, 10, 0), (5, 300, 0.9), (1, 500, 0.7)])
def test_mean_difference_covers(n, n_classes, phi):
    first = np.linspace(0.1, 0.9, n_classes)
    share = covered(mean_difference, n, first, first * 0.9, phi, first.mean() * 0.1, 300)
    assert 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / 300) < share < 0.99


def test_worst_class_is_each_ones_own():
    rng = np.random.default_rng(8)
    y = rng.integers(0, 4, 400)
    a, b = rng.random(400) < np.array([0.9, 0.3, 0.6, 0.5])[y], rng.random(400) < np.array([0.8, 0.7, 0.4, 0.6])[y]
    found = worst_class_difference(y, a, b, 5, classes=list("abcde"))
    accuracies = [[right[y == k].mean() for k in range(4)] for right in (a, b)]
    assert (found["first_class"], found["second_class"]) == ("b", "c")
    assert (found["first"], found["second"]) == (min(accuracies[0]), min(accuracies[1]))
    assert found["difference"] == pytest.approx(found["first"] - found["second"])
    assert found["left_out"] == 0
    turned = worst_class_difference(y, b, a, 5)
    assert [-turned["high"], -turned["low"], turned["p"]] == pytest.approx([found["low"], found["high"], found["p"]])


def test_worst_class_far_from_the_others_has_the_interval_of_one_class():
    """Nothing is chosen then: as of two paired proportions, but for the error spent on finding that out."""
    y, a, b = drawn(np.random.default_rng(9), 1000, [0.3, 0.9, 0.9], [0.2, 0.8, 0.9], 0.5)
    found = worst_class_difference(y, a, b, 3)
    alone = paired_comparison(y, a, b, 3, confidence=0.96).loc[0]
    assert found[["difference", "low", "high"]].tolist() == pytest.approx(
        alone[["difference", "low", "high"]].tolist(), abs=0.002
    )


def low_end(pair, error):
    """The low end as the docstring has it, pair of classes by pair of classes, with SciPy's intervals."""

    def exact(k, n, level):
        return binomtest(int(k), int(n)).proportion_ci(1 - 2 * level, method="exact")

    def may_be(counts):
        ends = [exact(k, n, error / 10 / len(pair.n)) for k, n in zip(counts, pair.n, strict=True)]
        return [c for c, end in enumerate(ends) if end.low <= min(e.high for e in ends)]

    of_first, of_second = may_be(pair.first), may_be(pair.second)
    ways = len(of_second) + (not {*of_first} <= {*of_second})
    level = 1 - (1 - 0.8 * error) ** (1 / ways)

    def low(c, d):
        a, b = pair.first[c] / pair.n[c], pair.second[d] / pair.n[d]
        down, up = a - exact(pair.first[c], pair.n[c], level).low, exact(pair.second[d], pair.n[d], level).high - b
        together = 2 * pair.phi[c] * down * up if c == d else 0
        return a - b - np.sqrt(max(down**2 + up**2 - together, 0))

    everywhere = range(len(pair.n))
    return max(max(min(low(c, d) for c in everywhere) for d in of_second), min(low(c, c) for c in of_first))


@pytest.mark.parametrize("n", [[40] * 6, [9, 30, 200], [3], [100, 100, 2]])
def test_low_end_equals_the_definition(n):
    rng = np.random.default_rng(len(n))
    for _ in range(5):
        counts = np.stack([rng.multinomial(size, rng.dirichlet([2, 1, 1, 2])) for size in n])
        pair = Pair.of(counts)
        expected = max(low_end(pair, 0.05), -1)
        assert worst_difference_ends(pair, 0.1)[0] == pytest.approx(expected, abs=1e-9)


def test_many_pairs_are_as_each_alone():
    rng = np.random.default_rng(4)
    counts = rng.multinomial(30, [0.4, 0.1, 0.2, 0.3], size=(7, 5))
    several = [Pair.of(of) for of in counts]
    together = Pair(*(np.stack([getattr(p, f) for p in several]) for f in ("first", "second")),
                    several[0].n, np.stack([p.phi for p in several]))  # fmt: skip
    assert worst_difference_ends(together, 0.05)[1].tolist() == [worst_difference_ends(p, 0.05)[1] for p in several]
    assert worst_p(together).tolist() == [worst_p(p) for p in several]


def worst_differences(n, first, second, phi, times, alpha=0.05):
    """Both ends and p of simulated data sets, (times,) each."""
    first, second = np.broadcast_arrays(np.asarray(first, float), second)
    both = np.clip(first * second + phi * np.sqrt(first * (1 - first) * second * (1 - second)),
                   np.maximum(0, first + second - 1), np.minimum(first, second))  # fmt: skip
    cells = np.stack([both, first - both, second - both, 1 - first - second + both], 1).clip(0)
    n = np.broadcast_to(n, len(first))
    counts = np.random.default_rng(5).multinomial(n, cells / cells.sum(1, keepdims=True), size=(times, len(first)))
    pairs = [Pair.of(of) for of in counts]
    pair = Pair(*(np.stack([getattr(p, f) for p in pairs]) for f in ("first", "second")), n,
                np.stack([p.phi for p in pairs]))  # fmt: skip
    return *worst_difference_ends(pair, alpha), worst_p(pair)


REST = [0.8] * 8


@pytest.mark.parametrize(
    ("n", "first", "second", "phi"),
    [
        (100, [0.5] * 10, [0.3, *[0.8] * 9], 0.7),  # ties in one alone, which percentiles of the bootstrap miss
        (100, [0.3, *[0.8] * 9], [0.5] * 10, 0.7),
        (100, [0.5] * 10, [0.5] * 10, 0.7),
        (1000, [0.3, *[0.7] * 9], [0.25, *[0.7] * 9], 0.7),
        (300, [0.4, 0.46, *REST], [0.46, 0.4, *REST], 0.95),  # classes that swap
        (1000, [0.4, 0.425, *REST], [0.425, 0.4, *REST], 0.95),
        (300, [0.4, 0.42, *REST], [0.42, 0.4, *REST], 0.99),
        (100, np.linspace(0.2, 0.9, 100), np.linspace(0.15, 0.9, 100), 0.7),
        (2, [0.1] * 10, [0.3] * 10, 0.5),
        (5, [0.5] * 150, [0.5] * 150, 0.7),
        (20, [0.3, 0.32, 0.34, *[0.4] * 7], [0.2, *[0.6] * 9], 0.5),
        (100, [0.0] * 10, [0.02] * 10, 0.5),
        (100, [1.0] * 10, [0.98] * 10, 0.5),
        ([1000] * 9 + [74], [0.4] * 9 + [0.9], [0.4] * 9 + [0.9], 0.7),
        (100, [0.4, 0.5], [0.5, 0.4], -0.5),
    ],
)
def test_worst_class_difference_covers(n, first, second, phi):
    times = 60 if len(first) > 99 else 400
    low, high, p = worst_differences(n, first, second, phi, times)
    truth = min(first) - min(second)
    chance = 3.5 * np.sqrt(0.95 * 0.05 / times)
    assert np.mean((low <= truth) & (truth <= high)) > 0.95 - chance
    if truth == 0:
        assert np.mean(p <= 0.05) < 0.05 + chance


def test_p_is_the_error_at_which_0_is_left_out():
    pair = Pair.of(np.array([[20, 30, 4, 46], [60, 10, 20, 10]]))
    p = float(worst_p(pair))
    assert 1e-6 < p < 0.05
    low, low_below = (worst_difference_ends(pair, p * factor)[0] for factor in (1.01, 0.99))
    assert low_below < 0 < low


def test_an_irrelevant_class_costs_nothing():
    """However few examples it has, if they tell that it isn't the worst one."""
    y = np.repeat(np.arange(10), 1000)
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 10000)) < 0.4
    widths = []
    for n in (30, 74, 75, 1000):
        here, right = np.append(y, np.full(n, 10)), np.arange(n) % 10 > 0
        found = worst_class_difference(here, np.append(first, right), np.append(second, right), 11)
        widths.append(found["high"] - found["low"])
    assert np.ptp(widths) < 0.003
    assert max(widths) < 0.13


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize(("n", "n_classes"), [(2, 10), (5, 300), (100, 10)])
def test_worst_class_difference_has_a_width_where_all_are_alike(n, n_classes, right):
    y, all_alike = np.repeat(np.arange(n_classes), n), np.full(n * n_classes, right)
    found = worst_class_difference(y, all_alike, all_alike, n_classes)
    assert found["low"] < -0.01
    assert found["high"] > 0.01
    assert found["p"] == 1


def test_classes_with_one_example_are_left_out_and_counted():
    y = [0] * 40 + [1] * 40 + [2]
    first, second = np.arange(81) < 50, np.arange(81) < 60
    found = worst_class_difference(y, first, second, 5)
    assert found["left_out"] == 1
    assert found.drop("left_out").equals(worst_class_difference(y[:-1], first[:-1], second[:-1], 5).drop("left_out"))
    worst = worst_class(y, first, 5)
    assert worst["left_out"] == 1
    assert worst.drop("left_out").equals(worst_class(y[:-1], first[:-1], 5).drop("left_out"))


def test_worst_classes_without_names_are_numbers():
    found = worst_class_difference([0] * 40 + [1] * 40, np.arange(80) < 50, np.arange(80) < 60, 2)
    assert isinstance(found["first_class"], int)
    assert found["first_class"] == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mcnemar(np.inf, 1), "whole numbers of at least 0"),
        (lambda: mcnemar([1, np.nan], 1), "whole numbers of at least 0"),
        (lambda: mean_difference([0], [1], [True], 2), "`first` must be True or False"),
        (lambda: worst_class_difference([0], [1], [True], 2), "`first` must be True or False"),
        (lambda: worst_class_difference([0, 0], [True] * 2, [True] * 2, 2, confidence=95), "between 0 and 1"),
        (lambda: mcnemar(-1, 2), "whole numbers of at least 0"),
        (lambda: mcnemar(0.5, 2), "whole numbers of at least 0"),
        (lambda: holm([0.5, 1.5]), r"lie in \[0, 1\], but got 1.5"),
        (lambda: holm([[0.5]]), "must be a vector"),
        (lambda: paired_comparison([0], [1], [True], 2), "`first` must be .* but holds int64 .* pass y == y_pred"),
        (lambda: paired_comparison([0], [True], [[True]], 2), "1 labels, but `second` has shape"),
        (lambda: paired_comparison([0, 1], [True, True], [True], 2), "2 labels, but `second` has shape"),
        (lambda: paired_comparison([0], [True, True], [True, True], 2), "1 labels, but `first` has shape"),
        (lambda: paired_comparison([], np.zeros(0, bool), np.zeros(0, bool), 2), "at least one"),
        (lambda: paired_comparison([2], [True], [True], 2), "outside the 2 classes"),
        (lambda: paired_comparison([0], [True], [True], 2, classes=["a"]), "2 classes, but 1 class names"),
        (lambda: paired_comparison([0], [True], [True], 2, confidence=95), "between 0 and 1"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
