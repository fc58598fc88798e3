"""On which classes a stronger attack falls."""

from __future__ import annotations

import numpy as np
import pytest

from art_classwise import InputError, metrics
from art_classwise.metrics.comparison import attack_strength
from art_classwise.metrics.correlation import correlations

ACCURACIES = np.array([0.6, 0.3, 0.9, 0.5])


def outcomes(weak, strong, n, seed=0):
    """Outcomes of n examples per class; none withstands the stronger attack alone."""
    hardness = np.random.default_rng(seed).random(n * len(weak))
    y = np.repeat(np.arange(len(weak)), n)
    return y, hardness < np.asarray(weak)[y], hardness < np.asarray(strong)[y]


def test_each_column_as_one_would_count_it():
    y, weak, strong = outcomes(ACCURACIES, ACCURACIES**2, 80)
    strong = strong ^ (np.random.default_rng(1).random(len(y)) < 0.02)  # a few hold out where they fell before
    table = attack_strength(y, weak, strong, 4, classes=list("abcd"), confidence=0.9)
    assert list(table.index) == ["b", "d", "a", "c"]
    drops = {c: weak[y == c].mean() - strong[y == c].mean() for c in range(4)}
    cumulated = 0.0
    for name, row in table.iterrows():
        c = "abcd".index(name)
        a, b = weak[y == c], strong[y == c]
        paired = metrics.paired_difference((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum(), 0.9)
        assert row[["drop", "low", "high"]].tolist() == pytest.approx([float(v) for v in paired])
        cumulated += drops[c] / sum(drops.values())
        expected = [a.mean(), 80, a.mean(), b.mean(), drops[c] / a.mean(), drops[c] / sum(drops.values()), cumulated]
        assert row[["baseline", "n", "weak", "strong", "relative", "share", "cumulated"]].tolist() == pytest.approx(
            expected
        )
    assert table["cumulated"].iloc[-1] == pytest.approx(1)


def test_classes_count_the_same_whatever_their_size():
    y = [0] * 10 + [1] * 1000
    weak, strong = np.ones(1010, bool), np.zeros(1010, bool)
    assert attack_strength(y, weak, strong, 2)["share"].tolist() == [0.5, 0.5]


def test_equally_weak_classes_stay_in_order():
    y, weak, strong = [2, 1, 0, 3], [True, True, True, False], [False] * 4
    assert list(attack_strength(y, weak, strong, 4).index) == [3, 0, 1, 2]


@pytest.mark.parametrize("strong", [[True, True, True, False], [True, True, True, True]], ids=["as strong", "weaker"])
def test_without_a_drop_there_are_no_shares(strong):
    table = attack_strength([0, 0, 1, 1], [True, True, True, False], strong, 2)
    assert table[["share", "cumulated"]].isna().all(axis=None)
    assert table["drop"].notna().all()


def test_a_class_without_examples_is_last_and_nan():
    table = attack_strength([1, 1, 2, 2], [True, True, True, False], [True, False, False, False], 3)
    assert list(table.index) == [2, 1, 0]
    assert table.loc[0, "n"] == 0
    assert table.loc[0].drop("n").isna().all()
    assert table.loc[1, "cumulated"] == 1


def test_a_class_at_zero_has_no_relative_drop():
    table = attack_strength([0, 1], [False, True], [False, False], 2)
    assert np.isnan(table.loc[0, "relative"])
    assert table.loc[0, "drop"] == 0


def test_a_split_measures_on_the_other_half():
    y, weak, strong = outcomes(ACCURACIES, ACCURACIES**2, 81)
    whole = attack_strength(y, weak, strong, 4).sort_index()
    table = attack_strength(y, weak, strong, 4, split_seed=0)
    assert table["baseline"].is_monotonic_increasing
    table = table.sort_index()
    assert table["n"].tolist() == [41] * 4
    assert (table["baseline"] * 40 + table["weak"] * 41).to_numpy() == pytest.approx(whole["weak"].to_numpy() * 81)
    assert not np.allclose(table["baseline"], table["weak"])
    assert table.equals(attack_strength(y, weak, strong, 4, split_seed=0).sort_index())
    assert not table.equals(attack_strength(y, weak, strong, 4, split_seed=1).sort_index())


def test_a_class_of_one_example_cannot_tell_how_weak_it_is_by_half():
    table = attack_strength([0, 0, 1], [True, False, True], [False, False, False], 2, split_seed=0)
    assert np.isnan(table.loc[1, "baseline"])
    assert table.loc[1, ["n", "drop"]].tolist() == [1, 1]


def test_noise_alone_correlates_unless_the_examples_are_split():
    """Twenty classes that are all alike: the correlation should be 0."""

    def mean_correlation(split_seed):
        found = []
        for seed in range(100):
            table = attack_strength(*outcomes([0.5] * 20, [0.4] * 20, 40, seed), 20, split_seed=split_seed)
            found.append(correlations(table["baseline"], table["drop"]).loc["spearman", "value"])
        return np.mean(found)

    assert mean_correlation(None) > 0.1
    assert abs(mean_correlation(0)) < 0.07  # three standard errors


def test_weak_classes_that_lose_most_correlate_negatively():
    accuracies = np.linspace(0.3, 0.9, 10)
    table = attack_strength(*outcomes(accuracies, 1.3 * accuracies - 0.3, 2000), 10, split_seed=0)
    found = correlations(table["baseline"], table["drop"])
    assert found.loc["spearman", "value"] < -0.9
    assert table["cumulated"].iloc[4] > 0.6  # half of the classes


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: attack_strength([], [], [], 2), "at least one example"),
        (
            lambda: attack_strength([0, 1], [True], [True, True], 2),
            "2 labels, but `weak` has shape",
        ),
        (lambda: attack_strength([0, 1], [True, True], [0.5, 1], 2), "`strong` must be True or False"),
        (lambda: attack_strength([0, 5], [True, True], [True, True], 2), "Label 5 of example 1"),
        (lambda: attack_strength([0], [True], [True], 2, classes=["a"]), "2 classes, but 1 class names"),
        (lambda: attack_strength([0], [True], [True], 2, confidence=1), "between 0 and 1"),
        (lambda: attack_strength([0], [True], [True], 2, split_seed=-1), "`seed` must be"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
