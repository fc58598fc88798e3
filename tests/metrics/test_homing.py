"""Homing by brute force, its control, and the interval of a difference on the same trials."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from art_classwise import InputError, metrics
from art_classwise.metrics.homing import unrelated_class

CONTROL = ["control_homed", "control_low", "control_high", "difference", "difference_low", "difference_high"]


# The interval of a difference.


def newcombe(a, b, c, d, confidence=0.95):
    """Method 10, as the paper writes it, number by number."""
    n = a + b + c + d
    z = NormalDist().inv_cdf(0.5 + confidence / 2)

    def score(k):
        middle, root = 2 * k + z**2, z * math.sqrt(z**2 + 4 * k * (1 - k / n))
        return (middle - root) / (2 * (n + z**2)), (middle + root) / (2 * (n + z**2))

    (low1, high1), (low2, high2) = score(a + b), score(a + c)
    p1, p2 = (a + b) / n, (a + c) / n
    below = (a + b) * (c + d) * (a + c) * (b + d)
    above = a * d - b * c
    if above > 0:
        above = max(above - n / 2, 0)
    phi = above / math.sqrt(below) if below else 0.0
    delta = math.sqrt((p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2)
    epsilon = math.sqrt((high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2)
    return p1 - p2, p1 - p2 - delta, p1 - p2 + epsilon


@pytest.mark.parametrize(
    ("counts", "low", "high", "digits"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404, 4),  # Newcombe 1998, table III
        ((14, 5, 0, 22), 0.011, 0.226, 3),  # Altman et al., "Statistics with Confidence", 2000, chapter 6
        ((1, 1, 7, 12), -0.507, -0.026, 3),  # Fagerland, Lydersen, Laake 2014, airway hyper-responsiveness
    ],
)
def test_published_intervals(counts, low, high, digits):
    found = [round(float(value), digits) for value in metrics.paired_difference(*counts)]
    assert found[1:] == [low, high]


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_it_is_the_papers_formula(confidence):
    rng = np.random.default_rng(0)
    counts = [
        *rng.integers(0, 30, (60, 4)).tolist(),
        [0, 0, 0, 7],
        [7, 0, 0, 0],
        [0, 7, 0, 0],
        [0, 3, 3, 0],
        [3, 0, 4, 0],
    ]
    found = np.transpose(metrics.paired_difference(*np.transpose(counts), confidence))
    for counted, result in zip(counts, found, strict=True):
        np.testing.assert_allclose(result, newcombe(*counted, confidence), rtol=0, atol=1e-12, err_msg=str(counted))


def test_it_is_bounded_and_turns_its_sign_with_the_order():
    a, b, c, d = np.meshgrid(*[np.array([0, 1, 2, 5, 40])] * 4)
    some = a + b + c + d > 0
    difference, low, high = (v[some] for v in metrics.paired_difference(a, b, c, d))
    assert (low >= -1 - 1e-12).all()
    assert (low <= difference + 1e-12).all()
    assert (difference <= high + 1e-12).all()
    assert (high <= 1 + 1e-12).all()
    turned = [v[some] for v in metrics.paired_difference(a, c, b, d)]
    np.testing.assert_allclose(turned, [-difference, -high, -low], atol=1e-12)
    # Failures for successes turn the sign as well.
    failures = [v[some] for v in metrics.paired_difference(d, b, c, a)]
    np.testing.assert_allclose(failures, [difference, low, high], atol=1e-12)


def test_it_is_narrower_where_both_times_go_together():
    """Of the same proportions, 60 % and 40 %: that is what pairing is for."""
    together, independent, opposed = ((40, 20, 0, 40), (24, 36, 16, 24), (0, 60, 40, 0))
    widths = []
    for counts in (together, independent, opposed):
        difference, low, high = metrics.paired_difference(*counts)
        assert float(difference) == pytest.approx(0.2)
        widths.append(float(high - low))
    assert widths[0] < widths[1] < widths[2]


def test_of_nothing_nothing_is_known_and_arrays_are_taken_by_element():
    difference, low, high = metrics.paired_difference([[0, 3]], [[0, 2]], [[0, 1]], [[0, 4]])
    assert difference.shape == low.shape == high.shape == (1, 2)
    assert np.isnan([difference[0, 0], low[0, 0], high[0, 0]]).all()
    assert np.isfinite([difference[0, 1], low[0, 1], high[0, 1]]).all()


@pytest.mark.parametrize(
    ("p1", "p2", "together", "n"),
    [(0.5, 0.5, 0.3, 40), (0.9, 0.1, 0.1, 30), (0.3, 0.2, 0.15, 60), (0.1, 0.05, 0.02, 80)],
)
def test_coverage_is_what_it_claims(p1, p2, together, n):
    """Newcombe reports a mean coverage of 0.949 for it; here by simulation, for some settings of ours."""
    rng = np.random.default_rng(0)
    probabilities = [together, p1 - together, p2 - together, 1 - p1 - p2 + together]
    counts = rng.multinomial(n, probabilities, 20_000)
    _, low, high = metrics.paired_difference(*counts.T)
    covered = np.mean((low <= p1 - p2) & (p1 - p2 <= high))
    assert 0.93 < covered < 0.995


@pytest.mark.parametrize("confidence", [0, 1, -1, 95, float("nan")])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(InputError, match="`confidence` must be a number between 0 and 1"):
        metrics.paired_difference(1, 2, 3, 4, confidence)


@pytest.mark.parametrize("counts", [(-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1)])
def test_negative_counts_are_refused(counts):
    with pytest.raises(InputError, match="Counts of trials must be at least 0"):
        metrics.paired_difference(*counts)


# The unrelated class.


def test_the_unrelated_class_is_the_one_least_confused_both_ways():
    confusion = np.array([[0.5, 0.1, 0.3, 0.1], [0.4, 0.4, 0.1, 0.1], [0.05, 0.1, 0.8, 0.05], [0.15, 0.1, 0.1, 0.65]])
    for c in range(4):
        both = {u: confusion[c, u] + confusion[u, c] for u in range(4) if u != c}
        assert unrelated_class(confusion, c, range(4)) == min(both, key=both.get)
    assert unrelated_class(confusion, 0, [1, 2]) == 2  # 0.35 against 0.5; class 3 would be 0.25
    assert unrelated_class(confusion, 0, [0]) is None
    assert unrelated_class(confusion, 0, []) is None


def test_of_equals_it_is_the_first_and_absent_classes_count_as_never_confused():
    assert unrelated_class(np.full((4, 4), 0.25), 2, [3, 1, 0]) == 0
    confusion = np.array([[0.5, 0.2, 0.3], [0.2, 0.5, 0.3], [np.nan, np.nan, np.nan]])
    assert unrelated_class(confusion, 0, [1, 2]) == 2  # 0.3 + nothing known, against 0.4


# Homing.


@pytest.fixture
def counted():
    """Outcomes of 400 examples of five classes, of which three were excluded in turn."""
    rng = np.random.default_rng(7)
    y = rng.integers(0, 5, 400)
    attacked = np.where(rng.random(400) < 0.4, y, rng.integers(0, 5, 400))
    withstood = {k: (rng.random(400) < 0.3 + 0.2 * k) & (y != k) for k in (3, 0, 1)}
    confusion = np.zeros((5, 5))
    np.add.at(confusion, (y, attacked), 1)
    return y, attacked, withstood, confusion / confusion.sum(1, keepdims=True)


def by_hand(y, attacked, withstood, confusion, among, c, excluded):
    """One pair's numbers, example by example."""
    others = [u for u in sorted(among) if u not in (c, excluded)]
    control, least = None, 9.0
    for u in others:
        together = confusion[c][u] + confusion[u][c]
        if together < least:
            control, least = u, together
    n = homed = controlled = 0
    counts = [0, 0, 0, 0]
    for i in range(len(y)):
        if y[i] != c or attacked[i] != excluded:
            continue
        first = bool(withstood[excluded][i])
        n, homed = n + 1, homed + first
        if control is not None:
            second = bool(withstood[control][i])
            controlled += second
            counts[[3, 2, 1, 0][2 * first + second]] += 1
    return n, homed, control, controlled, counts


