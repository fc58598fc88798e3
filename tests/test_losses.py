"""Losses against literal double-precision transcriptions of their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from art_classwise import losses

N, C = 12, 5


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    logits_adv = logits + torch.randn(N, C, generator=generator, dtype=torch.float64)
    return logits, logits_adv, torch.randint(0, C, (N,), generator=generator)


def softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def literal_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def literal_trades(z, z_adv, y, beta):
    p, p_adv = softmax(z), softmax(z_adv)
    return -math.log(p[y]) + beta * literal_kl(p, p_adv)


def literal_mart(z, z_adv, y, beta):
    p, p_adv = softmax(z), softmax(z_adv)
    largest_other = max(p_adv[k] for k in range(len(p_adv)) if k != y)
    bce = -math.log(p_adv[y]) - math.log(1 - largest_other)
    return bce + beta * literal_kl(p, p_adv) * (1 - p[y])


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize(("loss", "literal"), [(losses.trades, literal_trades), (losses.mart, literal_mart)])
def test_objectives_equal_their_formulas(batch, loss, literal, beta):
    logits, logits_adv, y = batch
    expected = [literal(*row, beta) for row in zip(logits.tolist(), logits_adv.tolist(), y.tolist(), strict=True)]
    assert loss(logits, logits_adv, y, beta=beta).tolist() == pytest.approx(expected, rel=1e-10)


def test_attack_losses_equal_their_formulas(batch):
    logits, logits_adv, y = batch
    rows = list(zip(logits.tolist(), y.tolist(), strict=True))
    assert losses.cross_entropy(logits, y).tolist() == pytest.approx([-math.log(softmax(z)[k]) for z, k in rows])
    assert losses.standard(logits, y).tolist() == pytest.approx([-math.log(softmax(z)[k]) for z, k in rows])
    sharpened = [-math.log(softmax([5 * v for v in z])[k]) for z, k in rows]
    assert losses.temperature(logits, y, 5.0).tolist() == pytest.approx(sharpened)
    margins = [max(v for j, v in enumerate(z) if j != k) - z[k] for z, k in rows]
    assert losses.margin(logits, y).tolist() == pytest.approx(margins)
    divergences = [
        literal_kl(softmax(z), softmax(q)) for z, q in zip(logits.tolist(), logits_adv.tolist(), strict=True)
    ]
    assert losses.kl(logits, logits_adv).tolist() == pytest.approx(divergences)


@pytest.mark.parametrize("inverse_temperature", [0.1, 1.0, 5.0])
def test_soft_margin_is_what_the_temperature_loss_is_a_function_of(batch, inverse_temperature):
    """CE of softmax(s z) = log(1 + exp(s m)), so both gradients have one direction."""
    logits, y = 0.2 * batch[0], batch[2]
    logits.requires_grad_()
    m = losses.soft_margin(logits, y, inverse_temperature)
    sharpened = losses.temperature(logits, y, inverse_temperature)
    assert torch.allclose(sharpened, functional.softplus(inverse_temperature * m), atol=1e-12)
    (of_m,) = torch.autograd.grad(m.sum(), logits)
    (of_ce,) = torch.autograd.grad(sharpened.sum(), logits)
    scaled = of_ce / -of_ce.gather(1, y[:, None])  # the factor s p(not y), which double precision still holds
    assert torch.allclose(of_m, scaled, atol=1e-7)


def test_soft_margin_tends_to_the_margin_and_to_the_mean(batch):
    logits, _, y = batch
    assert torch.equal(losses.soft_margin(logits, y, float("inf")), losses.margin(logits, y))
    assert torch.allclose(losses.soft_margin(logits, y, 1e6), losses.margin(logits, y), atol=1e-5)
    s = 1e-6
    others = (logits.sum(1) - logits.gather(1, y[:, None])[:, 0]) / (C - 1)
    mean_of_others = others - logits.gather(1, y[:, None])[:, 0]
    assert torch.allclose(losses.soft_margin(logits, y, s) - math.log(C - 1) / s, mean_of_others, atol=1e-4)


def test_confident_float32_keeps_its_gradient():
    """Where the cross-entropy's gradient is exactly zero, the soft margin's has the exact direction."""
    logits = torch.tensor([[200.0, 10.0, 5.0]], requires_grad=True)
    y = torch.tensor([0])
    (underflown,) = torch.autograd.grad(losses.temperature(logits, y, 5.0).sum(), logits)
    (kept,) = torch.autograd.grad(losses.soft_margin(logits, y, 5.0).sum(), logits)
    assert torch.equal(underflown, torch.zeros(1, 3))
    assert torch.allclose(kept, torch.tensor([[-1.0, 1.0, 0.0]]), atol=1e-6)


def test_mart_is_finite_with_bounded_gradient_where_one_minus_p_loses_its_digits():
    logits = torch.tensor([[0.0, 300.0, 1.0], [300.0, 0.0, -5.0]], requires_grad=True)
    y = torch.tensor([0, 0])
    value = losses.mart(logits, logits, y)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    # -log p_y = 300, -log(1 - p_1) = 300 - log(e^0 + e^1); where it is sure and right, nearly nothing.
    assert value.tolist() == pytest.approx([600 - math.log(1 + math.e), 0.0], abs=1e-3)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 2 + 1e-6


def test_gradient_of_mart_flows_through_its_weight(batch):
    logits, logits_adv, y = batch
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(losses.mart(logits, logits_adv, y).sum(), logits)
    step = 1e-6
    for i, j in ((0, 0), (3, 2), (7, 4)):
        moved = logits.detach().clone()
        moved[i, j] += step
        numeric = (losses.mart(moved, logits_adv, y).sum() - losses.mart(logits, logits_adv, y).sum()) / step
        assert gradient[i, j].item() == pytest.approx(numeric.item(), abs=1e-4)


def test_one_example_is_a_batch(batch):
    logits, logits_adv, y = (t[:1] for t in batch)
    assert losses.mart(logits, logits_adv, y).shape == (1,)
    assert losses.trades(logits, logits_adv, y).shape == (1,)


def test_dlr_is_croce_and_heins(batch):
    logits, _, y = batch
    expected = []
    for z, k in zip(logits.tolist(), y.tolist(), strict=True):
        ordered = sorted(z, reverse=True)
        others = max(v for j, v in enumerate(z) if j != k)
        expected.append(-(z[k] - others) / (ordered[0] - ordered[2] + 1e-12))
    assert losses.dlr(logits, y).tolist() == pytest.approx(expected)
    assert losses.dlr(7 * logits, y).tolist() == pytest.approx(expected)  # what it is for


def test_targeted_dlr_is_croce_and_heins(batch):
    logits, _, y = batch
    target = (y + 1) % C
    expected = []
    for z, k, t in zip(logits.tolist(), y.tolist(), target.tolist(), strict=True):
        ordered = sorted(z, reverse=True)
        expected.append(-(z[k] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2 + 1e-12))
    assert losses.dlr_targeted(logits, y, target).tolist() == pytest.approx(expected)
