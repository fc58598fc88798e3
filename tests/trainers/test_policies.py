"""Class policies by themselves: their formulas against plain loops, what they remember, what they refuse.

How they act in training is in test_policies_training.py.
"""

from __future__ import annotations

import copy
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trainable
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch.utils._python_dispatch import TorchDispatchMode

import art_classwise as acw
from art_classwise import InputError
from art_classwise.threat import ThreatModel
from art_classwise.trainers import policies
from art_classwise.trainers.policies import (
    ABSLD,
    CFA,
    CFOL,
    DAFA,
    FAAL,
    FRL,
    TRIX,
    WAT,
    BalancedSoftmax,
    ClassPolicy,
    Combined,
    FairARD,
    FairTAT,
    Fixed,
    PolicyContext,
    Spectral,
    parse_policy,
)

NAN = math.nan
LINF = ThreatModel("Linf", 0.1)


def context(n_classes=3, *, beta=6.0, eps=0.1, nb_epochs=100, shares=None):
    given = [1 / n_classes] * n_classes if shares is None else shares
    return PolicyContext(
        n_classes, torch.tensor(given, dtype=torch.float64), beta, eps, nb_epochs, torch.device("cpu"), TEACHER
    )


TEACHER = SimpleNamespace(temperatures=None)  # which policies that soften its labels need


def begun(policy, **options):
    policy.begin(context(**options))
    return policy


def softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def rows(robust, clean=None, prefix="", **more):
    """A row of the history, of class accuracies."""
    clean = robust if clean is None else clean
    row = {f"{prefix}robust_{k}": value for k, value in enumerate(robust)}
    row |= {f"{prefix}clean_{k}": value for k, value in enumerate(clean)}
    return row | more


def as_lists(weights):
    return [None if w is None else w.tolist() for w in weights]


# CFA.


def test_cfa_adds_the_base_to_the_robust_accuracy():
    t = [0.1, 0.45, 0.9]
    assert policies.cfa_budgets(t, 0.3) == pytest.approx([0.4, 0.75, 1.2], abs=1e-15)
    first, second = policies.cfa_weights(t, 6.0, 0.5)
    for k in range(3):
        b = (0.5 + t[k]) * 6.0
        assert first[k] == pytest.approx(1 / (1 + b), rel=1e-14)
        assert 6.0 * second[k] == pytest.approx(b / (1 + b), rel=1e-14)  # both terms' weights sum to 1, as published
        ce, kl = 1.7, 0.3
        assert first[k] * ce + 6.0 * second[k] * kl == pytest.approx((ce + b * kl) / (1 + b), rel=1e-14)


def test_cfa_follows_the_epoch_before_once_it_has_begun():
    policy = begun(CFA(begin_after=2, fawa=False))
    y, z = torch.tensor([0, 1]), torch.zeros(2, 3)
    for epoch, robust in enumerate([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], 1):
        if epoch <= 2:  # as without it, but for 1 / (1 + beta)
            assert policy.class_budgets.radii.tolist() == [1, 1, 1]
            assert as_lists(policy.weigh(y, z)) == [[1 / 7] * 3] * 2
        else:
            assert policy.class_budgets.radii.tolist() == pytest.approx([0.7, 0.8, 0.9])  # 0.3 + t: of two terms
            b = [(0.5 + t) * 6 for t in (0.4, 0.5, 0.6)]
            assert policy.weigh(y, z).first.tolist() == pytest.approx([1 / (1 + v) for v in b])
            assert policy.weigh(y, z).second.tolist() == pytest.approx([v / 6 / (1 + v) for v in b])
        assert policy.class_budgets.steps.tolist() == [1, 1, 1]
        policy.end_epoch(epoch, rows(robust))
    assert policy.class_budgets.radii.tolist() == pytest.approx([1.0, 1.1, 1.2])


def test_cfa_has_the_papers_base_for_each_kind_of_objective():
    for lambda1, beta, expected in ((None, None, 0.5), (None, 6.0, 0.3), (0.4, 6.0, 0.4), (0.4, None, 0.4)):
        policy = begun(CFA(lambda1=lambda1, begin_after=1), beta=beta)
        policy.end_epoch(1, rows([0.0, 0.25, 0.5]))
        assert policy.class_budgets.radii.tolist() == pytest.approx([expected, expected + 0.25, expected + 0.5])


def test_cfa_weighs_nothing_where_there_is_one_term():
    y, z = torch.tensor([0]), torch.zeros(1, 3)
    assert begun(CFA(), beta=None).weigh(y, z) == (None, None)
    assert begun(CFA(ccr=False), beta=None).weigh(y, z) == (None, None)


def test_cfa_without_ccr_divides_by_1_plus_beta_all_the_same():
    policy = begun(CFA(ccr=False, begin_after=1), beta=3.0)
    for epoch in (1, 2, 3):
        assert as_lists(policy.weigh(torch.tensor([0]), torch.zeros(1, 3))) == [[1 / 4] * 3] * 2
        policy.end_epoch(epoch, rows([0.1, 0.5, 0.9]))


def test_cfa_without_ccm_has_no_budgets():
    assert begun(CFA(ccm=False)).class_budgets is None
    assert not CFA(ccm=False).sets_budgets


def test_cfa_keeps_the_statistic_of_a_class_that_is_absent_from_an_epoch():
    policy = begun(CFA(begin_after=1))
    assert policy.class_budgets.radii.tolist() == [1, 1, 1]
    policy.end_epoch(1, rows([0.2, NAN, 0.4]))
    assert policy.class_budgets.radii.tolist() == pytest.approx([0.5, 1, 0.7])  # of class 1 nothing is known yet
    assert policy.weigh(torch.tensor([1]), torch.zeros(1, 3)).first[1] == pytest.approx(1 / 7)
    policy.end_epoch(2, rows([NAN, 0.5, 0.6]))
    assert policy.class_budgets.radii.tolist() == pytest.approx([0.5, 0.8, 0.9])