def check_row(row, n, homed, controlled, counts, confidence=0.95):
    interval = binomtest(homed, n).proportion_ci(confidence, method="wilson")
    assert (row["n"], row["homed"]) == (n, homed / n)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    interval = binomtest(controlled, sum(counts)).proportion_ci(confidence, method="wilson")
    assert row["control_homed"] == controlled / sum(counts)
    assert (row["control_low"], row["control_high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)
    paired = (row["difference"], row["difference_low"], row["difference_high"])
    assert paired == pytest.approx(newcombe(*counts, confidence), abs=1e-12)


def test_each_pair_is_counted_example_by_example(counted):
    y, attacked, withstood, confusion = counted
    names = ["ant", "bee", "cow", "doe", "eel"]
    table = metrics.homing(y, attacked, withstood, confusion, classes=names, confidence=0.9)
    assert list(table) == ["n", "homed", "low", "high", "control", *CONTROL]
    assert table.index.names == ["class", "excluded"]
    pairs = [(c, e) for e in (3, 0, 1) for c in range(5) if c != e]
    assert table.index.tolist() == [(names[c], names[e]) for c, e in pairs]
    for c, excluded in pairs:
        n, homed, control, controlled, counts = by_hand(y, attacked, withstood, confusion, withstood, c, excluded)
        row = table.loc[(names[c], names[excluded])]
        assert row["control"] == names[control]
        check_row(row, n, homed, controlled, counts, 0.9)
        assert row["difference"] == pytest.approx(row["homed"] - row["control_homed"])


def test_pooled_all_examples_moved_into_a_class_count_together(counted):
    y, attacked, withstood, confusion = counted
    table = metrics.homing(y, attacked, withstood, confusion, pooled=True)
    assert table.index.name == "excluded"
    assert table.index.tolist() == [3, 0, 1]
    for excluded in withstood:
        pairs = [by_hand(y, attacked, withstood, confusion, withstood, c, excluded) for c in range(5) if c != excluded]
        n, homed, controlled = (sum(pair[i] for pair in pairs) for i in (0, 1, 3))
        counts = np.sum([pair[4] for pair in pairs], axis=0).tolist()
        check_row(table.loc[excluded], n, homed, controlled, counts)
        assert n == ((attacked == excluded) & (y != excluded)).sum()
        assert table.loc[excluded, "control"] == ", ".join(sorted({str(pair[2]) for pair in pairs}))


def test_controls_may_be_named(counted):
    y, attacked, withstood, confusion = counted
    table = metrics.homing(y, attacked, withstood, confusion, controls=[1])
    for c, excluded in table.index:
        row = table.loc[(c, excluded)]
        if 1 in (c, excluded):  # it would be compared with itself, or has no such examples
            assert row["control"] is None or np.isnan(row["control"])
            assert row[CONTROL].isna().all()
            continue
        n, homed, control, controlled, counts = by_hand(y, attacked, withstood, confusion, [1], c, excluded)
        assert control == 1
        check_row(row, n, homed, controlled, counts)


def test_a_single_excluded_class_has_no_control(counted):
    y, attacked, withstood, confusion = counted
    table = metrics.homing(y, attacked, {0: withstood[0]}, confusion)
    assert table.index.tolist() == [(c, 0) for c in (1, 2, 3, 4)]
    assert table[CONTROL].isna().all(axis=None)
    assert table["control"].isna().all()
    assert table[["n", "homed", "low", "high"]].notna().all(axis=None)
    whole = metrics.homing(y, attacked, withstood, confusion).xs(0, level="excluded", drop_level=False)
    pd.testing.assert_frame_equal(table[["n", "homed", "low", "high"]], whole[["n", "homed", "low", "high"]])


def test_examples_that_were_not_moved_into_the_class_do_not_count():
    """Two are: one class-1 example becomes robust without class 0, one doesn't; the others are of no matter."""
    y, attacked = [1, 1, 1, 0, 2, 2], [0, 0, 1, 0, 1, 2]
    table = metrics.homing(y, attacked, {0: [True, False, True, True, True, True]}, np.eye(3))
    assert table.index.tolist() == [(1, 0)]
    assert table["n"].tolist() == [2]
    assert table["homed"].tolist() == [0.5]
    # Nobody of class 2 was moved into class 0: no row, rather than 0 %.


@pytest.mark.parametrize("pooled", [False, True])
def test_where_nobody_was_moved_there_is_no_row(pooled):
    y = np.array([0, 1, 2])
    table = metrics.homing(y, y, {0: [False, True, True]}, np.eye(3), pooled=pooled)
    assert len(table) == 0
    assert list(table) == ["n", "homed", "low", "high", "control", *CONTROL]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"attacked": [0, 0]}, "There are 3 labels, but 2 outcomes"),
        ({"withstood": {0: [True]}}, "There are 3 labels, but 1 outcomes"),
        ({"classes": ["a", "b"]}, "There are 3 classes, but 2 class names"),
        ({"confidence": 95}, "`confidence` must be a number between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(changed, says):
    given = {"y": [0, 1, 2], "attacked": [1, 0, 0], "withstood": {0: [True] * 3}, "confusion": np.eye(3), **changed}
    with pytest.raises(InputError, match=says):
        metrics.homing(given.pop("y"), given.pop("attacked"), given.pop("withstood"), given.pop("confusion"), **given)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"withstood": {3: [True] * 3}}, "3"),
        ({"withstood": {-1: [True] * 3}}, "-1"),
        ({"y": [0, 1, 7]}, "7"),
        ({"confusion": np.ones((3, 2))}, r"\(3, 2\)"),
        ({"controls": [2]}, "2"),
    ],
)
def test_classes_that_there_are_not_are_refused(changed, says):
    given = {"y": [0, 1, 2], "attacked": [1, 0, 0], "withstood": {0: [True] * 3}, "confusion": np.eye(3), **changed}
    with pytest.raises(InputError, match=says):
        metrics.homing(given.pop("y"), given.pop("attacked"), given.pop("withstood"), given.pop("confusion"), **given)
