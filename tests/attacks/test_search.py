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
from torch.utils._python_dispatch import TorchDispatchMode

from art_classwise import ThreatModel, losses
from art_classwise._core.forward import MicroBatches
from art_classwise.attacks.search import search


def uniform(generator):
    return lambda *shape: torch.rand(shape, generator=generator)


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
        start=threat.random_start(x, uniform(generator)),
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
        start=threat.random_start(x, uniform(torch.Generator().manual_seed(0))),
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


def test_stopped_examples_leave_with_the_iterate_that_stopped_them(network, images, labels):
    """The others go on as if alone; with radii, steps, masks and momentum of their own."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(0)
    own = {
        "eps": torch.rand(16, 1, 1, 1, generator=generator) * 0.2,
        "eps_step": torch.rand(16, 1, 1, 1, generator=generator) * 0.05,
        "mask": (torch.rand(16, 3, 6, 6, generator=generator) > 0.3).float(),
    }
    start = x + 0.05 * torch.randn(x.shape, generator=generator)
    shared = {"max_iter": 6, "momentum": 0.9, **BOX}
    iterates, rows_seen = [], []

    def watch(step, rows, x_adv, gradient):
        iterates.append(x_adv.clone())

    threat = ThreatModel("Linf", 0.1)
    whole = search(network, x, y, threat, losses.margin, start=start, **own, **shared, observe=watch)
    leaves_at = torch.arange(16) % 8  # two at each step, and four never

    def solved(logits, rows):
        rows_seen.append(rows.tolist())
        return leaves_at[rows] == len(rows_seen) - 1

    found = search(network, x, y, threat, losses.margin, start=start, **own, **shared, solved=solved, early_stop=True)
    assert [len(rows) for rows in rows_seen] == [16, 14, 12, 10, 8, 6]
    assert found.stopped.tolist() == (leaves_at < 6).tolist()
    for i in range(16):
        expected = iterates[leaves_at[i]][i] if leaves_at[i] < 6 else whole.x_adv[i]
        assert torch.allclose(found.x_adv[i], expected, atol=1e-5), i
    assert not torch.equal(found.x_adv, whole.x_adv)


def test_radii_of_each_example_and_pixel_hold(network, images, labels):
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for norm, shape in (("Linf", (16, 1, 1, 1)), ("Linf", (16, 3, 6, 6)), ("Linf", (3, 1, 1)), ("L2", (16, 1, 1, 1))):
        eps = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 0.2
        eps.view(-1)[0] = 0.0
        threat = ThreatModel(norm, 0.2)
        found = search(
            network, x, y, threat, losses.margin, eps=eps, eps_step=eps, max_iter=4, low=BOX["low"], high=BOX["high"]
        )
        delta = found.x_adv - x
        size = delta.abs() if norm == "Linf" else threat.size(delta).view(-1, 1, 1, 1)
        assert (size <= eps + 1e-6).all()
        assert (size > 0.5 * eps).float().mean() > 0.5  # and they are used


def test_logits_that_are_not_finite_are_reported():
    x = torch.full((3, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.5, 0.9])
    y = torch.zeros(3, dtype=torch.int64)
    found = search(Flat(), x, y, ThreatModel("Linf", 0.01), losses.margin, eps_step=0.01, max_iter=2, **BOX)
    assert found.no_logits.tolist() == [False, False, True]


@settings(deadline=None, max_examples=60)
@given(
    eps=st.floats(1e-9, 2),
    scale=st.sampled_from([1e-6, 1e-3, 0.1, 1.0]),
    outside=st.sampled_from([0.0, 5e-7]),
    seed=st.integers(0, 10**6),
)
def test_bounds_are_the_projection_to_the_bit(eps, scale, outside, seed):
    """Of images in any part of the box, a little beyond it, too; with one radius, and with one for each pixel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 3, 5, 5, generator=generator) * scale
    x[0], x[1, :, :2] = (x[0] * 255).round() / 255, 1.0 + outside
    points = x + eps * torch.randn(x.shape, generator=generator)
    points[2] = x[2] + eps * torch.randn(x[2].shape, generator=generator).sign()
    radii = eps * torch.randint(0, 3, x.shape, generator=generator)
    threat = ThreatModel("Linf", eps)
    for own in (None, radii):
        lower, upper = threat.bounds(x, BOX["low"], BOX["high"], own)
        assert torch.equal((x + (points - x)).clamp(lower, upper), threat.project(points, x, **BOX, eps=own))


class Kernels(TorchDispatchMode):
    """Counts what a GPU would launch: all operators but those that only look at a tensor otherwise."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += not (function.is_view or function is torch.ops.aten.detach.default)
        return function(*args, **(kwargs or {}))


def test_a_step_launches_little_beside_network_and_loss(images, labels):
    """Of Linf a dozen: is there a way to go, did the logits say so, who is done, and the step itself."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4)).requires_grad_(False)
    shared = {"eps_step": 0.02, "solved": lambda logits, rows: logits.argmax(1) != y, **BOX}
    runs = []
    for max_iter in (2, 12):
        with Kernels() as counted:
            search(linear, x, y, ThreatModel("Linf", 0.1), losses.cross_entropy, max_iter=max_iter, **shared)
        runs.append(counted.n)
    leaf = x.clone().requires_grad_()
    with Kernels() as counted:
        torch.autograd.grad(losses.cross_entropy(linear(leaf), y).sum(), leaf)
    assert runs[1] - runs[0] <= 10 * (counted.n + 14)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.05), ("L2", 0.5), ("L1", 5.0)])
def test_who_leaves_makes_room_and_nobody_notices(network, norm, eps):
    """An example meets the same, whoever is searched for at the same time, and from whichever step on."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 3, 6, 6, generator=generator)
    threat, module, seen = ThreatModel(norm, eps), MicroBatches(network.eval()), []
    y = module(x).argmax(1)

    def watched(images):
        seen.append(len(images))
        return module(images)

    options = {
        "eps": eps * (0.2 + torch.rand(50, 1, 1, 1, generator=generator)),
        "mask": (torch.rand(50, 3, 6, 6, generator=generator) > 0.2).float(),
        "start": threat.random_start(x, uniform(generator)),
        "momentum": 0.5,
        "eps_step": eps / 10,
        "max_iter": 9,
        "solved": lambda logits, rows: logits.argmax(1) != y[rows],
        "early_stop": True,
        **BOX,
    }
    wrapped = nn.Module()
    wrapped.forward = watched
    whole = search(wrapped, x, y, threat, losses.margin, **options)
    assert 5 < whole.stopped.sum() < 48
    for at_once in (1, 16, 20):
        seen.clear()
        found = search(wrapped, x, y, threat, losses.margin, at_once=at_once, **options)
        assert all(torch.equal(getattr(found, f), getattr(whole, f)) for f in vars(whole))
        assert max(seen) == at_once
        assert sum(n < 14 for n in seen[:-9]) == 0 or at_once == 1  # room is filled before all have left
