"""How many examples it takes: against the simulated values of the field, simulation, and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from art_classwise import InputError
from art_classwise.metrics import detectable_difference, holm, mcnemar, power, sample_size, what_can_be_told


@pytest.mark.parametrize(
    ("discordant", "n", "simulated"),
    [(0.1, 200, 0.24), (0.1, 500, 0.76), (0.1, 1000, 0.99), (0.2, 500, 0.32), (0.2, 1000, 0.76), (0.2, 2000, 0.98)],
)
def test_power_is_that_of_simulated_audits(discordant, n, simulated):
    """5 points on one class of ten, Holm-adjusted; known to about two points."""
    assert power(n, 0.05, discordant=discordant) == pytest.approx(simulated, abs=0.025)


def test_power_is_the_share_of_simulated_tables_in_which_it_is_found():
    rng = np.random.default_rng(0)
    one = rng.multinomial(150, [0.2, 0.05, 0.75], size=3000)
    p = mcnemar(one[:, 0], one[:, 1])
    others = rng.multinomial(150, [0.1, 0.1, 0.8], size=(3000, 9))
    rest = mcnemar(others[..., 0], others[..., 1])
    found = np.mean([holm(np.append(rest[i], p[i]))[-1] <= 0.05 for i in range(3000)])
    assert power(150, 0.15, discordant=0.25) == pytest.approx(found, abs=0.03)


def test_power_is_the_sum_over_all_tables():
    n, better, worse = 12, 0.5, 0.1
    expected = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if mcnemar(b, c) <= 0.05 / 2:
                expected += multinomial.pmf([b, c, n - b - c], n, [better, worse, 1 - better - worse])
    assert power(n, better - worse, discordant=better + worse, n_classes=2) == pytest.approx(expected, abs=1e-8)


def test_without_a_difference_it_is_the_level_at_most():
    for n in (10, 100, 1000):
        assert power(n, 0.0, n_classes=1) <= 0.05
    assert power(3, 1.0, discordant=1.0) == 0  # three examples, all of them: p = 0.25


@pytest.mark.parametrize(("difference", "discordant", "n_classes"), [(0.05, 0.2, 10), (0.1, 0.1, 100), (0.3, 0.5, 2)])
def test_sample_size_is_where_the_power_is_reached(difference, discordant, n_classes):
    options = {"discordant": discordant, "n_classes": n_classes}
    n = sample_size(difference, **options)
    assert power(n, difference, **options) >= 0.8
    assert power(int(0.9 * n), difference, **options) < 0.8
    assert detectable_difference(n, **options) == pytest.approx(difference, abs=0.01)


def test_more_takes_more():
    assert sample_size(0.05) < sample_size(0.05, target=0.9) < sample_size(0.04, target=0.9)
    assert sample_size(0.05, n_classes=1) < sample_size(0.05) < sample_size(0.05, discordant=0.3)
    assert np.isnan(detectable_difference(5, n_classes=1000))
    assert detectable_difference(400) < detectable_difference(100)


def test_it_is_said_in_a_sentence():
    told = what_can_be_told(np.repeat(np.arange(10), 1000), 10)
    assert "With 1,000 examples of a class, its accuracy is known to about ±3 points" in told
    assert "told apart on it from 5 points on" in told
    assert "among 10 classes" in told
    assert "can't be told apart" in what_can_be_told(np.arange(5000) % 1000, 1000)
    assert "1 example of a class" in what_can_be_told([0], 3)
    assert "(median)" in what_can_be_told([0, 0, 1], 3)


def test_binomial_terms_that_are_left_out_do_not_count():
    n = 5000
    low, high = binom.interval(1 - 1e-9, n, 0.1)
    assert binom.cdf(low - 1, n, 0.1) + binom.sf(high, n, 0.1) < 1e-8


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: power(0, 0.1), "`n`"),
        (lambda: power(10, 1.1), "`difference`"),
        (lambda: power(10, 0.3, discordant=0.2), "0.2 of the examples can't be 0.3 apart"),
        (lambda: power(10, 0.1, discordant=0.0), "`discordant`"),
        (lambda: power(10, 0.1, n_classes=0), "`n_classes`"),
        (lambda: power(10, 0.1, confidence=95), "`confidence`"),
        (lambda: sample_size(0.0), "`difference`"),
        (lambda: sample_size(1e-5), "more than 16,777,216 examples"),
        (lambda: sample_size(0.1, target=1), "`target`"),
        (lambda: detectable_difference(0), "`n`"),
        (lambda: detectable_difference(10, target=0), "`target`"),
        (lambda: what_can_be_told([], 3), "no labels"),
        (lambda: what_can_be_told([5], 3), "outside the 3 classes"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
