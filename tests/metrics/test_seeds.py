"""Seeds crossed with examples: against an analysis of variance written out, and over simulated trainings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from art_classwise import InputError
from art_classwise.metrics import accuracy_over_seeds, difference_over_seeds, wilson
from art_classwise.metrics.seeds import crossed


def trained(m, n, seed, *, classes=10, example=1.0, of_seed=0.1, of_class=0.1, rest=0.5):
    """Outcomes of m trainings on n examples per class, of latent effects; each class is right half of the time."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), n)
    hard = example * rng.standard_normal(len(y)) + of_seed * rng.standard_normal((m, 1))
    return y, hard + of_class * rng.standard_normal((m, classes))[:, y] + rest * rng.standard_normal((m, len(y))) > 0


def test_variance_is_that_of_a_two_way_analysis():
    y, right = trained(4, 30, 0, classes=3)
    table, variance, free = crossed(y, right.astype(float), 4)
    mean_squares = [right[:, y == c].mean(1).var(ddof=1) * 30 for c in range(3)]
    for c in range(3):
        x = right[:, y == c].astype(float)
        m, n = x.shape
        seeds = n * ((x.mean(1) - x.mean()) ** 2).sum() / (m - 1)
        assert seeds == pytest.approx(mean_squares[c])
        seeds = max(seeds, np.mean(mean_squares))
        examples = m * ((x.mean(0) - x.mean()) ** 2).sum() / (n - 1)
        rest = ((x - x.mean(0) - x.mean(1)[:, None] + x.mean()) ** 2).sum() / ((m - 1) * (n - 1))
        expected = (seeds + examples - rest) / (m * n)
        assert variance[c] == pytest.approx(max(expected, seeds / (m * n), examples / (m * n)))
        parts = seeds**2 / (m - 1) + examples**2 / (n - 1) + rest**2 / ((m - 1) * (n - 1))
        assert free[c] == pytest.approx((variance[c] * m * n) ** 2 / parts)
        assert table["estimate"][c] == pytest.approx(x.mean())
    assert np.isnan(table["estimate"][3])
    assert table["estimate"].iloc[-1] == pytest.approx(right.mean())


def test_seeds_that_agree_throughout_are_one_network():
    y, right = trained(2, 200, 1)
    found = accuracy_over_seeds(y, np.repeat(right[:1], 5, 0), 10)
    low, high = wilson([right[0, y == c].sum() for c in range(10)], 200)
    assert found["low"][:10].to_numpy() == pytest.approx(low, abs=0.003)
    assert found["high"][:10].to_numpy() == pytest.approx(high, abs=0.003)
    assert found["seeds_share"].abs().max() < 1e-9


@pytest.mark.parametrize(
    ("m", "n", "of_seed"), [(2, 100, 0.1), (3, 100, 0.1), (3, 20, 0.2), (10, 100, 0.1), (3, 100, 0)]
)
def test_both_are_covered(m, n, of_seed):
    """An interval over seeds alone covers the accuracy over all examples in 36 % to 79 %."""
    times, classes, means, alone = 80, [], [], []
    for seed in range(times):
        y, right = trained(m, n, seed, of_seed=of_seed, of_class=of_seed)
        found = accuracy_over_seeds(y, right, 10)
        inside = (found["low"] <= 0.5) & (found["high"] >= 0.5)
        classes.append(inside[:10].mean())
        means.append(inside.iloc[-1])
        by_seed = right.reshape(m, 10, n).mean(2)
        half = t.isf(0.025, m - 1) * by_seed.std(0, ddof=1) / np.sqrt(m)
        alone.append((np.abs(by_seed.mean(0) - 0.5) <= half).mean())
    least = 0.87 if m == 2 else 0.92
    assert np.mean(classes) > least - 3.5 * np.std(classes) / np.sqrt(times)
    assert np.mean(means) > least - 3.5 * np.sqrt(0.05 * 0.95 / times)
    if m == 10:
        assert np.mean(alone) < 0.7


def test_equal_recipes_do_not_differ():
    times, wrong, inside = 100, 0, 0.0
    for seed in range(times):
        rng = np.random.default_rng(seed)
        y = np.repeat(np.arange(10), 60)
        shared = rng.standard_normal(600) + 0.1 * rng.standard_normal((3, 1))
        first, second = (shared + 0.1 * rng.standard_normal((3, 10))[:, y] + 0.5 * rng.standard_normal((3, 600)) > 0
                         for _ in range(2))  # fmt: skip
        found = difference_over_seeds(y, first, second, 10)
        wrong += (found["p_adjusted"] <= 0.05).any()
        inside += ((found["low"] <= 0) & (found["high"] >= 0)).mean() / times
    assert wrong / times < 0.1 + 3.5 * np.sqrt(0.1 * 0.9 / times)
    assert inside > 0.92


def test_a_difference_has_its_interval_and_p():
    y, first = trained(3, 400, 2)
    _, second = trained(3, 400, 3, example=1.0)
    found = difference_over_seeds(y, first, second, 10, confidence=0.9)
    turned = difference_over_seeds(y, second, first, 10, confidence=0.9)
    assert found["difference"].to_numpy() == pytest.approx(-turned["difference"].to_numpy())
    assert found["low"].to_numpy() == pytest.approx(-turned["high"].to_numpy())
    assert (found["difference"] - found["first"] + found["second"]).abs().max() < 1e-12
    assert ((found["p"] <= 0.1) == ((found["low"] > 0) | (found["high"] < 0))).all()
    assert np.isnan(found["p_adjusted"].iloc[-1])


def test_what_agrees_throughout_differs_by_nothing_but_not_for_certain():
    y, right = trained(3, 50, 4)
    found = difference_over_seeds(y, right, right, 11)
    there = found.drop(index=10)
    assert ((there["low"] < 0) & (there["high"] > 0) & (there["p"] == 1)).all()
    assert found.loc[10, ["difference", "low", "p"]].isna().all()
    everything = accuracy_over_seeds(y, np.ones_like(right), 10)
    assert (everything["low"] < 1).all()
    single = accuracy_over_seeds(np.append(y, 10), np.hstack([right, right[:, :1]]), 11)
    assert single.loc[10, "low"] < single.loc[10, "high"]


GOOD = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: accuracy_over_seeds([0, 1, 1], GOOD[:1], 2), r"each of two seeds or more .* shape \(1, 3\)"),
        (lambda: accuracy_over_seeds([0, 1, 1], GOOD.astype(int), 2), "but is int64"),
        (lambda: accuracy_over_seeds([0, 1], GOOD, 2), "3 examples, but 2 labels"),
        (lambda: accuracy_over_seeds([0, 1, 2], GOOD, 2), "outside the 2 classes"),
        (lambda: accuracy_over_seeds([0, 1, 1], GOOD, 2, classes=["a"]), "2 classes, but 1 class names"),
        (lambda: accuracy_over_seeds([0, 1, 1], GOOD, 2, confidence=95), "`confidence`"),
        (lambda: difference_over_seeds([0, 1, 1], GOOD, np.ones((3, 3), bool), 2), "has 2 of them and the second 3"),
        (lambda: difference_over_seeds([0, 1, 1], GOOD, GOOD[0], 2), "`second` must be"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
