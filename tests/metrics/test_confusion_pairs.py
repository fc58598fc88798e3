"""Which class is mistaken for which, how symmetrically, and whether within its group."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from art_classwise import InputError, metrics
from art_classwise.metrics.confusion import asymmetry, confusion_pairs, symmetry, within_groups

CLASSES = ["ant", "bee", "cow", "doe", "elk"]
GROUPS = {"ant": "insect", "bee": "insect", "cow": "tame", "doe": "wild", "elk": "wild"}
Y = np.random.default_rng(0).integers(0, 5, 400)
Y_PRED = np.where(np.random.default_rng(1).random(400) < 0.5, Y, np.random.default_rng(2).integers(0, 4, 400))


def test_each_pair_is_counted_as_one_would_by_hand():
    table = confusion_pairs(Y, Y_PRED, 5, classes=CLASSES, groups=GROUPS, confidence=0.9)
    y, y_pred = Y.tolist(), Y_PRED.tolist()
    pairs = list(zip(y, y_pred, strict=True))
    for (name, predicted), row in table.iterrows():
        i, j = CLASSES.index(name), CLASSES.index(predicted)
        n_i, n_j, k, back = y.count(i), y.count(j), pairs.count((i, j)), pairs.count((j, i))
        assert (row["n"], row["count"]) == (n_i, k)
        assert row[["share", "reverse", "difference"]].tolist() == pytest.approx(
            [k / n_i, back / n_j, k / n_i - back / n_j]
        )
        assert (row["low"], row["high"]) == pytest.approx(proportion_confint(k, n_i, alpha=0.1, method="wilson"))
        newcombe = confint_proportions_2indep(k, n_i, back, n_j, method="newcomb", compare="diff", alpha=0.1)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(newcombe)
        assert row["within"] == (GROUPS[name] == GROUPS[predicted])


def test_all_pairs_that_occur_and_no_others_strongest_first():
    table = confusion_pairs(Y, Y_PRED, 5)
    occurring = {(int(i), int(j)) for i, j in zip(Y, Y_PRED, strict=True) if i != j}
    assert set(table.index) == occurring
    assert (0, 4) not in occurring  # none is ever predicted as the last
    assert table["share"].is_monotonic_decreasing
    assert table["count"].sum() == (Y != Y_PRED).sum()
    assert "within" not in table


def test_equal_shares_stand_by_count_and_then_in_the_order_of_the_classes():
    y = [0] * 2 + [1] * 4 + [2] * 2
    table = confusion_pairs(y, [0, 2, 1, 1, 0, 0, 2, 0], 3)
    assert list(table.index) == [(1, 0), (0, 2), (2, 0)]


def test_the_reverse_of_a_class_without_examples_is_unknown():
    table = confusion_pairs([0, 0], [0, 1], 2, groups=["a", "a"])
    assert table.loc[(0, 1), ["n", "count", "share"]].tolist() == [2, 1, 0.5]
    assert table.loc[(0, 1), ["reverse", "difference", "difference_low", "difference_high"]].isna().all()


def test_without_errors_there_are_no_pairs():
    table = confusion_pairs([0, 1], [0, 1], 2, groups=["a", "b"])
    assert len(table) == 0
    assert {"share", "difference_low", "within"} < set(table.columns)


def test_asymmetry_and_symmetry_by_their_definitions():
    shares = metrics.confusion(Y, Y_PRED, 5)
    r = shares.to_numpy()
    pairs = [(r[i, j], r[j, i]) for i in range(5) for j in range(i)]
    assert asymmetry(shares) == pytest.approx(max(abs(a - b) for a, b in pairs))
    both = np.array(pairs + [(b, a) for a, b in pairs])
    assert symmetry(shares) == pytest.approx(pearsonr(*both.T).statistic)


def test_they_do_not_depend_on_the_order_of_the_classes():
    r = metrics.confusion(Y, Y_PRED, 5).to_numpy()
    order = [3, 0, 4, 1, 2]
    assert asymmetry(r[order][:, order]) == asymmetry(r)
    assert symmetry(r[order][:, order]) == pytest.approx(symmetry(r))


def test_a_linear_function_is_no_symmetry():
    r = np.array([[0, 0.2, 0.4], [0.1, 0, 0.3], [0.2, 0.15, 0]])  # R_ij = 2 R_ji over i < j
    assert pearsonr([0.2, 0.4, 0.3], [0.1, 0.2, 0.15]).statistic == pytest.approx(1)
    assert symmetry(r) < 0.5
    assert symmetry((r + r.T) / 2) == 1
    assert asymmetry((r + r.T) / 2) == 0


def test_classes_without_examples_are_left_out():
    r = metrics.confusion([0, 0, 0, 1, 1, 2, 2], [0, 1, 3, 0, 1, 0, 1], 4).to_numpy()
    assert np.isnan(r[3]).all()
    assert asymmetry(r) == pytest.approx(asymmetry(r[:3, :3]))
    assert symmetry(r) == pytest.approx(symmetry(r[:3, :3]))


@pytest.mark.parametrize("matrix", [[[1.0]], np.full((3, 3), np.nan)])
def test_without_a_pair_both_are_nan(matrix):
    assert np.isnan(asymmetry(matrix))
    assert np.isnan(symmetry(matrix))


def test_one_pair_or_equal_shares_have_no_correlation():
    assert np.isnan(symmetry([[0.9, 0.1], [0.3, 0.7]]))
    assert np.isnan(symmetry(np.eye(4)))


def test_errors_within_groups_as_counted_by_hand():
    table = within_groups(Y, Y_PRED, GROUPS, CLASSES, confidence=0.9)
    group = np.array([GROUPS[c] for c in CLASSES])
    for name, row in table.iterrows():
        own = np.full(400, True) if name == "all groups" else group[Y] == name
        errors = own & (Y != Y_PRED)
        stayed = (errors & (group[Y] == group[Y_PRED])).sum()
        assert (row["n"], row["errors"]) == (own.sum(), errors.sum())
        assert row["within"] == pytest.approx(stayed / errors.sum())
        assert (row["low"], row["high"]) == pytest.approx(
            proportion_confint(stayed, errors.sum(), alpha=0.1, method="wilson")
        )
    assert list(table.index) == ["insect", "tame", "wild", "all groups"]


def test_expected_is_what_uniform_errors_give():
    """Each class's errors fall on every other class once, so that all shares are as expected, exactly."""
    y, y_pred = (a.ravel() for a in np.meshgrid(range(5), range(5)))
    weights = [3, 1, 2, 1, 4]  # errors of some classes are more
    y, y_pred = (np.concatenate([np.repeat(a[y == c], weights[c]) for c in range(5)]) for a in (y, y_pred))
    table = within_groups(y, y_pred, GROUPS, CLASSES)
    assert table["expected"].to_numpy() == pytest.approx(table["within"].to_numpy())
    assert table.loc["insect", "expected"] == 1 / 4


