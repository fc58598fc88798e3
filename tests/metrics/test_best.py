"""Several models, each beside the best of the others: against SciPy's Tukey, and over simulated data sets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, studentized_range

from art_classwise import InputError
from art_classwise.metrics.best import _mean_covariance, best_worst_class, compare_with_best
from art_classwise.metrics.comparison import mean_difference
from art_classwise.metrics.worst import worst_class, worst_class_difference


def outcomes(accuracies, n, seed, shared=0.8):
    """Examples of C classes, n each, and m models with these accuracies (m, C) on them, which find alike ones hard."""
    rng = np.random.default_rng(seed)
    accuracies = np.asarray(accuracies)
    y = np.repeat(np.arange(accuracies.shape[1]), n)
    noise = rng.standard_normal((len(accuracies) + 1, len(y)))
    hardness = np.sqrt(shared) * noise[0] + np.sqrt(1 - shared) * noise[1:]
    return y, hardness < norm.ppf(accuracies)[:, y]


CLASSES = np.linspace(0.3, 0.8, 10)
EQUAL = np.tile(CLASSES, (8, 1))
APART = np.clip(EQUAL + np.linspace(0, 0.2, 8)[:, None], 0, 1)


def test_two_models_have_the_interval_of_their_difference():
    y, right = outcomes(APART[[0, 3]], 100, 0)
    expected = mean_difference(y, *right, 10)
    found = compare_with_best(y, right, 10, repeats=100_000).sort_index()
    assert found["accuracy"].tolist() == pytest.approx(expected[["first", "second"]].tolist())
    columns = ["difference", "difference_low", "difference_high"]
    assert found.loc[0, columns].tolist() == pytest.approx(expected[["difference", "low", "high"]].tolist(), abs=1e-3)
    error = (expected["high"] - expected["low"]) / (2 * norm.ppf(0.975))
    p = 2 * norm.sf(abs(expected["difference"]) / error)
    assert found.loc[0, "p_adjusted"] == pytest.approx(p, abs=5 * np.sqrt(p / 100_000) + 1e-5)


@pytest.mark.parametrize("sizes", [[30, 2, 50], [1, 1, 1], [1, 40, 3]])
def test_covariances_give_the_errors_of_all_differences(sizes):
    rng = np.random.default_rng(1)
    y, right = np.repeat([0, 2, 3], sizes), rng.random((4, sum(sizes))) < 0.6
    _, covariance, least = _mean_covariance(y, right)
    for i in range(3):
        pair = mean_difference(y, right[i], right[3], 5, confidence=0.6)
        error = np.sqrt(covariance[i, i] + covariance[3, 3] - 2 * covariance[i, 3] + least)
        if pair["low"] > -1 and pair["high"] < 1:
            assert norm.ppf(0.8) * error == pytest.approx((pair["high"] - pair["low"]) / 2)


def test_unrelated_models_have_tukeys_intervals():
    y, right = outcomes(np.full((8, 2), 0.5), 20_000, 2, shared=0)
    found = compare_with_best(y, right, 2, repeats=100_000)
    half = (found["difference_high"] - found["difference_low"]).iloc[0] / 2
    assert half * np.sqrt(40_000 / 0.5) == pytest.approx(studentized_range.ppf(0.95, 8, np.inf) / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("measure", ["mean", "worst"])
def test_among_equal_models_there_is_no_winner(measure):
    """Nor does any interval or rank leave out the truth, in more data sets than 5 %; all models are one's equal."""
    times = 150 if measure == "mean" else 50
    found = [compare_with_best(*outcomes(EQUAL, 40, s), 10, measure=measure, repeats=500) for s in range(times)]
    most = 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / times)
    assert np.mean([(f["p_adjusted"] <= 0.05).any() for f in found]) < most
    assert np.mean([not f["difference_low"].le(0).all() or not f["difference_high"].ge(0).all() for f in found]) < most
    assert np.mean([f["all_ranks_low"].gt(1).any() or f["all_ranks_high"].lt(8).any() for f in found]) < most
    truth = CLASSES.mean() if measure == "mean" else CLASSES.min()
    chosen = [f.iloc[0] for f in found]
    assert np.mean([not f["accuracy_low"] <= truth <= f["accuracy_high"] for f in chosen]) < most


@pytest.mark.parametrize("measure", ["mean", "worst"])
def test_what_is_apart_is_found_and_covered(measure):
    times, true = 30, APART.mean(1) if measure == "mean" else APART.min(1)
    differences = [true[i] - np.delete(true, i).max() for i in range(8)]
    ranks = np.arange(8, 0, -1)
    found = [compare_with_best(*outcomes(APART, 400, s), 10, measure=measure, repeats=500) for s in range(times)]
    found = [f.sort_index() for f in found]
    most = 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / times)
    missed = [(f["difference_low"] > differences).any() or (f["difference_high"] < differences).any() for f in found]
    assert np.mean(missed) < most
    assert np.mean([(f["all_ranks_low"] > ranks).any() or (f["all_ranks_high"] < ranks).any() for f in found]) < most
    assert np.mean([f.loc[0, "p_adjusted"] < 0.05 for f in found]) > 0.95
    assert all(f.loc[7, "p_adjusted"] > 0.05 for f in found if f["accuracy"].idxmax() == 7)
    for f in found[:10]:
        assert (f["all_ranks_low"] <= f["rank_low"]).all()
        assert (f["rank_low"] <= f["rank"]).all()
        assert (f["rank"] <= f["rank_high"]).all()
        assert (f["rank_high"] <= f["all_ranks_high"]).all()