def test_cfa_tells_how_weights_are_averaged():
    assert CFA(decay=0.7, fawa_start=3, threshold=0.1).averaging == (0.7, 3, 0.1)
    assert CFA().averaging == (0.85, 50, 0.2)
    assert CFA().needs_validation
    assert CFA(fawa=False).averaging is None
    assert not CFA(fawa=False).needs_validation


# DAFA.


def literal_dafa(p, y, lamb):
    """Equation 5, pair by pair: p_i(j) is the mean probability of class j over class i's examples."""
    n_classes = len(p[0])
    means = {}
    for i in set(y):
        mine = [row for row, label in zip(p, y, strict=True) if label == i]
        means[i] = [sum(row[j] for row in mine) / len(mine) for j in range(n_classes)]
    weights = [1.0] * n_classes
    for i in means:
        for j in means:
            if means[i][i] < means[j][j]:
                weights[i] += lamb * means[i][j] * means[j][j]
            elif means[i][i] > means[j][j]:
                weights[i] -= lamb * means[j][i] * means[i][i]
    return weights


@pytest.mark.parametrize("lamb", [0.0, 1.0, 1.5])
def test_dafa_shifts_weight_between_each_pair_of_classes(lamb):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 60)
    y = rng.integers(0, 5, 60)
    weights = policies.dafa_weights(p, y, lamb)
    assert weights == pytest.approx(literal_dafa(p.tolist(), y.tolist(), lamb), abs=1e-14)
    assert weights.mean() == pytest.approx(1)  # what one gains the other loses
    if lamb:
        hardest, easiest = (f([p[y == k, k].mean() for k in range(5)]) for f in (np.argmin, np.argmax))
        assert weights[hardest] > 1 > weights[easiest]


def test_dafa_gives_a_class_without_examples_weight_1():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 30)
    y = np.arange(30) % 3  # none of class 3, which the others are taken for all the same
    weights = policies.dafa_weights(p, y)
    assert weights[3] == 1
    assert weights == pytest.approx(literal_dafa(p.tolist(), y.tolist(), 1.0), abs=1e-14)


def test_dafa_measures_in_the_last_epoch_of_the_warm_up_alone_and_once():
    torch.manual_seed(0)
    policy = begun(DAFA(lamb=1.5, warmup=2), n_classes=4)
    batches = [(torch.randint(4, (16,)), 2 * torch.randn(16, 4)) for _ in range(8)]
    for epoch in range(4):
        for y, z in batches[2 * epoch : 2 * epoch + 2]:
            weights = policy.weigh(y, z)
            assert weights.second is None
            assert torch.equal(policy.class_budgets.radii, weights.first)
            assert torch.equal(policy.class_budgets.steps, weights.first)
            if epoch < 2:
                assert weights.first.tolist() == [1, 1, 1, 1]
        policy.end_epoch(epoch + 1, {})
    p = [softmax(row) for _, z in batches[2:4] for row in z.tolist()]
    y = [k for labels, _ in batches[2:4] for k in labels.tolist()]
    assert weights.first.tolist() == pytest.approx(literal_dafa(p, y, 1.5), abs=1e-6)


def test_dafa_says_which_probabilities_or_labels_do_not_suit():
    with pytest.raises(InputError, match=r"Probabilities must have shape \(n, C\), but have \(3,\)"):
        policies.dafa_weights(np.ones(3), [0, 1, 2])
    with pytest.raises(InputError, match="Label 2 of example 1 is outside the 2 classes"):
        policies.dafa_weights(np.full((2, 2), 0.5), [0, 2])
    with pytest.raises(InputError, match="2 examples, but 3 labels"):
        policies.dafa_weights(np.full((2, 2), 0.5), [0, 1, 1])


# FRL.


def literal_frl(phi, errors, error, tau, rate, limit):
    after = []
    for value, own in zip(phi, errors, strict=True):
        after.append(value if math.isnan(own) else value + rate * (own - error - tau))
    if limit is None:
        return after
    after = [max(0.0, value) for value in after]
    return [value * limit / sum(after) for value in after] if sum(after) > limit else after


@pytest.mark.parametrize("limit", [None, 0.01, 0.5])
def test_frl_ascends_each_multiplier_by_its_constraints_violation(limit):
    phi = [0.0, 0.02, 0.1, 0.05]
    errors = [0.9, 0.2, 0.5, NAN]
    got = policies.frl_multipliers(phi, errors, 0.4, 0.05, 0.2, limit)
    assert got == pytest.approx(literal_frl(phi, errors, 0.4, 0.05, 0.2, limit), abs=1e-15)
    if limit is not None:
        assert got.min() >= 0
        assert got.sum() <= limit + 1e-12


def test_frl_weighs_classes_as_its_released_code():
    """diff_i = 1/C + (C - 1)/C phi_i - 1/C sum over the others of phi_j, here times C."""
    phi = [0.3, 0.0, 0.1, 0.05]
    for i, weight in enumerate(policies.frl_weights(phi)):
        share = 1 / 4 + 3 / 4 * phi[i] - sum(phi[j] for j in range(4) if j != i) / 4
        assert weight == pytest.approx(4 * share, abs=1e-15)
    assert policies.frl_weights(phi).mean() == pytest.approx(1)


