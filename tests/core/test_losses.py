"""Losses against literal double-precision transcriptions of their formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from art_classwise import InputError, losses

N, C = 12, 5


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(N, C, generator=generator, dtype=torch.float64)
    logits_adv = logits + torch.randn(N, C, generator=generator, dtype=torch.float64)
    return logits, logits_adv, torch.randint(0, C, (N,), generator=generator)


def softmax(z):
    return z.exp() / z.exp().sum()


def literal_ce(p, y, label_smoothing=0.0):
    uniform = sum(-p_k.log() for p_k in p) / len(p)
    return (1 - label_smoothing) * -p[y].log() + label_smoothing * uniform


def literal_kl(p, q):
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def literal_trades(z, z_adv, y, beta, label_smoothing=0.0):
    p, p_adv = softmax(z), softmax(z_adv)
    return literal_ce(p, y, label_smoothing) + beta * literal_kl(p, p_adv)


def literal_mart(
    z, z_adv, y, beta, *, boosted=True, on="adversarial", kl=True, weighted=True, exact=False, label_smoothing=0.0
):
    """One example, double precision, each formula of the paper or constant of its implementation as it is written."""
    p, p_adv = softmax(z), softmax(z_adv)
    first = {"adversarial": p_adv, "clean": p}[on]
    value = literal_ce(first, y, label_smoothing)
    if boosted and exact:
        ranked = sorted(range(len(first)), key=lambda k: first[k].item())
        runner_up = ranked[-2] if ranked[-1] == y else ranked[-1]
        value = value - (1.0001 - first[runner_up] + 1e-12).log()
    elif boosted:
        value = value - (1 - max(first[k] for k in range(len(first)) if k != y)).log()
    if kl and exact:
        divergence = sum(a * a.log() - a * (b + 1e-12).log() for a, b in zip(p, p_adv, strict=True))
        value = value + beta * divergence * (1.0000001 - p[y] if weighted else 1)
    elif kl:
        value = value + beta * literal_kl(p, p_adv) * (1 - p[y] if weighted else 1)
    return value


def literally(literal, logits, logits_adv, y, *args, **kwargs):
    rows = zip(logits, logits_adv, y.tolist(), strict=True)
    return torch.stack([literal(z, z_adv, k, *args, **kwargs) for z, z_adv, k in rows])


def gradients(value, logits, logits_adv):
    """Of a weighted sum, so that no example can stand in for another; zero where a term is not used."""
    weights = torch.arange(1, len(value) + 1, dtype=value.dtype)
    return torch.autograd.grad((weights * value).sum(), (logits, logits_adv), allow_unused=True, materialize_grads=True)


def assert_equal_with_gradients(value, expected, logits, logits_adv):
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    for of_value, of_expected in zip(
        gradients(value, logits, logits_adv), gradients(expected, logits, logits_adv), strict=True
    ):
        torch.testing.assert_close(of_value, of_expected, rtol=1e-8, atol=1e-10)


def every(**choices):
    """All combinations, as lists of keyword arguments."""
    return [dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values())]


def switches(kwargs):
    return "-".join(f"{k}={v}" for k, v in kwargs.items())


ABLATIONS = every(boosted=[True, False], on=["adversarial", "clean"], kl=[True, False], weighted=[True, False])
VARIANTS = [a | e for a in ABLATIONS for e in every(exact=[False, True], label_smoothing=[0.0, 0.1])]


@pytest.mark.parametrize("variant", VARIANTS, ids=switches)
def test_mart_and_its_gradients_equal_the_literal_formula(batch, variant):
    logits, logits_adv, y = batch
    logits.requires_grad_()
    logits_adv.requires_grad_()
    value = losses.mart(logits, logits_adv, y, 5.0, **variant)
    assert value.shape == (N,)
    expected = literally(literal_mart, logits, logits_adv, y, 5.0, **variant)
    assert_equal_with_gradients(value, expected, logits, logits_adv)


@settings(deadline=None, max_examples=200)
@given(
    variant=st.sampled_from(VARIANTS),
    beta=st.floats(0, 10),
    n=st.integers(1, 4),
    n_classes=st.integers(2, 6),
    scale=st.floats(0, 4),
    seed=st.integers(0, 2**32),
)
def test_mart_equals_the_literal_formula_for_any_batch(variant, beta, n, n_classes, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, logits_adv = scale * torch.randn(2, n, n_classes, generator=generator, dtype=torch.float64)
    y = torch.randint(0, n_classes, (n,), generator=generator)
    expected = literally(literal_mart, logits, logits_adv, y, beta, **variant)
    value = losses.mart(logits, logits_adv, y, beta=beta, **variant)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades_and_its_gradients_equal_the_literal_formula(batch, beta, label_smoothing):
    logits, logits_adv, y = batch
    logits.requires_grad_()
    logits_adv.requires_grad_()
    value = losses.trades(logits, logits_adv, y, beta=beta, label_smoothing=label_smoothing)
    expected = literally(literal_trades, logits, logits_adv, y, beta, label_smoothing)
    assert_equal_with_gradients(value, expected, logits, logits_adv)


def test_objectives_defaults_are_the_papers(batch):
    _, logits_adv, y = batch
    torch.testing.assert_close(losses.trades(*batch), literally(literal_trades, *batch, 6.0))
    torch.testing.assert_close(losses.mart(*batch), literally(literal_mart, *batch, 5.0))
    torch.testing.assert_close(
        losses.standard(logits_adv, y), functional.cross_entropy(logits_adv, y, reduction="none")
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5, 1.0])
def test_label_smoothing_is_torchs_and_its_definition(batch, label_smoothing):
    logits, _, y = batch
    for loss in (losses.cross_entropy, losses.standard):
        value = loss(logits, y, label_smoothing=label_smoothing)
        assert torch.equal(
            value, functional.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)
        )
        smoothed = (1 - label_smoothing) * functional.one_hot(y, C) + label_smoothing / C
        torch.testing.assert_close(value, -(smoothed * torch.stack([softmax(z) for z in logits]).log()).sum(1))


@pytest.mark.parametrize("variant", ABLATIONS, ids=switches)
def test_exact_differs_from_the_formula_by_its_constants_only(batch, variant):
    """On moderate logits that is -log(1.0001 - p'_k) against -log(1 - p'_k), some 1e-4."""
    logits, logits_adv, y = (t / 3 if t.is_floating_point() else t for t in batch)
    value, exact = (losses.mart(logits, logits_adv, y, exact=e, **variant) for e in (False, True))
    torch.testing.assert_close(value, exact, rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def extreme():
    """Float32 logits for which p underflows to 0 and rounds to 1: all corners of three classes, with all labels."""
    corners = list(itertools.product([-100.0, 0.0, 100.0], repeat=3))
    logits, logits_adv, y = zip(*itertools.product(corners, corners, range(3)), strict=True)
    return torch.tensor(logits, requires_grad=True), torch.tensor(logits_adv, requires_grad=True), torch.tensor(y)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("variant", ABLATIONS, ids=switches)
def test_mart_and_its_gradients_are_finite_on_extreme_logits(extreme, variant, label_smoothing, exact):
    value = losses.mart(*extreme, exact=exact, label_smoothing=label_smoothing, **variant)
    assert value.isfinite().all()
    for gradient in gradients(value, *extreme[:2]):
        assert gradient.isfinite().all()


def test_exact_divergence_is_torchs_kl_div_also_where_p_underflows(extreme):
    """Which takes 0 log 0 as 0."""
    logits, logits_adv, y = extreme
    with_kl, without = (losses.mart(*extreme, 1.0, boosted=False, exact=True, kl=kl) for kl in (True, False))
    p, p_adv = logits.softmax(1), logits_adv.softmax(1)
    divergence = functional.kl_div((p_adv + 1e-12).log(), p, reduction="none").sum(1)
    weight = 1.0000001 - p.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(with_kl - without, divergence * weight, rtol=1e-6, atol=1e-4)


def test_exact_margin_term_is_at_most_9_21():
    logits_adv = torch.tensor([[-100.0, 100.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0])
    margin_term = losses.mart(None, logits_adv, y, kl=False, exact=True) - losses.standard(logits_adv, y)
    assert margin_term.item() == pytest.approx(-math.log(1.0001 - 1 + 1e-12), abs=1e-11)
    assert margin_term.item() == pytest.approx(9.21, abs=5e-3)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("boosted", [True, False])
def test_mart_needs_no_clean_logits_where_no_term_sees_them(batch, boosted, exact):
    logits, logits_adv, y = batch
    kwargs = {"boosted": boosted, "exact": exact, "kl": False}
    without = losses.mart(None, logits_adv, y, **kwargs)
    assert torch.equal(without, losses.mart(logits, logits_adv, y, **kwargs))
    for needing in ({"kl": True}, {"on": "clean"}):
        with pytest.raises(InputError, match="needs the clean logits"):
            losses.mart(None, logits_adv, y, **kwargs | needing)


def test_mart_refuses_an_unknown_first_term(batch):
    with pytest.raises(InputError, match=r"Unknown value of `on` 'adv'.*adversarial, clean"):
        losses.mart(*batch, on="adv")


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.1, math.nan, math.inf])
def test_label_smoothing_is_from_0_to_1(batch, label_smoothing):
    logits, logits_adv, y = batch
    for loss, arguments in [
        (losses.cross_entropy, (logits, y)),
        (losses.standard, (logits_adv, y)),
        (losses.trades, batch),
        (losses.mart, batch),
    ]:
        with pytest.raises(InputError, match="`label_smoothing` must be from 0 to 1"):
            loss(*arguments, label_smoothing=label_smoothing)


@pytest.mark.parametrize("variant", VARIANTS, ids=switches)
def test_training_losses_never_wait_for_the_device(variant):
    """A meta tensor has no values: reading one, as .item() and ``if tensor`` do, raises."""
    logits, logits_adv = torch.empty(2, N, C, device="meta")
    y = torch.empty(N, dtype=torch.int64, device="meta")
    assert losses.mart(logits, logits_adv, y, **variant).shape == (N,)
    smoothing = variant["label_smoothing"]
    assert losses.trades(logits, logits_adv, y, label_smoothing=smoothing).shape == (N,)
    assert losses.standard(logits_adv, y, smoothing).shape == (N,)


def test_attack_losses_equal_their_formulas(batch):
    logits, logits_adv, y = batch
    expected = [
        (-softmax(z)[k].log(), -softmax(5 * z)[k].log(), torch.cat([z[:k], z[k + 1 :]]).max() - z[k])
        for z, k in zip(logits, y.tolist(), strict=True)
    ]
    cross_entropy, sharpened, margin = (torch.stack(column) for column in zip(*expected, strict=True))
    torch.testing.assert_close(losses.cross_entropy(logits, y), cross_entropy)
    torch.testing.assert_close(losses.temperature(logits, y, 5.0), sharpened)
    torch.testing.assert_close(losses.margin(logits, y), margin)
    divergences = [literal_kl(softmax(z), softmax(z_adv)) for z, z_adv in zip(logits, logits_adv, strict=True)]
    torch.testing.assert_close(losses.kl(logits, logits_adv), torch.stack(divergences))


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


@pytest.mark.parametrize("exact", [False, True])
def test_one_example_is_a_batch(batch, exact):
    logits, logits_adv, y = batch
    whole = losses.mart(logits, logits_adv, y, exact=exact)
    assert losses.mart(logits[:1], logits_adv[:1], y[:1], exact=exact).tolist() == pytest.approx(whole[:1].tolist())
    assert losses.trades(logits[:1], logits_adv[:1], y[:1]).shape == (1,)


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


def test_numbers_and_classes_of_losses_are_checked():
    logits, y = torch.zeros(2, 2), torch.tensor([0, 1])
    for bad in (0, -1, math.nan, "sharp", True):
        for loss in (losses.temperature, losses.soft_margin):
            with pytest.raises(InputError, match="`inverse_temperature` must be a"):
                loss(logits, y, bad)
    with pytest.raises(InputError, match="`inverse_temperature` must be a finite number"):
        losses.temperature(logits, y, math.inf)
    with pytest.raises(InputError, match="compares 3 classes here, but there are 2"):
        losses.dlr(logits, y)
    with pytest.raises(InputError, match="compares 4 classes here, but there are 3"):
        losses.dlr_targeted(torch.zeros(2, 3), y, 1 - y)
