from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, recall_score

from art_classwise import InputError, metrics
from art_classwise.metrics import mean_accuracy, wilson
from art_classwise.metrics.accuracy import mean_ends

Y = np.random.default_rng(0).integers(0, 5, 200)
Y_PRED = np.where(np.random.default_rng(1).random(200) < 0.6, Y, np.random.default_rng(2).integers(0, 5, 200))


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_wilson_equals_scipy(confidence):
    for k, n in [(0, 1), (1, 1), (0, 50), (50, 50), (3, 10), (311, 1000), (999, 1000)]:
        expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
        low, high = metrics.wilson(k, n, confidence)
        assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_nan():
    low, high = metrics.wilson([0, 1], [0, 2])
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert low[1] < 0.5 < high[1]


@pytest.mark.parametrize("confidence", [0, 1, -1, 95, float("nan"), "0.95", None])
def test_wilson_refuses_a_confidence_out_of_range(confidence):
    with pytest.raises(InputError, match="between 0 and 1"):
        metrics.wilson(1, 2, confidence)


@pytest.mark.parametrize(("k", "n"), [(-1, 2), (3, 2)])
def test_wilson_refuses_impossible_counts(k, n):
    with pytest.raises(InputError, match="between 0 and the number of trials"):
        metrics.wilson(k, n)


def test_class_accuracy_equals_scikit_learns_recall():
    table = metrics.class_accuracy(Y, Y_PRED, 5)
    assert table["accuracy"].to_numpy() == pytest.approx(recall_score(Y, Y_PRED, average=None))
    assert table["n"].tolist() == np.bincount(Y).tolist()
    assert (table["low"] < table["accuracy"]).all()
    assert (table["accuracy"] < table["high"]).all()


def test_absent_class_is_nan_and_never_zero():
    table = metrics.class_accuracy([0, 0, 2], [0, 1, 2], 4, classes=["a", "b", "c", "d"])
    assert table["n"].to_dict() == {"a": 2, "b": 0, "c": 1, "d": 0}
    assert table.loc[["b", "d"], ["accuracy", "low", "high"]].isna().all(axis=None)


def test_confusion_equals_scikit_learns():
    assert (metrics.confusion(Y, Y_PRED, 5, normalize=False).to_numpy() == confusion_matrix(Y, Y_PRED)).all()
    shares = metrics.confusion(Y, Y_PRED, 5, classes=list("abcde"))
    assert shares.to_numpy() == pytest.approx(confusion_matrix(Y, Y_PRED, normalize="true"))
    assert (shares.index.name, shares.columns.name) == ("class", "predicted")


def test_confusion_of_an_absent_class_is_nan():
    table = metrics.confusion([0, 0, 2], [1, 1, 2], 3)
    assert table.loc[0].tolist() == [0, 1, 0]
    assert table.loc[1].isna().all()


def test_disparity_of_a_worked_example():
    """The figures of CIFAR-10 class accuracies worked out by hand beside the definitions."""
    measures = metrics.disparity([0.524, 0.678, 0.311, 0.318, 0.339, 0.369, 0.376, 0.468, 0.592, 0.576])
    expected = {
        "mean": 0.4551,
        "worst": 0.311,
        "cv": 0.01547,
        "sd": 0.1244,
        "mcd": 0.367,
        "nsd": 0.2733,
        "gini": 0.1530,
    }
    for name, value in expected.items():
        assert measures[name] == pytest.approx(value, abs=5e-5), name
    assert measures["tail20"] == pytest.approx((0.311 + 0.318) / 2)
    sample = metrics.disparity([0.524, 0.678, 0.311, 0.318, 0.339, 0.369, 0.376, 0.468, 0.592, 0.576], ddof=1)
    assert sample["nsd"] == pytest.approx(0.2881, abs=5e-5)
    assert sample["cv"] == measures["cv"]


def test_one_class_has_no_sample_deviation():
    assert np.isnan(metrics.disparity([0.5, np.nan], ddof=1)[["sd", "nsd"]].to_numpy(float)).all()
    assert (metrics.disparity([0.5, np.nan])[["sd", "nsd", "gini", "mcd"]] == 0).all()


def test_disparity_leaves_absent_classes_out():
    assert metrics.disparity([0.2, np.nan, 0.4]).to_dict() == metrics.disparity([0.2, 0.4]).to_dict()