def test_frl_widens_radii_within_its_bounds():
    phi = [-1.0, -0.005, 0.0, 0.2, 0.6]
    expected = [min(3.0, max(0.98, math.exp(2 * value))) for value in phi]
    assert policies.frl_budgets(phi) == pytest.approx(expected, abs=1e-15)


def test_frl_goes_on_from_epoch_to_epoch_by_natural_and_boundary_errors():
    policy = begun(FRL(alpha1=0.3, alpha2=0.2, tolerance=0.05, limit=0.4))
    y, z = torch.tensor([0]), torch.zeros(1, 3)
    natural, boundary, margin = ([0.0] * 3 for _ in range(3))
    assert as_lists(policy.weigh(y, z)) == [[1, 1, 1]] * 2  # nothing is measured before the first epoch
    for epoch, (clean, robust) in enumerate(
        [([0.9, 0.5, 0.7], [0.5, 0.2, 0.3]), ([0.9, 0.4, NAN], [0.2, 0.3, NAN]), ([0.6, 0.8, 0.7], [0.6, 0.1, 0.2])], 1
    ):
        all_clean, all_robust = np.nanmean(clean), np.nanmean(robust)
        policy.end_epoch(epoch, rows(robust, clean, "val_", val_clean=all_clean, val_robust=all_robust))
        r_nat = [1 - c for c in clean]
        r_bndy = [c - r for c, r in zip(clean, robust, strict=True)]
        natural = literal_frl(natural, r_nat, 1 - all_clean, 0.05, 0.3, 0.4)
        boundary = literal_frl(boundary, r_bndy, all_clean - all_robust, 0.05, 0.6, 0.4)
        margin = literal_frl(margin, r_bndy, all_clean - all_robust, 0.05, 0.2, None)
        for got, phi in zip(policy.weigh(y, z), (natural, boundary), strict=True):
            assert got.tolist() == pytest.approx([1 + 3 * (v - sum(phi) / 3) for v in phi])
        assert policy.class_budgets.radii.tolist() == pytest.approx(
            [min(3, max(0.98, math.exp(2 * v))) for v in margin]
        )
        assert policy.class_budgets.steps.tolist() == [policy.class_budgets.radii.max()] * 3
        for of in ([0, 1], [2, 2, 0], [1]):  # the largest radius is the batch's
            y_of = torch.tensor(of)
            budgets = policy.budgets_of(y_of)
            assert torch.equal(budgets.radii, policy.class_budgets.radii[y_of])
            assert budgets.steps.tolist() == [max(budgets.radii.tolist())] * len(of)


def test_frl_weighs_the_one_term_of_an_objective_by_the_mean_of_both():
    one, two = begun(FRL(), beta=None), begun(FRL())
    row = rows([0.1, 0.5, 0.6], [0.3, 0.9, 0.8], "val_", val_clean=0.67, val_robust=0.4)
    for policy in (one, two):
        policy.end_epoch(1, row)
    first, second = two.weigh(torch.tensor([0]), torch.zeros(1, 3))
    assert not torch.equal(first, second)
    mean, none = one.weigh(torch.tensor([0]), torch.zeros(1, 3))
    assert none is None
    torch.testing.assert_close(mean, (first + second) / 2)


def test_frl_without_remargin_leaves_the_radii():
    policy = begun(FRL(alpha2=0))
    assert not policy.sets_budgets
    assert policy.class_budgets is None


# WAT.


def literal_wat(cumulated, eta):
    """Hedge: weights proportional to exp(eta times the summed losses), in all as many as classes that take part."""
    odds = [0.0 if math.isnan(v) else math.exp(eta * v) for v in cumulated]
    return [(len(cumulated) - odds.count(0.0) - 1) * v / sum(odds) for v in odds]


@pytest.mark.parametrize("eta", [0.0, 0.1, 2.0])
def test_wat_is_the_hedge_algorithm(eta):
    for losses in ([1.0, 2.5, 0.3, 1.3], [1.0, NAN, 3.0, 2.0]):
        assert policies.wat_weights(losses, eta) == pytest.approx(literal_wat(losses, eta), abs=1e-14)
    assert policies.wat_weights([1e4, 0.0, 1.0], 10.0) == pytest.approx([2, 0, 0])  # no overflow


def test_wat_sums_validation_losses_over_epochs_by_class_and_their_mean():
    policy = begun(WAT(eta=0.5))
    cumulated = [0.0] * 4
    assert as_lists(policy.weigh(torch.tensor([0]), torch.zeros(1, 3))) == [[2, 2, 2]] * 2  # class and average
    for epoch, batches in enumerate([[([0, 1], [1.0, 3.0]), ([2, 0], [0.5, 2.0])], [([0, 1], [1.0, 4.0])]], 1):
        losses = {}
        for y, values in batches:
            policy.see_validation(torch.tensor(y), torch.tensor(values))
            for k, value in zip(y, values, strict=True):
                losses.setdefault(k, []).append(value)
        policy.end_epoch(epoch, {})
        means = [sum(losses.get(k, [0.5])) / len(losses.get(k, [0.5])) for k in range(3)]  # class 2 keeps its own
        for k in range(3):
            cumulated[k] += means[k]
        cumulated[3] += sum(means) / 3
        w = literal_wat(cumulated, 0.5)
        expected = [w[k] + w[3] for k in range(3)]
        assert policy.weigh(torch.tensor([0]), torch.zeros(1, 3)).first.tolist() == pytest.approx(expected)
        assert policy.weigh(torch.tensor([0]), torch.zeros(1, 3)).second.tolist() == pytest.approx(expected)


# FAAL.


def divergence(p):
    """KL(U || p)."""
    return -math.log(len(p)) - sum(map(math.log, p)) / len(p)


