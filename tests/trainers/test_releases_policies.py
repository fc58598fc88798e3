"""Class policies against transcriptions of the authors' released code, with the switches set that follow it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import releases
import torch
from releases import (
    BATCH,
    EPS,
    STANDARD,
    STEP,
    TRADES,
    TRAIN,
    C,
    attack_ce,
    attack_kl,
    begin,
    check_same,
    descend,
    divergence,
    each,
    perturbed,
    shift,
    train,
    uniform_start,
)
from scipy.optimize import brentq
from torch.nn.functional import cross_entropy, one_hot, softmax

from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.adversary import Budgets, InnerSearch
from art_classwise.trainers.policies import CFA, CFOL, DAFA, FAAL, FRL, WAT, PolicyContext

BETA = 6.0


def ce(logits, y):
    return cross_entropy(logits, y, reduction="none")


def counted(logits, y):
    """How many examples of each class are right."""
    return one_hot(y, C)[logits.argmax(1) == y].sum(0)


def shown(history, name):
    return history[[f"{name}_{k}" for k in range(C)]].to_numpy()


# CFA.


def test_cfa_on_standard_training():
    policy = CFA(begin_after=1, fawa=False)
    model, epochs, _, history = train(STANDARD, 3, passes="a|c", attack_mode="train", class_policy=policy)
    expected, optimizer = begin()
    radii = torch.ones(C)
    for number, epoch in enumerate(epochs):
        np.testing.assert_allclose(shown(history, "eps")[number], radii, rtol=1e-6)
        right, n = torch.zeros(C), 0
        for x, y, draw in epoch:
            eps = each(EPS * radii[y])
            x_adv = attack_ce(expected, x, y, draw, uniform_start, eps, training=True)
            z_adv = expected(x_adv)
            descend(optimizer, cross_entropy(z_adv, y))
            right, n = right + counted(z_adv, y), n + len(y)
            expected(x)
        radii = 0.5 + C * right / n
    check_same(model, expected)
    assert shown(history, "eps")[-1].std() > 0.01


@pytest.mark.parametrize("ccm", [True, False])
@pytest.mark.parametrize("ccr", [True, False])
def test_cfa_on_trades(ccm, ccr):
    policy = CFA(lambda1=0.5, begin_after=1, ccm=ccm, ccr=ccr, fawa=not (ccm or ccr), fawa_start=0, threshold=1.0)
    model, epochs, _, history = train(TRADES, 3, passes="cac|c", class_policy=policy)
    expected, optimizer = begin()
    radii, share = torch.ones(C), torch.full((C,), BETA / (1 + BETA))
    for number, epoch in enumerate(epochs):
        np.testing.assert_allclose(shown(history, "weight")[number], 1 - share, rtol=1e-5)
        right, n = torch.zeros(C), 0
        for x, y, draw in epoch:
            x_adv = attack_kl(expected, x, draw, each(EPS * radii[y]))
            z, z_adv, again = expected(x), expected(x_adv), expected(x)
            values = (1 - share[y]) * ce(z, y) + share[y] * divergence(again, z_adv)
            descend(optimizer, values.sum() / len(y))
            right, n = right + counted(z_adv, y), n + len(y)
            expected(x)
        t = C * right / n
        radii = 0.5 + t if ccm else radii
        share = (0.5 + t) * BETA / (1 + (0.5 + t) * BETA) if ccr else share
    check_same(model, expected)


# DAFA.


def test_dafa_on_trades():
    policy = DAFA(lamb=1.5, warmup=2)
    model, epochs, _, history = train(TRADES, 4, passes="ac", class_policy=policy)
    expected, optimizer = begin()
    w = torch.ones(C)
    for number, epoch in enumerate(epochs, 1):
        seen = []
        for x, y, draw in epoch:
            x_adv = attack_kl(expected, x, draw, each(EPS * w[y]), each(STEP * w[y]))
            z_adv, z = expected(x_adv), expected(x)
            descend(optimizer, (w[y] * ce(z, y)).mean() + BETA * divergence(z, z_adv).sum() / len(y))
            seen += zip(y.tolist(), softmax(z_adv.detach().double(), 1), strict=True)
        if number == 2:
            p = torch.stack([torch.stack([q for k, q in seen if k == i]).mean(0) for i in range(C)])
            w = torch.ones(C, dtype=torch.float64)
            for i in range(C):
                for j in set(range(C)) - {i}:
                    if p[i, i] < p[j, j]:
                        w[i] += 1.5 * p[i, j] * p[j, j]
                    else:  # i is the stronger one, and loses what j gains
                        w[i] -= 1.5 * p[j, i] * p[i, i]
            w = w.float()
    check_same(model, expected)
    np.testing.assert_allclose(shown(history, "weight")[-1], w, rtol=1e-6)
    assert w.std() > 0.02


# FRL.


def test_frl():
    policy = FRL(alpha1=0.2, alpha2=2.0, tolerance=0.01, limit=0.5, normalize=True)
    model, epochs, held_out, history = train(TRADES, 4, passes="cac", beta=1.5, class_policy=policy)
    expected, optimizer = begin()
    phi = torch.zeros(3, C)
    for number, (epoch, validation) in enumerate(zip(epochs, held_out, strict=True)):
        natural, boundary = (torch.full((C,), 1 / C) for _ in range(2))
        for i in range(C):
            for j in range(C):
                natural[i] += (C - 1) / C * phi[0, i] if i == j else -phi[0, j] / C
                boundary[i] += (C - 1) / C * phi[1, i] if i == j else -phi[1, j] / C
        radii = (2 * phi[2]).exp().clamp(0.98, 3)
        np.testing.assert_allclose(shown(history, "weight")[number], C * natural, rtol=1e-5)
        np.testing.assert_allclose(shown(history, "eps")[number], radii, rtol=1e-5)
        for x, y, draw in epoch:
            eps = each(EPS * radii[y])
            x_adv = attack_kl(expected, x, draw, eps, STEP * eps.max() / EPS)
            z, z_adv, again = expected(x), expected(x_adv), expected(x)
            first = (ce(z, y) * natural[y]).sum() / natural[y].sum()
            second = (divergence(again, z_adv) * boundary[y]).sum() / boundary[y].sum()
            descend(optimizer, first + 1.5 * second)
        right = torch.zeros(2, C)
        for x, y, draw in validation:
            x_adv = attack_ce(expected, x, y, draw, uniform_start)
            expected.eval()
            right += torch.stack([counted(expected(v), y) for v in (x, x_adv)])
            expected.train()
        accuracy, whole = right / (2 * BATCH / C), right.sum(1) / (2 * BATCH)
        gamma = ((1 - accuracy[0]) - (1 - whole[0]) - 0.01, accuracy[0] - accuracy[1] - (whole[0] - whole[1]) - 0.01)
        phi = torch.stack([phi[0] + 0.2 * gamma[0], phi[1] + 0.4 * gamma[1], phi[2] + 2.0 * gamma[1]])
        for row in phi[:2]:
            row.clamp_(min=0)
            if row.sum() > 0.5:
                row *= 0.5 / row.sum()
    check_same(model, expected)
    assert (shown(history, "eps")[-1] > 1.01).any()
    assert (shown(history, "weight")[-1] != 1).any()


def test_frls_steps_reach_the_largest_radius():
    """With steps of the usual length, three radii can't be reached: the steps are as much longer."""
    policy = FRL()
    policy.begin(PolicyContext(C, torch.full((C,), 1 / C), BETA, EPS, 9, torch.device("cpu")))
    policy.load({name: torch.full((C,), 9.0 * (name == "margin")) for name in ("natural", "boundary", "margin")})
    search = InnerSearch(ThreatModel("Linf", EPS), EPS / 4, 10, torch.tensor(0.0), torch.tensor(1.0), loss="kl")
    x, y = (torch.from_numpy(v) for v in TRAIN)
    model, _ = begin()
    scales = policy.budgets_of(y)
    for steps, reached in ((scales.steps, 3 * EPS), (torch.ones(len(y)), 2.5 * EPS)):
        budgets = Budgets(scales.radii.float(), steps.float())
        x_adv = search(model, x, y, lambda *shape: torch.full(shape, 0.5), budgets)
        inside = (x_adv > 0) & (x_adv < 1)
        assert float((x_adv - x)[inside].abs().max()) == pytest.approx(reached, rel=1e-3)


