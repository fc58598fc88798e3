"""Shares per example: against Wilson's interval where they are 0 or 1, and against chance by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from art_classwise import metrics
from art_classwise.errors import InputError


def test_shares_of_all_or_none_have_no_wider_interval_than_counts():
    rng = np.random.default_rng(0)
    y, right = rng.integers(0, 4, 200), rng.random(200) < 0.7
    by_count = metrics.class_accuracy(y, np.where(right, y, (y + 1) % 4), 4)
    by_share = metrics.class_shares(y, right.astype(float), 4)
    np.testing.assert_allclose(by_share, by_count)


def test_a_class_that_is_always_or_never_right_keeps_wilsons_interval():
    table = metrics.class_shares([0] * 20 + [1] * 5, [1.0] * 20 + [0.0] * 5, 3)
    low, high = metrics.wilson([20, 0], [20, 5])
    np.testing.assert_allclose(table[["low", "high"]].to_numpy()[:2].T, [low, high])
    assert table["n"].tolist() == [20, 5, 0]
    assert table.iloc[2, 1:].isna().all()


def shares_of(rng, mean, alike, n, times):
    """Draw shares whose corruptions are right together with a correlation of ``alike`` (beta-binomial)."""
    p = rng.beta(mean * (1 / alike - 1), (1 - mean) * (1 / alike - 1), n)
    return rng.binomial(times, p) / times


@pytest.mark.parametrize("alike", [0.02, 0.3, 0.9])
@pytest.mark.parametrize(("mean", "n"), [(0.6, 100), (0.9, 40)])
def test_intervals_cover_though_an_example_is_there_many_times(alike, mean, n):
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], n)
    tables = [metrics.class_shares(y, shares_of(rng, mean, alike, 2 * n, 75), 2) for _ in range(300)]
    covered = np.mean([(t["low"] <= mean) & (mean <= t["high"]) for t in tables])
    assert covered > 0.92
    width = np.mean([t["high"] - t["low"] for t in tables])
    low, high = metrics.wilson(mean * n, n)
    assert width < 1.02 * (high - low)
    if alike < 0.1:
        assert width < 0.45 * (high - low)  # shares that are alike tell more than all or none
    means = [metrics.mean_share(y, shares_of(rng, mean, alike, 2 * n, 75), 2) for _ in range(300)]
    assert np.mean([m["low"] <= mean <= m["high"] for m in means]) > 0.92


def test_the_worst_class_is_covered_and_not_biased_by_its_choice():
    rng = np.random.default_rng(2)
    y, true = np.repeat(np.arange(5), 60), np.array([0.5, 0.52, 0.55, 0.8, 0.9])
    found = [
        metrics.worst_share(y, np.concatenate([shares_of(rng, p, 0.4, 60, 20) for p in true]), 5, repeats=10, seed=i)
        for i in range(150)
    ]
    assert np.mean([f["low"] <= 0.5 <= f["high"] for f in found]) > 0.95
    assert np.mean([f["naive"] for f in found]) < 0.49
    assert abs(np.mean([f["accuracy"] for f in found]) - 0.51) < 0.015


def test_classes_differ_by_the_analysis_of_variance():
    rng = np.random.default_rng(3)
    y, shares = rng.integers(0, 3, 90), rng.random(90)
    expected = stats.f_oneway(*(shares[y == k] for k in range(3))).pvalue
    assert metrics.share_test(y, shares, 5) == pytest.approx(expected)
    assert metrics.share_test([0, 0, 1, 1], [0.5] * 4, 2) == 1
    assert metrics.share_test([0, 0, 1, 1], [0.5, 0.5, 0.7, 0.7], 2) == 0


def test_the_mean_counts_each_class_alike():
    mean = metrics.mean_share([0, 0, 0, 1], [0.2, 0.4, 0.6, 1.0], 3)
    assert mean["mean"] == pytest.approx(0.7)
    assert mean["low"] < 0.7 < mean["high"]
    assert metrics.mean_share([0, 1], [1.0, 1.0], 2)["high"] == 1


@pytest.mark.parametrize(
    ("y", "shares", "says"),
    [([0, 1], [0.5], "2 numbers from 0 to 1"), ([0, 1], [0.5, 1.5], "from 0 to 1"), ([], [], "no labels")],
)
def test_what_are_no_shares_is_said(y, shares, says):
    for function in (metrics.class_shares, metrics.mean_share, metrics.worst_share, metrics.share_test):
        with pytest.raises(InputError, match=says):
            function(y, shares, 2)
    with pytest.raises(InputError, match="No class has 2"):
        metrics.worst_share([0, 1], [0.1, 0.2], 2)
    with pytest.raises(InputError, match="one class"):
        metrics.share_test([0, 0], [0.1, 0.2], 2)