def assert_solves(p, m, radius):
    """The Karush-Kuhn-Tucker conditions: 1 / p_c = (nu - m_c) / K with K > 0, and the bound is met with equality.

    The problem is convex, so that they are sufficient.
    """
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert (p > 0).all()
    assert divergence(p) == pytest.approx(radius, abs=1e-7)
    slope = (1 / p[m.argmin()] - 1 / p[m.argmax()]) / (m.max() - m.min())
    assert slope > 0
    np.testing.assert_allclose(p * (1 / p[m.argmax()] + slope * (m.max() - m)), 1, rtol=1e-9)


@given(
    st.lists(st.integers(-1000, 1000), min_size=2, max_size=12).filter(lambda v: len(set(v)) > 1),
    st.floats(0.01, 3),
)
@settings(max_examples=60, deadline=None)
def test_faal_solves_its_inner_problem(margins, radius):
    m = np.array(margins) / 1000
    assert_solves(policies.faal_probabilities(m, radius), m, radius)


@pytest.mark.filterwarnings("ignore:Values in x were outside bounds")  # older scipy says so of its own steps
@pytest.mark.parametrize("seed", range(4))
def test_faal_finds_what_a_solver_finds(seed):
    rng = np.random.default_rng(seed)
    m = rng.uniform(-1, 1, 10)
    found = optimize.minimize(
        lambda p: -p @ m,
        np.full(10, 0.1),
        jac=lambda p: -m,
        method="SLSQP",
        bounds=[(1e-6, 1)] * 10,
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(10)},
            {"type": "ineq", "fun": lambda p: 0.5 - divergence(p), "jac": lambda p: 1 / p / 10},
        ],
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    p = policies.faal_probabilities(m)
    assert p @ m == pytest.approx(-found.fun, abs=1e-7)
    np.testing.assert_allclose(p, found.x, atol=1e-4)


def test_faal_meets_its_bound_to_many_digits():
    for n_classes in (3, 7, 10):
        p = policies.faal_probabilities(np.random.default_rng(0).normal(size=n_classes))
        assert divergence(p) == pytest.approx(0.5, abs=5e-9)


def test_faal_does_not_depend_on_the_margins_unit_or_place():
    m = np.array([0.3, -0.2, 0.9, 0.1])
    p = policies.faal_probabilities(m)
    for scale in (1e-30, 1e-3, 1e6):
        np.testing.assert_allclose(policies.faal_probabilities(scale * m), p, rtol=1e-6)
    np.testing.assert_allclose(policies.faal_probabilities(m + 5), p, rtol=1e-6)


def test_faal_is_uniform_for_equal_margins_and_close_to_it_for_a_small_radius():
    np.testing.assert_allclose(policies.faal_probabilities([0.7] * 5), [0.2] * 5)
    np.testing.assert_allclose(policies.faal_probabilities([0.1, 0.5, 0.2], 1e-6), [1 / 3] * 3, atol=1e-3)


def test_faal_gives_nearly_all_to_the_hardest_class_for_a_large_radius():
    for radius in (10.0, 100.0):
        p = policies.faal_probabilities([0.1, 0.5, 0.2], radius)
        assert p[1] > 1 - 1e-6
        assert np.isfinite(p).all()
    p = policies.faal_probabilities([0.5, 0.5, 0.2], 10.0)  # two are the hardest
    np.testing.assert_allclose(p[:2], 0.5, atol=1e-6)


def test_faal_leaves_classes_never_seen_out_of_the_distribution():
    p = policies.faal_probabilities([0.3, NAN, -0.2, 0.9])
    assert p[1] == 0
    np.testing.assert_allclose(p[[0, 2, 3]], policies.faal_probabilities([0.3, -0.2, 0.9]), rtol=1e-12)
    assert policies.faal_probabilities([NAN, 0.4]).tolist() == [0, 1]


def test_faal_weighs_a_batch_by_its_own_margins_and_keeps_those_of_absent_classes():
    torch.manual_seed(0)
    policy = begun(FAAL(radius=0.3), n_classes=4)
    margins = [NAN] * 4
    for y in ([0, 0, 1, 1, 2], [0, 1, 1, 1, 1], [2, 2, 2, 2, 2], [3, 0, 1, 2, 3]):
        z = torch.randn(5, 4)
        seen = {}
        for k, row in zip(y, z.tolist(), strict=True):
            p = softmax(row)
            seen.setdefault(k, []).append(max(p[j] for j in range(4) if j != k) - p[k])
        for k, values in seen.items():
            margins[k] = sum(values) / len(values)
        weights = policy.weigh(torch.tensor(y), z)
        known = [k for k in range(4) if not math.isnan(margins[k])]
        p = policies.faal_probabilities([margins[k] for k in known], 0.3)
        assert_solves(p, np.array([margins[k] for k in known]), 0.3)
        expected = [1.0] * 4
        for k, value in zip(known, p, strict=True):
            expected[k] = len(known) * value
        assert weights.first.tolist() == pytest.approx(expected, abs=1e-5)
        assert torch.equal(weights.first, weights.second)
        policy.end_epoch(1, {})


def test_faal_takes_a_vector_of_margins():
    with pytest.raises(InputError, match=r"Class margins must have shape \(C,\), but have \(2, 2\)"):
        policies.faal_probabilities(np.zeros((2, 2)))


# CFOL.