# WAT.


def test_wat():
    model, epochs, held_out, history = train(TRADES, 3, passes="ca", class_policy=WAT(eta=0.3))
    expected, optimizer = begin()
    w, cumulated = torch.ones(C + 1), torch.zeros(C + 1)  # of the classes and of the average
    for number, (epoch, validation) in enumerate(zip(epochs, held_out, strict=True)):
        np.testing.assert_allclose(shown(history, "weight")[number], w[:-1] + w[-1], rtol=1e-6)
        for x, y, draw in epoch:
            x_adv = attack_kl(expected, x, draw)
            z, z_adv = expected(x), expected(x_adv)
            values = ce(z, y) + BETA * divergence(z, z_adv)
            by_class = sum(values[y == k].sum() * w[k] for k in range(C)) / len(y)
            descend(optimizer, by_class + values.mean() * w[C])
        sums, n = torch.zeros(C + 1), 0
        for x, y, draw in validation:
            x_adv = attack_ce(expected, x, y, draw, uniform_start)
            expected.eval()
            with torch.no_grad():
                values = ce(expected(x), y) + BETA * divergence(expected(x), expected(x_adv))
            expected.train()
            sums += torch.stack([values[y == k].sum() for k in range(C)] + [values.sum() / C])
            n += len(y)
        cumulated += sums / n * C
        w = C * (0.3 * cumulated).exp() / (0.3 * cumulated).exp().sum()
    check_same(model, expected)
    assert shown(history, "weight")[-1].std() > 0.01