def test_without_errors_the_share_is_nan():
    table = within_groups([0, 1], [0, 0], ["a", "b"], ["x", "y"])
    assert np.isnan(table.loc["a", "within"])
    assert table.loc["b", ["errors", "within", "expected"]].tolist() == [1, 0, 0]
    alone = within_groups([0], [0], ["a"], ["x"])
    assert alone[["within", "expected"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: confusion_pairs([], [], 3), "at least one example"),
        (lambda: confusion_pairs([0, 1], [0], 3), "differ in length"),
        (lambda: confusion_pairs([0, 3], [0, 1], 3), "Label 3 of example 1"),
        (lambda: confusion_pairs([0, 1], [0, 1], 3, classes=["a"]), "3 classes, but 1 class names"),
        (lambda: confusion_pairs([0, 1], [1, 1], 2, groups=["a"]), "2 classes, but 1 groups"),
        (lambda: confusion_pairs([0, 1], [1, 1], 2, groups="cifar100"), "for the classes of CIFAR-100"),
        (lambda: confusion_pairs([0, 1], [1, 1], 2, confidence=95), "between 0 and 1"),
        (lambda: within_groups([], [], GROUPS, CLASSES), "at least one example"),
        (lambda: within_groups([0], [9], GROUPS, CLASSES), "Label 9"),
        (lambda: within_groups([0], [0], {"ant": "x"}, CLASSES), "4 of 5 classes have no group"),
        (lambda: within_groups([0], [0], GROUPS, CLASSES, confidence=0), "between 0 and 1"),
        (lambda: asymmetry([[0.1, 0.2]]), r"matrix \(C, C\), but has shape \(1, 2\)"),
        (lambda: symmetry([0.1, 0.2]), r"matrix \(C, C\)"),
        (lambda: asymmetry([[5, 3], [1, 2]]), r"shares of each true class, in \[0, 1\], but holds 5"),
        (lambda: symmetry([[0.5, -0.5], [0.5, 0.5]]), r"in \[0, 1\], but holds -0.5"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call()