def test_cfol_mixes_the_uniform_distribution_with_the_scores_softmax():
    w = [0.0, 1.0, -2.0, 0.5]
    for gamma in (0.0, 0.3, 1.0):
        p = policies.cfol_probabilities(w, gamma)
        assert p == pytest.approx([gamma / 4 + (1 - gamma) * v for v in softmax(w)], abs=1e-14)
    assert policies.cfol_probabilities([0.0, 0.0, 0.0]).sum() == pytest.approx(1, abs=1e-15)


def test_cfol_leaves_out_classes_without_examples():
    p = policies.cfol_probabilities([0.5, -math.inf, 0.0])
    assert p[1] == 0
    assert p[[0, 2]] == pytest.approx(policies.cfol_probabilities([0.5, 0.0]))


def test_cfol_scores_gain_each_loss_over_the_probability_it_was_drawn_with():
    w, y, losses, drawn = [0.1, 0.2, 0.3], [0, 2, 2, 1, 2], [1.0, 0.5, 1.0, 0.0, 0.0], [0.2, 0.3, 0.5]
    expected = list(w)
    for k, loss in zip(y, losses, strict=True):
        expected[k] += 0.01 * loss / drawn[k]
    assert policies.cfol_scores(w, y, losses, drawn, 0.01) == pytest.approx(expected, abs=1e-15)


def test_cfol_weighs_a_batch_by_the_scores_before_it():
    torch.manual_seed(0)
    shares = [0.5, 0.0, 0.3, 0.2]
    policy = begun(CFOL(eta=0.05, gamma=0.25), n_classes=4, shares=shares)
    scores = [0.0, 0.0, 0.0]  # of classes 0, 2 and 3
    for _ in range(5):
        y, z = torch.tensor([0, 0, 2, 3, 0, 2]), torch.randn(6, 4)
        weights = policy.weigh(y, z)
        p = [0.25 / 3 + 0.75 * v for v in softmax(scores)]
        assert weights.first.tolist() == pytest.approx([3 * p[0], 1, 3 * p[1], 3 * p[2]], abs=1e-12)
        assert torch.equal(weights.first, weights.second)
        for k, row in zip(y.tolist(), z.tolist(), strict=True):
            if row.index(max(row)) != k:
                scores[[0, 2, 3].index(k)] += 0.05 / shares[k]
        policy.end_epoch(1, {})
    assert len(set(scores)) == 3


# Fixed.


def test_fixed_weights_and_budgets_are_as_given():
    policy = Fixed([0.0, 2.0, 1.5], {1: 0.2, 2: 0.05})
    policy.check_fit(3, LINF, 1.0)
    begun(policy)
    for epoch in (1, 2):
        assert as_lists(policy.weigh(torch.tensor([0]), torch.zeros(1, 3))) == [[0, 2, 1.5]] * 2
        assert policy.class_budgets.radii.tolist() == pytest.approx([1, 2, 0.5])  # in units of the trainer's 0.1
        assert policy.class_budgets.steps.tolist() == pytest.approx([1, 2, 0.5])
        policy.end_epoch(epoch, {})
    assert policy.sets_budgets
    weights = begun(Fixed({2: 3.0}))
    assert as_lists(weights.weigh(torch.tensor([0]), torch.zeros(1, 3))) == [[1, 1, 3]] * 2
    assert weights.class_budgets is None
    assert not weights.sets_budgets


def test_fixed_takes_arrays_and_tensors():
    assert Fixed(np.array([1, 2])).weights == Fixed(torch.tensor([1.0, 2.0])).weights == [1.0, 2.0]
    assert Fixed({np.int64(1): np.float32(2)}).weights == {1: 2.0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "needs class `weights`, class `budgets`, or both"),
        ({"weights": [1.0, -1.0]}, "must be finite and at least 0, but class 1 has -1"),
        ({"weights": {2: NAN}}, "must be finite and at least 0, but class 2 has nan"),
        ({"weights": [math.inf, 1]}, "class 0 has inf"),
        ({"weights": [0, 0]}, "sum to 0, so that nothing would be learnt: make one positive"),
        ({"budgets": [0.1, 0.0]}, "finite radii above 0, .* class 1 has 0: take a small radius"),
        ({"budgets": {0: -0.1}}, "class 0 has -0.1"),
        ({"budgets": {0: math.inf}}, "class 0 has inf"),
        ({"weights": {math.inf: 1.0}}, "must be numbers, one per class, or a dict"),
        ({"weights": {0: 10**400}}, "must be numbers, one per class, or a dict"),
        ({"weights": {0: True}}, "must be numbers, one per class, or a dict"),
        ({"budgets": [True, False]}, "must be numbers, one per class, or a dict"),
        ({"budgets": [NAN]}, "class 0 has nan"),
        ({"weights": "cat"}, "Class weights must be numbers, one per class, or a dict .* got 'cat'"),
        ({"weights": [[1.0]]}, "Class weights must be numbers"),
        ({"weights": []}, "Class weights must be numbers"),
        ({"budgets": {"cat": 0.1}}, "Class budgets must be numbers"),
        ({"weights": {1.5: 1}}, "Class weights must be numbers"),
        ({"weights": {True: 1}}, "Class weights must be numbers"),
        ({"weights": {1: None}}, "Class weights must be numbers"),
    ],
)
def test_fixed_says_what_is_wrong(arguments, says):
    with pytest.raises(InputError, match=says):
        Fixed(**arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"weights": [1, 2]}, "There are 3 classes, but 2 class weights"),
        ({"budgets": [0.1] * 4}, "There are 3 classes, but 4 class budgets"),
        ({"weights": {3: 1.0}}, "Class weights name class 3, but the classes are 0 to 2"),
        ({"budgets": {-1: 0.1}}, "Class budgets name class -1"),
        ({"weights": {0: 0, 1: 0, 2: 0}}, "sum to 0"),
        (
            {"budgets": {0: 1.1}},
            "Linf radii above 0 and at most 1, the width of the range of images, but class 0 has 1.1",
        ),
        ({"weights": {}}, "The dict of class weights is empty"),
    ],
)
def test_fixed_is_checked_against_the_classes(arguments, says):
    with pytest.raises(InputError, match=says):
        Fixed(**arguments).check_fit(3, LINF, 1.0)


