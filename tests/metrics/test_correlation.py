"""How far measures of the classes go together: against SciPy, and over simulated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, norm, pearsonr, spearmanr

from art_classwise import InputError
from art_classwise.metrics.correlation import _kendall_ends, correlations

A = np.random.default_rng(0).random(12)
B = A + 0.3 * np.random.default_rng(1).random(12)


def test_correlations_and_p_are_scipys():
    table = correlations(A, B)
    for name, function in (("pearson", pearsonr), ("spearman", spearmanr), ("kendall", kendalltau)):
        expected = function(A, B)
        assert table.loc[name, ["value", "p"]].tolist() == pytest.approx([expected.statistic, expected.pvalue])
    assert (table["n"] == 12).all()


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_are_fishers_z_and_bonetts_and_wrights(confidence):
    table = correlations(A, B, confidence=confidence)
    interval = pearsonr(A, B).confidence_interval(confidence)
    assert table.loc["pearson", ["low", "high"]].tolist() == pytest.approx([interval.low, interval.high])
    r = table.loc["spearman", "value"]
    half = norm.isf((1 - confidence) / 2) * ((1 + r**2 / 2) / 9) ** 0.5
    expected = [math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)]
    assert table.loc["spearman", ["low", "high"]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("tau", [0.0, 0.6, -0.9])
def test_kendalls_variance_is_that_of_a_normal_population(tau):
    """The ends at z = 1 are a standard error away from where tau lies: of simulated samples the standard deviation."""
    rho, n = np.sin(np.pi / 2 * tau), 9
    rng = np.random.default_rng(1)
    x, e = rng.standard_normal((2, 20_000, n))
    y = rho * x + np.sqrt(1 - rho**2) * e
    i, j = np.triu_indices(n, 1)
    found = (np.sign(x[:, i] - x[:, j]) * np.sign(y[:, i] - y[:, j])).mean(1)
    assert found.mean() == pytest.approx(tau, abs=4 * found.std() / np.sqrt(20_000))
    assert _kendall_ends(tau + found.std(), n, 1)[0] == pytest.approx(tau, abs=0.01)
    assert _kendall_ends(tau - found.std(), n, 1)[1] == pytest.approx(tau, abs=0.01)


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9, 0.95])
def test_intervals_cover_the_correlation_of_a_normal_population(rho, n):
    rng = np.random.default_rng(0)
    true = {"pearson": rho, "spearman": 6 / np.pi * np.arcsin(rho / 2), "kendall": 2 / np.pi * np.arcsin(rho)}
    covered, times = dict.fromkeys(true, 0), 100
    for _ in range(times):
        x = rng.normal(size=n)
        table = correlations(x, rho * x + (1 - rho**2) ** 0.5 * rng.normal(size=n))
        for name, value in true.items():
            covered[name] += table.loc[name, "low"] <= value <= table.loc[name, "high"]
    assert all(count / times >= 0.93 - 3.5 * (0.95 * 0.05 / times) ** 0.5 for count in covered.values()), covered


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
    assert correlations(A[:4], [1, 4, 2, 3])["low"].notna().all()
    assert correlations([], [])["n"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n", [4, 6, 10, 100])
def test_a_perfect_order_has_an_interval(sign, n):
    table = correlations(np.arange(n), sign * np.exp(np.arange(n) / n))
    assert table.loc[["spearman", "kendall"], "value"].tolist() == pytest.approx([sign, sign])
    for name in ("spearman", "kendall"):
        inner, outer = table.loc[name, ["low", "high"][::sign]]
        assert outer == pytest.approx(sign)
        assert -1 < inner < 1
    assert table.loc["pearson", ["low", "high"]].notna().all()
    straight = correlations(np.arange(n), sign * np.arange(n)).loc["pearson"]
    assert straight["value"] == pytest.approx(sign)
    assert straight[["low", "high"]].isna().all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: correlations([1, 2], [1, 2, 3]), "differ in length: 2 classes, but 3"),
        (lambda: correlations([[1, 2]], [[1, 2]]), r"value per class, \(C,\), but has shape \(1, 2\)"),
        (lambda: correlations([1, 2, np.inf], [1, 2, 3]), "must be finite"),
        (lambda: correlations([1, 2, 3], [1, 2, 3], confidence=95), "`confidence`"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
