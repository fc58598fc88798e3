"""The search beside ART's, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.utils import random_sphere
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from art_classwise import ThreatModel, losses
from art_classwise.attacks._search import search

BOX = {"low": torch.tensor(0.0), "high": torch.tensor(1.0)}


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.05), (2, 0.7)])
def test_equals_arts_pgd_from_the_same_start(classifier, images, labels, norm, eps, random_start):
    np.random.seed(3)
    art = ProjectedGradientDescentPyTorch(
        classifier,
        norm=norm,
        eps=eps,
        eps_step=eps / 4,
        max_iter=10,
        num_random_init=int(random_start),
        batch_size=16,
        verbose=False,
    )
    expected = art.generate(images, labels)
    np.random.seed(3)
    noise = random_sphere(16, images[0].size, eps, norm).reshape(images.shape).astype(np.float32)
    x = torch.from_numpy(images)
    found = search(
        classifier.model,
        x,
        torch.from_numpy(labels),
        ThreatModel.from_art(norm, eps),
        losses.cross_entropy,
        eps_step=eps / 4,
        max_iter=10,
        start=x + torch.from_numpy(noise) if random_start else None,
        **BOX,
    )
    assert np.abs(expected - images).max() > 0.01  # ART did move
    np.testing.assert_allclose(found.x_adv.numpy(), expected, atol=1e-5)
    assert not found.zero_gradient.any()


@settings(deadline=None, max_examples=60)
@given(
    norm=st.sampled_from(["Linf", "L2"]),
    eps=st.floats(1e-3, 0.9),
    step=st.floats(1e-3, 10),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    max_iter=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_result_lies_in_ball_and_box_for_any_shape(norm, eps, step, shape, max_iter, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    module = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3))
    threat = ThreatModel(norm, eps)
    found = search(
        module,
        x,
        torch.randint(0, 3, (len(x),), generator=generator),
        threat,
        losses.cross_entropy,
        eps_step=step,
        max_iter=max_iter,
        start=threat.random_start(x, generator),
        **BOX,
    )
    assert found.x_adv.shape == x.shape
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1
    assert (threat.size(found.x_adv - x) <= eps * (1 + 1e-5) + 1e-6).all()


def test_finds_the_optimum_of_a_linear_network():
    """For logits w x the worst perturbation is known: eps sign(w_k - w_y), clipped to the box."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 2, bias=False))
    x = torch.rand(5, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(5, dtype=torch.int64)
    direction = (module[1].weight[1] - module[1].weight[0]).detach().sign().view(1, 1, 2, 3)
    found = search(module, x, y, ThreatModel("Linf", 0.2), losses.margin, eps_step=0.05, max_iter=4, **BOX)
    assert torch.allclose(found.x_adv, (x + 0.2 * direction).clamp(0, 1), atol=1e-6)


def test_mask_keeps_pixels(network, images, labels):
    x, mask = torch.from_numpy(images), torch.zeros(1, 3, 6, 6)
    mask[..., :3] = 1
    threat = ThreatModel("Linf", 0.1)
    found = search(
        network,
        x,
        torch.from_numpy(labels),
        threat,
        losses.cross_entropy,
        eps_step=0.05,
        max_iter=3,
        mask=mask,
        start=threat.random_start(x, torch.Generator().manual_seed(0)),
        **BOX,
    )
    assert torch.equal(found.x_adv[..., 3:], x[..., 3:])
    assert (found.x_adv[..., :3] != x[..., :3]).float().mean() > 0.9


class Flat(nn.Module):
    """Constant on part of the inputs: a zero gradient; NaN on another part."""

    def forward(self, x):
        score = x.flatten(1).sum(1)
        dead = torch.where(x[:, 0, 0, 0] < 0.3, torch.zeros_like(score), score)
        broken = dead + torch.where(x[:, 0, 0, 0] > 0.7, float("nan"), 0.0)
        return torch.stack([broken, -broken], 1)


def test_zero_and_broken_gradients_are_reported_and_stand_still():
    x = torch.full((3, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.5, 0.9])
    y = torch.zeros(3, dtype=torch.int64)
    found = search(Flat(), x, y, ThreatModel("Linf", 0.01), losses.cross_entropy, eps_step=0.01, max_iter=2, **BOX)
    assert found.zero_gradient.tolist() == [True, False, True]
    assert torch.equal(found.x_adv[[0, 2]], x[[0, 2]])
    assert torch.allclose(found.x_adv[1], x[1] - 0.01)


def test_leaves_mode_flags_and_gradients_as_they_were(network, images, labels):
    network.train()
    network[1].eval()  # a frozen BatchNorm in a training network
    network[0].weight.requires_grad_(False)
    network[5].weight.grad = torch.ones_like(network[5].weight)
    modes = [m.training for m in network.modules()]
    search(
        network,
        torch.from_numpy(images),
        torch.from_numpy(labels),
        ThreatModel("Linf", 0.1),
        losses.cross_entropy,
        eps_step=0.05,
        max_iter=2,
        **BOX,
    )
    assert [m.training for m in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == [False, *[True] * 5]
    assert torch.equal(network[5].weight.grad, torch.ones_like(network[5].weight))
    assert network[0].bias.grad is None


def test_puts_the_mode_back_after_an_error(network, images, labels):
    def broken(logits, y):
        raise ArithmeticError

    network.train()
    with pytest.raises(ArithmeticError):
        search(
            network,
            torch.from_numpy(images),
            torch.from_numpy(labels),
            ThreatModel("Linf", 0.1),
            broken,
            eps_step=0.05,
            max_iter=2,
            **BOX,
        )
    assert all(m.training for m in network.modules())
    assert all(p.requires_grad for p in network.parameters())