# Bad input of the others.


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CFA(lambda1=0), "`lambda1` must be a number above 0 to 10, but got 0"),
        (lambda: CFA(lambda2=-1), "`lambda2` must be a number from 0 to 10, but got -1"),
        (lambda: CFA(decay=1.5), "`decay` must be a number from 0 to 1"),
        (lambda: CFA(threshold="x"), "`threshold` must be a number from 0 to 1, but got 'x'"),
        (lambda: CFA(begin_after=0), "`begin_after` must be a whole number of at least 1, but got 0"),
        (lambda: CFA(fawa_start=-1), "`fawa_start` must be a whole number of at least 0, but got -1"),
        (lambda: CFA(ccm="no"), "`ccm` must be True or False, but got 'no'"),
        (lambda: CFA(ccr=2), "`ccr` must be True or False, but got 2"),
        (lambda: CFA(fawa=None), "`fawa` must be True or False, but got None"),
        (lambda: CFA(ccm=False, ccr=False, fawa=False), "nothing to do without ccm, ccr and fawa: switch one"),
        (lambda: DAFA(lamb=-0.1), "`lamb` must be a number from 0 to 100, but got -0.1"),
        (lambda: DAFA(lamb=True), "`lamb` must be a number"),
        (lambda: DAFA(warmup=0), "`warmup` must be a whole number of at least 1, but got 0"),
        (lambda: DAFA(warmup=1.5), "`warmup` must be a whole number"),
        (lambda: FRL(alpha1=-1), "`alpha1` must be a number from 0 to 100"),
        (lambda: FRL(alpha2=NAN), "`alpha2` must be a number from 0 to 100, but got nan"),
        (lambda: FRL(tolerance=2), "`tolerance` must be a number from 0 to 1, but got 2"),
        (lambda: FRL(limit=0), "`limit` must be a number above 0 to 1, but got 0"),
        (lambda: WAT(eta=-1), "`eta` must be a number from 0 to 1000, but got -1"),
        (lambda: FRL(normalize=1), "`normalize` must be True or False, but got 1"),
        (lambda: FAAL(exact="yes"), "`exact` must be True or False, but got 'yes'"),
        (lambda: FAAL(radius=0), "`radius` must be a number above 0 to 100, but got 0"),
        (lambda: CFOL(eta=0), "`eta` must be a number above 0 to 1000, but got 0"),
        (lambda: CFOL(gamma=1.1), "`gamma` must be a number from 0 to 1, but got 1.1"),
    ],
)
def test_parameters_out_of_range_are_refused(make, says):
    with pytest.raises(InputError, match=re.escape(says)):
        make()


def test_policies_that_would_never_take_effect_are_refused():
    with pytest.raises(InputError, match="DAFA begins after 70 epochs, but there are 70: train for longer, or take a"):
        begun(DAFA(), nb_epochs=70)
    begun(DAFA(), nb_epochs=71)
    with pytest.raises(InputError, match="CFA's ccm begins after 10 epochs, but there are 10: .* or switch ccm off"):
        begun(CFA(), nb_epochs=10)
    with pytest.raises(InputError, match="CFA's fawa begins after 50 epochs, but there are 50: .* `fawa_start`"):
        begun(CFA(), nb_epochs=50)
    begun(CFA(), nb_epochs=51)
    begun(CFA(fawa=False), nb_epochs=11)
    with pytest.raises(InputError, match="CFA's fawa begins after 50 epochs"):  # ccr has nothing to weigh
        begun(CFA(ccm=False), nb_epochs=50, beta=None)
    with pytest.raises(InputError, match="ccr is for objectives with a second term, such as TRADES"):
        begun(CFA(ccm=False, fawa=False), beta=None)


def test_budgets_that_would_leave_the_range_of_images_are_refused():
    wide = ThreatModel("Linf", 0.7)
    with pytest.raises(InputError, match=r"CFA would let class budgets grow to 1.05, beyond the range of images, 1"):
        CFA().check_fit(3, wide, 1.0)
    CFA(lambda1=0.4).check_fit(3, wide, 1.0)
    CFA(ccm=False).check_fit(3, wide, 1.0)
    CFA().check_fit(3, wide, 255.0)
    with pytest.raises(InputError, match=r"FRL would let class budgets grow to 2.1, .* or alpha2=0"):
        FRL().check_fit(3, wide, 1.0)
    FRL(alpha2=0).check_fit(3, wide, 1.0)


def test_policies_that_are_validated_say_so():
    needy = {type(p).__name__: p.needs_validation for p in every_policy()}
    assert needy == {n: n in ("CFA", "FRL", "WAT") for n in needy}


# What all have in common.


def every_policy():
    return [
        Fixed([1.0, 2.0, 0.5], [0.1, 0.2, 0.05]),
        CFA(begin_after=1),
        DAFA(warmup=1),
        FRL(),
        WAT(),
        FAAL(),
        CFOL(eta=0.1),
        FairARD(power=1.0),
        ABSLD(rate=0.3),
        Spectral(),
        TRIX(),
        FairTAT(),
        BalancedSoftmax(tau=0.5),
        Combined([DAFA(warmup=1), Spectral(), TRIX(), FairARD(), BalancedSoftmax()]),
    ]


