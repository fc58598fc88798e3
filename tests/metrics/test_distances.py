"""Robust accuracy at every radius, counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom

from art_classwise import InputError, metrics


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 90)  # the last of five classes has no example
    distance = np.round(rng.exponential(1 + y), 2)
    distance[rng.random(90) < 0.2] = 0
    distance[rng.random(90) < 0.1] = np.inf
    return y, distance


def test_robust_at_counts_what_lies_beyond(sample):
    y, distance = sample
    radii = [0, 0.5, *np.unique(distance[distance > 0.5])[:4], 3.0]
    table = metrics.robust_at(y, distance, 5, radii, classes=list("abcde"), confidence=0.9)
    for eps in radii:
        for k, name in enumerate("abcde"):
            of = distance[y == k]
            row = table.loc[(eps, name)]
            assert (row["n"], row["unknown"]) == (len(of), "")
            if len(of) == 0:
                assert np.isnan(row["robust"])
                continue
            held = sum(d > eps for d in of)
            low, high = metrics.wilson(held, len(of), 0.9)
            assert (row["robust"], row["low"], row["high"]) == (held / len(of), low, high)


def test_what_nobody_looked_for_is_unknown_and_says_why(sample):
    y, distance = sample
    table = metrics.robust_at(y, distance, 5, [1.0, 2.0, 2.01], searched=2.0)
    assert table.loc[2.0]["robust"].notna().sum() == 4
    assert table.loc[2.01][["robust", "low", "high"]].isna().all(axis=None)
    assert (table.loc[2.01]["unknown"] == "beyond 2, the largest perturbation looked for").all()
    smallest = np.where((y == 1) & np.isfinite(distance), distance, 0)
    table = metrics.robust_at(y, distance, 5, [0, 0.01, 50], smallest=smallest)
    assert table.loc[0]["robust"].notna().sum() == 4
    assert table.loc[0.01]["robust"].isna().tolist() == [False, True, False, False, True]
    assert "broken by other attacks" in table.loc[(0.01, 1), "unknown"]
    assert table.loc[50]["robust"].notna().sum() == 4


def test_class_distances_are_medians_and_where_accuracy_falls_to_half(sample):
    y, distance = sample
    table = metrics.class_distances(y, distance, 5)
    for k in range(4):
        of = distance[y == k]
        right = of[of > 0]
        assert table.loc[k, "right"] == len(right)
        assert table.loc[k, "median"] == pytest.approx(np.median(right))
        half = table.loc[k, "half"]
        assert (of > half).mean() <= 0.5
        assert (of >= half).mean() > 0.5 or half == 0
        curve = metrics.robust_at(y, distance, 5, [half - 1e-9, half] if half else [half])["robust"]
        assert curve.loc[(half, k)] <= 0.5
    assert table.loc[4].drop(["n", "right"]).isna().all()
    beyond = metrics.class_distances(y, distance, 5, searched=0.1)
    assert beyond["median"].isna().all()


def test_the_interval_of_the_median_holds_as_often_as_it_says():
    """Its ranks are the binomial distribution's, and it covers the true median of skewed samples."""
    rng = np.random.default_rng(1)
    distance = rng.exponential(size=1000 * 25)
    table = metrics.class_distances(np.repeat(np.arange(1000), 25), distance, 1000)
    assert ((table["low"] <= np.log(2)) & (np.log(2) <= table["high"])).mean() >= 0.95 - 0.015
    row, distance = table.loc[999], distance[-25:]
    ordered = np.sort(distance)
    r = int(np.flatnonzero(ordered == row["low"])[0]) + 1
    assert row["high"] == ordered[25 - r]
    assert 2 * binom.cdf(r - 1, 25, 0.5) <= 0.05 < 2 * binom.cdf(r, 25, 0.5)
    few = metrics.class_distances([0, 0, 0], [1.0, 2.0, 3.0], 1).loc[0]
    assert (few["median"], few["low"]) == (2, 0)
    assert np.isnan(few["high"])  # three can't tell


@pytest.mark.parametrize(
    ("eps", "says"),
    [
        (-0.1, "at least 0.*got -0.1"),
        ([0.2, 0.1], "must rise, but 0.1 follows 0.2"),
        ([0.1, 0.1], "must rise"),
        ([], "radii"),
        (np.nan, "radii"),
        ([np.inf], "radii"),
        ("0.1", "radii"),
        ([0.1, None], "radii"),
        ([True], "radii"),
    ],
)
def test_bad_radii_are_told(eps, says):
    with pytest.raises(InputError, match=says):
        metrics.robust_at([0, 1], [0.1, 0.2], 2, eps)


@pytest.mark.parametrize(
    "eps", [np.array(0.1), np.float32(0.1), torch.tensor(0.1), torch.tensor([0.1, 0.2]), pd.Series([0.1])]
)
def test_radii_may_be_arrays_tensors_and_series(eps):
    found = metrics.robust_at([0, 1], [0.05, 0.3], 2, eps)
    assert found["robust"].tolist()[:2] == [0, 1]
    assert len(found) == 2 * np.size(np.asarray(eps))


@pytest.mark.parametrize("bad", [-1, np.nan, "far", None])
def test_a_search_reaches_somewhere(bad):
    for function in (metrics.class_distances, lambda *a, **o: metrics.robust_at(*a, [0.1], **o)):
        with pytest.raises(InputError, match="`searched` must be a number of at least 0"):
            function([0, 1], [0.1, 0.2], 2, searched=bad)


@pytest.mark.parametrize("smallest", [-0.1, np.nan, [0.1], [0.1, 0.2, 0.3], [[0.1, 0.2]]])
def test_what_was_not_looked_for_is_told_of_all_or_of_each(smallest):
    with pytest.raises(InputError, match="`smallest` must be one number of at least 0, or one per example"):
        metrics.robust_at([0, 1], [0.1, 0.2], 2, [0.1], smallest=smallest)


@pytest.mark.parametrize(
    ("distance", "n_classes", "options", "says"),
    [
        (["a", "b"], 2, {}, "distance must be an array, a tensor or a list of numbers"),
        ([None, 0.1], 2, {}, "distance must be an array"),
        ([0.1], 2, {}, "distance and y differ in length: 1 examples, but 2 labels"),
        ([0.1, 0.2], 2.5, {}, "`n_classes` must be a whole number"),
        ([0.1, 0.2], 0, {}, "`n_classes` must be a whole number"),
        ([0.1, 0.2], 2, {"classes": ["ant", "ant"]}, "Class names must differ, but 'ant' appears twice"),
    ],
)
def test_what_does_not_fit_is_told(distance, n_classes, options, says):
    for function in (metrics.class_distances, lambda *a, **o: metrics.robust_at(*a, [0.1], **o)):
        with pytest.raises(InputError, match=says):
            function([0, 1], distance, n_classes, **options)


@pytest.mark.parametrize("distance", [[0.1, -0.1], [0.1, np.nan], [[0.1, 0.2]], [0.1]])
def test_bad_distances_are_told(distance):
    for function in (metrics.class_distances, lambda *a: metrics.robust_at(*a, [0.1])):
        with pytest.raises(InputError, match="distance|length"):
            function([0, 1], distance, 2)
    with pytest.raises(InputError, match="confidence"):
        metrics.class_distances([0], [1.0], 1, confidence=1)