def test_disparity_of_equal_and_of_zero_accuracies():
    equal = metrics.disparity([0.5] * 4)
    assert equal[["cv", "mcd", "sd", "nsd", "gini"]].tolist() == [0] * 5
    zero = metrics.disparity([0.0, 0.0])
    assert zero["worst"] == 0
    assert zero[["nsd", "gini"]].isna().all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.class_accuracy([], [], 3), "at least one example"),
        (lambda: metrics.class_accuracy([0, 1], [0], 3), "differ in length"),
        (lambda: metrics.class_accuracy(3, 3, 5), r"indices \(n,\) or one-hot \(n, 5\), but got 3"),
        (lambda: metrics.class_accuracy([0], 0, 5), "one-hot .* but got 0"),
        (lambda: metrics.class_accuracy(None, [0], 5), "a list of numbers, but is a NoneType"),
        (lambda: metrics.worst_class(None, [True], 5), "a list of numbers, but is a NoneType"),
        (lambda: metrics.class_accuracy([0], [0], 10.0), "`n_classes` must be a whole number .* got 10.0"),
        (lambda: metrics.confusion([0], [0], "10"), "`n_classes` must be a whole number .* got '10'"),
        (lambda: metrics.worst_class([0], [True], -3), "`n_classes` must be a whole number of at least 1"),
        (lambda: metrics.class_accuracy([0], [0], 2, confidence="0.95"), "`confidence` must be a number"),
        (lambda: metrics.paired_difference(1, 1, 1, 1, "0.95"), "`confidence` must be a number"),
        (lambda: metrics.class_accuracy([0, 3], [0, 1], 3), "Label 3 of example 1 is outside"),
        (lambda: metrics.class_accuracy([0, 1], [0, -1], 3), "Label -1 of example 1"),
        (lambda: metrics.class_accuracy([0, 1.5], [0, 1], 3), "whole numbers"),
        (lambda: metrics.class_accuracy(["cat"], ["cat"], 3), "whole numbers"),
        (lambda: metrics.class_accuracy([0], [0], 3, classes=["a"]), "3 classes, but 1 class names"),
        (lambda: metrics.confusion([0], [0], 3, classes=["a"]), "3 classes, but 1 class names"),
        (lambda: metrics.confusion([], [], 3), "at least one example"),
        (lambda: metrics.disparity([np.nan]), "without examples"),
        (lambda: metrics.disparity([]), "without examples"),
        (lambda: metrics.disparity([0.5, 52.4]), r"fractions in \[0, 1\], but got 52.4"),
        (lambda: metrics.disparity([0.5], ddof=2), "0 .population. or 1 .sample."),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()


@pytest.mark.parametrize(
    ("n_classes", "n", "p"),
    [
        (10, 100, 0.5),
        (10, 20, np.linspace(0.05, 0.95, 10)),
        (1000, 5, 0.5),
        (200, 1, 0.3),
        (10, 20, 0.98),
        (1, 50, 0.9),
    ],
)
def test_mean_accuracy_is_covered(n_classes, n, p):
    p = np.broadcast_to(p, n_classes)
    counts = np.random.default_rng(0).binomial(n, p, size=(400, n_classes))
    found = np.array([mean_ends(k, np.full(n_classes, n), 0.95) for k in counts])
    assert found[:, 0] == pytest.approx((counts / n).mean(1))
    assert np.mean((found[:, 1] <= p.mean()) & (p.mean() <= found[:, 2])) > 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 400)


def test_mean_accuracy_weighs_classes_alike():
    y, right = np.repeat([0, 2], [90, 10]), np.arange(100) < 60
    found = mean_accuracy(y, right, 4)
    assert found["mean"] == pytest.approx(np.mean([60 / 90, 0]))
    assert 0 < found["low"] < found["mean"] < found["high"] < 1
    assert mean_accuracy(y[:90], right[:90], 4)[["low", "high"]].tolist() == pytest.approx(
        [float(end) for end in wilson(60, 90)], abs=0.002
    )  # of one class, but for the example more
    for all_of_them in (True, False):
        found = mean_accuracy(y, [all_of_them] * 100, 4)
        assert (found["mean"], found["high"] - found["low"] > 0.01) == (all_of_them, True)