N_POLICIES = len(every_policy())


def step(policy, seed):
    """An epoch of two batches, with validation."""
    torch.manual_seed(seed)
    seen = [policy.weigh(torch.randint(3, (8,)), torch.randn(8, 3)) for _ in range(2)]
    if policy.counts_steps:
        policy.see_steps(torch.randint(3, (8,)), torch.randint(5, (8,)))
    uniform = torch.linspace(0.05, 0.95, 8)
    targets = policy.targets_of(torch.randint(3, (8,)), lambda n: uniform)
    others = [targets]
    others += [policy.term(torch.randint(3, (8,)), torch.randn(8, 3)), policy.logit_adjustment]
    policy.see_clean(torch.randint(3, (8,)), torch.randn(8, 3))
    policy.see_validation(torch.randint(3, (8,)), torch.rand(8))
    robust, clean = torch.rand(3).tolist(), torch.rand(3).tolist()
    row = rows(robust, clean) | rows(robust, clean, "val_", val_clean=sum(clean) / 3, val_robust=sum(robust) / 3)
    policy.end_epoch(seed + 1, row)
    return [as_lists(weights) for weights in (*seen, others)], policy.columns()


@pytest.mark.parametrize("number", range(N_POLICIES))
def test_a_policy_goes_on_from_its_state_as_if_it_had_not_stopped(number):
    whole, stopped, resumed = (begun(every_policy()[number]) for _ in range(3))
    for epoch in range(2):
        assert step(whole, epoch) == step(stopped, epoch)
    state = copy.deepcopy(stopped.state())
    resumed.load(state)
    for epoch in range(2, 5):
        assert step(whole, epoch) == step(resumed, epoch)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("number", range(N_POLICIES))
def test_a_policy_that_begins_anew_has_forgotten(number):
    first, again = begun(every_policy()[number]), begun(every_policy()[number])
    for epoch in range(3):
        step(again, epoch)
    again.begin(context())
    assert step(first, 0) == step(again, 0)


@pytest.mark.parametrize("number", range(N_POLICIES))
def test_columns_tell_what_is_in_force(number):
    policy = begun(every_policy()[number])
    step(policy, 0)
    columns = policy.columns()
    weights, budgets = policy.weigh(torch.tensor([0, 1, 2]), torch.zeros(3, 3)), policy.class_budgets
    columns = policy.columns()
    expected = {f"weight_{k}": v for k, v in enumerate([] if weights.first is None else weights.first.tolist())}
    expected |= {f"beta_{k}": v for k, v in enumerate([] if weights.second is None else weights.second.tolist())}
    expected |= {f"eps_{k}": v for k, v in enumerate([] if budgets is None else budgets.radii.tolist())}
    assert {name: v for name, v in columns.items() if name.startswith(("weight_", "beta_", "eps_"))} == expected
    assert all(isinstance(value, float) for value in columns.values())


@pytest.mark.parametrize("number", range(N_POLICIES))
def test_policies_describe_themselves_in_plain_values(number):
    policy = every_policy()[number]
    told = policy.describe()
    assert told["name"] == type(policy).__name__
    plain = (str, float, int, bool, type(None), dict, list)
    assert all(isinstance(value, plain) for value in told.values())
    assert told == every_policy()[number].describe()
    begun(policy)
    step(policy, 0)
    assert told == policy.describe()  # not of what it remembers