def test_two_worst_classes_have_the_interval_and_p_of_their_difference():
    y, right = outcomes(APART[[0, 5]], 100, 3)
    expected = worst_class_difference(y, *right, 10)
    found = compare_with_best(y, right, 10, measure="worst").sort_index().loc[0]
    assert found[["difference", "difference_low", "difference_high", "p_adjusted"]].tolist() == pytest.approx(
        expected[["difference", "low", "high", "p"]].tolist()
    )


def test_models_that_agree_throughout_are_not_equal_for_certain():
    y, right = outcomes(CLASSES[None], 50, 4)
    for measure in ("mean", "worst"):
        found = compare_with_best(y, np.repeat(right, 3, 0), 10, measure=measure)
        assert (found["difference_low"] < 0).all()
        assert (found["difference_high"] > 0).all()
        assert (found["p_adjusted"] == 1).all()
        assert found["rank"].tolist() == [1, 1, 1]


def test_order_of_examples_and_models_does_not_matter():
    y, right = outcomes(APART[[1, 6, 3]], 60, 5)
    rng = np.random.default_rng(0)
    examples = rng.permutation(len(y))
    found = compare_with_best(y, right, 10, models=["a", "b", "c"], measure="worst")
    again = compare_with_best(y[examples], right[::-1][:, examples], 10, models=["c", "b", "a"], measure="worst")
    assert found.index.tolist() == again.index.tolist() == ["b", "c", "a"]
    np.testing.assert_allclose(found, again, rtol=1e-9)


def test_best_worst_class_of_one_model_is_its_worst_class():
    y, right = outcomes(CLASSES[None], 60, 6)
    found, alone = best_worst_class(y, right, 10, models=["net"], repeats=1000), worst_class(y, right[0], 10)
    assert (found["model"], found["naive"], found["left_out"]) == ("net", alone["naive"], 0)
    assert found["accuracy"] == pytest.approx(alone["accuracy"], abs=0.01)
    assert found[["low", "high"]].tolist() == pytest.approx(alone[["low", "high"]].tolist())


def test_best_worst_class_is_no_winner_by_luck():
    """20 equal models with one class at 50 %: the plain maximum is too high, the estimate isn't."""
    accuracies = np.tile([0.5, 0.9, 0.9], (20, 1))
    found = [best_worst_class(*outcomes(accuracies, 100, s, shared=0.3), 3, repeats=20) for s in range(100)]
    assert np.mean([f["naive"] for f in found]) > 0.55
    assert np.mean([f["accuracy"] for f in found]) == pytest.approx(0.5, abs=0.02)
    covered = np.mean([f["low"] <= 0.5 <= f["high"] for f in found])
    assert covered > 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 100)


Y, RIGHT = outcomes(EQUAL[:3], 5, 0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: compare_with_best(Y, RIGHT[0], 10), r"each of two models or more .* but is bool of shape \(50,\)"),
        (lambda: compare_with_best(Y, RIGHT[:1], 10), r"shape \(1, 50\)"),
        (lambda: compare_with_best(Y, RIGHT.astype(int), 10), "but is int64"),
        (lambda: compare_with_best(Y[1:], RIGHT, 10), "50 examples, but 49 labels"),
        (lambda: compare_with_best(Y, RIGHT, 5), "outside the 5 classes"),
        (lambda: compare_with_best(Y, RIGHT, 10, models=["a", "b"]), "There are 3 models"),
        (lambda: compare_with_best(Y, RIGHT, 10, models=["a", "b", "b"]), "as many different names, but got 2"),
        (lambda: compare_with_best(Y, RIGHT, 10, measure="worts"), "Unknown measure 'worts'. Did you mean worst"),
        (lambda: compare_with_best(Y, RIGHT, 10, confidence=95), "`confidence`"),
        (lambda: compare_with_best(Y, RIGHT, 10, repeats=9), "`repeats`"),
        (lambda: compare_with_best(Y, RIGHT, 10, seed=-1), "`seed`"),
        (lambda: best_worst_class([0, 1], np.ones((2, 2), bool), 2), "No class has 2 examples"),
        (lambda: best_worst_class(Y, RIGHT[:0], 10), "each of a model or more"),
        (lambda: best_worst_class(Y, RIGHT, 10, repeats=0), "`repeats`"),
        (lambda: best_worst_class(Y, RIGHT, 10, seed=0.5), "`seed`"),
        (lambda: best_worst_class(Y, RIGHT, 10, confidence=1), "`confidence`"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
