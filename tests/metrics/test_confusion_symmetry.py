"""Asymmetry, symmetry and rho with their intervals, over simulated examples."""

from __future__ import annotations

import numpy as np
import pytest

from art_classwise import InputError
from art_classwise.metrics import (
    asymmetry,
    attack_strength,
    confusion,
    confusion_symmetry,
    rho,
    rho_interval,
    symmetry,
)


def shares(seed, symmetric):
    found = np.random.default_rng(seed).dirichlet([0.5] * 6, 6)
    found = (found + found.T) / 2 if symmetric else found
    np.fill_diagonal(found, 0)
    found *= 0.5 / found.sum(1).max()
    np.fill_diagonal(found, 1 - found.sum(1))
    return found


def predicted(matrix, n, rng):
    y = np.repeat(np.arange(len(matrix)), n)
    return y, (rng.random(len(y))[:, None] > matrix.cumsum(1)[y]).sum(1).clip(max=len(matrix) - 1)


@pytest.mark.parametrize("symmetric", [True, False])
def test_both_are_covered_and_corrected(symmetric):
    matrix, rng, times = shares(0, symmetric), np.random.default_rng(1), 60
    found = [confusion_symmetry(*predicted(matrix, 100, rng), 6, repeats=40) for _ in range(times)]
    for row, true in (("asymmetry", asymmetry(matrix)), ("symmetry", symmetry(matrix))):
        inside = np.mean([f.at[row, "low"] - 1e-9 <= true <= f.at[row, "high"] + 1e-9 for f in found])
        assert inside > 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / times), row
        plain, corrected = (np.mean([f.at[row, of] for f in found]) - true for of in ("value", "corrected"))
        assert abs(corrected) <= abs(plain) + 0.03, row


def test_values_are_those_of_the_functions():
    y, y_pred = predicted(shares(2, False), 50, np.random.default_rng(0))
    found, matrix = confusion_symmetry(y, y_pred, 6), confusion(y, y_pred, 6)
    assert found["value"].tolist() == pytest.approx([asymmetry(matrix), symmetry(matrix)])
    with_single = confusion_symmetry(np.append(y, 6), np.append(y_pred, 0), 8)
    np.testing.assert_allclose(with_single, found, atol=0.06)  # other samples
    assert confusion_symmetry([0, 0], [1, 0], 2).isna().all(axis=None)


def outcomes(accuracies, n, rng):
    y = np.repeat(np.arange(len(accuracies)), n)
    return y, rng.random(len(y)) < np.asarray(accuracies)[y]


@pytest.mark.parametrize(("new", "old"), [([0.4, 0.6, 0.6], [0.3, 0.65, 0.65]), ([0.5] * 10, [0.5] * 10)])
def test_rho_is_covered(new, old):
    rng, true = np.random.default_rng(0), rho(min(new), np.mean(new), min(old), np.mean(old))
    found = []
    for _ in range(60):
        y, right = outcomes(new, 200, rng)
        found.append(rho_interval(y, right, outcomes(old, 200, rng)[1], len(new)))
    assert np.mean([f["low"] <= true <= f["high"] for f in found]) > 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 60)
    assert all(f["low"] <= f["rho"] <= f["high"] for f in found)


def test_rho_against_a_worst_class_at_or_near_0():
    y = np.repeat([0, 1], 40)
    one, few, none = np.arange(80) > 10, (np.arange(80) > 38), np.arange(80) > 39
    assert rho_interval(y, one, none, 2).isna().all()
    near = rho_interval(y, one, few, 2)
    assert near["high"] > near["rho"] > near["low"]


def test_shares_of_the_drop_are_covered():
    weak, strong, rng, times = np.array([0.4, 0.6, 0.8]), np.array([0.2, 0.5, 0.7]), np.random.default_rng(2), 60
    share = (weak - strong) / (weak - strong).sum()
    inside = np.zeros(3)
    for _ in range(times):
        y = np.repeat(np.arange(3), 300)
        hardness = rng.random(900)
        table = attack_strength(y, hardness < weak[y], hardness < strong[y], 3).loc[[0, 1, 2]]
        assert table["cumulated_high"].iloc[-1] == pytest.approx(1)
        inside += (table["share_low"] <= share) & (share <= table["share_high"])
    assert (inside / times > 0.93 - 3.5 * np.sqrt(0.05 * 0.95 / times)).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: confusion_symmetry([0, 0], [0, 0], 2, confidence=95), "`confidence`"),
        (lambda: confusion_symmetry([0, 0], [0, 0], 2, repeats=3), "`repeats`"),
        (lambda: confusion_symmetry([0, 0], [0, 0], 2, seed=-1), "`seed`"),
        (lambda: rho_interval([0, 1], [True] * 2, [True] * 2, 2), "No class has 2 examples"),
        (lambda: rho_interval([0, 0], [True] * 2, [1, 1], 2), "`baseline` must be True or False"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