class Reads(TorchDispatchMode):
    """Where the host reads what tensors hold, and a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        words = ("_local_scalar_dense", "nonzero", "aten.equal", "masked_select", "unique", "is_nonzero")
        self.found += [str(function) for word in words if word in str(function)]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("number", range(N_POLICIES))
def test_no_batch_makes_the_host_wait(number):
    policy = begun(every_policy()[number])
    step(policy, 0)
    y, z = torch.tensor([0, 1, 1]), torch.randn(3, 3)
    with Reads() as reads:
        weights, budgets = policy.weigh(y, z), policy.class_budgets
        policy.term(y, z), policy.targets_of(y, lambda n: torch.full((n,), 0.5)), policy.logit_adjustment
        policy.see_clean(y, z), policy.see_steps(y, y) if policy.counts_steps else None
        for values in (*weights, *(budgets or ())):
            if values is not None:
                values[y]
    assert not reads.found


def test_formulas_give_tensors_for_tensors_and_arrays_for_arrays():
    p, y = torch.tensor([[0.5, 0.5], [0.2, 0.8]]), torch.tensor([0, 1])
    calls = [
        lambda f: policies.cfa_budgets(f(p[0])),
        lambda f: policies.cfa_weights(f(p[0]), 6.0)[0],
        lambda f: policies.cfa_weights(f(p[0]), 6.0)[1],
        lambda f: policies.dafa_weights(f(p), f(y)),
        lambda f: policies.frl_multipliers(f(p[0]), f(p[1]), 0.5, 0.0, 0.1),
        lambda f: policies.frl_weights(f(p[0])),
        lambda f: policies.frl_budgets(f(p[0])),
        lambda f: policies.wat_weights(f(p[1])),
        lambda f: policies.faal_probabilities(f(p[1])),
        lambda f: policies.cfol_probabilities(f(p[1])),
        lambda f: policies.cfol_scores(f(p[1]), f(y), f(p[0]), f(p[0]), 0.1),
    ]
    for call in calls:
        tensor, array = call(lambda t: t), call(lambda t: t.numpy())
        assert isinstance(tensor, torch.Tensor)
        assert isinstance(array, np.ndarray)
        assert tensor.dtype == torch.float64
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_formulas_leave_what_they_are_given():
    values, y = torch.tensor([0.1, 0.4], dtype=torch.float64), torch.tensor([0, 1])
    before = values.clone()
    for call in (
        lambda: policies.frl_multipliers(values, values, 0.1, 0.0, 0.1, 0.01),
        lambda: policies.cfol_scores(values, y, values, values, 0.1),
        lambda: policies.wat_weights(values),
        lambda: policies.faal_probabilities(values),
    ):
        call()
        assert torch.equal(values, before)


# As text.

CLASSES = ("cat", "dog", "red panda")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dafa", DAFA()),
        ("DAFA", DAFA()),
        (" dafa : lamb = 1.5 , warmup = 20 ", DAFA(1.5, 20)),
        ("dafa:", DAFA()),
        ("cfa:ccm=false,fawa=False,lambda1=1/2", CFA(0.5, ccm=False, fawa=False)),
        ("frl:alpha2=0", FRL(alpha2=0)),
        ("wat:eta=1e-2", WAT(0.01)),
        ("faal:radius=0.3", FAAL(0.3)),
        ("faal:exact=true", FAAL(exact=True)),
        ("frl:normalize=true", FRL(normalize=True)),
        ("cfol:eta=0.1,gamma=0.2", CFOL(0.1, 0.2)),
        ("fair-ard:power=1", FairARD(1)),
        ("balanced-softmax:tau=1.5", BalancedSoftmax(1.5)),
        ("spectral:share=0.2", Spectral(0.2)),
        ("fair-tat", FairTAT()),
        ("trix:warmup=3 + weights:cat=2", Combined([TRIX(3), Fixed({0: 2.0})])),
        ("absld:rate=0.2,lowest=1/4", ABSLD(0.2, 0.25)),
        ("weights:cat=2", Fixed({0: 2})),
        ("weights:red panda=0.5,1=3", Fixed({2: 0.5, 1: 3})),
        ("budgets:cat=4/255", Fixed(budgets={0: 4 / 255})),
    ],
)
def test_policies_are_read_as_written(text, expected):
    assert parse_policy(text, CLASSES) == expected


def test_every_published_policy_has_a_name():
    assert {type(p) for p in every_policy()} - {Fixed, Combined} == set(policies.POLICIES.values())
    for name, policy in policies.POLICIES.items():
        assert isinstance(parse_policy(name, CLASSES), policy)
        assert issubclass(policy, ClassPolicy)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("daffa", "Unknown class policy 'daffa'. Did you mean dafa"),
        ("nothing at all", 'Known: absld, balanced-softmax, cfa, .*, weights, budgets. Write it "dafa"'),
        ("", "Unknown class policy ''"),
        ("dafa:warmpu=3", "Unknown parameter of dafa 'warmpu'. Did you mean warmup"),
        ("dafa:lamb", "is written \"dafa\", .* but got 'dafa:lamb'"),
        ("dafa:lamb=", "is written"),
        ("dafa:=1", "is written"),
        ("dafa:lamb=much", "`lamb` must be a number, a fraction, true or false, but got 'much'"),
        ("dafa:lamb=1/0", "`lamb` must be a number, a fraction, true or false, but got '1/0'"),
        ("dafa:warmup=2.5", "`warmup` must be a whole number"),
        ("dafa:lamb=true", "`lamb` must be a number"),
        ("weights", "weights by class are written weights:cat=..., but got 'weights'"),
        ("budgets:", "budgets by class are written budgets:cat=..."),
        ("weights:cow=2", "Unknown class 'cow'"),
        ("weights:3=2", "Unknown class '3'"),
        ("weights:-1=2", "Unknown class '-1'"),
        ("weights:cat=-2", "at least 0, but class 0 has -2"),
        ("budgets:dog=0", "above 0, .* class 1 has 0"),
        ("weights:cat=2,0=3", "A class appears twice in"),
    ],
)
def test_texts_that_are_no_policies_say_why(text, says):
    with pytest.raises(InputError):  # also where no class is known
        parse_policy(text, ())
    with pytest.raises(InputError, match=says):
        parse_policy(text, CLASSES)


# What a trainer asks of one.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"class_policy": "dafa"},
            r"must be a policy of art_classwise.policies, such as DAFA\(warmup=20\), but got 'd",
        ),
        ({"class_policy": DAFA}, "must be a policy"),
        ({"class_policy": Fixed([1.0])}, "There are 10 classes, but 1 class weights"),
        ({"class_policy": CFA(), "ema_decay": 0.9}, "CFA averages weights itself .FAWA.: leave `ema_decay` out"),
        ({"class_policy": FRL(), "eps": 0.5}, "FRL would let class budgets grow to 1.5"),
    ],
)
def test_trainers_refuse_policies_that_do_not_suit(options, says):
    with pytest.raises(InputError, match=says):
        acw.AdversarialTrainerTRADESPyTorch(trainable.make(), **{**trainable.SMALL, **options})


def test_class_budgets_are_for_the_built_in_attack():
    from art.attacks.evasion import FastGradientMethod

    classifier = trainable.make()
    attack = FastGradientMethod(classifier, eps=0.1)
    for policy in (DAFA(), CFA(), FRL(), Fixed(budgets={0: 0.1})):
        with pytest.raises(InputError, match=f"{type(policy).__name__} sets class budgets, .* leave `attack` out"):
            acw.AdversarialTrainerStandardPyTorch(classifier, attack=attack, class_policy=policy)
    for policy in (WAT(), FAAL(), CFOL(), FRL(alpha2=0), CFA(ccm=False), Fixed({0: 2.0})):
        acw.AdversarialTrainerStandardPyTorch(classifier, attack=attack, class_policy=policy)