# FAAL.


def worst_distribution(values, radius):
    """The p of the simplex with the largest sum of p_c values_c and KL(U || p) at most the radius, by one root."""
    gaps = np.max(values) - np.array(values)

    def solution(nu):
        odds = 1 / (nu + gaps)
        return odds / odds.sum()

    def excess(log_nu):
        return -math.log(C) - np.log(solution(math.exp(log_nu))).mean() - radius

    return solution(math.exp(brentq(excess, -30, 30, xtol=1e-13)))


def weights_of(z_adv, y, radius=0.5):
    """C p_y, of the sums over the batch of what the likeliest other class has more than the example's own."""
    p = softmax(z_adv.detach().double(), 1)
    margins = p.masked_fill(one_hot(y, C).bool(), -1).amax(1) - p[range(len(y)), y]
    sums = [float(margins[y == k].sum()) for k in range(C)]
    return torch.from_numpy(C * worst_distribution(sums, radius)).float()[y]


def test_faal_on_trades_with_awp():
    options = {"weight_decay": 0.0, "passes": "acc", "awp_gamma": 0.005}
    model, epochs, _, history = train(TRADES, class_policy=FAAL(exact=True), **options)
    expected, optimizer = begin(weight_decay=0.0)

    def terms(network, x, x_adv, y):
        z_adv, again, z = network(x_adv), network(x), network(x)
        return ce(z, y) + BETA * divergence(again, z_adv), z_adv

    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        x_adv = attack_kl(expected, x, draw)
        changes = perturbed(expected, lambda m, x=x, y=y, x_adv=x_adv: terms(m, x, x_adv, y)[0].mean(), 0.005)
        shift(expected, changes, 1)
        values, z_adv = terms(expected, x, x_adv, y)
        descend(optimizer, (weights_of(z_adv, y) * values).mean())
        shift(expected, changes, -1)
    check_same(model, expected)
    assert shown(history, "weight").std() > 0.1


def test_faal_on_standard_training_classifies_clean_images_too():
    model, epochs, *_ = train(STANDARD, class_policy=FAAL(exact=True), passes="ac")
    expected, optimizer = begin()
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        z_adv = expected(attack_ce(expected, x, y, draw, uniform_start))
        expected(x)
        descend(optimizer, (weights_of(z_adv, y) * ce(z_adv, y)).mean())
    check_same(model, expected)
    other, *_ = train(STANDARD, class_policy=FAAL(), passes="ac")
    assert max((a - b).abs().max() for a, b in zip(model.parameters(), other.parameters(), strict=True)) > 1e-4


# CFOL, with the switch of its code by which classes are weighted instead of drawn.


def test_cfol_draws_classes_evenly(monkeypatch):
    """Of classes of unlike size: each is drawn alike, so that the score rises by eta over 1 / C."""
    x, y = TRAIN
    kept = np.concatenate([np.flatnonzero(y == k)[: 2 + 3 * k] for k in range(C)])
    monkeypatch.setattr(releases, "TRAIN", (x[kept], y[kept]))
    policy = CFOL(eta=0.02, gamma=0.5)
    model, epochs, _, history = train(STANDARD, 8, class_policy=policy, class_balanced=True)
    expected, optimizer = begin()
    scores, drawn = torch.zeros(C), torch.zeros(C)
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        z_adv = expected(attack_ce(expected, x, y, draw, uniform_start))
        w = C * (0.5 / C + 0.5 * softmax(scores, 0))
        descend(optimizer, (w[y] * ce(z_adv, y)).mean())
        for k in y[z_adv.argmax(1) != y].tolist():
            scores[k] += 0.02 / (1 / C)
        drawn += torch.bincount(y, minlength=C)
    check_same(model, expected)
    np.testing.assert_allclose(shown(history, "weight")[-1], w, rtol=1e-5)
    assert drawn.sum() == 8 * len(kept)
    assert drawn.min() > 0.5 * drawn.max()  # in the data it is 0.18


def test_cfol_reweighting():
    model, epochs, _, history = train(STANDARD, 3, class_policy=CFOL(eta=0.02, gamma=0.5))
    expected, optimizer = begin()
    scores = torch.zeros(C)
    for x, y, draw in (batch for epoch in epochs for batch in epoch):
        z_adv = expected(attack_ce(expected, x, y, draw, uniform_start))
        w = C * (0.5 / C + 0.5 * softmax(scores, 0))
        descend(optimizer, (w[y] * ce(z_adv, y)).mean())
        for k in y[z_adv.argmax(1) != y].tolist():
            scores[k] += 0.02 / (1 / C)
    check_same(model, expected)
    np.testing.assert_allclose(shown(history, "weight")[-1], w, rtol=1e-5)
    assert w.std() > 0.01
