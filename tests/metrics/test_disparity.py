"""Measures of disparity beside what noise adds to them: against plain loops, and over simulated data sets."""

from __future__ import annotations

import numpy as np
import pytest

from art_classwise import InputError
from art_classwise.metrics import disparity, disparity_intervals, mean_accuracy, worst_class
from art_classwise.metrics.disparity import disparity_rows


def outcomes(accuracies, n, seed):
    y = np.repeat(np.arange(len(accuracies)), n)
    return y, np.random.default_rng(seed).random(len(y)) < np.asarray(accuracies)[y], len(accuracies)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("n_classes", [2, 7, 10])
def test_rows_are_measured_as_one_is(ddof, n_classes):
    a = np.random.default_rng(0).random((5, n_classes))
    for row, found in zip(a, disparity_rows(a, ddof), strict=True):
        assert found.tolist() == pytest.approx(disparity(row, ddof=ddof).tolist())


def test_table_holds_the_plaindisparity_rows_and_the_known_intervals():
    y, right, n_classes = outcomes(np.linspace(0.3, 0.8, 10), 60, 1)
    found = disparity_intervals(y, right, n_classes, ddof=1)
    plain = disparity([right[y == c].mean() for c in range(10)], ddof=1)
    assert found["value"].to_dict() == pytest.approx(plain.to_dict())
    assert found.loc["mean", ["value", "low", "high"]].tolist() == pytest.approx(mean_accuracy(y, right, 10).tolist())
    assert found.loc["worst", ["low", "high"]].tolist() == pytest.approx(worst_class(y, right, 10)[["low", "high"]])
    assert (found["low"] <= found["corrected"] + 1e-9).all()
    assert (found["corrected"] <= found["high"] + 1e-9).all()


def test_variance_is_corrected_by_the_mean_error_of_the_accuracies():
    """Observed sample variance less the mean of a (1 - a) / (n - 1), which is the true one on average."""
    accuracies, corrected = np.linspace(0.2, 0.8, 10), []
    for seed in range(300):
        y, right, _ = outcomes(accuracies, 30, seed)
        a = np.array([right[y == c].mean() for c in range(10)])
        expected = a.var(ddof=1) - (a * (1 - a) / 29).mean()
        found = disparity_intervals(y, right, 10, ddof=1, repeats=40) if seed < 5 else None
        if found is not None:
            assert found.at["sd", "corrected"] ** 2 == pytest.approx(max(expected, 0))
        corrected.append(expected)
    assert np.mean(corrected) == pytest.approx(accuracies.var(ddof=1), abs=4 * np.std(corrected) / np.sqrt(300))


@pytest.mark.parametrize(
    ("accuracies", "n"),
    [([0.5] * 10, 100), ([0.5] * 1000, 5), (np.linspace(0.3, 0.8, 10), 100), ([0.3] * 5 + [0.7] * 5, 100)],
)
def test_intervals_cover_and_estimates_are_nearer(accuracies, n):
    times = 5 if len(accuracies) == 1000 else 60
    found = [disparity_intervals(*outcomes(accuracies, n, s), repeats=100) for s in range(times)]
    true = disparity(accuracies)
    covered = np.mean([(f["low"] <= true + 1e-9) & (true - 1e-9 <= f["high"]) for f in found], axis=0)
    assert (covered >= 0.8 - 3.5 * np.sqrt(0.2 * 0.8 / times)).all(), dict(zip(true.index, covered, strict=True))
    bias, plain = (np.mean([f[of] - true for f in found], axis=0)[3:] for of in ("corrected", "value"))
    assert (np.abs(bias) <= np.abs(plain) + 0.002).all()
    if np.ptp(accuracies) == 0:
        assert (np.abs(bias) < 0.4 * np.abs(plain)).all()


def test_what_one_example_tells_is_left_out():
    y, right, _ = outcomes([0.3, 0.6], 40, 0)
    with_single = disparity_intervals(np.append(y, 2), np.append(right, False), 5)
    np.testing.assert_allclose(with_single, disparity_intervals(y, right, 2))


def test_all_right_has_no_spread_for_certain():
    found = disparity_intervals([0] * 9 + [1] * 9, [True] * 18, 2)
    assert found.loc["mcd", "corrected"] == 0
    assert found.loc["mean", "low"] < 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: disparity_intervals([0, 1], [True, True], 2), "No class has 2 examples"),
        (lambda: disparity_intervals([0, 0], [True, True], 2, repeats=9), "`repeats`"),
        (lambda: disparity_intervals([0, 0], [True, True], 2, confidence=95), "`confidence`"),
        (lambda: disparity_intervals([0, 0], [True, True], 2, seed=-1), "`seed`"),
        (lambda: disparity_intervals([0, 0], [True, True], 2, ddof=2), "`ddof`"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
